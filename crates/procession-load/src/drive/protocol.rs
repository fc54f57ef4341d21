use crate::net::{Failure, Ready};
use crate::record::Recorder;
use crate::result::ErrorKind;
use std::os::fd::BorrowedFd;

/// One kind of request that a protocol can make.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub name: String,
    pub weight: f64,
    /// Which of the protocol's endpoints it goes to.
    pub endpoint: u32,
    /// How many bytes are sent for it.
    pub bytes: u64,
}

/// A request that has ended.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    /// Which of the link's requests.
    pub stream: u32,
    pub written_ns: u64,
    pub first_byte_ns: u64,
    /// When its response was complete, which may be a while before it was read: see [`Protocol::note_arrivals`].
    pub ended_ns: u64,
    /// Whether that is the kernel's word, so that it does not matter whether this process had to wait for a core.
    pub is_noted: bool,
    pub bytes_received: u64,
    pub status: u16,
    pub failure: Option<Failure>,
}

impl Ended {
    /// One of which nothing else is known than when that was.
    pub(crate) fn at(ended_ns: u64) -> Ended {
        Ended {
            ended_ns,
            ..Ended::default()
        }
    }
}

/// What a link needs to know, and where it tells what has ended, while it is served.
pub(crate) struct Turn<'a> {
    /// The present, as exact as needed: who has asked the clock again leaves the answer here.
    pub now_ns: u64,
    pub ended: Vec<Ended>,
    /// There is more to read, for which the link should be served once more after others.
    pub has_unread: bool,
    pub recorder: &'a mut Recorder,
}

/// How requests are made over connections.
pub(crate) trait Protocol {
    /// One connection.
    type Link;

    /// How many requests one link carries at the same time.
    fn streams(&self) -> u32 {
        1
    }

    /// How many servers there are.
    fn endpoints(&self) -> u32 {
        1
    }

    fn requests(&self) -> &[Request];

    /// Begins to connect. A link keeps its number when it is made anew, and its user with it.
    fn open(
        &mut self,
        number: u32,
        endpoint: u32,
        now_ns: u64,
        recorder: &mut Recorder,
    ) -> Result<Self::Link, Failure>;

    fn fd<'a>(&self, link: &'a Self::Link) -> BorrowedFd<'a>;

    /// Sends a request, now or as soon as the link is connected.
    fn begin(
        &mut self,
        link: &mut Self::Link,
        stream: u32,
        request: u32,
        now_ns: u64,
        recorder: &mut Recorder,
    ) -> Result<(), Failure>;

    /// What ends as soon as it has begun, because nothing comes back.
    fn begun(&mut self, _link: &mut Self::Link, _stream: u32, _now_ns: u64) -> Option<Ended> {
        None
    }

    /// Whether what `begin` and `ready` have to send waits for [`flush`](Protocol::flush), so that several go together.
    const FLUSHES: bool = false;

    /// Sends what waits.
    fn flush(&mut self, _link: &mut Self::Link) -> Result<(), Failure> {
        Ok(())
    }

    /// Has a link note when its responses arrive, whenever it is that they are read.
    fn note_arrivals(&self, _link: &mut Self::Link) {}

    /// Whether there is nothing to do for this link but to read its response, which may wait a little, as it is known when
    /// it arrived.
    fn can_wait(&self, _link: &Self::Link) -> bool {
        false
    }

    /// What it is counted as when there is no response in time.
    fn timeout_kind(&self) -> ErrorKind {
        ErrorKind::Timeout
    }

    /// Does what can be done on a link that is ready for something: whether it can be used further. If not, requests on it that
    /// have not ended have not been sent, and begin again on another one. An error is that of all requests on the link that
    /// have not ended.
    fn ready(&mut self, link: &mut Self::Link, ready: Ready, turn: &mut Turn<'_>) -> Result<bool, Failure>;

    /// Gives a request up: whether the link can be used further.
    fn abandon(&mut self, _link: &mut Self::Link, _stream: u32) -> bool {
        false
    }

    fn is_connected(&self, link: &Self::Link) -> bool;

    /// A link could not be connected: whether another one should be tried in its stead.
    fn try_next(&mut self, _link: &Self::Link) -> bool {
        false
    }

    /// No connection came about in time: notes what the kernel says about that.
    fn look_at_failed_connect(&mut self, _link: &mut Self::Link, _recorder: &mut Recorder) {}

    /// Notes what the kernel says about the connection.
    fn look(&mut self, _link: &mut Self::Link, _recorder: &mut Recorder) {}
}
