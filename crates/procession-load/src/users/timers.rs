//! Moments at which somebody wants to be woken.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::time::{
    timerfd_create, timerfd_settime, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec,
};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;

const NEVER: u64 = u64::MAX;

/// What is due at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// Somebody has slept enough.
    Slept { waiter: u32, serial: u32 },
    /// A link may have reached its time limit.
    Limit { link: u32, serial: u32 },
}

/// The moments, and one descriptor that becomes readable at the next of them. It is a timerfd and not the time limit of
/// `epoll_wait`, because it works the same inside of another event loop, and is exact to the microsecond.
#[derive(Debug)]
pub(super) struct Timers {
    fd: OwnedFd,
    armed_ns: u64,
    heap: BinaryHeap<Reverse<(u64, Due)>>,
}

impl Timers {
    pub(super) fn new() -> io::Result<Timers> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Timers {
            fd: timerfd_create(TimerfdClockId::Monotonic, flags)?,
            armed_ns: NEVER,
            heap: BinaryHeap::new(),
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn add(&mut self, at_ns: u64, due: Due) {
        self.heap.push(Reverse((at_ns, due)));
    }

    /// The next that is due by now, if any.
    pub(super) fn pop(&mut self, now_ns: u64) -> Option<Due> {
        if self.heap.peek().is_some_and(|Reverse((at, _))| *at <= now_ns) {
            return self.heap.pop().map(|Reverse((_, due))| due);
        }
        None
    }

    /// Sees to it that the descriptor becomes readable in time; to be called before waiting.
    pub(super) fn arm(&mut self) -> io::Result<()> {
        let next = self.heap.peek().map_or(NEVER, |Reverse((at, _))| *at);
        // A timer that rings too early costs less than setting it anew each time.
        if next >= self.armed_ns {
            return Ok(());
        }
        self.set(next)
    }

    /// The descriptor has become readable.
    pub(super) fn rang(&mut self) {
        self.armed_ns = NEVER;
    }

    fn set(&mut self, at_ns: u64) -> io::Result<()> {
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let value = Timespec {
            tv_sec: (at_ns / 1_000_000_000) as i64,
            // A time of nought would switch it off.
            tv_nsec: (at_ns % 1_000_000_000).max(1) as i64,
        };
        let when = Itimerspec {
            it_interval: zero,
            it_value: value,
        };
        timerfd_settime(&self.fd, TimerfdTimerFlags::ABSTIME, &when)?;
        self.armed_ns = at_ns;
        Ok(())
    }
}
