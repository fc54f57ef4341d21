//! Knots: deadlocks in which a wait could be ended by several, all of whom wait for each other.
//!
//! A wait for a queue has no owner: whoever has the queue's memory can end it. So the one who waits asks for more than a
//! cycle: it looks for everybody who could end its wait, for everybody who could end theirs, and so on. If all of those wait,
//! without a time limit, nobody is left who could end any of these waits. See the module's README.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;
use std::time::Duration;

use super::identity::Identity;
use super::lock::Glance;
use super::waits::{
    u64_at, About, Awaited, Deadlock, For, Member, Origin, Wait, Waiting, MEMORIES, TABLE_AT, TABLE_END,
};
use crate::os::process::{self, FileId, Home, Memory, ProcStat, Sight};
use crate::os::time::monotonic_ns;

/// Who has waited this long enters itself.
const ENTER_AFTER: Duration = Duration::from_millis(50);
/// Who has waited this long looks for a knot, and then from time to time.
const LOOK_AFTER: Duration = Duration::from_secs(1);
const LOOK_EVERY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// A knot counts if it was seen twice, with this much time in between.
const SEEN_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// No knot has more processes.
const MOST_PROCESSES: usize = 4096;

const NAMES: [&str; MEMORIES.len()] = {
    let mut names = [""; MEMORIES.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = MEMORIES[i].0;
        i += 1;
    }
    names
};

/// Nothing can be claimed, in most cases because this process may go on.
#[derive(Debug)]
struct Doubt(Option<u32>);

type Certain<T> = Result<T, Doubt>;

/// What ends a wait: a process, or any of those who have the memory.
#[derive(Debug, Clone, Copy)]
enum EndedBy {
    Process(Identity),
    HoldersOf(FileId, Memory, u32),
}

/// One look at all that matters, as it is now. What was read once is not read again.
#[derive(Debug)]
struct Look {
    home: Home,
    memories: HashMap<u32, Rc<Sight<Vec<Memory>>>>,
    tables: HashMap<FileId, Rc<Vec<Wait>>>,
    waits: HashMap<u32, Rc<Vec<Placed>>>,
    mapped: HashMap<u32, Rc<Sight<Vec<u64>>>>,
    holders: HashMap<FileId, Rc<Vec<u32>>>,
}

/// A wait, and the memory in which its record lies.
#[derive(Debug, Clone)]
struct Placed {
    wait: Wait,
    memory: Memory,
}

/// By which a wait is known again.
type Mark = (FileId, usize, u32, Identity);

impl Look {
    fn new() -> Look {
        Look {
            home: Home::current(),
            memories: HashMap::new(),
            tables: HashMap::new(),
            waits: HashMap::new(),
            mapped: HashMap::new(),
            holders: HashMap::new(),
        }
    }

    fn memories_of(&mut self, pid: u32) -> Rc<Sight<Vec<Memory>>> {
        self.memories
            .entry(pid)
            .or_insert_with(|| Rc::new(process::memories_of(pid, &NAMES)))
            .clone()
    }

    fn has_open(&mut self, pid: u32, file: FileId) -> bool {
        matches!(&*self.memories_of(pid), Sight::Seen(memories) if memories.iter().any(|m| m.file == file))
    }

    /// All waits in a memory that this process has; none if it has no table.
    fn table(&mut self, pid: u32, memory: Memory) -> Rc<Vec<Wait>> {
        if let Some(known) = self.tables.get(&memory.file) {
            return known.clone();
        }
        let read = Rc::new(read_table(pid, memory).unwrap_or_default());
        self.tables.insert(memory.file, read.clone());
        read
    }

    /// The waits of all threads of a process, if each of them waits where it is written, whatever signals may come.
    fn waits_of(&mut self, pid: u32) -> Certain<Rc<Vec<Placed>>> {
        if let Some(known) = self.waits.get(&pid) {
            return Ok(known.clone());
        }
        let doubt = || Doubt(Some(pid));
        let count = ProcStat::of(pid).ok_or_else(doubt)?.threads;
        let whole = Identity::of_process(pid).ok_or_else(doubt)?;
        let memories = self.memories_of(pid);
        let Sight::Seen(memories) = &*memories else {
            return Err(doubt());
        };
        let mut waits: Vec<Placed> = Vec::new();
        for &memory in memories {
            for wait in self.table(pid, memory).iter() {
                if wait.waiter.is_same_process(whole)
                    && !waits.iter().any(|known| known.wait.waiter == wait.waiter)
                {
                    let wait = wait.clone();
                    waits.push(Placed { wait, memory });
                }
            }
        }
        // Threads are looked at one by one only if there are as many waits: of those that compute there may be many.
        if waits.len() < count || !waits.iter().all(|placed| placed.wait.is_deaf()) {
            return Err(doubt());
        }
        let Sight::Seen(threads) = process::undisturbed_threads_of(pid) else {
            return Err(doubt());
        };
        // Who has ended in the middle of a wait has left a record.
        waits.retain(|placed| threads.contains(&placed.wait.waiter.thread()));
        if waits.len() != threads.len() {
            return Err(doubt());
        }
        let waits = Rc::new(waits);
        self.waits.insert(pid, waits.clone());
        Ok(waits)
    }

    /// What ends this wait; a doubt if it is over already, or if that is not known.
    fn ended_by(&mut self, placed: &Placed) -> Certain<EndedBy> {
        let Placed { wait, memory } = placed;
        let pid = wait.waiter.pid();
        let doubt = || Doubt(Some(pid));
        let anybody = EndedBy::HoldersOf(memory.file, *memory, pid);
        match wait.what_for().ok_or_else(doubt)? {
            For::Process => Identity::from_word(wait.target)
                .map(EndedBy::Process)
                .ok_or_else(doubt),
            For::Lock { owned } => {
                let mut bytes = [0; Glance::BYTES];
                process::read_memory_of(pid, *memory, &mut bytes, wait.target).map_err(|_| doubt())?;
                let lock = Glance::at(&bytes);
                let owner = lock.owner.ok_or_else(doubt)?;
                // Who has just got it may not have withdrawn yet.
                if owner == wait.waiter || lock.is_signal {
                    return Err(doubt());
                }
                if owned || lock.is_scoped {
                    return Ok(EndedBy::Process(owner));
                }
                // Most probably its owner goes on; else nobody else need be looked for.
                self.waits_of(owner.pid())?;
                Ok(anybody)
            }
            For::Item | For::Room | For::Done => {
                let mut bytes = [0; 8];
                process::read_memory_of(pid, *memory, &mut bytes, wait.target).map_err(|_| doubt())?;
                if u64_at(&bytes, 0) != wait.value {
                    return Err(doubt());
                }
                Ok(anybody)
            }
        }
    }

    /// Everybody who has the memory; a doubt as soon as one of them is found who may go on.
    fn holders_of(&mut self, file: FileId, memory: Memory, of: u32) -> Certain<Rc<Vec<u32>>> {
        if let Some(known) = self.holders.get(&file) {
            return Ok(known.clone());
        }
        let mut origin = [0; size_of::<Origin>()];
        process::read_memory_of(of, memory, &mut origin, Origin::AT as u64).map_err(|_| Doubt(Some(of)))?;
        let made_ms = Origin::seen_from(self.home, &origin).ok_or(Doubt(None))?;
        let mut holders = BTreeSet::new();
        for pid in process::all_processes().ok_or(Doubt(None))? {
            match &*self.memories_of(pid) {
                Sight::Seen(memories) if memories.iter().any(|memory| memory.file == file) => {
                    self.waits_of(pid)?;
                    holders.insert(pid);
                }
                Sight::Seen(_) | Sight::Gone => {}
                Sight::Hidden if process::is_a_strangers(pid) => {}
                Sight::Hidden => return Err(Doubt(Some(pid))),
            }
        }
        // Who has closed its descriptors after a fork has the mapping. Mappings are looked at last, as there are many, and
        // only of those who may have inherited one: whoever has opened the memory itself has a descriptor of it. Those who
        // came into being meanwhile are found here.
        for pid in process::all_processes().ok_or(Doubt(None))? {
            if holders.contains(&pid) || process::began_before(pid, made_ms) {
                continue;
            }
            let mapped = self
                .mapped
                .entry(pid)
                .or_insert_with(|| Rc::new(process::mapped_inodes_of(pid, &NAMES)))
                .clone();
            match &*mapped {
                Sight::Seen(inodes) if inodes.contains(&file.inode()) => {}
                Sight::Seen(_) if !self.has_open(pid, file) => continue,
                Sight::Seen(_) => {}
                Sight::Gone => continue,
                Sight::Hidden if process::is_a_strangers(pid) => continue,
                Sight::Hidden => return Err(Doubt(Some(pid))),
            }
            self.waits_of(pid)?;
            holders.insert(pid);
        }
        let holders = Rc::new(holders.into_iter().collect::<Vec<_>>());
        self.holders.insert(file, holders.clone());
        Ok(holders)
    }

    /// All waits in the knot that this process is part of, with who ends them where that is one process.
    fn knot_of(&mut self, me: u32, witness: u32) -> Certain<Vec<(Placed, Option<u32>)>> {
        let mut ends: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        let mut members = Vec::new();
        let mut ahead = vec![me];
        while let Some(pid) = ahead.pop() {
            if ends.contains_key(&pid) {
                continue;
            }
            if ends.len() >= MOST_PROCESSES {
                return Err(Doubt(None));
            }
            let mut by = BTreeSet::new();
            for placed in self.waits_of(pid)?.iter() {
                let one = match self.ended_by(placed)? {
                    EndedBy::Process(other) => {
                        let now = Identity::of_process(other.pid());
                        if !now.is_some_and(|now| now.is_same_process(other)) {
                            return Err(Doubt(Some(pid)));
                        }
                        by.insert(other.pid());
                        Some(other.pid())
                    }
                    EndedBy::HoldersOf(file, memory, of) => {
                        // Who went on the last time, or is most likely to, is asked first: that saves a look at everybody.
                        for likely in [witness, process::parent_pid()] {
                            if likely != 0 && likely != me && self.has_open(likely, file) {
                                self.waits_of(likely)?;
                            }
                        }
                        by.extend(self.holders_of(file, memory, of)?.iter());
                        None
                    }
                };
                members.push((placed.clone(), one));
            }
            ahead.extend(by.iter().copied());
            ends.insert(pid, by);
        }
        // Who waits for a knot without being part of it goes on when somebody there gives up.
        let mut reaching = BTreeSet::from([me]);
        loop {
            let before = reaching.len();
            for (pid, by) in &ends {
                if !by.is_disjoint(&reaching) {
                    reaching.insert(*pid);
                }
            }
            if reaching.len() == before {
                break;
            }
        }
        if reaching.len() != ends.len() {
            return Err(Doubt(None));
        }
        Ok(members)
    }
}

fn read_table(pid: u32, memory: Memory) -> Option<Vec<Wait>> {
    let mut magic = [0; 8];
    process::read_memory_of(pid, memory, &mut magic, 0).ok()?;
    // Another version's table may look different.
    MEMORIES.iter().find(|(_, known)| *known == u64_at(&magic, 0))?;
    let mut table = vec![0; TABLE_END - TABLE_AT];
    process::read_memory_of(pid, memory, &mut table, TABLE_AT as u64).ok()?;
    let mut waits = Wait::all_in(&table);
    if !waits.is_empty() {
        // What was changed while it was copied has another epoch by now.
        process::read_memory_of(pid, memory, &mut table, TABLE_AT as u64).ok()?;
        waits.retain(|wait| wait.is_still_in(&table));
    }
    Some(waits)
}

/// Looks for a knot from time to time, on behalf of one wait that is entered in a table.
#[derive(Debug)]
pub(super) struct Knots {
    next_look: Duration,
    suspected: Vec<Mark>,
}

impl Knots {
    pub(super) fn new() -> Knots {
        Knots {
            next_look: LOOK_AFTER,
            suspected: Vec::new(),
        }
    }

    /// To be called when the wait stirs. `witness` is the process that went on the last time; 0 if nobody is known.
    ///
    /// # Errors
    ///
    /// The knot, if this wait is part of one and it is for this waiter to end it.
    pub(super) fn look(&mut self, waited: Duration, witness: &AtomicU32) -> Result<(), Deadlock> {
        if waited < self.next_look {
            return Ok(());
        }
        self.next_look = waited + (waited / 4).clamp(LOOK_EVERY.0, LOOK_EVERY.1);
        let me = Identity::current();
        let found = Look::new().knot_of(me.pid(), witness.load(Ordering::Relaxed));
        let mut members = match found {
            Ok(members) => members,
            Err(Doubt(because_of)) => {
                if let Some(pid) = because_of {
                    witness.store(pid, Ordering::Relaxed);
                }
                self.suspected.clear();
                return Ok(());
            }
        };
        // Everybody in it sees the same; the one who came last is told, of those who can be.
        let last = members
            .iter()
            .filter(|(placed, _)| placed.wait.what_for() != Some(For::Process))
            .map(|(placed, _)| (placed.wait.began_ns, placed.wait.waiter.word()))
            .max();
        if last.is_none_or(|(_, waiter)| waiter != me.word()) {
            self.suspected.clear();
            return Ok(());
        }
        let mut marks: Vec<Mark> = members
            .iter()
            .map(|(placed, _)| {
                let wait = &placed.wait;
                (placed.memory.file, wait.index, wait.epoch, wait.waiter)
            })
            .collect();
        marks.sort_unstable_by_key(|(file, index, ..)| (*file, *index));
        // Seen twice, with nobody's wait having begun anew: so all of them waited all the time in between.
        if self.suspected != marks {
            self.suspected = marks;
            self.next_look = waited + SEEN_AGAIN_AFTER;
            return Ok(());
        }
        members.sort_by_key(|(placed, _)| (placed.wait.waiter != me, placed.wait.began_ns));
        Err(Deadlock {
            members: members
                .into_iter()
                .filter_map(|(placed, one)| {
                    Some(Member {
                        pid: placed.wait.waiter.pid(),
                        thread: placed.wait.waiter.thread(),
                        what_for: placed.wait.what_for()?,
                        about: placed.wait.about,
                        holder_pid: one,
                    })
                })
                .collect(),
        })
    }
}

/// Watches one wait for something in shared memory that whoever has the memory can change: enters it into the table when it
/// lasts, and looks for a knot.
///
/// Whoever stops waiting says so by [`leave`](ChangeWatch::leave) *before* it changes anything there: else it would be taken
/// for one who waits for what it has just taken.
pub struct ChangeWatch<'a> {
    memory: &'a Arc<dyn Awaited>,
    what_for: For,
    witness: &'a AtomicU32,
    about: &'a dyn Fn() -> About,
    told: Option<About>,
    waiting: Option<(Waiting, (u64, u64))>,
    enter_after: Duration,
    knots: Knots,
}

impl fmt::Debug for ChangeWatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChangeWatch")
            .field("what_for", &self.what_for)
            .field("waiting", &self.waiting)
            .finish_non_exhaustive()
    }
}

impl<'a> ChangeWatch<'a> {
    /// For a wait without a time limit. `about` is called once, if the wait lasts; `witness` keeps the number of a process
    /// between waits, 0 at first.
    pub fn new(
        memory: &'a Arc<dyn Awaited>,
        what_for: For,
        witness: &'a AtomicU32,
        about: &'a dyn Fn() -> About,
    ) -> ChangeWatch<'a> {
        ChangeWatch {
            memory,
            what_for,
            witness,
            about,
            told: None,
            waiting: None,
            enter_after: ENTER_AFTER,
            knots: Knots::new(),
        }
    }

    /// To be called when the wait stirs. `unchanged` gives the place in the memory of the word of which a change may end the
    /// wait, and what it says; `None` if the wait is over. `what` names what it waits for.
    ///
    /// # Errors
    ///
    /// The deadlock, if this wait is part of one and it is for this waiter to end it.
    pub fn look(
        &mut self,
        waited: Duration,
        unchanged: &dyn Fn() -> Option<(u64, u64)>,
        what: &dyn Fn() -> String,
    ) -> Result<(), Deadlock> {
        if waited < self.enter_after {
            return Ok(());
        }
        let Some(now) = unchanged() else {
            self.leave();
            return Ok(());
        };
        // Others may have put something and taken it again.
        if self.waiting.as_ref().is_none_or(|(_, entered)| *entered != now) {
            self.leave();
            let about = self.told.get_or_insert_with(|| About {
                what: what(),
                ..(self.about)()
            });
            let began_ns = monotonic_ns().saturating_sub(waited.as_nanos() as u64);
            let waiting = Waiting::for_change(self.memory, self.what_for, now, began_ns, about);
            self.waiting = waiting.map(|waiting| (waiting, now));
            if self.waiting.is_none() {
                // The table is full. To look for room there is work.
                self.enter_after = waited * 2;
            }
        }
        match &self.waiting {
            Some(_) => self.knots.look(waited, self.witness),
            None => Ok(()),
        }
    }

    /// Says that it waits no longer, for now.
    pub fn leave(&mut self) {
        self.waiting = None;
    }
}
