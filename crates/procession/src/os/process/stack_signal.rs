//! A signal upon which a process writes down where it is, and says that it has done so.

use std::io;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use super::signals::{has_signal_handler, set_handler};

static DONE: AtomicPtr<AtomicU32> = AtomicPtr::new(null_mut());

extern "C" fn say_done(_signal: i32) {
    let done = DONE.load(Ordering::Acquire);
    if !done.is_null() {
        // SAFETY: `answer_signal` was given a word that lives as long as the process. A store to an atomic is all a
        // signal handler may do here.
        unsafe { (*done).store(1, Ordering::Release) };
    }
}

/// Whether this is a signal that programs use as they like.
pub fn is_real_time_signal(signal: i32) -> bool {
    (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&signal)
}

/// Finds a real-time signal that nobody in this process handles, and has it raise `done` to 1. Whoever writes the stack down
/// installs a handler of its own over this one, and calls this one when it has.
///
/// # Errors
/// When all of them are taken.
pub fn answer_signal(done: &'static AtomicU32) -> io::Result<i32> {
    // From the top: who uses such signals in a program begins at the bottom.
    let free = (libc::SIGRTMIN()..=libc::SIGRTMAX() - 3)
        .rev()
        .find(|&signal| !has_signal_handler(signal));
    let signal = free.ok_or_else(|| io::Error::other("every real-time signal has a handler"))?;
    DONE.store(std::ptr::from_ref(done).cast_mut(), Ordering::Release);
    set_handler(signal, say_done)?;
    Ok(signal)
}
