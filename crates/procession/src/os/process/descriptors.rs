//! Descriptors: pipes, readiness, and what becomes of descriptors that a process has inherited.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::{poll, PollFd, PollFlags};

use super::check;

/// What [`wait_ready`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// There is something to read, or the other end was closed.
    Readable,
    /// There is room to write, or the other end was closed.
    Writable,
}

/// Waits until a descriptor is ready. `false` if the deadline came first. Interrupting signals do not end the wait.
pub fn wait_ready(fd: impl AsFd, readiness: Readiness, deadline: Option<Instant>) -> io::Result<bool> {
    let flags = match readiness {
        Readiness::Readable => PollFlags::IN,
        Readiness::Writable => PollFlags::OUT,
    };
    loop {
        // A timeout too long for the kernel's type is as good as none.
        let timeout = deadline.and_then(|end| end.saturating_duration_since(Instant::now()).try_into().ok());
        match poll(&mut [PollFd::new(&fd, flags)], timeout.as_ref()) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Has a descriptor that was inherited closed when this process executes another program.
pub fn close_on_exec(fd: impl AsFd) -> io::Result<()> {
    Ok(rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC)?)
}

/// A pipe, both ends closed on exec: what is written to the second comes out of the first.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

/// Lets the kernel send `signal` to the calling process as soon as the other end of this pipe or socket is closed (or has
/// something to say). Unlike [`set_parent_death_signal`](super::set_parent_death_signal) this follows the process that holds
/// the other end, not a thread.
pub fn signal_on_hangup(fd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let fd = fd.as_raw_fd();
    // SAFETY: no pointers; the descriptor is borrowed for the calls.
    unsafe {
        check(libc::fcntl(fd, libc::F_SETOWN, libc::getpid()).into())?;
        check(libc::fcntl(fd, F_SETSIG, signal).into())?;
        let flags = check(libc::fcntl(fd, libc::F_GETFL).into())? as i32;
        check(libc::fcntl(fd, libc::F_SETFL, flags | libc::O_ASYNC).into())?;
    }
    Ok(())
}

/// Closes every descriptor of this process but these, the standard ones included.
pub fn close_all_but(kept: &mut [i32]) {
    kept.sort_unstable();
    let mut from = 0;
    for &kept in kept.iter() {
        if let Ok(kept) = u32::try_from(kept) {
            if from < kept {
                close_range(from, kept - 1);
            }
            from = kept + 1;
        }
    }
    close_range(from, u32::MAX);
}

fn close_range(first: u32, last: u32) {
    // SAFETY: no pointers. Whoever owned these descriptors is never heard of again: the caller is on its way to its end.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

/// Reads what is there, once.
pub fn read(fd: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::io::read(fd, into)?)
}

/// Writes as much as there is room for, once.
pub fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::io::write(fd, bytes)?)
}

/// From the kernel's `fcntl.h`; the libc crate does not name it.
const F_SETSIG: i32 = 10;

#[cfg(test)]
mod tests {
    use super::super::test_children::{fork_child, sleep_for_ever, wait};
    use super::super::{pidfd_send_signal, wait_pidfd, ExitStatus};
    use super::*;
    use std::time::Duration;

    #[test]
    fn hangup_signal_comes_when_the_holder_of_the_other_end_dies() {
        let (mine, theirs) = rustix::pipe::pipe().unwrap();
        let (_, holder) = fork_child(sleep_for_ever);
        let (_, watcher) = fork_child(|| {
            // SAFETY: the child has its own copy of the descriptor and uses it no more.
            unsafe { libc::close(theirs.as_raw_fd()) };
            signal_on_hangup(mine.as_fd(), libc::SIGKILL).map_or(9, |()| sleep_for_ever())
        });
        drop(theirs);
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(wait_pidfd(&watcher, true).unwrap(), None);
        pidfd_send_signal(&holder, libc::SIGKILL).unwrap();
        wait(&holder);
        assert_eq!(wait(&watcher), ExitStatus::killed(libc::SIGKILL, false));
    }
}
