use super::{
    connect, connect_result, note_arrivals, receive, receive_noted, send, tcp_info, Endpoint, Failure, Ready,
    TlsClient, TlsSession,
};
use crate::record::Recorder;
use crate::result::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The kernel waits a second before it sends a connection's first packet again.
const SYN_RETRY_NS: u64 = 900_000_000;

/// How far a stream has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connecting,
    Handshaking,
    Open,
}

#[derive(Debug)]
struct Secured {
    session: TlsSession,
    /// What did not fit out.
    unsent: Vec<u8>,
    /// What has come in and can be opened when what was opened before is read.
    sealed: Vec<u8>,
}

/// What [`Stream::receive`] has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Nothing: the stream tells when there is more.
    Nothing,
    /// The end.
    End,
    /// So many bytes; whether there may be more to receive right now.
    Bytes(usize, bool),
}

/// A byte stream to a server, secured or not.
#[derive(Debug)]
pub struct Stream {
    fd: OwnedFd,
    stage: Stage,
    secured: Option<Secured>,
    began_ns: u64,
    connected_ns: u64,
    dns_ns: Option<u64>,
    retransmits: u64,
    arrivals: Arrivals,
}

/// What a stream knows of when that which it receives has arrived at this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrivals {
    /// Nobody asked.
    Unasked,
    /// The kernel was asked, and has not told yet: perhaps it never will.
    Asked,
    /// It arrived at this moment, as the kernel noted.
    Noted(u64),
}

impl Arrivals {
    /// As [`receive`], with a note if it was asked for.
    #[inline]
    fn receive(&mut self, fd: &OwnedFd, into: &mut [u8]) -> Result<Option<usize>, Failure> {
        if *self == Arrivals::Unasked {
            return receive(fd, into);
        }
        let received = receive_noted(fd, into)?;
        if let Some((_, noted)) = received {
            *self = noted.map_or(Arrivals::Asked, Arrivals::Noted);
        }
        Ok(received.map(|(count, _)| count))
    }
}

impl Stream {
    /// Begins to connect, with TLS if there is a client for it. `forget`: see [`connect`].
    ///
    /// # Errors
    ///
    /// If it fails at once.
    pub fn open(
        endpoint: &Endpoint,
        tls: Option<&TlsClient>,
        forget: bool,
        dns_ns: Option<u64>,
        now_ns: u64,
    ) -> Result<Stream, Failure> {
        let session = tls.map(TlsClient::connect).transpose()?;
        let connecting = connect(endpoint.address(), forget)?;
        Ok(Stream {
            fd: connecting.fd,
            stage: Stage::Connecting,
            secured: session.map(|session| Secured {
                session,
                unsent: Vec::new(),
                sealed: Vec::new(),
            }),
            began_ns: now_ns,
            connected_ns: 0,
            dns_ns,
            retransmits: 0,
            arrivals: Arrivals::Unasked,
        })
    }

    /// Has the kernel note from now on when what is received arrives.
    pub fn note_arrivals(&mut self) {
        note_arrivals(&self.fd);
        self.arrivals = Arrivals::Asked;
    }

    /// Whether the kernel has noted when the last of what was received arrived.
    #[inline]
    pub fn has_noted_arrival(&self) -> bool {
        matches!(self.arrivals, Arrivals::Noted(_))
    }

    /// When the last of what was received arrived at this machine. If the kernel has noted that, it does not depend on when
    /// somebody comes to read it; else it is now. What was asked for at `asked_ns` has not arrived before.
    #[inline]
    pub fn arrived_ns(&self, asked_ns: u64, now_ns: u64) -> u64 {
        match self.arrivals {
            Arrivals::Noted(at_ns) => at_ns.max(asked_ns).min(now_ns),
            Arrivals::Unasked | Arrivals::Asked => now_ns,
        }
    }

    /// Whether bytes can be sent and received.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    /// Whether it is connected, be it that TLS is not agreed upon yet.
    pub fn is_connected(&self) -> bool {
        self.stage != Stage::Connecting
    }

    /// The protocol that was agreed upon with TLS.
    pub fn protocol(&self) -> Option<&[u8]> {
        self.secured.as_ref()?.session.protocol()
    }

    /// Goes on with connecting, when the descriptor is ready for something: whether the stream is open now.
    ///
    /// # Errors
    ///
    /// If there will be no connection.
    pub fn advance(
        &mut self,
        endpoint: &mut Endpoint,
        scratch: &mut [u8],
        ready: Ready,
        recorder: &mut Recorder,
    ) -> Result<bool, Failure> {
        if self.stage == Stage::Connecting {
            // What is ready to write and not broken is connected: there is no need to ask.
            if ready.closing() {
                connect_result(&self.fd)?;
            } else if !ready.writable() {
                return Ok(false);
            }
            endpoint.prove();
            self.connected_ns = crate::now_ns();
            let took_ns = self.connected_ns.saturating_sub(self.began_ns);
            if took_ns >= SYN_RETRY_NS {
                self.note_connect_retransmits(recorder);
            }
            self.stage = Stage::Handshaking;
            if self.secured.is_none() {
                self.stage = Stage::Open;
                recorder.connected(self.dns_ns, Some(took_ns), None);
            }
        }
        if self.stage == Stage::Handshaking && self.shake_hands(scratch)? {
            self.stage = Stage::Open;
            let connect_ns = self.connected_ns.saturating_sub(self.began_ns);
            let tls_ns = crate::now_ns().saturating_sub(self.connected_ns);
            recorder.connected(self.dns_ns, Some(connect_ns), Some(tls_ns));
        }
        Ok(self.is_open())
    }

    fn shake_hands(&mut self, scratch: &mut [u8]) -> Result<bool, Failure> {
        let Some(secured) = &mut self.secured else {
            return Ok(true);
        };
        loop {
            secured.flush(&self.fd)?;
            if !secured.session.is_handshaking() {
                return Ok(true);
            }
            match receive(&self.fd, scratch)? {
                None => return Ok(false),
                Some(0) => {
                    return Err(Failure::new(
                        ErrorKind::Tls,
                        "the server closed the connection instead of agreeing on TLS",
                    ))
                }
                Some(n) => {
                    let taken = secured.take(&scratch[..n]);
                    // Also when it failed: the other side is to know why.
                    let _ = secured.flush(&self.fd);
                    taken?;
                }
            }
        }
    }

    /// Sends as much as there is room for; of a secured stream everything, of which some may wait for
    /// [`flush`](Stream::flush).
    ///
    /// # Errors
    ///
    /// If the connection is broken.
    #[inline]
    pub fn send(&mut self, bytes: &[u8]) -> Result<usize, Failure> {
        match &mut self.secured {
            None => send(&self.fd, bytes),
            Some(secured) => {
                secured.session.write(bytes);
                secured.flush(&self.fd)?;
                Ok(bytes.len())
            }
        }
    }

    /// Sends what waits, when there is room again.
    ///
    /// # Errors
    ///
    /// If the connection is broken.
    #[inline]
    pub fn flush(&mut self) -> Result<(), Failure> {
        match &mut self.secured {
            None => Ok(()),
            Some(secured) => secured.flush(&self.fd),
        }
    }

    /// Whether something waits for [`flush`](Stream::flush).
    pub fn has_unsent(&self) -> bool {
        self.secured
            .as_ref()
            .is_some_and(|secured| !secured.unsent.is_empty())
    }

    /// Receives what is there.
    ///
    /// # Errors
    ///
    /// If the connection is broken.
    #[inline]
    pub fn receive(&mut self, into: &mut [u8], scratch: &mut [u8]) -> Result<Received, Failure> {
        match &mut self.secured {
            None => Ok(match self.arrivals.receive(&self.fd, into)? {
                None => Received::Nothing,
                Some(0) => Received::End,
                Some(n) => Received::Bytes(n, n == into.len()),
            }),
            Some(secured) => secured.receive(&self.fd, into, scratch, &mut self.arrivals),
        }
    }

    /// Notes whether the first packet had to be sent again, which makes a connection seem slow although the server is not.
    pub fn note_connect_retransmits(&mut self, recorder: &mut Recorder) {
        if let Some(info) = tcp_info(&self.fd).filter(|info| info.retransmits > 0) {
            self.retransmits = info.retransmits;
            recorder.tcp(0, 1, None);
        }
    }

    /// Notes what the kernel says about the connection.
    pub fn look(&mut self, recorder: &mut Recorder) {
        let Some(info) = tcp_info(&self.fd) else { return };
        let retransmits = info.retransmits.saturating_sub(self.retransmits);
        self.retransmits = info.retransmits;
        recorder.tcp(retransmits, 0, Some(info.round_trip_ns));
    }
}

impl Secured {
    fn flush(&mut self, fd: &OwnedFd) -> Result<(), Failure> {
        self.session.emit(&mut self.unsent);
        let mut at = 0;
        while at < self.unsent.len() {
            match send(fd, &self.unsent[at..])? {
                0 => break,
                n => at += n,
            }
        }
        if at == self.unsent.len() {
            self.unsent.clear();
            // Kept small: there are many connections.
            self.unsent.shrink_to(4096);
        } else {
            self.unsent.drain(..at);
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let taken = self.session.take(bytes)?;
        self.sealed.extend_from_slice(&bytes[taken..]);
        Ok(())
    }

    fn receive(
        &mut self,
        fd: &OwnedFd,
        into: &mut [u8],
        scratch: &mut [u8],
        arrivals: &mut Arrivals,
    ) -> Result<Received, Failure> {
        let mut more = true;
        loop {
            match self.session.read(into) {
                Some(0) => return Ok(Received::End),
                Some(n) => {
                    let more = more || n == into.len() || !self.sealed.is_empty();
                    return Ok(Received::Bytes(n, more));
                }
                None if !self.sealed.is_empty() => {
                    let taken = self.session.take(&self.sealed)?;
                    self.sealed.drain(..taken);
                    continue;
                }
                None if !more => return Ok(Received::Nothing),
                None => {}
            }
            match arrivals.receive(fd, scratch)? {
                None => return Ok(Received::Nothing),
                // Many servers close without the farewell that TLS asks for.
                Some(0) => return Ok(Received::End),
                Some(n) => {
                    more = n == scratch.len();
                    self.take(&scratch[..n])?;
                    // An answer to a change of keys, perhaps.
                    self.flush(fd)?;
                }
            }
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
