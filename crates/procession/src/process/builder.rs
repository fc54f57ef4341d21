use super::family::family;
use super::task::{self, Launch};
use super::{Outcome, Process, Shared, Target, Task};
use crate::os::process as os;
use std::ffi::OsString;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// How a [`Process`] is described before it is made: see [`Process::builder`].
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it is given a target"]
pub struct ProcessBuilder {
    name: Option<String>,
    daemon: bool,
    threads_allowed: bool,
    arguments: Option<Vec<OsString>>,
    start_timeout: Duration,
    timeout: Option<Duration>,
}

impl ProcessBuilder {
    pub(super) fn new() -> ProcessBuilder {
        ProcessBuilder {
            name: None,
            daemon: false,
            threads_allowed: false,
            arguments: None,
            start_timeout: Duration::from_secs(30),
            timeout: None,
        }
    }

    /// Names the process. Without it, it is called `Process-1`, `Process-2` …, and the children of `Process-1` are called
    /// `Process-1:1` ….
    pub fn name(mut self, name: impl Into<String>) -> ProcessBuilder {
        self.name = Some(name.into());
        self
    }

    /// Whether the process is a daemon: terminated when this process ends, instead of waited for (`false`).
    pub fn daemon(mut self, daemon: bool) -> ProcessBuilder {
        self.daemon = daemon;
        self
    }

    /// Lets [`start`](Process::start) fork even if this process has several threads.
    ///
    /// # Safety
    ///
    /// Only the thread that calls `start` exists in the child; whatever the others held then stays held there for ever,
    /// and what they were changing stays half changed. So the target may touch nothing that other threads may be using at
    /// that moment: no lock, channel or lazily made value shared with them, no library that keeps such things
    /// to itself. Printing and allocating are taken care of (see the [module documentation](crate::process)).
    pub unsafe fn fork_despite_threads(mut self) -> ProcessBuilder {
        self.threads_allowed = true;
        self
    }

    /// The arguments (after the program's name) with which a started *task* finds itself in
    /// [`std::env::args`]; the same ones as this process has, if not set. Forked closures do not look at it.
    ///
    /// Where `main` is not yours, as in `cargo test`, they lead the program to the place that calls
    /// [`init`](crate::init): `["name_of_a_test_that_calls_init", "--exact", "--nocapture"]`.
    pub fn arguments<S: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = S>) -> ProcessBuilder {
        self.arguments = Some(arguments.into_iter().map(Into::into).collect());
        self
    }

    /// How long a *task* may take to begin, before it is killed and `start` fails (30 seconds). Forked closures do not
    /// look at it: they begin at once.
    pub fn start_timeout(mut self, limit: Duration) -> ProcessBuilder {
        self.start_timeout = limit;
        self
    }

    /// How long the process may run (no limit, if not set), counted from the moment its function begins. Then the whole tree of
    /// processes is ended as by [`Process::stop`], whatever it is busy with, and [`Process::timed_out`] says so.
    ///
    /// A process of its own keeps the time.
    ///
    /// ```no_run
    /// use procession::Process;
    /// use std::time::Duration;
    ///
    /// let process = Process::builder().timeout(Duration::from_millis(100)).target(|| loop {});
    /// process.start()?;
    /// assert!(!process.join()?.success());
    /// assert!(process.timed_out());
    /// # Ok::<(), procession::Error>(())
    /// ```
    pub fn timeout(mut self, limit: Duration) -> ProcessBuilder {
        self.timeout = Some(limit);
        self
    }

    /// Makes a process that will run this closure in a fork of this one. It sees all of this process's memory as it is
    /// when [`start`](Process::start) is called, in a copy of its own.
    ///
    /// ```no_run
    /// use procession::Process;
    ///
    /// let numbers = vec![1, 2, 3];
    /// let process = Process::builder().name("sum").target(move || println!("{}", numbers.iter().sum::<i32>()));
    /// process.start()?;
    /// assert!(process.join()?.success());
    /// # Ok::<(), procession::Error>(())
    /// ```
    pub fn target<F, R>(self, function: F) -> Process
    where
        F: FnOnce() -> R + Send + 'static,
        R: Outcome,
    {
        let threads_allowed = self.threads_allowed;
        self.build(Target::Closure {
            function: Box::new(move || function().exit_code()),
            threads_allowed,
        })
    }

    /// Makes a process that will run this task, declared by [`task!`](crate::task), in a new copy of this program. It
    /// starts from nothing: it knows its arguments, and none of this process's memory.
    pub fn task<T: Task>(mut self, arguments: T::Arguments) -> Process {
        let launch = Launch {
            task: T::NAME,
            task_arguments: task::encode::<T>(&arguments),
            program_arguments: self.arguments.take(),
            timeout: self.start_timeout,
        };
        self.build(Target::Task(launch))
    }

    pub(super) fn build(self, target: Target) -> Process {
        let identity = family().next_identity();
        let name = self.name.unwrap_or_else(|| {
            let numbers: Vec<_> = identity.iter().map(u32::to_string).collect();
            format!("Process-{}", numbers.join(":"))
        });
        Process(Arc::new(Shared {
            name,
            identity,
            daemon: self.daemon,
            limit: self.timeout,
            overtime: OnceLock::new(),
            generation: os::generation(),
            parent_pid: std::process::id(),
            target: Mutex::new(Some(target)),
            started: AtomicBool::new(false),
            child: OnceLock::new(),
            lifeline: Mutex::new(None),
            listed: AtomicBool::new(false),
            ending: OnceLock::new(),
            reaping: Mutex::new(()),
        }))
    }
}
