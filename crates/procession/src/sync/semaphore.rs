//! The semaphore word.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::pace::{Pace, Stir};
use crate::os::futex::{self, Waited};

/// Somebody may sleep on the word.
const WAITERS: u32 = 1 << 31;

/// The semaphore is at its highest value already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AtLimit;

impl fmt::Display for AtLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("semaphore released too many times")
    }
}

impl std::error::Error for AtLimit {}

/// A counting semaphore between processes, for any zeroed piece of shared memory.
///
/// A permit has no owner: anybody may give back what another took. So the death of a process that has taken one is not seen
/// here; a [`RawLock`](super::RawLock) is what has an owner.
///
/// ```
/// use procession::sync::{AtLimit, RawSemaphore};
///
/// let semaphore = RawSemaphore::default();
/// semaphore.set(1);
/// assert!(semaphore.try_acquire());
/// assert!(!semaphore.try_acquire());
/// semaphore.release(1)?;
/// assert_eq!(semaphore.release(1), Err(AtLimit));
/// assert_eq!(semaphore.value(), 1);
/// # Ok::<(), AtLimit>(())
/// ```
#[repr(C)]
#[derive(Debug, Default)]
pub struct RawSemaphore {
    word: AtomicU32,
}

impl RawSemaphore {
    /// The highest value that any semaphore can have.
    pub const MAX: u32 = WAITERS - 1;

    /// Gives a new semaphore its value.
    pub fn set(&self, value: u32) {
        self.word.store(value & Self::MAX, Ordering::Relaxed);
    }

    /// How many permits there are.
    #[inline]
    pub fn value(&self) -> u32 {
        self.word.load(Ordering::Relaxed) & Self::MAX
    }

    /// Takes a permit if there is one.
    #[inline]
    pub fn try_acquire(&self) -> bool {
        self.take(0)
    }

    #[inline]
    fn take(&self, mark: u32) -> bool {
        let mut word = self.word.load(Ordering::Relaxed);
        while word & Self::MAX != 0 {
            // Sync point *permit*: pairs with the release in `release`.
            match self
                .word
                .compare_exchange(word, (word - 1) | mark, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
        false
    }

    /// Waits for a permit, for `limit` at most; `false` if the time was over. `stir` as in
    /// [`RawLock::lock`](super::RawLock::lock).
    ///
    /// # Errors
    ///
    /// What `stir` returned.
    pub fn acquire<E>(
        &self,
        limit: Option<Duration>,
        stir: &mut dyn FnMut(Stir) -> Result<(), E>,
    ) -> Result<bool, E> {
        if self.try_acquire() {
            return Ok(true);
        }
        let pace = Pace::begin_without_owner(limit);
        // Who has slept cannot know whether others sleep on, so it says that they may.
        let mut mark = 0;
        loop {
            if self.take(mark) {
                return Ok(true);
            }
            let word = self.word.load(Ordering::Relaxed);
            if word & Self::MAX != 0 {
                continue;
            }
            if word != WAITERS
                && self
                    .word
                    .compare_exchange(word, WAITERS, Ordering::Relaxed, Ordering::Relaxed)
                    .is_err()
            {
                continue;
            }
            let Some(slice) = pace.slice() else {
                return Ok(false);
            };
            crate::crash_point!("semaphore-before-sleep");
            let waited = futex::wait(&self.word, WAITERS, Some(slice));
            mark = WAITERS;
            if waited != Waited::Woken {
                stir(Stir {
                    waited: pace.waited(),
                    interrupted: waited == Waited::Interrupted,
                })?;
            }
        }
    }

    /// Gives a permit back, and wakes a waiter if there may be one.
    ///
    /// # Errors
    ///
    /// If the value is `limit` (or [`RawSemaphore::MAX`]) already.
    #[inline]
    pub fn release(&self, limit: u32) -> Result<(), AtLimit> {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            if word & Self::MAX >= limit.min(Self::MAX) {
                return Err(AtLimit);
            }
            // Sync point *permit*: pairs with the acquire in `take`.
            match self
                .word
                .compare_exchange(word, word + 1, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        if word & WAITERS != 0 {
            self.wake(word + 1);
        }
        Ok(())
    }

    #[cold]
    fn wake(&self, word: u32) {
        crate::crash_point!("semaphore-before-wake");
        if futex::wake(&self.word, 1) == 0 {
            // Nobody slept. If somebody fell asleep since, the value had become 0, and the next release wakes; then the
            // word is another one, or the sleeper was woken by that release and marks the word again.
            let _ = self
                .word
                .compare_exchange(word, word & !WAITERS, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    fn no_stir(_: Stir) -> Result<(), ()> {
        Ok(())
    }

    #[test]
    fn permits_are_neither_lost_nor_made() {
        let semaphore = RawSemaphore::default();
        semaphore.set(2);
        let inside = AtomicU32::new(0);
        let passes = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        assert!(semaphore.acquire(None, &mut no_stir).unwrap());
                        assert!(inside.fetch_add(1, Ordering::Relaxed) < 2);
                        passes.fetch_add(1, Ordering::Relaxed);
                        inside.fetch_sub(1, Ordering::Relaxed);
                        semaphore.release(2).unwrap();
                    }
                });
            }
        });
        assert_eq!((passes.into_inner(), semaphore.value()), (20_000, 2));
        assert_eq!(semaphore.release(2), Err(AtLimit));
    }

    #[test]
    fn a_wait_ends_at_its_limit_and_when_the_waiter_is_told_to() {
        let semaphore = RawSemaphore::default();
        let limit = Some(Duration::from_millis(20));
        assert_eq!(semaphore.acquire(limit, &mut no_stir), Ok(false));
        assert_eq!(semaphore.acquire(None, &mut |_| Err("enough")), Err("enough"));
        semaphore.release(RawSemaphore::MAX).unwrap();
        assert_eq!(semaphore.acquire(None, &mut no_stir), Ok(true));
    }

    #[test]
    fn every_release_lets_one_waiter_go() {
        let semaphore = RawSemaphore::default();
        std::thread::scope(|scope| {
            let waiters: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| semaphore.acquire(None, &mut no_stir).unwrap()))
                .collect();
            for _ in 0..8 {
                semaphore.release(RawSemaphore::MAX).unwrap();
            }
            assert!(waiters.into_iter().all(|waiter| waiter.join().unwrap()));
        });
        assert_eq!(semaphore.value(), 0);
    }
}
