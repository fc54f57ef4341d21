use super::{connect, connect_result, receive, send, tcp_info, Endpoint, Failure};
use crate::record::Recorder;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The kernel waits a second before it sends a connection's first packet again.
const SYN_RETRY_NS: u64 = 900_000_000;

/// How far a stream has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connecting,
    Open,
}

/// A byte stream to a server.
#[derive(Debug)]
pub struct Stream {
    fd: OwnedFd,
    stage: Stage,
    began_ns: u64,
    dns_ns: Option<u64>,
    retransmits: u64,
}

impl Stream {
    /// Begins to connect. `forget`: see [`connect`].
    ///
    /// # Errors
    ///
    /// If it fails at once.
    pub fn open(
        endpoint: &Endpoint,
        forget: bool,
        dns_ns: Option<u64>,
        now_ns: u64,
    ) -> Result<Stream, Failure> {
        let connecting = connect(endpoint.address(), forget)?;
        Ok(Stream {
            fd: connecting.fd,
            stage: Stage::Connecting,
            began_ns: now_ns,
            dns_ns,
            retransmits: 0,
        })
    }

    /// Whether bytes can be sent and received.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    /// Goes on with connecting, when the descriptor is ready for something: whether the stream is open now.
    ///
    /// # Errors
    ///
    /// If there will be no connection.
    pub fn advance(
        &mut self,
        endpoint: &mut Endpoint,
        now_ns: u64,
        recorder: &mut Recorder,
    ) -> Result<bool, Failure> {
        if self.stage == Stage::Connecting {
            connect_result(&self.fd)?;
            endpoint.prove();
            self.stage = Stage::Open;
            let took_ns = now_ns.saturating_sub(self.began_ns);
            recorder.connected(self.dns_ns, Some(took_ns), None);
            if took_ns >= SYN_RETRY_NS {
                self.note_connect_retransmits(recorder);
            }
        }
        Ok(true)
    }

    /// Sends as much as there is room for.
    ///
    /// # Errors
    ///
    /// If the connection is broken.
    #[inline]
    pub fn send(&mut self, bytes: &[u8]) -> Result<usize, Failure> {
        send(&self.fd, bytes)
    }

    /// Receives what is there: 0 bytes at the end, `None` if there is nothing yet.
    ///
    /// # Errors
    ///
    /// If the connection is broken.
    #[inline]
    pub fn receive(&mut self, into: &mut [u8]) -> Result<Option<usize>, Failure> {
        receive(&self.fd, into)
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

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
