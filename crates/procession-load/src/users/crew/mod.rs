//! The users of one thread: what they are doing, and how it is counted.
//!
//! A *crew* has an [`Engine`] of its own; the crews of a process share its [`Desk`]. Front ends (Rust futures, Python
//! coroutines, plain functions) begin operations for their users, get a [`Ticket`] for each, and are told by
//! [`Crew::next_outcome`] which of them are over and how.

mod lives;
mod requests;
mod sockets;
mod turning;

use super::client::{Client, ClientOptions, Cookies};
use super::desk::Desk;
use super::engine::{Engine, Socket, Ticket};
use super::guard::Stranger;
use super::reply::Reply;
use crate::net::Failure;
use crate::plan::Plan;
use crate::result::StepKind;
use crate::{now_ns, Phase, Sample, StepId};
use requests::Requested;
use rustix::fd::OwnedFd;
use std::collections::{HashMap, VecDeque};
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
    Http(Requested),
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
            engine: Engine::new(Arc::clone(&desk), options.version)
                .map_err(|error| format!("no event loop: {error}"))?,
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
            Op::Http(Requested {
                step,
                intended_ns,
                sent_ns,
                ..
            })
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
}
