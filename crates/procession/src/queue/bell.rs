//! Waiting for a change and waking those who wait, without a system call while nobody does.

use std::sync::atomic::{fence, AtomicU32, Ordering};

use crate::os::futex;

const SLEEPERS: u32 = 1;
const STEP: u32 = 2;

/// A futex word: its lowest bit says that somebody may sleep on it, the others count how often somebody went to sleep.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Bell(AtomicU32);

impl Bell {
    /// Announces a sleeper and returns what the word must still say when it falls asleep. The caller looks once more
    /// whether it has to, before it does.
    pub fn prepare(&self) -> u32 {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            // A new number each time, so that a ringer that found nobody asleep does not take this mark away.
            let next = word.wrapping_add(STEP) | SLEEPERS;
            match self
                .0
                .compare_exchange_weak(word, next, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => {
                    // Sync point *bell*: pairs with the fence in `ring`. Either the ringer sees the mark, or the
                    // sleeper's last look sees what the ringer has done.
                    fence(Ordering::SeqCst);
                    return next;
                }
                Err(now) => word = now,
            }
        }
    }

    /// The word to sleep on.
    pub fn word(&self) -> &AtomicU32 {
        &self.0
    }

    /// Wakes up to `count` sleepers, if there may be any. Call it after the change.
    #[inline]
    pub fn ring(&self, count: u32) {
        // Sync point *bell*: pairs with the fence in `prepare`.
        fence(Ordering::SeqCst);
        let word = self.0.load(Ordering::Relaxed);
        if word & SLEEPERS != 0 {
            self.wake(word, count);
        }
    }

    #[cold]
    fn wake(&self, word: u32, count: u32) {
        crate::crash_point!("queue-before-wake");
        // The mark goes only when nobody slept, and only if nobody came since: whoever did, changed the word. So the mark
        // of a killed sleeper goes too.
        if futex::wake(&self.0, count) < count {
            let _ = self
                .0
                .compare_exchange(word, word & !SLEEPERS, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}
