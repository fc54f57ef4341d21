//! Forking, and telling a process from its forked children.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{check, raw_pid};

/// Which of the two processes a [`fork`] returned in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forked {
    /// The new process.
    Child,
    /// The calling process, with the child's process number.
    Parent(u32),
}

/// Forks the calling process. This is glibc's `fork`, so that handlers registered by `pthread_atfork` run (glibc's own
/// keep `malloc` usable in the child).
///
/// # Safety
///
/// Only the calling thread exists in the child. If the process has other threads, whatever they held at that moment stays
/// as it was for ever: the child may then only do what needs none of it (POSIX: async-signal-safe calls) until it executes
/// another program or exits.
pub unsafe fn fork() -> io::Result<Forked> {
    // SAFETY: the caller keeps the contract above.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid.unsigned_abs())),
    }
}

/// Clones the calling process into a child that `wait` for any child passes over: it ends without a signal to its parent.
/// [`reap_unseen`] reaps it. No fork handler runs, so that [`generation`] is the same in it.
///
/// # Safety
///
/// As [`fork`]; nobody keeps `malloc` usable in the child if another thread is inside of it at this moment.
pub unsafe fn clone_unseen() -> io::Result<Forked> {
    // SAFETY: without flags the kernel copies everything, the stack included, as for a fork; the caller keeps the rest.
    match check(unsafe { libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) })? {
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid as u32)),
    }
}

/// Waits for the end of a child made by [`clone_unseen`].
pub fn reap_unseen(pid: u32) {
    let Ok(pid) = raw_pid(pid) else { return };
    // SAFETY: no status is asked for.
    while unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WCLONE) } == -1
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
}

/// 0 until the handler is registered, so that one load answers both questions.
static GENERATION: AtomicU32 = AtomicU32::new(0);

pub(super) extern "C" fn next_generation() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// Forks of this process that were begun since the handlers were registered.
static FORKS: AtomicU32 = AtomicU32::new(0);

pub(super) extern "C" fn count_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// How often this process (or a forebear, before it was forked) has forked: what was made at another count may have a copy
/// in a child.
#[inline]
pub fn forks() -> u32 {
    generation();
    FORKS.load(Ordering::Relaxed)
}

/// A number that differs between a process and its forked children: who stores it beside an object recognises later that
/// the object was made by another process. Every `fork` of libc counts, whoever called it (of raw `clone` calls only
/// [`super::clone_sibling`] does).
///
/// Reading it costs one relaxed load, and takes no lock that a vanished thread could hold.
#[inline]
pub fn generation() -> u32 {
    match GENERATION.load(Ordering::Relaxed) {
        0 => register_generation(),
        generation => generation,
    }
}

#[cold]
fn register_generation() -> u32 {
    // No `Once`: a fork by another thread in the middle would leave it unfinished for ever in the child. Two racing
    // threads may register twice; then each fork counts by two, which is as good.
    // SAFETY: the handlers only add to atomics.
    let failed = unsafe { libc::pthread_atfork(Some(count_fork), None, Some(next_generation)) };
    assert_eq!(failed, 0, "no memory left to register a fork handler");
    let _ = GENERATION.compare_exchange(0, 1, Ordering::Relaxed, Ordering::Relaxed);
    GENERATION.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::super::test_children::{fork_child, wait};
    use super::super::ExitStatus;
    use super::*;

    #[test]
    fn generation_differs_in_a_forked_child() {
        let mine = generation();
        let (_, pidfd) = fork_child(|| i32::from(generation() == mine));
        assert_eq!(wait(&pidfd), ExitStatus::exited(0));
        assert_eq!(generation(), mine);
    }
}
