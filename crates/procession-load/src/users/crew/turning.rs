//! Waiting, and what has come of operations meanwhile.

use super::super::engine::{Done, Found, Timing};
use super::*;
use std::io;

impl Crew {
    /// Before waiting: arranges to be woken. Whether there is something to do at once is returned.
    ///
    /// # Errors
    ///
    /// The system refuses to watch.
    pub fn arm(&mut self) -> io::Result<bool> {
        self.engine.arm()?;
        let has_work = self.engine.has_done() || self.engine.has_unread() || !self.outcomes.is_empty();
        if !has_work {
            let now = now_ns();
            self.desk.with(|desk| desk.worker.turned(now));
        }
        Ok(has_work)
    }

    /// Whether there is more to read, so that nobody should wait.
    pub fn has_unread(&self) -> bool {
        self.engine.has_unread()
    }

    /// After waiting: does what was found, and sees to the end of the run.
    pub fn handle(&mut self, found: &Found) {
        self.engine.handle(found);
        self.look();
    }

    /// Does what can be done without waiting.
    ///
    /// # Errors
    ///
    /// The system refuses to watch.
    pub fn turn(&mut self) -> io::Result<()> {
        self.engine.turn()?;
        self.look();
        Ok(())
    }

    /// Before a request after a pause: has the server closed the connection meanwhile?
    ///
    /// # Errors
    ///
    /// The system refuses to watch.
    pub fn look_for_closed(&mut self) -> io::Result<()> {
        self.engine.look_for_closed()
    }

    fn look(&mut self) {
        let now = now_ns();
        let phase = self.desk.with(|desk| desk.phase(now)).unwrap_or(Phase::Over);
        if phase == self.phase {
            // Another crew may have taken what there was.
            if !self.waiting.is_empty() && self.alarm.is_none() {
                self.call_waiting();
            }
            return;
        }
        self.phase = phase;
        // Users that pause or wait have nothing to wait for any more; at the very end, nobody has.
        for index in 0..self.ops.len() {
            let ends = match &self.ops[index] {
                None => false,
                Some(Op::Pause | Op::Call) => true,
                // It ends with what its user waits for.
                Some(Op::Http(Requested { trail: Some(_), .. })) => false,
                Some(_) => phase == Phase::Over,
            };
            let Some(ticket) = ends.then(|| self.engine.ticket(index)).flatten() else {
                continue;
            };
            if self.alarm.is_some_and(|(alarm, _)| alarm == ticket) {
                self.alarm = None;
                self.ops[index] = None;
                let _ = self.engine.cancel(ticket);
                continue;
            }
            self.cancel(ticket);
            self.outcomes.push_back((ticket, Outcome::Stopped));
        }
    }

    /// How far the run has come, as of the last turn.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The next operation that is over. Its ticket is no longer valid.
    pub fn next_outcome(&mut self) -> Option<(Ticket, Outcome)> {
        loop {
            if let Some(found) = self.outcomes.pop_front() {
                return Some(found);
            }
            let (ticket, done, timing) = self.engine.take_done()?;
            if let Some(outcome) = self.settle(ticket, done, timing) {
                return Some((ticket, outcome));
            }
        }
    }

    /// What became of this operation, if it is over.
    pub fn outcome_of(&mut self, ticket: Ticket) -> Option<Outcome> {
        if let Some(at) = self.outcomes.iter().position(|(other, _)| *other == ticket) {
            return self.outcomes.remove(at).map(|(_, outcome)| outcome);
        }
        // What else is done, such as the alarm, is seen to as well.
        while let Some((other, done, timing)) = self.engine.take_done() {
            if let Some(outcome) = self.settle(other, done, timing) {
                if other == ticket {
                    return Some(outcome);
                }
                self.outcomes.push_back((other, outcome));
            }
        }
        let at = self.outcomes.iter().position(|(other, _)| *other == ticket)?;
        self.outcomes.remove(at).map(|(_, outcome)| outcome)
    }

    fn settle(&mut self, ticket: Ticket, done: Done, timing: Timing) -> Option<Outcome> {
        let op = self.ops.get_mut(ticket.index()).and_then(Option::take)?;
        if self.alarm.is_some_and(|(alarm, _)| alarm == ticket) {
            self.alarm = None;
            self.call_waiting();
            return None;
        }
        match op {
            Op::Http(requested) => self.settle_request(requested, done, timing),
            Op::Connect { name } => self.settle_connect(&name, done, timing),
            Op::Raw {
                step,
                intended_ns,
                sent_ns,
            } => {
                let sample = Sample {
                    intended_ns,
                    sent_ns,
                    written_ns: 0,
                    first_byte_ns: timing.first_byte_ns.max(sent_ns),
                    ended_ns: timing.ended_ns,
                    bytes_received: timing.bytes_received,
                    status: 0,
                };
                Some(self.settle_raw(step, done, &sample))
            }
            Op::Pause => Some(match done {
                Done::Failed(failure) => Outcome::Failed(failure),
                Done::Ready => Outcome::Ready,
                _ => Outcome::Slept,
            }),
            Op::Call => Some(Outcome::Called),
            // It is only ever told of.
            Op::Follow { .. } => None,
        }
    }
}
