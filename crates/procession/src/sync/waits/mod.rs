//! Who waits for what: the graph in which deadlocks are found.
//!
//! A waiter that has waited for a while without a time limit enters itself into a table in shared memory: beside the lock or
//! the queue it waits for, or, if it waits for a process, where others can see it. From the lock's word everybody can read who
//! holds it, and from the tables what that one waits for in turn. See the module's README.

mod about;
mod cycle;
mod deadlock;
mod origin;
mod table;
mod waiting;

use std::fmt;

use super::memory::{find_awaited, mapped_chunks};
use crate::os::memory::PAGE_BYTES;

pub use about::About;
pub use cycle::Watch;
pub use deadlock::{Deadlock, Member};
pub use origin::Origin;
pub(super) use table::Wait;
pub use table::WaitTable;
pub use waiting::Waiting;

/// Memory in which there may be a table: what the kernel calls it, and the first word of it.
pub(super) const MEMORIES: [(&str, u64); 2] = [
    ("procession-sync", CHUNK_MAGIC),
    ("procession-queue", QUEUE_MAGIC),
];
pub(super) const CHUNK_MAGIC: u64 = u64::from_le_bytes(*b"prcsync2");
/// The first word of a queue's memory.
pub const QUEUE_MAGIC: u64 = u64::from_le_bytes(*b"prcqueu2");
/// Where the table begins in each of them.
pub const TABLE_AT: usize = PAGE_BYTES;
/// Where the table ends.
pub const TABLE_END: usize = (TABLE_AT + size_of::<WaitTable>()).next_multiple_of(PAGE_BYTES);

/// What ends a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// Whoever holds the lock. `owned`: nobody but its owner can release it.
    Lock {
        /// Whether it is recursive.
        owned: bool,
    },
    /// The process, by its end.
    Process,
    /// Whoever puts an item into the queue.
    Item,
    /// Whoever takes an item out of the queue.
    Room,
    /// Whoever reports an item as done.
    Done,
}

/// Shared memory in which there are things to wait for.
pub trait Awaited: fmt::Debug + Send + Sync {
    /// Who waits.
    fn waits(&self) -> &WaitTable;

    /// Gets memory for the table, before somebody writes there; false if there is none.
    fn prepare(&self) -> bool;
}

/// Whether this process has locks or queues, so that others could care for what it waits.
pub fn may_wait() -> bool {
    !mapped_chunks().is_empty() || find_awaited(Some).is_some()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_ne_bytes(word)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(word)
}
