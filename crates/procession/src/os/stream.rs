//! Byte streams between processes: connected sockets of ours, and whatever descriptor a user brings.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{socketpair, AddressFamily, SocketFlags, SocketType};

/// What can be done with a descriptor without waiting depends on what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A socket: a single call may say that it does not want to wait.
    Socket,
    /// A pipe, a terminal, a file.
    Other,
}

/// What a descriptor is.
pub fn kind(fd: BorrowedFd<'_>) -> Kind {
    match rustix::fs::fstat(fd) {
        Ok(stat) if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_socket() => Kind::Socket,
        _ => Kind::Other,
    }
}

/// Two connected ends of a stream that goes both ways.
///
/// The kernel keeps as many bytes for a reader who is late as it gives without special rights.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (one, other) = socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let (one, other) = (
        super::socket::above_standard(one)?,
        super::socket::above_standard(other)?,
    );
    // More is silently cut to the system's limit, and less than hoped for costs only time.
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(&one, 1 << 20);
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(&other, 1 << 20);
    Ok((one, other))
}

/// Makes a pair one-way: `writer` can no longer be read from, `reader` no longer be written to.
pub fn make_simplex(reader: BorrowedFd<'_>, writer: BorrowedFd<'_>) -> io::Result<()> {
    rustix::net::shutdown(reader, rustix::net::Shutdown::Write)?;
    Ok(rustix::net::shutdown(writer, rustix::net::Shutdown::Read)?)
}

/// A run of bytes in memory that somebody keeps in place, by address and length.
pub type Span = (*const u8, usize);

/// Writes some of the bytes of up to eight spans; returns how many.
///
/// With `wait` it sleeps until at least one byte finds room, and mostly until all do; without, it fails with
/// [`io::ErrorKind::WouldBlock`] where it would have to (of a descriptor that is no socket it expects that always). A
/// signal ends it with [`io::ErrorKind::Interrupted`] or a smaller number. A peer that is gone is an error, no SIGPIPE
/// (for what is no socket: if the process ignores that signal, as Rust's and Python's programs do).
///
/// # Safety
/// The spans can be read during the call.
pub unsafe fn write(fd: BorrowedFd<'_>, kind: Kind, spans: &[Span], wait: bool) -> io::Result<usize> {
    const NO_VECTOR: libc::iovec = libc::iovec {
        iov_base: std::ptr::null_mut(),
        iov_len: 0,
    };
    let mut vectors = [NO_VECTOR; 8];
    let count = spans.len().min(vectors.len());
    for (vector, span) in vectors.iter_mut().zip(spans) {
        vector.iov_base = span.0.cast_mut().cast();
        vector.iov_len = span.1;
    }
    let written = match kind {
        Kind::Socket => {
            // SAFETY: an all-zero header is a valid one: no address, no control data.
            let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
            message.msg_iov = vectors.as_mut_ptr();
            message.msg_iovlen = count as _;
            let flags = libc::MSG_NOSIGNAL | if wait { 0 } else { libc::MSG_DONTWAIT };
            // SAFETY: the header, the vectors and (by the caller's word) the spans are alive for the call.
            unsafe { libc::sendmsg(fd.as_raw_fd(), &message, flags) }
        }
        Kind::Other if wait => {
            // SAFETY: the vectors and (by the caller's word) the spans are alive for the call.
            unsafe { libc::writev(fd.as_raw_fd(), vectors.as_ptr(), count as libc::c_int) }
        }
        Kind::Other => return Err(io::ErrorKind::WouldBlock.into()),
    };
    usize::try_from(written).map_err(|_| io::Error::last_os_error())
}

/// Reads some bytes, `len` at most; none means that the other end is gone.
///
/// With `wait` it sleeps until there are some (of a socket: until all are there, or a signal or the end has come); without,
/// it fails with [`io::ErrorKind::WouldBlock`] where it would have to.
///
/// # Safety
/// `len` bytes can be written at `to` during the call, and nobody else uses them.
pub unsafe fn read(fd: BorrowedFd<'_>, kind: Kind, to: *mut u8, len: usize, wait: bool) -> io::Result<usize> {
    let read = match kind {
        Kind::Socket => {
            let flags = if wait {
                libc::MSG_WAITALL
            } else {
                libc::MSG_DONTWAIT
            };
            // SAFETY: the caller vouches for the destination.
            unsafe { libc::recv(fd.as_raw_fd(), to.cast(), len, flags) }
        }
        Kind::Other => {
            if !wait && !is_readable(fd)? {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            // SAFETY: the caller vouches for the destination.
            unsafe { libc::read(fd.as_raw_fd(), to.cast(), len) }
        }
    };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

/// Whether a read would return at once.
pub fn is_readable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut polled = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: the pointer is to one local entry.
    match unsafe { libc::poll(&mut polled, 1, 0) } {
        n if n < 0 => Err(io::Error::last_os_error()),
        n => Ok(n > 0),
    }
}

/// Writes bytes to a descriptor that does not want to wait and does not mind losing some; for tests of streams.
#[cfg(test)]
pub(crate) fn write_raw(fd: BorrowedFd<'_>, bytes: &[u8]) {
    rustix::io::write(fd, bytes).expect("the stream takes these few bytes");
}
