//! The users of one thread: what they are doing, and how it is counted.
//!
//! A *crew* has an [`Engine`] of its own; the crews of a process share its [`Desk`]. Front ends (Rust futures, Python
//! coroutines, plain functions) begin operations for their users, get a [`Ticket`] for each, and are told by
//! [`Crew::next_outcome`] which of them are over and how.

use super::client::{parts, stranger_at, Ask, Client, ClientOptions, Cookies};
use super::desk::{Desk, Next};
use super::engine::{Done, Engine, Found, Receive, Socket, Ticket, Timing};
use super::guard::Stranger;
use super::reply::Reply;
use crate::http::follow::redirected;
use crate::net::{Endpoint, Failure};
use crate::plan::{HttpRequest, Plan};
use crate::result::{ErrorKind, StepKind};
use crate::{now_ns, Phase, Sample, StepId};
use rustix::fd::OwnedFd;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

/// A user of a crew, counting from 0.
pub type UserIndex = usize;

/// What became of an operation.
#[derive(Debug)]
pub enum Outcome {
    /// A pause is over.
    Slept,
    /// The user that waited for its next iteration should ask again.
    Called,
    /// A response, and how long it took in nanoseconds.
    Replied(Box<Reply>, u64),
    /// A raw socket is connected, or what was sent is on its way.
    Ready,
    /// From a raw socket.
    Received(Vec<u8>),
    /// It failed, and is counted.
    Failed(Failure),
    /// The run has ended; the user must, too.
    Stopped,
}

/// What a response's status may be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Expected {
    /// Anything below 400.
    #[default]
    Success,
    /// One of these.
    OneOf(Vec<u16>),
}

#[derive(Debug)]
enum Op {
    Pause,
    Call,
    Http {
        user: UserIndex,
        step: StepId,
        intended_ns: u64,
        sent_ns: u64,
        expected: Expected,
        origin: u32,
        /// If its response may lead to another request.
        trail: Option<Box<Trail>>,
    },
    /// A user waits for the end of a trail, whose request has this ticket at the moment.
    Follow {
        at: Ticket,
    },
    Connect {
        name: String,
    },
    Raw {
        step: Option<StepId>,
        intended_ns: u64,
        sent_ns: u64,
    },
}

/// Requests that lead to one another. They are counted as one: the last response, timed from the first request.
#[derive(Debug)]
struct Trail {
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

#[derive(Debug, Default)]
struct UserState {
    id: u64,
    iteration: u64,
    is_in_iteration: bool,
    /// Whether it has sent anything in this iteration.
    has_asked: bool,
    intended_ns: u64,
    began_ns: u64,
    /// How late the iteration began, until its first request has been told.
    lag_ns: u64,
    free_since_ns: u64,
    /// The arrival that it was called for.
    assigned: Option<u64>,
    cookies: Cookies,
    /// The last response of this iteration that was a success, which its user may still reject.
    last: Option<(StepId, Sample)>,
    left: bool,
}

/// The next iteration of a user.
#[derive(Debug)]
pub enum Begin {
    /// It begins now.
    Now,
    /// Ask again when this is over.
    When(Ticket),
    /// There are no more.
    Never,
}

/// See the module.
#[derive(Debug)]
pub struct Crew {
    engine: Engine,
    desk: Arc<Desk>,
    client: Client,
    ops: Vec<Option<Op>>,
    users: Vec<UserState>,
    steps: HashMap<(StepKind, Arc<str>), StepId>,
    /// Of raw sockets, by address.
    endpoints: HashMap<Box<str>, (u32, Option<Stranger>)>,
    /// Raw sockets of machines of others.
    strangers: HashMap<Socket, Stranger>,
    iteration: Arc<str>,
    timeout_ns: u64,
    /// Users that wait for something to become due, the longest waiting first, and the timer that calls one of them.
    waiting: Vec<(Ticket, UserIndex)>,
    alarm: Option<(Ticket, u64)>,
    outcomes: VecDeque<(Ticket, Outcome)>,
    phase: Phase,
}

impl Crew {
    /// A crew without users.
    ///
    /// # Errors
    ///
    /// No descriptor is left, or the options make no sense.
    pub fn new(desk: Arc<Desk>, options: ClientOptions, iteration: &str) -> Result<Crew, String> {
        let of_plan = |plan: &Plan| plan.timeout.as_nanos() as u64;
        let timeout_ns = desk.with(|desk| of_plan(desk.worker.plan())).unwrap_or_default();
        Ok(Crew {
            engine: Engine::new(Arc::clone(&desk)).map_err(|error| format!("no event loop: {error}"))?,
            desk,
            client: Client::new(options)?,
            ops: Vec::new(),
            users: Vec::new(),
            steps: HashMap::new(),
            endpoints: HashMap::new(),
            strangers: HashMap::new(),
            iteration: iteration.into(),
            timeout_ns,
            waiting: Vec::new(),
            alarm: None,
            outcomes: VecDeque::new(),
            phase: Phase::Running,
        })
    }

    /// Becomes readable when [`Crew::turn`] has something to do.
    pub fn epoll(&self) -> Arc<OwnedFd> {
        self.engine.epoll()
    }

    /// How many users of this crew live.
    pub fn alive(&self) -> usize {
        self.users.iter().filter(|user| !user.left).count()
    }

    fn step(&mut self, kind: StepKind, name: &Arc<str>) -> Option<StepId> {
        if let Some(step) = self.steps.get(&(kind, name.clone())) {
            return Some(*step);
        }
        let step = self.desk.with(|desk| desk.worker.recorder().step(kind, name))?;
        self.steps.insert((kind, name.clone()), step);
        Some(step)
    }

    fn put(&mut self, ticket: Ticket, op: Op) -> Ticket {
        let index = ticket.index();
        if self.ops.len() <= index {
            self.ops.resize_with(index + 1, || None);
        }
        self.ops[index] = Some(op);
        ticket
    }

    // --- lives and iterations --------------------------------------------------------------------------------------

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
    fn call_waiting(&mut self) {
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

    // --- operations ------------------------------------------------------------------------------------------------

    /// Begins a pause.
    ///
    /// # Errors
    ///
    /// `None`: the run has ended, and the user must, too. The same holds for all operations.
    pub fn pause(&mut self, ns: u64) -> Option<Ticket> {
        self.may_begin()?;
        let ticket = self.engine.sleep_until(now_ns().saturating_add(ns));
        Some(self.put(ticket, Op::Pause))
    }

    fn may_begin(&self) -> Option<()> {
        (self.phase == Phase::Running).then_some(())
    }

    /// Counts what goes to a machine of others. `None` if it must not: then the run is over.
    fn may_ask(&self, stranger: Option<&Stranger>) -> Option<()> {
        let Some(stranger) = stranger else {
            return Some(());
        };
        let now = now_ns();
        self.desk.with(|desk| desk.may_ask(stranger, now))?.then_some(())
    }

    fn take_lag(&mut self, user: UserIndex, now: u64) -> u64 {
        self.users[user].has_asked = true;
        now.saturating_sub(std::mem::take(&mut self.users[user].lag_ns))
    }

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
        let out = prepared.outgoing(&self.users[user].cookies);
        let bytes = out.len() as u64;
        self.desk.with(|desk| desk.worker.recorder().sent(now, bytes));
        let intended_ns = self.take_lag(user, now);
        let limit = timeout_ns.unwrap_or(self.timeout_ns);
        let ticket = self.engine.request(
            user as u32,
            prepared.origin,
            endpoint,
            out,
            ask.method == "HEAD",
            limit,
        );
        let waited_for = first.is_some().then(|| self.engine.wait_for_nothing());
        let op = Op::Http {
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
        };
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
        let out = prepared.outgoing(&self.users[user].cookies);
        let bytes = out.len() as u64;
        self.desk.with(|desk| desk.worker.recorder().bytes_sent(bytes));
        let ticket = self.engine.request(
            user as u32,
            prepared.origin,
            endpoint,
            out,
            next.method == "HEAD",
            trail.limit_ns.saturating_sub(now_ns()).max(1),
        );
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

    /// Connects a raw socket to `HOST:PORT`.
    ///
    /// # Errors
    ///
    /// As [`Crew::request`].
    pub fn connect(
        &mut self,
        address: &str,
        is_udp: bool,
        timeout_ns: Option<u64>,
    ) -> Result<(Ticket, Option<Socket>), Option<Failure>> {
        self.may_begin().ok_or(None)?;
        let (endpoint, stranger) = match self.endpoints.get(address) {
            Some((endpoint, stranger)) => {
                self.may_ask(stranger.as_ref()).ok_or(None)?;
                (*endpoint, stranger.clone())
            }
            None => {
                let (host, port) = parts(address).map_err(Some)?;
                let stranger = stranger_at(&host);
                self.may_ask(stranger.as_ref()).ok_or(None)?;
                let resolved = Endpoint::resolve(&host, port).map_err(Some)?;
                let endpoint = self.engine.add_endpoint(resolved, None);
                self.endpoints
                    .insert(address.into(), (endpoint, stranger.clone()));
                (endpoint, stranger)
            }
        };
        let (ticket, socket) = self
            .engine
            .connect(endpoint, is_udp, timeout_ns.unwrap_or(self.timeout_ns));
        if let Some((socket, stranger)) = socket.zip(stranger) {
            self.strangers.insert(socket, stranger);
        }
        let op = if is_udp {
            Op::Pause
        } else {
            Op::Connect {
                name: format!("connect {address}"),
            }
        };
        Ok((self.put(ticket, op), socket))
    }

    /// Gives bytes to a raw socket.
    ///
    /// # Errors
    ///
    /// As [`Crew::pause`].
    pub fn send(&mut self, socket: Socket, bytes: Vec<u8>, timeout_ns: Option<u64>) -> Option<Ticket> {
        self.may_begin()?;
        if !self.strangers.is_empty() {
            self.may_ask(self.strangers.get(&socket))?;
        }
        let count = bytes.len() as u64;
        self.desk.with(|desk| desk.worker.recorder().bytes_sent(count));
        let ticket = self
            .engine
            .send(socket, bytes, timeout_ns.unwrap_or(self.timeout_ns));
        let now = now_ns();
        Some(self.put(
            ticket,
            Op::Raw {
                step: None,
                intended_ns: now,
                sent_ns: now,
            },
        ))
    }

    /// Receives from a raw socket. With a name, and the moment when the request was sent, it is counted as its response.
    ///
    /// # Errors
    ///
    /// As [`Crew::pause`].
    pub fn receive(
        &mut self,
        user: UserIndex,
        socket: Socket,
        what: Receive,
        exchange: Option<(&str, u64)>,
        timeout_ns: Option<u64>,
    ) -> Option<Ticket> {
        self.may_begin()?;
        let now = now_ns();
        let (step, sent_ns, intended_ns) = match exchange {
            Some((name, sent_ns)) => {
                let step = self.step(StepKind::Request, &name.into())?;
                self.desk.with(|desk| desk.worker.recorder().sent(sent_ns, 0));
                let intended_ns = self.take_lag(user, sent_ns);
                (Some(step), sent_ns, intended_ns)
            }
            None => (None, now, now),
        };
        let ticket = self
            .engine
            .receive(socket, what, timeout_ns.unwrap_or(self.timeout_ns));
        Some(self.put(
            ticket,
            Op::Raw {
                step,
                intended_ns,
                sent_ns,
            },
        ))
    }

    /// Closes a raw socket.
    pub fn close(&mut self, socket: Socket) {
        self.strangers.remove(&socket);
        self.engine.close_socket(socket);
    }

    /// Gives up an operation, because its user does.
    pub fn cancel(&mut self, ticket: Ticket) {
        let Some(op) = self.ops.get_mut(ticket.index()).and_then(Option::take) else {
            return;
        };
        self.waiting.retain(|(other, _)| *other != ticket);
        let _ = self.engine.cancel(ticket);
        let now = now_ns();
        match op {
            Op::Follow { at } => self.cancel(at),
            Op::Http {
                step,
                intended_ns,
                sent_ns,
                ..
            }
            | Op::Raw {
                step: Some(step),
                intended_ns,
                sent_ns,
            } => {
                self.desk
                    .with(|desk| desk.worker.recorder().censored(step, intended_ns, sent_ns, now));
            }
            Op::Call => self.desk.add_idle(false),
            _ => {}
        }
    }

    // --- turning ---------------------------------------------------------------------------------------------------

    /// Before waiting: arranges to be woken. Whether there is something to do at once is returned.
    ///
    /// # Errors
    ///
    /// The system refuses to watch.
    pub fn arm(&mut self) -> io::Result<bool> {
        self.engine.arm()?;
        let has_work = self.engine.has_done() || !self.outcomes.is_empty();
        if !has_work {
            let now = now_ns();
            self.desk.with(|desk| desk.worker.turned(now));
        }
        Ok(has_work)
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
                Some(Op::Http { trail: Some(_), .. }) => false,
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
            Op::Http {
                user,
                step,
                intended_ns,
                sent_ns,
                expected,
                origin,
                mut trail,
            } => {
                let mut sample = Sample {
                    intended_ns,
                    sent_ns,
                    written_ns: timing.written_ns,
                    first_byte_ns: timing.first_byte_ns,
                    ended_ns: timing.ended_ns,
                    bytes_received: timing.bytes_received
                        + trail.as_ref().map_or(0, |trail| trail.bytes_received),
                    status: 0,
                };
                let mut done = done;
                if let (Some(trail_here), Done::Replied(reply)) = (&mut trail, &mut done) {
                    self.keep_cookies(user, origin, reply);
                    match self.follow(user, trail_here, reply) {
                        Ok(Some((at, origin))) => {
                            trail_here.bytes_received = sample.bytes_received;
                            self.ops[trail_here.ticket.index()] = Some(Op::Follow { at });
                            let op = Op::Http {
                                user,
                                step,
                                intended_ns,
                                sent_ns,
                                expected,
                                origin,
                                trail,
                            };
                            self.put(at, op);
                            return None;
                        }
                        Ok(None) if trail_here.has_followed => {
                            reply.led_to = Some(trail_here.request.url.as_str().into());
                        }
                        Ok(None) => {}
                        Err(failure) => done = Done::Failed(failure),
                    }
                }
                let desk = Arc::clone(&self.desk);
                let outcome = match done {
                    Done::Replied(reply) => {
                        sample.status = reply.status;
                        let failure = unexpected(&expected, &reply);
                        if trail.is_none() {
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
                self.told(trail, outcome)
            }
            Op::Connect { name } => {
                let step = self.step(StepKind::Step, &name.into())?;
                let sample = Sample {
                    intended_ns: timing.sent_ns,
                    sent_ns: timing.sent_ns,
                    ended_ns: timing.ended_ns,
                    ..Sample::default()
                };
                let desk = Arc::clone(&self.desk);
                match done {
                    Done::Failed(failure) => {
                        desk.with(|desk| {
                            let recorder = desk.worker.recorder();
                            recorder.error(failure.kind, &failure.text);
                            recorder.ended(step, &sample, Some((failure.kind, &failure.text)));
                        });
                        Some(Outcome::Failed(failure))
                    }
                    _ => {
                        desk.with(|desk| {
                            desk.worker.recorder().ended(step, &sample, None);
                        });
                        Some(Outcome::Ready)
                    }
                }
            }
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
                let desk = Arc::clone(&self.desk);
                match (done, step) {
                    (Done::Received(bytes), step) => {
                        if let Some(step) = step {
                            desk.with(|desk| desk.worker.recorder().succeeded(step, &sample));
                        }
                        Some(Outcome::Received(bytes))
                    }
                    (Done::Failed(failure), step) => {
                        desk.with(|desk| {
                            let recorder = desk.worker.recorder();
                            match step {
                                Some(step) => recorder.failed(step, &sample, failure.kind, &failure.text),
                                None => recorder.error(failure.kind, &failure.text),
                            }
                        });
                        Some(Outcome::Failed(failure))
                    }
                    _ => Some(Outcome::Ready),
                }
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
