//! Many items on their way through the pool: read as late as possible, sent in batches, taken back as they come.
//!
//! The thread that waits for the results does all of it; between its calls nothing is read. How many items go into a batch
//! follows from how long they take: short ones travel together, so that the journey costs little; long ones alone, so that
//! no worker has a queue of them while another has nothing to do.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::{Deref, Range};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::array::Port;
use super::call::{encode_argument, NotEncoded, Reading, Scratch};
use super::calls::Terms;
use super::frame::Sink;
use super::function::Function;
use super::ledger::{Content, Delivery, Ledger, Payload, Task, ARGUMENT_PARTS, MEASURE};
use super::lifecycle::{Look, Shared};
use crate::error::{Error, Kind, Result};
use crate::shm::{Block, Owner};

/// Work for this long is to be in flight: several times what it takes to wake the caller.
const FLIGHT_NS: f64 = 2e6;
const MOST_BATCHES_IN_FLIGHT: u64 = 2048;
/// Larger batches save nothing any more.
const MOST_ITEMS: u32 = 1 << 16;
/// The bytes from which on a batch is sent, however many items were wanted.
const BATCH_BYTES: usize = 1 << 20;
/// Of batches whose size is given, one in so many is measured.
const MEASURED_ONE_IN: u64 = 16;
/// How long the end of a job is waited for, before idle workers get a share of what busy ones have not begun.
const SHARE_OUT_AFTER: Duration = Duration::from_millis(2);
const SHARE_OUT_AT_LEAST: Duration = Duration::from_millis(100);

/// How many items go into a batch.
#[derive(Debug)]
pub(super) enum BatchSize {
    /// As many as the user says.
    Fixed(u32),
    /// As many as take this long, but no more than this.
    Adaptive { batch_ns: f64, most: u32 },
}

impl BatchSize {
    pub fn adaptive(shared: &Shared) -> Self {
        // A worker that is replaced after so many tasks counts batches.
        let most = if shared.options.tasks_per_worker.is_some() {
            1
        } else {
            MOST_ITEMS
        };
        BatchSize::Adaptive {
            batch_ns: shared.options.batch_time.as_nanos() as f64,
            most,
        }
    }
}

/// Reads the next argument and writes its frame.
///
/// Told whether it may be asked for the same argument again, once there is memory.
type Source<'a> = Box<dyn FnMut(&mut Sink<'_>, &Port, bool) -> Next + 'a>;

enum Next {
    Item {
        has_parts: bool,
    },
    /// It was read, and cannot be sent.
    Refused(String),
    /// It was read, and is kept: all blocks are in use.
    Full,
    End,
}

struct Ready {
    base: u64,
    items: u32,
    kind: u32,
    payload: ReadyPayload,
}

enum ReadyPayload {
    /// A range of `Flow::ready_bytes`.
    Inline(Range<usize>),
    Block(Block, u64),
}

/// Items of one `map` or `imap`, from the iterator to the results.
pub(super) struct Flow<'a> {
    shared: Arc<Shared>,
    port: Port,
    source: Source<'a>,
    /// How many items are still to be read, if that is known.
    remaining: Box<dyn Fn() -> Option<usize> + 'a>,
    job: u32,
    task: Task,
    size: BatchSize,
    /// Items of the next batch.
    items: u32,
    item_ns: f64,
    /// How many items may be read and not delivered.
    most_items: u64,
    read: u64,
    batches: u64,
    exhausted: bool,
    /// Whether any batch had several items.
    batched: bool,
    /// Whether each result is wanted at once, or as many as possible in one go.
    eager: bool,
    /// The batches that are encoded and not yet submitted.
    ready: Vec<Ready>,
    ready_bytes: Vec<u8>,
    /// The bytes of the last batch, which the next one will need about.
    batch_bytes: usize,
    outstanding: u64,
    outstanding_batches: u64,
    /// What has come back.
    deliveries: VecDeque<Delivery>,
    /// Items that have come back and were not consumed.
    unconsumed: u64,
    taken: Vec<Delivery>,
    /// Slots that were read.
    returned: Vec<u32>,
    share_out_after: Duration,
    /// Somebody else takes what comes back.
    given_away: bool,
}

impl<'a> Flow<'a> {
    /// A flow of `arguments` to a function.
    pub fn new<A, I>(
        shared: &Arc<Shared>,
        function: Function,
        arguments: I,
        size: BatchSize,
        most_items: u64,
        terms: Terms,
    ) -> Result<Self>
    where
        A: Serialize + 'a,
        I: Iterator<Item = A> + 'a,
    {
        let arguments = Rc::new(RefCell::new(arguments));
        let hints = arguments.clone();
        let remaining = move || {
            let (least, most) = hints.try_borrow().ok()?.size_hint();
            most.filter(|&most| most == least)
        };
        let mut read: Option<A> = None;
        let source = move |sink: &mut Sink<'_>, port: &Port, may_wait: bool| {
            if read.is_none() {
                read = arguments.borrow_mut().next();
                if read.is_none() {
                    return Next::End;
                }
            }
            match encode_argument(sink, port, &mut read) {
                Ok(has_parts) => Next::Item { has_parts },
                Err(NotEncoded::Full) if may_wait => Next::Full,
                Err(failure) => {
                    read = None;
                    Next::Refused(failure.to_string())
                }
            }
        };
        let items = match size {
            BatchSize::Fixed(items) => items.max(1),
            BatchSize::Adaptive { .. } => 1,
        };
        shared.check_owner()?;
        let mut ledger = shared.lock();
        ledger.check_open()?;
        let function = ledger.register(function)?;
        let job = ledger.open_job(function, true, None, terms);
        let task = ledger.task_of(job);
        ledger.begin_flow(job);
        drop(ledger);
        Ok(Flow {
            shared: shared.clone(),
            port: Port::new(shared.channel.clone(), Owner::CALLER),
            source: Box::new(source),
            remaining: Box::new(remaining),
            job,
            task,
            size,
            items,
            item_ns: 0.0,
            most_items,
            read: 0,
            batches: 0,
            exhausted: false,
            batched: false,
            eager: false,
            ready: Vec::new(),
            ready_bytes: Vec::new(),
            batch_bytes: 0,
            outstanding: 0,
            outstanding_batches: 0,
            deliveries: VecDeque::new(),
            unconsumed: 0,
            taken: Vec::new(),
            returned: Vec::new(),
            share_out_after: SHARE_OUT_AFTER,
            given_away: false,
        })
    }

    /// Lets each result be taken as soon as it is there.
    pub fn eager(mut self) -> Self {
        self.eager = true;
        self
    }

    /// Reads and submits everything now. Gives the job that the results come back to, how many there will be, and those
    /// that failed already.
    pub fn submit_all(mut self) -> (u32, u64, Vec<(u64, Error)>) {
        let shared = self.shared.clone();
        while !self.exhausted {
            let whole = self.encode_batch(self.items);
            self.hand_in(&mut shared.lock());
            if !whole {
                // All blocks are in use: some come back with the next results.
                let mut waited = false;
                shared.wait_for(None, |_| match std::mem::replace(&mut waited, true) {
                    true => Look::Found(()),
                    false => Look::Wait {
                        results: 1,
                        at_most: Some(SHARE_OUT_AT_LEAST),
                    },
                });
            }
        }
        self.given_away = true;
        let refused = self
            .deliveries
            .drain(..)
            .filter_map(|delivery| match delivery.content {
                Content::Failed(error) => Some((delivery.from, error)),
                _ => None,
            });
        (self.job, self.read, refused.collect())
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub fn port(&self) -> &Port {
        &self.port
    }

    /// Whether everything was read and has come back.
    pub fn is_over(&self) -> bool {
        self.exhausted && self.outstanding == 0 && self.ready.is_empty() && self.deliveries.is_empty()
    }

    /// How many items are at most to be in flight, by what is known of their durations.
    fn window(&self) -> u64 {
        let workers = self.shared.options.processes as u64;
        let least = 2 * workers + 2;
        let batches = if self.item_ns == 0.0 {
            least + 32
        } else {
            let batch_ns = self.item_ns * f64::from(self.items);
            let most = match self.size {
                BatchSize::Fixed(_) => MOST_BATCHES_IN_FLIGHT,
                // Those that are too small by mistake are soon found to be so, and few.
                BatchSize::Adaptive { .. } => 16 * workers,
            };
            ((FLIGHT_NS * workers as f64 / batch_ns) as u64).clamp(least, most.max(least))
        };
        (batches * u64::from(self.items)).min(self.most_items.max(1))
    }

    /// What has come back next.
    pub fn next_delivery(&mut self) -> Option<Delivery> {
        self.deliveries.pop_front()
    }

    /// Makes room for as many items as a delivery has.
    pub fn consume(&mut self, delivery: &Delivery) {
        self.unconsumed -= u64::from(delivery.count);
    }

    /// Gives a delivery back that was not read.
    pub fn give_back(&mut self, delivery: Delivery) {
        self.deliveries.push_back(delivery);
    }

    /// Whether something was encoded that the workers do not have yet.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// How many items are still to be read, if that is known.
    pub fn items_remaining(&self) -> Option<usize> {
        (self.remaining)()
    }

    /// How many items were read.
    pub fn items_read(&self) -> u64 {
        self.read
    }

    /// Reads and encodes as many items as may be in flight.
    pub fn fill(&mut self) {
        if self.exhausted {
            return;
        }
        let window = self.window();
        let in_flight = self.outstanding + self.unconsumed;
        // Not for each single one that came back: the lock and the wake-up are paid for once for many.
        if in_flight > 0 && in_flight + (window / 4).max(1) > window {
            return;
        }
        let limit = self.shared.options.buffer_bytes;
        let mut room = window.saturating_sub(in_flight);
        let mut first = self.outstanding == 0;
        while room > 0 && !self.exhausted && (first || self.shared.channel.arena().used_bytes() < limit) {
            first = false;
            let items = self.next_items().min(u32::try_from(room).unwrap_or(u32::MAX));
            let read = self.read;
            if !self.encode_batch(items) {
                break;
            }
            room = room.saturating_sub((self.read - read).max(1));
        }
    }

    fn next_items(&self) -> u32 {
        let BatchSize::Adaptive { .. } = self.size else {
            return self.items;
        };
        match (self.remaining)() {
            // Towards the end in smaller batches, so that all workers end at about the same time.
            Some(remaining) => {
                let share = remaining / (2 * self.shared.options.processes);
                self.items.min(u32::try_from(share).unwrap_or(u32::MAX)).max(1)
            }
            None => self.items,
        }
    }

    /// Encodes one batch; false if there is no memory for more of it now.
    fn encode_batch(&mut self, items: u32) -> bool {
        let shared = self.shared.clone();
        let arena = shared.channel.arena();
        let mut scratch = Scratch::new();
        // As large as the last one was, if that did not fit.
        let before = self.batch_bytes + self.batch_bytes / 8;
        let spacious = match items > 1 && before > Scratch::BYTES {
            true => Sink::in_block(arena, Owner::CALLER, before).ok(),
            false => None,
        };
        let mut sink = spacious.unwrap_or_else(|| scratch.sink(&shared.channel));
        let most_bytes = match self.size {
            BatchSize::Fixed(_) => usize::MAX,
            BatchSize::Adaptive { .. } => BATCH_BYTES,
        };
        let may_wait = self.outstanding > 0;
        let (mut count, mut kind, mut full, mut refused) = (0, 0, false, None);
        let port = self.port.open();
        // Should the iterator panic: it is not asked again.
        self.exhausted = true;
        let mut ended = false;
        while count < items && sink.len() < most_bytes {
            match (self.source)(&mut sink, &port, may_wait || count > 0) {
                Next::Item { has_parts } => {
                    count += 1;
                    if has_parts {
                        kind |= ARGUMENT_PARTS;
                        if arena.used_bytes() > shared.options.buffer_bytes {
                            break;
                        }
                    }
                }
                Next::End => {
                    ended = true;
                    break;
                }
                Next::Full => {
                    full = true;
                    break;
                }
                Next::Refused(reason) => {
                    refused = Some(reason);
                    break;
                }
            }
        }
        drop(port);
        self.exhausted = ended;
        let base = self.read;
        self.read += u64::from(count);
        if let Some(reason) = refused {
            self.refused(self.read, reason);
            self.read += 1;
        }
        if count == 0 {
            return !full;
        }
        let bytes = sink.len();
        self.batch_bytes = bytes;
        let payload = if Payload::fits(bytes, count, kind & ARGUMENT_PARTS != 0) {
            let start = self.ready_bytes.len();
            self.ready_bytes.extend_from_slice(sink.bytes());
            ReadyPayload::Inline(start..start + bytes)
        } else {
            match sink.into_whole_block() {
                Ok(block) => ReadyPayload::Block(block, bytes as u64),
                Err(failure) => {
                    (0..count).for_each(|item| self.refused(base + u64::from(item), failure.to_string()));
                    return !full;
                }
            }
        };
        let measured =
            matches!(self.size, BatchSize::Adaptive { .. }) || self.batches.is_multiple_of(MEASURED_ONE_IN);
        kind |= if measured { MEASURE } else { 0 };
        self.batches += 1;
        self.batched |= count > 1;
        self.outstanding += u64::from(count);
        self.outstanding_batches += 1;
        self.ready.push(Ready {
            base,
            items: count,
            kind,
            payload,
        });
        !full
    }

    fn refused(&mut self, item: u64, reason: String) {
        let task = self.shared.lock().task_name(self.task, item);
        let content = Content::Failed(Error::new(Kind::TaskArgument { task, reason }));
        let delivery = Delivery {
            task: self.task,
            from: item,
            count: 1,
            content,
            has_parts: false,
            elapsed_ns: 0,
        };
        self.unconsumed += 1;
        self.deliveries.push_back(delivery);
    }

    /// Gives what was encoded to the workers, and takes what has come back. If nothing has and `wait` is set, waits.
    pub fn exchange(&mut self, wait: bool) {
        let shared = self.shared.clone();
        {
            let mut ledger = shared.lock();
            self.hand_in(&mut ledger);
            shared.tend(&mut ledger);
            ledger.take_deliveries(self.job, &mut self.taken);
        }
        if self.taken.is_empty() && wait && self.outstanding > 0 && self.deliveries.is_empty() {
            self.wait();
        }
        for delivery in self.taken.drain(..) {
            self.outstanding -= u64::from(delivery.count);
            self.outstanding_batches = self.outstanding_batches.saturating_sub(1);
            learn(&mut self.item_ns, &mut self.items, &self.size, &delivery);
            self.unconsumed += u64::from(delivery.count);
            self.deliveries.push_back(delivery);
        }
    }

    fn hand_in(&mut self, ledger: &mut Ledger) {
        for slot in self.returned.drain(..) {
            ledger.dispatcher.return_slot(slot);
        }
        if self.ready.is_empty() {
            return;
        }
        ledger.use_flow(self.job);
        let refused = ledger.refuses_flows();
        // Then it need not be read any further.
        self.exhausted |= refused.is_some();
        for Ready {
            base,
            items,
            kind,
            payload,
        } in self.ready.drain(..)
        {
            let payload = match payload {
                ReadyPayload::Inline(range) => {
                    Payload::Inline(self.ready_bytes.get(range).unwrap_or_default())
                }
                ReadyPayload::Block(block, len) => Payload::Block(block, len),
            };
            match &refused {
                None => ledger.submit(self.job, base, items, payload, kind),
                Some(reason) => ledger.refuse(self.job, base, items, payload, kind, reason.clone()),
            }
        }
        self.ready_bytes.clear();
        ledger.dispatcher.flush();
    }

    fn wait(&mut self) {
        let shared = self.shared.clone();
        let (job, taken) = (self.job, &mut self.taken);
        let at_end = self.exhausted && self.batched;
        // Half of what is in flight, so that the other half keeps the workers busy meanwhile; at the end, all of it.
        let results = match (self.eager, self.exhausted) {
            (true, _) => 1,
            (false, true) => self.outstanding_batches as i64,
            (false, false) => self.outstanding_batches as i64 / 2,
        };
        let share_out_after = &mut self.share_out_after;
        let mut waited = false;
        shared.wait_for(None, |ledger| {
            ledger.take_deliveries(job, taken);
            if !taken.is_empty() {
                return Look::Found(());
            }
            if !at_end {
                return Look::Wait {
                    results,
                    at_most: None,
                };
            }
            if std::mem::replace(&mut waited, true) {
                ledger.share_out(job);
                *share_out_after = (*share_out_after * 2).min(SHARE_OUT_AT_LEAST);
            }
            Look::Wait {
                results,
                at_most: Some(*share_out_after),
            }
        });
    }

    /// Takes the slot of a delivery that was read.
    pub fn was_read<S: Deref<Target = Shared>>(&mut self, reading: Reading<S>) {
        self.returned.extend(reading.end());
    }
}

/// Learns how long items take, and how many of them are to travel together.
fn learn(item_ns: &mut f64, items: &mut u32, size: &BatchSize, delivery: &Delivery) {
    if delivery.elapsed_ns == 0 || delivery.count == 0 {
        return;
    }
    let each = delivery.elapsed_ns as f64 / f64::from(delivery.count);
    *item_ns = if *item_ns == 0.0 {
        each
    } else {
        (*item_ns * 3.0 + each) / 4.0
    };
    let BatchSize::Adaptive { batch_ns, most } = size else {
        return;
    };
    let ideal = ((batch_ns / item_ns.max(1.0)) as u32).clamp(1, *most);
    if ideal < *items {
        // Not at once: a worker may have been kept from running meanwhile.
        *items = ideal.max(*items / 4).max(1);
    } else if delivery.count >= *items {
        // Step by step: the next one may take much longer than those that were seen.
        *items = ideal.min(*items * 2);
    }
}

impl Drop for Flow<'_> {
    fn drop(&mut self) {
        if !self.shared.is_owner() {
            return;
        }
        let shared = self.shared.clone();
        let mut ledger = shared.lock();
        let deliveries = std::mem::take(&mut self.deliveries)
            .into_iter()
            .chain(self.taken.drain(..));
        deliveries.for_each(|delivery| ledger.discard_arrived(delivery));
        if !self.ready.is_empty() {
            let reason = Error::new(Kind::PoolTerminated);
            for Ready {
                base,
                items,
                kind,
                payload,
            } in self.ready.drain(..)
            {
                let payload = match payload {
                    ReadyPayload::Inline(range) => {
                        Payload::Inline(self.ready_bytes.get(range).unwrap_or_default())
                    }
                    ReadyPayload::Block(block, len) => Payload::Block(block, len),
                };
                ledger.refuse(self.job, base, items, payload, kind, reason.clone());
            }
        }
        self.returned
            .drain(..)
            .for_each(|slot| ledger.dispatcher.return_slot(slot));
        ledger.end_flow(self.job);
        if !self.given_away {
            ledger.cancel_job(self.job);
            ledger.close_job(self.job);
        }
        // It may have been the last thing that a closed pool had to do.
        shared.tend(&mut ledger);
    }
}
