//! Locks as Rust knows them: a guard holds one, and releases it when it is dropped.

use std::fmt;
use std::marker::PhantomData;
use std::panic::Location;
use std::thread;
use std::time::Duration;

use super::lock::Acquired;
use super::pace::never_stopped;
use super::shared_lock::{Ended, SharedLock};
use super::waits::{About, Deadlock};
use crate::error::{Error, Kind};
use crate::os::process::generation;

/// A [`SharedLock`] that the calling thread holds, until this is dropped.
///
/// A panic that passes it poisons the lock. In a process that is forked meanwhile its copy means nothing: the lock stays the
/// parent's.
#[derive(Debug)]
#[must_use = "the lock is released at once, if nobody keeps its guard"]
pub struct SharedLockGuard<'a> {
    lock: &'a SharedLock,
    tenure: Tenure,
}

/// By what a guard tells at its end whether the lock is its own to release, and whether its owner comes to grief.
#[derive(Debug)]
pub(super) struct Tenure {
    generation: u32,
    panicking: bool,
    /// A lock's owner is a thread, so a guard stays in it.
    _thread: PhantomData<*const ()>,
}

impl Tenure {
    pub(super) fn begin() -> Tenure {
        Tenure {
            generation: generation(),
            panicking: thread::panicking(),
            _thread: PhantomData,
        }
    }

    /// Whether the lock is this guard's: not if it is a forked child's copy, or if somebody has released it by hand.
    pub(super) fn holds(&self, lock: &SharedLock) -> bool {
        self.generation == generation() && lock.is_mine()
    }

    /// Whether a panic began since the lock was taken.
    pub(super) fn panicked(&self) -> bool {
        !self.panicking && thread::panicking()
    }
}

/// Why a lock was not got, or not without a warning.
///
/// It becomes an [`Error`] by `?`, which releases a poisoned lock; the lock stays poisoned.
pub enum LockError<G> {
    /// The lock is the caller's, but what it guards may be half changed.
    Poisoned(Poisoned<G>),
    /// The wait would never have ended.
    Deadlock(Deadlock),
    /// The lock was not free, or not within the limit.
    TimedOut,
}

/// A process has died or a thread has panicked while it held the lock, which is the caller's now. What the lock guards may be half
/// changed.
///
/// All who take the lock are told, until one of them has put things right and calls
/// [`clear_poison`](SharedLock::clear_poison).
///
/// ```
/// use procession::sync::{LockError, SharedLock};
///
/// let lock = SharedLock::new(false, "accounts")?;
/// let guard = match lock.lock() {
///     Err(LockError::Poisoned(poisoned)) => {
///         // Here what the lock guards is put right.
///         lock.clear_poison();
///         poisoned.into_inner()
///     }
///     other => other.map_err(procession::Error::from)?,
/// };
/// # drop(guard);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Poisoned<G> {
    guard: G,
    lock: String,
    owner: Option<u32>,
}

impl<G> Poisoned<G> {
    /// The guard, poisoned or not.
    pub fn into_inner(self) -> G {
        self.guard
    }

    /// The number of the process that died with the lock; `None` if a thread panicked that held it.
    pub fn dead_owner(&self) -> Option<u32> {
        self.owner
    }
}

impl<G> fmt::Display for Poisoned<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.owner {
            Some(pid) => write!(f, "process {pid} died")?,
            None => write!(f, "a thread panicked")?,
        }
        write!(
            f,
            " while it held the {}: what it guards may be half changed",
            self.lock
        )
    }
}

impl<G> fmt::Display for LockError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockError::Poisoned(poisoned) => poisoned.fmt(f),
            LockError::Deadlock(deadlock) => deadlock.fmt(f),
            LockError::TimedOut => Kind::LockNotFree.fmt(f),
        }
    }
}

// A guard need not be printable for `unwrap`.
impl<G> fmt::Debug for Poisoned<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Poisoned({self})")
    }
}

impl<G> fmt::Debug for LockError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockError::Poisoned(poisoned) => poisoned.fmt(f),
            LockError::Deadlock(deadlock) => f.debug_tuple("Deadlock").field(deadlock).finish(),
            LockError::TimedOut => f.write_str("TimedOut"),
        }
    }
}

impl<G> std::error::Error for Poisoned<G> {}

impl<G> std::error::Error for LockError<G> {}

impl<G> From<LockError<G>> for Error {
    fn from(error: LockError<G>) -> Error {
        match error {
            LockError::Poisoned(poisoned) => Error::new(Kind::LockPoisoned {
                reason: poisoned.to_string(),
            }),
            LockError::Deadlock(deadlock) => deadlock.into(),
            LockError::TimedOut => Error::new(Kind::LockNotFree),
        }
    }
}

impl From<Deadlock> for Error {
    fn from(deadlock: Deadlock) -> Error {
        Error::new(Kind::Deadlock {
            deadlock: deadlock.to_string(),
        })
    }
}

/// What [`SharedLock::lock`] and its like give.
pub type LockResult<'a> = Result<SharedLockGuard<'a>, LockError<SharedLockGuard<'a>>>;

impl SharedLock {
    /// Waits for the lock, and holds it until the guard is dropped. If it is recursive, its owner may lock it again.
    ///
    /// ```
    /// use procession::sync::SharedLock;
    /// use procession::Process;
    /// use std::sync::Arc;
    ///
    /// let lock = Arc::new(SharedLock::new(false, "printer")?);
    /// let theirs = lock.clone();
    /// let process = Process::new(move || {
    ///     let guard = theirs.lock();
    ///     std::mem::forget(guard); // It dies with the lock in its hands.
    /// });
    /// process.start()?;
    /// process.join()?;
    /// let error = procession::Error::from(lock.lock().unwrap_err());
    /// assert!(error.is_lock_poisoned());
    /// assert!(error.to_string().ends_with("died while it held the Lock printer: what it guards may be half changed"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`LockError::Poisoned`] with the guard, or [`LockError::Deadlock`].
    #[track_caller]
    pub fn lock(&self) -> LockResult<'_> {
        self.lock_at(Location::caller())
    }

    pub(super) fn lock_at(&self, place: &'static Location<'static>) -> LockResult<'_> {
        match self.hold_at(None, place) {
            Ok(acquired) => self.guard_of(acquired),
            Err(deadlock) => Err(LockError::Deadlock(deadlock)),
        }
    }

    /// Takes the lock if it is free or its owner is dead, and never waits. It is a few microseconds' work if it fails.
    ///
    /// # Errors
    ///
    /// [`LockError::Poisoned`] with the guard, or [`LockError::TimedOut`].
    pub fn try_lock(&self) -> LockResult<'_> {
        self.guard_of(self.try_acquire_or_recover(true))
    }

    /// As [`lock`](SharedLock::lock), but waits for `limit` at most. As such a wait ends by itself, no deadlock is looked
    /// for.
    ///
    /// # Errors
    ///
    /// [`LockError::Poisoned`] with the guard, or [`LockError::TimedOut`].
    #[track_caller]
    pub fn lock_timeout(&self, limit: Duration) -> LockResult<'_> {
        match self.hold_at(Some(limit), Location::caller()) {
            Ok(acquired) => self.guard_of(acquired),
            Err(deadlock) => Err(LockError::Deadlock(deadlock)),
        }
    }

    /// Acquires it for a scope, by code in this place.
    pub(super) fn hold_at(
        &self,
        limit: Option<Duration>,
        place: &'static Location<'static>,
    ) -> Result<Option<Acquired>, Deadlock> {
        let mut about = || About::here(place);
        self.acquire(true, limit, &mut never_stopped, &mut about)
            .map_err(|ended| match ended {
                Ended::Deadlock(deadlock) => deadlock,
                Ended::Stopped(never) => match never {},
            })
    }

    fn guard_of(&self, acquired: Option<Acquired>) -> LockResult<'_> {
        if acquired.is_none() {
            return Err(LockError::TimedOut);
        }
        let guard = SharedLockGuard {
            lock: self,
            tenure: Tenure::begin(),
        };
        if self.is_poisoned() {
            return Err(LockError::Poisoned(Poisoned {
                guard,
                lock: self.to_string(),
                owner: self.poisoned_by().map(|owner| owner.pid()),
            }));
        }
        Ok(guard)
    }
}

impl<'a> SharedLockGuard<'a> {
    pub(super) fn lock(&self) -> &'a SharedLock {
        self.lock
    }

    /// Whether this thread has taken the lock, not only a parent that has forked it.
    pub(super) fn holds(&self) -> bool {
        self.tenure.holds(self.lock)
    }
}

impl Drop for SharedLockGuard<'_> {
    fn drop(&mut self) {
        if self.holds() {
            if self.tenure.panicked() {
                self.lock.poison_by_panic();
            }
            let _ = self.lock.release();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::identity::Identity;
    use super::*;
    use std::panic::{catch_unwind, AssertUnwindSafe};

    fn pretend_death(lock: &SharedLock) {
        let me = Identity::current();
        lock.raw().pretend_owner(Identity::new(me.pid(), 1, 12345));
    }

    #[test]
    fn a_guard_holds_the_lock_until_it_is_dropped() {
        let lock = SharedLock::new(false, "test").unwrap();
        let guard = lock.lock().unwrap();
        assert!(lock.is_mine() && lock.raw().is_scoped());
        thread::scope(|scope| {
            scope.spawn(|| {
                assert!(matches!(lock.try_lock(), Err(LockError::TimedOut)));
                let soon = Duration::from_millis(2);
                assert!(matches!(lock.lock_timeout(soon), Err(LockError::TimedOut)));
            });
        });
        drop(guard);
        assert!(!lock.raw().is_locked());
        drop(lock.try_lock().unwrap());
        assert!(!lock.raw().is_signal());
    }

    #[test]
    fn a_recursive_lock_has_a_guard_for_each_time_it_was_locked() {
        let lock = SharedLock::new(true, "test").unwrap();
        let (outer, inner) = (lock.lock().unwrap(), lock.lock().unwrap());
        drop(outer);
        assert!(lock.is_mine());
        drop(inner);
        assert!(!lock.raw().is_locked());
    }

    #[test]
    fn locking_what_one_holds_already_is_a_deadlock_which_tells_the_place() {
        let lock = SharedLock::new(false, "test").unwrap();
        let _guard = lock.lock().unwrap();
        let error = lock.lock().unwrap_err();
        assert!(error.to_string().contains("guard.rs:"), "{error}");
        assert!(Error::from(error).is_deadlock());
    }

    #[test]
    fn a_death_is_told_to_all_until_it_is_cleared() {
        let lock = SharedLock::new(false, "test").unwrap();
        pretend_death(&lock);
        let me = std::process::id();
        for _ in 0..2 {
            match lock.lock() {
                Err(LockError::Poisoned(poisoned)) => assert_eq!(poisoned.dead_owner(), Some(me)),
                other => panic!("{other:?}"),
            }
        }
        pretend_death(&lock);
        let error = Error::from(lock.try_lock().unwrap_err());
        assert!(error.is_lock_poisoned() && !lock.raw().is_locked());
        let guard = match lock.lock_timeout(Duration::ZERO) {
            Err(LockError::Poisoned(poisoned)) => poisoned.into_inner(),
            other => panic!("{other:?}"),
        };
        lock.clear_poison();
        drop(guard);
        assert!(lock.lock().is_ok());
    }

    #[test]
    fn a_death_seen_by_one_who_uses_no_guards_is_told_to_those_who_do() {
        let lock = SharedLock::new(false, "test").unwrap();
        pretend_death(&lock);
        lock.try_acquire_or_recover(false).unwrap();
        lock.release().unwrap();
        assert!(matches!(lock.lock(), Err(LockError::Poisoned(_))));
    }

    #[test]
    fn a_panic_poisons_and_releases() {
        let lock = SharedLock::new(false, "test").unwrap();
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _guard = lock.lock().unwrap();
            std::panic::resume_unwind(Box::new("deliberate"));
        }));
        assert!(panicked.is_err() && !lock.raw().is_locked());
        let error = lock.lock().unwrap_err();
        assert_eq!(
            error.to_string(),
            "a thread panicked while it held the Lock test: what it guards may be half changed"
        );
        drop(error);
        lock.clear_poison();
        // What is locked during a panic is not to blame for it.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            struct Locks<'a>(&'a SharedLock);
            impl Drop for Locks<'_> {
                fn drop(&mut self) {
                    drop(self.0.lock());
                }
            }
            let _locks = Locks(&lock);
            std::panic::resume_unwind(Box::new("deliberate"));
        }));
        assert!(!lock.is_poisoned());
    }
}
