//! Queues between processes, in memory that all of them share.
#![doc = include_str!("README.md")]

mod bell;
mod garbage;
mod layout;
mod typed;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use self::bell::Bell;
use self::layout::{
    next_segment, offset_of, segment_of, Header, Mark, Plan, RecordWord, MAGIC, MOST_BLOCKS,
    MOST_INLINE_BYTES, MOST_LEN, NAME_WORDS, RECORD_WORD_BYTES, SEGMENTS, SEGMENT_BYTES, SEGMENT_UNITS,
    UNIT_BYTES,
};
use crate::connection::Spin;
use crate::os::event::Event;
use crate::os::futex::{self, Waited};
use crate::os::memory::{create_sealed, is_out_of_descriptors, Mapping, PAGE_BYTES};
use crate::os::time;
use crate::shm::{AllocError, Arena, Block, Owner};
use crate::sync::memory::remember_awaited;
use crate::sync::waits::{About, Awaited, Deadlock, For, WaitTable, TABLE_AT, TABLE_END};
use crate::sync::{ChangeWatch, Identity, Pace, RawLock, Stir};

pub use typed::{Queue, QueueError};

/// Address space for each size of block. Only what is used takes memory.
const CLASS_BYTES: u64 = 4 << 30;
/// Memory that idle blocks may keep.
const IDLE_CAP_BYTES: u64 = 64 << 20;

/// Why an item could not be put.
#[derive(Debug)]
pub enum PutError {
    /// As many items are in the queue as it may hold.
    Full,
    /// Somebody else is putting an item at this moment.
    Busy,
    /// There is no shared memory for it.
    Memory(AllocError),
    /// The item has more bytes, or more large buffers, than a queue takes.
    TooLarge,
    /// The queue's memory says what nobody writes.
    Garbled,
}

/// Why there is no item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakeError {
    /// The queue is empty.
    Empty,
    /// Somebody else is taking an item at this moment.
    Busy,
    /// The queue's memory says what nobody writes.
    Garbled,
}

/// A queue of byte strings, each with the blocks of shared memory that belong to it.
///
/// This is what the queues of Python and [`Queue`] are made of. What is put is in shared memory when the call returns: it
/// survives whoever put it.
pub struct ByteQueue {
    mapping: Arc<Mapping>,
    board: Arc<dyn Awaited>,
    /// The process because of which the last long wait here was no deadlock.
    witness: AtomicU32,
    arena: Arc<Arena>,
    plan: Plan,
    event: Event,
    spin_for_items: Spin,
    spin_for_room: Spin,
}

impl fmt::Debug for ByteQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByteQueue")
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for ByteQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            name if name.is_empty() => f.write_str("queue"),
            name => f.write_str(&name),
        }
    }
}

/// The queue's memory as that in which it is written who waits for it.
#[derive(Debug)]
struct Board(Arc<Mapping>);

impl Awaited for Board {
    fn waits(&self) -> &WaitTable {
        // SAFETY: the plan leaves room for the table there, at a page's begin, and all of it are atomics, which may have any
        // bits.
        unsafe { self.0.start().add(TABLE_AT).cast::<WaitTable>().as_ref() }
    }

    fn prepare(&self) -> bool {
        self.0
            .allocate(TABLE_AT as u64, (TABLE_END - TABLE_AT) as u64)
            .is_ok()
    }
}

/// Has a wait without a time limit say who waits, and where, if it lasts: then a deadlock that it is part of is found. `None`
/// for waits in which none is looked for.
pub type Asked<'a> = Option<&'a dyn Fn() -> About>;

/// Holds a lock until the end of a scope.
struct Held<'a> {
    lock: &'a RawLock,
    me: Identity,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // It is ours, so it is locked.
        let _ = self.lock.unlock(self.me);
    }
}

/// An item as it lies in the queue. Its blocks are the taker's already.
#[derive(Debug)]
pub struct Item<'a> {
    /// Its data, which may lie in `data_block`.
    pub data: &'a [u8],
    /// The block in which the data lies, if it is long. Whoever takes the item frees it, after it has used the data.
    pub data_block: Option<Block>,
}

impl ByteQueue {
    /// A new queue for up to `capacity` items; without one, for as many as there is memory for.
    ///
    /// # Errors
    /// When the system has no descriptor or no memory left.
    pub fn create(capacity: Option<u32>) -> io::Result<ByteQueue> {
        let mut class_bytes = CLASS_BYTES;
        let mapping = loop {
            let plan = Plan::new(class_bytes);
            match create_sealed("procession-queue", plan.end).and_then(Mapping::new) {
                Ok(mapping) => break mapping,
                // Where address space is limited, a smaller one is tried.
                Err(e) if class_bytes > 1 << 22 && !is_out_of_descriptors(&e) => class_bytes >>= 4,
                Err(e) => return Err(e),
            }
        };
        // What every operation touches must not fail for want of memory later.
        mapping.allocate(0, PAGE_BYTES as u64)?;
        let queue = Self::over(mapping, Plan::new(class_bytes), Event::new()?);
        let header = queue.header();
        header.class_bytes.store(class_bytes, Ordering::Relaxed);
        header
            .capacity
            .store(capacity.unwrap_or(u32::MAX).max(1), Ordering::Relaxed);
        header.sweep_at_bytes.store(IDLE_CAP_BYTES, Ordering::Relaxed);
        header.origin.made();
        // Sync point *queue is made*: pairs with the load in `open`.
        header.magic.store(MAGIC, Ordering::Release);
        Ok(queue)
    }

    /// The queue behind the descriptors of another process's [`fds`](ByteQueue::fds).
    ///
    /// # Errors
    /// When they are none of a queue, or memory cannot be mapped.
    pub fn open(memory: OwnedFd, event: OwnedFd) -> io::Result<ByteQueue> {
        let refuse = || {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "the shared memory is not a queue's, or was made by another version of procession",
            )
        };
        let mapping = Mapping::new(memory)?;
        if mapping.len() < PAGE_BYTES {
            return Err(refuse());
        }
        // SAFETY: the mapping is at least a page long and page-aligned, and a header is valid for any bytes.
        let header = unsafe { mapping.start().cast::<Header>().as_ref() };
        // Sync point *queue is made*: pairs with the store in `create`.
        let made = header.magic.load(Ordering::Acquire) == MAGIC;
        let class_bytes = header.class_bytes.load(Ordering::Relaxed);
        if !made || !(1 << 16..=CLASS_BYTES).contains(&class_bytes) {
            return Err(refuse());
        }
        let plan = Plan::new(class_bytes);
        if plan.end != mapping.len() as u64 {
            return Err(refuse());
        }
        header.origin.opened();
        Ok(Self::over(mapping, plan, Event::from_fd(event)))
    }

    fn over(mapping: Mapping, plan: Plan, event: Event) -> ByteQueue {
        let mapping = Arc::new(mapping);
        let board: Arc<dyn Awaited> = Arc::new(Board(mapping.clone()));
        remember_awaited(Arc::downgrade(&board));
        ByteQueue {
            board,
            witness: AtomicU32::new(0),
            arena: Arc::new(Arena::new(mapping.clone(), plan.arena.clone(), IDLE_CAP_BYTES)),
            mapping,
            plan,
            event,
            spin_for_items: Spin::new(),
            spin_for_room: Spin::new(),
        }
    }

    /// Gives it a name for errors, of which the last 64 bytes are kept.
    pub fn set_name(&self, name: &str) {
        let mut bytes = [0u8; NAME_WORDS * 8];
        let mut from = name.len().saturating_sub(bytes.len());
        while !name.is_char_boundary(from) {
            from += 1;
        }
        bytes[..name.len() - from].copy_from_slice(&name.as_bytes()[from..]);
        for (word, bytes) in self.header().name.iter().zip(bytes.as_chunks::<8>().0) {
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
    }

    /// The name that it was given, by whichever process.
    pub fn name(&self) -> String {
        let words = self.header().name.iter();
        let bytes: Vec<u8> = words
            .flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes())
            .take_while(|&byte| byte != 0)
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The descriptors to be passed to a process that [`open`](ByteQueue::open)s the queue: its memory and its event.
    pub fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.mapping.fd(), self.event.as_fd()]
    }

    /// The blocks for what is large.
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// Whose blocks are that this process puts or has taken.
    pub fn owner() -> Owner {
        Owner::process(Identity::current().pid())
    }

    fn header(&self) -> &Header {
        // SAFETY: the mapping begins with a header, lives as long as `self`, and all its fields are atomics.
        unsafe { self.mapping.start().cast::<Header>().as_ref() }
    }

    fn table_entry(&self, segment: u32) -> &AtomicU32 {
        debug_assert!(segment < SEGMENTS);
        // SAFETY: the plan places `SEGMENTS` words there, inside the mapping; segment numbers are below that.
        unsafe {
            self.mapping
                .start()
                .add(self.plan.table + segment as usize * 4)
                .cast::<AtomicU32>()
                .as_ref()
        }
    }

    fn tail(&self) -> Mark {
        // Sync point *record content*: pairs with the store in `append`.
        Mark::unpack(self.header().tail.0.load(Ordering::Acquire))
    }

    fn head(&self) -> Mark {
        // Sync point *segment is left*: pairs with the store in `remove`.
        Mark::unpack(self.header().head.0.load(Ordering::Acquire))
    }

    /// How many items are in the queue just now.
    pub fn len(&self) -> usize {
        let head = self.head();
        // Read last, so that it is never behind the other.
        self.tail().items.wrapping_sub(head.items) as usize
    }

    /// Whether there is no item just now.
    #[inline]
    pub fn is_empty(&self) -> bool {
        let header = self.header();
        header.head.0.load(Ordering::Relaxed) == header.tail.0.load(Ordering::Acquire)
    }

    /// How many items it may hold, if that is limited.
    pub fn capacity(&self) -> Option<u32> {
        Some(self.header().capacity.load(Ordering::Relaxed)).filter(|&c| c != u32::MAX)
    }

    /// Whether it holds as many items as it may.
    pub fn is_full(&self) -> bool {
        self.len() >= self.header().capacity.load(Ordering::Relaxed) as usize
    }

    // --- locks and waits -------------------------------------------------------------------------------------------

    fn try_hold<'a>(lock: &'a RawLock) -> Option<Held<'a>> {
        let me = Identity::current();
        for _ in 0..100 {
            if lock.try_lock(me, false) {
                return Some(Held { lock, me });
            }
            // A thread of this process may need what the caller holds in order to go on.
            if lock.owner().is_some_and(|owner| owner.is_same_process(me)) {
                return None;
            }
            std::hint::spin_loop();
        }
        None
    }

    fn hold<'a, E>(
        lock: &'a RawLock,
        limit: Option<Duration>,
        stir: &mut dyn FnMut(Stir) -> Result<(), E>,
    ) -> Result<Option<Held<'a>>, E> {
        let me = Identity::current();
        // What a dead owner has left is whole: it is visible by one store at the end, or not at all.
        Ok(lock.lock(me, false, limit, stir)?.map(|_| Held { lock, me }))
    }

    /// What a wait for an item, for room, or until all is done sees.
    fn is_ready(&self, what_for: For) -> bool {
        match what_for {
            For::Item => !self.is_empty(),
            For::Room => !self.is_full(),
            _ => self.unfinished() == 0,
        }
    }

    /// The word without a change of which such a wait does not end, and what it says; `None` if the wait is over. Each of
    /// them only ever grows, so it is changed for good.
    fn unchanged(&self, what_for: For) -> Option<(u64, u64)> {
        let header = self.header();
        let (head, tail) = (header.head.0.as_ptr(), header.tail.0.as_ptr());
        let (address, value) = match what_for {
            For::Item => {
                let value = header.tail.0.load(Ordering::Acquire);
                (
                    tail.cast::<u8>(),
                    (header.head.0.load(Ordering::Acquire) == value).then_some(value),
                )
            }
            For::Room => {
                let value = header.head.0.load(Ordering::Acquire);
                let items = self.tail().items.wrapping_sub(Mark::unpack(value).items);
                let is_full = items >= header.capacity.load(Ordering::Relaxed);
                (head.cast::<u8>(), is_full.then_some(value))
            }
            _ => {
                let value = header.done.0.load(Ordering::Acquire);
                // It is read as a longer word: the rest of its line is zero.
                let mut bytes = [0; 8];
                bytes[..4].copy_from_slice(&value.to_ne_bytes());
                let word = (self.tail().items != value).then_some(u64::from_ne_bytes(bytes));
                (header.done.0.as_ptr().cast::<u8>(), word)
            }
        };
        let offset = address.addr() - self.mapping.start().as_ptr().addr();
        Some((offset as u64, value?))
    }

    fn watch<'a>(
        &'a self,
        what_for: For,
        limit: Option<Duration>,
        asked: Asked<'a>,
    ) -> Option<ChangeWatch<'a>> {
        match (limit, asked) {
            (None, Some(about)) => Some(ChangeWatch::new(&self.board, what_for, &self.witness, about)),
            _ => None,
        }
    }

    /// Waits until it is ready for that; false when the time was over first.
    fn wait<E: From<Deadlock>>(
        &self,
        what_for: For,
        bell: &Bell,
        spin: Option<&Spin>,
        pace: &Pace,
        stir: &mut dyn FnMut(Stir) -> Result<(), E>,
        watch: &mut Option<ChangeWatch<'_>>,
    ) -> Result<bool, E> {
        let ready = || self.is_ready(what_for);
        if ready() || spin.is_some_and(|spin| spin.until(&ready)) {
            return Ok(true);
        }
        loop {
            let word = bell.prepare();
            if ready() {
                break;
            }
            let Some(slice) = pace.slice() else {
                return Ok(false);
            };
            let waited = futex::wait(bell.word(), word, Some(slice));
            if ready() {
                break;
            }
            if waited != Waited::Woken {
                stir(Stir {
                    waited: pace.waited(),
                    interrupted: waited == Waited::Interrupted,
                })?;
                if let Some(watch) = watch {
                    watch.look(pace.waited(), &|| self.unchanged(what_for), &|| self.to_string())?;
                }
            }
        }
        // Whoever goes on from here may take what another one waits for: it must not be seen as waiting itself any more.
        if let Some(watch) = watch {
            watch.leave();
        }
        Ok(true)
    }

    /// The other side can only hurry while we stay awake if it is on another CPU.
    fn if_elsewhere<'a>(spin: &'a Spin, cpu: &AtomicU32) -> Option<&'a Spin> {
        (cpu.load(Ordering::Relaxed) != time::current_cpu() + 1).then_some(spin)
    }

    // --- putting ---------------------------------------------------------------------------------------------------

    /// Puts an item if that can be done at once. `blocks` belong to this process and to the item from now on.
    ///
    /// # Errors
    /// [`PutError`]; the blocks are still the caller's then.
    pub fn try_put(&self, data: &[u8], blocks: &[Block]) -> Result<(), PutError> {
        let long = self.store_long(data)?;
        let held = Self::try_hold(&self.header().put_lock.0).ok_or(PutError::Busy)?;
        self.append(data, blocks, long.block())?;
        drop(held);
        long.into_queue();
        self.announce_item();
        Ok(())
    }

    /// Puts an item; waits for room, for `limit` at most: false if the time was over.
    ///
    /// A queue without a capacity has room at all times; then the limit does not matter. `stir` is called from time to time
    /// and after signals; an error of it ends the wait. `asked`: see [`Asked`].
    ///
    /// # Errors
    /// What `stir` returned, a deadlock that the wait is part of, or the reason why the item can never be put. The blocks are still the caller's then, as they are
    /// after false.
    pub fn put<E: From<PutError> + From<Deadlock>>(
        &self,
        data: &[u8],
        blocks: &[Block],
        limit: Option<Duration>,
        stir: &mut dyn FnMut(Stir) -> Result<(), E>,
        asked: Asked<'_>,
    ) -> Result<bool, E> {
        let header = self.header();
        let limit = if self.capacity().is_none() { None } else { limit };
        let long = self.store_long(data)?;
        let pace = Pace::begin_without_owner(limit);
        let mut watch = self.watch(For::Room, limit, asked);
        loop {
            let left = limit.map(|limit| limit.saturating_sub(pace.waited()).max(LOCK_PATIENCE));
            let Some(held) = Self::hold(&header.put_lock.0, left, stir)? else {
                return Ok(false);
            };
            let appended = self.append(data, blocks, long.block());
            drop(held);
            match appended {
                Ok(()) => {
                    long.into_queue();
                    self.announce_item();
                    return Ok(true);
                }
                Err(PutError::Full) => {}
                Err(e) => return Err(e.into()),
            }
            let spin = Self::if_elsewhere(&self.spin_for_room, &header.get_cpu.0);
            if !self.wait(For::Room, &header.room.0, spin, &pace, stir, &mut watch)? {
                return Ok(false);
            }
        }
    }

    /// Copies data that is too long for a record into a block, before any lock is taken.
    fn store_long(&self, data: &[u8]) -> Result<Long<'_>, PutError> {
        let mut long = Long {
            arena: &self.arena,
            owner: Self::owner(),
            block: None,
        };
        if data.len() as u64 > MOST_LEN {
            return Err(PutError::TooLarge);
        }
        if data.len() > MOST_INLINE_BYTES {
            let block = self.alloc(data.len() as u64).map_err(PutError::Memory)?;
            // SAFETY: the block has at least that many bytes and is ours alone.
            unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), self.arena.start(block), data.len()) };
            long.block = Some(block);
        }
        Ok(long)
    }

    /// Takes a block of at least `len` bytes for an item that this process is going to put.
    ///
    /// # Errors
    /// When there is no memory for it, also after blocks of the dead have been taken back.
    pub fn alloc(&self, len: u64) -> Result<Block, AllocError> {
        let header = self.header();
        if self.arena.used_bytes() > header.sweep_at_bytes.load(Ordering::Relaxed) {
            self.take_back_from_the_dead();
        }
        match self.arena.alloc(len, Self::owner()) {
            Err(AllocError::Full | AllocError::System(_)) if self.take_back_from_the_dead() => {
                self.arena.alloc(len, Self::owner())
            }
            done => done,
        }
    }

    fn append(&self, data: &[u8], blocks: &[Block], data_block: Option<Block>) -> Result<(), PutError> {
        let header = self.header();
        let (tail, head) = (self.tail(), self.head());
        if tail.items.wrapping_sub(head.items) >= header.capacity.load(Ordering::Relaxed) {
            return Err(PutError::Full);
        }
        if blocks.len() >= MOST_BLOCKS {
            return Err(PutError::TooLarge);
        }
        let (arena, me) = (&self.arena, Self::owner());
        let word = RecordWord {
            len: data.len() as u64,
            blocks: (blocks.len() + usize::from(data_block.is_some())) as u32,
            in_block: data_block.is_some(),
        };
        let (at, unit) = self.place_for(word.units(), tail.unit, head.unit)?;
        crate::crash_point!("queue-placed");
        // SAFETY: `place_for` gives as many bytes as the record takes, aligned, which nobody reads before the tail moves; the
        // lock keeps other writers away.
        unsafe {
            at.cast::<u64>().write(word.pack());
            let inline = word.inline_bytes();
            std::ptr::copy_nonoverlapping(data.as_ptr(), at.add(RECORD_WORD_BYTES), inline);
            let mut number = at.add(RECORD_WORD_BYTES + inline).cast::<u32>();
            for block in blocks.iter().chain(&data_block) {
                number.write_unaligned(block.raw());
                number = number.add(1);
            }
        }
        crate::crash_point!("queue-written");
        // From here on they are the queue's: should this process die before the record can be seen, `garbage` finds them.
        for &block in blocks.iter().chain(&data_block) {
            arena.hand_over(block, me, Owner::CALLER);
        }
        crate::crash_point!("queue-handed-over");
        let next = Mark {
            items: tail.items.wrapping_add(1),
            unit: unit.wrapping_add(word.units()),
        };
        // Sync point *record content*: pairs with the load in `tail`. This one store is the item's birth.
        header.tail.0.store(next.pack(), Ordering::Release);
        crate::crash_point!("queue-published");
        Ok(())
    }

    /// Finds room for so many units behind the tail: their address and position.
    fn place_for(&self, units: u32, tail: u32, head: u32) -> Result<(*mut u8, u32), PutError> {
        let mut unit = tail;
        let offset = offset_of(unit);
        if offset != 0 {
            let start = self.segment_start(unit).ok_or(PutError::Garbled)?;
            // SAFETY: an offset is below the segment's length, and a segment lies in a block of that length.
            let at = unsafe { start.add(offset as usize * UNIT_BYTES) };
            if offset + units <= SEGMENT_UNITS {
                return Ok((at, unit));
            }
            // SAFETY: as above, and a unit has room for the word.
            unsafe { at.cast::<u64>().write(RecordWord::PAD) };
            unit = next_segment(unit);
        }
        let segment = segment_of(unit);
        if segment.wrapping_sub(segment_of(head)) % SEGMENTS >= SEGMENTS - 2 {
            return Err(PutError::Memory(AllocError::Full));
        }
        let entry = self.table_entry(segment);
        if segment.is_multiple_of((PAGE_BYTES / 4) as u32) {
            let offset = (self.plan.table + segment as usize * 4) as u64;
            self.mapping
                .allocate(offset, PAGE_BYTES as u64)
                .map_err(|e| PutError::Memory(AllocError::System(e)))?;
        }
        let block = self
            .arena
            .alloc(SEGMENT_BYTES as u64, Owner::CALLER)
            .map_err(PutError::Memory)?;
        crate::crash_point!("queue-segment-taken");
        // Whatever a dead writer has entered here for a segment that never came to be, `garbage` finds.
        entry.store(block.raw(), Ordering::Relaxed);
        Ok((self.arena.start(block), unit))
    }

    fn segment_start(&self, unit: u32) -> Option<*mut u8> {
        let number = self.table_entry(segment_of(unit)).load(Ordering::Relaxed);
        let block = self.arena.check(number)?;
        (block.capacity() >= SEGMENT_BYTES as u64).then(|| self.arena.start(block))
    }

    #[inline]
    fn announce_item(&self) {
        let header = self.header();
        header.put_cpu.0.store(time::current_cpu() + 1, Ordering::Relaxed);
        header.items.0.ring(1);
        if header.polled.load(Ordering::Relaxed) != 0 {
            self.settle_event();
        }
    }

    // --- taking ----------------------------------------------------------------------------------------------------

    /// Takes the next item if that can be done at once, and has `receive` look at it.
    ///
    /// `receive` runs while nobody else can take one: it must be brief, and must not wait for anything.
    ///
    /// # Errors
    /// [`TakeError`].
    pub fn try_take<R>(&self, receive: impl FnOnce(Item<'_>) -> R) -> Result<R, TakeError> {
        if self.is_empty() {
            return Err(TakeError::Empty);
        }
        let held = Self::try_hold(&self.header().get_lock.0).ok_or(TakeError::Busy)?;
        // Others may have been faster.
        if self.is_empty() {
            return Err(TakeError::Empty);
        }
        let received = self.remove(receive)?;
        drop(held);
        self.announce_room();
        Ok(received)
    }

    /// Takes the next item; waits for one, for `limit` at most: `None` if the time was over.
    ///
    /// # Errors
    /// What `stir` returned, a deadlock that the wait is part of, or [`TakeError::Garbled`].
    pub fn take<R, E: From<TakeError> + From<Deadlock>>(
        &self,
        limit: Option<Duration>,
        stir: &mut dyn FnMut(Stir) -> Result<(), E>,
        asked: Asked<'_>,
        receive: impl FnOnce(Item<'_>) -> R,
    ) -> Result<Option<R>, E> {
        let header = self.header();
        let pace = Pace::begin_without_owner(limit);
        let mut watch = self.watch(For::Item, limit, asked);
        loop {
            let spin = Self::if_elsewhere(&self.spin_for_items, &header.put_cpu.0);
            if !self.wait(For::Item, &header.items.0, spin, &pace, stir, &mut watch)? {
                return Ok(None);
            }
            let left = limit.map(|limit| limit.saturating_sub(pace.waited()).max(LOCK_PATIENCE));
            let Some(held) = Self::hold(&header.get_lock.0, left, stir)? else {
                return Ok(None);
            };
            // Others may have been faster.
            if self.is_empty() {
                continue;
            }
            let received = self.remove(receive)?;
            drop(held);
            self.announce_room();
            return Ok(Some(received));
        }
    }

    fn remove<R>(&self, receive: impl FnOnce(Item<'_>) -> R) -> Result<R, TakeError> {
        let header = self.header();
        let head = self.head();
        let record = self.record_at(head.unit)?;
        let me = Self::owner();
        // A taker that dies before the head moves leaves them as its own, and the item to the next one, who takes both.
        for block in record.blocks() {
            self.arena.seize(block.ok_or(TakeError::Garbled)?, me);
        }
        crate::crash_point!("queue-seized");
        let received = receive(self.item(&record)?);
        let next = Mark {
            items: head.items.wrapping_add(1),
            unit: record.unit.wrapping_add(record.word.units()),
        };
        crate::crash_point!("queue-received");
        // Sync point *segment is left*: pairs with the load in `head`. This one store takes the item out.
        header.head.0.store(next.pack(), Ordering::Release);
        crate::crash_point!("queue-taken");
        let mut left = head.unit;
        while segment_of(left) != segment_of(next.unit) {
            if let Some(block) = self
                .arena
                .check(self.table_entry(segment_of(left)).load(Ordering::Relaxed))
            {
                self.arena.free(block, Owner::CALLER);
            }
            left = next_segment(left);
        }
        Ok(received)
    }

    fn record_at(&self, unit: u32) -> Result<Record<'_>, TakeError> {
        let mut unit = unit;
        loop {
            let offset = offset_of(unit) as usize * UNIT_BYTES;
            let start = self.segment_start(unit).ok_or(TakeError::Garbled)?;
            // SAFETY: offsets are below the segment's length, by at least a unit, which has room for the word.
            let at = unsafe { start.add(offset) };
            // SAFETY: as above; units are aligned.
            let word = unsafe { at.cast::<u64>().read() };
            match RecordWord::unpack(word) {
                None if offset != 0 => unit = next_segment(unit),
                Some(word)
                    if word.blocks as usize <= MOST_BLOCKS
                        && word.inline_bytes() <= MOST_INLINE_BYTES
                        && offset + word.units() as usize * UNIT_BYTES <= SEGMENT_BYTES =>
                {
                    return Ok(Record {
                        at,
                        word,
                        unit,
                        arena: &self.arena,
                    });
                }
                _ => return Err(TakeError::Garbled),
            }
        }
    }

    fn item(&self, record: &Record<'_>) -> Result<Item<'_>, TakeError> {
        let (data, data_block) = if record.word.in_block {
            let block = record
                .blocks()
                .last()
                .flatten()
                .filter(|block| record.word.len <= block.capacity())
                .ok_or(TakeError::Garbled)?;
            (self.arena.start(block).cast_const(), Some(block))
        } else {
            // SAFETY: the data follows the word.
            (unsafe { record.at.add(RECORD_WORD_BYTES).cast_const() }, None)
        };
        // SAFETY: the length was checked against what holds the data, which nobody writes while we have the lock or, of a
        // block, while it is ours.
        let data = unsafe { std::slice::from_raw_parts(data, record.word.len as usize) };
        Ok(Item { data, data_block })
    }

    #[inline]
    fn announce_room(&self) {
        let header = self.header();
        header.get_cpu.0.store(time::current_cpu() + 1, Ordering::Relaxed);
        if header.capacity.load(Ordering::Relaxed) != u32::MAX {
            header.room.0.ring(1);
        }
        if header.polled.load(Ordering::Relaxed) != 0 {
            self.settle_event();
        }
    }

    // --- joining ---------------------------------------------------------------------------------------------------

    /// Reports one item as done; false if as many were reported as were put.
    pub fn task_done(&self) -> bool {
        let header = self.header();
        let mut done = header.done.0.load(Ordering::Relaxed);
        loop {
            if done == self.tail().items {
                return false;
            }
            match header.done.0.compare_exchange(
                done,
                done.wrapping_add(1),
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(now) => done = now,
            }
        }
        crate::crash_point!("queue-done");
        if self.unfinished() == 0 {
            header.all_done.0.ring(u32::MAX);
        }
        true
    }

    /// How many of the items that were put are not reported as done.
    pub fn unfinished(&self) -> usize {
        let done = self.header().done.0.load(Ordering::Acquire);
        self.tail().items.wrapping_sub(done) as usize
    }

    /// Waits until all items that were put are reported as done; false if the time was over first.
    ///
    /// # Errors
    /// What `stir` returned, or a deadlock that the wait is part of.
    pub fn join<E: From<Deadlock>>(
        &self,
        limit: Option<Duration>,
        stir: &mut dyn FnMut(Stir) -> Result<(), E>,
        asked: Asked<'_>,
    ) -> Result<bool, E> {
        let pace = Pace::begin_without_owner(limit);
        let bell = &self.header().all_done.0;
        let mut watch = self.watch(For::Done, limit, asked);
        self.wait(For::Done, bell, None, &pace, stir, &mut watch)
    }

    // --- the event -------------------------------------------------------------------------------------------------

    /// A descriptor that is readable while there are items. From the first call on, by whichever process, it is kept true,
    /// at the cost of a system call for each item; nobody pays for it before.
    pub fn items_fd(&self) -> BorrowedFd<'_> {
        let header = self.header();
        if header.polled.swap(1, Ordering::SeqCst) == 0 {
            self.settle_event();
        }
        self.event.as_fd()
    }

    /// Makes the event say whether there are items.
    ///
    /// Whoever changes that comes here afterwards and does not leave before what it has set is still right. So the last one
    /// to leave leaves it right.
    fn settle_event(&self) {
        std::sync::atomic::fence(Ordering::SeqCst);
        loop {
            let empty = self.is_empty();
            if empty {
                self.event.clear();
            } else {
                self.event.signal();
            }
            std::sync::atomic::fence(Ordering::SeqCst);
            if self.is_empty() == empty {
                return;
            }
        }
    }
}

/// The one who holds a lock needs it for microseconds; a call that does not want to wait gives it so long.
const LOCK_PATIENCE: Duration = Duration::from_millis(20);

/// Long data on its way into the queue; if it does not get there, its block is free again.
struct Long<'a> {
    arena: &'a Arena,
    owner: Owner,
    block: Option<Block>,
}

impl Long<'_> {
    fn block(&self) -> Option<Block> {
        self.block
    }

    fn into_queue(mut self) {
        self.block = None;
    }
}

impl Drop for Long<'_> {
    fn drop(&mut self) {
        if let Some(block) = self.block {
            self.arena.free(block, self.owner);
        }
    }
}

/// A record in a segment, checked to lie inside of it.
struct Record<'a> {
    at: *mut u8,
    word: RecordWord,
    /// Where it begins, behind padding that may have come before.
    unit: u32,
    arena: &'a Arena,
}

impl Record<'_> {
    /// The blocks that belong to it; `None` for numbers that are none.
    fn blocks(&self) -> impl Iterator<Item = Option<Block>> + '_ {
        let first = RECORD_WORD_BYTES + self.word.inline_bytes();
        (0..self.word.blocks as usize).map(move |i| {
            // SAFETY: the numbers lie inside of the record, whose length was checked.
            let number = unsafe { self.at.add(first + i * 4).cast::<u32>().read_unaligned() };
            self.arena.check(number)
        })
    }
}

#[cfg(test)]
mod tests;
