//! The frame around a message, and how far its sending or receiving has got.
//!
//! Both are resumable: a signal may interrupt them anywhere, and the caller, after it has heard the signal, goes on.

use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;

use super::Spin;
use crate::os::stream::{self, Kind, Span};

/// The longest message in bytes whose length fits into the short header.
const SHORT_MAX_BYTES: usize = i32::MAX as usize;
const SHORT: usize = 4;
const LONG: usize = 12;

/// How far it got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// All bytes are through.
    Done,
    /// The rest would have to wait, which was not wanted.
    Waits,
}

/// A message on its way out: header and body, in as few system calls as the stream allows.
#[derive(Debug)]
pub struct Outgoing<'a> {
    header: [u8; LONG],
    header_len: usize,
    header_sent: usize,
    spans: &'a mut [Span],
}

impl<'a> Outgoing<'a> {
    /// A message whose bytes are those of the spans, one after the other. The spans are used up as they are sent.
    pub fn new(spans: &'a mut [Span]) -> Self {
        let len: usize = spans.iter().map(|s| s.1).sum();
        let mut header = [0; LONG];
        let header_len = if len <= SHORT_MAX_BYTES {
            header[..SHORT].copy_from_slice(&(len as i32).to_be_bytes());
            SHORT
        } else {
            header[..SHORT].copy_from_slice(&(-1i32).to_be_bytes());
            header[SHORT..].copy_from_slice(&(len as u64).to_be_bytes());
            LONG
        };
        Outgoing {
            header,
            header_len,
            header_sent: 0,
            spans,
        }
    }

    /// Sends what is left, as far as it goes.
    ///
    /// # Errors
    /// [`ErrorKind::Interrupted`] when a signal arrived: call again to go on. [`ErrorKind::BrokenPipe`] and others when
    /// the stream is no longer usable.
    ///
    /// # Safety
    /// The spans can be read.
    pub unsafe fn proceed(&mut self, fd: BorrowedFd<'_>, kind: Kind, wait: bool) -> io::Result<Progress> {
        loop {
            let mut parts: [Span; 8] = [(std::ptr::null(), 0); 8];
            let mut count = 0;
            if self.header_sent < self.header_len {
                let rest = &self.header[self.header_sent..self.header_len];
                parts[0] = (rest.as_ptr(), rest.len());
                count = 1;
            }
            for &span in self.spans.iter().filter(|s| s.1 > 0).take(parts.len() - 1) {
                parts[count] = span;
                count += 1;
            }
            if count == 0 {
                return Ok(Progress::Done);
            }
            // SAFETY: the header is our own, and the caller vouches for the spans.
            match unsafe { stream::write(fd, kind, &parts[..count], wait) } {
                Ok(written) => {
                    self.advance(written);
                    // Who was willing to wait and yet stopped short was interrupted by a signal.
                    if wait && self.is_under_way() {
                        return Err(ErrorKind::Interrupted.into());
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock && !wait => return Ok(Progress::Waits),
                Err(e) => return Err(e),
            }
        }
    }

    fn is_under_way(&self) -> bool {
        self.header_sent < self.header_len || self.spans.iter().any(|s| s.1 > 0)
    }

    fn advance(&mut self, mut written: usize) {
        let of_header = written.min(self.header_len - self.header_sent);
        self.header_sent += of_header;
        written -= of_header;
        for span in self.spans.iter_mut() {
            let n = written.min(span.1);
            // Wrapping, for the pointer is only used while there are bytes left behind it.
            *span = (span.0.wrapping_add(n), span.1 - n);
            written -= n;
        }
    }
}

/// A header on its way in.
#[derive(Debug, Default)]
pub struct Header {
    bytes: [u8; LONG],
    got: usize,
}

impl Header {
    fn wanted(&self) -> usize {
        if self.got >= SHORT && self.bytes[..SHORT] == (-1i32).to_be_bytes() {
            LONG
        } else {
            SHORT
        }
    }

    /// Receives what is left of the header, as far as it goes; the message's length in bytes, if that is all.
    ///
    /// # Errors
    /// [`ErrorKind::Interrupted`] when a signal arrived: call again to go on. [`ErrorKind::UnexpectedEof`] when the other
    /// end is gone, [`ErrorKind::InvalidData`] when it ended amid a header or sent nonsense.
    pub fn proceed(&mut self, fd: BorrowedFd<'_>, kind: Kind, wait: bool) -> io::Result<Option<usize>> {
        while self.got < self.wanted() {
            let missing = self.wanted() - self.got;
            // SAFETY: the missing bytes lie inside of our own array.
            match unsafe { stream::read(fd, kind, self.bytes.as_mut_ptr().add(self.got), missing, wait) } {
                Ok(0) => return Err(end(self.got)),
                Ok(n) => self.got += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock && !wait => return Ok(None),
                Err(e) => return Err(e),
            }
        }
        let short = i32::from_be_bytes(self.bytes[..SHORT].try_into().expect("four bytes"));
        let len = if short == -1 {
            u64::from_be_bytes(self.bytes[SHORT..].try_into().expect("eight bytes"))
        } else {
            u64::try_from(short).map_err(|_| bad_length())?
        };
        usize::try_from(len)
            .ok()
            .filter(|&len| len <= isize::MAX as usize)
            .map(Some)
            .ok_or_else(bad_length)
    }

    /// Receives the rest of the header, and waits for it: awake for a moment if that has been worth it lately.
    ///
    /// # Errors
    /// As of [`proceed`](Header::proceed).
    pub fn wait(&mut self, fd: BorrowedFd<'_>, kind: Kind, spin: &Spin) -> io::Result<usize> {
        let mut found = Ok(None);
        spin.until(|| {
            found = self.proceed(fd, kind, false);
            !matches!(found, Ok(None))
        });
        loop {
            match found? {
                Some(len) => return Ok(len),
                None => found = self.proceed(fd, kind, true),
            }
        }
    }
}

/// A body on its way in.
#[derive(Debug)]
pub struct Body {
    len: usize,
    got: usize,
}

impl Body {
    /// A body of `len` bytes.
    pub fn new(len: usize) -> Self {
        Body { len, got: 0 }
    }

    /// Receives what is left into `message`, as far as it goes.
    ///
    /// # Errors
    /// As of [`Header::proceed`].
    ///
    /// # Safety
    /// The body's length in bytes can be written at `message`, the same at each call, and nobody else uses it.
    pub unsafe fn proceed(
        &mut self,
        fd: BorrowedFd<'_>,
        kind: Kind,
        message: *mut u8,
        wait: bool,
    ) -> io::Result<Progress> {
        while self.got < self.len {
            // SAFETY: the caller vouches for the whole message, of which `got` bytes are behind us.
            match unsafe { stream::read(fd, kind, message.add(self.got), self.len - self.got, wait) } {
                Ok(0) => return Err(end(self.got)),
                Ok(n) => {
                    self.got += n;
                    // As with sending: it may be a signal that has cut it short.
                    if wait && self.got < self.len {
                        return Err(ErrorKind::Interrupted.into());
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock && !wait => return Ok(Progress::Waits),
                Err(e) => return Err(e),
            }
        }
        Ok(Progress::Done)
    }
}

fn end(got: usize) -> io::Error {
    if got == 0 {
        return io::Error::new(
            ErrorKind::UnexpectedEof,
            "the other end of the connection is gone",
        );
    }
    io::Error::new(ErrorKind::InvalidData, "got end of file during message")
}

fn bad_length() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "bad message length")
}
