//! What a process knows of itself and of its children.

use super::Shared;
use crate::os::process as os;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a daemon process may take to follow SIGTERM when its parent ends, before it is killed.
const DAEMON_GRACE: Duration = Duration::from_secs(5);

/// One per process. A forked child never uses its parent's, as another thread may have held a lock of it when it forked;
/// it begins its own and lets the old one be (a few hundred bytes per fork).
pub(super) struct Family {
    generation: u32,
    /// The numbers after `Process-`: empty in the first process, `[1, 2]` in `Process-1:2`.
    identity: Vec<u32>,
    name: String,
    daemon: bool,
    processes_named: AtomicU32,
    /// Started and, as far as is known, not ended.
    children: Mutex<Vec<Arc<Shared>>>,
}

static FAMILY: AtomicPtr<Family> = AtomicPtr::new(std::ptr::null_mut());

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under our locks is left half changed by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The calling process's family.
pub(super) fn family() -> &'static Family {
    let known = FAMILY.load(Ordering::Acquire);
    // SAFETY: null, or from `Box::into_raw` below and never freed.
    match unsafe { known.as_ref() } {
        Some(family) if family.generation == os::generation() => family,
        parent => begin_family(known, parent),
    }
}

#[cold]
fn begin_family(known: *mut Family, parent: Option<&'static Family>) -> &'static Family {
    let generation = os::generation();
    let family = match parent {
        None => Family {
            name: "MainProcess".to_owned(),
            ..Family::new(generation, Vec::new(), String::new(), false)
        },
        // Forked by somebody who does not know us: it goes on as what its parent was.
        Some(parent) => {
            if let Ok(siblings) = parent.children.try_lock() {
                siblings.iter().for_each(|sibling| sibling.release_lifeline());
            }
            let family = Family::new(
                generation,
                parent.identity.clone(),
                parent.name.clone(),
                parent.daemon,
            );
            family
                .processes_named
                .store(parent.processes_named.load(Ordering::Relaxed), Ordering::Relaxed);
            family
        }
    };
    let family = Box::into_raw(Box::new(family));
    match FAMILY.compare_exchange(known, family, Ordering::AcqRel, Ordering::Acquire) {
        // SAFETY: from `Box::into_raw`, and never freed.
        Ok(_) => unsafe { &*family },
        Err(other) => {
            // SAFETY: `family` was given to nobody. `other` is another thread's, of this process, and is never freed.
            unsafe {
                drop(Box::from_raw(family));
                &*other
            }
        }
    }
}

impl Family {
    fn new(generation: u32, identity: Vec<u32>, name: String, daemon: bool) -> Family {
        let (processes_named, children) = (AtomicU32::new(0), Mutex::new(Vec::new()));
        Family {
            generation,
            identity,
            name,
            daemon,
            processes_named,
            children,
        }
    }

    /// The identity of the next process that is made here, as in `Process-1:2`.
    pub(super) fn next_identity(&self) -> Vec<u32> {
        let number = self.processes_named.fetch_add(1, Ordering::Relaxed) + 1;
        self.identity.iter().copied().chain([number]).collect()
    }

    pub(super) fn children(&self) -> MutexGuard<'_, Vec<Arc<Shared>>> {
        lock(&self.children)
    }

    /// Reaps the children that have ended, and forgets them.
    pub(super) fn reap(&self) {
        self.children().retain(|child| {
            let alive = child.reap().is_none();
            child.listed.store(alive, Ordering::Release);
            alive
        });
    }

    /// What the end of a process does to its children: daemons are terminated, the others are waited for.
    pub(super) fn end(&self) {
        let (daemons, others): (Vec<_>, Vec<_>) = self.children().drain(..).partition(|child| child.daemon);
        let deadline = Instant::now() + DAEMON_GRACE;
        // All are asked before the first one is waited for.
        let trees: Vec<_> = daemons
            .iter()
            .filter_map(|daemon| daemon.terminate().ok())
            .collect();
        for tree in trees.iter().flatten() {
            let _ = tree.kill_at(Some(deadline));
        }
        for child in daemons.iter().chain(&others) {
            let _ = child.wait(None);
        }
    }
}

/// Makes the calling process, which is a child in its first moments, the process that `shared` describes.
pub(super) fn begin_as_child(identity: Vec<u32>, name: String, daemon: bool) {
    let family = Box::new(Family::new(os::generation(), identity, name, daemon));
    FAMILY.store(Box::into_raw(family), Ordering::Release);
}

/// Makes the calling process, which is a child in its first moments, a service of `parent`.
pub(super) fn begin_as_service(parent: &Family) {
    begin_as_child(parent.identity.clone(), parent.name.clone(), true);
}

/// Makes the calling process, which a service has just forked, its worker with this number.
pub(crate) fn begin_as_worker(number: u32, name: String) {
    let identity = family().identity.iter().copied().chain([number]).collect();
    begin_as_child(identity, name, true);
}

/// Ends the calling process's own children, as the end of `main` would.
pub(crate) fn end_family() {
    family().end();
}

/// Lets the end of this process end its children, from now on.
pub(super) fn end_children_at_exit() {
    extern "C" fn at_exit() {
        family().end();
    }
    // Forked children inherit the registration along with this flag.
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    if !REGISTERED.swap(true, Ordering::Relaxed) {
        // Without it, the children end as if the parent had been killed.
        let _ = os::at_exit(at_exit);
    }
}

/// The process that asks: see [`current`].
#[derive(Clone)]
pub struct CurrentProcess {
    name: String,
    daemon: bool,
    pid: u32,
}

/// The calling process, as its parent described it.
///
/// ```
/// let process = procession::current();
/// assert_eq!(process.name(), "MainProcess");
/// assert_eq!(process.pid(), std::process::id());
/// ```
pub fn current() -> CurrentProcess {
    let family = family();
    CurrentProcess {
        name: family.name.clone(),
        daemon: family.daemon,
        pid: std::process::id(),
    }
}

impl CurrentProcess {
    /// The name its parent gave it; `MainProcess` for a process that was not started by this crate.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The number of its parent at this moment.
    pub fn parent_pid(&self) -> u32 {
        os::parent_pid()
    }

    /// Whether it was started as a daemon process: one that its parent terminates when it ends.
    pub fn is_daemon(&self) -> bool {
        self.daemon
    }
}

/// As Python prints a process: `<Process name='Process-1' pid=4711 parent=4700 started>`.
impl fmt::Debug for CurrentProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let daemon = if self.daemon { " daemon" } else { "" };
        let (name, pid, parent) = (&self.name, self.pid, self.parent_pid());
        write!(
            f,
            "<Process name='{name}' pid={pid} parent={parent} started{daemon}>"
        )
    }
}

impl fmt::Display for CurrentProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
