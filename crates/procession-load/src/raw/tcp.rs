//! Exchanges over TCP: some bytes are sent, and an answer is complete after so many bytes, at a delimiter, or at the end.

use crate::drive::{Ended, Protocol, Request, Turn};
use crate::http::link::split_address;
use crate::net::{Endpoint, Failure, Ready, Received, Stream};
use crate::now_ns;
use crate::plan::{TcpTarget, Until};
use crate::record::Recorder;
use crate::result::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};

const BUFFER_BYTES: usize = 64 * 1024;

/// One exchange that was prepared.
#[derive(Clone)]
pub(crate) struct Tcp {
    endpoint: Endpoint,
    target: TcpTarget,
    requests: Vec<Request>,
    buffer: Box<[u8]>,
}

/// One connection.
pub(crate) struct Link {
    stream: Stream,
    address: usize,
    busy: bool,
    sent_bytes: usize,
    written_ns: u64,
    first_byte_ns: u64,
    received_bytes: u64,
    /// The last bytes of what came in, in which a delimiter may have begun.
    tail: Vec<u8>,
}

impl Tcp {
    pub(crate) fn new(target: &TcpTarget) -> Result<Tcp, Failure> {
        let (host, port) = split_address(&target.address)?;
        let what = if target.send.0.is_empty() {
            "connect"
        } else {
            "exchange"
        };
        Ok(Tcp {
            endpoint: Endpoint::resolve(&host, port)?,
            requests: vec![Request {
                name: format!("{what} {}", target.address),
                weight: 1.0,
                endpoint: 0,
                bytes: target.send.0.len() as u64,
            }],
            target: target.clone(),
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
        })
    }

    fn is_connect_test(&self) -> bool {
        self.target.send.0.is_empty() && self.target.until == Until::Sent
    }

    fn write(&self, link: &mut Link, now: u64) -> Result<(), Failure> {
        let bytes = &self.target.send.0;
        while link.busy && link.sent_bytes < bytes.len() {
            match link.stream.send(&bytes[link.sent_bytes..])? {
                0 => return Ok(()),
                n => link.sent_bytes += n,
            }
        }
        if link.busy && link.written_ns == 0 {
            link.written_ns = now;
        }
        Ok(())
    }

    /// Whether these bytes complete the answer, and how many of them belong to it.
    fn completes(&self, link: &mut Link, new: &[u8]) -> Option<usize> {
        match &self.target.until {
            Until::Sent => Some(new.len()),
            Until::Close => None,
            Until::Bytes(bytes) => {
                let missing = bytes.saturating_sub(link.received_bytes);
                (new.len() as u64 >= missing).then_some(missing as usize)
            }
            Until::Delimiter(delimiter) => {
                let delimiter = &delimiter.0;
                let before = link.tail.len();
                link.tail.extend_from_slice(new);
                let found = link
                    .tail
                    .windows(delimiter.len().max(1))
                    .position(|window| window == delimiter);
                if let Some(at) = found {
                    return Some(at + delimiter.len() - before);
                }
                let keep = link.tail.len().min(delimiter.len().saturating_sub(1));
                link.tail.drain(..link.tail.len() - keep);
                None
            }
        }
    }

    fn complete(&self, link: &mut Link, now: u64, failure: Option<Failure>) -> Ended {
        link.busy = false;
        link.tail = Vec::new();
        Ended {
            stream: 0,
            written_ns: link.written_ns,
            first_byte_ns: link.first_byte_ns,
            ended_ns: now,
            is_noted: link.stream.has_noted_arrival(),
            bytes_received: link.received_bytes,
            status: 0,
            failure,
        }
    }
}

impl Protocol for Tcp {
    type Link = Link;

    fn requests(&self) -> &[Request] {
        &self.requests
    }

    fn open(&mut self, _: u32, _: u32, now_ns: u64, _: &mut Recorder) -> Result<Link, Failure> {
        let forget = !self.target.keep_alive || self.is_connect_test();
        let stream = Stream::open(&self.endpoint, None, forget, None, now_ns)?;
        Ok(Link {
            stream,
            address: self.endpoint.chosen(),
            busy: false,
            sent_bytes: 0,
            written_ns: 0,
            first_byte_ns: 0,
            received_bytes: 0,
            tail: Vec::new(),
        })
    }

    fn fd<'a>(&self, link: &'a Link) -> BorrowedFd<'a> {
        link.stream.as_fd()
    }

    fn begin(
        &mut self,
        link: &mut Link,
        _: u32,
        _: u32,
        now_ns: u64,
        _: &mut Recorder,
    ) -> Result<(), Failure> {
        link.busy = true;
        (
            link.sent_bytes,
            link.written_ns,
            link.first_byte_ns,
            link.received_bytes,
        ) = (0, 0, 0, 0);
        if link.stream.is_open() {
            self.write(link, now_ns)?;
        }
        Ok(())
    }

    fn ready(&mut self, link: &mut Link, ready: Ready, turn: &mut Turn<'_>) -> Result<bool, Failure> {
        if !link.stream.is_open()
            && !link
                .stream
                .advance(&mut self.endpoint, &mut [], ready, turn.recorder)?
        {
            return Ok(true);
        }
        if ready.writable() && link.busy && link.written_ns == 0 {
            turn.now_ns = now_ns();
            self.write(link, turn.now_ns)?;
        }
        if self.target.until == Until::Sent && link.busy && link.written_ns > 0 {
            turn.now_ns = now_ns();
            let ended = self.complete(link, turn.now_ns, None);
            turn.ended.push(ended);
            // What there is to read is read when the descriptor tells of it the next time.
            return Ok(self.target.keep_alive && !self.is_connect_test() && !ready.closing());
        }
        if !ready.readable() {
            return Ok(true);
        }
        loop {
            let (n, more) = match link.stream.receive(&mut self.buffer, &mut [])? {
                Received::Nothing => return Ok(true),
                Received::End => return self.closed(link, turn),
                Received::Bytes(n, more) => (n, more),
            };
            turn.now_ns = now_ns();
            let arrived_ns = link.stream.arrived_ns(link.written_ns, turn.now_ns);
            if !link.busy {
                if self.target.until == Until::Sent {
                    continue;
                }
                turn.recorder.error(
                    ErrorKind::Protocol,
                    "the server sent something that was not asked for",
                );
                return Ok(false);
            }
            if link.first_byte_ns == 0 {
                link.first_byte_ns = arrived_ns;
            }
            let new = std::mem::take(&mut self.buffer);
            let completed = self.completes(link, &new[..n]);
            self.buffer = new;
            link.received_bytes += n as u64;
            if let Some(used) = completed {
                let surplus = n - used.min(n);
                let failure = (surplus > 0).then(|| {
                    Failure::new(
                        ErrorKind::Protocol,
                        format!("{surplus} bytes follow an answer that is complete"),
                    )
                });
                let again = failure.is_none() && self.target.keep_alive && !ready.closing();
                let ended = self.complete(link, arrived_ns, failure);
                turn.ended.push(ended);
                return Ok(again);
            }
            if !more && !ready.closing() {
                return Ok(true);
            }
        }
    }

    fn note_arrivals(&self, link: &mut Link) {
        link.stream.note_arrivals();
    }

    fn is_connected(&self, link: &Link) -> bool {
        link.stream.is_connected()
    }

    fn try_next(&mut self, link: &Link) -> bool {
        self.endpoint.try_next(link.address)
    }

    fn look_at_failed_connect(&mut self, link: &mut Link, recorder: &mut Recorder) {
        link.stream.note_connect_retransmits(recorder);
    }

    fn look(&mut self, link: &mut Link, recorder: &mut Recorder) {
        link.stream.look(recorder);
    }
}

impl Tcp {
    fn closed(&self, link: &mut Link, turn: &mut Turn<'_>) -> Result<bool, Failure> {
        turn.now_ns = now_ns();
        if !link.busy {
            return Ok(false);
        }
        if self.target.until == Until::Close {
            let ended = self.complete(link, turn.now_ns, None);
            turn.ended.push(ended);
            return Ok(false);
        }
        Err(Failure::new(
            ErrorKind::Reset,
            if link.received_bytes == 0 {
                "the server closed the connection instead of answering"
            } else {
                "the server closed the connection in the middle of its answer"
            },
        ))
    }
}
