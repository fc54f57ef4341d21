//! Starting, watching and ending processes.
//!
//! A [`Process`] runs one function in a process of its own, in one of two ways:
//!
//! * A **closure**, by *fork* ([`Process::new`]): the new process is a copy of this one, so that the closure has all it
//!   captured, and all globals, without anything being sent. This needs a process with a single thread.
//! * A **task**, by *executing this program again* ([`Process::task`]): a function that [`task!`](crate::task) has
//!   registered under its name, with arguments that are encoded and sent. This works from any thread of any process, and
//!   needs [`init`](crate::init) as the first line of `main`.
//!
//! ```no_run
//! use procession::Process;
//!
//! fn main() -> procession::Result<()> {
//!     let processes: Vec<_> = (0..5).map(|n| Process::new(move || println!("worker {n}"))).collect();
//!     for process in &processes {
//!         process.start()?;
//!     }
//!     for process in &processes {
//!         process.join()?;
//!     }
//!     println!("{processes:?}");
//!     Ok(())
//! }
//! ```
//!
//! # Life
//!
//! Nothing outlives its owner:
//!
//! * When this process ends normally (`main` returns or panics, or [`std::process::exit`] is called), its daemon processes
//!   are terminated and its other processes are waited for.
//! * When this process ends in any other way (a signal, `abort`, executing another program), the kernel kills its
//!   processes at once, and their processes in turn.
//! * [`terminate`](Process::terminate) and [`kill`](Process::kill) end a process along with all of its descendants, except
//!   those that have moved to a session of their own.
//! * Dropping a [`Process`] neither ends it nor loses it: it goes on, is listed by [`active_children`], and is
//!   reaped by the next `start`, by `active_children`, or at the end.
//!
//! Ended processes are reaped by the pidfd of each, never by a SIGCHLD handler nor by waiting for "any child": other
//! children of this program are left alone.
//!
//! # A forked closure's world
//!
//! Its standard input is empty (`/dev/null`). What the parent has printed is flushed before, what the closure prints is
//! flushed at its end. Handlers of SIGTERM, SIGINT, SIGHUP and SIGQUIT that the parent had are replaced by the
//! default action, and no signal is blocked. When the closure returns, the process ends with the code of its
//! [`Outcome`]; when it panics, with 101, after the panic was printed to stderr. Destructors of what else the parent
//! had, thread-local destructors and exit handlers do not run.
//!
//! # Threads and fork
//!
//! Only the thread that forks exists in the child. A lock that another thread held at that moment is held for ever there,
//! so a program with threads may hang in the child, today or in a year. Therefore [`start`](Process::start) of a closure
//! and [`fork`] fail with a clear error if the process has more than one thread. Fork before threads are started, or use a
//! task. Who knows what the threads do can say so: [`ProcessBuilder::fork_despite_threads`], [`fork_despite_threads`].
//! In such a child, these are safe: what the closure captured and owns, allocation (glibc sees to it), and stdout and stderr
//! of Rust, which are held across the fork (so `start` waits for a thread that keeps one of them locked). Not safe:
//! everything guarded by a lock that another thread uses, such as the environment (`std::env`), channels, loggers,
//! lazily initialised values, thread pools.

mod builder;
mod family;
mod forking;
pub mod keeper;
mod outcome;
mod task;
mod tree;

use crate::error::{Error, Kind, Result};
use crate::os::process::{self as os, ExitStatus};
use crate::sync::waits::{self, About, Waiting};
use family::{family, lock};
use keeper::Overtime;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::Location;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use tree::Tree;

pub(crate) use family::{begin_as_worker, end_family};
pub(crate) use forking::{fork_service, Service};
pub(crate) use task::{begin_if_task, build, check_initialised, mark_initialised, this_program};

pub use builder::ProcessBuilder;
pub use family::{current, CurrentProcess};
pub use forking::{fork, fork_despite_threads, Fork};
pub use outcome::Outcome;
pub use task::Task;
#[doc(hidden)]
pub use task::{Callable, TaskEntry, TASKS};

/// A wait for the end of a process that takes longer is entered among those in which deadlocks are looked for.
const JOIN_IN_SILENCE: Duration = Duration::from_millis(50);

/// One process: what it will run, is running, or has run.
///
/// It is a handle: clones mean the same process, and it may be used from any thread. Only the process that made it can do
/// something with it; in a forked child it is good for printing only.
///
/// Printed, it looks as in Python: `<Process name='Process-1' pid=4711 parent=4700 started>`.
#[derive(Clone)]
pub struct Process(Arc<Shared>);

struct Shared {
    name: String,
    identity: Vec<u32>,
    daemon: bool,
    /// How long it may run.
    limit: Option<Duration>,
    /// Of the process that made this: in its forked children, none of the locks below may be touched.
    generation: u32,
    parent_pid: u32,
    /// Until it has been started.
    target: Mutex<Option<Target>>,
    started: AtomicBool,
    child: OnceLock<Child>,
    /// The child is killed by the kernel when this is closed everywhere. Its keeper, if it is limited, reports here.
    lifeline: Mutex<Option<OwnedFd>>,
    overtime: OnceLock<Overtime>,
    /// Whether it is in the list of this process's children.
    listed: AtomicBool,
    ending: OnceLock<Ending>,
    /// Held while asking the kernel how it ended, which answers only once.
    reaping: Mutex<()>,
}

enum Target {
    Closure {
        function: Box<dyn FnOnce() -> i32 + Send>,
        threads_allowed: bool,
    },
    Task(task::Launch),
    /// The child goes on where its parent forked.
    Fork,
}

struct Child {
    pid: u32,
    pidfd: OwnedFd,
}

#[derive(Clone, Copy)]
enum Ending {
    Known(ExitStatus),
    /// Somebody else has reaped it.
    Lost,
}

/// What a process is doing: see [`Process::state`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Made, but not started.
    Initial,
    /// Being started.
    Starting,
    /// Running on a CPU, or ready to.
    Running,
    /// Waiting for something: input, a lock, time to pass.
    Blocked,
    /// Stopped by a signal, as [`Process::suspend`] sends it, or by a debugger.
    Suspended,
    /// Ended in this way.
    Ended(ExitStatus),
    /// Ended, but somebody else has taken its exit status.
    Lost,
    /// Another process's: that one knows.
    Unknown,
}

impl Shared {
    /// Fails in every process but the one that made this.
    fn check_owner(&self) -> Result<()> {
        if self.generation == os::generation() {
            return Ok(());
        }
        Err(Error::new(Kind::NotOwner {
            process: self.name.clone(),
            parent: self.parent_pid,
        }))
    }

    fn child(&self) -> Result<&Child> {
        self.check_owner()?;
        self.child.get().ok_or_else(|| {
            Error::new(Kind::NotStarted {
                process: self.name.clone(),
            })
        })
    }

    fn claim_start(&self) -> Result<()> {
        self.check_owner()?;
        if self.started.swap(true, Ordering::AcqRel) {
            return Err(Error::new(Kind::AlreadyStarted {
                process: self.name.clone(),
            }));
        }
        Ok(())
    }

    /// How it ended; `None` if it has not, or was not started. Reaps it, and takes it out of the list of children.
    fn ending(&self) -> Option<Ending> {
        let ending = self.reap()?;
        if self.listed.swap(false, Ordering::AcqRel) {
            family().children().retain(|child| !std::ptr::eq(&**child, self));
        }
        Some(ending)
    }

    /// As [`Shared::ending`], for who is going through the list of children.
    fn reap(&self) -> Option<Ending> {
        let child = self.child.get()?;
        if let Some(ending) = self.ending.get() {
            return Some(*ending);
        }
        let _one_at_a_time = lock(&self.reaping);
        if let Some(ending) = self.ending.get() {
            return Some(*ending);
        }
        let ending = match os::wait_pidfd(&child.pidfd, true) {
            Ok(status) => Ending::Known(status?),
            Err(error) if os::is_no_child(&error) => {
                // Not ended but not our child any more cannot be: children stay ours until they are reaped.
                os::pidfd_exit_status(&child.pidfd).map_or(Ending::Lost, Ending::Known)
            }
            Err(_) => return None,
        };
        self.hear_keeper();
        *lock(&self.lifeline) = None;
        let _ = self.ending.set(ending);
        Some(ending)
    }

    /// Reads what its keeper has reported, if it is limited.
    fn hear_keeper(&self) {
        if self.limit.is_none() {
            return;
        }
        let lifeline = lock(&self.lifeline);
        if let Some(overtime) = lifeline.as_ref().and_then(|line| Overtime::read(line.as_fd())) {
            let _ = self.overtime.set(overtime);
        }
    }

    fn wait(&self, deadline: Option<Instant>) -> Result<Option<Ending>> {
        let child = self.child()?;
        loop {
            if let Some(ending) = self.ending() {
                return Ok(Some(ending));
            }
            let ended =
                os::wait_until_ended(&child.pidfd, deadline).map_err(Error::os("wait for a process"))?;
            if !ended {
                return Ok(None);
            }
        }
    }

    fn status(&self, ending: Ending) -> Result<ExitStatus> {
        match ending {
            Ending::Known(status) => Ok(status),
            Ending::Lost => Err(Error::new(Kind::StatusLost {
                process: self.name.clone(),
            })),
        }
    }

    /// Makes it a child of this process that is known to have begun.
    fn begin(self: &Arc<Self>, child: Child, lifeline: OwnedFd, children: &mut Vec<Arc<Shared>>) {
        *lock(&self.lifeline) = Some(lifeline);
        self.listed.store(true, Ordering::Release);
        children.push(Arc::clone(self));
        let _ = self.child.set(child);
    }

    /// The child, if it has not ended.
    fn living_child(&self) -> Result<Option<&Child>> {
        let child = self.child()?;
        Ok(self.ending().is_none().then_some(child))
    }

    /// Sends SIGTERM to the whole tree; the tree, if it was still alive.
    fn terminate(&self) -> Result<Option<Tree<'_>>> {
        let Some(Child { pid, pidfd }) = self.living_child()? else {
            return Ok(None);
        };
        let tree = Tree::stop(*pid, pidfd.as_fd()).map_err(Error::os("stop a process"))?;
        tree.continue_with(os::SIGTERM)
            .map_err(Error::os("terminate a process"))?;
        Ok(Some(tree))
    }

    fn kill(&self) -> Result<()> {
        let Some(Child { pid, pidfd }) = self.living_child()? else {
            return Ok(());
        };
        let tree = Tree::stop(*pid, pidfd.as_fd()).map_err(Error::os("stop a process"))?;
        tree.signal(os::SIGKILL).map_err(Error::os("kill a process"))
    }

    /// In a forked child: closes what would make it look as if the parent were alive.
    fn release_lifeline(&self) {
        // A thread that does not exist here may hold the lock; then it stays open until this process ends.
        if let Ok(mut lifeline) = self.lifeline.try_lock() {
            *lifeline = None;
        }
    }
}

impl Process {
    /// Makes a process that will run this closure in a fork of this one: short for
    /// [`Process::builder`]`().`[`target`](ProcessBuilder::target)`(function)`.
    pub fn new<F, R>(function: F) -> Process
    where
        F: FnOnce() -> R + Send + 'static,
        R: Outcome,
    {
        Process::builder().target(function)
    }

    /// Makes a process that will run this task in a new copy of this program: short for
    /// [`Process::builder`]`().`[`task`](ProcessBuilder::task)`::<T>(arguments)`.
    pub fn task<T: Task>(arguments: T::Arguments) -> Process {
        Process::builder().task::<T>(arguments)
    }

    /// Begins to describe a process.
    pub fn builder() -> ProcessBuilder {
        ProcessBuilder::new()
    }

    /// Starts it. A forked closure is running when this returns; a task has been found and has its arguments.
    ///
    /// # Errors
    ///
    /// If it was started before; if the system allows no further process; for a closure, if this process has several
    /// threads ([`is_unsupported`](Error::is_unsupported)); for a task, if [`init`](crate::init) was not called, if the task is unknown
    /// in the new process, or if it did not begin in time ([`is_timeout`](Error::is_timeout)). After an error other
    /// than the first it may be started again.
    pub fn start(&self) -> Result<()> {
        self.0.claim_start()?;
        let threads_allowed = match &*lock(&self.0.target) {
            Some(Target::Closure { threads_allowed, .. }) => Some(*threads_allowed),
            _ => None,
        };
        let started = match threads_allowed {
            Some(threads_allowed) => self.start_closure(threads_allowed),
            None => self.start_task(),
        };
        if started.is_err() {
            self.0.started.store(false, Ordering::Release);
        }
        started
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether it is a daemon: terminated when this process ends, instead of waited for.
    pub fn is_daemon(&self) -> bool {
        self.0.daemon
    }

    /// Its number, once it was started. After it was joined the system may give the number to another process.
    pub fn pid(&self) -> Option<u32> {
        self.0.child.get().map(|child| child.pid)
    }

    /// The number of the process that made it.
    pub fn parent_pid(&self) -> u32 {
        self.0.parent_pid
    }

    /// A descriptor that is readable once the process has ended: for the caller's own event loop. Reaping is left to
    /// [`join`](Process::join).
    ///
    /// # Errors
    ///
    /// If it was not started, or not by this process.
    pub fn pidfd(&self) -> Result<BorrowedFd<'_>> {
        Ok(self.0.child()?.pidfd.as_fd())
    }

    /// What it is doing at this moment.
    pub fn state(&self) -> State {
        if self.0.check_owner().is_err() {
            return State::Unknown;
        }
        let Some(child) = self.0.child.get() else {
            return if self.0.started.load(Ordering::Acquire) {
                State::Starting
            } else {
                State::Initial
            };
        };
        loop {
            match self.0.ending() {
                Some(Ending::Known(status)) => return State::Ended(status),
                Some(Ending::Lost) => return State::Lost,
                None => {}
            }
            match os::process_state(child.pid) {
                Some('R') => return State::Running,
                Some('T' | 't') => return State::Suspended,
                // It has ended since we asked.
                Some('Z' | 'X') | None
                    if os::wait_until_ended(&child.pidfd, Some(Instant::now())).unwrap_or(false) => {}
                Some(_) | None => return State::Blocked,
            }
        }
    }

    /// Whether it was started and has not ended.
    pub fn is_alive(&self) -> bool {
        self.0.check_owner().is_ok() && self.0.child.get().is_some() && self.0.ending().is_none()
    }

    /// How it ended; `None` if it has not, was not started, or if that cannot be known here.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.0.check_owner().ok()?;
        match self.0.ending()? {
            Ending::Known(status) => Some(status),
            Ending::Lost => None,
        }
    }

    /// Whether it ran longer than it may ([`ProcessBuilder::timeout`]), and has been ended for it or is about to be.
    pub fn timed_out(&self) -> bool {
        if self.0.check_owner().is_err() || self.0.child.get().is_none() {
            return false;
        }
        if self.0.ending().is_none() {
            self.0.hear_keeper();
        }
        self.0.overtime.get().is_some()
    }

    /// Waits until it has ended. May be called again, and from several threads.
    ///
    /// # Errors
    ///
    /// If it was not started, or not by this process; if somebody else has taken its exit status
    /// ([`is_status_lost`](Error::is_status_lost)).
    #[track_caller]
    pub fn join(&self) -> Result<ExitStatus> {
        let place = Location::caller();
        if let Some(status) = self.join_timeout(JOIN_IN_SILENCE)? {
            return Ok(status);
        }
        // It takes a while, so others may see that we wait: for what the process may wait for in turn.
        let _waiting = self
            .pid()
            .filter(|_| waits::may_wait())
            .and_then(|pid| Waiting::for_process(pid, &About::here(place)));
        loop {
            if let Some(ending) = self.0.wait(None)? {
                return self.0.status(ending);
            }
        }
    }

    /// Waits until it has ended, but no longer than this: then `None`.
    ///
    /// # Errors
    ///
    /// As [`join`](Process::join).
    pub fn join_timeout(&self, limit: Duration) -> Result<Option<ExitStatus>> {
        // A deadline beyond the clock's end is none.
        match self.0.wait(Instant::now().checked_add(limit))? {
            Some(ending) => self.0.status(ending).map(Some),
            None => Ok(None),
        }
    }

    /// Asks it to end: sends SIGTERM to it and to its descendants in the same session, suspended ones included. Does
    /// nothing if it has ended.
    ///
    /// # Errors
    ///
    /// If it was not started, or not by this process; if it now belongs to another user.
    pub fn terminate(&self) -> Result<()> {
        self.0.terminate().map(drop)
    }

    /// Ends it at once: sends SIGKILL to it and to its descendants in the same session. Does nothing if it has ended.
    ///
    /// # Errors
    ///
    /// As [`terminate`](Process::terminate).
    pub fn kill(&self) -> Result<()> {
        self.0.kill()
    }

    /// Ends it for certain: [`terminate`](Process::terminate), then SIGKILL for those of the tree that are still
    /// there after `grace`. Waits until they have ended.
    ///
    /// # Errors
    ///
    /// As [`terminate`](Process::terminate) and [`join`](Process::join).
    pub fn stop(&self, grace: Duration) -> Result<ExitStatus> {
        if let Some(tree) = self.0.terminate()? {
            let deadline = Instant::now().checked_add(grace);
            tree.kill_at(deadline).map_err(Error::os("end a process"))?;
        }
        self.join()
    }

    /// Lets it stand still, as Ctrl-Z does: it and its descendants in the same session, until [`resume`](Process::resume).
    /// Has happened when this returns. Does nothing if it has ended.
    ///
    /// # Errors
    ///
    /// As [`terminate`](Process::terminate).
    pub fn suspend(&self) -> Result<()> {
        if let Some(child) = self.0.living_child()? {
            Tree::stop(child.pid, child.pidfd.as_fd()).map_err(Error::os("suspend a process"))?;
        }
        Ok(())
    }

    /// Lets it and its descendants in the same session go on after [`suspend`](Process::suspend).
    ///
    /// # Errors
    ///
    /// As [`terminate`](Process::terminate).
    pub fn resume(&self) -> Result<()> {
        match self.0.living_child()? {
            Some(child) => {
                let tree = Tree::look_at(child.pid, child.pidfd.as_fd());
                tree.signal(os::SIGCONT).map_err(Error::os("resume a process"))
            }
            None => Ok(()),
        }
    }

    /// Sends a signal to this one process. Does nothing if it has ended.
    ///
    /// # Errors
    ///
    /// As [`terminate`](Process::terminate); if there is no such signal.
    pub fn send_signal(&self, signal: i32) -> Result<()> {
        match self.0.living_child()? {
            Some(child) => os::pidfd_send_signal(&child.pidfd, signal).map_err(Error::os("send a signal")),
            None => Ok(()),
        }
    }
}

/// As Python prints it: `<Process name='Process-1' pid=4711 parent=4700 stopped exitcode=-SIGKILL>`.
impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<Process name='{}'", self.name())?;
        if let Some(pid) = self.pid() {
            write!(f, " pid={pid}")?;
        }
        write!(f, " parent={}", self.parent_pid())?;
        match self.state() {
            State::Initial => f.write_str(" initial")?,
            State::Unknown => f.write_str(" unknown")?,
            State::Lost => f.write_str(" stopped")?,
            State::Ended(status) => match status.signal() {
                Some(signal) => write!(f, " stopped exitcode=-{}", os::signal_name(signal))?,
                None => write!(f, " stopped exitcode={}", status.exit_code_like_python())?,
            },
            _ => f.write_str(" started")?,
        }
        f.write_str(if self.is_daemon() { " daemon>" } else { ">" })
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The processes that this one has started and that have not ended. Reaps those that have.
pub fn active_children() -> Vec<Process> {
    let family = family();
    family.reap();
    family
        .children()
        .iter()
        .map(|child| Process(Arc::clone(child)))
        .collect()
}
