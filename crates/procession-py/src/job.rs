//! Work on many items: where they come from, how they are cut into batches, where the results go.

use std::collections::VecDeque;
use std::sync::Arc;

use procession::channel::Channel;
use procession::shm::{Block, Owner};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyList, PyRange, PyRangeMethods};
use pyo3::IntoPyObjectExt;

use crate::codec::Reader;
use crate::gil::GilCell;
use crate::pool::Terms;
use crate::raw::Raw;
use crate::worker::outcome;

/// A batch should take about this long: enough that its cost is small, little enough that workers end together.
const BATCH_NS: f32 = 400_000.0;

/// A callback and an error callback.
pub type Callbacks = (Option<Py<PyAny>>, Option<Py<PyAny>>);

/// A worker's message in the place where it arrived.
pub struct Message<'a> {
    pub channel: &'a Arc<Channel>,
    /// The worker's ownership of the message's blocks.
    pub seat: Owner,
    /// The block that the bytes lie in, if they are to be taken over with it.
    pub block: Option<Block>,
    pub bytes: &'a [u8],
}

/// The function of a job.
#[derive(Debug)]
pub enum Function {
    /// It is in the pool's table.
    Number(u32),
    /// It has state of its own and travels with each batch; the number is that of its name alone.
    Inline(Py<PyAny>, u32),
}

/// One item's result in a stream.
#[derive(Debug)]
pub enum Item {
    Value(Py<PyAny>),
    Raw(Raw),
    Exception(PyErr),
}

/// Where results go.
#[derive(Debug)]
pub enum Sink {
    /// Into a list of known length, given out as a whole.
    List {
        results: Option<Py<PyList>>,
        /// Arrived and not decoded: index of the first item, place in the order of
        /// arrivals, message.
        pending: Vec<(u64, u64, Raw)>,
        /// The error that arrived first, and its place in the order of arrivals.
        failed: Option<(u64, PyErr)>,
    },
    /// One by one to a consumer.
    Stream {
        ordered: bool,
        /// Results in order of giving out; places not yet arrived are empty (only if ordered).
        ready: VecDeque<Option<Item>>,
        /// The index of the first place.
        given: u64,
        /// Items that may be in the works or waiting for the consumer.
        buffer: u64,
    },
}

/// A batch that is encoded and has found no slot.
#[derive(Debug)]
pub struct Parked {
    pub bytes: Vec<u8>,
    pub first: u64,
    pub begin: u32,
    pub items: u32,
}

/// Where a job's items come from.
#[derive(Debug)]
pub enum Source {
    Iterator(Py<PyIterator>),
    /// A `range`, whose numbers need not become objects only to be encoded.
    Range(Numbers),
}

/// What is left of a `range` of machine integers.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    next: i64,
    step: i64,
    left: u64,
}

impl Iterator for Numbers {
    type Item = i64;

    fn next(&mut self) -> Option<i64> {
        self.left = self.left.checked_sub(1)?;
        let number = self.next;
        // Past the last number, which nobody asks for, it may leave the range of machine integers.
        self.next = number.wrapping_add(self.step);
        Some(number)
    }
}

impl Source {
    /// The source of a map over a sequence.
    pub fn of(iterable: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(range) = iterable.cast_exact::<PyRange>() {
            // All of its numbers lie between the first and the end.
            let numbers = (range.start(), range.stop(), range.step(), range.len());
            if let (Ok(start), Ok(_), Ok(step), Ok(length)) = numbers {
                return Ok(Self::Range(Numbers {
                    next: start as i64,
                    step: step as i64,
                    left: length as u64,
                }));
            }
        }
        Ok(Self::Iterator(iterable.try_iter()?.unbind()))
    }

    /// The next item as an object.
    pub fn next<'py>(&mut self, py: Python<'py>) -> Option<PyResult<Bound<'py, PyAny>>> {
        match self {
            Self::Iterator(iterator) => iterator.bind(py).clone().next(),
            Self::Range(numbers) => numbers.next().map(|number| number.into_bound_py_any(py)),
        }
    }

    /// The iterator, for a thread that pulls from it.
    pub fn iterator(&self, py: Python<'_>) -> Option<Py<PyIterator>> {
        match self {
            Self::Iterator(iterator) => Some(iterator.clone_ref(py)),
            Self::Range(_) => None,
        }
    }

    /// The same source once more: an iterator goes on wherever it is asked, numbers have to be given back.
    fn again(&self, py: Python<'_>) -> Self {
        match self {
            Self::Iterator(iterator) => Self::Iterator(iterator.clone_ref(py)),
            Self::Range(numbers) => Self::Range(*numbers),
        }
    }
}

#[derive(Debug)]
pub struct JobState {
    pub source: Option<Source>,
    /// An item that was pulled and found no room.
    pub held: Option<Py<PyAny>>,
    pub parked: VecDeque<Parked>,
    /// Known from the start, or when the source is exhausted.
    pub total: Option<u64>,
    pub pulled: u64,
    pub delivered: u64,
    /// Counts what arrives, to tell which error was first.
    pub arrivals: u64,
    pub in_flight: u32,
    pub batch: u32,
    pub cost_ns: f32,
    pub pumping: bool,
    pub abandoned: bool,
    /// A thread of its own pulls from the source.
    pub fed_by_thread: bool,
    pub sink: Sink,
    /// Callback and error callback, until they have run.
    pub calls: Option<Callbacks>,
    pub announced: bool,
    /// Called when the result is there, or a stream's next item.
    pub listeners: Vec<Py<PyAny>>,
    /// Callbacks are due or running: the result is not to be seen before they have ended.
    pub calls_running: bool,
    /// What items have written, where that is kept.
    pub outputs: Vec<(u64, Py<PyAny>)>,
    /// Threads that have taken arrivals out and decode them, which runs user code: the list has holes until then.
    pub decoding: u32,
}

/// A call of `map` or its siblings.
#[derive(Debug)]
pub struct Job {
    pub state: GilCell<JobState>,
    pub kind: u32,
    pub function: Function,
    /// Items per batch if the user said so.
    pub chunk: Option<u32>,
    /// Items per chunk as multiprocessing would have it, for those who count chunks.
    pub usual_chunk: u32,
    pub terms: Terms,
    pub task: String,
}

impl JobState {
    /// Whether everything has come back.
    pub fn is_complete(&self) -> bool {
        self.total == Some(self.delivered)
    }

    /// Whether a stream's consumer would not have to wait.
    pub fn has_next(&self) -> bool {
        match &self.sink {
            Sink::Stream { ready, .. } => {
                matches!(ready.front(), Some(Some(_)))
                    || self.is_complete() && !self.has_more()
                    || self.abandoned && ready.is_empty()
            }
            Sink::List { .. } => self.is_complete(),
        }
    }

    /// Whether the value may be taken: everything is there, decoded or ready to be, and the callbacks have run.
    pub fn is_ready(&self) -> bool {
        self.is_complete() && !self.calls_running && self.decoding == 0
    }

    /// Whether there is more to send out.
    pub fn has_more(&self) -> bool {
        !self.abandoned && (self.source.is_some() || self.held.is_some() || !self.parked.is_empty())
    }

    /// The source, if it is ours to pull from.
    pub fn own_source(&self, py: Python<'_>) -> Option<Source> {
        if self.fed_by_thread {
            return None;
        }
        self.source.as_ref().map(|s| s.again(py))
    }

    /// The numbers that `own_source` gave are to go on from here.
    pub fn give_numbers_back(&mut self, left: Numbers) {
        if let Some(Source::Range(own)) = &mut self.source {
            *own = left;
        }
    }

    /// Whether a stream's consumer leaves room for another item.
    pub fn has_room(&self) -> bool {
        match &self.sink {
            Sink::Stream { given, buffer, .. } => self.pulled - *given < *buffer,
            Sink::List { .. } => true,
        }
    }

    /// How many items the next batch should have; 0 for none now.
    pub fn next_batch(&self, chunk: Option<u32>, workers: u32) -> u32 {
        if !self.has_more() || self.pumping {
            return 0;
        }
        if let Sink::Stream { given, buffer, .. } = &self.sink {
            let outstanding = self.pulled - *given;
            let room = buffer.saturating_sub(outstanding);
            if room == 0 {
                return 0;
            }
            if self.fed_by_thread {
                // A source that may block must not do so while items it has given before wait for company.
                return u32::from(self.held.is_some() || !self.parked.is_empty());
            }
            // Half the buffer at a time at most, so that one half is worked on while the other is refilled.
            let most = (*buffer / u64::from(2 * workers)).clamp(1, room) as u32;
            return match chunk {
                Some(n) if n > 1 => n.min(room as u32),
                _ => self.adapted(workers).min(most),
            };
        }
        if let Some(n) = chunk {
            return if self.in_flight < 4096 { n } else { 0 };
        }
        let busy_enough = if self.cost_ns == 0.0 {
            2 * workers
        } else {
            4 * workers
        };
        if self.in_flight >= busy_enough {
            return 0;
        }
        let left = self.total.map_or(u64::MAX, |t| t - self.pulled);
        let fair = left.div_ceil(u64::from(workers) * 2).max(1);
        self.adapted(workers).min(fair.min(u64::from(u32::MAX)) as u32)
    }

    fn adapted(&self, _workers: u32) -> u32 {
        if self.cost_ns == 0.0 {
            return 1;
        }
        // At most doubling: a few quick items do not prove that all are.
        let wanted = (BATCH_NS / self.cost_ns.max(20.0)) as u32;
        wanted.clamp(1, self.batch.max(1) * 2)
    }

    /// Learns from a batch how long an item takes.
    pub fn learn(&mut self, items: u32, elapsed_ns: u64) {
        if items == 0 || elapsed_ns == 0 {
            return;
        }
        let cost = elapsed_ns as f32 / items as f32;
        self.cost_ns = if self.cost_ns == 0.0 {
            cost
        } else {
            self.cost_ns * 0.7 + cost * 0.3
        };
        self.batch = self.batch.max(items);
        if cost > 4.0 * BATCH_NS {
            self.batch = 1;
        }
    }

    /// Takes in the outcomes of `items` items from `first` on. Runs no Python code.
    pub fn accept(&mut self, py: Python<'_>, message: Message<'_>, first: u64, items: u32) {
        let Message {
            channel,
            seat,
            block,
            bytes,
        } = message;
        let mut reader = Reader::over(bytes);
        let mut index = first;
        let mut left = items;
        let mut block_free = block;
        while left > 0 {
            let mark = reader;
            if reader.byte() == Some(outcome::OK) {
                if let Some(value) = reader.plain(py) {
                    self.put_value(index, value.unbind());
                    index += 1;
                    left -= 1;
                    continue;
                }
            }
            let at = bytes.len() - mark.left();
            match &mut self.sink {
                Sink::List { pending, .. } => {
                    let raw = Raw::adopt(channel, seat, block_free.take(), bytes, at, left);
                    pending.push((index, self.arrivals, raw));
                    self.arrivals += 1;
                    self.delivered += u64::from(left);
                    left = 0;
                }
                Sink::Stream { .. } => {
                    // Each item of a stream is given out alone, so each gets a message of its own.
                    reader = mark;
                    let walked = crate::raw::skip_outcome(&mut reader, &mut |_| {});
                    let end = bytes.len() - reader.left();
                    if items == 1 || walked.is_none() {
                        let raw = Raw::adopt(channel, seat, block_free.take(), bytes, at, 1);
                        self.put_item(index, Item::Raw(raw));
                    } else {
                        let raw = Raw::adopt(channel, seat, None, &bytes[..end][at..], 0, 1);
                        self.put_item(index, Item::Raw(raw));
                    }
                    index += 1;
                    left -= 1;
                    if walked.is_none() {
                        for _ in 0..left {
                            let raw = Raw::adopt(channel, seat, None, &[], 0, 1);
                            self.put_item(index, Item::Raw(raw));
                            index += 1;
                        }
                        left = 0;
                    }
                }
            }
        }
        if let Some(block) = block_free {
            channel.arena().free(block, seat);
        }
    }

    fn put_value(&mut self, index: u64, value: Py<PyAny>) {
        match &mut self.sink {
            Sink::List {
                results: Some(list), ..
            } => {
                // SAFETY: the list was made with `total` empty places, each of which is filled once, by this index;
                // nobody else has seen it.
                unsafe {
                    if index < ffi::PyList_GET_SIZE(list.as_ptr()) as u64 {
                        ffi::PyList_SET_ITEM(list.as_ptr(), index as ffi::Py_ssize_t, value.into_ptr());
                    }
                }
                self.delivered += 1;
            }
            Sink::List { .. } => self.delivered += 1,
            Sink::Stream { .. } => self.put_item(index, Item::Value(value)),
        }
    }

    /// Takes in one item of a stream.
    pub fn put_item(&mut self, index: u64, item: Item) {
        self.delivered += 1;
        if let Sink::Stream {
            ordered,
            ready,
            given,
            ..
        } = &mut self.sink
        {
            if *ordered {
                let place = (index - *given) as usize;
                while ready.len() <= place {
                    ready.push_back(None);
                }
                ready[place] = Some(item);
            } else {
                ready.push_back(Some(item));
            }
        }
    }

    /// Takes in the failure of one item.
    pub fn fail_item(&mut self, index: u64, error: PyErr) {
        if matches!(self.sink, Sink::List { .. }) {
            self.delivered += 1;
            self.arrivals += 1;
            return self.fail_arrived(self.arrivals - 1, error);
        }
        match &mut self.sink {
            Sink::List { .. } => {}
            Sink::Stream { .. } => self.put_item(index, Item::Exception(error)),
        }
    }

    /// Makes the whole list fail with this error, whatever its items did.
    pub fn fail_whole(&mut self, error: PyErr) {
        if let Sink::List { failed, .. } = &mut self.sink {
            *failed = Some((0, error));
        }
    }

    /// Takes in the failure of an item that arrived at this place: the first one to arrive is raised.
    pub fn fail_arrived(&mut self, arrival: u64, error: PyErr) {
        if let Sink::List { failed, .. } = &mut self.sink {
            if failed.as_ref().is_none_or(|(first, _)| arrival < *first) {
                *failed = Some((arrival, error));
            }
        }
    }

    /// Ends the source: no more items will be pulled.
    pub fn end_source(&mut self) -> Option<Source> {
        if self.total.is_none() || self.total > Some(self.pulled) {
            self.total = Some(self.pulled);
        }
        self.source.take()
    }
}
