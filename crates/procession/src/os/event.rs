//! Event counters and readiness: what a sleeper that awaits several things at once sleeps on.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{eventfd, EventfdFlags};

use super::time::timespec;

/// An event that one process signals and another awaits.
#[derive(Debug)]
pub struct Event(OwnedFd);

impl Event {
    /// A new event, not signalled.
    pub fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self(super::socket::above_standard(fd)?))
    }

    /// Takes over an event's descriptor, as a child that inherited it does.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Signals the event; a counter that is full is signalled already. False if that cannot be done any more: somebody has
    /// closed the descriptor.
    pub fn signal(&self) -> bool {
        !matches!(
            rustix::io::write(&self.0, &1u64.to_ne_bytes()),
            Err(error) if error != rustix::io::Errno::AGAIN
        )
    }

    /// Takes the signal back.
    pub fn clear(&self) {
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until one of `fds` is readable (or closed), and returns a bit for each that is, first descriptor lowest.
///
/// Returns 0 when the time was over. Fails with [`io::ErrorKind::Interrupted`] when a signal arrived. At most 64
/// descriptors can be told apart; negative ones are passed over.
pub fn wait_readable(fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> io::Result<u64> {
    let mut polled: [libc::pollfd; 8] = [libc::pollfd {
        fd: -1,
        events: libc::POLLIN,
        revents: 0,
    }; 8];
    if fds.len() <= polled.len() {
        poll_into(fds, &mut polled[..fds.len()], timeout)
    } else {
        poll_into(
            fds,
            &mut vec![
                libc::pollfd {
                    fd: -1,
                    events: libc::POLLIN,
                    revents: 0
                };
                fds.len()
            ],
            timeout,
        )
    }
}

fn poll_into(
    fds: &[BorrowedFd<'_>],
    polled: &mut [libc::pollfd],
    timeout: Option<Duration>,
) -> io::Result<u64> {
    for (entry, fd) in polled.iter_mut().zip(fds) {
        entry.fd = fd.as_raw_fd();
    }
    let limit = timeout.map(timespec);
    let limit_ptr = limit
        .as_ref()
        .map_or(std::ptr::null(), |l| l as *const libc::timespec);
    // SAFETY: the array and the time limit live for the call, and the length is the array's own.
    let n = unsafe {
        libc::ppoll(
            polled.as_mut_ptr(),
            polled.len() as libc::nfds_t,
            limit_ptr,
            std::ptr::null(),
        )
    };
    if n < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(polled
        .iter()
        .enumerate()
        .filter(|(_, p)| p.revents != 0)
        .fold(0, |bits, (i, _)| bits | 1 << (i.min(63))))
}
