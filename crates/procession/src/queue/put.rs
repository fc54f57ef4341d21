//! Putting an item: room is found behind the tail, the record is written there, and one store lets it be seen.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::layout::{
    next_segment, offset_of, segment_of, Mark, RecordWord, MOST_BLOCKS, MOST_INLINE_BYTES, MOST_LEN,
    RECORD_WORD_BYTES, SEGMENTS, SEGMENT_BYTES, SEGMENT_UNITS, UNIT_BYTES,
};
use super::wait::{Asked, LOCK_PATIENCE};
use super::{ByteQueue, PutError};
use crate::os::memory::PAGE_BYTES;
use crate::os::time;
use crate::shm::{AllocError, Arena, Block, Owner};
use crate::sync::waits::{Deadlock, For};
use crate::sync::{Pace, Stir};

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

impl ByteQueue {
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

    #[inline]
    fn announce_item(&self) {
        let header = self.header();
        header.put_cpu.0.store(time::current_cpu() + 1, Ordering::Relaxed);
        header.items.0.ring(1);
        if header.polled.load(Ordering::Relaxed) != 0 {
            self.settle_event();
        }
    }
}
