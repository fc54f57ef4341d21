//! Messages over a byte stream, one after the other, as `multiprocessing`'s connections frame them.
#![doc = include_str!("README.md")]

use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

mod frame;
mod spin;

pub use frame::{Body, Header, Outgoing, Progress};
pub use spin::Spin;

use crate::os::event;
use crate::os::stream::{self, Kind};

/// One end of a connection that carries whole messages of bytes.
///
/// It is a descriptor and nothing else: what has arrived stays in the kernel until it is received, so `poll`, `select` and
/// every event loop see the truth, and the other end may be of another make that frames messages the same way.
///
/// ```
/// use procession::connection::Connection;
///
/// let (one, other) = Connection::pair()?;
/// one.send(b"a message")?;
/// assert_eq!(other.receive()?, b"a message");
/// drop(one);
/// assert_eq!(other.receive().unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Connection {
    fd: OwnedFd,
    kind: Kind,
    spin: Spin,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.fd).finish()
    }
}

impl Connection {
    /// Two connected ends. A forked child may use either; programs that are executed inherit none.
    ///
    /// # Errors
    /// When the process may open no further descriptors.
    pub fn pair() -> io::Result<(Connection, Connection)> {
        let (one, other) = stream::pair()?;
        Ok((Connection::from(one), Connection::from(other)))
    }

    /// Sends one message; returns when it is on its way, which may be after the other end has received a part of it.
    ///
    /// # Errors
    /// [`ErrorKind::BrokenPipe`] when the other end is gone, and whatever the system says of the descriptor.
    pub fn send(&self, message: &[u8]) -> io::Result<()> {
        let mut spans = [(message.as_ptr(), message.len())];
        let mut outgoing = Outgoing::new(&mut spans);
        // SAFETY: the message stays in place until the end of this function.
        again(|| unsafe { outgoing.proceed(self.fd.as_fd(), self.kind, true) })?;
        Ok(())
    }

    /// Receives one message; waits for it.
    ///
    /// # Errors
    /// [`ErrorKind::UnexpectedEof`] when the other end is gone, [`ErrorKind::InvalidData`] when it ended amid a message.
    pub fn receive(&self) -> io::Result<Vec<u8>> {
        let (fd, kind) = (self.fd.as_fd(), self.kind);
        let mut header = Header::default();
        let len = match header.proceed(fd, kind, false)? {
            Some(len) => len,
            None => again(|| header.wait(fd, kind, &self.spin))?,
        };
        let mut message = Vec::new();
        message
            .try_reserve_exact(len)
            .map_err(|_| io::Error::from(ErrorKind::OutOfMemory))?;
        let mut body = Body::new(len);
        // SAFETY: the reserved bytes are nobody else's.
        again(|| unsafe { body.proceed(fd, kind, message.as_mut_ptr(), true) })?;
        // SAFETY: the body has been received completely, so that many bytes are filled.
        unsafe { message.set_len(len) };
        Ok(message)
    }

    /// Whether a message, or the end, is there to be received; waits for that `timeout` at most, or for ever without one.
    ///
    /// # Errors
    /// Whatever the system says of the descriptor.
    pub fn poll(&self, timeout: Option<Duration>) -> io::Result<bool> {
        let began = Instant::now();
        let ready = again(|| {
            let left = timeout.map(|t| t.saturating_sub(began.elapsed()));
            event::wait_readable(&[self.fd.as_fd()], left)
        })?;
        Ok(ready != 0)
    }
}

/// Repeats what a signal has interrupted.
fn again<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match attempt() {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

impl From<OwnedFd> for Connection {
    /// Takes over a stream's descriptor.
    fn from(fd: OwnedFd) -> Self {
        let kind = stream::kind(fd.as_fd());
        Connection {
            fd,
            kind,
            spin: Spin::new(),
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_every_size_arrive_whole_and_in_order() {
        let (one, other) = Connection::pair().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for len in (0..40).map(|i| i * i * i * 61) {
                    one.send(&vec![len as u8; len]).unwrap();
                }
            });
            for len in (0..40).map(|i| i * i * i * 61) {
                assert_eq!(other.receive().unwrap(), vec![len as u8; len]);
            }
            assert_eq!(other.receive().unwrap_err().kind(), ErrorKind::UnexpectedEof);
        });
    }

    #[test]
    fn a_message_cut_short_and_a_length_that_is_none_are_errors() {
        let (one, other) = Connection::pair().unwrap();
        stream::write_raw(one.as_fd(), &[0, 0, 0, 9, b'x']);
        drop(one);
        assert_eq!(other.receive().unwrap_err().kind(), ErrorKind::InvalidData);
        let (one, other) = Connection::pair().unwrap();
        stream::write_raw(one.as_fd(), &(-2i32).to_be_bytes());
        assert_eq!(other.receive().unwrap_err().kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn a_gone_peer_is_an_error_to_the_sender() {
        let (one, other) = Connection::pair().unwrap();
        drop(other);
        assert_eq!(one.send(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
        assert!(one.poll(None).unwrap());
    }

    #[test]
    fn polling_waits_no_longer_than_it_is_told() {
        let (one, other) = Connection::pair().unwrap();
        assert!(!other.poll(Some(Duration::from_millis(5))).unwrap());
        one.send(b"").unwrap();
        assert!(other.poll(Some(Duration::ZERO)).unwrap());
        assert_eq!(other.receive().unwrap(), b"");
    }

    #[test]
    fn pipes_carry_messages_too() {
        let (reader, writer) = crate::os::process::pipe().unwrap();
        let (reader, writer) = (Connection::from(reader), Connection::from(writer));
        writer.send(b"by pipe").unwrap();
        assert_eq!(reader.receive().unwrap(), b"by pipe");
        drop(writer);
        assert_eq!(reader.receive().unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
}
