//! The clock that all processes of a machine share.

use std::time::Duration;

/// A time limit as system calls take it; one too long for them is as good as for ever.
pub(super) fn timespec(limit: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: limit.as_secs().min(i64::MAX as u64 / 4) as libc::time_t,
        tv_nsec: limit.subsec_nanos() as libc::c_long,
    }
}

#[inline]
fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut t = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a local that the call fills.
    unsafe { libc::clock_gettime(clock, &mut t) };
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// Nanoseconds of the monotonic clock; the same count in every process.
pub fn monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// The monotonic clock as it stood at the last tick of the kernel, up to 10 ms ago: for what is shown to people. Reading it
/// costs a fraction of what [`monotonic_ns`] costs.
#[inline]
pub fn coarse_monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC_COARSE)
}

/// Nanoseconds since 1970 by the clock that people set, and that the kernel's notes on packets are told by.
#[inline]
pub fn realtime_ns() -> u64 {
    clock_ns(libc::CLOCK_REALTIME)
}

/// Sleeps until this moment of the monotonic clock, or until a signal comes.
pub fn sleep_until_ns(at_ns: u64) {
    let at = libc::timespec {
        tv_sec: (at_ns / 1_000_000_000) as libc::time_t,
        tv_nsec: (at_ns % 1_000_000_000) as libc::c_long,
    };
    // SAFETY: the pointer is to a local that lives through the call, and no remainder is asked for.
    unsafe {
        libc::clock_nanosleep(
            libc::CLOCK_MONOTONIC,
            libc::TIMER_ABSTIME,
            &at,
            std::ptr::null_mut(),
        )
    };
}

/// Seconds since the machine was started, its sleep included: the clock by which the kernel tells when processes began.
pub fn since_boot_seconds() -> f64 {
    let mut t = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a local that the call fills.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut t) };
    t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
}

/// The CPU that the caller runs on just now.
pub fn current_cpu() -> u32 {
    // SAFETY: the call has no arguments and touches no memory of ours.
    unsafe { libc::sched_getcpu() as u32 }
}
