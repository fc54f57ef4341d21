//! `procession load`: from the arguments to a plan, from the plan to a result, and from the result to its views.
//!
//! The workers of a run are forked from this process, so it must not have a second thread while a run that is its own goes
//! on: signals are flags, and the live view is drawn between two looks at the run. A Python function runs in a host
//! process, which forks its workers itself.

mod curl;
mod intent;
mod outputs;
mod source;

use std::ffi::OsStr;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use procession_load::report::{self, TextStyle};
use procession_load::result::{Outcome, RunResult};
use rustix::termios::tcgetwinsize;

use crate::args::load::LoadArguments;
use crate::error::CommandError;
use crate::exit_codes;
use crate::host::{HeldPrints, Prints};
use crate::live::{self, frame, LiveView, Wish};
use crate::signals::Wishes;
use outputs::Outputs;
use source::Source;

/// How long the run is waited for between two looks at keys and signals.
const GLANCE: Duration = Duration::from_millis(50);

/// Runs `procession load`.
///
/// # Errors
///
/// When the arguments make no sense, the run cannot begin or go on, or the result cannot be written.
pub fn run(arguments: &LoadArguments, default_python: Option<&OsStr>) -> Result<i32, CommandError> {
    if let Some(path) = &arguments.show {
        let outputs = Outputs::open(&arguments.output)?;
        let result = read_result(path)?;
        return report(&result, outputs, None);
    }
    let intent = intent::read(arguments)?;
    let outputs = Outputs::open(&arguments.output)?;
    let mut wishes = Wishes::watch().map_err(|error| error.with_exit_code(exit_codes::LOAD_BROKE))?;
    let draws = !arguments.no_tui && !arguments.quiet && live::is_possible();
    let held = HeldPrints::default();
    let prints = if draws {
        Prints::Held(held.clone())
    } else {
        Prints::ToStandardError
    };
    let mut source = Source::start(intent, arguments, default_python, prints).map_err(|error| match error
        .exit_code()
    {
        exit_codes::USAGE => error,
        _ => error.with_exit_code(exit_codes::LOAD_BROKE),
    })?;
    let view = if draws {
        let view = LiveView::start().map_err(|error| {
            CommandError::new(
                exit_codes::LOAD_BROKE,
                format!("cannot draw on this terminal: {error}"),
            )
            .with_help("--no-tui shows a line each second instead")
        })?;
        Some(view)
    } else {
        None
    };
    let ended = watch(&mut source, view, &mut wishes, arguments.quiet);
    let _ = io::stderr().write_all(&held.take());
    let ended = ended.map_err(|error| error.with_exit_code(exit_codes::LOAD_BROKE))?;
    let signal = match ended {
        Ended::AtOnce(signal) => return Ok(exit_codes::interrupted_by(signal)),
        Ended::BySignal(signal) => Some(signal),
        Ended::Itself => None,
    };
    let result = source
        .snapshot()?
        .ok_or_else(|| CommandError::new(exit_codes::LOAD_BROKE, "the run has ended without a result"))?;
    // Its workers and server are not needed for writing.
    drop(source);
    report(&result, outputs, signal)
}

/// How a run came to its end.
enum Ended {
    /// As planned, or because the viewer wanted to see the report.
    Itself,
    /// By a signal, in order.
    BySignal(i32),
    /// By a second one.
    AtOnce(i32),
}

/// Waits for the end of the run, showing what it has come to.
fn watch(
    source: &mut Source,
    mut view: Option<LiveView>,
    wishes: &mut Wishes,
    quiet: bool,
) -> Result<Ended, CommandError> {
    let terminal_gone = |error: io::Error| {
        CommandError::new(
            exit_codes::LOAD_BROKE,
            format!("the terminal has failed: {error}"),
        )
    };
    let mut ending: Option<Option<i32>> = None;
    let mut lines = Lines::default();
    loop {
        let over = source.wait(GLANCE)?;
        let wish = match (wishes.next(), &mut view) {
            (Some(signal), _) => Some(Wish::EndBySignal(signal)),
            (None, Some(view)) => view.keys().map_err(terminal_gone)?,
            (None, None) => None,
        };
        if let Some(wish) = wish {
            let signal = match wish {
                Wish::End => None,
                Wish::EndBySignal(signal) => Some(signal),
            };
            if ending.is_some() {
                return Ok(Ended::AtOnce(signal.unwrap_or(signal_hook::consts::SIGINT)));
            }
            ending = Some(signal);
            source.stop();
            match &mut view {
                Some(view) => view.say_ending(),
                None if !quiet => {
                    let _ = writeln!(io::stderr(), "ending the run; once more to quit at once");
                }
                None => {}
            }
        }
        if over {
            return Ok(match ending.flatten() {
                Some(signal) => Ended::BySignal(signal),
                None => Ended::Itself,
            });
        }
        match &mut view {
            Some(view) if view.is_due() => {
                if let Some(result) = source.snapshot()? {
                    view.show(result).map_err(terminal_gone)?;
                }
            }
            None if !quiet => lines.print(source)?,
            _ => {}
        }
    }
}

/// The line each second where there is no live view.
#[derive(Default)]
struct Lines {
    printed: u64,
    glances: u32,
}

impl Lines {
    fn print(&mut self, source: &mut Source) -> Result<(), CommandError> {
        // A result costs more than a glance, and has news once a second.
        self.glances += 1;
        if !self.glances.is_multiple_of(5) {
            return Ok(());
        }
        let Some(result) = source.snapshot()? else {
            return Ok(());
        };
        let seconds = result
            .seconds
            .last()
            .map_or(0, |second| u64::from(second.start + second.span));
        if seconds > self.printed {
            self.printed = seconds;
            // Nobody is left to tell when standard error itself is gone.
            let _ = writeln!(io::stderr(), "{}", frame::one_line(&result));
        }
        Ok(())
    }
}

/// Writes the files and the summary, and gives the exit code.
fn report(result: &RunResult, outputs: Outputs, signal: Option<i32>) -> Result<i32, CommandError> {
    let written = outputs.write(result);
    let text = report::text(result, &style());
    let mut standard_output = io::stdout().lock();
    let printed = standard_output
        .write_all(text.as_bytes())
        .and_then(|()| standard_output.flush());
    written?;
    match printed {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(exit_codes::OUTPUT_CLOSED),
        Err(error) => {
            return Err(CommandError::new(
                exit_codes::LOAD_BROKE,
                format!("cannot write to standard output: {error}"),
            ))
        }
        Ok(()) => {}
    }
    Ok(match (signal, result.verdict.outcome) {
        (Some(signal), _) => exit_codes::interrupted_by(signal),
        (None, Outcome::Pass) => exit_codes::DONE,
        (None, Outcome::Fail) => exit_codes::SLO_BROKEN,
        (None, Outcome::Invalid) => exit_codes::LOAD_INVALID,
    })
}

/// What fits the terminal; a file or pipe has room for everything.
fn style() -> TextStyle {
    let colours =
        io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    match tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => TextStyle {
            width: size.ws_col.into(),
            height: size.ws_row.into(),
            colours,
        },
        _ => TextStyle {
            width: 200,
            height: usize::MAX,
            colours,
        },
    }
}

fn read_result(path: &std::path::Path) -> Result<RunResult, CommandError> {
    let usage = |why: String| {
        CommandError::new(
            exit_codes::USAGE,
            format!("cannot show {}: {why}", path.display()),
        )
    };
    let text = std::fs::read_to_string(path).map_err(|error| usage(error.to_string()))?;
    let result: RunResult = serde_json::from_str(&text).map_err(|error| {
        usage(format!("it is not a result: {error}"))
            .with_help("results are written with: procession load … -o FILE.json")
    })?;
    if result.schema_version != procession_load::result::SCHEMA_VERSION {
        return Err(usage(format!(
            "its layout has version {}, and this program reads version {}",
            result.schema_version,
            procession_load::result::SCHEMA_VERSION
        )));
    }
    Ok(result)
}
