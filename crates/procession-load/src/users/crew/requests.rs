//! Requests over HTTP, and what they lead to.

use super::super::client::Ask;
use super::super::engine::{Done, Timing};
use super::*;
use crate::http::follow::redirected;
use crate::plan::HttpRequest;
use crate::result::ErrorKind;

/// A request under way.
#[derive(Debug)]
pub(super) struct Requested {
    pub(super) user: UserIndex,
    pub(super) step: StepId,
    pub(super) intended_ns: u64,
    pub(super) sent_ns: u64,
    expected: Expected,
    origin: u32,
    /// If its response may lead to another request.
    pub(super) trail: Option<Box<Trail>>,
}

/// Requests that lead to one another. They are counted as one: the last response, timed from the first request.
#[derive(Debug)]
pub(super) struct Trail {
    /// What the user waits for, whichever request is under way.
    ticket: Ticket,
    request: HttpRequest,
    redirects_left: u32,
    /// Whether any was followed.
    has_followed: bool,
    /// When the time limit for all of them is over.
    limit_ns: u64,
    /// Of the responses before.
    bytes_received: u64,
}

impl Crew {
    /// Sends a request. With the ticket comes the name under which it is counted.
    ///
    /// # Errors
    ///
    /// The failure of what cannot be sent at all, or `None`.
    pub fn request(
        &mut self,
        user: UserIndex,
        ask: &Ask<'_>,
        expected: Expected,
        timeout_ns: Option<u64>,
    ) -> Result<(Ticket, Arc<str>), Option<Failure>> {
        self.may_begin().ok_or(None)?;
        let redirects = self.client.redirects(ask);
        let (prepared, first) = match redirects {
            0 => (self.client.prepare(ask).map_err(Some)?, None),
            _ => {
                let (prepared, first) = self.client.prepare_to_follow(ask).map_err(Some)?;
                (prepared, Some(first))
            }
        };
        let step = self.step(StepKind::Request, &prepared.name).ok_or(None)?;
        self.may_ask(self.client.stranger(prepared.origin)).ok_or(None)?;
        let engine = &mut self.engine;
        let endpoint = match self.client.endpoint(prepared.origin, |endpoint, tls| {
            engine.add_endpoint(endpoint, tls)
        }) {
            Ok(endpoint) => endpoint,
            Err(failure) if failure.kind == ErrorKind::Dns => {
                let now = now_ns();
                let sample = Sample {
                    intended_ns: self.take_lag(user, now),
                    sent_ns: now,
                    ended_ns: now_ns(),
                    ..Sample::default()
                };
                self.desk.with(|desk| {
                    desk.worker.recorder().sent(now, 0);
                    desk.worker
                        .recorder()
                        .failed(step, &sample, failure.kind, &failure.text);
                });
                return Err(Some(failure));
            }
            Err(failure) => return Err(Some(failure)),
        };
        let now = now_ns();
        let sending = prepared.sending(&self.users[user].cookies);
        let bytes = sending.bytes;
        self.desk.with(|desk| desk.worker.recorder().sent(now, bytes));
        let intended_ns = self.take_lag(user, now);
        let limit = timeout_ns.unwrap_or(self.timeout_ns);
        let ticket = self
            .engine
            .request(user as u32, prepared.origin, endpoint, sending, limit);
        let waited_for = first.is_some().then(|| self.engine.wait_for_nothing());
        let op = Op::Http(Requested {
            user,
            step,
            intended_ns,
            sent_ns: now,
            expected,
            origin: prepared.origin,
            trail: waited_for.zip(first).map(|(ticket, request)| {
                Box::new(Trail {
                    ticket,
                    request,
                    redirects_left: redirects,
                    has_followed: false,
                    limit_ns: now.saturating_add(limit),
                    bytes_received: 0,
                })
            }),
        });
        let ticket = self.put(ticket, op);
        let ticket = waited_for.map_or(ticket, |outer| self.put(outer, Op::Follow { at: ticket }));
        Ok((ticket, prepared.name))
    }

    /// Sends the request that a response leads to. `Ok(None)` if it leads nowhere.
    fn follow(
        &mut self,
        user: UserIndex,
        trail: &mut Trail,
        reply: &Reply,
    ) -> Result<Option<(Ticket, u32)>, Failure> {
        if trail.redirects_left == 0 {
            return Ok(None);
        }
        let location = reply
            .headers()
            .find(|(name, _)| name.eq_ignore_ascii_case("location"))
            .map(|(_, value)| String::from_utf8_lossy(value));
        let Some((next, _)) = redirected(&trail.request, reply.status, location.as_deref())? else {
            return Ok(None);
        };
        let prepared = self.client.prepare_redirected(&next)?;
        if self.may_ask(self.client.stranger(prepared.origin)).is_none() {
            return Err(Failure::new(ErrorKind::Assertion, "the load test has ended"));
        }
        let engine = &mut self.engine;
        let endpoint = self
            .client
            .endpoint(prepared.origin, |endpoint, tls| {
                engine.add_endpoint(endpoint, tls)
            })
            .map_err(|failure| match failure.kind {
                // It was asked for, and is counted.
                ErrorKind::Script => Failure::new(ErrorKind::Assertion, failure.text),
                _ => failure,
            })?;
        let sending = prepared.sending(&self.users[user].cookies);
        let bytes = sending.bytes;
        self.desk.with(|desk| desk.worker.recorder().bytes_sent(bytes));
        let left_ns = trail.limit_ns.saturating_sub(now_ns()).max(1);
        let ticket = self
            .engine
            .request(user as u32, prepared.origin, endpoint, sending, left_ns);
        trail.request = next;
        trail.redirects_left -= 1;
        trail.has_followed = true;
        Ok(Some((ticket, prepared.origin)))
    }

    /// What the user is told, who may wait for the end of a trail.
    fn told(&mut self, trail: Option<Box<Trail>>, outcome: Outcome) -> Option<Outcome> {
        let Some(trail) = trail else {
            return Some(outcome);
        };
        let _ = self.engine.cancel(trail.ticket);
        self.ops[trail.ticket.index()] = None;
        self.outcomes.push_back((trail.ticket, outcome));
        None
    }

    /// A request has ended, or what it has led to: how, if that is the end.
    pub(super) fn settle_request(
        &mut self,
        mut requested: Requested,
        mut done: Done,
        timing: Timing,
    ) -> Option<Outcome> {
        let Requested {
            user,
            step,
            intended_ns,
            sent_ns,
            origin,
            ..
        } = requested;
        let before = requested.trail.as_ref().map_or(0, |trail| trail.bytes_received);
        let mut sample = Sample {
            intended_ns,
            sent_ns,
            written_ns: timing.written_ns,
            first_byte_ns: timing.first_byte_ns,
            ended_ns: timing.ended_ns,
            bytes_received: timing.bytes_received + before,
            status: 0,
        };
        if let (Some(trail), Done::Replied(reply)) = (&mut requested.trail, &mut done) {
            self.keep_cookies(user, origin, reply);
            match self.follow(user, trail, reply) {
                Ok(Some((at, origin))) => {
                    trail.bytes_received = sample.bytes_received;
                    self.ops[trail.ticket.index()] = Some(Op::Follow { at });
                    self.put(at, Op::Http(Requested { origin, ..requested }));
                    return None;
                }
                Ok(None) if trail.has_followed => reply.led_to = Some(trail.request.url.as_str().into()),
                Ok(None) => {}
                Err(failure) => done = Done::Failed(failure),
            }
        }
        let desk = Arc::clone(&self.desk);
        let outcome = match done {
            Done::Replied(reply) => {
                sample.status = reply.status;
                let failure = unexpected(&requested.expected, &reply);
                if requested.trail.is_none() {
                    self.keep_cookies(user, origin, &reply);
                }
                desk.with(|desk| {
                    let recorder = desk.worker.recorder();
                    match &failure {
                        None => recorder.succeeded(step, &sample),
                        Some(failure) => recorder.failed(step, &sample, failure.kind, &failure.text),
                    }
                });
                // What failed already cannot be rejected once more.
                self.users[user].last = failure.is_none().then_some((step, sample));
                Outcome::Replied(reply, sample.ended_ns.saturating_sub(intended_ns))
            }
            Done::Failed(failure) => {
                desk.with(|desk| {
                    desk.worker
                        .recorder()
                        .failed(step, &sample, failure.kind, &failure.text)
                });
                Outcome::Failed(failure)
            }
            _ => return None,
        };
        self.told(requested.trail, outcome)
    }

    fn keep_cookies(&mut self, user: UserIndex, origin: u32, reply: &Reply) {
        if !reply.sets_cookies {
            return;
        }
        let cookies = &mut self.users[user].cookies;
        for (_, value) in reply
            .headers()
            .filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"))
        {
            cookies.set(origin, &String::from_utf8_lossy(value));
        }
    }
}

fn unexpected(expected: &Expected, reply: &Reply) -> Option<Failure> {
    let status = reply.status;
    let fits = match expected {
        Expected::Success => status < 400,
        Expected::OneOf(statuses) => statuses.contains(&status),
    };
    if fits {
        return None;
    }
    let kind = match status {
        400..=499 => ErrorKind::Status4xx,
        500..=599 => ErrorKind::Status5xx,
        _ => ErrorKind::Assertion,
    };
    Some(Failure::new(kind, format!("status {status}")))
}
