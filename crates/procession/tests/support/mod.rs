//! What keeps a test from hanging, and shows that it has left nothing behind.

// Each test program uses a part of it.
#![allow(dead_code)]

use procession::os::process as os;
use std::fs;
use std::io::{self, Read, Write};
use std::process::abort;
use std::sync::mpsc::{channel, RecvTimeoutError, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Far beyond what any test needs on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Held during a test: lets tests of this program run one at a time, ends the program if one hangs (the kernel then ends
/// what it has started), and fails a test that leaves a process or a descriptor behind.
#[derive(Debug)]
pub struct Alone {
    descriptors: Vec<String>,
    watchdog: Option<(Sender<()>, JoinHandle<()>)>,
    _turn: MutexGuard<'static, ()>,
}

pub fn alone() -> Alone {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (stop, stopped) = channel();
    let test = thread::current().name().unwrap_or("a test").to_owned();
    let watchdog = thread::spawn(move || {
        if stopped.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            let _ = writeln!(io::stderr(), "{test} hangs");
            abort();
        }
    });
    Alone {
        descriptors: descriptors(),
        watchdog: Some((stop, watchdog)),
        _turn: turn,
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        if let Some((stop, watchdog)) = self.watchdog.take() {
            let _ = stop.send(());
            let _ = watchdog.join();
        }
        if !thread::panicking() {
            assert_eq!(
                os::children_of(std::process::id()),
                [0; 0],
                "processes were left behind"
            );
            // A helper thread may be in its last step, with a pool's memory still in its hands.
            let patience = Instant::now() + Duration::from_secs(10);
            while descriptors() != self.descriptors && Instant::now() < patience {
                thread::sleep(Duration::from_millis(2));
            }
            assert_eq!(descriptors(), self.descriptors, "descriptors were left behind");
        }
    }
}

/// What the program has open, as `3 -> pipe:[123]`.
fn descriptors() -> Vec<String> {
    let entries = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let mut list: Vec<_> = entries
        .filter_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?;
            // The directory that is being read.
            (!target.starts_with("/proc")).then(|| format!("{:?} -> {}", entry.file_name(), target.display()))
        })
        .collect();
    list.sort();
    list
}

pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE / 2;
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long until {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A way for processes to tell a test something: clones of the first end go to them, all of it is read when all are closed.
pub fn telegraph() -> (io::PipeWriter, Reports) {
    let (reader, writer) = io::pipe().unwrap();
    (writer, Reports(reader))
}

#[derive(Debug)]
pub struct Reports(io::PipeReader);

impl Reports {
    pub fn read_to_end(mut self) -> String {
        let mut text = String::new();
        self.0.read_to_string(&mut text).unwrap();
        text
    }

    /// One line, while the processes go on.
    pub fn line(&mut self) -> String {
        let mut line = Vec::new();
        let mut byte = [0];
        while self.0.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap()
    }
}

pub fn sleep_for_ever() {
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}
