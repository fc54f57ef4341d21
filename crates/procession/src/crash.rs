//! Places where a test can have a worker killed.

/// Ends this process with SIGKILL at the named place, if the environment variable `PROCESSION_CRASH_AT` names it.
///
/// Exists in builds with the feature `crash-points` alone; elsewhere it is nothing. In unit tests of this crate it is counted:
/// see `die_after`.
#[doc(hidden)]
#[macro_export]
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(feature = "crash-points")]
        $crate::crash::here($name);
        #[cfg(test)]
        $crate::crash::step();
    };
}

/// Lets this process die at its crash points from now on: a worker does so when it is ready.
#[cfg(feature = "crash-points")]
pub(crate) fn arm() {
    ARMED.store(true, std::sync::atomic::Ordering::Relaxed);
}

/// The caller and the supervisor pass some of the places, too, and are not to die.
#[cfg(feature = "crash-points")]
static ARMED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// The one in how many passes through a named place kills, from `PROCESSION_CRASH_AT=name[:one_in]`.
#[cfg(feature = "crash-points")]
#[doc(hidden)]
pub fn here(name: &str) {
    use crate::os::process as os;
    use std::sync::OnceLock;
    if !ARMED.load(std::sync::atomic::Ordering::Relaxed) {
        return;
    }
    static PLACE: OnceLock<Option<(String, u64)>> = OnceLock::new();
    let place = PLACE.get_or_init(|| {
        let text = std::env::var("PROCESSION_CRASH_AT").ok()?;
        let (name, one_in) = text.split_once(':').unwrap_or((&text, "1"));
        Some((name.to_string(), one_in.parse().unwrap_or(1)))
    });
    if let Some((wanted, one_in)) = place {
        if wanted == name && (crate::os::time::monotonic_ns() / 1000).is_multiple_of(*one_in.max(&1)) {
            let _ = os::kill(std::process::id(), os::SIGKILL);
        }
    }
}

#[cfg(test)]
static STEPS_LEFT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(u64::MAX);

/// Lets this process die at the crash point that it comes to after passing so many.
#[cfg(test)]
pub(crate) fn die_after(steps: u64) {
    STEPS_LEFT.store(steps, std::sync::atomic::Ordering::Relaxed);
}

/// A crash point, counted.
#[cfg(test)]
pub(crate) fn step() {
    use std::sync::atomic::Ordering;
    match STEPS_LEFT.load(Ordering::Relaxed) {
        u64::MAX => {}
        0 => {
            let _ = crate::os::process::kill(std::process::id(), crate::os::process::SIGKILL);
        }
        left => STEPS_LEFT.store(left - 1, Ordering::Relaxed),
    }
}

/// Runs `work` in a forked process that dies after so many steps; false if it got to its end before.
#[cfg(test)]
pub(crate) fn dies(steps: u64, work: impl FnOnce()) -> bool {
    use crate::os::process as os;
    // SAFETY: the child runs only `work`, which uses nothing of other threads.
    match unsafe { os::fork() }.unwrap() {
        os::Forked::Child => {
            die_after(steps);
            work();
            os::exit_now(0);
        }
        os::Forked::Parent(pid) => {
            let pidfd = os::pidfd_open(pid).unwrap();
            let status = os::wait_pidfd(&pidfd, false).unwrap().unwrap();
            assert!(
                status.success() || status.signal() == Some(os::SIGKILL),
                "{status}"
            );
            !status.success()
        }
    }
}
