//! What a former run has done, as its JSON lines tell.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::CommandError;
use crate::exit_codes;
use crate::host::protocol::Status;
use crate::inputs::Payload;
use crate::record;

/// The items that need not be run again.
#[derive(Debug, Default)]
pub struct Former {
    /// By index, the fingerprints of their inputs.
    done: HashMap<u64, u64>,
    end: u64,
}

#[derive(Deserialize)]
struct FormerLine<'a> {
    index: u64,
    status: Status,
    #[serde(borrow)]
    input: &'a RawValue,
}

impl Former {
    /// Reads the lines of a former run; none if there is no such file.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or a whole line in it is not one of a map's.
    pub fn read(path: &Path) -> Result<Self, CommandError> {
        let failed = |what: String, help: &'static str| {
            let text = format!("cannot resume from {}: {what}", path.display());
            CommandError::new(exit_codes::COULD_NOT_START, text).with_help(help)
        };
        // Before it is opened: a pipe would be waited for, and a device may have no end.
        if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(failed(
                "it is not a plain file".to_owned(),
                "give the name of a file, in which the results are kept",
            ));
        }
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => {
                return Err(failed(
                    error.to_string(),
                    "you need the right to read and write it",
                ))
            }
        };
        let mut former = Self::default();
        let mut lines = BufReader::new(file);
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            lines
                .read_until(b'\n', &mut line)
                .map_err(|error| failed(error.to_string(), "give the file of the former run"))?;
            // Half a line is what a run leaves that was killed in the midst of it.
            if line.last() != Some(&b'\n') {
                break;
            }
            former.end += line.len() as u64;
            let said: FormerLine<'_> = serde_json::from_slice(&line).map_err(|error| {
                let what = format!("line {number} is not one that --jsonl writes: {error}");
                failed(
                    what,
                    "give the file that the former run wrote with --resume, or with --jsonl --output",
                )
            })?;
            match said.status {
                Status::Ok => former.done.insert(said.index, fingerprint(said.input.get())),
                _ => former.done.remove(&said.index),
            };
        }
        Ok(former)
    }

    /// Where the file's whole lines end.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Whether this item was done then; `Some(false)` if another one was.
    pub fn was_done(&self, index: u64, input: &Payload, json_input: bool) -> Option<bool> {
        let then = self.done.get(&index)?;
        Some(*then == fingerprint(&record::input_in_json(input, json_input)))
    }
}

fn fingerprint(input: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    hasher.finish()
}
