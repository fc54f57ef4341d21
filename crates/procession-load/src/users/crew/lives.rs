//! Lives of users, and their iterations.

use super::super::desk::Next;
use super::*;
use crate::result::ErrorKind;

impl Crew {
    /// A user begins to live.
    pub fn enter(&mut self) -> UserIndex {
        let id = self.desk.with(|desk| desk.enter()).unwrap_or(0);
        self.users.push(UserState {
            id,
            free_since_ns: now_ns(),
            ..UserState::default()
        });
        self.users.len() - 1
    }

    /// A user's life is over.
    pub fn leave(&mut self, user: UserIndex) {
        if std::mem::replace(&mut self.users[user].left, true) {
            return;
        }
        let state = &self.users[user];
        if state.is_in_iteration && !state.has_asked && self.desk.has_rate() {
            self.give_up(state.intended_ns);
        }
        self.engine.forget_user(user as u32);
        self.desk.with(|desk| desk.leave());
    }

    /// Its number among all users of the run.
    pub fn id(&self, user: UserIndex) -> u64 {
        self.users[user].id
    }

    /// How many iterations it has begun before the one it is in.
    pub fn iteration(&self, user: UserIndex) -> u64 {
        self.users[user].iteration
    }

    /// Forgets a user's cookies.
    pub fn clear_cookies(&mut self, user: UserIndex) {
        self.users[user].cookies.clear();
    }

    /// A user that is free asks what to do.
    pub fn begin(&mut self, user: UserIndex) -> Begin {
        let now = now_ns();
        if self.phase > Phase::Running {
            if let Some(due_ns) = self.users[user].assigned.take() {
                self.give_up(due_ns);
            }
            return Begin::Never;
        }
        let next = match self.users[user].assigned.take() {
            Some(intended_ns) => Next::Go { intended_ns },
            None => self.desk.with(|desk| desk.next(now)).unwrap_or(Next::Over),
        };
        match next {
            Next::Go { intended_ns } => {
                let state = &mut self.users[user];
                state.intended_ns = intended_ns;
                state.began_ns = now;
                state.lag_ns = now.saturating_sub(intended_ns);
                state.is_in_iteration = true;
                state.last = None;
                state.has_asked = false;
                let own_delay = now.saturating_sub(intended_ns.max(state.free_since_ns));
                self.desk.with(|desk| {
                    if desk.has_rate() {
                        desk.worker.recorder().delay(own_delay);
                    }
                });
                Begin::Now
            }
            Next::Wait { until_ns } => {
                let ticket = self.engine.wait_for_nothing();
                self.put(ticket, Op::Call);
                self.waiting.push((ticket, user));
                self.desk.add_idle(true);
                self.set_alarm(until_ns);
                Begin::When(ticket)
            }
            Next::Over => Begin::Never,
        }
    }

    /// Counts an arrival that was taken too late for anything to be begun.
    fn give_up(&mut self, due_ns: u64) {
        let now = now_ns();
        if let Some(step) = self.step(StepKind::Iteration, &self.iteration.clone()) {
            self.desk
                .with(|desk| desk.worker.recorder().unsent(step, due_ns, now));
        }
    }

    /// Sees to it that somebody is called when the next arrival is due.
    fn set_alarm(&mut self, at_ns: u64) {
        if self.alarm.is_none_or(|(_, other)| other > at_ns) {
            let ticket = self.engine.sleep_until(at_ns);
            self.put(ticket, Op::Pause);
            self.alarm = Some((ticket, at_ns));
        }
    }

    /// Calls as many of those who wait as there are arrivals due, the one that came last first.
    pub(super) fn call_waiting(&mut self) {
        let now = now_ns();
        while let Some((ticket, user)) = self.waiting.pop() {
            match self.desk.with(|desk| desk.next(now)).unwrap_or(Next::Over) {
                Next::Go { intended_ns } => {
                    self.users[user].assigned = Some(intended_ns);
                    self.called(ticket);
                }
                Next::Wait { until_ns } => {
                    self.waiting.push((ticket, user));
                    self.set_alarm(until_ns);
                    break;
                }
                Next::Over => self.called(ticket),
            }
        }
    }

    fn called(&mut self, ticket: Ticket) {
        let _ = self.engine.cancel(ticket);
        self.ops[ticket.index()] = None;
        self.desk.add_idle(false);
        self.outcomes.push_back((ticket, Outcome::Called));
    }

    /// An iteration is over, well or not.
    pub fn end(&mut self, user: UserIndex, failure: Option<&Failure>, is_counted: bool) {
        let now = now_ns();
        let Some(step) = self.step(StepKind::Iteration, &self.iteration.clone()) else {
            return;
        };
        let state = &mut self.users[user];
        if !std::mem::replace(&mut state.is_in_iteration, false) {
            return;
        }
        let sample = Sample {
            intended_ns: state.intended_ns,
            sent_ns: state.began_ns,
            ended_ns: now,
            ..Sample::default()
        };
        state.iteration += 1;
        state.free_since_ns = now;
        // A response that was rejected is what failed, and the iteration with it.
        let rejected = state.last.take();
        self.desk.with(|desk| {
            let recorder = desk.worker.recorder();
            let failed = failure.map(|failure| (failure.kind, &*failure.text));
            match (failed, rejected) {
                (Some((ErrorKind::Assertion, text)), Some((request, sample))) if !is_counted => {
                    recorder.rejected(request, &sample, ErrorKind::Assertion, text);
                }
                (Some((kind, text)), _) if !is_counted => recorder.error(kind, text),
                _ => {}
            }
            recorder.ended(step, &sample, failed);
        });
    }

    /// An iteration that was begun comes to nothing, and is not counted.
    pub fn abandon(&mut self, user: UserIndex) {
        self.users[user].is_in_iteration = false;
    }
}
