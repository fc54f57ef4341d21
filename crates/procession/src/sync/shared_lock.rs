//! A lock with its memory, its name, and its watch over deadlocks.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::identity::Identity;
use super::lock::{Acquired, RawLock};
use super::memory::Cell;
use super::pace::Stir;
use super::waits::{About, Deadlock, Watch};

const NAME_WORDS: usize = 4;

#[repr(C)]
#[derive(Debug)]
struct Inside {
    raw: RawLock,
    /// How often its owner has it; kept by the owner alone.
    depth: AtomicU32,
    /// Whether what it guards may be half changed, and why; changed by owners alone.
    poison: AtomicU32,
    name: [AtomicU64; NAME_WORDS],
}

/// Where the room begins that [`SharedLock::with_room`] adds.
pub(super) const ROOM_AT: usize = size_of::<Inside>();

const SOUND: u32 = 0;
const OWNER_DIED: u32 = 1;
const OWNER_PANICKED: u32 = 2;

/// Why a wait ended without the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended<E> {
    /// It would never have ended.
    Deadlock(Deadlock),
    /// The waiter was told to stop.
    Stopped(E),
}

/// Why a lock cannot be released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotReleased {
    /// It is not locked.
    NotLocked,
    /// It is recursive, and another thread has it, or none.
    NotOwner,
}

impl fmt::Display for NotReleased {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NotReleased::NotLocked => "semaphore or lock released too many times",
            NotReleased::NotOwner => "attempt to release recursive lock not owned by thread",
        })
    }
}

impl std::error::Error for NotReleased {}

/// A lock in shared memory, with a name, recursive or not. Whoever waits for it is told of a deadlock.
///
/// A process that is forked has it, too; to others go its [`cell`](SharedLock::cell)'s chunk and offset.
///
/// [`lock`](SharedLock::lock) gives a guard, which releases it when it is dropped. What is below that, `acquire` and
/// `release`, serves those who build locks of their own: anybody may release what another has acquired.
///
/// ```
/// use procession::sync::{Acquired, Ended, SharedLock};
/// use procession::sync::waits::About;
/// use std::time::Duration;
///
/// let lock = SharedLock::new(false, "accounts")?;
/// assert!(lock.try_acquire(true));
/// // A second time, by the same thread: it would wait for ever.
/// let again = lock.acquire(true, None, &mut |_| Ok::<(), ()>(()), &mut About::default);
/// assert!(matches!(again, Err(Ended::Deadlock(_))));
/// lock.release()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SharedLock {
    cell: Cell,
    recursive: bool,
}

impl SharedLock {
    /// A lock that is free. Of the name the last 32 bytes are kept.
    ///
    /// # Errors
    ///
    /// If the system has no memory or descriptor left.
    pub fn new(recursive: bool, name: &str) -> io::Result<SharedLock> {
        SharedLock::with_room(recursive, name, 0)
    }

    /// One whose cell has so many bytes more, behind [`ROOM_AT`].
    pub(super) fn with_room(recursive: bool, name: &str, room: usize) -> io::Result<SharedLock> {
        let lock = SharedLock {
            cell: Cell::allocate(ROOM_AT.saturating_add(room))?,
            recursive,
        };
        let mut bytes = [0u8; NAME_WORDS * 8];
        let mut from = name.len().saturating_sub(bytes.len());
        while !name.is_char_boundary(from) {
            from += 1;
        }
        bytes[..name.len() - from].copy_from_slice(&name.as_bytes()[from..]);
        for (word, bytes) in lock.inside().name.iter().zip(bytes.as_chunks::<8>().0) {
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
        Ok(lock)
    }

    /// The lock that another process has made.
    ///
    /// # Errors
    ///
    /// If the cell is too short for one.
    pub fn attach(cell: Cell, recursive: bool) -> io::Result<SharedLock> {
        if cell.len() < size_of::<Inside>() as u64 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(SharedLock { cell, recursive })
    }

    /// Its memory, to hand it on.
    pub fn cell(&self) -> &Cell {
        &self.cell
    }

    #[inline]
    fn inside(&self) -> &Inside {
        // SAFETY: the cell is long enough (see `new` and `attach`), and all fields are atomics, which may have any bits.
        unsafe { self.cell.start().cast::<Inside>().as_ref() }
    }

    /// The word itself.
    #[inline]
    pub fn raw(&self) -> &RawLock {
        &self.inside().raw
    }

    /// Whether its owner may take it again.
    pub fn is_recursive(&self) -> bool {
        self.recursive
    }

    /// The name that it was given.
    pub fn name(&self) -> String {
        let bytes: Vec<u8> = self
            .inside()
            .name
            .iter()
            .flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes())
            .take_while(|&byte| byte != 0)
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Whether the calling thread has it.
    #[inline]
    pub fn is_mine(&self) -> bool {
        self.raw().owner() == Some(Identity::current())
    }

    /// How often a thread of this process has it; 0 if another process has it, or none.
    pub fn depth(&self) -> u32 {
        match self.raw().owner() {
            Some(owner) if owner.is_same_process(Identity::current()) => {
                if self.recursive {
                    self.inside().depth.load(Ordering::Relaxed).max(1)
                } else {
                    1
                }
            }
            _ => 0,
        }
    }

    /// Takes it if it is free, or recursive and the calling thread's. `scoped` as in [`RawLock::try_lock`].
    #[inline]
    pub fn try_acquire(&self, scoped: bool) -> bool {
        let me = Identity::current();
        let inside = self.inside();
        if self.recursive {
            if inside.raw.owner() == Some(me) {
                let depth = inside.depth.load(Ordering::Relaxed);
                inside.depth.store(depth.saturating_add(1), Ordering::Relaxed);
                return true;
            }
            if inside.raw.try_lock(me, scoped) {
                inside.depth.store(1, Ordering::Relaxed);
                return true;
            }
            return false;
        }
        inside.raw.try_lock(me, scoped)
    }

    /// As [`try_acquire`](SharedLock::try_acquire), but takes it over if its owner is dead; some microseconds' work if it
    /// fails.
    pub fn try_acquire_or_recover(&self, scoped: bool) -> Option<Acquired> {
        if self.try_acquire(scoped) {
            return Some(Acquired::Clean);
        }
        let acquired = self.raw().try_lock_or_recover(Identity::current(), scoped)?;
        self.begin(acquired);
        Some(acquired)
    }

    /// What a new owner does first.
    fn begin(&self, acquired: Acquired) {
        // Who is killed before this is dead with the lock in its turn, and the next one notes it.
        if let Acquired::FromTheDead(_) = acquired {
            self.inside().poison.store(OWNER_DIED, Ordering::Relaxed);
        }
        self.inside().depth.store(1, Ordering::Relaxed);
    }

    /// Notes that its owner, the calling thread, panics.
    pub(super) fn poison_by_panic(&self) {
        self.inside().poison.store(OWNER_PANICKED, Ordering::Relaxed);
    }

    /// Whether a process has died or a thread has panicked while it held the lock, and nobody has
    /// [cleared](SharedLock::clear_poison) it since: what the lock guards may be half changed.
    ///
    /// Only the answer of the lock's owner is certain. Of panics only those count that passed a [guard](super::SharedLockGuard).
    pub fn is_poisoned(&self) -> bool {
        self.inside().poison.load(Ordering::Relaxed) != SOUND
    }

    /// Says that what the lock guards is in order again. To be called by its owner.
    pub fn clear_poison(&self) {
        self.inside().poison.store(SOUND, Ordering::Relaxed);
    }

    /// The process whose death has poisoned the lock; `None` if it was a panic, or nothing.
    pub(super) fn poisoned_by(&self) -> Option<Identity> {
        match self.inside().poison.load(Ordering::Relaxed) {
            OWNER_DIED => self.raw().last_dead_owner(),
            _ => None,
        }
    }

    /// Waits for it, for `limit` at most: `None` if the time was over. `stir` as in [`RawLock::lock`]; `about` is asked who
    /// waits, and where, if the wait lasts (what it waits for is added here).
    ///
    /// # Errors
    ///
    /// The deadlock that the wait is part of, or what `stir` returned.
    pub fn acquire<E>(
        &self,
        scoped: bool,
        limit: Option<Duration>,
        stir: &mut dyn FnMut(Stir) -> Result<(), E>,
        about: &mut dyn FnMut() -> About,
    ) -> Result<Option<Acquired>, Ended<E>> {
        if self.try_acquire(scoped) {
            return Ok(Some(Acquired::Clean));
        }
        let me = Identity::current();
        let mut watch = limit
            .is_none()
            .then(|| Watch::new(&self.cell, std::mem::offset_of!(Inside, raw), self.recursive));
        let mut about = || About {
            what: self.to_string(),
            ..about()
        };
        let acquired = self.raw().lock(me, scoped, limit, &mut |now| {
            stir(now).map_err(Ended::Stopped)?;
            match &mut watch {
                Some(watch) => watch.look(now.waited, &mut about).map_err(Ended::Deadlock),
                None => Ok(()),
            }
        })?;
        if let Some(acquired) = acquired {
            self.begin(acquired);
        }
        Ok(acquired)
    }

    /// Gives it back once; if it is not recursive, whoever has it.
    ///
    /// # Errors
    ///
    /// If it is not locked, or recursive and not the calling thread's.
    #[inline]
    pub fn release(&self) -> Result<(), NotReleased> {
        let me = Identity::current();
        let inside = self.inside();
        if self.recursive {
            if inside.raw.owner() != Some(me) {
                return Err(NotReleased::NotOwner);
            }
            let depth = inside.depth.load(Ordering::Relaxed);
            if depth > 1 {
                inside.depth.store(depth - 1, Ordering::Relaxed);
                return Ok(());
            }
        }
        inside.raw.unlock(me).map_err(|_| NotReleased::NotLocked)
    }
}

impl fmt::Display for SharedLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.recursive { "RLock" } else { "Lock" };
        match self.name() {
            name if name.is_empty() => f.write_str(kind),
            name => write!(f, "{kind} {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recursive_lock_is_released_as_often_as_it_was_taken_and_by_its_owner_alone() {
        let lock = SharedLock::new(true, "made at app.py:7").unwrap();
        assert_eq!(lock.release(), Err(NotReleased::NotOwner));
        assert!(lock.try_acquire(false) && lock.try_acquire(true) && lock.is_mine());
        assert_eq!(
            (lock.depth(), lock.to_string().as_str()),
            (2, "RLock made at app.py:7")
        );
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert!(!lock.try_acquire(false) && !lock.is_mine());
                assert_eq!(lock.try_acquire_or_recover(false), None);
                assert_eq!(lock.release(), Err(NotReleased::NotOwner));
                assert_eq!(lock.depth(), 2);
            });
        });
        lock.release().unwrap();
        assert!(lock.is_mine());
        lock.release().unwrap();
        assert_eq!((lock.depth(), lock.raw().owner()), (0, None));
    }

    #[test]
    fn names_keep_their_end() {
        let lock = SharedLock::new(false, &format!("{}ü/app.py:7", "x".repeat(50))).unwrap();
        assert!(lock.name().ends_with("ü/app.py:7") && lock.name().len() <= 32);
    }
}
