//! Futex words in memory shared between processes.
//!
//! These are the plain, not the process-private operations: std's own waits use private ones, which never wake another
//! process, and they restart after a signal, so that Ctrl-C would go unanswered.

use std::sync::atomic::AtomicU32;
use std::time::Duration;

use super::time::timespec;

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// Woken, or the word had another value already; look again.
    Woken,
    /// The time was over.
    TimedOut,
    /// A signal arrived; its handler may want to be heard.
    Interrupted,
}

/// Sleeps while `word` holds `expected`, for `timeout` at most.
pub fn wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) -> Waited {
    let limit = timeout.map(timespec);
    let limit_ptr = limit
        .as_ref()
        .map_or(std::ptr::null(), |l| l as *const libc::timespec);
    // SAFETY: the word and the time limit outlive the call, and FUTEX_WAIT reads nothing else.
    let r = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            expected,
            limit_ptr,
        )
    };
    if r == 0 {
        return Waited::Woken;
    }
    match std::io::Error::last_os_error().raw_os_error() {
        Some(libc::ETIMEDOUT) => Waited::TimedOut,
        Some(libc::EINTR) => Waited::Interrupted,
        _ => Waited::Woken,
    }
}

/// Wakes up to `count` processes or threads that sleep on `word`, and says how many that were.
pub fn wake(word: &AtomicU32, count: u32) -> u32 {
    // SAFETY: FUTEX_WAKE uses the address only as a name; the word is alive for the call.
    let woken = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAKE,
            count.min(i32::MAX as u32),
        )
    };
    u32::try_from(woken).unwrap_or(0)
}
