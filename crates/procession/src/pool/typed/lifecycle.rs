//! The life of a pool as its caller steers it: waiting, ending, and what happens when the supervisor dies.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::helper::is_helper;
use super::ledger::{Ledger, Phase};
use super::start::Starter;
use crate::channel::{Channel, Seat, Stage};
use crate::error::{Error, Kind, Result};
use crate::options::PoolOptions;
use crate::os::process as os;
use crate::os::socket;
use crate::pool::supervisor::order;
use crate::pool::waiter::{Lines, Waiter, Woke};

/// How long a supervisor that was told to end may take, before it is killed. It gives the workers less.
const SUPERVISOR_PATIENCE: Duration = Duration::from_secs(3);
/// How long processes that have been killed may take to be gone.
const DEATH_PATIENCE: Duration = Duration::from_secs(5);
/// How long tasks may lie there while workers sleep: who was woken for them may have been stopped.
const STALL: Duration = Duration::from_millis(5);
/// So many supervisors may die within [`RESTART_WINDOW`]; one more, and the pool is broken.
const MOST_RESTARTS: usize = 3;
const RESTART_WINDOW: Duration = Duration::from_secs(1);

/// What a look at the ledger has shown.
pub(super) enum Look<T> {
    Found(T),
    /// Not yet: wake me after about this many results, or when this time is over.
    Wait {
        results: i64,
        at_most: Option<Duration>,
    },
}

impl<T> Look<T> {
    pub const NOT_YET: Self = Look::Wait {
        results: 1,
        at_most: None,
    };
}

/// What the pool, its pending results and its helper share.
pub(super) struct Shared {
    pub channel: Arc<Channel>,
    pub waiter: Waiter,
    pub options: PoolOptions,
    ledger: Mutex<Ledger>,
    starter: Starter,
    restarts: Mutex<VecDeque<Instant>>,
    generation: u32,
    pid: u32,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// The ledger, locked. What it throws away is dropped after it was unlocked, as that may be code of the user.
pub(super) struct Locked<'a>(Option<MutexGuard<'a, Ledger>>);

impl Deref for Locked<'_> {
    type Target = Ledger;

    #[inline]
    fn deref(&self) -> &Ledger {
        self.0.as_ref().expect("there until it is dropped")
    }
}

impl DerefMut for Locked<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Ledger {
        self.0.as_mut().expect("there until it is dropped")
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let trash: Vec<Box<dyn Any + Send>> = self
            .0
            .take()
            .map_or_else(Vec::new, |mut l| std::mem::take(&mut l.trash));
        drop(trash);
    }
}

impl Shared {
    pub fn new(
        channel: Arc<Channel>,
        waiter: Waiter,
        ledger: Ledger,
        options: PoolOptions,
        starter: Starter,
    ) -> Self {
        Shared {
            channel,
            waiter,
            options,
            ledger: Mutex::new(ledger),
            starter,
            restarts: Mutex::default(),
            generation: os::generation(),
            pid: std::process::id(),
        }
    }

    /// Refuses use in a forked child: the pool's lock may be held for ever there, and its results are its parent's.
    #[inline]
    pub fn check_owner(&self) -> Result<()> {
        if self.is_owner() {
            Ok(())
        } else {
            Err(Error::new(Kind::PoolNotOwner { parent: self.pid }))
        }
    }

    #[inline]
    pub fn is_owner(&self) -> bool {
        self.generation == os::generation()
    }

    #[inline]
    pub fn lock(&self) -> Locked<'_> {
        // Nothing under the lock is left half changed by a panic.
        Locked(Some(self.ledger.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Collects what has come back, and takes the steps that are due.
    #[inline]
    pub fn tend(&self, ledger: &mut Ledger) {
        let collected = ledger.collect();
        if collected.anything {
            self.waiter.saw_ends(ledger.dispatcher.ends_seen());
            self.waiter.announce();
        }
        if collected.seat_wanted {
            self.tell(order::LOOK);
        }
        if self.channel.header().life.broken.load(Ordering::Relaxed) != 0 {
            self.end_broken(ledger);
        }
        if ledger.phase == Phase::Closed && ledger.is_idle() {
            ledger.phase = Phase::Finishing;
            ledger.dispatcher.set_stage(Stage::Finishing);
            self.tell(order::LOOK);
        }
    }

    /// Waits until `look` finds something; `None` if the deadline came first.
    pub fn wait_for<T>(
        &self,
        deadline: Option<Instant>,
        mut look: impl FnMut(&mut Ledger) -> Look<T>,
    ) -> Option<T> {
        let mut last = false;
        loop {
            let (epoch, results, at_most) = {
                let mut ledger = self.lock();
                self.tend(&mut ledger);
                let epoch = self.waiter.epoch();
                match look(&mut ledger) {
                    Look::Found(found) => return Some(found),
                    Look::Wait { results, at_most } => (epoch, results, at_most),
                }
            };
            if last {
                return None;
            }
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let stall = self.is_stalled().then_some(STALL);
            let timeout = [left, at_most, stall].into_iter().flatten().min();
            match self.waiter.wait(epoch, results, timeout) {
                Woke::SupervisorGone => self.supervisor_gone(),
                Woke::TimedOut => {
                    last = left.is_some_and(|left| left.is_zero() || Some(left) == timeout);
                    if stall.is_some() && self.is_stalled() {
                        // It counts as searching, so nobody else would be woken.
                        self.channel.wake_another_worker();
                    }
                }
                Woke::Look | Woke::Interrupted => {}
            }
        }
    }

    fn is_stalled(&self) -> bool {
        self.channel.has_tasks() && self.channel.any_worker_sleeps()
    }

    /// Cancels what these jobs have in the works; how many of them had anything.
    pub fn cancel(&self, which: impl FnOnce(&Ledger) -> Vec<u32>) -> usize {
        let mut ledger = self.lock();
        let jobs = which(&ledger);
        let cancelled = jobs.into_iter().filter(|&job| ledger.condemn_job(job)).count();
        drop(ledger);
        if cancelled > 0 {
            // The supervisor looks for workers that are condemned.
            self.tell(order::LOOK);
            self.waiter.wake_all();
        }
        cancelled
    }

    /// Has the supervisor look at what has changed.
    pub fn tell_to_look(&self) {
        self.tell(order::LOOK);
    }

    fn tell(&self, order: u8) {
        if let Some(lines) = self.waiter.lines() {
            // It may just have died; that is seen by its pidfd.
            let _ = socket::send(lines.control.as_fd(), &[order], &[]);
        }
    }

    pub fn close(&self) {
        let mut ledger = self.lock();
        if ledger.phase == Phase::Running {
            ledger.phase = Phase::Closed;
        }
        self.tend(&mut ledger);
    }

    pub fn terminate(&self) {
        let mut ledger = self.lock();
        ledger.drop_callbacks();
        self.end(&mut ledger, Error::new(Kind::PoolTerminated));
    }

    pub fn join(&self) -> Result<()> {
        {
            let mut ledger = self.lock();
            if ledger.phase == Phase::Running {
                return Err(Error::new(Kind::PoolRunning));
            }
            ledger.joining = Some(std::thread::current().id());
        }
        self.wait_for(None, |ledger| {
            if ledger.phase == Phase::Over && (!ledger.helper_runs || is_helper()) {
                Look::Found(())
            } else {
                Look::NOT_YET
            }
        });
        Ok(())
    }

    #[cold]
    fn end_broken(&self, ledger: &mut Ledger) {
        if ledger.phase != Phase::Over {
            let reason = ledger.dispatcher.broken().unwrap_or_default();
            self.end(ledger, Error::new(Kind::PoolBroken { reason }));
        }
    }

    /// Ends all processes of the pool, waits until they have ended, and fails what did not come back.
    ///
    /// The supervisor is asked first; it gives the workers SIGTERM, and a moment later SIGKILL. If it does not answer, it is
    /// killed, and the kernel kills the workers.
    #[cold]
    fn end(&self, ledger: &mut Ledger, reason: Error) {
        if ledger.phase == Phase::Over {
            return;
        }
        ledger.begin_ending(reason);
        ledger.dispatcher.set_stage(Stage::Terminating);
        self.tell(order::TERMINATE);
        if let Some(lines) = self.waiter.lines() {
            // Should somebody have stopped it: what stands still hears nothing.
            let _ = os::pidfd_send_signal(&lines.supervisor, os::SIGCONT);
            bury(&lines, SUPERVISOR_PATIENCE);
        }
        self.wind_up(ledger);
    }

    /// The last step, after the supervisor's end.
    fn wind_up(&self, ledger: &mut Ledger) {
        self.await_workers_ends();
        ledger.dispatcher.all_have_ended();
        ledger.collect();
        ledger.fail_all();
        ledger.phase = Phase::Over;
        ledger.reason = ledger.ending().cloned();
        self.waiter.set_lines(None);
        self.waiter.wake_all();
    }

    #[cold]
    fn supervisor_gone(&self) {
        let mut ledger = self.lock();
        // Another thread may have dealt with it, and this one looks again.
        let Some(lines) = self.waiter.lines() else { return };
        if !os::wait_until_ended(&lines.supervisor, Some(Instant::now())).unwrap_or(true)
            && !has_hung_up(&lines)
        {
            return;
        }
        bury(&lines, SUPERVISOR_PATIENCE);
        if ledger.phase == Phase::Finishing {
            return self.wind_up(&mut ledger);
        }
        let broken = ledger.dispatcher.broken();
        match broken
            .map(|reason| Error::new(Kind::PoolBroken { reason }))
            .map_or_else(|| self.restart(&mut ledger), Err)
        {
            Ok(lines) => self.waiter.set_lines(Some(Arc::new(lines))),
            Err(reason) => {
                ledger.begin_ending(reason);
                self.wind_up(&mut ledger);
            }
        }
    }

    /// Starts a new supervisor after the death of the old one: what workers were running has failed, everything else goes on.
    fn restart(&self, ledger: &mut Ledger) -> Result<Lines> {
        self.await_workers_ends();
        ledger.dispatcher.all_have_ended();
        ledger.collect();
        self.waiter.saw_ends(ledger.dispatcher.ends_seen());
        let mut restarts = self.restarts.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        restarts.retain(|at| now.duration_since(*at) < RESTART_WINDOW);
        if restarts.len() >= MOST_RESTARTS {
            let reason = format!(
                "its supervisor was killed {} times within {RESTART_WINDOW:?}",
                restarts.len() + 1
            );
            return Err(Error::new(Kind::PoolBroken { reason }));
        }
        restarts.push_back(now);
        self.starter.start(&self.channel, self.waiter.results())
    }

    /// After the supervisor's end, the kernel has killed the workers. They must be gone before what they had is used again.
    fn await_workers_ends(&self) {
        let deadline = Instant::now() + DEATH_PATIENCE;
        for seat in 0..self.channel.geometry().seats {
            let seat = self.channel.seat(seat);
            let stage = seat.stage.load(Ordering::Acquire);
            let pid = seat.pid.load(Ordering::Relaxed);
            if (stage == Seat::STARTING || stage == Seat::READY) && pid != 0 {
                // Should the number be a stranger's by now, the deadline ends the wait.
                if let Ok(pidfd) = os::pidfd_open(pid) {
                    let _ = os::wait_until_ended(&pidfd, Some(deadline));
                }
            }
        }
    }
}

fn has_hung_up(lines: &Lines) -> bool {
    matches!(socket::receive(lines.control.as_fd(), false), Ok((bytes, _)) if bytes.is_empty())
}

/// Waits for a supervisor's end, kills it if it takes too long, and reaps it.
fn bury(lines: &Lines, patience: Duration) {
    if !os::wait_until_ended(&lines.supervisor, Some(Instant::now() + patience)).unwrap_or(true) {
        let _ = os::pidfd_send_signal(&lines.supervisor, os::SIGKILL);
        let _ = os::wait_until_ended(&lines.supervisor, Some(Instant::now() + DEATH_PATIENCE));
    }
    // Somebody else may have reaped it.
    let _ = os::wait_pidfd(&lines.supervisor, true);
}
