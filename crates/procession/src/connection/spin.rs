//! Whether to stay awake for a message that may be microseconds away.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::OnceLock;

use crate::os::{process, time};

/// About what it costs to be woken: staying awake for longer can only lose.
const SPIN_NS: u64 = 30_000;
/// After so many vain attempts in a row, only one wait in 2^MOST is still used for another.
const MOST_DOUBLINGS: u32 = 12;

/// Decides from past waits whether the next one begins awake.
///
/// Where the awaited process runs is unknown here. If it is on this very CPU, or the machine is busy, staying awake keeps it
/// from running; then the attempts fail, and each failure in a row halves how often another is made.
#[derive(Debug, Default)]
pub struct Spin {
    failures: AtomicU32,
    waits_to_skip: AtomicU32,
}

impl Spin {
    /// Begins as one who tries.
    pub const fn new() -> Self {
        Spin {
            failures: AtomicU32::new(0),
            waits_to_skip: AtomicU32::new(0),
        }
    }

    /// Calls `done` for a moment until it says yes; false if it does not, or if it is not worth it at present.
    ///
    /// The counters are hints: threads that wait at the same time may lose an update, which costs nothing but a moment.
    pub fn until(&self, mut done: impl FnMut() -> bool) -> bool {
        static SINGLE_CPU: OnceLock<bool> = OnceLock::new();
        if *SINGLE_CPU.get_or_init(|| process::available_cpus() < 2) {
            return false;
        }
        let skip = self.waits_to_skip.load(Ordering::Relaxed);
        if skip > 0 {
            self.waits_to_skip.store(skip - 1, Ordering::Relaxed);
            return false;
        }
        let end = time::monotonic_ns() + SPIN_NS;
        loop {
            if done() {
                self.failures.store(0, Ordering::Relaxed);
                return true;
            }
            for _ in 0..16 {
                std::hint::spin_loop();
            }
            if time::monotonic_ns() >= end {
                break;
            }
        }
        let failures = self.failures.load(Ordering::Relaxed);
        self.failures
            .store((failures + 1).min(MOST_DOUBLINGS), Ordering::Relaxed);
        self.waits_to_skip
            .store((1 << failures.min(MOST_DOUBLINGS)) - 1, Ordering::Relaxed);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vain_attempts_become_rare_and_a_success_makes_them_frequent_again() {
        let spin = Spin::new();
        let attempts = |waits: u32| {
            let mut attempts = 0;
            for _ in 0..waits {
                let mut tried = false;
                spin.until(|| {
                    tried = true;
                    false
                });
                attempts += u32::from(tried);
            }
            attempts
        };
        assert!(attempts(1000) <= 11);
        while !spin.until(|| true) {}
        assert!(spin.until(|| true));
        assert_eq!(attempts(1), 1);
    }
}
