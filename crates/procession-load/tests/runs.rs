//! Whole runs, each in a program of its own with a single thread, as workers are forked.
//!
//! Run without arguments (or by name) this program runs itself once per scenario.

mod scenarios;

use procession::os::process as os;
use std::io::Write;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Far beyond what any scenario needs on a busy machine.
fn patience() -> Duration {
    Duration::from_secs(if scenarios::quick() { 60 } else { 600 })
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, name] = arguments.as_slice() {
        if flag == "--scenario" {
            let (_, program) = scenarios::ALL.iter().find(|(known, _)| known == name).unwrap();
            program();
            assert_eq!(
                os::children_of(std::process::id()),
                [0; 0],
                "processes were left behind"
            );
            return ExitCode::SUCCESS;
        }
    }
    let flag = |name: &str| arguments.iter().any(|argument| argument == name);
    let filters: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    let chosen = |name: &str| {
        let fits = |filter: &&String| {
            if flag("--exact") {
                name == filter.as_str()
            } else {
                name.contains(filter.as_str())
            }
        };
        // As the usual harness: none of the tests is marked as ignored.
        !flag("--ignored") && (filters.is_empty() || filters.iter().any(fits))
    };
    let chosen: Vec<&str> = scenarios::ALL
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| chosen(name))
        .collect();
    if flag("--list") {
        chosen.iter().for_each(|name| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let mut failures = 0;
    for name in chosen {
        match show(name) {
            Ok(()) => println!("test {name} ... ok"),
            Err(problem) => {
                println!("test {name} ... FAILED: {problem}");
                failures += 1;
            }
        }
    }
    ExitCode::from(u8::from(failures > 0))
}

fn show(name: &str) -> Result<(), String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--scenario", name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let pidfd = os::pidfd_open(child.id()).unwrap();
    let in_time = os::wait_until_ended(&pidfd, Some(Instant::now() + patience())).unwrap();
    if !in_time {
        os::pidfd_send_signal(&pidfd, os::SIGKILL).unwrap();
    }
    // Whatever was left behind would keep the pipes open.
    let result = child.wait_with_output().unwrap();
    if in_time && result.status.success() {
        return Ok(());
    }
    let _ = std::io::stderr().write_all(&result.stderr);
    Err(if in_time {
        format!("ended with {}", result.status)
    } else {
        "hung".to_owned()
    })
}
