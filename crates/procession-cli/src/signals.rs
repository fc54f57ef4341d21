//! Ctrl-C, Ctrl-Z and their relatives.

use std::collections::HashSet;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGTSTP};
use signal_hook::iterator::Signals;

use crate::error::CommandError;
use crate::exit_codes;
use crate::host::{spawn_thread, Group};

/// Signals that come this soon after the first are the same one: `timeout` and others send to the process and then to
/// its group.
const SAME_WISH: Duration = Duration::from_millis(300);

/// Watches for signals from now to the end of the process.
///
/// The first SIGINT, SIGTERM or SIGHUP goes to `interrupted` with its number; a second one kills the group and ends
/// this process at once. Ctrl-Z stops the group with this process, and both go on together. A signal that the starter
/// of this process had ignored (`nohup`, a background job of a script) stays ignored.
///
/// # Errors
///
/// When the handlers cannot be installed.
pub fn watch(group: Group, interrupted: impl Fn(i32) + Send + 'static) -> Result<(), CommandError> {
    let ignored = ignored_signals();
    let watched = [SIGINT, SIGTERM, SIGHUP, SIGTSTP]
        .into_iter()
        .filter(|signal| !ignored.contains(signal));
    let mut signals = Signals::new(watched).map_err(|error| {
        CommandError::new(
            exit_codes::COULD_NOT_START,
            format!("cannot watch for signals: {error}"),
        )
    })?;
    spawn_thread("signals", move || {
        let mut first_seen: Option<Instant> = None;
        for signal in signals.forever() {
            if signal == SIGTSTP {
                group.signal(Signal::STOP);
                // Stops this process like the default action would; returns when it is continued.
                let _ = signal_hook::low_level::emulate_default_handler(SIGTSTP);
                group.signal(Signal::CONT);
                continue;
            }
            match first_seen {
                None => {
                    first_seen = Some(Instant::now());
                    interrupted(signal);
                }
                Some(first) if first.elapsed() < SAME_WISH => {}
                Some(_) => {
                    group.kill();
                    signal_hook::low_level::exit(exit_codes::interrupted_by(signal));
                }
            }
        }
    })
}

/// The wishes to end that have come by signal, for a process that must not have a second thread.
#[derive(Debug)]
pub struct Wishes {
    arrivals: Vec<(i32, UnixStream)>,
    first_seen: Option<Instant>,
}

impl Wishes {
    /// Watches for SIGINT, SIGTERM and SIGHUP from now to the end of the process; those that the starter of this process had
    /// ignored stay ignored.
    ///
    /// # Errors
    ///
    /// When the handlers cannot be installed.
    pub fn watch() -> Result<Self, CommandError> {
        let ignored = ignored_signals();
        let mut arrivals = Vec::new();
        for signal in [SIGINT, SIGTERM, SIGHUP]
            .into_iter()
            .filter(|signal| !ignored.contains(signal))
        {
            let register = || {
                let (read, write) = UnixStream::pair()?;
                read.set_nonblocking(true)?;
                write.set_nonblocking(true)?;
                signal_hook::low_level::pipe::register(signal, write)?;
                Ok::<_, std::io::Error>(read)
            };
            let read = register().map_err(|error| {
                CommandError::new(
                    exit_codes::COULD_NOT_START,
                    format!("cannot watch for signals: {error}"),
                )
            })?;
            arrivals.push((signal, read));
        }
        Ok(Self {
            arrivals,
            first_seen: None,
        })
    }

    /// The next signal that has come, if one has. One that comes right after the first is the same wish.
    pub fn next(&mut self) -> Option<i32> {
        for (signal, arrival) in &mut self.arrivals {
            let mut byte = [0];
            while matches!(arrival.read(&mut byte), Ok(1)) {
                match self.first_seen {
                    Some(first) if first.elapsed() < SAME_WISH => {}
                    _ => {
                        self.first_seen.get_or_insert_with(Instant::now);
                        return Some(*signal);
                    }
                }
            }
        }
        None
    }
}

/// The name of a signal, such as `SIGINT`.
pub fn name(signal: i32) -> String {
    signal_hook::low_level::signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned)
}

fn ignored_signals() -> HashSet<i32> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    signals_in_mask(&status, "SigIgn:")
}

fn signals_in_mask(status: &str, field: &str) -> HashSet<i32> {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok())
        .unwrap_or(0);
    (1..=64).filter(|signal| mask >> (signal - 1) & 1 == 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_of_the_kernel_is_read_bit_by_bit() {
        let status = "Name:\tx\nSigIgn:\t0000000000001002\nSigCgt:\t0000000000000001\n";
        assert_eq!(signals_in_mask(status, "SigIgn:"), HashSet::from([2, 13]));
        assert_eq!(signals_in_mask("", "SigIgn:"), HashSet::new());
    }
}
