//! Waiting in the caller: one thread leads and sleeps for all, the others follow.
//!
//! The **leader** sleeps on the results' event, the line to the supervisor and the supervisor's pidfd at once, so it
//! hears of results, deaths and the pool's end alike. **Followers** sleep on the *epoch*, a word that rises whenever
//! somebody has collected arrivals or the lead is free. Who waits reads the epoch first, then collects and looks at
//! what it waits for, and only then waits with that epoch: whatever happens in between makes the wait return at once.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::dispatcher::has_arrivals;
use crate::channel::{Channel, SpinBudget};
use crate::os::event::{wait_readable, Event};
use crate::os::futex::{self, Waited};
use crate::os::time;

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woke {
    /// Something may have changed: collect and look.
    Look,
    /// The time was over.
    TimedOut,
    /// A signal arrived; its handler may want to be heard.
    Interrupted,
    /// The supervisor is gone.
    SupervisorGone,
}

/// The lines on which the caller hears from its pool.
#[derive(Debug)]
pub struct Lines {
    /// The line to the supervisor.
    pub control: OwnedFd,
    /// The supervisor's pidfd.
    pub supervisor: OwnedFd,
}

/// Waits in the caller.
#[derive(Debug)]
pub struct Waiter {
    channel: Arc<Channel>,
    taken: Arc<[AtomicU64]>,
    results: Event,
    lines: Mutex<Option<Arc<Lines>>>,
    epoch: AtomicU32,
    leading: AtomicU32,
    followers: AtomicU32,
    ends_seen: AtomicU32,
    budget: Mutex<SpinBudget>,
}

impl Waiter {
    /// A waiter for a dispatcher's `channel` and `taken`; `results` is the event that workers signal.
    pub fn new(channel: Arc<Channel>, taken: Arc<[AtomicU64]>, results: Event) -> Self {
        Waiter {
            channel,
            taken,
            results,
            lines: Mutex::new(None),
            epoch: AtomicU32::new(0),
            leading: AtomicU32::new(0),
            followers: AtomicU32::new(0),
            ends_seen: AtomicU32::new(0),
            budget: Mutex::new(SpinBudget::default()),
        }
    }

    /// Puts the lines to a (new) supervisor in place, or none.
    pub fn set_lines(&self, lines: Option<Arc<Lines>>) {
        *self.lines.lock().unwrap_or_else(|e| e.into_inner()) = lines;
        self.announce();
        self.results.signal();
    }

    /// The lines to the supervisor.
    pub fn lines(&self) -> Option<Arc<Lines>> {
        self.lines.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// The event that workers signal.
    pub fn results(&self) -> &Event {
        &self.results
    }

    /// The present epoch; read it before looking at what to wait for.
    #[inline]
    pub fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Says that arrivals were collected, so that other waiters look.
    #[inline]
    pub fn announce(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        if self.followers.load(Ordering::SeqCst) != 0 {
            futex::wake(&self.epoch, u32::MAX);
        }
        // A leader sleeps elsewhere; it may have waited for just what somebody else has collected.
        if self.leading.load(Ordering::SeqCst) != 0 {
            self.results.signal();
        }
    }

    /// Wakes every waiter, the leader too.
    pub fn wake_all(&self) {
        self.announce();
        self.results.signal();
    }

    fn anything(&self) -> bool {
        has_arrivals(&self.channel, &self.taken)
            || self.channel.header().life.ends.load(Ordering::Acquire)
                != self.ends_seen.load(Ordering::Relaxed)
    }

    /// Notes that the ends of workers were looked at up to this count.
    pub fn saw_ends(&self, ends: u32) {
        self.ends_seen.store(ends, Ordering::Relaxed);
    }

    /// Waits for arrivals (about `countdown` of them), an announcement beyond `seen`, or the pool's end.
    pub fn wait(&self, seen: u32, countdown: i64, timeout: Option<Duration>) -> Woke {
        if self.epoch() != seen {
            return Woke::Look;
        }
        if self
            .leading
            .compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst)
            .is_err()
        {
            self.followers.fetch_add(1, Ordering::SeqCst);
            // Sync point *lead is free*: the leader frees the lead and then looks for followers. Either it sees this
            // one, or this one sees the free lead.
            let waited = if self.leading.load(Ordering::SeqCst) == 0 {
                Waited::Woken
            } else {
                futex::wait(&self.epoch, seen, timeout)
            };
            self.followers.fetch_sub(1, Ordering::SeqCst);
            return match waited {
                Waited::Woken => Woke::Look,
                Waited::TimedOut => Woke::TimedOut,
                Waited::Interrupted => Woke::Interrupted,
            };
        }
        let woke = self.lead(seen, countdown, timeout);
        self.leading.store(0, Ordering::SeqCst);
        // Sync point *lead is free*: a follower takes it.
        if self.followers.load(Ordering::SeqCst) != 0 {
            self.announce();
        }
        woke
    }

    fn lead(&self, seen: u32, countdown: i64, timeout: Option<Duration>) -> Woke {
        self.channel.note_caller_cpu();
        let began = time::monotonic_ns();
        let mut budget = *self.budget.lock().unwrap_or_else(|e| e.into_inner());
        let spin_ns = budget
            .spin_ns(0)
            .min(timeout.map_or(u64::MAX, |t| t.as_nanos() as u64));
        if spin_ns > 0
            && self
                .channel
                .spin_until(spin_ns, || self.anything() || self.epoch() != seen)
        {
            self.learn(&mut budget, began);
            return Woke::Look;
        }
        self.channel.prepare_caller_sleep(countdown);
        let woke = if self.anything() || self.epoch() != seen {
            Woke::Look
        } else {
            let lines = self.lines();
            let ready = match &lines {
                Some(l) => wait_readable(
                    &[self.results.as_fd(), l.supervisor.as_fd(), l.control.as_fd()],
                    timeout,
                ),
                None => wait_readable(&[self.results.as_fd()], timeout),
            };
            match ready {
                Ok(0) => Woke::TimedOut,
                Ok(bits) => {
                    if bits & 1 != 0 {
                        self.results.clear();
                    }
                    // Results first: what was finished before the supervisor's end counts.
                    if bits & 1 == 0 && bits & 6 != 0 {
                        Woke::SupervisorGone
                    } else {
                        Woke::Look
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => Woke::Interrupted,
                Err(_) => Woke::Look,
            }
        };
        self.channel.end_caller_sleep();
        self.learn(&mut budget, began);
        woke
    }

    fn learn(&self, budget: &mut SpinBudget, began: u64) {
        budget.learn(time::monotonic_ns() - began);
        *self.budget.lock().unwrap_or_else(|e| e.into_inner()) = *budget;
    }
}
