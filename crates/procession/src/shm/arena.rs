//! Blocks of shared memory that belong to exactly one process at a time, whoever dies.
//!
//! # Protocol
//!
//! The arena is cut into *size classes*, powers of two. Each class has a fixed stretch of the (sparse) file, so a block
//! never moves and its number tells its address and its capacity.
//!
//! * The *owner word* of a block is the truth: free, the caller's, or a seat's. It changes by compare-and-swap only, so
//!   taking a block and recording who has it are one step. A process that dies, between whatever instructions, leaves
//!   each block with exactly one owner; [`Arena::sweep`] then frees what the dead one owned.
//! * The *idle bits* are a hint where free blocks with warm pages may be found; *fresh* counts the blocks ever taken.
//!   Reusing warm pages is what makes large data fast: a page's first touch costs as much as copying it seven times.
//!   Bits and counter may lag behind the owner words after a death; `sweep` puts them right again.
//!
//! | owner word | who may change it | to |
//! | --- | --- | --- |
//! | free | anyone | itself ("take") |
//! | X | X (or the sweeper after X's death) | free, or another owner ("hand over") |
//!
//! Sync point *block content*: the giver's last write to a block comes before its release of the owner word or of the
//! slot that carries the block; the taker's acquire of either comes before its first read.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;
use std::{fmt, io};

use crate::os::memory::{Mapping, PAGE_BYTES};

const SMALLEST_EXPONENT: u32 = 9;
const LARGEST_EXPONENT: u32 = 35;
/// How many size classes there are: 512 bytes to 32 GiB.
pub const CLASSES: usize = (LARGEST_EXPONENT - SMALLEST_EXPONENT + 1) as usize;
const MOST_BLOCKS_PER_CLASS: u64 = 1 << 16;
const LEAST_BLOCKS_PER_CLASS: u64 = 4;
/// From this size on, memory is asked for before it is touched, and counted while it lies idle.
const LARGE_BYTES: u64 = 64 * 1024;
const INDEX_BITS: u32 = 20;

/// Who has a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner(u32);

impl Owner {
    const FREE: u32 = 0;
    /// The process that made the pool.
    pub const CALLER: Owner = Owner(1);

    /// The process with this number, where processes have no seats.
    pub const fn process(pid: u32) -> Owner {
        Owner(pid + 2)
    }

    /// The number of the process, of an owner that is one.
    pub fn pid(self) -> Option<u32> {
        self.0.checked_sub(2)
    }

    /// The worker in this seat.
    pub const fn seat(seat: u32) -> Owner {
        Owner(seat + 2)
    }
}

/// The number of a block: its size class and its place in it. Zero is no block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Block(u32);

impl Block {
    /// The number that stands for "no block".
    pub const NONE: u32 = 0;

    fn new(class: usize, index: u32) -> Self {
        Block(((class as u32 + 1) << INDEX_BITS) | index)
    }

    /// The number as it stands in shared memory.
    pub fn raw(self) -> u32 {
        self.0
    }

    fn class(self) -> usize {
        (self.0 >> INDEX_BITS) as usize - 1
    }

    fn index(self) -> u32 {
        self.0 & ((1 << INDEX_BITS) - 1)
    }

    /// The capacity in bytes of the block.
    pub fn capacity(self) -> u64 {
        1 << (self.class() as u32 + SMALLEST_EXPONENT)
    }
}

/// Why there is no block.
#[derive(Debug)]
pub enum AllocError {
    /// All blocks that are large enough are in use; some will become free again.
    Full,
    /// No block can ever be that large.
    TooLarge {
        /// The bytes that were asked for.
        asked_bytes: u64,
        /// The bytes of the largest block.
        largest_bytes: u64,
    },
    /// The system has no memory left.
    System(io::Error),
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AllocError::Full => write!(f, "all blocks of shared memory that are large enough are in use"),
            AllocError::TooLarge {
                asked_bytes,
                largest_bytes,
            } => {
                write!(f, "{asked_bytes} bytes do not fit into the largest block of shared memory ({largest_bytes} bytes)")
            }
            AllocError::System(e) => write!(f, "no shared memory left: {e}"),
        }
    }
}

/// Where the parts of an arena lie in its file; the same on every side.
#[derive(Debug, Clone)]
pub struct ArenaPlan {
    counts: [u32; CLASSES],
    bits: [u64; CLASSES],
    owners: [u64; CLASSES],
    blocks: [u64; CLASSES],
    counters: u64,
    end: u64,
}

impl ArenaPlan {
    /// Plans an arena that starts at `start` and has about `class_bytes` of address space for each size class.
    pub fn new(start: u64, class_bytes: u64) -> Self {
        let mut plan = ArenaPlan {
            counts: [0; CLASSES],
            bits: [0; CLASSES],
            owners: [0; CLASSES],
            blocks: [0; CLASSES],
            counters: round_up(start, PAGE_BYTES as u64),
            end: 0,
        };
        let mut at = plan.counters + PAGE_BYTES as u64;
        for class in 0..CLASSES {
            let block_bytes = 1u64 << (class as u32 + SMALLEST_EXPONENT);
            let count = (class_bytes / block_bytes).clamp(0, MOST_BLOCKS_PER_CLASS);
            // Address space that was made scarce costs the largest classes first.
            let count = if count == 0 && block_bytes / class_bytes.max(1) <= 16 {
                LEAST_BLOCKS_PER_CLASS
            } else {
                count
            };
            plan.counts[class] = count as u32;
            plan.bits[class] = at;
            at = round_up(at + count.div_ceil(64) * 8, 64);
            plan.owners[class] = at;
            at = round_up(at + count * 4, PAGE_BYTES as u64);
        }
        for class in 0..CLASSES {
            let block_bytes = 1u64 << (class as u32 + SMALLEST_EXPONENT);
            at = round_up(at, block_bytes.min(2 << 20));
            plan.blocks[class] = at;
            at += plan.counts[class] as u64 * block_bytes;
        }
        plan.end = round_up(at, PAGE_BYTES as u64);
        plan
    }

    /// The offset behind the arena's last byte.
    pub fn end(&self) -> u64 {
        self.end
    }
}

fn round_up(n: u64, to: u64) -> u64 {
    n.div_ceil(to) * to
}

/// One process's view of the arena.
#[derive(Debug)]
pub struct Arena {
    mapping: Arc<Mapping>,
    plan: ArenaPlan,
    idle_cap_bytes: i64,
    /// Where this process last found an idle block, a word number per class.
    start_words: [AtomicU32; CLASSES],
}

impl Arena {
    /// Opens the arena planned by `plan` in `mapping`; large idle blocks beyond `idle_cap_bytes` lose their memory.
    ///
    /// # Panics
    /// Panics if the plan reaches beyond the mapping.
    pub fn new(mapping: Arc<Mapping>, plan: ArenaPlan, idle_cap_bytes: u64) -> Self {
        assert!(
            plan.end <= mapping.len() as u64,
            "the arena's plan reaches beyond its mapping"
        );
        Arena {
            mapping,
            plan,
            idle_cap_bytes: idle_cap_bytes as i64,
            start_words: Default::default(),
        }
    }

    /// # Safety
    /// The plan has a `T` at this offset, for which every value is valid and which processes may share.
    unsafe fn word<T>(&self, offset: u64) -> &T {
        // SAFETY: the plan lies inside the mapping (checked in `new`) and aligns its words; the rest is the caller's.
        unsafe { &*self.mapping.start().as_ptr().add(offset as usize).cast::<T>() }
    }

    fn word32(&self, offset: u64) -> &AtomicU32 {
        // SAFETY: every caller derives the offset from the plan and from an index below the class's count.
        unsafe { self.word(offset) }
    }

    fn word64(&self, offset: u64) -> &AtomicU64 {
        // SAFETY: as in `word32`.
        unsafe { self.word(offset) }
    }

    fn fresh(&self, class: usize) -> &AtomicU32 {
        self.word32(self.plan.counters + 64 + class as u64 * 64)
    }

    fn idle_count(&self, class: usize) -> &AtomicU32 {
        self.word32(self.plan.counters + 64 + class as u64 * 64 + 4)
    }

    fn large_idle_bytes(&self) -> &AtomicI64 {
        // SAFETY: as in `word32`; the counters have a page of their own.
        unsafe {
            &*self
                .mapping
                .start()
                .as_ptr()
                .add(self.plan.counters as usize)
                .cast::<AtomicI64>()
        }
    }

    fn large_used_bytes(&self) -> &AtomicI64 {
        // SAFETY: as in `word32`; the counters have a page of their own.
        unsafe {
            &*self
                .mapping
                .start()
                .as_ptr()
                .add(self.plan.counters as usize + 8)
                .cast::<AtomicI64>()
        }
    }

    fn owner_word(&self, block: Block) -> &AtomicU32 {
        self.word32(self.plan.owners[block.class()] + block.index() as u64 * 4)
    }

    fn bit_word(&self, class: usize, word: u32) -> &AtomicU64 {
        self.word64(self.plan.bits[class] + word as u64 * 8)
    }

    /// The bytes in large blocks that somebody owns; a hint, for bounds that need not be exact.
    pub fn used_bytes(&self) -> u64 {
        self.large_used_bytes().load(Ordering::Relaxed).max(0) as u64
    }

    /// Checks a number read from shared memory.
    pub fn check(&self, raw: u32) -> Option<Block> {
        let class = (raw >> INDEX_BITS) as usize;
        if class == 0 || class > CLASSES {
            return None;
        }
        let block = Block(raw);
        (block.index() < self.plan.counts[block.class()]).then_some(block)
    }

    /// The first byte of a block.
    pub fn start(&self, block: Block) -> *mut u8 {
        let offset = self.plan.blocks[block.class()] + block.index() as u64 * block.capacity();
        // SAFETY: `Block`s come from `alloc` or `check`, so class and index are inside the plan, which is inside the
        // mapping.
        unsafe { self.mapping.start().as_ptr().add(offset as usize) }
    }

    /// Takes a block of at least `len` bytes for `owner`.
    pub fn alloc(&self, len: u64, owner: Owner) -> Result<Block, AllocError> {
        let exponent = len
            .max(1)
            .next_power_of_two()
            .trailing_zeros()
            .max(SMALLEST_EXPONENT);
        let largest = self.plan.counts.iter().rposition(|&n| n > 0).unwrap_or(0);
        let class = (exponent - SMALLEST_EXPONENT) as usize;
        if class > largest {
            let largest_bytes = 1u64 << (largest as u32 + SMALLEST_EXPONENT);
            return Err(AllocError::TooLarge {
                asked_bytes: len,
                largest_bytes,
            });
        }
        // A class whose blocks are all taken borrows from the next ones; far larger blocks would waste address space
        // that others need.
        for class in class..(class + 3).min(largest + 1) {
            if let Some(block) = self.take_idle(class, owner, false) {
                self.count_taken(block, true);
                return Ok(block);
            }
            if let Some(block) = self.take_fresh(class, owner) {
                self.count_taken(block, false);
                if block.capacity() >= LARGE_BYTES {
                    let offset = self.plan.blocks[class] + block.index() as u64 * block.capacity();
                    if let Err(e) = self.mapping.allocate(offset, round_up(len, PAGE_BYTES as u64)) {
                        self.free(block, owner);
                        return Err(AllocError::System(e));
                    }
                }
                return Ok(block);
            }
            if let Some(block) = self.take_idle(class, owner, true) {
                self.count_taken(block, true);
                return Ok(block);
            }
        }
        Err(AllocError::Full)
    }

    fn count_taken(&self, block: Block, was_idle: bool) {
        crate::crash_point!("block-taken");
        if was_idle {
            self.idle_count(block.class()).fetch_sub(1, Ordering::Relaxed);
        }
        if block.capacity() >= LARGE_BYTES {
            self.large_used_bytes()
                .fetch_add(block.capacity() as i64, Ordering::Relaxed);
            if was_idle {
                self.large_idle_bytes()
                    .fetch_sub(block.capacity() as i64, Ordering::Relaxed);
            }
        }
    }

    fn claim(&self, block: Block, owner: Owner) -> bool {
        // Acquire pairs with the Release in `free`: *block content*, the old owner's last use is over.
        self.owner_word(block)
            .compare_exchange(Owner::FREE, owner.0, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Looks through the idle bits; `thoroughly` even if the counter, which is a hint, says that there are none.
    fn take_idle(&self, class: usize, owner: Owner, thoroughly: bool) -> Option<Block> {
        let idle = self.idle_count(class).load(Ordering::Relaxed) as i32;
        if idle <= 0 && !thoroughly {
            return None;
        }
        let words = self
            .fresh(class)
            .load(Ordering::Relaxed)
            .min(self.plan.counts[class])
            .div_ceil(64);
        let first = self.start_words[class].load(Ordering::Relaxed);
        for step in 0..words {
            let word = (first + step) % words;
            let bits = self.bit_word(class, word);
            let mut seen = bits.load(Ordering::Relaxed);
            while seen != 0 {
                let bit = seen.trailing_zeros();
                let mask = 1u64 << bit;
                if bits.fetch_and(!mask, Ordering::AcqRel) & mask != 0 {
                    crate::crash_point!("block-found");
                    let index = word * 64 + bit;
                    if index < self.plan.counts[class] {
                        let block = Block::new(class, index);
                        if self.claim(block, owner) {
                            self.start_words[class].store(word, Ordering::Relaxed);
                            return Some(block);
                        }
                    }
                }
                seen = bits.load(Ordering::Relaxed);
            }
        }
        None
    }

    fn take_fresh(&self, class: usize, owner: Owner) -> Option<Block> {
        loop {
            if self.fresh(class).load(Ordering::Relaxed) >= self.plan.counts[class] {
                return None;
            }
            let index = self.fresh(class).fetch_add(1, Ordering::Relaxed);
            crate::crash_point!("block-fresh");
            if index >= self.plan.counts[class] {
                self.fresh(class)
                    .store(self.plan.counts[class], Ordering::Relaxed);
                return None;
            }
            let block = Block::new(class, index);
            if self.claim(block, owner) {
                return Some(block);
            }
        }
    }

    /// Gives a block back, if `owner` has it; false if it does not (any more).
    pub fn free(&self, block: Block, owner: Owner) -> bool {
        let large = block.capacity() >= LARGE_BYTES;
        if large && self.owner_word(block).load(Ordering::Relaxed) == owner.0 {
            let idle = self.large_idle_bytes().load(Ordering::Relaxed) + block.capacity() as i64;
            if idle > self.idle_cap_bytes {
                let offset = self.plan.blocks[block.class()] + block.index() as u64 * block.capacity();
                let _ = self.mapping.discard(offset, block.capacity());
            }
        }
        // Release pairs with the Acquire in `claim`: *block content*.
        if self
            .owner_word(block)
            .compare_exchange(owner.0, Owner::FREE, Ordering::Release, Ordering::Relaxed)
            .is_err()
        {
            return false;
        }
        crate::crash_point!("block-freed");
        if large {
            self.large_used_bytes()
                .fetch_sub(block.capacity() as i64, Ordering::Relaxed);
        }
        self.offer(block);
        true
    }

    fn offer(&self, block: Block) {
        let mask = 1u64 << (block.index() % 64);
        if self
            .bit_word(block.class(), block.index() / 64)
            .fetch_or(mask, Ordering::AcqRel)
            & mask
            == 0
        {
            crate::crash_point!("block-offered");
            self.idle_count(block.class()).fetch_add(1, Ordering::Relaxed);
            if block.capacity() >= LARGE_BYTES {
                self.large_idle_bytes()
                    .fetch_add(block.capacity() as i64, Ordering::Relaxed);
            }
        }
    }

    /// Hands a block over; false if `from` does not have it (any more).
    pub fn hand_over(&self, block: Block, from: Owner, to: Owner) -> bool {
        self.owner_word(block)
            .compare_exchange(from.0, to.0, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Makes a block somebody's, whoever had it. Only for who knows by other means that it is his, and alone.
    pub fn seize(&self, block: Block, to: Owner) {
        self.owner_word(block).swap(to.0, Ordering::AcqRel);
    }

    /// How many blocks have an owner. For tests: it looks at all of them.
    #[cfg(test)]
    pub(crate) fn owned_blocks(&self) -> usize {
        let owned = |class: usize| {
            let used = self
                .fresh(class)
                .load(Ordering::Acquire)
                .min(self.plan.counts[class]);
            let is_owned = |&index: &u32| {
                self.owner_word(Block::new(class, index)).load(Ordering::Acquire) != Owner::FREE
            };
            (0..used).filter(is_owned).count()
        };
        (0..CLASSES).map(owned).sum()
    }

    /// Frees all that `dead` owned, and puts the hints right that it may have left half done.
    ///
    /// Only for the caller, after `dead` has certainly ended.
    pub fn sweep(&self, dead: Owner) {
        self.sweep_where(|_, owner| owner == dead);
    }

    /// Frees each block that `is_lost` names with its owner, and puts the hints right that the dead may have left half done.
    ///
    /// Of a block that `is_lost` names, nobody may be the owner any more who could still use it.
    pub fn sweep_where(&self, mut is_lost: impl FnMut(Block, Owner) -> bool) {
        for class in 0..CLASSES {
            let used = self
                .fresh(class)
                .load(Ordering::Acquire)
                .min(self.plan.counts[class]);
            for index in 0..used {
                let block = Block::new(class, index);
                let owner = self.owner_word(block).load(Ordering::Acquire);
                if owner == Owner::FREE {
                    // Its last owner died between freeing and offering it, or its finder between finding and taking.
                    self.offer(block);
                } else if is_lost(block, Owner(owner)) {
                    self.free(block, Owner(owner));
                }
            }
            let idle: u32 = (0..used.div_ceil(64))
                .map(|w| self.bit_word(class, w).load(Ordering::Relaxed).count_ones())
                .sum();
            self.idle_count(class).store(idle, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::memory::create_sealed;

    fn arena() -> Arena {
        let plan = ArenaPlan::new(0, 1 << 20);
        let mapping = Mapping::new(create_sealed("test", plan.end()).unwrap()).unwrap();
        Arena::new(Arc::new(mapping), plan, 1 << 20)
    }

    #[test]
    fn a_freed_block_is_the_next_one_taken() {
        let a = arena();
        let first = a.alloc(1000, Owner::CALLER).unwrap();
        assert_eq!(first.capacity(), 1024);
        assert!(a.free(first, Owner::CALLER));
        assert_eq!(a.alloc(1000, Owner::seat(3)).unwrap(), first);
    }

    #[test]
    fn only_its_owner_frees_a_block() {
        let a = arena();
        let block = a.alloc(10, Owner::seat(1)).unwrap();
        assert!(!a.free(block, Owner::CALLER));
        assert!(a.hand_over(block, Owner::seat(1), Owner::CALLER));
        assert!(!a.free(block, Owner::seat(1)));
        assert!(a.free(block, Owner::CALLER));
    }

    #[test]
    fn a_full_class_borrows_from_larger_ones_and_then_says_so() {
        let a = arena();
        let mut taken = Vec::new();
        let error = loop {
            match a.alloc(1 << 19, Owner::CALLER) {
                Ok(block) => taken.push(block),
                Err(e) => break e,
            }
        };
        assert!(matches!(error, AllocError::Full), "{error}");
        assert!(taken.len() > 2);
        let distinct: std::collections::HashSet<_> = taken.iter().collect();
        assert_eq!(distinct.len(), taken.len());
    }

    #[test]
    fn what_a_dead_owner_had_is_free_after_the_sweep() {
        let a = arena();
        let dead: Vec<_> = (0..100)
            .map(|i| a.alloc(i * 50, Owner::seat(7)).unwrap())
            .collect();
        let mine = a.alloc(50, Owner::CALLER).unwrap();
        a.sweep(Owner::seat(7));
        assert!(dead.iter().all(|&b| !a.free(b, Owner::seat(7))));
        assert!(a.free(mine, Owner::CALLER));
    }

    #[test]
    fn a_block_whose_bit_was_lost_in_a_death_is_found_again() {
        let a = arena();
        let block = a.alloc(512, Owner::CALLER).unwrap();
        a.free(block, Owner::CALLER);
        // A finder dies between clearing the bit and taking the block.
        a.bit_word(block.class(), 0).store(0, Ordering::Relaxed);
        a.sweep(Owner::seat(0));
        a.idle_count(block.class()).store(1, Ordering::Relaxed);
        assert_eq!(a.alloc(512, Owner::CALLER).unwrap(), block);
    }

    #[test]
    fn numbers_from_nowhere_are_refused() {
        let a = arena();
        assert!(a.check(0).is_none());
        assert!(a.check(u32::MAX).is_none());
        assert!(a.check((1 << INDEX_BITS) | 0xF_FFFF).is_none());
    }
}
