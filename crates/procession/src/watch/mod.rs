//! Every running pool of this user on this machine, seen from outside.
#![doc = include_str!("README.md")]

mod find;
mod snapshot;
mod stack;

use std::collections::HashMap;
use std::{fmt, io};

use serde::{Deserialize, Serialize};

use crate::channel::View;
use find::Found;

/// What a worker does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Activity {
    /// Begins: runs its initializer.
    Starting,
    /// Has no task.
    Ready,
    /// Has a task and computes.
    Running,
    /// Has a task and sleeps in it: waits for a disk, a network, another process.
    Blocked,
    /// Was stopped by a signal and takes part in nothing until it is told to go on.
    Suspended,
    /// Has ended; the pool has not settled that yet.
    Ended,
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Activity::Starting => "starting",
            Activity::Ready => "ready",
            Activity::Running => "running",
            Activity::Blocked => "blocked",
            Activity::Suspended => "suspended",
            Activity::Ended => "ended",
        })
    }
}

/// What a pool is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum PoolState {
    /// Takes and runs tasks.
    Running,
    /// Takes no more; ends when all are done.
    Finishing,
    /// Ends at once.
    Ending,
    /// Cannot have workers any more.
    Broken,
    /// The process that made it is gone; its workers are about to end.
    Lost,
}

impl fmt::Display for PoolState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            PoolState::Running => "running",
            PoolState::Finishing => "finishing",
            PoolState::Ending => "ending",
            PoolState::Broken => "broken",
            PoolState::Lost => "lost",
        })
    }
}

/// A task that a worker has at the moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TaskSnapshot {
    /// The function's name.
    pub function: String,
    /// Which item of a map it is, from 0; `None` for a single call.
    pub item: Option<u64>,
    /// How long the worker has had it, in seconds; short items of one batch count from the batch's beginning.
    pub age_seconds: f64,
}

/// A worker at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WorkerSnapshot {
    /// Its process id.
    pub pid: u32,
    /// Its name, such as `ForkPoolWorker-1`.
    pub name: String,
    /// What it does.
    pub state: Activity,
    /// What it has to do.
    pub task: Option<TaskSnapshot>,
    /// Items it has run to their end, however they ended.
    pub done: u64,
    /// Those of them that raised or panicked.
    pub failed: u64,
    /// How much of a CPU it used since the look before, or since it began: 1 is one whole CPU.
    pub cpus: f64,
    /// Its memory that is present, in bytes; what it shares with others counts for each of them.
    pub resident_bytes: u64,
}

/// A pool at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PoolSnapshot {
    /// The number of its memory's file: tells pools apart as long as they live.
    pub id: u64,
    /// The process that made it.
    pub pid: u32,
    /// That process's command line, with blanks between its parts. Parts of several lines are an ellipsis.
    pub command: String,
    /// The process that forks its workers and watches over them.
    pub supervisor_pid: u32,
    /// How its workers come about: `fork`, `spawn` or `forkserver`.
    pub start_method: String,
    /// What it is about to do.
    pub state: PoolState,
    /// How long ago it was made, in seconds.
    pub age_seconds: f64,
    /// How many workers it should have.
    pub processes: u32,
    /// Tasks that lie there unclaimed; a batch counts as one.
    pub queued: u64,
    /// Items run to their end since the pool was made, however they ended.
    pub done: u64,
    /// Those of them that raised or panicked.
    pub failed: u64,
    /// Items that were lost with their workers.
    pub lost: u64,
    /// Those of them whose time was over.
    pub timed_out: u64,
    /// Workers that have died.
    pub died: u32,
    /// Workers that were started beyond the first of each place.
    pub restarts: u32,
    /// Items done per second since the look before, or since the pool was made.
    pub items_per_second: f64,
    /// The memory that its processes share, in bytes.
    pub shared_bytes: u64,
    /// Its workers, by name.
    pub workers: Vec<WorkerSnapshot>,
}

/// Looks at pools again and again, and so knows rates.
///
/// ```no_run
/// let mut watcher = procession::watch::Watcher::new();
/// for pool in watcher.look() {
///     println!("{} in process {}: {} items done", pool.command, pool.pid, pool.done);
/// }
/// ```
#[derive(Debug, Default)]
pub struct Watcher {
    known: HashMap<u64, Known>,
}

/// A pool that was seen before.
#[derive(Debug)]
struct Known {
    view: View,
    seen_ns: u64,
    done: u64,
    /// For each worker's process: when it started, and its CPU time in seconds.
    cpu: HashMap<u32, (u64, f64)>,
    command: String,
}

impl Watcher {
    /// A watcher that has seen nothing yet.
    pub fn new() -> Self {
        Watcher::default()
    }

    /// Every running pool of this user, oldest first.
    ///
    /// Takes a few milliseconds, and more where this user has many processes.
    pub fn look(&mut self) -> Vec<PoolSnapshot> {
        let found = find::pools();
        self.known.retain(|id, _| found.contains_key(id));
        let mut pools: Vec<PoolSnapshot> = found
            .into_iter()
            .filter_map(|(id, found)| self.look_at(id, found))
            .collect();
        pools.sort_by(|a, b| b.age_seconds.total_cmp(&a.age_seconds).then(a.id.cmp(&b.id)));
        pools
    }

    /// Where a worker is at this moment: the stacks of its threads, as its language writes them.
    ///
    /// The only thing here that a worker notices: it is sent a signal, and writes its stack down in the signal's handler.
    ///
    /// # Errors
    /// When it is no worker of a pool that was seen, it cannot do this (as workers of Rust cannot), or it does not answer.
    pub fn stack_of(&self, pid: u32) -> io::Result<String> {
        self.known
            .values()
            .find_map(|known| stack::offered_by(&known.view, pid))
            .ok_or_else(|| io::Error::other("this worker cannot tell where it is"))
            .and_then(|offer| stack::ask(pid, offer))
    }

    fn look_at(&mut self, id: u64, found: Found) -> Option<PoolSnapshot> {
        let known = match self.known.entry(id) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => entry.insert(Known {
                view: found.open()?,
                seen_ns: 0,
                done: 0,
                cpu: HashMap::new(),
                command: String::new(),
            }),
        };
        snapshot::of(id, known, &found.pids)
    }
}
