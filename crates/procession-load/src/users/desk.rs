//! What the users of one worker process share: its part of the schedule, and its counts.

use super::guard::{self, Stranger};
use crate::net::Failure;
use crate::result::StepKind;
use crate::{Phase, Sample, Worker};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// So many users are there from the beginning if a rate is asked for; more come as they are needed.
const FIRST_USERS: u32 = 4;

/// What a user that is free should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Begin an iteration, which was due at this moment.
    Go { intended_ns: u64 },
    /// Nothing is due before this moment.
    Wait { until_ns: u64 },
    /// There is nothing left to do.
    Over,
}

/// A worker, shared by the threads of its process while it works.
#[derive(Debug)]
pub struct Desk {
    state: Mutex<Option<State>>,
    /// Who holds it waits for the next arrival: one thread is woken for it, and not all that are free.
    pub(super) baton: Mutex<()>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) worker: &'static mut Worker,
    alive: u32,
    /// Users on their way, which will enter in a moment.
    expected: u32,
    idle: u32,
    started: u32,
    out_of_data: bool,
    /// Why the run must end.
    refusal: Option<String>,
}

fn unpoisoned<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the worker back from the desk, whatever happens to the threads.
#[derive(Debug)]
pub struct Opened<'a> {
    desk: &'a Desk,
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        self.desk.close();
    }
}

impl Desk {
    /// A desk that nobody works at.
    pub fn new() -> Desk {
        Desk {
            state: Mutex::new(None),
            baton: Mutex::new(()),
        }
    }

    /// Lends the worker to all who share this desk, as long as what is returned lives.
    pub fn open<'a>(&'a self, worker: &'a mut Worker) -> Opened<'a> {
        // SAFETY: the reference leaves the desk, under its lock, before the borrow that it stretches is over: `Opened` borrows
        // the worker as long as it lives and takes it back when it is dropped; `State` never leaves the lock.
        let worker = unsafe { std::mem::transmute::<&'a mut Worker, &'static mut Worker>(worker) };
        *unpoisoned(&self.state) = Some(State {
            worker,
            alive: 0,
            expected: 0,
            idle: 0,
            started: 0,
            out_of_data: false,
            refusal: None,
        });
        Opened { desk: self }
    }

    fn close(&self) {
        *unpoisoned(&self.state) = None;
    }

    /// `None` if the work is over.
    #[inline]
    pub(super) fn with<R>(&self, act: impl FnOnce(&mut State) -> R) -> Option<R> {
        unpoisoned(&self.state).as_mut().map(act)
    }

    /// How many users should be started now.
    pub fn users_to_start(&self) -> u32 {
        let now = crate::now_ns();
        self.with(|state| state.users_to_start(now)).unwrap_or(0)
    }

    /// Says that a user will enter, on another thread.
    pub fn expect_user(&self) {
        self.with(|state| state.expected += 1);
    }

    /// Whether users live, or may have to be started yet.
    pub fn is_busy(&self) -> bool {
        let now = crate::now_ns();
        self.with(|state| state.alive + state.expected > 0 || !state.is_over(now))
            .unwrap_or(false)
    }

    /// How far the run has come.
    pub fn phase(&self) -> Phase {
        let now = crate::now_ns();
        self.with(|state| state.phase(now)).unwrap_or(Phase::Over)
    }

    /// Why the run must end, if its users have asked for what they must not have.
    pub fn refusal(&self) -> Option<String> {
        self.with(|state| state.refusal.clone()).flatten()
    }

    /// Says that this process is ready, and sleeps until all begin.
    pub fn wait_for_start(&self) {
        self.with(|state| state.worker.wait_for_start());
    }

    /// Which worker this is, counting from 0.
    pub fn number(&self) -> u32 {
        self.with(|state| state.worker.number()).unwrap_or(0)
    }

    /// Counts how long a part of an iteration took that its user has named.
    pub fn named_step(&self, name: &str, began_ns: u64, failure: Option<&Failure>) {
        let sample = Sample {
            intended_ns: began_ns,
            sent_ns: began_ns,
            ended_ns: crate::now_ns(),
            ..Sample::default()
        };
        self.with(|state| {
            let recorder = state.worker.recorder();
            let step = recorder.step(StepKind::Step, name);
            recorder.ended(
                step,
                &sample,
                failure.map(|failure| (failure.kind, &*failure.text)),
            );
        });
    }

    /// All users have ended: arrivals that were due and that nobody has taken are counted as unsent.
    pub fn finish(&self, iteration: &str) {
        let now = crate::now_ns();
        self.with(|state| {
            if state.has_rate() {
                let step = state.worker.recorder().step(StepKind::Iteration, iteration);
                state.worker.give_up_arrivals(step, now);
            }
        });
    }

    /// Users find nothing left to work with: no iteration begins any more.
    pub fn end_of_data(&self) {
        self.with(|state| state.out_of_data = true);
    }

    /// A number of nanoseconds from this range, at random.
    pub fn draw(&self, least_ns: u64, most_ns: u64) -> u64 {
        let span = most_ns.saturating_sub(least_ns) as f64;
        self.with(|state| least_ns + (state.worker.random().unit() * span) as u64)
            .unwrap_or(least_ns)
    }

    /// How long a user waits between iterations, by the plan.
    pub fn think_ns(&self) -> u64 {
        self.with(|state| state.worker.think_ns()).unwrap_or(0)
    }

    /// Whether arrivals are due at moments that do not depend on the server.
    pub fn has_rate(&self) -> bool {
        self.with(|state| state.has_rate()).unwrap_or(false)
    }

    pub(super) fn add_idle(&self, waits: bool) {
        self.with(|state| state.add_idle(waits));
    }
}

impl Default for Desk {
    fn default() -> Desk {
        Desk::new()
    }
}

impl State {
    pub(super) fn has_rate(&self) -> bool {
        self.worker.plan().pacing.has_rate()
    }

    fn is_over(&mut self, now_ns: u64) -> bool {
        let may_begin = self.worker.may_begin(now_ns) || self.worker.rate_lasts_until_ns(now_ns).is_some();
        self.out_of_data || self.phase(now_ns) > Phase::Running || !may_begin
    }

    pub(super) fn phase(&mut self, now_ns: u64) -> Phase {
        let phase = self.worker.phase(now_ns);
        if self.refusal.is_some() {
            Phase::Over
        } else {
            phase
        }
    }

    /// Whether something may be sent to a machine that is not ours. If not, the run is over for this process.
    pub(super) fn may_ask(&mut self, stranger: &Stranger, now_ns: u64) -> bool {
        if self.refusal.is_none() {
            let (plan, taken_ns) = (self.worker.plan(), self.worker.strangers_ns());
            self.refusal = guard::ask(stranger, plan, taken_ns, now_ns).err();
        }
        self.refusal.is_none()
    }

    fn has_too_many(&self, now_ns: u64) -> bool {
        !self.has_rate() && self.worker.users_change() && self.alive > self.worker.users_at(now_ns)
    }

    /// What a user that is free should do now.
    pub(super) fn next(&mut self, now_ns: u64) -> Next {
        if self.is_over(now_ns) || self.has_too_many(now_ns) {
            return Next::Over;
        }
        if !self.has_rate() {
            return if self.worker.take_iteration(now_ns) {
                Next::Go { intended_ns: now_ns }
            } else {
                Next::Over
            };
        }
        if let Some(intended_ns) = self.worker.take_arrival(now_ns) {
            return Next::Go { intended_ns };
        }
        let until_ns = self.worker.next_due_ns();
        match until_ns.or(self.worker.rate_lasts_until_ns(now_ns)) {
            Some(until_ns) => Next::Wait { until_ns },
            None => Next::Over,
        }
    }

    fn users_to_start(&mut self, now_ns: u64) -> u32 {
        if self.is_over(now_ns) {
            return 0;
        }
        let there = self.alive + self.expected;
        let wanted = if self.has_rate() {
            // One is always free, so that nothing that is due finds nobody.
            let missing = if self.idle == 0 {
                1 + self.overdue(now_ns)
            } else {
                0
            };
            (self.alive + missing).max(there).max(FIRST_USERS)
        } else {
            self.worker.users_at(now_ns)
        };
        wanted.min(self.worker.most_users()).saturating_sub(there)
    }

    /// About how many arrivals are due that nobody has taken.
    fn overdue(&self, now_ns: u64) -> u32 {
        let Some(late_ns) = self
            .worker
            .next_due_ns()
            .map(|due_ns| now_ns.saturating_sub(due_ns))
        else {
            return 0;
        };
        let rate = self.worker.plan().pacing.highest_rate().unwrap_or(0.0) / f64::from(self.worker.workers());
        (late_ns as f64 * 1e-9 * rate) as u32
    }

    /// A user begins to live; its number among all users of the run.
    pub(super) fn enter(&mut self) -> u64 {
        self.expected = self.expected.saturating_sub(1);
        self.alive += 1;
        self.started += 1;
        self.worker.recorder().users(u64::from(self.alive));
        self.worker.user_id(self.started - 1)
    }

    /// A user's life is over.
    pub(super) fn leave(&mut self) {
        self.alive = self.alive.saturating_sub(1);
        let alive = u64::from(self.alive);
        self.worker.recorder().users(alive);
    }

    pub(super) fn add_idle(&mut self, waits: bool) {
        self.idle = if waits {
            self.idle + 1
        } else {
            self.idle.saturating_sub(1)
        };
    }
}

/// The turn of one thread to wait for the next arrival.
#[derive(Debug)]
pub struct Baton<'a> {
    _held: Option<MutexGuard<'a, ()>>,
}

impl Desk {
    /// Waits for this thread's turn to take the next arrival, so that each wakes one thread and not all that are free. In the
    /// closed model there is nothing to wait for.
    pub fn take_baton(&self) -> Baton<'_> {
        if !self.has_rate() {
            return Baton { _held: None };
        }
        self.add_idle(true);
        let held = unpoisoned(&self.baton);
        self.add_idle(false);
        Baton { _held: Some(held) }
    }
}
