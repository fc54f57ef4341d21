//! The pool as users of the crate meet it, in good and in bad times, with the start method of the test program.

mod arrays;
mod calls;
mod closing;
mod encoding;
mod faults;
mod options;
mod programs;

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{mpsc, Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{alone, sleep_for_ever, wait_until};
use procession::os::process as os;
use procession::{Array, Bytes, Error, Pool, PoolBuilder, Result, StartMethod, WorkerState};
use serde::{Deserialize, Serialize};

/// Where spawned supervisors are led to.
const BEGINNING: [&str; 3] = ["suite::spawned_processes_begin_here", "--exact", "--nocapture"];

fn builder() -> PoolBuilder {
    procession::init();
    Pool::builder().start_method(crate::METHOD).arguments(BEGINNING)
}

#[test]
fn spawned_processes_begin_here() {
    procession::init();
}

fn pool(processes: usize) -> Pool {
    builder().processes(processes).build().unwrap()
}

fn square(x: u64) -> u64 {
    x * x
}

fn sleep_ms(ms: u64) {
    thread::sleep(Duration::from_millis(ms));
}

/// A fresh file for tasks to write to; gone with the value.
struct Notes(PathBuf);

impl Notes {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("procession-test-{}-{number}", std::process::id()));
        File::create(&path).unwrap();
        Notes(path)
    }

    fn path(&self) -> String {
        self.0.to_str().unwrap().to_owned()
    }

    fn lines(&self) -> Vec<String> {
        fs::read_to_string(&self.0)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// How many threads of this process are a pool's.
fn helpers() -> usize {
    let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
    let name = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
    threads
        .map(name)
        .filter(|name| name.starts_with("procession"))
        .count()
}

/// Appends a line, in one piece.
fn note(path: &str, line: impl std::fmt::Display) {
    let mut file = OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// The ways in which a task may end that is not to return.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Fault {
    None,
    Panics,
    Killed,
    Segfaults,
    Aborts,
    Exits,
}

const DEADLY: [Fault; 4] = [Fault::Killed, Fault::Segfaults, Fault::Aborts, Fault::Exits];

fn run((fault, value): (Fault, u64)) -> u64 {
    match fault {
        Fault::None => {}
        Fault::Panics => panic!("deliberate {value}"),
        Fault::Killed => os::kill(std::process::id(), os::SIGKILL).unwrap(),
        // SAFETY: to be killed for it is what the test wants.
        Fault::Segfaults => unsafe { std::ptr::null_mut::<u64>().wrapping_add(1).write_volatile(1) },
        Fault::Aborts => std::process::abort(),
        Fault::Exits => std::process::exit(3),
    }
    value
}

fn no_core_dumps() {
    // SAFETY: sets a limit of this process alone.
    unsafe {
        let none = libc_rlimit { current: 0, most: 0 };
        setrlimit(4, &none);
    }
}

#[repr(C)]
#[allow(non_camel_case_types)]
struct libc_rlimit {
    current: u64,
    most: u64,
}

extern "C" {
    fn setrlimit(resource: i32, limit: *const libc_rlimit) -> i32;
}

/// Whether the error is the one that this fault deserves.
fn check_error(error: &Error, fault: Fault, value: u64) {
    let text = error.to_string();
    assert!(error.task().unwrap().contains("run"), "{text}");
    if fault == Fault::Panics {
        assert!(error.is_task_panicked() && !error.is_worker_died(), "{text}");
        assert_eq!(
            error.panic_message(),
            Some(format!("deliberate {value}").as_str())
        );
        assert!(text.contains("pool/mod.rs:"), "{text}");
        return;
    }
    assert!(error.is_worker_died(), "{text}");
    assert!(error.worker_pid().unwrap() > 1);
    let (signal, code) = match fault {
        Fault::Killed => (Some(9), None),
        Fault::Segfaults => (Some(11), None),
        Fault::Aborts => (Some(6), None),
        _ => (None, Some(3)),
    };
    let status = error.exit_status().unwrap();
    assert_eq!((status.signal(), status.code()), (signal, code), "{text}");
}
