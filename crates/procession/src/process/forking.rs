//! Starting a process by fork: everything that has to be in order before, and put in order after.

use super::family::{self, family, lock};
use super::keeper::Keeper;
use super::{Child, Process, Shared, Target};
use crate::error::{Error, Kind, Result};
use crate::os::{process as os, stream};
use std::any::Any;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::time::Duration;

/// The exit code of a process whose function panicked: the one that `main` gives when it panics.
pub(super) const PANICKED: i32 = 101;

/// Fails if another thread exists.
///
/// While there is only one, nobody can make a second one between this and the fork.
pub(super) fn check_single_threaded() -> Result<()> {
    let mut count = os::thread_count();
    for _ in 0..50 {
        if count == Some(1) {
            return Ok(());
        }
        // The kernel still counts a thread for a moment after it was joined.
        std::thread::sleep(Duration::from_micros(100));
        count = os::thread_count();
    }
    let threads = count.map_or("an unknown number of".to_owned(), |count| count.to_string());
    Err(Error::new(Kind::Threads { threads }))
}

pub(super) enum Side {
    /// All signals are blocked still, and this is what to put back: handlers of the parent could run otherwise.
    Child(os::SignalMask, ChildsEnd),
    Parent,
}

/// The child's end of what ties it to its parent.
pub(super) type ChildsEnd = BorrowedFd<'static>;

/// Forks, and makes the child the process that `shared` describes.
///
/// # Safety
///
/// As [`os::fork`].
pub(super) unsafe fn fork_as(shared: &Arc<Shared>) -> Result<Side> {
    // A keeper, if there will be one, reports on it.
    let (hangs_up_with_parent, lifeline) = match shared.limit {
        None => os::pipe().map_err(Error::os("make a pipe"))?,
        Some(_) => stream::pair().map_err(Error::os("make a socket pair"))?,
    };
    let family = family();
    family.reap();
    family::end_children_at_exit();
    // Held across the fork, so that no other thread holds them in the child; emptied, so that no byte is printed twice.
    let mut stdout = io::stdout().lock();
    let _ = stdout.flush();
    let stderr = io::stderr().lock();
    let mut siblings = family.children();
    // Handlers that this process has set up must not run in the child before it has become itself.
    let mask = os::block_all_signals();
    // SAFETY: the caller's promise.
    let forked = unsafe { os::fork() };
    match forked {
        Ok(os::Forked::Child) => {
            siblings.iter().for_each(|sibling| sibling.release_lifeline());
            drop((siblings, stdout, stderr, lifeline));
            family::begin_as_child(shared.identity.clone(), shared.name.clone(), shared.daemon);
            let end = die_with_parent(hangs_up_with_parent, shared.parent_pid);
            Ok(Side::Child(mask, end))
        }
        Ok(os::Forked::Parent(pid)) => {
            os::restore_signal_mask(&mask);
            let pidfd = os::pidfd_open(pid).map_err(|error| {
                let _ = os::kill_and_reap(pid);
                Error::os("open a pidfd")(error)
            })?;
            shared.begin(Child { pid, pidfd }, lifeline, &mut siblings);
            Ok(Side::Parent)
        }
        Err(error) => {
            os::restore_signal_mask(&mask);
            Err(Error::os("fork")(error))
        }
    }
}

/// A process that serves this one without being one of its [`Process`]es.
pub(crate) enum Service {
    /// The new process; all signals are blocked in it, and this is the mask that it should have.
    Child {
        mask: os::SignalMask,
    },
    Parent {
        pidfd: OwnedFd,
    },
}

/// Forks a process for a service of this crate. It watches over its own end: nobody waits for it, and nothing ends it with
/// its parent. Its children's identity is that of its parent's children.
///
/// # Safety
///
/// As [`os::fork`].
pub(crate) unsafe fn fork_service() -> Result<Service> {
    let family = family();
    // Held across the fork, so that no other thread holds them in the child; emptied, so that no byte is printed twice.
    let mut stdout = io::stdout().lock();
    let _ = stdout.flush();
    let stderr = io::stderr().lock();
    let siblings = family.children();
    let mask = os::block_all_signals();
    // SAFETY: the caller's promise.
    let forked = unsafe { os::fork() };
    match forked {
        Ok(os::Forked::Child) => {
            siblings.iter().for_each(|sibling| sibling.release_lifeline());
            drop((siblings, stdout, stderr));
            family::begin_as_service(family);
            Ok(Service::Child { mask })
        }
        Ok(os::Forked::Parent(pid)) => {
            os::restore_signal_mask(&mask);
            let pidfd = os::pidfd_open(pid).map_err(|error| {
                let _ = os::kill_and_reap(pid);
                Error::os("open a pidfd")(error)
            })?;
            Ok(Service::Parent { pidfd })
        }
        Err(error) => {
            os::restore_signal_mask(&mask);
            Err(Error::os("fork")(error))
        }
    }
}

/// Lets the kernel kill this process when the other end of this pipe or socket is closed, as it is when the parent ends,
/// however it ends.
pub(super) fn die_with_parent(lifeline: impl AsFd + IntoRawFd, parent_pid: u32) -> ChildsEnd {
    // The parent writes nothing to it any more, and a socket tells of new room only those who have found none.
    let _ = os::signal_on_hangup(lifeline.as_fd(), os::SIGKILL);
    // SAFETY: it watches as long as it is open, so it stays open as long as this process lives.
    let end = unsafe { BorrowedFd::borrow_raw(lifeline.into_raw_fd()) };
    if os::parent_pid() != parent_pid {
        // It died before the watch began.
        os::exit_now(PANICKED);
    }
    end
}

/// Has this process ended when this time is over, if it is limited.
pub(super) fn limit_to(limit: Option<Duration>, report: ChildsEnd) -> Option<Keeper> {
    let limit = limit?;
    // SAFETY: this process has just begun, with one thread.
    match unsafe { Keeper::begin(limit, report, None) } {
        Ok(keeper) => Some(keeper),
        Err(error) => {
            // Better not to run than to run without the limit that was asked for.
            let _ = writeln!(io::stderr(), "cannot keep the time limit of a process: {error}");
            os::exit_now(PANICKED)
        }
    }
}

impl Process {
    pub(super) fn start_closure(&self, threads_allowed: bool) -> Result<()> {
        if !threads_allowed {
            check_single_threaded()?;
        }
        let mut target = lock(&self.0.target);
        // SAFETY: there is only this thread, or the caller of `fork_despite_threads` has promised what is needed.
        match unsafe { fork_as(&self.0) }? {
            Side::Parent => {
                // Outside of the lock, as what it has captured may do anything when it is dropped.
                let unused = target.take();
                drop(target);
                drop(unused);
                Ok(())
            }
            Side::Child(_, end) => {
                let Some(Target::Closure { function, .. }) = target.take() else {
                    os::exit_now(PANICKED)
                };
                drop(target);
                let _ = os::take_stdin();
                for signal in [os::SIGTERM, os::SIGINT, os::SIGHUP, os::SIGQUIT] {
                    if os::has_signal_handler(signal) {
                        let _ = os::set_signal_default(signal);
                    }
                }
                os::clear_signal_mask();
                let keeper = limit_to(self.0.limit, end);
                let code = run(&self.0.name, function);
                drop(keeper);
                family().end();
                os::exit_now(code)
            }
        }
    }
}

/// Runs a process's function, and gives the exit code. Whatever the function does, this returns.
pub(super) fn run(name: &str, function: impl FnOnce() -> i32) -> i32 {
    let code = catch_unwind(AssertUnwindSafe(function)).unwrap_or_else(|panic| {
        report_panic(name, &*panic);
        // Its destructor could panic again.
        std::mem::forget(panic);
        PANICKED
    });
    let _ = io::stdout().flush();
    code
}

fn report_panic(name: &str, panic: &(dyn Any + Send)) {
    let message = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text.as_str(),
        _ => "(not a text)",
    };
    // In one piece, so that lines of other processes do not come between.
    let text = format!(
        "process {name} (pid {}) panicked: {message}\n",
        std::process::id()
    );
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Which of the two processes a [`fork`] returned in.
#[derive(Debug)]
pub enum Fork {
    /// The new process.
    Child,
    /// The calling process, with a handle of the new one.
    Parent(Process),
}

impl Fork {
    /// What `fork` returns by tradition: 0 in the child, the child's number in the parent.
    pub fn pid(&self) -> u32 {
        match self {
            Fork::Child => 0,
            Fork::Parent(child) => child.pid().unwrap_or(0),
        }
    }
}

/// Makes a copy of this process: called once, it returns twice, and both go on from here. Which of them goes first is the
/// scheduler's business.
///
/// The child has a copy of all memory, and shares open files, the current directory and signal handlers' code with its
/// parent as they were. It gets a default name ([`current`](crate::current)); it is waited for when the parent ends, and
/// killed by the kernel if the parent is.
///
/// Destructors of values that were alive at the call run in both processes.
///
/// ```no_run
/// use procession::{fork, Fork};
///
/// match fork()? {
///     Fork::Child => println!("I am the child {}", std::process::id()),
///     Fork::Parent(child) => println!("I am the parent of {:?}", child.pid()),
/// }
/// # Ok::<(), procession::Error>(())
/// ```
///
/// # Errors
///
/// If this process has several threads ([`is_unsupported`](Error::is_unsupported)), as the others would be missing in
/// the child; if the system allows no further process.
pub fn fork() -> Result<Fork> {
    check_single_threaded()?;
    // SAFETY: there is only this thread.
    unsafe { fork_despite_threads() }
}

/// As [`fork`], also if this process has several threads, of which the child has only the calling one.
///
/// # Safety
///
/// As [`ProcessBuilder::fork_despite_threads`](super::ProcessBuilder::fork_despite_threads), for all that the child does.
///
/// # Errors
///
/// If the system allows no further process.
pub unsafe fn fork_despite_threads() -> Result<Fork> {
    let process = Process::builder().build(Target::Fork);
    process.0.claim_start()?;
    // SAFETY: the caller's promise.
    match unsafe { fork_as(&process.0) }? {
        Side::Child(mask, _) => {
            os::restore_signal_mask(&mask);
            Ok(Fork::Child)
        }
        Side::Parent => Ok(Fork::Parent(process)),
    }
}
