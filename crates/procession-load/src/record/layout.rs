use crate::histogram::BUCKETS;
use crate::result::ErrorKind;
use crate::{Error, Result};
use procession::os::memory::{create_sealed, Mapping, PAGE_BYTES};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::Arc;

/// How many seconds a worker keeps for the reader to fetch.
pub(crate) const SECONDS_KEPT: u32 = 16;
pub(crate) const MOST_NAME_BYTES: usize = 120;
pub(crate) const MOST_EXAMPLE_BYTES: usize = 248;
/// Statuses 0 to 999.
pub(crate) const STATUSES: usize = 1000;
pub(crate) const ERROR_KINDS: usize = ErrorKind::ALL.len();

/// What the controlling process tells all workers.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Control {
    /// The common beginning, on the monotonic clock; 0 until it is known. Workers sleep on `go`.
    pub start_ns: AtomicU64,
    pub go: AtomicU32,
    /// 1: begin nothing new, finish what is in flight. 2: end now.
    pub stop: AtomicU32,
    /// What all workers together have asked of machines of others: see `users/guard.rs`.
    pub strangers_ns: AtomicU64,
}

/// How far a worker has come; 0 is none of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub(crate) enum SeatState {
    Ready = 1,
    Running = 2,
    Done = 3,
    Failed = 4,
}

/// Text of which the length is published last.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Text<const N: usize> {
    pub len: AtomicU32,
    _pad: u32,
    /// Words, because every access to shared memory is an atomic one.
    pub words: [AtomicU64; N],
}

/// The counters of one worker. Only it writes them.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Head {
    pub state: AtomicU32,
    pub pid: AtomicU32,
    /// How many processes have had this seat.
    pub lives: AtomicU32,
    pub steps: AtomicU32,
    pub now_ns: AtomicU64,
    /// CPU time and time waited for a CPU while load was made, of this and earlier lives.
    pub cpu_ns: AtomicU64,
    pub cpu_wait_ns: AtomicU64,
    /// How long it has made load, of this and earlier lives.
    pub active_ns: AtomicU64,
    pub users: AtomicU64,
    /// Requests begun, which is also the place in the schedule.
    pub begun: AtomicU64,
    /// See `schedule`: the moment of the last arrival, by the parity of its number.
    pub due_ns: [AtomicU64; 2],
    pub in_flight: AtomicU64,
    pub lost_in_flight: AtomicU64,
    /// Integral of `in_flight` over time.
    pub area_ns: AtomicU64,
    /// Sum of the times that requests were in flight, those that failed or were censored included.
    pub busy_ns: AtomicU64,
    pub ended: AtomicU64,
    pub failed: AtomicU64,
    /// Those that ended after the load did.
    pub late: AtomicU64,
    pub warmup: AtomicU64,
    pub unsent: AtomicU64,
    pub connections: AtomicU64,
    pub bytes_sent: AtomicU64,
    pub bytes_received: AtomicU64,
    pub tcp_samples: AtomicU64,
    pub retransmits: AtomicU64,
    pub connect_retransmits: AtomicU64,
    /// See `Datagram`.
    pub udp: [AtomicU64; 5],
    pub jitter_ns: AtomicU64,
    pub jitters: AtomicU64,
    pub error_counts: [AtomicU64; ERROR_KINDS],
    pub statuses: [AtomicU64; STATUSES],
    pub examples: [Text<{ MOST_EXAMPLE_BYTES / 8 }>; ERROR_KINDS],
    /// Why a worker gave up.
    pub failure: Text<64>,
}

/// A histogram in shared memory.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Cells {
    pub sum_ns: AtomicU64,
    /// One more than the shortest, 0: none yet.
    pub least_ns: AtomicU64,
    pub most_ns: AtomicU64,
    pub buckets: [AtomicU64; BUCKETS],
}

/// Distributions of a whole worker.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Distributions {
    pub delay: Cells,
    pub core_wait: Cells,
    pub dns: Cells,
    pub connect: Cells,
    pub tls: Cells,
    pub round_trip: Cells,
}

/// One step's counts in one second.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct SecondCells {
    /// One more than the number of the second, 0: none.
    pub number: AtomicU32,
    pub errors: AtomicU32,
    pub ended: AtomicU32,
    pub in_flight: AtomicU32,
    pub users: AtomicU32,
    _pad: u32,
    pub bytes_received: AtomicU64,
    pub sum_ns: AtomicU64,
    pub least_ns: AtomicU64,
    pub most_ns: AtomicU64,
    pub buckets: [AtomicU32; BUCKETS],
}

/// One step of one worker.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Step {
    pub kind: AtomicU32,
    _pad: u32,
    pub name: Text<{ MOST_NAME_BYTES / 8 }>,
    pub ended: AtomicU64,
    pub failed: AtomicU64,
    /// Those that ended after the load did.
    pub late: AtomicU64,
    /// Those of them that failed.
    pub late_failed: AtomicU64,
    pub response: Cells,
    pub service: Cells,
    pub lag: Cells,
    pub first_byte: Cells,
    pub body: Cells,
    pub censored: Cells,
    pub seconds: [SecondCells; SECONDS_KEPT as usize],
}

/// The region of one run.
#[derive(Debug)]
pub(crate) struct Region {
    mapping: Mapping,
    seats: u32,
    most_steps: u32,
}

const CONTROL_BYTES: usize = PAGE_BYTES;

fn round_up(bytes: usize) -> usize {
    bytes.div_ceil(PAGE_BYTES) * PAGE_BYTES
}

impl Region {
    /// A region for so many workers with so many steps each. Pages come into being when they are first written.
    pub(crate) fn new(seats: u32, most_steps: u32) -> Result<Arc<Region>> {
        let bytes = CONTROL_BYTES + seats as usize * Region::seat_bytes(most_steps);
        let mapping = create_sealed("procession-load", bytes as u64)
            .and_then(Mapping::new)
            .map_err(Error::os("get shared memory for the workers' counts"))?;
        Ok(Arc::new(Region {
            mapping,
            seats,
            most_steps,
        }))
    }

    fn seat_bytes(most_steps: u32) -> usize {
        round_up(size_of::<Head>())
            + round_up(size_of::<Distributions>())
            + most_steps as usize * round_up(size_of::<Step>())
    }

    /// # Safety
    ///
    /// There is a `T` at this offset by the layout, and `T` consists of atomics and padding alone.
    unsafe fn at<T>(&self, offset: usize) -> &T {
        debug_assert!(offset + size_of::<T>() <= self.mapping.len());
        // SAFETY: the layout lies inside the mapping and is aligned to pages; fresh pages are zero, which is valid for
        // atomics; the mapping lives as long as `self`. The rest is the caller's.
        unsafe { &*self.mapping.start().as_ptr().add(offset).cast::<T>() }
    }

    pub(crate) fn control(&self) -> &Control {
        // SAFETY: the control words are at the beginning.
        unsafe { self.at(0) }
    }

    pub(crate) fn seats(&self) -> u32 {
        self.seats
    }

    pub(crate) fn seat(&self, number: u32) -> Seat<'_> {
        assert!(number < self.seats, "there is no seat {number}");
        let offset = CONTROL_BYTES + number as usize * Region::seat_bytes(self.most_steps);
        Seat { region: self, offset }
    }
}

/// One worker's part of the region.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seat<'a> {
    region: &'a Region,
    offset: usize,
}

impl<'a> Seat<'a> {
    pub(crate) fn head(&self) -> &'a Head {
        // SAFETY: a seat begins with its head.
        unsafe { self.region.at(self.offset) }
    }

    pub(crate) fn distributions(&self) -> &'a Distributions {
        // SAFETY: they follow the head.
        unsafe { self.region.at(self.offset + round_up(size_of::<Head>())) }
    }

    pub(crate) fn step(&self, number: u32) -> &'a Step {
        assert!(number < self.region.most_steps, "there is no step {number}");
        let before = round_up(size_of::<Head>()) + round_up(size_of::<Distributions>());
        let offset = self.offset + before + number as usize * round_up(size_of::<Step>());
        // SAFETY: the steps follow the distributions, and there are `most_steps` of them.
        unsafe { self.region.at(offset) }
    }

    pub(crate) fn most_steps(&self) -> u32 {
        self.region.most_steps
    }
}
