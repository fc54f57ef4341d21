//! What lies where in a queue's memory.

use std::mem::offset_of;
use std::sync::atomic::{AtomicU32, AtomicU64};

use super::bell::Bell;
use crate::shm::ArenaPlan;
use crate::sync::waits::{Origin, QUEUE_MAGIC, TABLE_AT, TABLE_END};
use crate::sync::RawLock;

pub const MAGIC: u64 = QUEUE_MAGIC;
/// Records begin at multiples of this, and positions count in it.
pub const UNIT_BYTES: usize = 16;
pub const SEGMENT_BYTES: usize = 64 * 1024;
pub const SEGMENT_UNITS: u32 = (SEGMENT_BYTES / UNIT_BYTES) as u32;
/// Segments that can be in use at a time: 4 GiB of records. A power of two, as positions wrap.
pub const SEGMENTS: u32 = 1 << 16;
/// Longer data lies in a block of its own.
pub const MOST_INLINE_BYTES: usize = 16 * 1024;

/// Keeps what different processes write on different cache lines.
#[repr(C, align(128))]
#[derive(Debug)]
pub struct Line<T>(pub T);

/// The first page of a queue's memory. All of it is atomics: any bytes are valid.
#[repr(C)]
#[derive(Debug)]
pub struct Header {
    pub magic: AtomicU64,
    pub class_bytes: AtomicU64,
    pub capacity: AtomicU32,
    /// Whether somebody ever asked for the event that tells whether there are items.
    pub polled: AtomicU32,
    /// From so many bytes in blocks on, somebody looks for those that the dead have left.
    pub sweep_at_bytes: AtomicU64,
    pub origin: Origin,
    /// What it is called in errors.
    pub name: [AtomicU64; NAME_WORDS],
    pub put_lock: Line<RawLock>,
    pub get_lock: Line<RawLock>,
    /// Where the next record goes, and how many were put. Changed under `put_lock`.
    pub tail: Line<AtomicU64>,
    /// Where the next record comes from, and how many were got. Changed under `get_lock`.
    pub head: Line<AtomicU64>,
    /// Where the last one who put and the last one who got ran, plus one.
    pub put_cpu: Line<AtomicU32>,
    pub get_cpu: Line<AtomicU32>,
    pub items: Line<Bell>,
    pub room: Line<Bell>,
    /// How many items were reported as done.
    pub done: Line<AtomicU32>,
    pub all_done: Line<Bell>,
}

pub const NAME_WORDS: usize = 8;

const _: () = assert!(size_of::<Header>() <= TABLE_AT && offset_of!(Header, origin) == Origin::AT);

/// A position in the stream of records and a number of items, which change together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    pub items: u32,
    pub unit: u32,
}

impl Mark {
    pub fn pack(self) -> u64 {
        u64::from(self.items) << 32 | u64::from(self.unit)
    }

    pub fn unpack(word: u64) -> Mark {
        Mark {
            items: (word >> 32) as u32,
            unit: word as u32,
        }
    }
}

/// The number of the segment that a position is in.
pub fn segment_of(unit: u32) -> u32 {
    unit / SEGMENT_UNITS % SEGMENTS
}

/// How far into its segment a position is, in units.
pub fn offset_of(unit: u32) -> u32 {
    unit % SEGMENT_UNITS
}

/// The first position of the next segment.
pub fn next_segment(unit: u32) -> u32 {
    (unit / SEGMENT_UNITS).wrapping_add(1).wrapping_mul(SEGMENT_UNITS)
}

/// The word in front of each record: how long its data is, how many blocks belong to it, and whether the data itself lies in
/// the last of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordWord {
    pub len: u64,
    pub blocks: u32,
    pub in_block: bool,
}

pub const RECORD_WORD_BYTES: usize = 8;
const LEN_BITS: u32 = 40;
pub const MOST_LEN: u64 = (1 << LEN_BITS) - 1;
pub const MOST_BLOCKS: usize = 2000;
/// The rest of this segment is unused.
const PAD: u64 = u64::MAX;

impl RecordWord {
    pub fn pack(self) -> u64 {
        self.len | u64::from(self.blocks) << LEN_BITS | u64::from(self.in_block) << 62
    }

    /// `None` stands for padding.
    pub fn unpack(word: u64) -> Option<RecordWord> {
        (word != PAD).then_some(RecordWord {
            len: word & MOST_LEN,
            blocks: (word >> LEN_BITS) as u32 & 0x3F_FFFF,
            in_block: word >> 62 & 1 != 0,
        })
    }

    pub const PAD: u64 = PAD;

    /// The bytes of data that lie in the record itself.
    pub fn inline_bytes(self) -> usize {
        if self.in_block {
            0
        } else {
            self.len as usize
        }
    }

    /// How many units the whole record takes.
    pub fn units(self) -> u32 {
        (RECORD_WORD_BYTES + self.inline_bytes() + self.blocks as usize * 4).div_ceil(UNIT_BYTES) as u32
    }
}

/// Where the parts lie.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The block in which each segment lies.
    pub table: usize,
    pub arena: ArenaPlan,
    pub end: u64,
}

impl Plan {
    pub fn new(class_bytes: u64) -> Plan {
        // Behind the header and the table of those who wait.
        let table = TABLE_END;
        let arena = ArenaPlan::new((table + SEGMENTS as usize * 4) as u64, class_bytes);
        let end = arena.end();
        Plan { table, arena, end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_give_back_what_was_put_into_them() {
        let record = RecordWord {
            len: MOST_LEN,
            blocks: MOST_BLOCKS as u32,
            in_block: true,
        };
        assert_eq!(RecordWord::unpack(record.pack()), Some(record));
        assert_eq!(RecordWord::unpack(RecordWord::PAD), None);
        let mark = Mark {
            items: 7,
            unit: u32::MAX,
        };
        assert_eq!(Mark::unpack(mark.pack()), mark);
    }

    #[test]
    fn positions_wrap_from_the_last_segment_to_the_first() {
        assert_eq!(next_segment(u32::MAX), 0);
        assert_eq!(next_segment(0), SEGMENT_UNITS);
        assert_eq!(segment_of(SEGMENT_UNITS * 3 + 5), 3);
        assert_eq!(offset_of(SEGMENT_UNITS * 3 + 5), 5);
    }
}
