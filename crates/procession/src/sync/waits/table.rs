//! The table of waits in a shared memory: records that are claimed, written, read whole or not at all, and withdrawn.

use std::mem::offset_of;
use std::sync::atomic::{fence, AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;

use super::about::TEXT_WORDS;
use super::{u32_at, u64_at, About, For};
use crate::sync::memory::Chunk;
use crate::sync::Identity;

pub(super) const RECORDS: usize = 64;

pub(super) const LOCK: u32 = 1;
pub(super) const PROCESS: u32 = 2;
/// The lock is recursive: its owner alone can release it.
pub(super) const OWNED: u32 = 4;
const ITEM: u32 = 8;
const ROOM: u32 = 16;
const DONE: u32 = 32;
/// No signal has the waiter do anything before its wait is over.
const DEAF: u32 = 64;

/// The waits for what is in one memory.
#[repr(C)]
#[derive(Debug)]
pub struct WaitTable {
    records: [Record; RECORDS],
}

#[repr(C, align(64))]
#[derive(Debug)]
struct Record {
    /// Who waits; 0 if the record is vacant.
    waiter: AtomicU64,
    /// Odd while the rest is written; each wait has its own.
    epoch: AtomicU32,
    kind: AtomicU32,
    /// Where the lock, or the word that tells of a change, is in this memory; or which process it is.
    target: AtomicU64,
    /// What that word says as long as nothing has changed.
    value: AtomicU64,
    began_ns: AtomicU64,
    text: [AtomicU64; TEXT_WORDS],
}

impl For {
    fn kind(self) -> u32 {
        match self {
            For::Lock { owned: false } => LOCK,
            For::Lock { owned: true } => LOCK | OWNED,
            For::Process => PROCESS,
            For::Item => ITEM,
            For::Room => ROOM,
            For::Done => DONE,
        }
    }

    fn of_kind(kind: u32) -> Option<For> {
        Some(match kind & !DEAF {
            PROCESS => For::Process,
            ITEM => For::Item,
            ROOM => For::Room,
            DONE => For::Done,
            kind if kind & !OWNED == LOCK => For::Lock {
                owned: kind & OWNED != 0,
            },
            _ => return None,
        })
    }
}

/// A wait as its record in some process's memory tells it.
#[derive(Debug, Clone)]
pub(in crate::sync) struct Wait {
    pub index: usize,
    pub epoch: u32,
    pub waiter: Identity,
    kind: u32,
    pub target: u64,
    pub value: u64,
    pub began_ns: u64,
    pub about: About,
}

impl Wait {
    /// Why it waits; `None` if its record makes no sense.
    pub fn what_for(&self) -> Option<For> {
        For::of_kind(self.kind)
    }

    pub fn is_deaf(&self) -> bool {
        self.kind & DEAF != 0
    }

    /// Of all that is in the bytes of a table, what is whole.
    pub fn all_in(table: &[u8]) -> Vec<Wait> {
        let records = table.chunks_exact(size_of::<Record>()).take(RECORDS);
        records
            .enumerate()
            .filter_map(|(index, record)| {
                let waiter = Identity::from_word(u64_at(record, offset_of!(Record, waiter)))?;
                let epoch = u32_at(record, offset_of!(Record, epoch));
                let text = offset_of!(Record, text);
                epoch.is_multiple_of(2).then(|| Wait {
                    index,
                    epoch,
                    waiter,
                    kind: u32_at(record, offset_of!(Record, kind)),
                    target: u64_at(record, offset_of!(Record, target)),
                    value: u64_at(record, offset_of!(Record, value)),
                    began_ns: u64_at(record, offset_of!(Record, began_ns)),
                    about: About::unpack(&std::array::from_fn(|i| u64_at(record, text + i * 8))),
                })
            })
            .collect()
    }

    /// Whether the bytes of a table still say that it is the same wait.
    pub fn is_still_in(&self, table: &[u8]) -> bool {
        let record = &table[self.index * size_of::<Record>()..];
        u64_at(record, offset_of!(Record, waiter)) == self.waiter.word()
            && u32_at(record, offset_of!(Record, epoch)) == self.epoch
    }
}

/// One edge, as it was read.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) chunk: Arc<Chunk>,
    pub(super) index: usize,
    pub(super) epoch: u32,
    pub(super) waiter: Identity,
    pub(super) kind: u32,
    pub(super) target: u64,
    pub(super) began_ns: u64,
    pub(super) about: About,
}

impl WaitTable {
    /// The threads that have entered a wait, dead ones included.
    pub fn waiters(&self) -> Vec<Identity> {
        let words = self
            .records
            .iter()
            .map(|record| record.waiter.load(Ordering::Acquire));
        words.filter_map(Identity::from_word).collect()
    }

    fn claim(&self, me: Identity) -> Option<usize> {
        let claim = |record: &Record, from: u64| {
            record
                .waiter
                .compare_exchange(from, me.word(), Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        };
        if let Some(index) = self.records.iter().position(|record| claim(record, 0)) {
            return Some(index);
        }
        // The dead do not withdraw.
        self.records.iter().position(|record| {
            let waiter = record.waiter.load(Ordering::Relaxed);
            Identity::from_word(waiter).is_some_and(|id| !id.process_is_alive()) && claim(record, waiter)
        })
    }

    pub(super) fn enter(
        &self,
        me: Identity,
        what_for: For,
        target: u64,
        value: u64,
        began_ns: u64,
        about: &About,
    ) -> Option<usize> {
        let index = self.claim(me)?;
        let kind = what_for.kind() | if about.deaf_to_signals { DEAF } else { 0 };
        let record = &self.records[index];
        // A dead predecessor may have left an odd number.
        let writing = record.epoch.load(Ordering::Relaxed).wrapping_add(1) | 1;
        record.epoch.store(writing, Ordering::Relaxed);
        // Sync point *record is whole*: pairs with the fence in `read`.
        fence(Ordering::Release);
        record.kind.store(kind, Ordering::Relaxed);
        record.target.store(target, Ordering::Relaxed);
        record.value.store(value, Ordering::Relaxed);
        record.began_ns.store(began_ns, Ordering::Relaxed);
        for (word, value) in record.text.iter().zip(about.pack()) {
            word.store(value, Ordering::Relaxed);
        }
        // Sync point *record is whole*: pairs with the first load in `read`.
        record.epoch.store(writing.wrapping_add(1), Ordering::Release);
        Some(index)
    }

    pub(super) fn withdraw(&self, index: usize) {
        self.records[index].waiter.store(0, Ordering::Release);
    }

    pub(super) fn read(&self, chunk: &Arc<Chunk>, waiter: Identity) -> Option<Seen> {
        let (index, record) = self
            .records
            .iter()
            .enumerate()
            .find(|(_, record)| record.waiter.load(Ordering::Acquire) == waiter.word())?;
        // Sync point *record is whole*.
        let epoch = record.epoch.load(Ordering::Acquire);
        let text: [u64; TEXT_WORDS] = std::array::from_fn(|i| record.text[i].load(Ordering::Relaxed));
        let seen = Seen {
            chunk: chunk.clone(),
            index,
            epoch,
            waiter,
            kind: record.kind.load(Ordering::Relaxed),
            target: record.target.load(Ordering::Relaxed),
            began_ns: record.began_ns.load(Ordering::Relaxed),
            about: About::unpack(&text),
        };
        fence(Ordering::Acquire);
        let whole = epoch.is_multiple_of(2)
            && record.epoch.load(Ordering::Relaxed) == epoch
            && record.waiter.load(Ordering::Relaxed) == waiter.word();
        whole.then_some(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::memory::Cell;

    #[test]
    fn a_record_of_the_dead_is_used_again() {
        let cell = Cell::allocate(64).unwrap();
        let table = cell.chunk().waits();
        let me = Identity::current();
        let dead = Identity::new(me.pid(), 77, 12345);
        let taken: Vec<_> = std::iter::from_fn(|| {
            table.records.iter().position(|r| {
                r.waiter
                    .compare_exchange(0, dead.word(), Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok()
            })
        })
        .collect();
        let what_for = For::Lock { owned: false };
        let index = table
            .enter(me, what_for, cell.offset(), 0, 1, &About::sample("late"))
            .unwrap();
        assert_eq!(table.read(cell.chunk(), me).unwrap().about, About::sample("late"));
        table.withdraw(index);
        for index in taken {
            table.withdraw(index);
        }
    }
}
