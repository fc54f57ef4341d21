//! The `procession` command as a library, so that cargo's binary and Python's wheel offer the same one.
//!
//! This crate owns the arguments, the reading of inputs, progress, output, summary and exit codes. The user's Python
//! function runs in a Python *host process* that is started from here; `src/host/README.md` tells how the two talk.
//!
//! ```
//! // What `procession --version` does; nothing is started.
//! let code = procession_cli::run(vec!["procession".into(), "--version".into()]);
//! assert_eq!(code, 0);
//! ```

mod advice;
mod args;
mod chart;
mod commands;
mod error;
mod exit_codes;
mod files;
mod host;
mod inputs;
mod measure;
mod output;
mod record;
mod resume;
mod screen;
mod signals;
mod summary;
mod table;
mod window;

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsRawFd, IntoRawFd};

use clap::{CommandFactory, Parser};
use procession_load::report::units;

/// Runs the command on these arguments (the first is the program's name) and returns its exit code.
///
/// It reads standard input where the arguments say so, writes to standard output and standard error, and takes over
/// the handling of SIGINT, SIGTERM, SIGHUP and SIGTSTP for the rest of this process's life, so the caller should end
/// with the code returned.
pub fn run(arguments: Vec<OsString>) -> i32 {
    occupy_standard_descriptors();
    screen::respect_no_color();
    let command_line = match args::CommandLine::try_parse_from(arguments) {
        Ok(command_line) => command_line,
        Err(error) => {
            // Nobody is left to tell when the stream for help or errors is itself gone.
            let _ = error.print();
            return error.exit_code();
        }
    };
    let default_python = command_line.default_python.as_deref();
    let outcome = match &command_line.command {
        args::Command::Map(arguments) => commands::map::run(arguments, default_python),
        args::Command::Bench(arguments) => commands::bench::run(arguments, default_python),
        args::Command::Top(arguments) => commands::top::run(arguments),
        args::Command::Ps(arguments) => commands::ps::run(arguments),
    };
    outcome.unwrap_or_else(|error| {
        screen::print_error(&error);
        error.exit_code()
    })
}

/// Where the caller's starter had closed a standard descriptor, the next pipe would take its number, and be read as
/// standard input or written as standard output. Read-only, so that results without a place to go are an error.
fn occupy_standard_descriptors() {
    while let Ok(file) = File::open("/dev/null") {
        if file.as_raw_fd() > 2 {
            break;
        }
        let _ = file.into_raw_fd();
    }
}

/// The command's definition, for generating completions and references.
pub fn command() -> clap::Command {
    args::CommandLine::command()
}
