//! The files that a result is written to, each in the form that its suffix names.

use std::path::{Path, PathBuf};

use procession_load::report;
use procession_load::result::RunResult;

use crate::error::CommandError;
use crate::exit_codes;
use crate::output::Target;

/// A way to write a result.
type Form = fn(&RunResult) -> String;

const FORMS: [(&str, Form); 5] = [
    ("json", report::json),
    ("html", report::html),
    ("csv", report::csv),
    ("xml", report::junit),
    ("prom", report::prometheus),
];

/// The files of `--output`, open already.
#[derive(Debug)]
pub struct Outputs {
    files: Vec<(Target, Form)>,
}

impl Outputs {
    /// Opens the files, so that a mistake in a name shows before the run.
    ///
    /// # Errors
    ///
    /// When a suffix is not known, or a file cannot be written.
    pub fn open(paths: &[PathBuf]) -> Result<Self, CommandError> {
        let forms = paths
            .iter()
            .map(|path| Ok((path, form(path)?)))
            .collect::<Result<Vec<_>, CommandError>>()?;
        let files = forms
            .into_iter()
            .map(|(path, form)| {
                let target = Target::open("--output", path)
                    .map_err(|error| error.with_exit_code(exit_codes::USAGE))?;
                Ok((target, form))
            })
            .collect::<Result<_, CommandError>>()?;
        Ok(Self { files })
    }

    /// Writes the result to all of them.
    ///
    /// # Errors
    ///
    /// The first that could not be written; the others are written all the same.
    pub fn write(self, result: &RunResult) -> Result<(), CommandError> {
        let mut first_error = Ok(());
        for (target, form) in self.files {
            let written = target.write_whole(form(result).as_bytes());
            first_error = first_error.and(written);
        }
        first_error.map_err(|error| error.with_exit_code(exit_codes::LOAD_BROKE))
    }
}

fn form(path: &Path) -> Result<Form, CommandError> {
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_ascii_lowercase();
    let suffix = name.rsplit_once('.').map_or("", |(_, suffix)| suffix);
    FORMS
        .iter()
        .find(|(known, _)| *known == suffix)
        .map(|&(_, form)| form)
        .ok_or_else(|| {
            CommandError::new(
                exit_codes::USAGE,
                format!(
                    "--output {}: its suffix does not say how to write the result",
                    path.display()
                ),
            )
            .with_help(".json, .html, .csv, .xml (JUnit) or .prom (Prometheus)")
        })
}
