//! Who waits for what: the graph in which deadlocks are found.
//!
//! A waiter that has waited for a while without a time limit enters itself into a table in shared memory: beside the lock or
//! the queue it waits for, or, if it waits for a process, where others can see it. From the lock's word everybody can read who
//! holds it, and from the tables what that one waits for in turn. See the module's README.

use std::fmt;
use std::mem::offset_of;
use std::panic::Location;
use std::sync::atomic::{fence, AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::identity::Identity;
use super::knots::Knots;
use super::lock::RawLock;
use super::memory::{find_awaited, mapped_chunks, Cell, Chunk};
use crate::os::memory::PAGE_BYTES;
use crate::os::process::{self, Home};
use crate::os::time::{monotonic_ns, since_boot_seconds};

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
const ITEM: u32 = 8;
const ROOM: u32 = 16;
const DONE: u32 = 32;
/// No signal has the waiter do anything before its wait is over.
const DEAF: u32 = 64;

/// Whose a memory is, at [`Origin::AT`] in it: by that is judged whether all who have it can be found.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Origin {
    user: AtomicU32,
    /// Whether another user, or somebody in another world of process numbers, has opened it.
    mixed: AtomicU32,
    pid_namespace: AtomicU64,
    /// When it was made, in milliseconds since the machine began.
    made_ms: AtomicU64,
}

impl Origin {
    /// Where it lies in a memory that has a table.
    pub const AT: usize = 64;

    /// To be called by the maker of the memory.
    pub fn made(&self) {
        let home = Home::current();
        self.user.store(home.user, Ordering::Relaxed);
        self.pid_namespace.store(home.pid_namespace, Ordering::Relaxed);
        let made_ms = (since_boot_seconds() * 1000.0) as u64;
        self.made_ms.store(made_ms, Ordering::Relaxed);
    }

    /// To be called by whoever opens it.
    pub fn opened(&self) {
        let home = Home::current();
        if self.user.load(Ordering::Relaxed) != home.user
            || self.pid_namespace.load(Ordering::Relaxed) != home.pid_namespace
        {
            self.mixed.store(1, Ordering::Relaxed);
        }
    }

    /// By its bytes: when it was made, if all who have the memory can be found from `home`.
    pub(super) fn seen_from(home: Home, bytes: &[u8]) -> Option<u64> {
        let seen = home.pid_namespace != 0
            && u32_at(bytes, offset_of!(Origin, user)) == home.user
            && u32_at(bytes, offset_of!(Origin, mixed)) == 0
            && u64_at(bytes, offset_of!(Origin, pid_namespace)) == home.pid_namespace;
        seen.then(|| u64_at(bytes, offset_of!(Origin, made_ms)))
    }
}

/// Shared memory in which there are things to wait for.
pub trait Awaited: fmt::Debug + Send + Sync {
    /// Who waits.
    fn waits(&self) -> &WaitTable;

    /// Gets memory for the table, before somebody writes there; false if there is none.
    fn prepare(&self) -> bool;
}

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

/// What a waiter says of itself, for people: each part is cut short if need be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// The process's name.
    pub process: String,
    /// Where in its code it waits, such as `"app.py:12"`; may be empty.
    pub place: String,
    /// What it waits for, such as `"Lock made at app.py:3"`.
    pub what: String,
    /// Whether no signal has this process do anything before its wait is over: no handler of it runs anything.
    pub deaf_to_signals: bool,
}

impl About {
    /// What the calling thread of a Rust program says, at this place of its code.
    pub fn here(place: &Location<'_>) -> About {
        About {
            process: thread::current().name().unwrap_or("a thread").to_owned(),
            place: format!("{}:{}", place.file(), place.line()),
            what: String::new(),
            deaf_to_signals: process::heeded_signals().is_empty(),
        }
    }

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
            deaf_to_signals: false,
        }
    }
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

/// A wait as its record in some process's memory tells it.
#[derive(Debug, Clone)]
pub(super) struct Wait {
    pub index: usize,
    pub epoch: u32,
    pub waiter: Identity,
    kind: u32,
    pub target: u64,
    pub value: u64,
    pub began_ns: u64,
    pub about: About,
}

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

    fn enter(
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

/// Whether this process has locks or queues, so that others could care for what it waits.
pub fn may_wait() -> bool {
    !mapped_chunks().is_empty() || find_awaited(Some).is_some()
}

/// A wait that others can see. It is withdrawn when this is dropped.
#[derive(Debug)]
pub struct Waiting {
    places: Vec<(Arc<dyn Awaited>, usize)>,
    generation: u32,
}

impl Waiting {
    fn at(places: Vec<(Arc<dyn Awaited>, usize)>) -> Option<Waiting> {
        (!places.is_empty()).then(|| Waiting {
            places,
            generation: process::generation(),
        })
    }

    /// Says that the calling thread waits for the process with this number to end, without a time limit. `None` if nobody
    /// could care: this process has no locks and no queues, or the tables are full.
    pub fn for_process(pid: u32, about: &About) -> Option<Waiting> {
        let target = Identity::of_process(pid)?.main_thread();
        let me = Identity::current();
        let began_ns = monotonic_ns();
        let enter = |memory: Arc<dyn Awaited>| {
            let table = memory.prepare().then(|| memory.waits())?;
            let index = table.enter(me, For::Process, target.word(), 0, began_ns, about)?;
            Some((memory, index))
        };
        // Who looks for a cycle reads what it has mapped; who looks for a knot finds the record wherever it is.
        let mut places: Vec<_> = mapped_chunks()
            .into_iter()
            .filter_map(|chunk| enter(chunk))
            .collect();
        if places.is_empty() {
            places.extend(find_awaited(enter));
        }
        Waiting::at(places)
    }

    fn for_lock(cell: &Cell, offset: usize, owned: bool, about: &About) -> Option<Waiting> {
        let chunk = cell.chunk();
        let target = cell.offset() + offset as u64;
        let (me, what_for) = (Identity::current(), For::Lock { owned });
        let index = chunk
            .waits()
            .enter(me, what_for, target, 0, monotonic_ns(), about)?;
        Waiting::at(vec![(chunk.clone(), index)])
    }

    /// Says that the calling thread waits for the word that lies there in this memory to change.
    pub(super) fn for_change(
        memory: &Arc<dyn Awaited>,
        what_for: For,
        (target, value): (u64, u64),
        began_ns: u64,
        about: &About,
    ) -> Option<Waiting> {
        let table = memory.prepare().then(|| memory.waits())?;
        let index = table.enter(Identity::current(), what_for, target, value, began_ns, about)?;
        Waiting::at(vec![(memory.clone(), index)])
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // A child that was forked meanwhile has a copy, but not the wait.
        if self.generation == process::generation() {
            for (memory, index) in &self.places {
                memory.waits().withdraw(*index);
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
    /// What it waits for.
    pub what_for: For,
    /// The number of the process that it waits for: it holds the lock, or is the process whose end is awaited. `None` if
    /// several could end the wait, all of them members: a queue's, or a lock's that others may release.
    pub holder_pid: Option<u32>,
}

/// Those who wait for each other, and for nobody else: none of them will ever go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deadlock {
    /// Who waits; the first is the one who was told. In a circle of locks each waits for the next, the last for the first.
    pub members: Vec<Member>,
}

/// A message does not name more members than this.
const MOST_NAMED: usize = 12;

impl Deadlock {
    fn name_of(&self, pid: u32) -> &str {
        let found = self.members.iter().find(|member| member.pid == pid);
        found.map_or("a process", |member| &member.about.process)
    }

    fn of_nobody_else(&self, f: &mut fmt::Formatter<'_>, what: &str) -> fmt::Result {
        let first = self.members.first().map(|member| member.pid);
        if self.members.iter().all(|member| Some(member.pid) == first) {
            write!(f, ", which no other process has")
        } else {
            write!(f, ", and only those named here could {what}")
        }
    }
}

impl fmt::Display for Deadlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "deadlock: ")?;
        for (number, member) in self.members.iter().enumerate().take(MOST_NAMED) {
            if number > 0 {
                write!(f, "; ")?;
            }
            write!(f, "{} (pid {}", member.about.process, member.pid)?;
            if member.thread != member.pid {
                write!(f, ", thread {}", member.thread)?;
            }
            write!(f, ")")?;
            if !member.about.place.is_empty() {
                write!(f, " at {}", member.about.place)?;
            }
            let what = &member.about.what;
            match (member.what_for, member.holder_pid) {
                (For::Process, pid) => {
                    let pid = pid.unwrap_or_default();
                    write!(f, " waits for the end of {} (pid {pid})", self.name_of(pid))?;
                }
                (For::Lock { .. }, Some(pid)) => {
                    write!(
                        f,
                        " waits for the {what}, which {} (pid {pid}) holds",
                        self.name_of(pid)
                    )?;
                }
                (For::Lock { .. }, None) => {
                    write!(f, " waits for the {what}")?;
                    self.of_nobody_else(f, "release it")?;
                }
                (For::Item, _) => {
                    write!(f, " waits for an item in the {what}")?;
                    self.of_nobody_else(f, "put one")?;
                }
                (For::Room, _) => {
                    write!(f, " waits for room in the {what}")?;
                    self.of_nobody_else(f, "take an item")?;
                }
                (For::Done, _) => {
                    write!(f, " waits until all items of the {what} are done")?;
                    self.of_nobody_else(f, "say so")?;
                }
            }
        }
        match self.members.len() {
            ..=MOST_NAMED => Ok(()),
            more => write!(f, "; and {} more", more - MOST_NAMED),
        }
    }
}

impl std::error::Error for Deadlock {}

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

    fn about(process: &str) -> About {
        About {
            process: process.into(),
            place: "app.py:1".into(),
            what: "Lock made at app.py:2".into(),
            deaf_to_signals: false,
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
        let what_for = For::Lock { owned: false };
        let index = table
            .enter(me, what_for, cell.offset(), 0, 1, &about("late"))
            .unwrap();
        assert_eq!(table.read(cell.chunk(), me).unwrap().about, about("late"));
        table.withdraw(index);
        for index in taken {
            table.withdraw(index);
        }
    }
}
