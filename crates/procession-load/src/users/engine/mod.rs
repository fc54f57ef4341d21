//! The event loop of virtual users: requests, raw sockets and sleeps under way, and who waits for each of them.
//!
//! It calls nobody, and blocks in [`Engine::wait`] only. Whoever drives it waits, or has another event loop wait until
//! [`Engine::epoll`] is readable, and takes what is done with [`Engine::take_done`].

mod events;
mod http;
mod http2;
mod links;
mod raw;

use super::desk::Desk;
use super::reply::{Reply, ReplyReader};
use super::timers::{Due, Timers};
use crate::http::h2::{Connection, Over};
use crate::http::request::Outgoing;
use crate::net::{self, Address, Endpoint, Failure, Ready, Received, Stream, TlsClient, MOST_AT_ONCE_BYTES};
use crate::plan::HttpVersion;
use crate::result::ErrorKind;
use http2::Asked;
use procession::os::time::monotonic_ns;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

const TIMER_KEY: u64 = u64::MAX;
const READ_BYTES: usize = 64 << 10;
/// More than this is not kept for a user who does not read it.
const MOST_UNREAD_BYTES: usize = 16 << 20;

/// Who waits for something: valid until it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Ticket {
    index: u32,
    serial: u32,
}

impl Ticket {
    /// A small number that no other valid ticket of the same engine has.
    pub fn index(self) -> usize {
        self.index as usize
    }
}

/// A raw socket of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Socket {
    index: u32,
    serial: u32,
}

/// When what happened, on the monotonic clock, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    /// When it was handed over, connecting included.
    pub sent_ns: u64,
    /// When there was a connection for it, and room on it; 0 if there was before.
    pub written_ns: u64,
    /// When the first byte of the response came; 0 if none did.
    pub first_byte_ns: u64,
    /// When it was over.
    pub ended_ns: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Bytes received.
    pub bytes_received: u64,
}

/// What became of something.
#[derive(Debug)]
pub enum Done {
    /// The time has passed.
    Slept,
    /// A response has come.
    Replied(Box<Reply>),
    /// A raw socket is connected, or what was given to it is on its way.
    Ready,
    /// Bytes from a raw socket; none: the other side has closed it.
    Received(Vec<u8>),
    /// It failed.
    Failed(Failure),
}

/// What a raw socket should receive.
#[derive(Debug, Clone)]
pub enum Receive {
    /// What there is, at most so many bytes.
    Some(usize),
    /// Exactly so many bytes.
    Exactly(usize),
    /// All up to and with these bytes.
    Until(Vec<u8>),
    /// One datagram.
    Datagram,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Free,
    Slept,
    Link(u32),
    Done,
}

#[derive(Debug)]
struct Waiter {
    serial: u32,
    waiting: Waiting,
}

/// A request, ready to be sent.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) out: Outgoing,
    /// Where its body begins.
    pub(super) head_bytes: usize,
    /// Whether its response has no body, whatever it says.
    pub(super) to_head: bool,
    /// How many bytes it is as it goes over the wire.
    pub(super) bytes: u64,
}

#[derive(Debug)]
enum Speaks {
    /// Which origin of which user it is connected to, and whether the response under way is to a `HEAD`.
    Http {
        user: u32,
        origin: u32,
        reader: ReplyReader,
    },
    /// The same for several requests at a time, of which each has somebody who waits for it.
    Http2 {
        user: u32,
        origin: u32,
        connection: Box<Connection<Asked>>,
    },
    Raw {
        inbox: Vec<u8>,
        wanted: Option<Receive>,
        datagrams: VecDeque<Vec<u8>>,
        is_udp: bool,
        closed: bool,
        fault: Option<Failure>,
    },
}

impl Speaks {
    /// Of HTTP, the user and the origin.
    fn between(&self) -> Option<(u32, u32)> {
        match self {
            Speaks::Http { user, origin, .. } | Speaks::Http2 { user, origin, .. } => Some((*user, *origin)),
            Speaks::Raw { .. } => None,
        }
    }
}

#[derive(Debug)]
enum Transport {
    Tcp(Stream),
    /// The socket, and when the last datagram arrived, if the kernel has noted that.
    Udp(OwnedFd, Option<u64>),
}

impl Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Transport::Tcp(stream) => stream.as_fd(),
            Transport::Udp(fd, _) => fd.as_fd(),
        }
    }

    fn is_open(&self) -> bool {
        match self {
            Transport::Tcp(stream) => stream.is_open(),
            Transport::Udp(..) => true,
        }
    }

    /// Whether somebody is there, be it that TLS is not agreed upon yet.
    fn is_connected(&self) -> bool {
        match self {
            Transport::Tcp(stream) => stream.is_connected(),
            Transport::Udp(..) => true,
        }
    }

    /// Sends what TLS has sealed and found no room for.
    fn flush(&mut self) -> Result<(), Failure> {
        match self {
            Transport::Tcp(stream) => stream.flush(),
            Transport::Udp(..) => Ok(()),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<usize, Failure> {
        match self {
            Transport::Tcp(stream) => stream.send(bytes),
            Transport::Udp(fd, _) => net::send(fd, bytes),
        }
    }

    /// When the last of what was received arrived, which was asked for at `asked_ns`.
    fn arrived_ns(&self, asked_ns: u64) -> u64 {
        let now = monotonic_ns();
        match self {
            Transport::Tcp(stream) => stream.arrived_ns(asked_ns, now),
            Transport::Udp(_, noted) => noted.map_or(now, |at_ns| at_ns.max(asked_ns).min(now)),
        }
    }

    /// How many bytes, and whether there may be more; 0 bytes at the end.
    fn receive(&mut self, into: &mut [u8], sealed: &mut [u8]) -> Result<Option<(usize, bool)>, Failure> {
        match self {
            Transport::Tcp(stream) => stream.receive(into, sealed).map(|received| match received {
                Received::Nothing => None,
                Received::End => Some((0, false)),
                Received::Bytes(count, more) => Some((count, more)),
            }),
            Transport::Udp(fd, noted) => Ok(net::receive_noted(fd, into)?.map(|(count, at_ns)| {
                *noted = at_ns;
                (count, true)
            })),
        }
    }
}

/// Who is connected to.
#[derive(Debug)]
struct Server {
    endpoint: Endpoint,
    tls: Option<TlsClient>,
}

impl Server {
    fn open(&self, now_ns: u64) -> Result<Stream, Failure> {
        let mut stream = Stream::open(&self.endpoint, self.tls.as_ref(), false, None, now_ns)?;
        // Whatever a user does when its response comes, the response time ends before.
        stream.note_arrivals();
        Ok(stream)
    }
}

#[derive(Debug)]
struct Link {
    transport: Transport,
    endpoint: u32,
    /// Which address of the server it connects to.
    tried: usize,
    serial: u32,
    /// The other side has closed it, and what is still there to read is all that will come.
    hung_up: bool,
    waiter: Option<u32>,
    limit_ns: u64,
    /// When a timer rings that looks at the limit.
    armed_ns: u64,
    out: Outgoing,
    out_at: usize,
    timing: Timing,
    speaks: Speaks,
}

/// Events that were found and not handled yet.
pub struct Found(Vec<Event>);

// SAFETY: it is plain data; the pointer that an event might hold is a number here, which nobody follows.
unsafe impl Send for Found {}

impl std::fmt::Debug for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Found({} events)", self.0.len())
    }
}

impl Default for Found {
    fn default() -> Found {
        Found(Vec::with_capacity(256))
    }
}

/// See the module.
#[derive(Debug)]
pub struct Engine {
    version: HttpVersion,
    epoll: Arc<OwnedFd>,
    timers: Timers,
    links: Vec<Option<Link>>,
    free_links: Vec<u32>,
    serial: u32,
    waiters: Vec<Waiter>,
    free_waiters: Vec<u32>,
    done: VecDeque<(Ticket, Done, Timing)>,
    /// Idle connections by user and origin.
    idle: HashMap<(u32, u32), Vec<u32>>,
    /// Connections of HTTP/2 that take more requests, by user and origin.
    shared: HashMap<(u32, u32), u32>,
    /// Requests of theirs that have just ended.
    over: Vec<Over<Asked>>,
    /// Connections with more to read, by index and serial, for which others come first.
    unread: Vec<(u32, u32)>,
    buffer: Box<[u8]>,
    /// What TLS is to open, once there is a server that speaks it.
    sealed: Box<[u8]>,
    endpoints: Vec<Server>,
    desk: Arc<Desk>,
    looked_ns: u64,
    found: Found,
}

impl Engine {
    /// An engine with nothing to do, whose requests go over this version of HTTP.
    ///
    /// # Errors
    ///
    /// No descriptor is left.
    pub fn new(desk: Arc<Desk>, version: HttpVersion) -> io::Result<Engine> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let timers = Timers::new()?;
        epoll::add(
            &epoll,
            timers.fd(),
            EventData::new_u64(TIMER_KEY),
            EventFlags::IN | EventFlags::ET,
        )?;
        Ok(Engine {
            version,
            epoll: Arc::new(epoll),
            timers,
            links: Vec::new(),
            free_links: Vec::new(),
            serial: 0,
            waiters: Vec::new(),
            free_waiters: Vec::new(),
            done: VecDeque::new(),
            idle: HashMap::new(),
            shared: HashMap::new(),
            over: Vec::new(),
            unread: Vec::new(),
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
            sealed: Box::default(),
            endpoints: Vec::new(),
            desk,
            looked_ns: 0,
            found: Found::default(),
        })
    }

    /// Becomes readable when there is something for [`Engine::turn`] to do.
    pub fn epoll(&self) -> Arc<OwnedFd> {
        self.epoll.clone()
    }

    // --- waiters ---------------------------------------------------------------------------------------------------

    fn new_ticket(&mut self, waiting: Waiting) -> Ticket {
        let index = self.free_waiters.pop().unwrap_or_else(|| {
            self.waiters.push(Waiter {
                serial: 0,
                waiting: Waiting::Free,
            });
            (self.waiters.len() - 1) as u32
        });
        let waiter = &mut self.waiters[index as usize];
        waiter.serial = waiter.serial.wrapping_add(1);
        waiter.waiting = waiting;
        Ticket {
            index,
            serial: waiter.serial,
        }
    }

    fn finish(&mut self, index: u32, done: Done, timing: Timing) {
        let waiter = &mut self.waiters[index as usize];
        waiter.waiting = Waiting::Done;
        let ticket = Ticket {
            index,
            serial: waiter.serial,
        };
        self.done.push_back((ticket, done, timing));
    }

    /// The next that is done. Its ticket is no longer valid.
    pub fn take_done(&mut self) -> Option<(Ticket, Done, Timing)> {
        loop {
            let (ticket, done, timing) = self.done.pop_front()?;
            let waiter = &mut self.waiters[ticket.index as usize];
            // What was given up may have been done already.
            if waiter.serial == ticket.serial && waiter.waiting == Waiting::Done {
                waiter.waiting = Waiting::Free;
                self.free_waiters.push(ticket.index);
                return Some((ticket, done, timing));
            }
        }
    }

    /// Whether anything is done.
    pub fn has_done(&self) -> bool {
        !self.done.is_empty()
    }

    /// Whether there is more to read, so that nobody should wait.
    pub fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    /// Gives up what was begun. A request's connection is closed, of HTTP/2 its stream alone; when it was sent is returned.
    pub fn cancel(&mut self, ticket: Ticket) -> Option<Timing> {
        let waiter = self.waiters.get_mut(ticket.index as usize)?;
        if waiter.serial != ticket.serial || waiter.waiting == Waiting::Free {
            return None;
        }
        let was = std::mem::replace(&mut waiter.waiting, Waiting::Free);
        // So that neither a timer nor what is done already finds it.
        waiter.serial = waiter.serial.wrapping_add(1);
        self.free_waiters.push(ticket.index);
        if let Waiting::Link(link) = was {
            if self.is_http2(link) {
                return self.cancel_http2(link, ticket.index);
            }
            let mut timing = self.links[link as usize].as_ref().map(|link| link.timing)?;
            timing.ended_ns = monotonic_ns();
            self.close(link);
            return Some(timing);
        }
        None
    }

    // --- sleeping --------------------------------------------------------------------------------------------------

    /// Is never done, unless it is given up.
    pub fn wait_for_nothing(&mut self) -> Ticket {
        self.new_ticket(Waiting::Slept)
    }

    /// The valid ticket with this index, if there is one.
    pub fn ticket(&self, index: usize) -> Option<Ticket> {
        let waiter = self
            .waiters
            .get(index)
            .filter(|waiter| waiter.waiting != Waiting::Free)?;
        Some(Ticket {
            index: index as u32,
            serial: waiter.serial,
        })
    }

    /// Is done at this moment of the monotonic clock.
    pub fn sleep_until(&mut self, at_ns: u64) -> Ticket {
        let ticket = self.new_ticket(Waiting::Slept);
        self.timers.add(
            at_ns,
            Due::Slept {
                waiter: ticket.index,
                serial: ticket.serial,
            },
        );
        ticket
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    if what.is_empty() {
        return Some(0);
    }
    text.windows(what.len()).position(|window| window == what)
}
