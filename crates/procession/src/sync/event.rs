//! A flag that processes wait for.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::pace::{Pace, Stir};
use crate::os::futex::{self, Waited};

const SET: u32 = 1;

/// A flag between processes, for any zeroed piece of shared memory: those who wait go on when it is set.
///
/// Who waited when it was set goes on even if it was cleared again at once.
///
/// ```
/// use procession::sync::RawEvent;
/// use std::time::Duration;
///
/// let event = RawEvent::default();
/// let soon = Some(Duration::from_millis(1));
/// assert_eq!(event.wait(soon, &mut |_| Ok::<(), ()>(())), Ok(false));
/// event.set();
/// assert_eq!(event.wait(None, &mut |_| Ok::<(), ()>(())), Ok(true));
/// event.clear();
/// assert!(!event.is_set());
/// ```
#[repr(C)]
#[derive(Debug, Default)]
pub struct RawEvent {
    /// The flag, and above it how often it was set.
    word: AtomicU32,
}

impl RawEvent {
    /// Whether the flag is set.
    #[inline]
    pub fn is_set(&self) -> bool {
        // Sync point *flag*: pairs with the release in `set`.
        self.word.load(Ordering::Acquire) & SET != 0
    }

    /// Sets the flag, and lets all go on who wait for it.
    pub fn set(&self) {
        let mut word = self.word.load(Ordering::Relaxed);
        while word & SET == 0 {
            let set = (word | SET).wrapping_add(2);
            // Sync point *flag*.
            match self
                .word
                .compare_exchange(word, set, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => {
                    crate::crash_point!("event-before-wake");
                    futex::wake(&self.word, u32::MAX);
                    return;
                }
                Err(now) => word = now,
            }
        }
        // So that what was written before this call is seen by who waits from now on, too.
        self.word.fetch_or(SET, Ordering::Release);
    }

    /// Takes the flag back.
    pub fn clear(&self) {
        self.word.fetch_and(!SET, Ordering::Relaxed);
    }

    /// Waits until the flag is set, for `limit` at most; `false` if the time was over. `stir` as in
    /// [`RawLock::lock`](super::RawLock::lock).
    ///
    /// # Errors
    ///
    /// What `stir` returned.
    pub fn wait<E>(
        &self,
        limit: Option<Duration>,
        stir: &mut dyn FnMut(Stir) -> Result<(), E>,
    ) -> Result<bool, E> {
        let pace = Pace::begin_without_owner(limit);
        let first = self.word.load(Ordering::Acquire);
        loop {
            let word = self.word.load(Ordering::Acquire);
            if word & SET != 0 || word >> 1 != first >> 1 {
                return Ok(true);
            }
            let Some(slice) = pace.slice() else {
                return Ok(false);
            };
            let waited = futex::wait(&self.word, word, Some(slice));
            if waited != Waited::Woken {
                stir(Stir {
                    waited: pace.waited(),
                    interrupted: waited == Waited::Interrupted,
                })?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_goes_on_though_the_flag_is_cleared_at_once() {
        let event = RawEvent::default();
        std::thread::scope(|scope| {
            let waiters: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| event.wait(None, &mut |_| Ok::<(), ()>(()))))
                .collect();
            std::thread::sleep(Duration::from_millis(20));
            // Some may not have begun to wait yet, so it is set more than once.
            while !waiters.iter().all(|waiter| waiter.is_finished()) {
                event.set();
                event.clear();
                std::thread::sleep(Duration::from_millis(1));
            }
            for waiter in waiters {
                assert_eq!(waiter.join().unwrap(), Ok(true));
            }
        });
        assert!(!event.is_set());
        assert_eq!(event.wait(None, &mut |_| Err(())), Err(()));
    }
}
