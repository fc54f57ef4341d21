//! What happens in a pool, for whoever wants to hear of it.

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::channel::{Channel, EventReader, Note, Record, Seat, Stage, What};

/// How long a reader sleeps before it looks again: short while something happens, longer while nothing does.
const SHORTEST_NAP: Duration = Duration::from_millis(1);
const LONGEST_NAP: Duration = Duration::from_millis(20);

/// Something that has happened in a pool.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PoolEvent {
    /// What.
    pub what: What,
    /// When, in seconds since the pool was made.
    pub at_seconds: f64,
    /// The name of the worker; empty when a task is tried again.
    pub worker: String,
    /// The worker's process id.
    pub pid: u32,
    /// The function, of events of tasks; empty else.
    pub function: String,
    /// Which item of a map, from 0; `None` for calls by themselves, and for events of workers.
    pub item: Option<u64>,
    /// How long the task ran, when it has finished or failed.
    pub ran: Option<Duration>,
    /// How the worker ended, when it has: its exit code, or minus the signal.
    pub exit_code: Option<i32>,
}

/// The events of a pool from the moment on when this was made.
///
/// They wait in a bounded ring. Who reads too slowly misses some, which [`missed`](Events::missed) counts; the pool never
/// waits for a reader. While nobody reads events, none are written.
#[derive(Debug)]
pub struct Events {
    channel: Arc<Channel>,
    reader: EventReader,
    /// In a forked child they are its parent's.
    disowned: bool,
}

impl Events {
    /// Begins to read the events of the pool with this memory.
    pub fn of(channel: Arc<Channel>) -> Self {
        let reader = channel.start_events();
        Events {
            channel,
            reader,
            disowned: false,
        }
    }

    /// The next event that there is, if there is one now.
    pub fn try_next(&mut self) -> Option<PoolEvent> {
        let record = self.channel.next_event(&mut self.reader)?;
        Some(self.describe(&record))
    }

    /// The next event, waited for at most this long; `None` if there was none, or the pool is over and all are read.
    pub fn next_within(&mut self, limit: Duration) -> Option<PoolEvent> {
        let end = Instant::now().checked_add(limit);
        let mut nap = SHORTEST_NAP;
        loop {
            // The pool may end between the two looks, so that one comes first.
            let over = self.is_over();
            if let Some(event) = self.try_next() {
                return Some(event);
            }
            let now = Instant::now();
            let left = end.map_or(LONGEST_NAP, |end| end.saturating_duration_since(now));
            if over || left.is_zero() {
                return None;
            }
            std::thread::sleep(nap.min(left));
            nap = (nap * 2).min(LONGEST_NAP);
        }
    }

    /// Says that these are a forked parent's, which goes on reading them.
    pub fn disown(&mut self) {
        self.disowned = true;
    }

    /// How many events were overwritten before they were read.
    pub fn missed(&self) -> u64 {
        self.reader.missed
    }

    /// Whether the pool's workers have ended for good, so that nothing more will happen.
    pub fn is_over(&self) -> bool {
        let header = self.channel.header();
        let ends = header.stage() != Stage::Running || header.life.broken.load(Ordering::Relaxed) != 0;
        ends && (0..self.channel.geometry().seats).all(|seat| {
            let stage = self.channel.seat(seat).stage.load(Ordering::Acquire);
            stage == Seat::VACANT || stage == Seat::ENDED
        })
    }

    fn describe(&self, record: &Record) -> PoolEvent {
        let watch = &self.channel.header().watch;
        let of_task = !matches!(record.what, What::WorkerReady | What::WorkerEnded);
        let value = record.value;
        PoolEvent {
            what: record.what,
            at_seconds: record
                .time_ns
                .saturating_sub(watch.created_ns.load(Ordering::Relaxed)) as f64
                / 1e9,
            worker: match record.worker {
                0 => String::new(),
                number => watch.worker_name(number),
            },
            pid: record.pid,
            function: if of_task {
                self.channel.function_name(record.function)
            } else {
                String::new()
            },
            item: (of_task && record.item != Note::NO_ITEM).then_some(record.item),
            ran: matches!(record.what, What::Finished | What::Failed)
                .then(|| Duration::from_nanos(value.max(0) as u64)),
            exit_code: matches!(record.what, What::WorkerEnded | What::Lost).then_some(value as i32),
        }
    }
}

impl Iterator for Events {
    type Item = PoolEvent;

    /// Waits for the next event; `None` when the pool is over and all are read.
    fn next(&mut self) -> Option<PoolEvent> {
        loop {
            if let Some(event) = self.next_within(Duration::from_secs(1)) {
                return Some(event);
            }
            if self.is_over() {
                return self.try_next();
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if !self.disowned {
            self.channel.stop_events();
        }
    }
}
