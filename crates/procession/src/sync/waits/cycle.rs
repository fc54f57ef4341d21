//! Cycles: deadlocks in which each waits for a lock that the next one holds, or for the next one's end.

use std::sync::atomic::AtomicU32;
use std::sync::Arc;
use std::time::Duration;

use super::table::{Seen, LOCK, OWNED, PROCESS, RECORDS};
use super::{About, Deadlock, For, Member, Waiting};
use crate::os::process;
use crate::sync::knots::Knots;
use crate::sync::memory::{mapped_chunks, Cell, Chunk};
use crate::sync::{Identity, RawLock};

/// Who has waited this long enters itself.
const ENTER_AFTER: Duration = Duration::from_millis(50);
/// A lock that was not taken for a scope may be meant to be released by somebody else, so the one who waits gives it this
/// long before a cycle counts.
const DOUBT: Duration = Duration::from_secs(1);
/// How often to look for a cycle, at first and at last.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_millis(15), Duration::from_millis(500));

/// How an edge of the graph leads on.
struct Edge {
    holder: Identity,
    /// Nobody but the holder can end this wait.
    certain: bool,
    is_lock: bool,
}

impl Seen {
    fn edge(&self) -> Option<Edge> {
        if self.kind & PROCESS != 0 {
            let holder = Identity::from_word(self.target)?;
            return Some(Edge {
                holder,
                certain: true,
                is_lock: false,
            });
        }
        if self.kind & LOCK == 0 {
            return None;
        }
        let lock = self.chunk.lock_at(self.target)?;
        let holder = lock.owner()?;
        if lock.is_signal() {
            return None;
        }
        Some(Edge {
            holder,
            certain: self.kind & OWNED != 0 || lock.is_scoped(),
            is_lock: true,
        })
    }
}

/// Watches one wait for a lock: enters it into the table when it lasts, and looks for a cycle, then for a knot.
#[derive(Debug)]
pub struct Watch<'a> {
    cell: &'a Cell,
    offset: usize,
    owned: bool,
    waiting: Option<Waiting>,
    next_look: Duration,
    suspected: Vec<(usize, usize, u32)>,
    knots: Knots,
}

impl<'a> Watch<'a> {
    /// For a wait without a time limit for the lock that lies `offset` bytes into `cell`. `owned`: nobody but its owner can
    /// release it.
    pub fn new(cell: &'a Cell, offset: usize, owned: bool) -> Watch<'a> {
        Watch {
            cell,
            offset,
            owned,
            waiting: None,
            next_look: ENTER_AFTER,
            suspected: Vec::new(),
            knots: Knots::new(),
        }
    }

    /// To be called when the wait stirs. `about` is called once, if the wait lasts.
    ///
    /// # Errors
    ///
    /// The deadlock, if this wait is part of one and it is for this waiter to end it.
    pub fn look(&mut self, waited: Duration, about: &mut dyn FnMut() -> About) -> Result<(), Deadlock> {
        if waited >= self.next_look {
            self.next_look = waited + (waited / 8).clamp(LOOK_EVERY.0, LOOK_EVERY.1);
            if self.waiting.is_none() {
                self.waiting = Waiting::for_lock(self.cell, self.offset, self.owned, &about());
                return Ok(());
            }
            self.look_for_cycle(waited)?;
        }
        match &self.waiting {
            Some(_) => self.knots.look(waited, &AtomicU32::new(0)),
            None => Ok(()),
        }
    }

    fn look_for_cycle(&mut self, waited: Duration) -> Result<(), Deadlock> {
        let found = self.find_cycle(waited);
        let (cycle, edges) = match found {
            Some(found) => found,
            None => {
                self.suspected.clear();
                return Ok(());
            }
        };
        let marks: Vec<_> = cycle
            .iter()
            .map(|seen| (Arc::as_ptr(&seen.chunk) as usize, seen.index, seen.epoch))
            .collect();
        // Seen twice, with nobody's wait having begun anew: so all of them waited all the time in between, and each lock was
        // held by the next all the time, since who waits takes and releases nothing.
        if self.suspected != marks {
            self.suspected = marks;
            return Ok(());
        }
        // Everybody sees the same cycle; the one who came last is told.
        let last = cycle
            .iter()
            .filter(|seen| seen.kind & PROCESS == 0)
            .map(|seen| (seen.began_ns, seen.waiter.word()))
            .max();
        if last != Some((cycle[0].began_ns, cycle[0].waiter.word())) {
            return Ok(());
        }
        Err(Deadlock {
            members: cycle
                .into_iter()
                .zip(edges)
                .map(|(seen, edge)| Member {
                    pid: seen.waiter.pid(),
                    thread: seen.waiter.thread(),
                    what_for: if edge.is_lock {
                        For::Lock {
                            owned: seen.kind & OWNED != 0,
                        }
                    } else {
                        For::Process
                    },
                    about: seen.about,
                    holder_pid: Some(edge.holder.pid()),
                })
                .collect(),
        })
    }

    fn find_cycle(&self, waited: Duration) -> Option<(Vec<Seen>, Vec<Edge>)> {
        let chunks = mapped_chunks();
        let read = |waiter| chunks.iter().find_map(|chunk| chunk.waits().read(chunk, waiter));
        let me = Identity::current();
        // One's own chunk need not be among those that a forked child knows of.
        let mut cycle = vec![self.cell.chunk().waits().read(self.cell.chunk(), me)?];
        let mut edges: Vec<Edge> = Vec::new();
        loop {
            let edge = cycle.last()?.edge()?;
            let holder = edge.holder;
            edges.push(edge);
            if holder == me {
                break;
            }
            if cycle.len() >= RECORDS || cycle.iter().any(|seen| seen.waiter == holder) {
                return None;
            }
            cycle.push(read(holder).or_else(|| self.cell.chunk().waits().read(self.cell.chunk(), holder))?);
        }
        let certain = edges.iter().all(|edge| edge.certain)
            || if edges.len() == 1 {
                // Who waits for its own lock may wait to be let go by another; unless there is no other.
                self.cell.is_private() && process::thread_count() == Some(1)
            } else {
                waited >= DOUBT && edges.iter().all(|edge| edge.is_lock)
            };
        certain.then_some((cycle, edges))
    }
}

impl Chunk {
    /// The lock that lies there, by the word of a record.
    fn lock_at(&self, offset: u64) -> Option<&RawLock> {
        let offset = usize::try_from(offset).ok()?;
        let fits = offset.is_multiple_of(align_of::<RawLock>())
            && offset.checked_add(size_of::<RawLock>())? <= self.len_bytes();
        // SAFETY: it lies inside the mapping and is aligned, and a lock's fields are atomics, which may have any bits.
        fits.then(|| unsafe { self.start_of_mapping().add(offset).cast::<RawLock>().as_ref() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(cell: &Cell) -> &RawLock {
        // SAFETY: the cell is long enough, and a lock may have any bits.
        unsafe { cell.at(0) }
    }

    fn wait(cell: &Cell, scoped: bool, name: &str) -> Result<bool, Deadlock> {
        let mut watch = Watch::new(cell, 0, false);
        let mut about = || About::sample(name);
        lock(cell)
            .lock(Identity::current(), scoped, None, &mut |stir| {
                watch.look(stir.waited, &mut about)
            })
            .map(|acquired| acquired.is_some())
    }

    #[test]
    fn a_cycle_of_two_is_told_to_one_of_them() {
        let (a, b) = (Cell::allocate(64).unwrap(), Cell::allocate(64).unwrap());
        let both = std::sync::Barrier::new(2);
        let cross = |first: &Cell, second: &Cell, name: &str| {
            let me = Identity::current();
            assert!(lock(first).try_lock(me, true));
            both.wait();
            let outcome = wait(second, true, name);
            if outcome.is_ok() {
                lock(second).unlock(me).unwrap();
            }
            lock(first).unlock(me).unwrap();
            outcome
        };
        let outcomes = std::thread::scope(|scope| {
            let one = scope.spawn(|| cross(&a, &b, "one"));
            let two = scope.spawn(|| cross(&b, &a, "two"));
            [one.join().unwrap(), two.join().unwrap()]
        });
        let told: Vec<_> = outcomes.iter().filter_map(|o| o.as_ref().err()).collect();
        assert_eq!(told.len(), 1, "{outcomes:?}");
        assert_eq!(told[0].members.len(), 2);
        let text = told[0].to_string();
        assert!(
            text.contains("one") && text.contains("two") && text.contains("app.py:1"),
            "{text}"
        );
    }

    #[test]
    fn waiting_for_ones_own_lock_is_none_if_another_may_release_it() {
        let cell = Cell::allocate(64).unwrap();
        assert!(lock(&cell).try_lock(Identity::current(), false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(300));
                lock(&cell).unlock(Identity::current()).unwrap();
            });
            assert_eq!(wait(&cell, false, "one"), Ok(true));
        });
    }

    #[test]
    fn a_lock_held_for_a_scope_and_waited_for_again_is_a_deadlock_of_one() {
        let cell = Cell::allocate(64).unwrap();
        assert!(lock(&cell).try_lock(Identity::current(), true));
        let deadlock = wait(&cell, true, "one").unwrap_err();
        assert_eq!(deadlock.members.len(), 1);
        assert!(deadlock.to_string().starts_with("deadlock: one (pid "));
    }
}
