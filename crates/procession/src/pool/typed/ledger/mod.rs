//! What the caller knows of its tasks: which slot carries what, who waits for it, and what has come back.
//!
//! A **job** is one call of the pool's user (`apply_async`, `map` …) with one or many items, told apart by their index. Items
//! travel in **batches**, one slot each. What comes back of a batch is a **delivery** to its job, where it waits until its
//! owner takes it; only the owner decodes. Everything here happens under the pool's lock, and no code of the user runs.

mod back;
mod jobs;
mod out;
mod slots;

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::Duration;

use super::calls::Terms;
use super::frame::Frames;
use super::function::Function;
use super::helper::Callback;
use crate::channel::{self, Channel, Note, Seat, Slot, SlotState, What, SLOT_INLINE_BYTES};
use crate::error::{Error, Kind};
use crate::os::process::ExitStatus;
use crate::os::time::monotonic_ns;
use crate::pool::dispatcher::{Arrival, Dispatcher, Loss};
use crate::pool::stats::{Came, FunctionStats, FunctionTally, TIMED_ONE_OF};
use crate::shm::{Block, Owner};

pub(super) use self::slots::{claimed_payload, drop_result_parts, free_result_block, inline_results_at};
use self::slots::{payload_bytes, result_bytes};

/// Slot kind: arrays travel beside the arguments.
pub(super) const ARGUMENT_PARTS: u32 = 1;
/// Slot kind: the worker is to measure how long the items take.
pub(super) const MEASURE: u32 = 2;
/// Slot kind: inline results lie behind the payload, which is still needed, not over it.
pub(super) const RESULTS_BEHIND: u32 = 4;
/// Slot kind, set by the worker: arrays travel beside the results.
pub(super) const RESULT_PARTS: u32 = 8;

/// The longest payload that lies in its slot if it is still needed when the first result is written.
const SHARED_INLINE_BYTES: usize = SLOT_INLINE_BYTES / 2;
/// From this many slots on that wait for their owners, results are copied out, so that tasks find slots.
const MOST_HELD: usize = 1 << 15;

/// What a slot that is in flight carries: items `first..limit` of the batch that begins with item `base` of its job.
#[derive(Debug, Clone, Copy, Default)]
struct Record {
    job: u32,
    base: u64,
    first: u32,
    limit: u32,
}

/// A payload that is to be published.
#[derive(Debug, Clone, Copy)]
pub(super) enum Payload<'a> {
    /// Bytes that fit into a slot: see [`Payload::fits`].
    Inline(&'a [u8]),
    /// A block of the caller's, with this many bytes.
    Block(Block, u64),
}

impl Payload<'_> {
    /// Whether a payload of this many bytes may be inline.
    #[inline]
    pub fn fits(bytes: usize, items: u32, has_parts: bool) -> bool {
        bytes
            <= if items == 1 && !has_parts {
                SLOT_INLINE_BYTES
            } else {
                SHARED_INLINE_BYTES
            }
    }
}

impl Payload<'_> {
    fn len(&self) -> u64 {
        match self {
            Payload::Inline(bytes) => bytes.len() as u64,
            Payload::Block(_, len) => *len,
        }
    }

    fn keep(self) -> Kept {
        match self {
            Payload::Inline(bytes) => Kept::Inline(bytes.into()),
            Payload::Block(block, len) => Kept::Block(block, len),
        }
    }
}

/// A batch that waits for a slot.
#[derive(Debug)]
struct Waiting {
    record: Record,
    kind: u32,
    payload: Kept,
}

#[derive(Debug)]
enum Kept {
    Inline(Box<[u8]>),
    Block(Block, u64),
}

impl Kept {
    fn as_payload(&self) -> Payload<'_> {
        match self {
            Kept::Inline(bytes) => Payload::Inline(bytes),
            Kept::Block(block, len) => Payload::Block(*block, *len),
        }
    }
}

/// What came back: items `from..from + count` of a job.
#[derive(Debug)]
pub(super) struct Delivery {
    pub task: Task,
    pub from: u64,
    pub count: u32,
    pub content: Content,
    /// Whether arrays travel beside the results.
    pub has_parts: bool,
    /// How long the items took together in the worker, if that was measured.
    pub elapsed_ns: u64,
}

/// What people need to know to recognise the task of an item.
#[derive(Debug, Clone, Copy)]
pub(super) struct Task {
    function: u32,
    /// Whether items are told apart by number when people read of them.
    many: bool,
}

#[derive(Debug)]
pub(super) enum Content {
    /// Frames in a slot that waits to be returned.
    Slot(u32),
    /// Frames that were copied out of their slot.
    Copied(Vec<u8>),
    /// All of the items failed with this.
    Failed(Error),
    /// The result itself, decoded for a callback.
    Value(Box<dyn Any + Send>),
}

#[derive(Debug)]
struct Job {
    task: Task,
    terms: Terms,
    /// Nobody will take what comes back.
    abandoned: bool,
    in_use: bool,
    /// Its callback is being called just now.
    called: bool,
    /// Items submitted and not delivered.
    outstanding: u64,
    first: Option<Delivery>,
    more: Vec<Delivery>,
    callback: Option<Callback>,
}

/// How far a pool's life has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Takes tasks.
    Running,
    /// Takes no more tasks, and does those it has.
    Closed,
    /// All tasks are done: workers and supervisor are ending.
    Finishing,
    /// All processes have ended.
    Over,
}

#[derive(Debug)]
pub(super) struct Ledger {
    pub dispatcher: Dispatcher,
    channel: Arc<Channel>,
    functions: HashMap<(usize, usize), u32>,
    /// The function that was asked for last, which is mostly the one that is asked for next.
    last_function: ((usize, usize), u32),
    names: Vec<&'static str>,
    /// What was seen of each function, by its number.
    tallies: Vec<FunctionTally>,
    /// Single tasks sent, to choose those that are timed.
    singles: u32,
    /// Whether workers are copies of the program, and not of this process.
    spawned: bool,
    records: Vec<Record>,
    jobs: Vec<Job>,
    vacant_jobs: Vec<u32>,
    backlog: VecDeque<Waiting>,
    arrivals: Vec<Arrival>,
    held: usize,
    timeout_ms: u32,
    /// How often an item is tried again whose worker ended under it.
    retries: u32,
    /// Attempts that have failed, for items (by job and number) that are tried again.
    failures: HashMap<(u32, u64), u32>,
    pub phase: Phase,
    /// Why nothing more comes, if that is not the ordinary end.
    pub reason: Option<Error>,
    /// What tasks that come back unfinished fail with, while the pool is being ended.
    ending: Option<Error>,
    /// Jobs whose callbacks are to be called.
    pub called_for: VecDeque<u32>,
    /// Jobs with callbacks that have not been called.
    pub callbacks_outstanding: usize,
    pub helper_runs: bool,
    /// Flows that may have more items to come, and the thread that used each last.
    flows: Vec<(u32, ThreadId)>,
    /// A thread that waits for the pool's end.
    pub joining: Option<ThreadId>,
    /// Values of the user that are to be dropped, which must not happen under the lock.
    pub trash: Vec<Box<dyn Any + Send>>,
}

impl Ledger {
    pub fn new(
        channel: Arc<Channel>,
        timeout: Option<Duration>,
        spawned: bool,
        retries: u32,
    ) -> io::Result<Self> {
        Ok(Ledger {
            dispatcher: Dispatcher::new(channel.clone())?,
            channel,
            functions: HashMap::new(),
            last_function: ((0, 0), 0),
            names: Vec::new(),
            tallies: Vec::new(),
            singles: 0,
            spawned,
            records: Vec::new(),
            jobs: Vec::new(),
            vacant_jobs: Vec::new(),
            backlog: VecDeque::new(),
            arrivals: Vec::new(),
            held: 0,
            timeout_ms: timeout_ms(timeout),
            retries,
            failures: HashMap::new(),
            phase: Phase::Running,
            reason: None,
            ending: None,
            called_for: VecDeque::new(),
            callbacks_outstanding: 0,
            helper_runs: false,
            flows: Vec::new(),
            joining: None,
            trash: Vec::new(),
        })
    }

    /// Refuses new tasks when the pool takes none.
    pub fn check_open(&self) -> Result<(), Error> {
        match (self.phase, &self.reason) {
            (Phase::Running, _) => Ok(()),
            (_, Some(reason)) => Err(reason.clone()),
            _ => Err(Error::new(Kind::PoolClosed)),
        }
    }

    /// Whether nothing is left to be done, and nothing can come: flows that are still being read belong to what was
    /// begun before the pool was closed, unless their own thread waits for its end.
    pub fn is_idle(&self) -> bool {
        self.dispatcher.in_flight() == 0
            && self.backlog.is_empty()
            && self.flows.iter().all(|&(_, thread)| self.joining == Some(thread))
    }

    /// Notes that a flow may have items to come.
    pub fn begin_flow(&mut self, job: u32) {
        self.flows.push((job, thread::current().id()));
    }

    /// Notes who uses a flow.
    pub fn use_flow(&mut self, job: u32) {
        if let Some(flow) = self.flows.iter_mut().find(|flow| flow.0 == job) {
            flow.1 = thread::current().id();
        }
    }

    pub fn end_flow(&mut self, job: u32) {
        self.flows.retain(|flow| flow.0 != job);
    }

    /// Why flows cannot go on, if they cannot.
    pub fn refuses_flows(&self) -> Option<Error> {
        match self.phase {
            Phase::Running | Phase::Closed => None,
            Phase::Finishing | Phase::Over => self.check_open().err(),
        }
    }

    /// Whether batches wait in the caller, for a slot or for those of higher priority.
    pub fn has_backlog(&self) -> bool {
        !self.backlog.is_empty() || self.dispatcher.has_queue()
    }

    // ---- end ----------------------------------------------------------------------------------------------------

    /// What unfinished tasks fail with, if the pool is being ended.
    pub fn ending(&self) -> Option<&Error> {
        self.ending.as_ref()
    }

    /// From now on, tasks that come back unfinished fail with this.
    pub fn begin_ending(&mut self, reason: Error) {
        self.ending.get_or_insert(reason);
    }

    /// After all processes have ended: whatever has not come back fails.
    pub fn fail_all(&mut self) {
        let reason = self
            .ending
            .clone()
            .unwrap_or_else(|| Error::new(Kind::PoolTerminated));
        for slot in self.dispatcher.slots_in_flight() {
            let record = self.records[slot as usize];
            self.dispatcher.give_up(slot);
            let s = self.channel.slot(slot);
            let payload = self.keep_payload(s);
            self.drop_payload(&payload, s.kind.load(Ordering::Relaxed), record);
            self.dispatcher.return_slot(slot);
            let from = record.base + u64::from(record.first);
            self.fail(record.job, from, record.limit - record.first, reason.clone());
        }
        for Waiting {
            record,
            kind,
            payload,
        } in std::mem::take(&mut self.backlog)
        {
            self.drop_payload(&payload, kind, record);
            let from = record.base + u64::from(record.first);
            self.fail(record.job, from, record.limit - record.first, reason.clone());
        }
    }

    /// Forgets callbacks that were not called; their jobs have their results all the same.
    pub fn drop_callbacks(&mut self) {
        for number in 0..self.jobs.len() {
            if let Some(callback) = self.jobs[number].callback.take() {
                self.callbacks_outstanding -= 1;
                self.trash.push(Box::new(callback));
                if self.jobs[number].abandoned {
                    self.close_job(number as u32);
                }
            }
        }
    }
}

/// What a collection has found.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Collected {
    pub anything: bool,
    /// The supervisor waits for a seat that is vacant now.
    pub seat_wanted: bool,
}

/// What the names of a pool's workers begin with.
pub(super) const NAME_PREFIX: &str = "ForkPoolWorker-";

pub(super) fn worker_name(number: u32) -> String {
    format!("{NAME_PREFIX}{number}")
}

/// A limit in the milliseconds that slots tell, rounded up; 0 for none.
pub(super) fn timeout_ms(timeout: Option<Duration>) -> u32 {
    timeout.map_or(0, |limit| {
        u32::try_from(limit.as_nanos().div_ceil(1_000_000))
            .unwrap_or(u32::MAX)
            .max(1)
    })
}
