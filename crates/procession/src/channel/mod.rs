//! How tasks reach workers and results come back, through memory that both share.
#![doc = include_str!("README.md")]

mod events;
mod layout;
mod view;
mod wake;
mod watched;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{fence, AtomicU64, Ordering};
use std::sync::Arc;
use std::{fmt, io};

use crate::os::memory::{create_sealed, is_out_of_descriptors, Mapping};
use crate::shm::{Arena, Owner};
pub use events::{EventReader, Record, What};
pub use layout::{Geometry, Seat, Slot, Stage, SLOT_INLINE_BYTES};
use layout::{Header, Plan};
pub use view::View;
pub use wake::{Idle, SpinBudget};
pub use watched::{Note, Text, WatchWords};

/// What a slot's state word says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotState {
    /// The caller's, unused or being filled.
    Vacant,
    /// Published at this ring position, nobody's yet.
    Ready(u64),
    /// Being worked on by the worker in this seat.
    Claimed(u32, u64),
    /// Finished by the worker in this seat; the result lies in the slot.
    Done(u32, u64),
    /// Being worked on by the worker in this seat, which is to be killed for it: nothing of it counts any more.
    Doomed(u32, u64),
    /// Not a state that anyone writes.
    Corrupt,
}

const POSITION_BITS: u32 = 48;
const POSITION_MASK: u64 = (1 << POSITION_BITS) - 1;
const READY: u64 = 1;
const CLAIMED: u64 = 2;
const DONE: u64 = 3;
const DOOMED: u64 = 4;

impl SlotState {
    fn pack(self) -> u64 {
        let word = |tag: u64, seat: u32, position: u64| {
            tag << 60 | u64::from(seat) << POSITION_BITS | position & POSITION_MASK
        };
        match self {
            SlotState::Vacant => 0,
            SlotState::Ready(p) => word(READY, 0, p),
            SlotState::Claimed(w, p) => word(CLAIMED, w, p),
            SlotState::Done(w, p) => word(DONE, w, p),
            SlotState::Doomed(w, p) => word(DOOMED, w, p),
            SlotState::Corrupt => u64::MAX,
        }
    }

    fn unpack(word: u64) -> Self {
        let (seat, position) = ((word >> POSITION_BITS) as u32 & 0xFFF, word & POSITION_MASK);
        match word >> 60 {
            0 => SlotState::Vacant,
            READY => SlotState::Ready(position),
            CLAIMED => SlotState::Claimed(seat, position),
            DONE => SlotState::Done(seat, position),
            DOOMED => SlotState::Doomed(seat, position),
            _ => SlotState::Corrupt,
        }
    }
}

/// One process's view of the memory that a pool's processes share.
pub struct Channel {
    mapping: Arc<Mapping>,
    plan: Plan,
    arena: Arc<Arena>,
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("geometry", &self.plan.geometry)
            .finish_non_exhaustive()
    }
}

impl Channel {
    /// Makes the shared memory for a new pool.
    ///
    /// Where address space is limited (`RLIMIT_AS`), a smaller arena is tried.
    ///
    /// # Errors
    /// When the system has no descriptor or no address space left.
    pub fn create(mut geometry: Geometry, idle_cap_bytes: u64) -> io::Result<Self> {
        loop {
            let plan = Plan::new(geometry);
            let made = create_sealed("procession", plan.end).and_then(Mapping::new);
            match made {
                Ok(mapping) => {
                    let channel = Self::over(Arc::new(mapping), plan, idle_cap_bytes);
                    channel.header().write(geometry);
                    let watch = &channel.header().watch;
                    watch
                        .created_ns
                        .store(crate::os::time::monotonic_ns(), Ordering::Relaxed);
                    watch.caller_pid.store(std::process::id(), Ordering::Relaxed);
                    channel.mapping.populate(channel.plan.slots as usize, 64 * 1024);
                    return Ok(channel);
                }
                Err(e) if geometry.class_bytes > 1 << 22 && !is_out_of_descriptors(&e) => {
                    geometry.class_bytes >>= 4;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Opens the shared memory of a pool whose descriptor was inherited or received.
    ///
    /// # Errors
    /// When the descriptor is no pool's memory, or one of another version of this crate.
    pub fn open(fd: OwnedFd, idle_cap_bytes: u64) -> io::Result<Self> {
        let mapping = Mapping::new(fd)?;
        let refuse = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidData, why.to_string()));
        if mapping.len() < std::mem::size_of::<Header>() {
            return refuse("the shared memory is too short to be a pool's");
        }
        // SAFETY: the mapping is at least as long as a header, page aligned, and a header is valid for any bytes.
        let header = unsafe { &*mapping.start().as_ptr().cast::<Header>() };
        let Some(geometry) = header.read() else {
            return refuse("the shared memory was made by another version of procession");
        };
        let plan = Plan::new(geometry);
        if plan.end != mapping.len() as u64 {
            return refuse("the shared memory does not have the length its header tells");
        }
        Ok(Self::over(Arc::new(mapping), plan, idle_cap_bytes))
    }

    fn over(mapping: Arc<Mapping>, plan: Plan, idle_cap_bytes: u64) -> Self {
        let arena = Arc::new(Arena::new(mapping.clone(), plan.arena.clone(), idle_cap_bytes));
        Channel { mapping, plan, arena }
    }

    /// The descriptor of the shared memory, to be passed to a process that opens it.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.mapping.fd()
    }

    /// The blocks for what does not fit into a slot.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// The same, for those who keep its blocks longer than the channel.
    pub fn shared_arena(&self) -> Arc<Arena> {
        self.arena.clone()
    }

    /// How many seats and slots there are.
    pub fn geometry(&self) -> Geometry {
        self.plan.geometry
    }

    /// Words that caller, supervisor and workers share.
    pub fn header(&self) -> &Header {
        // SAFETY: the mapping begins with a header, lives as long as `self`, and all its fields are atomics.
        unsafe { &*self.mapping.start().as_ptr().cast::<Header>() }
    }

    /// The seat with this number.
    ///
    /// # Panics
    /// Panics if there is no such seat.
    pub fn seat(&self, seat: u32) -> &Seat {
        assert!(seat < self.plan.geometry.seats, "seat {seat} does not exist");
        let offset = self.plan.seats as usize + seat as usize * std::mem::size_of::<Seat>();
        // SAFETY: the plan places `seats` seats there, aligned, inside the mapping; all fields are atomics.
        unsafe { &*self.mapping.start().as_ptr().add(offset).cast::<Seat>() }
    }

    /// The slot with this number.
    ///
    /// # Panics
    /// Panics if there is no such slot.
    #[inline]
    pub fn slot(&self, slot: u32) -> &Slot {
        assert!(slot < self.plan.geometry.slots, "slot {slot} does not exist");
        let offset = self.plan.slots as usize + slot as usize * std::mem::size_of::<Slot>();
        // SAFETY: the plan places `slots` slots there, aligned, inside the mapping; all fields are atomics or raw
        // bytes in `UnsafeCell`s.
        unsafe { &*self.mapping.start().as_ptr().add(offset).cast::<Slot>() }
    }

    #[inline]
    fn task_cell(&self, position: u64) -> &std::sync::atomic::AtomicU32 {
        let index = position as usize & (self.plan.geometry.slots as usize - 1);
        // SAFETY: the plan places `slots` cells there; the mask keeps the index below that.
        unsafe {
            &*self
                .mapping
                .start()
                .as_ptr()
                .add(self.plan.task_ring as usize + index * 4)
                .cast()
        }
    }

    #[inline]
    fn result_cell(&self, seat: u32, position: u64) -> &std::sync::atomic::AtomicU32 {
        let slots = self.plan.geometry.slots as usize;
        let index = seat as usize * slots + (position as usize & (slots - 1));
        // SAFETY: the plan places `slots` cells for each seat there; callers got `seat` from a checked place.
        unsafe {
            &*self
                .mapping
                .start()
                .as_ptr()
                .add(self.plan.result_rings as usize + index * 4)
                .cast()
        }
    }

    /// The words of a bit set over the seats.
    fn seat_set(&self, set: usize) -> &[AtomicU64] {
        let words = self.plan.geometry.seats.div_ceil(64) as usize;
        let offset = self.plan.seat_sets as usize + set * 64 * 8;
        // SAFETY: the plan places four sets of 64 words there; there are at most 4096 seats.
        unsafe { std::slice::from_raw_parts(self.mapping.start().as_ptr().add(offset).cast(), words) }
    }

    /// The entry of the table of functions: block number and length in one word.
    ///
    /// # Panics
    /// Panics if `function` is not below the table's length.
    pub fn function_entry(&self, function: u32) -> &AtomicU64 {
        assert!(function < layout::FUNCTIONS, "function {function} does not exist");
        // SAFETY: the plan places that many words there.
        unsafe {
            &*self
                .mapping
                .start()
                .as_ptr()
                .add(self.plan.functions as usize + function as usize * 8)
                .cast()
        }
    }

    /// Tells watchers the name of a function.
    ///
    /// # Panics
    /// Panics if `function` is not below the table's length.
    pub fn set_function_name(&self, function: u32, name: &str) {
        assert!(function < layout::FUNCTIONS, "function {function} does not exist");
        let offset = self.plan.names as usize + function as usize * std::mem::size_of::<watched::Name>();
        // SAFETY: the plan places that many names there; all their words are atomics.
        unsafe { &*self.mapping.start().as_ptr().add(offset).cast::<watched::Name>() }.set(name);
    }

    /// The name of a function, for watchers; empty if it has none.
    pub fn function_name(&self, function: u32) -> String {
        if function >= layout::FUNCTIONS {
            return String::new();
        }
        let offset = self.plan.names as usize + function as usize * std::mem::size_of::<watched::Name>();
        // SAFETY: as in `set_function_name`.
        unsafe { &*self.mapping.start().as_ptr().add(offset).cast::<watched::Name>() }.get()
    }

    fn event_cell(&self, number: u64) -> &events::Cell {
        let index = number & (events::EVENT_CELLS - 1);
        let offset = self.plan.events as usize + index as usize * std::mem::size_of::<events::Cell>();
        // SAFETY: the plan places that many cells there; all their words are atomics.
        unsafe { &*self.mapping.start().as_ptr().add(offset).cast::<events::Cell>() }
    }

    /// What the caller notes of the task in a slot, for watchers.
    ///
    /// # Panics
    /// Panics if there is no such slot.
    #[inline]
    pub fn note(&self, slot: u32) -> &Note {
        assert!(slot < self.plan.geometry.slots, "slot {slot} does not exist");
        let offset = self.plan.notes as usize + slot as usize * std::mem::size_of::<Note>();
        // SAFETY: the plan places `slots` notes there; all their words are atomics.
        unsafe { &*self.mapping.start().as_ptr().add(offset).cast::<Note>() }
    }

    /// Adds what the worker in `seat`, which has ended, has counted to the pool's totals.
    pub fn add_up(&self, seat: u32, in_order: bool) {
        let (s, watch) = (self.seat(seat), &self.header().watch);
        watch
            .items
            .fetch_add(s.items.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        watch
            .failed
            .fetch_add(s.failed.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        let how = if in_order { &watch.retired } else { &watch.died };
        how.fetch_add(1, Ordering::Relaxed);
    }

    /// How many functions the table holds at most.
    pub fn most_functions(&self) -> u32 {
        layout::FUNCTIONS
    }

    // ---- caller -------------------------------------------------------------------------------------------------

    /// Publishes a filled slot at the next ring position. Only the caller does, one thread at a time.
    ///
    /// Workers are not woken; see [`Channel::wake_worker`].
    #[inline]
    pub fn publish(&self, slot: u32) {
        let header = self.header();
        let position = header.head.load(Ordering::Relaxed);
        let s = self.slot(slot);
        // Sync point *task content*: this Release and that of `head` come after the slot was filled.
        s.state.store(
            SlotState::Ready(position & POSITION_MASK).pack(),
            Ordering::Release,
        );
        self.task_cell(position).store(slot, Ordering::Relaxed);
        header.head.store(position + 1, Ordering::Release);
    }

    /// How many tasks can be published before a cell of the task ring would be written that may hold an unclaimed one.
    ///
    /// One cell a seat is kept back: what a dead worker had may be published again without asking for room.
    pub fn room(&self) -> u64 {
        let header = self.header();
        let Geometry { slots, seats, .. } = self.plan.geometry;
        let cells = u64::from(slots.saturating_sub(1 + seats).max(slots / 2));
        let used = || {
            header
                .head
                .load(Ordering::Relaxed)
                .saturating_sub(header.tail.load(Ordering::Relaxed))
        };
        if used() >= cells / 2 {
            // Claimed cells below the oldest unclaimed one are passed only by somebody's help.
            self.help_tail();
        }
        cells.saturating_sub(used())
    }

    /// How many tasks the ring holds that look unclaimed.
    pub fn unclaimed(&self) -> u64 {
        self.help_tail();
        let header = self.header();
        header
            .head
            .load(Ordering::Relaxed)
            .saturating_sub(header.tail.load(Ordering::Relaxed))
    }

    /// Takes an unclaimed slot back; true if no worker has it and none will.
    pub fn take_back(&self, slot: u32) -> bool {
        let s = self.slot(slot);
        let word = s.state.load(Ordering::Acquire);
        matches!(SlotState::unpack(word), SlotState::Ready(_))
            && s.state
                .compare_exchange(word, 0, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }

    /// Condemns the worker that has this slot: it can publish nothing any more, and waits to be killed. True if one has it.
    ///
    /// As the worker publishes by the same compare-and-swap, either its result counts or the kill does, never both.
    pub fn doom(&self, slot: u32) -> bool {
        let s = self.slot(slot);
        let word = s.state.load(Ordering::Acquire);
        let SlotState::Claimed(seat, position) = SlotState::unpack(word) else {
            return false;
        };
        let doomed = SlotState::Doomed(seat, position).pack();
        s.state
            .compare_exchange(word, doomed, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// The slot for which the worker in `seat` is condemned, if it is.
    pub fn doomed_slot(&self, seat: u32) -> Option<u32> {
        let slot = self.seat(seat).current.load(Ordering::Acquire).checked_sub(1)?;
        let is_its = slot < self.plan.geometry.slots
            && matches!(self.slot_state(slot), SlotState::Doomed(by, _) if by == seat);
        is_its.then_some(slot)
    }

    /// The state of a slot.
    #[inline]
    pub fn slot_state(&self, slot: u32) -> SlotState {
        SlotState::unpack(self.slot(slot).state.load(Ordering::Acquire))
    }

    /// Makes a slot the caller's again, after its result was taken or its worker is known dead.
    #[inline]
    pub fn vacate(&self, slot: u32) {
        self.slot(slot).state.store(0, Ordering::Relaxed);
    }

    /// How many results the worker in `seat` has published.
    #[inline]
    pub fn produced(&self, seat: u32) -> u64 {
        // Sync point *result content*: pairs with the Release in `complete`.
        self.seat(seat).produced.load(Ordering::Acquire)
    }

    /// The slot in this cell of a seat's result ring, if it is a number that can be one.
    #[inline]
    pub fn result_at(&self, seat: u32, position: u64) -> Option<u32> {
        let slot = self.result_cell(seat, position).load(Ordering::Relaxed);
        (slot < self.plan.geometry.slots).then_some(slot)
    }

    // ---- worker -------------------------------------------------------------------------------------------------

    /// Whether the task ring holds anything that looks unclaimed.
    #[inline]
    pub fn has_tasks(&self) -> bool {
        let header = self.header();
        header.tail.load(Ordering::Acquire) < header.head.load(Ordering::Acquire)
    }

    /// Claims the oldest task for the worker in `seat`.
    #[inline]
    pub fn claim(&self, seat: u32) -> Option<u32> {
        let header = self.header();
        let me = self.seat(seat);
        loop {
            let tail = header.tail.load(Ordering::Acquire);
            if tail >= header.head.load(Ordering::Acquire) {
                return None;
            }
            let slot = self.task_cell(tail).load(Ordering::Relaxed);
            if slot < self.plan.geometry.slots {
                let s = self.slot(slot);
                let ready = SlotState::Ready(tail & POSITION_MASK).pack();
                if s.state.load(Ordering::Acquire) == ready {
                    // The intent comes before the claim: whoever finds this worker dead looks at this one slot.
                    me.current.store(slot + 1, Ordering::Relaxed);
                    crate::crash_point!("claim-before");
                    let mine = SlotState::Claimed(seat, tail).pack();
                    // Sync point *task content*: Acquire pairs with the Release in `publish`.
                    if s.state
                        .compare_exchange(ready, mine, Ordering::AcqRel, Ordering::Relaxed)
                        .is_ok()
                    {
                        crate::crash_point!("claim-after");
                        let _ =
                            header
                                .tail
                                .compare_exchange(tail, tail + 1, Ordering::AcqRel, Ordering::Relaxed);
                        return Some(slot);
                    }
                }
            }
            // Somebody has it: help the tail past it, for that somebody may be dead.
            let _ = header
                .tail
                .compare_exchange(tail, tail + 1, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// Moves the tail past cells whose slots are claimed or taken back.
    fn help_tail(&self) {
        let header = self.header();
        loop {
            let tail = header.tail.load(Ordering::Acquire);
            if tail >= header.head.load(Ordering::Acquire) {
                return;
            }
            let slot = self.task_cell(tail).load(Ordering::Relaxed);
            if slot < self.plan.geometry.slots
                && self.slot(slot).state.load(Ordering::Acquire)
                    == SlotState::Ready(tail & POSITION_MASK).pack()
            {
                return;
            }
            let _ = header
                .tail
                .compare_exchange(tail, tail + 1, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// Publishes the result that lies in a slot claimed by the worker in `seat`, and wakes a caller that sleeps for it.
    ///
    /// Returns false if the slot is not this worker's any more.
    #[inline]
    pub fn complete(&self, seat: u32, slot: u32) -> bool {
        let me = self.seat(seat);
        let s = self.slot(slot);
        let claimed = s.state.load(Ordering::Relaxed);
        let SlotState::Claimed(owner, position) = SlotState::unpack(claimed) else {
            return self.wait_if_doomed(seat, slot);
        };
        if owner != seat {
            return false;
        }
        crate::crash_point!("publish-before");
        // Sync point *result content*: Release here, for a caller that finds the slot after this worker's death.
        let done = SlotState::Done(seat, position).pack();
        if s.state
            .compare_exchange(claimed, done, Ordering::Release, Ordering::Relaxed)
            .is_err()
        {
            return self.wait_if_doomed(seat, slot);
        }
        crate::crash_point!("publish-between");
        let produced = me.produced.load(Ordering::Relaxed);
        self.result_cell(seat, produced).store(slot, Ordering::Relaxed);
        // Sync point *result content*: Release pairs with the Acquire in `produced`.
        me.produced.store(produced + 1, Ordering::Release);
        crate::crash_point!("publish-after");
        me.current.store(0, Ordering::Relaxed);
        // Sync point *caller sleeps*: pairs with the fence in `prepare_caller_sleep`.
        fence(Ordering::SeqCst);
        self.header().caller.sleeping.load(Ordering::Relaxed) != 0
    }

    /// Whose slot is doomed must not begin another one: the supervisor is about to kill it for this one.
    #[cold]
    fn wait_if_doomed(&self, seat: u32, slot: u32) -> bool {
        while matches!(self.slot_state(slot), SlotState::Doomed(by, _) if by == seat) {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        false
    }

    /// The owner that stands for the worker in `seat`.
    pub fn owner(seat: u32) -> Owner {
        Owner::seat(seat)
    }
}
