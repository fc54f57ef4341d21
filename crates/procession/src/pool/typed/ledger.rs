//! What the caller knows of its tasks: which slot carries what, who waits for it, and what has come back.
//!
//! A **job** is one call of the pool's user (`apply_async`, `map` …) with one or many items, told apart by their index. Items
//! travel in **batches**, one slot each. What comes back of a batch is a **delivery** to its job, where it waits until its
//! owner takes it; only the owner decodes. Everything here happens under the pool's lock, and no code of the user runs.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::Duration;

use super::calls::Terms;
use super::frame::Frames;
use super::function::Function;
use super::helper::Callback;
use crate::channel::{Channel, Note, Seat, Slot, SlotState, SLOT_INLINE_BYTES};
use crate::error::{Error, Kind};
use crate::os::process::ExitStatus;
use crate::pool::dispatcher::{Arrival, Dispatcher, Loss};
use crate::shm::{Block, Owner};

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
    /// Whether workers are copies of the program, and not of this process.
    spawned: bool,
    records: Vec<Record>,
    jobs: Vec<Job>,
    vacant_jobs: Vec<u32>,
    backlog: VecDeque<Waiting>,
    arrivals: Vec<Arrival>,
    held: usize,
    timeout_ms: u32,
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
    pub fn new(channel: Arc<Channel>, timeout: Option<Duration>, spawned: bool) -> Self {
        Ledger {
            dispatcher: Dispatcher::new(channel.clone()),
            channel,
            functions: HashMap::new(),
            last_function: ((0, 0), 0),
            names: Vec::new(),
            spawned,
            records: Vec::new(),
            jobs: Vec::new(),
            vacant_jobs: Vec::new(),
            backlog: VecDeque::new(),
            arrivals: Vec::new(),
            held: 0,
            timeout_ms: timeout_ms(timeout),
            phase: Phase::Running,
            reason: None,
            ending: None,
            called_for: VecDeque::new(),
            callbacks_outstanding: 0,
            helper_runs: false,
            flows: Vec::new(),
            joining: None,
            trash: Vec::new(),
        }
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

    // ---- jobs ---------------------------------------------------------------------------------------------------

    /// The number of a function in the table that workers look it up in.
    pub fn register(&mut self, function: Function) -> Result<u32, Error> {
        if self.last_function.0 == function.key() {
            return Ok(self.last_function.1);
        }
        if let Some(&number) = self.functions.get(&function.key()) {
            self.last_function = (function.key(), number);
            return Ok(number);
        }
        if self.spawned && !function.code().is_in_this_file() {
            return Err(Error::new(Kind::FunctionElsewhere {
                task: function.name().to_string(),
            }));
        }
        let number = self.names.len() as u32;
        if number >= self.channel.most_functions() {
            return Err(Error::new(Kind::TooManyFunctions {
                most: self.channel.most_functions(),
            }));
        }
        self.channel
            .function_entry(number)
            .store(function.code().to_word(), Ordering::Release);
        self.channel
            .header()
            .life
            .functions
            .store(number + 1, Ordering::Release);
        self.channel.set_function_name(number, function.name());
        self.names.push(function.name());
        self.functions.insert(function.key(), number);
        Ok(number)
    }

    /// Opens a job.
    pub fn open_job(&mut self, function: u32, many: bool, callback: Option<Callback>, terms: Terms) -> u32 {
        self.callbacks_outstanding += usize::from(callback.is_some());
        let job = Job {
            task: Task { function, many },
            terms,
            abandoned: false,
            in_use: true,
            called: false,
            outstanding: 0,
            first: None,
            more: Vec::new(),
            callback,
        };
        match self.vacant_jobs.pop() {
            Some(number) => {
                self.jobs[number as usize] = job;
                number
            }
            None => {
                self.jobs.push(job);
                self.jobs.len() as u32 - 1
            }
        }
    }

    /// Closes a job: nobody will take what is still to come.
    pub fn close_job(&mut self, number: u32) {
        let job = &mut self.jobs[number as usize];
        job.abandoned = true;
        if job.callback.is_some() || job.called {
            // The helper frees it when the callback is over.
            return;
        }
        let (first, more) = (job.first.take(), std::mem::take(&mut job.more));
        let done = job.outstanding == 0;
        first
            .into_iter()
            .chain(more)
            .for_each(|delivery| self.discard(delivery));
        if done {
            self.free_job(number);
        }
    }

    fn free_job(&mut self, number: u32) {
        let job = &mut self.jobs[number as usize];
        if std::mem::replace(&mut job.in_use, false) {
            self.vacant_jobs.push(number);
        }
    }

    /// Takes back the batches of a job that no worker has begun. Their items count as delivered.
    pub fn cancel_job(&mut self, number: u32) {
        for slot in self.dispatcher.slots_in_flight() {
            if self.records[slot as usize].job == number && self.dispatcher.take_back(slot) {
                let record = self.records[slot as usize];
                let s = self.channel.slot(slot);
                let payload = self.keep_payload(s);
                self.drop_payload(&payload, s.kind.load(Ordering::Relaxed), record);
                self.jobs[number as usize].outstanding -= u64::from(record.limit - record.first);
                self.dispatcher.return_slot(slot);
            }
        }
        let (mine, others) = std::mem::take(&mut self.backlog)
            .into_iter()
            .partition(|w: &Waiting| w.record.job == number);
        self.backlog = others;
        let mine: VecDeque<Waiting> = mine;
        for Waiting {
            record,
            kind,
            payload,
        } in mine
        {
            self.drop_payload(&payload, kind, record);
            self.jobs[number as usize].outstanding -= u64::from(record.limit - record.first);
        }
    }

    /// Cancels a job: what no worker has begun fails at once, and who runs some of it is condemned. True if anything was
    /// left, and the supervisor is to be told.
    pub fn condemn_job(&mut self, number: u32) -> bool {
        let mut any = false;
        for slot in self.dispatcher.slots_in_flight() {
            let record = self.records[slot as usize];
            if record.job != number {
                continue;
            }
            if self.dispatcher.take_back(slot) {
                let channel = self.channel.clone();
                let s = channel.slot(slot);
                let payload = self.keep_payload(s);
                self.drop_payload(&payload, s.kind.load(Ordering::Relaxed), record);
                self.dispatcher.return_slot(slot);
                self.fail_cancelled(record);
                any = true;
            } else {
                any |= self.channel.doom(slot);
            }
        }
        let (mine, others) = std::mem::take(&mut self.backlog)
            .into_iter()
            .partition(|w: &Waiting| w.record.job == number);
        self.backlog = others;
        let mine: VecDeque<Waiting> = mine;
        for waiting in mine {
            self.drop_payload(&waiting.payload, waiting.kind, waiting.record);
            self.fail_cancelled(waiting.record);
            any = true;
        }
        any
    }

    fn fail_cancelled(&mut self, record: Record) {
        let from = record.base + u64::from(record.first);
        let task = self.task_name(self.jobs[record.job as usize].task, from);
        let error = Error::new(Kind::TaskCancelled { task });
        self.fail(record.job, from, record.limit - record.first, error);
    }

    /// The jobs that have something in the works.
    pub fn jobs_in_flight(&self) -> Vec<u32> {
        let in_slots = self.dispatcher.slots_in_flight();
        let mut jobs: Vec<u32> = in_slots
            .iter()
            .map(|&slot| self.records[slot as usize].job)
            .chain(self.backlog.iter().map(|waiting| waiting.record.job))
            .collect();
        jobs.sort_unstable();
        jobs.dedup();
        jobs
    }

    /// Items of a job that were submitted and not delivered.
    #[inline]
    pub fn outstanding(&self, job: u32) -> u64 {
        self.jobs[job as usize].outstanding
    }

    /// Whether the delivery of a job with one item waits for its owner, its callback being over.
    #[inline]
    pub fn is_delivered(&self, job: u32) -> bool {
        let job = &self.jobs[job as usize];
        job.first.is_some() && job.callback.is_none()
    }

    /// A look at the first delivery.
    pub fn first_delivery(&self, job: u32) -> Option<&Delivery> {
        self.jobs[job as usize].first.as_ref()
    }

    /// A look at all deliveries.
    pub fn deliveries_of(&self, job: u32) -> impl Iterator<Item = &Delivery> {
        let job = &self.jobs[job as usize];
        job.first.iter().chain(&job.more)
    }

    /// Takes the delivery of a job with one item, which ends the job.
    #[inline]
    pub fn take_only(&mut self, job: u32) -> Option<Delivery> {
        let delivery = self.jobs[job as usize].first.take()?;
        self.held -= usize::from(matches!(delivery.content, Content::Slot(_)));
        self.free_job(job);
        Some(delivery)
    }

    /// Moves all deliveries of a job to `taken`.
    pub fn take_deliveries(&mut self, job: u32, taken: &mut Vec<Delivery>) {
        let job = &mut self.jobs[job as usize];
        let before = taken.len();
        taken.extend(job.first.take());
        taken.append(&mut job.more);
        self.held -= taken[before..]
            .iter()
            .filter(|d| matches!(d.content, Content::Slot(_)))
            .count();
    }

    /// Takes what a callback is to be called with.
    pub fn take_callback(&mut self, number: u32) -> Option<(Callback, Delivery)> {
        let job = &mut self.jobs[number as usize];
        // Without a callback it was forgotten meanwhile, and the delivery is its owner's.
        let callback = job.callback.take()?;
        let delivery = job.first.take()?;
        job.called = true;
        self.held -= usize::from(matches!(delivery.content, Content::Slot(_)));
        Some((callback, delivery))
    }

    /// Gives a job the value that its callback has seen.
    pub fn end_callback(&mut self, number: u32, value: Box<dyn Any + Send>) {
        self.callbacks_outstanding -= 1;
        let job = &mut self.jobs[number as usize];
        job.called = false;
        if job.abandoned {
            self.trash.push(value);
            self.free_job(number);
        } else {
            job.first = Some(Delivery {
                from: 0,
                count: 1,
                content: Content::Value(value),
                has_parts: false,
                elapsed_ns: 0,
                task: job.task,
            });
        }
    }

    /// The task of a job.
    pub fn task_of(&self, job: u32) -> Task {
        self.jobs[job as usize].task
    }

    /// How people call an item of a task.
    pub fn task_name(&self, task: Task, item: u64) -> String {
        let name = self
            .names
            .get(task.function as usize)
            .copied()
            .unwrap_or("a function");
        if task.many {
            format!("{name} (item {item})")
        } else {
            name.to_string()
        }
    }

    // ---- out ----------------------------------------------------------------------------------------------------

    /// Publishes items `base..base + items` of a job, now or, if no slot is vacant, later. Workers are not woken yet.
    #[inline]
    pub fn submit(&mut self, job: u32, base: u64, items: u32, payload: Payload<'_>, kind: u32) {
        self.jobs[job as usize].outstanding += u64::from(items);
        let record = Record {
            job,
            base,
            first: 0,
            limit: items,
        };
        if self.backlog.is_empty() && self.publish(record, payload, kind) {
            return;
        }
        self.backlog.push_back(Waiting {
            record,
            kind,
            payload: payload.keep(),
        });
    }

    /// Instead of [`Ledger::submit`], when nothing can be submitted any more.
    pub fn refuse(
        &mut self,
        job: u32,
        base: u64,
        items: u32,
        payload: Payload<'_>,
        kind: u32,
        reason: Error,
    ) {
        self.jobs[job as usize].outstanding += u64::from(items);
        self.throw_away(payload, kind);
        self.fail(job, base, items, reason);
    }

    /// Frees a payload that was never submitted.
    pub fn throw_away(&self, payload: Payload<'_>, kind: u32) {
        let record = Record {
            limit: u32::MAX,
            ..Record::default()
        };
        self.drop_payload(&payload.keep(), kind, record);
    }

    #[inline]
    fn publish(&mut self, record: Record, payload: Payload<'_>, kind: u32) -> bool {
        let Some(slot) = self.dispatcher.take_slot() else {
            return false;
        };
        if self.records.len() <= slot as usize {
            self.records.resize(slot as usize + 1, Record::default());
        }
        self.records[slot as usize] = record;
        let s = self.channel.slot(slot);
        let mut kind = kind & !RESULT_PARTS;
        match payload {
            Payload::Inline(bytes) => {
                let len = bytes.len().min(SLOT_INLINE_BYTES);
                // SAFETY: the slot is vacant, so its inline bytes are ours; `len` is no more than there are.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), s.inline(), len) };
                s.payload_len.store(len as u64, Ordering::Relaxed);
                s.payload_block.store(Block::NONE, Ordering::Relaxed);
                if record.limit > 1 || kind & ARGUMENT_PARTS != 0 {
                    kind |= RESULTS_BEHIND;
                }
            }
            Payload::Block(block, len) => {
                s.payload_len.store(len, Ordering::Relaxed);
                s.payload_block.store(block.raw(), Ordering::Relaxed);
            }
        }
        s.range.store(
            u64::from(record.limit) << 32 | u64::from(record.first),
            Ordering::Relaxed,
        );
        s.finished.store(record.first, Ordering::Relaxed);
        s.kind.store(kind, Ordering::Relaxed);
        let task = &self.jobs[record.job as usize].task;
        s.function.store(task.function, Ordering::Relaxed);
        let first_item = if task.many { record.base } else { Note::NO_ITEM };
        self.channel
            .note(slot)
            .first_item
            .store(first_item, Ordering::Relaxed);
        let terms = self.jobs[record.job as usize].terms;
        s.timeout_ms
            .store(terms.timeout_ms.unwrap_or(self.timeout_ms), Ordering::Relaxed);
        s.result_block.store(Block::NONE, Ordering::Relaxed);
        s.result_len.store(0, Ordering::Relaxed);
        s.elapsed_ns.store(0, Ordering::Relaxed);
        self.dispatcher.publish_with_priority(slot, terms.priority);
        true
    }

    fn publish_backlog(&mut self) {
        let mut any = false;
        while let Some(waiting) = self.backlog.pop_front() {
            if !self.publish(waiting.record, waiting.payload.as_payload(), waiting.kind) {
                self.backlog.push_front(waiting);
                break;
            }
            any = true;
        }
        if any {
            self.dispatcher.flush();
        }
    }

    /// Takes items away from busy workers that have not begun them, so that idle workers have something to do.
    ///
    /// For the end of a job, when nothing else is left to be claimed.
    pub fn share_out(&mut self, job: u32) {
        if self.channel.has_tasks() || !self.channel.any_worker_sleeps() {
            return;
        }
        let workers = self.channel.header().life.workers.load(Ordering::Relaxed).max(1);
        for slot in self.dispatcher.slots_in_flight() {
            let record = self.records[slot as usize];
            let s = self.channel.slot(slot);
            if record.job != job || !matches!(self.channel.slot_state(slot), SlotState::Claimed(..)) {
                continue;
            }
            let (next, limit) = s.range();
            if next >= limit || limit > record.limit {
                continue;
            }
            let (from, to) = s.take_rest();
            if from >= to {
                continue;
            }
            self.records[slot as usize].limit = from;
            // In small pieces: one of them may be as long as the one that the worker is stuck in.
            let piece = ((to - from) / (4 * workers)).max(1);
            let payload = payload_bytes(&self.channel, s).unwrap_or_default().to_vec();
            let mut frames = Frames::of(&payload);
            let _ = frames.by_ref().take(from as usize).count();
            let kind = s.kind.load(Ordering::Relaxed) & (ARGUMENT_PARTS | MEASURE);
            let mut at = from;
            while at < to {
                let items = piece.min(to - at);
                let before = frames.rest();
                let whole = frames.by_ref().take(items as usize).count() == items as usize;
                let bytes = &before[..before.len() - frames.rest().len()];
                let base = record.base + u64::from(at);
                let placed = match whole {
                    true => self.place(bytes, items, kind & ARGUMENT_PARTS != 0),
                    false => Err(self.damaged(job, base)),
                };
                match placed {
                    Ok(kept) => {
                        self.jobs[job as usize].outstanding -= u64::from(items);
                        self.submit(job, base, items, kept.as_payload(), kind);
                    }
                    Err(error) => self.fail(job, base, items, error),
                }
                at += items;
            }
        }
        self.dispatcher.flush();
    }

    fn place(&self, bytes: &[u8], items: u32, has_parts: bool) -> Result<Kept, Error> {
        if Payload::fits(bytes.len(), items, has_parts) {
            return Ok(Kept::Inline(bytes.into()));
        }
        let arena = self.channel.arena();
        let block = arena
            .alloc(bytes.len() as u64, Owner::CALLER)
            .map_err(|failure| Error::memory(&failure))?;
        // SAFETY: the block is ours, and has that many bytes.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), arena.start(block), bytes.len()) };
        Ok(Kept::Block(block, bytes.len() as u64))
    }

    // ---- back ---------------------------------------------------------------------------------------------------

    /// Collects what has come back, and publishes what waited. True if anything came.
    pub fn collect(&mut self) -> Collected {
        let mut collected = Collected::default();
        if self.dispatcher.has_arrivals() {
            let mut arrivals = std::mem::take(&mut self.arrivals);
            self.dispatcher.collect(&mut arrivals);
            collected.anything = true;
            for arrival in arrivals.drain(..) {
                match arrival {
                    Arrival::Done { slot } => self.land(slot),
                    Arrival::Lost { slot, loss } => self.lose(slot, loss),
                }
            }
            self.arrivals = arrivals;
            collected.seat_wanted = self.dispatcher.settle();
        }
        if !self.backlog.is_empty() {
            self.publish_backlog();
        }
        collected
    }

    fn land(&mut self, slot: u32) {
        let channel = self.channel.clone();
        let s = channel.slot(slot);
        let record = self.records[slot as usize];
        let seat = match channel.slot_state(slot) {
            SlotState::Done(seat, _) => seat,
            _ => 0,
        };
        let finished = s
            .finished
            .load(Ordering::Acquire)
            .clamp(record.first, record.limit);
        let whole = self.adopt(s, record, finished, seat);
        let kind = s.kind.load(Ordering::Relaxed);
        self.free_payload_block(s);
        let delivery = Delivery {
            task: self.jobs[record.job as usize].task,
            from: record.base + u64::from(record.first),
            count: finished - record.first,
            content: Content::Slot(slot),
            has_parts: kind & RESULT_PARTS != 0,
            elapsed_ns: s.elapsed_ns.load(Ordering::Relaxed),
        };
        if !whole {
            let error = self.damaged(record.job, delivery.from);
            self.return_slot(slot);
            self.fail(record.job, delivery.from, record.limit - record.first, error);
            return;
        }
        if delivery.count == 0 {
            self.return_slot(slot);
        } else {
            let delivery = if self.held >= MOST_HELD {
                self.copy_out(delivery)
            } else {
                delivery
            };
            self.deliver(record.job, delivery);
        }
        if finished < record.limit {
            let from = record.base + u64::from(finished);
            let error = self.damaged(record.job, from);
            self.fail(record.job, from, record.limit - finished, error);
        }
    }

    fn lose(&mut self, slot: u32, loss: Loss) {
        let channel = self.channel.clone();
        let s = channel.slot(slot);
        let record = self.records[slot as usize];
        let seat = match channel.slot_state(slot) {
            SlotState::Claimed(seat, _) | SlotState::Doomed(seat, _) => seat,
            _ => 0,
        };
        // Whom the caller has condemned runs nothing again, however its worker came to its end.
        let is_doomed = matches!(channel.slot_state(slot), SlotState::Doomed(..));
        let cancelled = is_doomed && loss.killed != Seat::KILLED_FOR_MEMORY;
        let mut loss = loss;
        if cancelled {
            loss.killed = Seat::KILLED_BY_CANCEL;
        }
        let (next, limit) = s.range();
        let finished = s.finished.load(Ordering::Acquire);
        let sane = record.first <= finished
            && finished <= next
            && next <= finished + 1
            && limit == record.limit
            && next <= limit;
        let (finished, next) = if sane {
            (finished, next)
        } else {
            (record.first, record.limit)
        };
        let whole = self.adopt(s, record, finished, seat);
        if finished > record.first {
            let delivery = Delivery {
                task: self.jobs[record.job as usize].task,
                from: record.base + u64::from(record.first),
                count: finished - record.first,
                content: Content::Slot(slot),
                has_parts: s.kind.load(Ordering::Relaxed) & RESULT_PARTS != 0,
                elapsed_ns: 0,
            };
            if whole {
                let delivery = self.copy_frames(delivery);
                self.deliver(record.job, delivery);
            } else {
                let error = self.damaged(record.job, delivery.from);
                self.fail(record.job, delivery.from, delivery.count, error);
            }
        }
        let kind = s.kind.load(Ordering::Relaxed);
        if next > finished {
            let victim = Record {
                first: finished,
                limit: next,
                ..record
            };
            self.drop_parts(payload_bytes(&channel, s).unwrap_or_default(), kind, victim);
            let limit_ms = s.timeout_ms.load(Ordering::Relaxed);
            let error = self.blame(record.job, record.base + u64::from(finished), &loss, limit_ms);
            self.fail(
                record.job,
                record.base + u64::from(finished),
                next - finished,
                error,
            );
        }
        let rest = Record {
            first: next,
            ..record
        };
        if rest.first < rest.limit {
            let payload = self.keep_payload(s);
            let ended = self.ending.clone().or_else(|| {
                let from = rest.base + u64::from(rest.first);
                let task = self.task_name(self.jobs[rest.job as usize].task, from);
                cancelled.then(|| Error::new(Kind::TaskCancelled { task }))
            });
            if let Some(reason) = ended {
                self.drop_payload(&payload, kind, rest);
                self.fail(
                    rest.job,
                    rest.base + u64::from(rest.first),
                    rest.limit - rest.first,
                    reason,
                );
            } else {
                // Who waited longest goes first.
                self.backlog.push_front(Waiting {
                    record: rest,
                    kind,
                    payload,
                });
            }
        } else {
            self.free_payload_block(s);
        }
        self.return_slot(slot);
    }

    fn blame(&self, job: u32, item: u64, loss: &Loss, limit_ms: u32) -> Error {
        if let Some(reason) = &self.ending {
            return reason.clone();
        }
        let task = self.task_name(self.jobs[job as usize].task, item);
        match loss.killed {
            Seat::KILLED_FOR_TIME => {
                return Error::new(Kind::TaskTimeout {
                    task,
                    pid: loss.pid,
                    elapsed: loss.elapsed(),
                    limit: Duration::from_millis(limit_ms.into()),
                });
            }
            Seat::KILLED_FOR_MEMORY => {
                let limit = self.channel.header().life.memory_limit.load(Ordering::Relaxed);
                return Error::new(Kind::MemoryLimit {
                    task,
                    pid: loss.pid,
                    peak_bytes: loss.peak_bytes,
                    limit_bytes: limit,
                });
            }
            Seat::KILLED_BY_CANCEL => return Error::new(Kind::TaskCancelled { task }),
            _ => {}
        }
        let status = ExitStatus::from_exit_code_like_python(loss.exit_code);
        Error::new(Kind::WorkerDied {
            worker: worker_name(loss.number),
            pid: loss.pid,
            status,
            task,
        })
    }

    /// Makes the caller's own what a slot's finished items brought, and frees what they had lent. False if the worker's
    /// bytes make no sense.
    fn adopt(&self, s: &Slot, record: Record, finished: u32, seat: u32) -> bool {
        let arena = self.channel.arena();
        let seat = Channel::owner(seat);
        let mut whole = true;
        if let Some(block) = arena.check(s.result_block.load(Ordering::Relaxed)) {
            whole = arena.hand_over(block, seat, Owner::CALLER);
        }
        let kind = s.kind.load(Ordering::Relaxed);
        if !whole || kind & (ARGUMENT_PARTS | RESULT_PARTS) == 0 {
            return whole;
        }
        let payload = if kind & ARGUMENT_PARTS != 0 {
            payload_bytes(&self.channel, s).unwrap_or_default()
        } else {
            &[]
        };
        let mut arguments = Frames::of(payload);
        let _ = arguments.by_ref().take(record.first as usize).count();
        let Some(bytes) = result_bytes(&self.channel, s) else {
            return false;
        };
        let mut results = Frames::of(bytes);
        for _ in record.first..finished {
            let lent: Vec<u32> = arguments
                .next()
                .map(|f| f.parts().map(|(block, _)| block).collect())
                .unwrap_or_default();
            let Some(result) = results.next() else {
                return false;
            };
            let returned: Vec<u32> = result.parts().map(|(block, _)| block).collect();
            for &block in &returned {
                let handed = arena
                    .check(block)
                    .is_some_and(|block| arena.hand_over(block, seat, Owner::CALLER));
                whole &= handed || lent.contains(&block);
            }
            for block in lent.iter().filter(|block| !returned.contains(block)) {
                // Blocks that the worker has kept are its own by now, and stay so.
                arena.check(*block).map(|block| arena.free(block, Owner::CALLER));
            }
        }
        whole
    }

    /// Takes the payload out of a slot.
    fn keep_payload(&self, s: &Slot) -> Kept {
        let len = s.payload_len.load(Ordering::Relaxed);
        match self
            .channel
            .arena()
            .check(s.payload_block.swap(Block::NONE, Ordering::Relaxed))
        {
            Some(block) => Kept::Block(block, len),
            None => Kept::Inline(payload_bytes(&self.channel, s).unwrap_or_default().into()),
        }
    }

    fn free_payload_block(&self, s: &Slot) {
        if let Some(block) = self
            .channel
            .arena()
            .check(s.payload_block.swap(Block::NONE, Ordering::Relaxed))
        {
            self.channel.arena().free(block, Owner::CALLER);
        }
    }

    /// Frees the arrays that were lent to items which will not run (again).
    fn drop_parts(&self, payload: &[u8], kind: u32, record: Record) {
        if kind & ARGUMENT_PARTS == 0 {
            return;
        }
        let arena = self.channel.arena();
        let items = (record.limit - record.first) as usize;
        for frame in Frames::of(payload).skip(record.first as usize).take(items) {
            for (block, _) in frame.parts() {
                arena.check(block).map(|block| arena.free(block, Owner::CALLER));
            }
        }
    }

    fn drop_payload(&self, payload: &Kept, kind: u32, record: Record) {
        match payload {
            Kept::Inline(bytes) => self.drop_parts(bytes, kind, record),
            Kept::Block(block, len) => {
                let len = (*len).min(block.capacity()) as usize;
                // SAFETY: the block is the caller's, and nobody writes to it.
                let bytes = unsafe { std::slice::from_raw_parts(self.channel.arena().start(*block), len) };
                self.drop_parts(bytes, kind, record);
                self.channel.arena().free(*block, Owner::CALLER);
            }
        }
    }

    /// Delivers an error for `count` items.
    fn fail(&mut self, job: u32, from: u64, count: u32, error: Error) {
        let task = self.jobs[job as usize].task;
        let content = Content::Failed(error);
        self.deliver(
            job,
            Delivery {
                task,
                from,
                count,
                content,
                has_parts: false,
                elapsed_ns: 0,
            },
        );
    }

    fn damaged(&self, job: u32, item: u64) -> Error {
        Error::new(Kind::Damaged {
            task: self.task_name(self.jobs[job as usize].task, item),
        })
    }

    #[inline]
    fn deliver(&mut self, number: u32, delivery: Delivery) {
        let job = &mut self.jobs[number as usize];
        job.outstanding -= u64::from(delivery.count);
        if job.callback.is_some() {
            self.called_for.push_back(number);
        } else if job.abandoned {
            let complete = job.outstanding == 0;
            self.discard_arrived(delivery);
            if complete {
                self.free_job(number);
            }
            return;
        }
        self.held += usize::from(matches!(delivery.content, Content::Slot(_)));
        match &mut job.first {
            Some(_) => job.more.push(delivery),
            first => *first = Some(delivery),
        }
    }

    /// The bytes of a delivery's frames; none if it has none.
    pub fn frames_of<'a>(channel: &'a Channel, content: &'a Content) -> &'a [u8] {
        match content {
            Content::Slot(slot) => result_bytes(channel, channel.slot(*slot)).unwrap_or_default(),
            Content::Copied(bytes) => bytes,
            Content::Failed(_) | Content::Value(_) => &[],
        }
    }

    fn copy_frames(&self, delivery: Delivery) -> Delivery {
        let copied = Self::frames_of(&self.channel, &delivery.content).to_vec();
        if let Content::Slot(slot) = delivery.content {
            free_result_block(&self.channel, slot);
        }
        Delivery {
            content: Content::Copied(copied),
            ..delivery
        }
    }

    fn copy_out(&mut self, delivery: Delivery) -> Delivery {
        let Content::Slot(slot) = delivery.content else {
            return delivery;
        };
        let delivery = self.copy_frames(delivery);
        self.return_slot(slot);
        delivery
    }

    fn return_slot(&mut self, slot: u32) {
        free_result_block(&self.channel, slot);
        self.dispatcher.return_slot(slot);
    }

    /// Drops a delivery that waited in its job.
    fn discard(&mut self, delivery: Delivery) {
        self.held -= usize::from(matches!(delivery.content, Content::Slot(_)));
        self.discard_arrived(delivery);
    }

    /// Drops a delivery that nobody will take.
    pub fn discard_arrived(&mut self, delivery: Delivery) {
        drop_result_parts(&self.channel, &delivery, 0);
        match delivery.content {
            Content::Slot(slot) => self.return_slot(slot),
            Content::Value(value) => self.trash.push(value),
            Content::Copied(_) | Content::Failed(_) => {}
        }
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

fn payload_bytes<'a>(channel: &'a Channel, s: &'a Slot) -> Option<&'a [u8]> {
    let len = usize::try_from(s.payload_len.load(Ordering::Relaxed)).ok()?;
    bytes_at(channel, s, s.payload_block.load(Ordering::Relaxed), 0, len)
}

/// The payload of a slot that this worker has claimed.
pub(super) fn claimed_payload<'a>(channel: &'a Channel, s: &'a Slot) -> Option<&'a [u8]> {
    payload_bytes(channel, s)
}

/// Where inline results of a slot begin.
pub(super) fn inline_results_at(s: &Slot) -> usize {
    let behind = s.kind.load(Ordering::Relaxed) & RESULTS_BEHIND != 0;
    let len = if behind {
        s.payload_len.load(Ordering::Relaxed) as usize
    } else {
        0
    };
    len.min(SLOT_INLINE_BYTES)
}

fn result_bytes<'a>(channel: &'a Channel, s: &'a Slot) -> Option<&'a [u8]> {
    let len = usize::try_from(s.result_len.load(Ordering::Relaxed)).ok()?;
    bytes_at(
        channel,
        s,
        s.result_block.load(Ordering::Relaxed),
        inline_results_at(s),
        len,
    )
}

fn bytes_at<'a>(
    channel: &'a Channel,
    s: &'a Slot,
    block: u32,
    inline_at: usize,
    len: usize,
) -> Option<&'a [u8]> {
    let start = if block == Block::NONE {
        (inline_at + len <= SLOT_INLINE_BYTES).then(|| s.inline().wrapping_add(inline_at))?
    } else {
        let block = channel.arena().check(block)?;
        (len as u64 <= block.capacity()).then(|| channel.arena().start(block))?
    };
    // SAFETY: the bytes lie inside the slot or the block, and the state word says whose they are: the caller's if it has the
    // slot, the worker's if that one does. Payloads are written before they are published and never after.
    Some(unsafe { std::slice::from_raw_parts(start, len) })
}

/// Frees the block of a slot's results, if it is the caller's.
pub(super) fn free_result_block(channel: &Channel, slot: u32) {
    let block = channel
        .slot(slot)
        .result_block
        .swap(Block::NONE, Ordering::Relaxed);
    if let Some(block) = channel.arena().check(block) {
        channel.arena().free(block, Owner::CALLER);
    }
}

/// Frees the arrays beside results that nobody will decode: those of a delivery's frames from number `from` on.
pub(super) fn drop_result_parts(channel: &Channel, delivery: &Delivery, from: u32) {
    if !delivery.has_parts {
        return;
    }
    let frames = Frames::of(Ledger::frames_of(channel, &delivery.content)).take(delivery.count as usize);
    for frame in frames.skip(from as usize) {
        for (block, _) in frame.parts() {
            channel
                .arena()
                .check(block)
                .map(|block| channel.arena().free(block, Owner::CALLER));
        }
    }
}
