//! The time limit of a process: who keeps it, and how it ends.
//!
//! A limited process has a **keeper**: a process of its own, with one thread, that does nothing but wait. It holds the limited
//! one by a pidfd. When the time is over it *first* says so to the parent (the *report*, a pipe or socket), with the stack that
//! the limited process has written down if it can, and then ends the whole tree as [`Process::stop`](super::Process::stop)
//! does. So nothing that the limited process does can escape it: not a stuck interpreter, not blocked signals, not standing still.
//!
//! | dies | the others see | and do |
//! | --- | --- | --- |
//! | the limited process | the keeper: its pidfd; should it be busy, the kernel's death signal | it ends |
//! | the parent | the limited process: as always | its end is the keeper's |
//! | the keeper, killed by somebody | nothing | the limit is lost, as it would be with whoever keeps it |
//!
//! The limited process does not see its keeper among its children: it is cloned without an exit signal, so that `wait` for any
//! child passes over it. It has a session of its own, so that no Ctrl-C, and nobody who ends the tree, takes it along.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::os::process as os;
use crate::sync::memory::Cell;

use super::tree::Tree;

/// How long the tree has after SIGTERM before SIGKILL.
const GRACE: Duration = Duration::from_millis(300);
/// How long the process may take to write its stack down.
const STACK_PATIENCE: Duration = Duration::from_millis(50);
/// How much of a stack is kept.
const MOST_STACK_BYTES: usize = 16 << 10;
/// For a keeper that is stuck itself.
const LAST_RESORT: Duration = Duration::from_secs(10);
/// What a report begins with.
const TIME_IS_OVER: u8 = b'T';

/// The signal upon which this process writes its stack down, and where to.
#[derive(Debug)]
pub struct StackOffer {
    signal: i32,
    done: &'static AtomicU32,
}

impl StackOffer {
    /// Finds a signal. Whoever installs a handler for it that writes the stack down calls the one before, which says that it is
    /// done.
    ///
    /// # Errors
    ///
    /// If there is no memory or no signal left.
    pub fn new() -> io::Result<Self> {
        // A signal may come at any time, until the process is gone: so the word stays until then. The keeper sees it.
        let cell: &'static Cell = Box::leak(Box::new(Cell::allocate(size_of::<AtomicU32>())?));
        // SAFETY: the cell is long and aligned enough, and an atomic may have any bits.
        let done: &'static AtomicU32 = unsafe { cell.at(0) };
        let signal = os::answer_signal(done)?;
        Ok(StackOffer { signal, done })
    }

    /// The signal's number.
    pub fn signal(&self) -> i32 {
        self.signal
    }
}

/// What a keeper has reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overtime {
    /// How long the process had run.
    pub elapsed: Duration,
    /// Where it was then, if it could tell.
    pub stack: String,
}

impl Overtime {
    /// Reads a report from what the other end of the report's pipe or socket has; `None` if there is none.
    pub fn read(report: BorrowedFd<'_>) -> Option<Overtime> {
        let mut bytes = Vec::new();
        let mut part = [0; 4096];
        while os::wait_ready(report, os::Readiness::Readable, Some(Instant::now())).unwrap_or(false) {
            match os::read(report, &mut part) {
                Ok(0) | Err(_) => break,
                Ok(read) => bytes.extend_from_slice(&part[..read]),
            }
        }
        Overtime::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Option<Overtime> {
        let (&TIME_IS_OVER, rest) = bytes.split_first()? else {
            return None;
        };
        let (ms, stack) = rest.split_first_chunk::<8>()?;
        Some(Overtime {
            elapsed: Duration::from_millis(u64::from_le_bytes(*ms)),
            stack: String::from_utf8_lossy(stack).into_owned(),
        })
    }

    fn to_bytes(elapsed: Duration, stack: &[u8]) -> Vec<u8> {
        let ms = elapsed.as_millis() as u64;
        [&[TIME_IS_OVER], &ms.to_le_bytes()[..], stack].concat()
    }
}

/// The keeper of the calling process. Dropping it lifts the limit.
#[derive(Debug)]
pub struct Keeper {
    pid: u32,
    generation: u32,
}

impl Keeper {
    /// Limits the calling process to this time, counted from now on. `report` is the end of a pipe or socket whose other end the
    /// parent has.
    ///
    /// # Errors
    ///
    /// If the system has no process or descriptor left.
    ///
    /// # Safety
    ///
    /// As for a fork: what other threads of this process hold at this moment stays held in the keeper. It allocates, and does
    /// nothing else that needs a lock; should it get stuck, it ends with this process or within seconds.
    pub unsafe fn begin(
        limit: Duration,
        report: BorrowedFd<'_>,
        stack: Option<(&StackOffer, u32)>,
    ) -> io::Result<Keeper> {
        let began = Instant::now();
        let pid = std::process::id();
        let pidfd = os::pidfd_open(pid)?;
        let mask = os::block_all_signals();
        // SAFETY: the caller's promise.
        let cloned = unsafe { os::clone_unseen() };
        match cloned {
            Ok(os::Forked::Child) => {
                let kept = Kept {
                    pid,
                    pidfd,
                    began,
                    limit,
                    stack: stack.map(|(offer, descriptor)| (offer.signal, offer.done, descriptor)),
                };
                kept.keep(report)
            }
            Ok(os::Forked::Parent(keeper)) => {
                os::restore_signal_mask(&mask);
                Ok(Keeper {
                    pid: keeper,
                    generation: os::generation(),
                })
            }
            Err(error) => {
                os::restore_signal_mask(&mask);
                Err(error)
            }
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if self.generation == os::generation() {
            // The number is the keeper's until it is reaped here.
            let _ = os::kill(self.pid, os::SIGKILL);
            os::reap_unseen(self.pid);
        }
    }
}

/// The limited process, as its keeper has it.
struct Kept {
    pid: u32,
    pidfd: OwnedFd,
    began: Instant,
    limit: Duration,
    stack: Option<(i32, &'static AtomicU32, u32)>,
}

impl Kept {
    fn keep(self, report: BorrowedFd<'_>) -> ! {
        let _ = os::set_parent_death_signal(os::SIGKILL);
        if os::parent_pid() != self.pid {
            os::exit_now(0);
        }
        let _ = os::become_session_leader();
        let _ = os::set_command_name("procession-time".as_ref());
        // Whatever else it holds open, somebody might wait for its end.
        os::close_all_but(&mut [self.pidfd.as_raw_fd(), report.as_raw_fd()]);
        let deadline = self.began.checked_add(self.limit);
        if let Ok(false) = os::wait_until_ended(&self.pidfd, deadline) {
            self.end(report);
        }
        os::exit_now(0)
    }

    fn end(&self, report: BorrowedFd<'_>) {
        os::end_at_alarm(LAST_RESORT);
        // From here on the process's end is not this one's: descendants are still to be ended.
        let _ = os::set_parent_death_signal(0);
        let stack = self.ask_for_stack();
        let _ = os::write(report, &Overtime::to_bytes(self.began.elapsed(), &stack));
        let Ok(tree) = Tree::stop(self.pid, self.pidfd.as_fd()) else {
            return;
        };
        let _ = tree.continue_with(os::SIGTERM);
        let _ = tree.kill_at(Instant::now().checked_add(GRACE));
    }

    fn ask_for_stack(&self) -> Vec<u8> {
        let Some((signal, done, descriptor)) = self.stack else {
            return Vec::new();
        };
        let from = os::len_of_file_of(self.pid, descriptor).unwrap_or(0);
        done.store(0, Ordering::Relaxed);
        if os::kill_main_thread(self.pid, signal).is_err() {
            return Vec::new();
        }
        let until = Instant::now() + STACK_PATIENCE;
        while done.load(Ordering::Acquire) == 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_micros(200));
        }
        os::read_file_of(self.pid, descriptor, from, MOST_STACK_BYTES).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read_as_they_were_written() {
        let bytes = Overtime::to_bytes(Duration::from_millis(1234), b"File \"x.py\"");
        let report = Overtime::parse(&bytes).unwrap();
        assert_eq!(report.elapsed, Duration::from_millis(1234));
        assert_eq!(report.stack, "File \"x.py\"");
    }

    #[test]
    fn what_is_no_report_is_none() {
        for bytes in [&b""[..], b"T", b"T1234567", b"X12345678stack"] {
            assert_eq!(Overtime::parse(bytes), None, "{bytes:?}");
        }
    }
}
