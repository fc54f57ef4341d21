//! Queues between processes, in memory that all of them share.
#![doc = include_str!("README.md")]

mod bell;
mod garbage;
mod join;
mod layout;
mod put;
mod take;
mod typed;
mod wait;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;
use std::{fmt, io};

use self::layout::{segment_of, Header, Mark, Plan, MAGIC, NAME_WORDS, SEGMENTS, SEGMENT_BYTES};
use self::wait::Board;
use crate::connection::Spin;
use crate::os::event::Event;
use crate::os::memory::{create_sealed, is_out_of_descriptors, Mapping, PAGE_BYTES};
use crate::shm::{AllocError, Arena, Owner};
use crate::sync::memory::remember_awaited;
use crate::sync::waits::Awaited;
use crate::sync::Identity;

pub use take::Item;
pub use typed::{Queue, QueueError};
pub use wait::Asked;

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

    fn segment_start(&self, unit: u32) -> Option<*mut u8> {
        let number = self.table_entry(segment_of(unit)).load(Ordering::Relaxed);
        let block = self.arena.check(number)?;
        (block.capacity() >= SEGMENT_BYTES as u64).then(|| self.arena.start(block))
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

#[cfg(test)]
mod tests;
