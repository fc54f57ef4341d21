//! The lock word.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::identity::Identity;
use super::pace::{never_stopped, Pace, Stir};
use crate::os::futex::{self, Waited};

/// Somebody may sleep on the word.
const WAITERS: u64 = 1 << 31;
/// The owner holds the lock for a scope of its code (`with lock:`) and will release it itself.
const SCOPED: u64 = 1 << 30;

/// How long to spin for a lock that another process holds: about as long as falling asleep and being woken takes.
const SPINS: u32 = 300;

/// How a lock was got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acquired {
    /// It was free.
    Clean,
    /// Its owner had died with it. What the lock guards may be half changed.
    FromTheDead(Identity),
}

/// What the bytes of a lock say, in whichever process's memory they lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Glance {
    pub owner: Option<Identity>,
    pub is_scoped: bool,
    pub is_signal: bool,
}

impl Glance {
    pub(super) const BYTES: usize = size_of::<RawLock>();

    pub(super) fn at(bytes: &[u8; Self::BYTES]) -> Glance {
        let word = super::waits::u64_at(bytes, std::mem::offset_of!(RawLock, word));
        let strangers = std::mem::offset_of!(RawLock, strangers);
        Glance {
            owner: Identity::from_word(word),
            is_scoped: word & SCOPED != 0,
            is_signal: bytes[strangers..strangers + size_of::<u32>()] != [0; size_of::<u32>()],
        }
    }
}

/// The lock is not locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotLocked;

/// A lock between processes, for any zeroed piece of shared memory: a futex word that holds its owner.
///
/// Taking it is one compare-and-swap, which is at once the record of who has it, so a process may be killed between any two
/// instructions and the lock has exactly one owner, or none. Whoever waits looks from time to time whether the owner lives,
/// and takes the lock over if it does not. The protocol is told in the module's README.
///
/// It is not recursive, and anybody may unlock it, as a semaphore; what is recursive is built on it.
///
/// ```
/// use procession::sync::{Acquired, Identity, NotLocked, RawLock};
///
/// let lock = RawLock::default(); // In earnest it lies in memory that processes share.
/// let me = Identity::current();
/// assert!(lock.try_lock(me, false));
/// assert!(!lock.try_lock(me, false));
/// assert_eq!(lock.owner(), Some(me));
/// lock.unlock(me)?;
/// assert_eq!(lock.lock(me, false, None, &mut |_| Ok::<(), ()>(())), Ok(Some(Acquired::Clean)));
/// lock.unlock(me)?;
/// assert_eq!(lock.unlock(me), Err(NotLocked));
/// # Ok::<(), NotLocked>(())
/// ```
#[repr(C)]
#[derive(Debug, Default)]
pub struct RawLock {
    word: AtomicU64,
    /// The last owner that died with the lock.
    last_dead: AtomicU64,
    /// How many owners have died with the lock.
    deaths: AtomicU32,
    /// How often somebody unlocked what another had locked.
    strangers: AtomicU32,
}

fn futex_word(word: &AtomicU64) -> &AtomicU32 {
    let low = usize::from(cfg!(target_endian = "big"));
    // SAFETY: both halves of the word are aligned and alive as long as it is. Rust code never reads or writes through this
    // reference: it only names the half to the kernel.
    unsafe { &*word.as_ptr().cast::<AtomicU32>().add(low) }
}

impl RawLock {
    /// Takes the lock if it is free. `scoped`: the caller will unlock it itself, at the end of a scope of its code; then a
    /// cycle of waiters that this lock is part of is certain to be a deadlock.
    #[inline]
    pub fn try_lock(&self, me: Identity, scoped: bool) -> bool {
        let taken = me.word() | if scoped { SCOPED } else { 0 };
        // Sync point *lock is free*: pairs with the release in `unlock`.
        self.word
            .compare_exchange(0, taken, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Takes the lock if it is free or its owner is dead: a [`try_lock`](RawLock::try_lock) that costs some microseconds if
    /// it fails.
    pub fn try_lock_or_recover(&self, me: Identity, scoped: bool) -> Option<Acquired> {
        if self.try_lock(me, scoped) {
            return Some(Acquired::Clean);
        }
        self.recover(me, scoped)
    }

    /// Waits for the lock, for `limit` at most: `None` if the time was over.
    ///
    /// `stir` is called each time the wait stirs without success: after a signal, and from time to time. What it returns as
    /// an error ends the wait.
    ///
    /// # Errors
    ///
    /// What `stir` returned.
    pub fn lock<E>(
        &self,
        me: Identity,
        scoped: bool,
        limit: Option<Duration>,
        stir: &mut dyn FnMut(Stir) -> Result<(), E>,
    ) -> Result<Option<Acquired>, E> {
        if self.try_lock(me, scoped) || self.spin(me, scoped) {
            return Ok(Some(Acquired::Clean));
        }
        let pace = Pace::begin(limit);
        let scope = if scoped { SCOPED } else { 0 };
        // Who was woken cannot know whether others sleep on, so it says that they may.
        let mut taken = me.word() | scope;
        loop {
            let word = self.word.load(Ordering::Relaxed);
            if word == 0 {
                // Sync point *lock is free*.
                if self
                    .word
                    .compare_exchange(0, taken, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
                {
                    return Ok(Some(Acquired::Clean));
                }
                continue;
            }
            let marked = word | WAITERS;
            if word != marked
                && self
                    .word
                    .compare_exchange(word, marked, Ordering::Relaxed, Ordering::Relaxed)
                    .is_err()
            {
                continue;
            }
            let Some(slice) = pace.slice() else {
                // The dead do not keep a lock from those whose time is over.
                return Ok(self.recover(me, scoped));
            };
            crate::crash_point!("lock-before-sleep");
            let waited = futex::wait(futex_word(&self.word), marked as u32, Some(slice));
            taken |= WAITERS;
            if waited != Waited::Woken {
                if let Some(acquired) = self.recover(me, scoped) {
                    return Ok(Some(acquired));
                }
                stir(Stir {
                    waited: pace.waited(),
                    interrupted: waited == Waited::Interrupted,
                })?;
            }
        }
    }

    /// Spins for a lock that another process holds; of one's own process a thread that holds it may need what we hold.
    fn spin(&self, me: Identity, scoped: bool) -> bool {
        for _ in 0..SPINS {
            let word = self.word.load(Ordering::Relaxed);
            match Identity::from_word(word) {
                None => {
                    if self.try_lock(me, scoped) {
                        return true;
                    }
                }
                // Others sleep for it already, so it is held for longer.
                Some(_) if word & WAITERS != 0 => return false,
                Some(owner) if owner.is_same_process(me) => return false,
                Some(_) => {}
            }
            spin_loop();
        }
        false
    }

    /// Takes the lock over if its owner is dead.
    fn recover(&self, me: Identity, scoped: bool) -> Option<Acquired> {
        let word = self.word.load(Ordering::Relaxed);
        let owner = match Identity::from_word(word) {
            Some(owner) if !owner.process_is_alive() => owner,
            _ => return None,
        };
        let taken = me.word() | WAITERS | if scoped { SCOPED } else { 0 };
        // Sync point *lock is free*: the dead owner's last writes happened before its death, which `/proc` has shown.
        self.word
            .compare_exchange(word, taken, Ordering::Acquire, Ordering::Relaxed)
            .ok()?;
        self.last_dead.store(owner.word(), Ordering::Relaxed);
        self.deaths.fetch_add(1, Ordering::Relaxed);
        Some(Acquired::FromTheDead(owner))
    }

    /// Unlocks, whoever has locked it, and wakes one waiter if there may be one.
    ///
    /// # Errors
    ///
    /// If it is not locked.
    #[inline]
    pub fn unlock(&self, me: Identity) -> Result<(), NotLocked> {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            if word == 0 {
                return Err(NotLocked);
            }
            // Sync point *lock is free*: pairs with the acquires in `try_lock` and `lock`.
            match self
                .word
                .compare_exchange(word, 0, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        if word & !(SCOPED | WAITERS) != me.word() {
            self.strangers.fetch_add(1, Ordering::Relaxed);
        }
        if word & WAITERS != 0 {
            self.wake();
        }
        Ok(())
    }

    #[cold]
    fn wake(&self) {
        // Who is killed here, or is woken and killed, leaves the others to their slices.
        crate::crash_point!("lock-before-wake");
        futex::wake(futex_word(&self.word), 1);
    }

    /// Who holds it, if anybody.
    #[inline]
    pub fn owner(&self) -> Option<Identity> {
        Identity::from_word(self.word.load(Ordering::Relaxed))
    }

    /// Whether it is held.
    #[inline]
    pub fn is_locked(&self) -> bool {
        self.owner().is_some()
    }

    /// Whether its owner holds it for a scope of its code.
    pub fn is_scoped(&self) -> bool {
        self.word.load(Ordering::Relaxed) & SCOPED != 0
    }

    /// Whether somebody ever unlocked what another had locked: then it serves as a signal, and its owner says nothing about who
    /// will unlock it.
    pub fn is_signal(&self) -> bool {
        self.strangers.load(Ordering::Relaxed) != 0
    }

    /// How many owners have died with the lock so far.
    pub fn owner_deaths(&self) -> u32 {
        self.deaths.load(Ordering::Relaxed)
    }

    /// The last owner that died with the lock.
    pub fn last_dead_owner(&self) -> Option<Identity> {
        Identity::from_word(self.last_dead.load(Ordering::Relaxed))
    }

    /// Holds it for a few steps of this crate's own, which end by themselves. Whoever died with it has left nothing that the
    /// next one minds.
    pub(super) fn hold(&self) -> Held<'_> {
        let me = Identity::current();
        let Ok(_) = self.lock(me, true, None, &mut never_stopped);
        Held { lock: self, me }
    }

    #[cfg(test)]
    pub(super) fn pretend_owner(&self, owner: Identity) {
        self.word.store(owner.word(), Ordering::Relaxed);
    }
}

/// See [`RawLock::hold`].
#[derive(Debug)]
pub(super) struct Held<'a> {
    lock: &'a RawLock,
    me: Identity,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let _ = self.lock.unlock(self.me);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    fn no_stir(_: Stir) -> Result<(), ()> {
        Ok(())
    }

    fn dead() -> Identity {
        // Our own number, begun at another time.
        let me = Identity::current();
        let other = Identity::new(me.pid(), 1, 12345);
        assert!(!other.process_is_alive());
        other
    }

    #[test]
    fn a_lock_of_the_dead_goes_to_the_next_who_asks_and_the_fact_is_kept() {
        let lock = RawLock::default();
        let me = Identity::current();
        lock.pretend_owner(dead());
        assert!(!lock.try_lock(me, false));
        let got = lock.lock(me, true, None, &mut no_stir);
        assert_eq!(got, Ok(Some(Acquired::FromTheDead(dead()))));
        assert_eq!((lock.owner(), lock.is_scoped()), (Some(me), true));
        assert_eq!((lock.owner_deaths(), lock.last_dead_owner()), (1, Some(dead())));
        lock.unlock(me).unwrap();
        lock.pretend_owner(dead());
        assert!(lock.try_lock_or_recover(me, false).is_some());
        assert_eq!(lock.owner_deaths(), 2);
    }

    #[test]
    fn a_wait_ends_at_its_limit_and_when_the_waiter_is_told_to() {
        let lock = RawLock::default();
        let me = Identity::current();
        assert!(lock.try_lock(me, false));
        let pace = Pace::begin(None);
        let limit = Duration::from_millis(30);
        assert_eq!(lock.lock(me, false, Some(limit), &mut no_stir), Ok(None));
        assert!(pace.waited() >= limit);
        assert_eq!(lock.lock(me, false, Some(Duration::ZERO), &mut no_stir), Ok(None));
        assert_eq!(lock.lock(me, false, None, &mut |_| Err("enough")), Err("enough"));
    }

    #[test]
    fn unlocking_what_another_has_locked_is_noted() {
        let lock = RawLock::default();
        let me = Identity::current();
        assert!(lock.try_lock(me, true));
        assert!(!lock.is_signal());
        std::thread::scope(|scope| {
            scope.spawn(|| lock.unlock(Identity::current()).unwrap());
        });
        assert!(lock.is_signal() && !lock.is_locked());
        assert_eq!(lock.unlock(me), Err(NotLocked));
    }

    #[test]
    fn threads_exclude_each_other() {
        let lock = RawLock::default();
        let busy = AtomicBool::new(false);
        let rounds = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let me = Identity::current();
                    for _ in 0..5_000 {
                        lock.lock(me, true, None, &mut no_stir).unwrap().unwrap();
                        assert!(!busy.swap(true, Ordering::Relaxed));
                        rounds.fetch_add(1, Ordering::Relaxed);
                        busy.store(false, Ordering::Relaxed);
                        lock.unlock(me).unwrap();
                    }
                });
            }
        });
        assert_eq!(rounds.into_inner(), 20_000);
        assert_eq!(lock.word.into_inner(), 0);
    }
}
