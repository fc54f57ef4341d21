//! Where everything lies in the shared memory.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU32, AtomicU64, Ordering};

use super::events::{Cell, EVENT_CELLS};
use super::watched::{Note, Text, WatchWords, NAME_WORDS};
use crate::os::memory::PAGE_BYTES;
use crate::shm::ArenaPlan;

const MAGIC: u64 = u64::from_le_bytes(*b"processn");
/// Raised with every change of the layout or the protocol.
const ABI: u32 = 3;
/// How many functions can be told apart.
pub const FUNCTIONS: u32 = 1 << 16;
/// The bytes of a task or result that fit into its slot.
pub const SLOT_INLINE_BYTES: usize = 192;
const MOST_SEATS: u32 = 4096;

/// How much of everything there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Places for workers, the dead ones included that the caller has not yet settled; at most 4096.
    pub seats: u32,
    /// Tasks that can be published at once; a power of two.
    pub slots: u32,
    /// Address space in bytes for each size class of the arena.
    pub class_bytes: u64,
}

impl Geometry {
    /// The usual geometry for this many workers.
    ///
    /// # Panics
    /// Panics for more than 2040 workers.
    pub fn for_workers(workers: u32) -> Self {
        let seats = workers * 2 + 6;
        assert!(seats <= MOST_SEATS, "a pool has at most 2040 workers");
        Geometry {
            seats,
            slots: 1 << 16,
            class_bytes: 64 << 30,
        }
    }
}

/// The offsets of the parts, computed alike by every side.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub geometry: Geometry,
    pub seat_sets: u64,
    pub seats: u64,
    pub functions: u64,
    pub task_ring: u64,
    pub result_rings: u64,
    pub slots: u64,
    pub notes: u64,
    pub names: u64,
    pub events: u64,
    pub arena: ArenaPlan,
    /// Where what watchers read ends, and the arena begins.
    pub tables_end: u64,
    pub end: u64,
}

impl Plan {
    pub fn new(geometry: Geometry) -> Self {
        let page = |n: u64| n.div_ceil(PAGE_BYTES as u64) * PAGE_BYTES as u64;
        let slots = u64::from(geometry.slots);
        let seat_sets = page(std::mem::size_of::<Header>() as u64);
        let seats = page(seat_sets + 4 * 64 * 8);
        let functions = page(seats + u64::from(geometry.seats) * std::mem::size_of::<Seat>() as u64);
        let task_ring = page(functions + u64::from(FUNCTIONS) * 8);
        let result_rings = page(task_ring + slots * 4);
        let slots_at = page(result_rings + u64::from(geometry.seats) * slots * 4);
        let notes = page(slots_at + slots * std::mem::size_of::<Slot>() as u64);
        let names = page(notes + slots * std::mem::size_of::<Note>() as u64);
        let events = page(names + u64::from(FUNCTIONS) * std::mem::size_of::<Text<NAME_WORDS>>() as u64);
        let tables_end = page(events + EVENT_CELLS * std::mem::size_of::<Cell>() as u64);
        let arena = ArenaPlan::new(tables_end, geometry.class_bytes);
        let end = arena.end();
        Plan {
            geometry,
            seat_sets,
            seats,
            functions,
            task_ring,
            result_rings,
            slots: slots_at,
            notes,
            names,
            events,
            arena,
            tables_end,
            end,
        }
    }
}

/// A field with cache lines of its own.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct Apart<T>(T);

impl<T> std::ops::Deref for Apart<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

/// What the pool as a whole is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Stage {
    /// Taking and running tasks.
    Running = 0,
    /// All tasks are done and no more will come: workers end when they find nothing.
    Finishing = 1,
    /// Ending at once.
    Terminating = 2,
}

/// Words that caller, supervisor and workers share.
#[derive(Debug)]
#[repr(C)]
pub struct Header {
    magic: AtomicU64,
    abi: AtomicU32,
    seats: AtomicU32,
    slots: AtomicU32,
    class_bytes: AtomicU64,
    /// Ring position of the next task to be published; written by the caller alone.
    pub head: Apart<AtomicU64>,
    /// Ring position below which nothing is unclaimed; helped forward by everyone.
    pub tail: Apart<AtomicU64>,
    /// The caller's sleep.
    pub caller: Apart<CallerWords>,
    /// The pool's life.
    pub life: Apart<LifeWords>,
    /// What only watchers read.
    pub watch: Apart<WatchWords>,
}

/// The caller's sleep.
#[derive(Debug)]
#[repr(C)]
pub struct CallerWords {
    /// 1 while a thread of the caller sleeps for results.
    pub sleeping: AtomicU32,
    /// The CPU that the caller was last seen on, plus one.
    pub cpu: AtomicU32,
    /// 1 while tasks wait in the caller by priority: then it is to be woken for each result.
    pub one_by_one: AtomicU32,
    /// Results to be published before the sleeping caller is woken: a hint that keeps a burst from waking it each time.
    pub countdown: AtomicI64,
}

/// The pool's life.
#[derive(Debug)]
#[repr(C)]
pub struct LifeWords {
    /// A [`Stage`].
    pub stage: AtomicU32,
    /// Raised with every end of a worker: a hint to look at the seats.
    pub ends: AtomicU32,
    /// 1 when the pool cannot have workers any more (an initializer raised, the start failed).
    pub broken: AtomicU32,
    /// The block that says why.
    pub broken_block: AtomicU32,
    /// Its length in bytes.
    pub broken_len: AtomicU64,
    /// How many workers there should be.
    pub workers: AtomicU32,
    /// The shortest time limit in use, in milliseconds; 0 if there is none.
    pub shortest_timeout_ms: AtomicU32,
    /// 1 when the supervisor waits for a vacant seat.
    pub seats_wanted: AtomicU32,
    /// Functions in the table; raised after the entry was written.
    pub functions: AtomicU32,
    /// Workers started since the pool was made.
    pub started: AtomicU32,
    /// Tasks a worker runs before it is replaced; 0 for no limit.
    pub tasks_per_worker: AtomicU64,
    /// Bytes of memory of its own that a worker may have, also in the midst of a task; 0 for no limit.
    pub memory_limit: AtomicU64,
    /// Bytes of memory of its own with which a worker is replaced after a task; 0 for no limit.
    pub recycle_memory: AtomicU64,
    /// 1 if what tasks write to their standard output and error is kept.
    pub capture: AtomicU32,
}

impl Header {
    pub(super) fn write(&self, geometry: Geometry) {
        self.seats.store(geometry.seats, Ordering::Relaxed);
        self.slots.store(geometry.slots, Ordering::Relaxed);
        self.class_bytes.store(geometry.class_bytes, Ordering::Relaxed);
        self.abi.store(ABI, Ordering::Relaxed);
        self.magic.store(MAGIC, Ordering::Release);
    }

    pub(super) fn read(&self) -> Option<Geometry> {
        if self.magic.load(Ordering::Acquire) != MAGIC || self.abi.load(Ordering::Relaxed) != ABI {
            return None;
        }
        let geometry = Geometry {
            seats: self.seats.load(Ordering::Relaxed),
            slots: self.slots.load(Ordering::Relaxed),
            class_bytes: self.class_bytes.load(Ordering::Relaxed),
        };
        let sane = (1..=MOST_SEATS).contains(&geometry.seats)
            && geometry.slots.is_power_of_two()
            && geometry.slots <= 1 << 24
            && geometry.class_bytes <= 1 << 40;
        sane.then_some(geometry)
    }

    /// What the pool is about to do.
    #[inline]
    pub fn stage(&self) -> Stage {
        match self.life.stage.load(Ordering::Acquire) {
            0 => Stage::Running,
            1 => Stage::Finishing,
            _ => Stage::Terminating,
        }
    }
}

/// The place of one worker.
///
/// | stage | who moves on | to |
/// | --- | --- | --- |
/// | vacant | supervisor | starting |
/// | starting | worker | ready |
/// | starting, ready | supervisor, when the worker has ended | ended |
/// | ended | caller, when the loss is settled | vacant |
#[derive(Debug)]
#[repr(C, align(256))]
pub struct Seat {
    /// One of [`Seat::VACANT`] and its siblings.
    pub stage: AtomicU32,
    /// Raised to wake the worker.
    pub bell: AtomicU32,
    /// The worker's process id.
    pub pid: AtomicU32,
    /// The number in the worker's name.
    pub number: AtomicU32,
    /// The slot that the worker has or is about to claim, plus one.
    pub current: AtomicU32,
    /// The CPU the worker was last seen on, plus one.
    pub cpu: AtomicU32,
    /// How the worker ended: its exit code, or minus the signal.
    pub exit_code: AtomicI32,
    /// Why the supervisor killed it: one of [`Seat::NOT_KILLED`] and its siblings.
    pub killed: AtomicU32,
    /// When the running item must be over, in nanoseconds of the monotonic clock; 0 if it may run for ever.
    pub deadline_ns: AtomicU64,
    /// When the running item began.
    pub started_ns: AtomicU64,
    /// Slots completed.
    pub items_done: AtomicU64,
    /// When the worker's end was noticed, in nanoseconds of the monotonic clock.
    pub ended_ns: AtomicU64,
    /// Private memory that it had from its birth, in bytes: not its own doing.
    pub inherited_bytes: AtomicU64,
    /// The most memory of its own that was seen, in bytes.
    pub peak_bytes: AtomicU64,
    /// The signal upon which the worker writes its stack down; 0 if it does not.
    pub stack_signal: AtomicU32,
    /// The descriptor, in the worker, of the file where it does.
    pub stack_fd: AtomicU32,
    /// 1 when it has done so.
    pub stack_done: AtomicU32,
    /// Where in that file the stack begins which the supervisor asked for: behind those that watchers asked for.
    pub stack_from: AtomicU32,
    /// The block of the caller's with the stack of a worker that was killed; 0 if there is none.
    pub stack_block: AtomicU32,
    /// The stack's length in bytes.
    pub stack_len: AtomicU32,
    /// The block of the caller's with what the task of a dead worker had written; 0 if there is none.
    pub output_block: AtomicU32,
    /// Its length in bytes.
    pub output_len: AtomicU32,
    /// When the current slot was claimed, in nanoseconds of the coarse monotonic clock; for watchers.
    pub claimed_ns: AtomicU64,
    /// Items run to their end since the worker began, however they ended; for watchers.
    pub items: AtomicU64,
    /// Those of them that raised or panicked; for watchers.
    pub failed: AtomicU64,
    /// Results published in the seat's ring; the only word that says so.
    pub produced: Apart<AtomicU64>,
}

impl Seat {
    /// Nobody sits here.
    pub const VACANT: u32 = 0;
    /// A worker is being started.
    pub const STARTING: u32 = 1;
    /// A worker takes tasks.
    pub const READY: u32 = 2;
    /// The worker has ended; what it left is not settled yet.
    pub const ENDED: u32 = 3;

    /// The supervisor did not kill it.
    pub const NOT_KILLED: u32 = 0;
    /// Its task ran beyond the limit.
    pub const KILLED_FOR_TIME: u32 = 1;
    /// It took more memory than one may.
    pub const KILLED_FOR_MEMORY: u32 = 2;
    /// Its task was cancelled.
    pub const KILLED_BY_CANCEL: u32 = 3;

    /// The deadline word while the supervisor kills the worker for it: a task that ends now ends too late.
    pub const DOOMED: u64 = u64::MAX;
}

/// A task on its way to a worker, and its result on the way back.
#[derive(Debug)]
#[repr(C, align(256))]
pub struct Slot {
    pub(super) state: AtomicU64,
    /// The next item to be run (low half) and the one behind the last (high half).
    pub range: AtomicU64,
    /// Items whose results can be read.
    pub finished: AtomicU32,
    /// What the payload is; the codec's affair.
    pub kind: AtomicU32,
    /// The function to be called.
    pub function: AtomicU32,
    /// How long an item may run, in milliseconds; 0 for ever.
    pub timeout_ms: AtomicU32,
    /// Bytes of the payload, inline or in the block.
    pub payload_len: AtomicU64,
    /// The block with the payload; 0 if it is inline.
    pub payload_block: AtomicU32,
    /// The block with the result; 0 if it is inline.
    pub result_block: AtomicU32,
    /// Bytes of the result.
    pub result_len: AtomicU64,
    /// How long the items took together, in nanoseconds.
    pub elapsed_ns: AtomicU64,
    inline: UnsafeCell<[u8; SLOT_INLINE_BYTES]>,
}

impl Slot {
    /// The bytes in the slot itself; [`SLOT_INLINE_BYTES`] of them.
    ///
    /// Whoever the state word names may use them: the caller while vacant or done, the worker while claimed.
    #[inline]
    pub fn inline(&self) -> *mut u8 {
        self.inline.get().cast()
    }

    /// Takes the next item of the batch for running, unless the rest was taken away.
    #[inline]
    pub fn next_item(&self) -> Option<u32> {
        let mut seen = self.range.load(Ordering::Relaxed);
        loop {
            let (next, limit) = (seen as u32, (seen >> 32) as u32);
            if next >= limit {
                return None;
            }
            match self
                .range
                .compare_exchange_weak(seen, seen + 1, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return Some(next),
                Err(now) => seen = now,
            }
        }
    }

    /// Takes the items away that are not yet begun: from the returned one on, up to the former limit.
    pub fn take_rest(&self) -> (u32, u32) {
        let mut seen = self.range.load(Ordering::Relaxed);
        loop {
            let (next, limit) = (seen as u32, (seen >> 32) as u32);
            if next >= limit {
                return (limit, limit);
            }
            let shut = u64::from(next) << 32 | u64::from(next);
            match self
                .range
                .compare_exchange_weak(seen, shut, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return (next, limit),
                Err(now) => seen = now,
            }
        }
    }

    /// The next item to be run and the one behind the last.
    #[inline]
    pub fn range(&self) -> (u32, u32) {
        let word = self.range.load(Ordering::Acquire);
        (word as u32, (word >> 32) as u32)
    }

    /// Sets how many items there are, none begun.
    #[inline]
    pub fn set_items(&self, items: u32) {
        self.range.store(u64::from(items) << 32, Ordering::Relaxed);
        self.finished.store(0, Ordering::Relaxed);
    }
}
