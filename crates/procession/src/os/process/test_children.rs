//! Children for tests, which end by their code or by a signal.

use std::os::fd::OwnedFd;

use super::{exit_now, fork, pidfd_open, wait_pidfd, ExitStatus, Forked};

/// Forks a child that does only what is allowed beside other threads, and gives its pidfd and number.
pub(super) fn fork_child(child: impl FnOnce() -> i32) -> (u32, OwnedFd) {
    // SAFETY: the closures below only make system calls.
    match unsafe { fork() }.unwrap() {
        Forked::Child => exit_now(child()),
        Forked::Parent(pid) => (pid, pidfd_open(pid).unwrap()),
    }
}

pub(super) fn sleep_for_ever() -> i32 {
    loop {
        // SAFETY: no pointers.
        unsafe { libc::pause() };
    }
}

pub(super) fn wait(pidfd: &OwnedFd) -> ExitStatus {
    wait_pidfd(pidfd, false).unwrap().unwrap()
}
