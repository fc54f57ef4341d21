//! What happens in a pool, as a bounded ring that anybody may read and nobody waits for.
//!
//! Writers (workers, supervisor, caller) take a number by one addition and write the cell of that number; who reads too
//! slowly finds later numbers in its cells and has missed something. A cell's *number* word is changed before and after the
//! rest, so that a reader recognises a cell that is being written, also one whose writer was killed in the midst of it.
//! While nobody reads, nothing is written.

use std::sync::atomic::{fence, AtomicU64, Ordering};

/// How many events the ring holds; a power of two.
pub const EVENT_CELLS: u64 = 4096;

/// The number of a cell that is being written.
const IN_WRITING: u64 = u64::MAX;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[non_exhaustive]
pub enum What {
    /// A worker began an item.
    Started = 1,
    /// An item returned.
    Finished = 2,
    /// An item raised or panicked.
    Failed = 3,
    /// An item was lost with its worker.
    Lost = 4,
    /// A lost or failed item is tried again.
    Retried = 5,
    /// A worker is ready.
    WorkerReady = 6,
    /// A worker has ended.
    WorkerEnded = 7,
}

impl What {
    fn from_raw(raw: u64) -> Option<What> {
        Some(match raw {
            1 => What::Started,
            2 => What::Finished,
            3 => What::Failed,
            4 => What::Lost,
            5 => What::Retried,
            6 => What::WorkerReady,
            7 => What::WorkerEnded,
            _ => return None,
        })
    }
}

/// Something that has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// What.
    pub what: What,
    /// When, in nanoseconds of the monotonic clock.
    pub time_ns: u64,
    /// The number in the worker's name.
    pub worker: u32,
    /// The worker's process id.
    pub pid: u32,
    /// The function's number, of events of items.
    pub function: u32,
    /// The item's place in what the user gave; [`Note::NO_ITEM`](super::Note::NO_ITEM) for a call by itself.
    pub item: u64,
    /// For how long an item ran, in nanoseconds; how a worker ended: its exit code, or minus the signal.
    pub value: i64,
}

/// The place of an event.
#[derive(Debug)]
#[repr(C)]
pub struct Cell {
    /// The event's number plus one; 0 before the first.
    number: AtomicU64,
    words: [AtomicU64; 5],
    _reserved: [AtomicU64; 2],
}

/// Writes an event.
pub(super) fn write(cell: &Cell, number: u64, record: &Record) {
    cell.number.store(IN_WRITING, Ordering::Relaxed);
    // Sync point *event content*: the mark comes before the words, and the words before the number.
    fence(Ordering::Release);
    let words = [
        u64::from(record.what as u8) << 32 | u64::from(record.function),
        record.time_ns,
        u64::from(record.worker) << 32 | u64::from(record.pid),
        record.item,
        record.value as u64,
    ];
    for (to, from) in cell.words.iter().zip(words) {
        to.store(from, Ordering::Relaxed);
    }
    cell.number.store(number + 1, Ordering::Release);
}

/// What a cell holds where an event is looked for.
pub(super) enum Found {
    Event(Record),
    /// It is not written yet.
    NotYet,
    /// A later one is there, or nonsense.
    Missed,
}

/// Reads the event with this number.
pub(super) fn read(cell: &Cell, number: u64) -> Found {
    // Sync point *event content*: pairs with the Release stores in `write`.
    let before = cell.number.load(Ordering::Acquire);
    if before != number + 1 {
        return if before == IN_WRITING || before < number + 1 {
            Found::NotYet
        } else {
            Found::Missed
        };
    }
    let words: [u64; 5] = std::array::from_fn(|i| cell.words[i].load(Ordering::Relaxed));
    fence(Ordering::Acquire);
    if cell.number.load(Ordering::Relaxed) != before {
        return Found::Missed;
    }
    match What::from_raw(words[0] >> 32) {
        Some(what) => Found::Event(Record {
            what,
            function: words[0] as u32,
            time_ns: words[1],
            worker: (words[2] >> 32) as u32,
            pid: words[2] as u32,
            item: words[3],
            value: words[4] as i64,
        }),
        None => Found::Missed,
    }
}

/// How far somebody has read.
#[derive(Debug, Clone, Copy)]
pub struct EventReader {
    next: u64,
    stuck_since_ns: u64,
    /// Events that were overwritten before they were read.
    pub missed: u64,
}

/// A cell that is still unwritten after this long has lost its writer.
const WRITER_PATIENCE_NS: u64 = 100_000_000;

impl super::Channel {
    /// Has events written from now on, for the reader that is returned; until [`Channel::stop_events`] is called for it.
    ///
    /// [`Channel::stop_events`]: super::Channel::stop_events
    pub fn start_events(&self) -> EventReader {
        let watch = &self.header().watch;
        watch.event_readers.fetch_add(1, Ordering::Relaxed);
        EventReader {
            next: watch.next_event.load(Ordering::Relaxed),
            stuck_since_ns: 0,
            missed: 0,
        }
    }

    /// One reader less.
    pub fn stop_events(&self) {
        self.header().watch.event_readers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether anybody reads events.
    #[inline]
    pub fn has_event_readers(&self) -> bool {
        self.header().watch.event_readers.load(Ordering::Relaxed) != 0
    }

    /// Tells an event, if anybody reads them. Never waits.
    pub fn tell_event(&self, record: &Record) {
        if self.has_event_readers() {
            let number = self.header().watch.next_event.fetch_add(1, Ordering::Relaxed);
            write(self.event_cell(number), number, record);
        }
    }

    /// The next event that there is, if there is one now.
    pub fn next_event(&self, reader: &mut EventReader) -> Option<Record> {
        loop {
            let end = self.header().watch.next_event.load(Ordering::Acquire);
            if reader.next >= end {
                return None;
            }
            if end - reader.next > EVENT_CELLS {
                // Some way ahead of the oldest: that one is about to be overwritten, too.
                let to = end - EVENT_CELLS / 2;
                reader.missed += to - reader.next;
                reader.next = to;
            }
            match read(self.event_cell(reader.next), reader.next) {
                Found::Event(record) => {
                    reader.next += 1;
                    reader.stuck_since_ns = 0;
                    return Some(record);
                }
                Found::NotYet => {
                    let now = crate::os::time::monotonic_ns();
                    if reader.stuck_since_ns == 0 {
                        reader.stuck_since_ns = now;
                    }
                    if now - reader.stuck_since_ns < WRITER_PATIENCE_NS {
                        return None;
                    }
                }
                Found::Missed => {}
            }
            reader.stuck_since_ns = 0;
            reader.next += 1;
            reader.missed += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::{Channel, Geometry};

    fn record(item: u64) -> Record {
        Record {
            what: What::Finished,
            time_ns: 5,
            worker: 1,
            pid: 77,
            function: 3,
            item,
            value: -9,
        }
    }

    fn channel() -> Channel {
        let geometry = Geometry {
            slots: 64,
            ..Geometry::for_workers(1)
        };
        Channel::create(geometry, 0).unwrap()
    }

    #[test]
    fn events_come_as_they_were_told_and_none_is_written_while_nobody_reads() {
        let channel = channel();
        channel.tell_event(&record(0));
        let mut reader = channel.start_events();
        assert_eq!(channel.next_event(&mut reader), None);
        channel.tell_event(&record(1));
        channel.tell_event(&record(2));
        assert_eq!(channel.next_event(&mut reader), Some(record(1)));
        assert_eq!(channel.next_event(&mut reader), Some(record(2)));
        assert_eq!(channel.next_event(&mut reader), None);
        channel.stop_events();
        channel.tell_event(&record(3));
        assert_eq!(channel.next_event(&mut reader), None);
    }

    #[test]
    fn a_slow_reader_misses_some_and_knows_how_many() {
        let channel = channel();
        let mut reader = channel.start_events();
        let told = EVENT_CELLS * 3;
        for item in 0..told {
            channel.tell_event(&record(item));
        }
        let mut read = 0;
        while channel.next_event(&mut reader).is_some() {
            read += 1;
        }
        assert!(read >= EVENT_CELLS / 2);
        assert_eq!(read + reader.missed, told);
    }

    #[test]
    fn a_writer_that_died_in_the_midst_is_passed_after_a_while() {
        let channel = channel();
        let mut reader = channel.start_events();
        let number = channel.header().watch.next_event.fetch_add(1, Ordering::Relaxed);
        channel
            .event_cell(number)
            .number
            .store(IN_WRITING, Ordering::Relaxed);
        channel.tell_event(&record(1));
        assert_eq!(channel.next_event(&mut reader), None);
        std::thread::sleep(std::time::Duration::from_millis(120));
        assert_eq!(channel.next_event(&mut reader), Some(record(1)));
        assert_eq!(reader.missed, 1);
    }
}
