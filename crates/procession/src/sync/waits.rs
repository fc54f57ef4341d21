//! Who waits for what: the graph in which deadlocks are found.
//!
//! A waiter that has waited for a while without a time limit enters itself into a table in shared memory: beside the lock it
//! waits for, or, if it waits for a process, into all tables that its process can see. From the lock's word everybody can
//! read who holds it, and from the tables what that one waits for in turn. See the module's README.

use std::fmt;
use std::sync::atomic::{fence, AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use super::identity::Identity;
use super::lock::RawLock;
use super::memory::{mapped_chunks, Cell, Chunk};
use crate::os::process;
use crate::os::time::monotonic_ns;

const RECORDS: usize = 64;
const TEXT_WORDS: usize = 26;
/// Who has waited this long enters itself.
const ENTER_AFTER: Duration = Duration::from_millis(50);
/// A lock that was not taken for a scope may be meant to be released by somebody else, so the one who waits gives it this
/// long before a cycle counts.
const DOUBT: Duration = Duration::from_secs(1);
/// How often to look for a cycle, at first and at last.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_millis(15), Duration::from_millis(500));

const LOCK: u32 = 1;
const PROCESS: u32 = 2;
/// The lock is recursive: its owner alone can release it.
const OWNED: u32 = 4;

/// The waits for locks in one chunk.
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
    /// Where the lock is in its chunk, or which process it is.
    target: AtomicU64,
    began_ns: AtomicU64,
    text: [AtomicU64; TEXT_WORDS],
}

/// What a waiter says of itself, for people: each part is cut short if need be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// The process's name.
    pub process: String,
    /// Where in its code it waits, such as `"app.py:12"`; may be empty.
    pub place: String,
    /// What it waits for, such as `"Lock made at app.py:3"`.
    pub what: String,
}

impl About {
    const PROCESS_BYTES: usize = 56;
    const PLACE_BYTES: usize = 72;
    const WHAT_BYTES: usize = TEXT_WORDS * 8 - Self::PROCESS_BYTES - Self::PLACE_BYTES;

    fn pack(&self) -> [u64; TEXT_WORDS] {
        let mut bytes = [0u8; TEXT_WORDS * 8];
        let mut at = 0;
        for (text, room) in [
            (&self.process, Self::PROCESS_BYTES),
            (&self.place, Self::PLACE_BYTES),
            (&self.what, Self::WHAT_BYTES),
        ] {
            // Of a long path the end says most.
            let mut from = text.len().saturating_sub(room);
            while !text.is_char_boundary(from) {
                from += 1;
            }
            let part = &text.as_bytes()[from..];
            bytes[at..at + part.len()].copy_from_slice(part);
            at += room;
        }
        let mut words = [0u64; TEXT_WORDS];
        for (word, chunk) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_ne_bytes(*chunk);
        }
        words
    }

    fn unpack(words: &[u64; TEXT_WORDS]) -> About {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut at = 0;
        let mut part = |room| {
            let field: &[u8] = &bytes[at..at + room];
            at += room;
            let end = field.iter().position(|&byte| byte == 0).unwrap_or(room);
            String::from_utf8_lossy(&field[..end]).into_owned()
        };
        About {
            process: part(Self::PROCESS_BYTES),
            place: part(Self::PLACE_BYTES),
            what: part(Self::WHAT_BYTES),
        }
    }
}

/// One edge, as it was read.
#[derive(Debug)]
struct Seen {
    chunk: Arc<Chunk>,
    index: usize,
    epoch: u32,
    waiter: Identity,
    kind: u32,
    target: u64,
    began_ns: u64,
    about: About,
}

impl WaitTable {
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

    fn enter(&self, me: Identity, kind: u32, target: u64, about: &About) -> Option<usize> {
        let index = self.claim(me)?;
        let record = &self.records[index];
        // A dead predecessor may have left an odd number.
        let writing = record.epoch.load(Ordering::Relaxed).wrapping_add(1) | 1;
        record.epoch.store(writing, Ordering::Relaxed);
        // Sync point *record is whole*: pairs with the fence in `read`.
        fence(Ordering::Release);
        record.kind.store(kind, Ordering::Relaxed);
        record.target.store(target, Ordering::Relaxed);
        record.began_ns.store(monotonic_ns(), Ordering::Relaxed);
        for (word, value) in record.text.iter().zip(about.pack()) {
            word.store(value, Ordering::Relaxed);
        }
        // Sync point *record is whole*: pairs with the first load in `read`.
        record.epoch.store(writing.wrapping_add(1), Ordering::Release);
        Some(index)
    }

    fn withdraw(&self, index: usize) {
        self.records[index].waiter.store(0, Ordering::Release);
    }

    fn read(&self, chunk: &Arc<Chunk>, waiter: Identity) -> Option<Seen> {
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

/// A wait that others can see. It is withdrawn when this is dropped.
#[derive(Debug)]
pub struct Waiting {
    places: Vec<(Arc<Chunk>, usize)>,
    generation: u32,
}

impl Waiting {
    /// Says that the calling thread waits for the process with this number to end, without a time limit. `None` if nobody
    /// could care: this process has no locks, or the tables are full.
    pub fn for_process(pid: u32, about: &About) -> Option<Waiting> {
        let target = Identity::of_process(pid)?.main_thread();
        let me = Identity::current();
        let places: Vec<_> = mapped_chunks()
            .into_iter()
            .filter_map(|chunk| {
                let index = chunk.waits().enter(me, PROCESS, target.word(), about)?;
                Some((chunk, index))
            })
            .collect();
        (!places.is_empty()).then(|| Waiting {
            places,
            generation: process::generation(),
        })
    }

    fn for_lock(cell: &Cell, offset: usize, owned: bool, about: &About) -> Option<Waiting> {
        let kind = if owned { LOCK | OWNED } else { LOCK };
        let chunk = cell.chunk();
        let target = cell.offset() + offset as u64;
        let index = chunk.waits().enter(Identity::current(), kind, target, about)?;
        Some(Waiting {
            places: vec![(chunk.clone(), index)],
            generation: process::generation(),
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // A child that was forked meanwhile has a copy, but not the wait.
        if self.generation == process::generation() {
            for (chunk, index) in &self.places {
                chunk.waits().withdraw(*index);
            }
        }
    }
}

/// One who waits in a deadlock, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The waiting process's number.
    pub pid: u32,
    /// The waiting thread's number.
    pub thread: u32,
    /// What it said of itself.
    pub about: About,
    /// The number of the process that it waits for: it holds the lock, or is the process whose end is awaited.
    pub holder_pid: u32,
    /// Whether it waits for a process, not for a lock.
    pub joins: bool,
}

/// A cycle of waiters, each of whom waits for the next, the last for the first: none of them will ever go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deadlock {
    /// The cycle; the first is the one who was told.
    pub members: Vec<Member>,
}

impl fmt::Display for Deadlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "deadlock: ")?;
        for (number, member) in self.members.iter().enumerate() {
            if number > 0 {
                write!(f, "; ")?;
            }
            let next = &self.members[(number + 1) % self.members.len()];
            write!(f, "{} (pid {}", member.about.process, member.pid)?;
            if member.thread != member.pid {
                write!(f, ", thread {}", member.thread)?;
            }
            write!(f, ")")?;
            if !member.about.place.is_empty() {
                write!(f, " at {}", member.about.place)?;
            }
            let (process, pid) = (&next.about.process, next.pid);
            if member.joins {
                write!(f, " waits for the end of {process} (pid {pid})")?;
            } else {
                write!(
                    f,
                    " waits for the {}, which {process} (pid {pid}) holds",
                    member.about.what
                )?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Deadlock {}

/// Watches one wait for a lock: enters it into the table when it lasts, and looks for a cycle.
#[derive(Debug)]
pub struct Watch<'a> {
    cell: &'a Cell,
    offset: usize,
    owned: bool,
    waiting: Option<Waiting>,
    next_look: Duration,
    suspected: Vec<(usize, usize, u32)>,
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
        }
    }

    /// To be called when the wait stirs. `about` is called once, if the wait lasts.
    ///
    /// # Errors
    ///
    /// The deadlock, if this wait is part of one and it is for this waiter to end it.
    pub fn look(&mut self, waited: Duration, about: &mut dyn FnMut() -> About) -> Result<(), Deadlock> {
        if waited < self.next_look {
            return Ok(());
        }
        self.next_look = waited + (waited / 8).clamp(LOOK_EVERY.0, LOOK_EVERY.1);
        if self.waiting.is_none() {
            self.waiting = Waiting::for_lock(self.cell, self.offset, self.owned, &about());
            return Ok(());
        }
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
                    about: seen.about,
                    holder_pid: edge.holder.pid(),
                    joins: !edge.is_lock,
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

    fn about(process: &str) -> About {
        About {
            process: process.into(),
            place: "app.py:1".into(),
            what: "Lock made at app.py:2".into(),
        }
    }

    fn lock(cell: &Cell) -> &RawLock {
        // SAFETY: the cell is long enough, and a lock may have any bits.
        unsafe { cell.at(0) }
    }

    fn wait(cell: &Cell, scoped: bool, name: &str) -> Result<bool, Deadlock> {
        let mut watch = Watch::new(cell, 0, false);
        let mut about = || about(name);
        lock(cell)
            .lock(Identity::current(), scoped, None, &mut |stir| {
                watch.look(stir.waited, &mut about)
            })
            .map(|acquired| acquired.is_some())
    }

    #[test]
    fn texts_survive_and_long_ones_keep_their_end() {
        let short = about("MainProcess");
        assert_eq!(About::unpack(&short.pack()), short);
        let long = About {
            place: format!("{}äend.py:7", "x".repeat(200)),
            ..short
        };
        assert!(About::unpack(&long.pack()).place.ends_with("äend.py:7"));
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
        let index = table.enter(me, LOCK, cell.offset(), &about("late")).unwrap();
        assert_eq!(table.read(cell.chunk(), me).unwrap().about, about("late"));
        table.withdraw(index);
        for index in taken {
            table.withdraw(index);
        }
    }
}
