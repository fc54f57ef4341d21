//! Taking an item: whoever has the lock looks at the record at the head, and one store takes it out.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::layout::{
    next_segment, offset_of, segment_of, Mark, RecordWord, MOST_BLOCKS, MOST_INLINE_BYTES, RECORD_WORD_BYTES,
    SEGMENT_BYTES, UNIT_BYTES,
};
use super::wait::{Asked, LOCK_PATIENCE};
use super::{ByteQueue, TakeError};
use crate::os::time;
use crate::shm::{Arena, Block, Owner};
use crate::sync::waits::{Deadlock, For};
use crate::sync::{Pace, Stir};

/// An item as it lies in the queue. Its blocks are the taker's already.
#[derive(Debug)]
pub struct Item<'a> {
    /// Its data, which may lie in `data_block`.
    pub data: &'a [u8],
    /// The block in which the data lies, if it is long. Whoever takes the item frees it, after it has used the data.
    pub data_block: Option<Block>,
}

/// A record in a segment, checked to lie inside of it.
pub(super) struct Record<'a> {
    at: *mut u8,
    pub(super) word: RecordWord,
    /// Where it begins, behind padding that may have come before.
    pub(super) unit: u32,
    arena: &'a Arena,
}

impl Record<'_> {
    /// The blocks that belong to it; `None` for numbers that are none.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Option<Block>> + '_ {
        let first = RECORD_WORD_BYTES + self.word.inline_bytes();
        (0..self.word.blocks as usize).map(move |i| {
            // SAFETY: the numbers lie inside of the record, whose length was checked.
            let number = unsafe { self.at.add(first + i * 4).cast::<u32>().read_unaligned() };
            self.arena.check(number)
        })
    }
}

impl ByteQueue {
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

    pub(super) fn record_at(&self, unit: u32) -> Result<Record<'_>, TakeError> {
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
}
