//! How a wait is cut into slices.

use std::convert::Infallible;
use std::time::Duration;

use crate::os::time::monotonic_ns;

/// What a waiter is told each time it stirs without having got what it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stir {
    /// How long it has waited so far.
    pub waited: Duration,
    /// Whether a signal woke it, whose handler may want to be heard.
    pub interrupted: bool,
}

/// For waits that nothing but their time ends.
pub(super) fn never_stopped(_: Stir) -> Result<(), Infallible> {
    Ok(())
}

/// Cuts a wait into slices, between which the waiter looks around: does the one live for whom it waits?
///
/// A slice is an eighth of the time waited so far, between 1 and 20 ms: a death is seen within milliseconds, and a long wait
/// costs fifty short looks a second.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    began_ns: u64,
    deadline_ns: Option<u64>,
    longest_ns: u64,
}

const SHORTEST_NS: u64 = 1_000_000;
const LONGEST_NS: u64 = 20_000_000;
/// Where there is no owner to die, all that can be missed is the wake-up of a process that was killed before it gave it.
const LONGEST_WITHOUT_OWNER_NS: u64 = 250_000_000;

impl Pace {
    /// A wait that begins now and ends after `limit`, or never.
    pub fn begin(limit: Option<Duration>) -> Pace {
        let began_ns = monotonic_ns();
        // A limit beyond what the clock can count is as good as none.
        let deadline_ns = limit.and_then(|limit| began_ns.checked_add(u64::try_from(limit.as_nanos()).ok()?));
        Pace {
            began_ns,
            deadline_ns,
            longest_ns: LONGEST_NS,
        }
    }

    /// The same for a wait for what has no owner: with slices of up to 250 ms.
    pub fn begin_without_owner(limit: Option<Duration>) -> Pace {
        Pace {
            longest_ns: LONGEST_WITHOUT_OWNER_NS,
            ..Pace::begin(limit)
        }
    }

    /// How long to sleep now; `None` if the time is over.
    pub fn slice(&self) -> Option<Duration> {
        let now = monotonic_ns();
        let mut slice = (now.saturating_sub(self.began_ns) / 8).clamp(SHORTEST_NS, self.longest_ns);
        if let Some(deadline) = self.deadline_ns {
            if now >= deadline {
                return None;
            }
            slice = slice.min(deadline - now);
        }
        Some(Duration::from_nanos(slice))
    }

    /// How long the wait has lasted.
    pub fn waited(&self) -> Duration {
        Duration::from_nanos(monotonic_ns().saturating_sub(self.began_ns))
    }

    /// Whether the wait ends by itself at some time.
    pub fn is_limited(&self) -> bool {
        self.deadline_ns.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_begin_short_and_never_pass_the_deadline() {
        let pace = Pace::begin(Some(Duration::from_micros(500)));
        assert!(pace.slice().is_none_or(|s| s <= Duration::from_micros(500)));
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!(pace.slice(), None);
        assert_eq!(Pace::begin(Some(Duration::ZERO)).slice(), None);
        let endless = Pace::begin(Some(Duration::MAX));
        assert!(!endless.is_limited());
        assert!(endless.slice().unwrap() >= Duration::from_millis(1));
    }
}
