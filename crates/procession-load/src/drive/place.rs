//! Places: when one begins its request, and what it does next when that has ended.

use super::{Driver, Ended, Protocol};
use crate::net::Failure;
use crate::now_ns;
use crate::record::Sample;
use crate::result::ErrorKind;
use crate::run::Phase;

/// How often the number of users is looked at while it changes.
const STAGE_INTERVAL_NS: u64 = 5_000_000;
/// After a failed connection a user of the closed model pauses, longer each time: a server that is down would be hammered.
const LEAST_BACKOFF_NS: u64 = 1_000_000;
const MOST_BACKOFF_NS: u64 = 100_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PlaceState {
    /// A user that is not there (yet, or any more).
    Absent,
    /// Waits for an arrival.
    Idle,
    /// Thinks, or pauses after a failure.
    Pausing,
    Busy,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) state: PlaceState,
    pub(super) request: u32,
    pub(super) failures_in_a_row: u32,
    pub(super) intended_ns: u64,
    pub(super) sent_ns: u64,
}

impl<P: Protocol> Driver<'_, P> {
    /// Lets users begin whose time has come. Those whose time is over go when their request has ended.
    pub(super) fn let_users_come(&mut self, now: u64) {
        self.next_stage_ns = if self.worker.users_change() {
            now + STAGE_INTERVAL_NS
        } else {
            u64::MAX
        };
        let wanted = self.worker.users_at(now);
        for place in 0..wanted {
            if self.places[place as usize].state == PlaceState::Absent {
                self.present += 1;
                self.next_iteration(place, Phase::Running, now);
            }
        }
        self.note_users();
    }

    pub(super) fn note_users(&mut self) {
        let users = if self.has_rate {
            self.open_links
        } else {
            self.present
        };
        self.worker.recorder().users(u64::from(users));
    }

    /// In the closed model: what a place does that has nothing to do.
    pub(super) fn next_iteration(&mut self, place: u32, phase: Phase, now: u64) {
        if self.worker.users_change() && place >= self.worker.users_at(now) {
            self.leave(place);
        } else if phase == Phase::Running && self.worker.take_iteration(now) {
            self.launch(place, now, now);
        } else {
            self.leave(place);
        }
    }

    fn leave(&mut self, place: u32) {
        self.places[place as usize].state = PlaceState::Absent;
        self.present -= 1;
        if self.protocol.streams() == 1 {
            for endpoint in 0..self.protocol.endpoints() {
                self.close(place * self.protocol.endpoints() + endpoint);
            }
        }
        self.note_users();
    }

    fn choose_request(&mut self) -> u32 {
        let Some(&all) = self.weights.last() else { return 0 };
        let drawn = self.random.unit() * all;
        self.weights
            .partition_point(|&sum| sum <= drawn)
            .min(self.weights.len() - 1) as u32
    }

    #[inline]
    pub(super) fn launch(&mut self, number: u32, intended: u64, now: u64) {
        let request = self.choose_request();
        let place = &mut self.places[number as usize];
        place.state = PlaceState::Busy;
        place.request = request;
        place.intended_ns = intended;
        place.sent_ns = now;
        self.busy += 1;
        let bytes = self.protocol.requests()[request as usize].bytes;
        self.worker.recorder().sent(now, bytes);
        let link_number = self.link_of(number, request);
        let stream = number % self.protocol.streams();
        if self.links[link_number as usize].link.is_none() {
            if let Err(failure) = self.open(link_number, request, now) {
                self.stillborn.push((number, failure));
                return;
            }
        }
        let Some(link) = &mut self.links[link_number as usize].link else {
            return;
        };
        match self
            .protocol
            .begin(link, stream, request, now, self.worker.recorder())
        {
            Err(failure) => self.fail_link(link_number, &failure),
            Ok(()) => {
                if P::FLUSHES {
                    self.unflushed.push(link_number);
                }
                if let Some(ended) = self.protocol.begun(link, stream, now) {
                    self.done.push((number, ended));
                }
                self.note_unrest(link_number);
            }
        }
    }

    pub(super) fn bury_the_stillborn(&mut self) {
        if !self.done.is_empty() {
            for (place, ended) in std::mem::take(&mut self.done) {
                self.end(place, ended.ended_ns, Ok(()), &ended);
            }
        }
        if self.stillborn.is_empty() {
            return;
        }
        for (place, failure) in std::mem::take(&mut self.stillborn) {
            let now = now_ns();
            self.end(place, now, Err(failure), &Ended::at(now));
        }
    }

    /// Counts what became of a place's request, and goes on from now.
    #[inline]
    pub(super) fn end(&mut self, number: u32, now: u64, outcome: Result<(), Failure>, ended: &Ended) {
        let place = &mut self.places[number as usize];
        let sample = Sample {
            intended_ns: place.intended_ns,
            sent_ns: place.sent_ns,
            written_ns: ended.written_ns,
            first_byte_ns: ended.first_byte_ns,
            ended_ns: ended.ended_ns,
            bytes_received: ended.bytes_received,
            status: ended.status,
        };
        let step = self.steps[place.request as usize];
        self.busy -= 1;
        if self.has_rate && ended.is_noted {
            self.worker.recorder().noted();
        }
        match outcome {
            Ok(()) => {
                place.failures_in_a_row = 0;
                self.worker.recorder().succeeded(step, &sample);
                self.go_on(number, now, 0);
            }
            Err(failure) => {
                let pause = if failure.kind.has_response() {
                    place.failures_in_a_row = 0;
                    0
                } else {
                    place.failures_in_a_row += 1;
                    backoff_ns(place.failures_in_a_row, failure.kind)
                };
                self.worker
                    .recorder()
                    .failed(step, &sample, failure.kind, &failure.text);
                self.go_on(number, now, pause);
            }
        }
    }

    /// What a place does next whose request has ended.
    #[inline]
    fn go_on(&mut self, number: u32, now: u64, pause_ns: u64) {
        if self.has_rate {
            let saturated = self.idle.is_empty();
            match self.worker.take_arrival(now) {
                Some(intended) => {
                    // While all places were busy, it was not our fault that it waited.
                    let delay = if saturated {
                        0
                    } else {
                        now.saturating_sub(intended)
                    };
                    self.worker.recorder().delay(delay);
                    self.launch(number, intended, now);
                }
                None => {
                    self.places[number as usize].state = PlaceState::Idle;
                    self.idle.push(number);
                }
            }
            return;
        }
        let pause_ns = pause_ns + self.worker.think_ns();
        if pause_ns > 0 {
            self.places[number as usize].state = PlaceState::Pausing;
            self.timers.push(now + pause_ns, number);
            return;
        }
        let phase = self.worker.phase(now);
        self.next_iteration(number, phase, now);
    }

    /// Counts what has failed, without anything new beginning.
    pub(super) fn bury_all(&mut self, now: u64) {
        for (number, failure) in std::mem::take(&mut self.stillborn) {
            let place = &mut self.places[number as usize];
            place.state = PlaceState::Idle;
            let sample = Sample {
                intended_ns: place.intended_ns,
                sent_ns: place.sent_ns,
                ended_ns: now,
                ..Sample::default()
            };
            let step = self.steps[place.request as usize];
            self.worker
                .recorder()
                .failed(step, &sample, failure.kind, &failure.text);
        }
    }
}

fn backoff_ns(failures_in_a_row: u32, kind: ErrorKind) -> u64 {
    // A connection that was broken off is made again at once: the server is there.
    if !matches!(
        kind,
        ErrorKind::Refused | ErrorKind::Dns | ErrorKind::Generator | ErrorKind::Network | ErrorKind::Tls
    ) {
        return 0;
    }
    (LEAST_BACKOFF_NS << failures_in_a_row.min(10)).min(MOST_BACKOFF_NS)
}
