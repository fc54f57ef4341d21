//! Blocks that the dead have left behind, and how they are found.
//!
//! Where a killed process was amid putting or taking, a block may be marked as the queue's or as the dead one's although no
//! record and no segment leads to it. Nobody notices at once, and nothing depends on it but memory. So they are looked for
//! when there is much in use, or no memory left: with both locks held, whatever is reachable is kept.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::layout::{next_segment, offset_of, segment_of};
use super::{ByteQueue, IDLE_CAP_BYTES};
use crate::os::process;
use crate::shm::Owner;
use crate::sync::{Identity, Stir};
use std::sync::atomic::Ordering;

/// Somebody who is stopped while holding a lock must not stop others from putting what there is memory for.
const PATIENCE: Duration = Duration::from_millis(200);

impl ByteQueue {
    /// Frees the blocks of the dead; false if it could not look. The caller holds none of the locks.
    pub fn take_back_from_the_dead(&self) -> bool {
        let header = self.header();
        let mut no_stir = |_: Stir| Ok::<(), std::convert::Infallible>(());
        // Nobody takes the locks in the other order.
        let Ok(Some(_put)) = Self::hold(&header.put_lock.0, Some(PATIENCE), &mut no_stir) else {
            return false;
        };
        let Ok(Some(_get)) = Self::hold(&header.get_lock.0, Some(PATIENCE), &mut no_stir) else {
            return false;
        };
        let Some(reachable) = self.reachable_blocks() else {
            return false;
        };
        let mut lives: HashMap<u32, bool> = HashMap::new();
        self.arena.sweep_where(|block, owner| {
            if reachable.contains(&block.raw()) {
                return false;
            }
            match owner.pid() {
                // Whoever has just put or taken something holds it as its own; and nobody else holds a lock.
                Some(pid) => !*lives.entry(pid).or_insert_with(|| is_alive(pid)),
                None => owner == Owner::CALLER,
            }
        });
        let next = (self.arena.used_bytes() * 2).max(IDLE_CAP_BYTES);
        header.sweep_at_bytes.store(next, Ordering::Relaxed);
        true
    }

    fn reachable_blocks(&self) -> Option<HashSet<u32>> {
        let (head, tail) = (self.head(), self.tail());
        let mut reachable = HashSet::new();
        let mut unit = head.unit;
        // The segment of the tail counts only if something was written into it.
        while unit != tail.unit {
            reachable.insert(self.table_entry(segment_of(unit)).load(Ordering::Relaxed));
            if segment_of(unit) == segment_of(tail.unit) {
                break;
            }
            unit = next_segment(unit);
        }
        if offset_of(tail.unit) != 0 {
            reachable.insert(self.table_entry(segment_of(tail.unit)).load(Ordering::Relaxed));
        }
        let mut unit = head.unit;
        for _ in 0..tail.items.wrapping_sub(head.items) {
            let record = self.record_at(unit).ok()?;
            for block in record.blocks() {
                reachable.insert(block?.raw());
            }
            unit = record.unit.wrapping_add(record.word.units());
        }
        Some(reachable)
    }
}

fn is_alive(pid: u32) -> bool {
    match Identity::of_process(pid) {
        Some(identity) => identity.process_is_alive(),
        // Where `/proc` does not show other users' processes, the kernel still says whether they exist.
        None => process::kill(pid, 0).map_or_else(|e| !process::is_gone(&e), |()| true),
    }
}
