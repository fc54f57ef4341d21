//! `procession ps`: every pool of this user, once.

use std::io::{self, ErrorKind, Write as _};

use procession::watch::{PoolSnapshot, Watcher};
use serde::Serialize;

use crate::args::{PsArguments, WhoseArguments};
use crate::error::CommandError;
use crate::{exit_codes, table};

/// What is written as JSON.
#[derive(Serialize)]
struct Report<'a> {
    pools: &'a [PoolSnapshot],
}

/// Runs the command and returns its exit code.
///
/// # Errors
///
/// When standard output cannot be written.
pub fn run(arguments: &PsArguments) -> Result<i32, CommandError> {
    let pools = arguments.whose.choose(Watcher::new().look());
    let text = if arguments.json {
        let report = Report { pools: &pools };
        serde_json::to_string_pretty(&report).unwrap_or_default() + "\n"
    } else {
        plain(&pools, &arguments.whose)
    };
    print(&text)
}

/// The table, or a line that says that there is nothing to list.
pub fn plain(pools: &[PoolSnapshot], whose: &WhoseArguments) -> String {
    if pools.is_empty() && whose.pids.is_empty() {
        "no pool of yours is running\n".to_owned()
    } else if pools.is_empty() {
        "no pool of yours is running that this process has made\n".to_owned()
    } else {
        table::text(pools)
    }
}

/// Writes to standard output; the exit code says so if its reader has gone.
///
/// # Errors
///
/// When it cannot be written for another reason.
pub fn print(text: &str) -> Result<i32, CommandError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(exit_codes::DONE),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(exit_codes::OUTPUT_CLOSED),
        Err(error) => Err(CommandError::new(
            exit_codes::BROKE_OFF,
            format!("cannot write to standard output: {error}"),
        )),
    }
}
