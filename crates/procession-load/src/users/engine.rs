//! The event loop of virtual users: requests, raw sockets and sleeps under way, and who waits for each of them.
//!
//! It calls nobody, and blocks in [`Engine::wait`] only. Whoever drives it waits, or has another event loop wait until
//! [`Engine::epoll`] is readable, and takes what is done with [`Engine::take_done`].

use super::desk::Desk;
use super::reply::{Reply, ReplyReader};
use super::timers::{Due, Timers};
use crate::net::{self, Address, Endpoint, Failure, Ready, Received, Stream};
use crate::result::ErrorKind;
use procession::os::time::monotonic_ns;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::collections::VecDeque;
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
    /// When there was a connection for it; 0 if there was one before.
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

/// Bytes on their way out.
#[derive(Debug, Clone)]
pub enum Outgoing {
    /// The same for many requests.
    Shared(Arc<[u8]>),
    /// For this one.
    Own(Vec<u8>),
}

impl Outgoing {
    /// How many bytes they are.
    #[allow(clippy::len_without_is_empty, reason = "a request is never empty")]
    pub fn len(&self) -> usize {
        self.bytes().len()
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Outgoing::Shared(bytes) => bytes,
            Outgoing::Own(bytes) => bytes,
        }
    }
}

#[derive(Debug)]
enum Speaks {
    /// Which origin of which user it is connected to, and whether the response under way is to a `HEAD`.
    Http {
        user: u32,
        origin: u32,
        reader: ReplyReader,
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

#[derive(Debug)]
enum Transport {
    Tcp(Stream),
    Udp(OwnedFd),
}

impl Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Transport::Tcp(stream) => stream.as_fd(),
            Transport::Udp(fd) => fd.as_fd(),
        }
    }

    fn is_open(&self) -> bool {
        match self {
            Transport::Tcp(stream) => stream.is_open(),
            Transport::Udp(_) => true,
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<usize, Failure> {
        match self {
            Transport::Tcp(stream) => stream.send(bytes),
            Transport::Udp(fd) => net::send(fd, bytes),
        }
    }

    /// How many bytes, and whether there may be more; 0 bytes at the end.
    fn receive(&mut self, into: &mut [u8]) -> Result<Option<(usize, bool)>, Failure> {
        match self {
            // The second buffer is for what is encrypted, which nothing here is.
            Transport::Tcp(stream) => stream.receive(into, &mut []).map(|received| match received {
                Received::Nothing => None,
                Received::End => Some((0, false)),
                Received::Bytes(count, more) => Some((count, more)),
            }),
            Transport::Udp(fd) => Ok(net::receive(fd, into)?.map(|count| (count, true))),
        }
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
    epoll: Arc<OwnedFd>,
    timers: Timers,
    links: Vec<Option<Link>>,
    free_links: Vec<u32>,
    serial: u32,
    waiters: Vec<Waiter>,
    free_waiters: Vec<u32>,
    done: VecDeque<(Ticket, Done, Timing)>,
    /// Idle connections by user and origin.
    idle: std::collections::HashMap<(u32, u32), Vec<u32>>,
    buffer: Box<[u8]>,
    endpoints: Vec<Endpoint>,
    desk: Arc<Desk>,
    looked_ns: u64,
    found: Found,
}

impl Engine {
    /// An engine with nothing to do.
    ///
    /// # Errors
    ///
    /// No descriptor is left.
    pub fn new(desk: Arc<Desk>) -> io::Result<Engine> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let timers = Timers::new()?;
        epoll::add(
            &epoll,
            timers.fd(),
            EventData::new_u64(TIMER_KEY),
            EventFlags::IN | EventFlags::ET,
        )?;
        Ok(Engine {
            epoll: Arc::new(epoll),
            timers,
            links: Vec::new(),
            free_links: Vec::new(),
            serial: 0,
            waiters: Vec::new(),
            free_waiters: Vec::new(),
            done: VecDeque::new(),
            idle: Default::default(),
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
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

    /// Gives up what was begun. A request's connection is closed; when it was sent is returned.
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

    // --- links -----------------------------------------------------------------------------------------------------

    /// A server, by a number that requests name it by.
    pub fn add_endpoint(&mut self, endpoint: Endpoint) -> u32 {
        self.endpoints.push(endpoint);
        (self.endpoints.len() - 1) as u32
    }

    fn open(&mut self, endpoint: u32, is_udp: bool, speaks: Speaks, now_ns: u64) -> Result<u32, Failure> {
        let server = &self.endpoints[endpoint as usize];
        let transport = match server.address() {
            Address::Ip(address) if is_udp => Transport::Udp(net::udp(address)?),
            _ => Transport::Tcp(Stream::open(server, None, false, None, now_ns)?),
        };
        self.serial = self.serial.wrapping_add(1);
        let link = Link {
            tried: server.chosen(),
            transport,
            endpoint,
            serial: self.serial,
            hung_up: false,
            waiter: None,
            limit_ns: u64::MAX,
            armed_ns: u64::MAX,
            out: Outgoing::Own(Vec::new()),
            out_at: 0,
            timing: Timing::default(),
            speaks,
        };
        let index = self.free_links.pop().unwrap_or_else(|| {
            self.links.push(None);
            (self.links.len() - 1) as u32
        });
        if let Err(failure) = self.watch(&link, index) {
            self.free_links.push(index);
            return Err(failure);
        }
        self.links[index as usize] = Some(link);
        Ok(index)
    }

    fn watch(&self, link: &Link, index: u32) -> Result<(), Failure> {
        let data = EventData::new_u64(u64::from(index) | u64::from(link.serial) << 32);
        let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&*self.epoll, link.transport.as_fd(), data, interest)
            .map_err(|errno| Failure::of_system("cannot watch a connection", errno))
    }

    /// Nobody is at this address of the server: tries the next one, if there is one.
    fn open_elsewhere(&mut self, index: u32, now_ns: u64) -> bool {
        let Some(mut link) = self.links[index as usize].take() else {
            return false;
        };
        let server = &mut self.endpoints[link.endpoint as usize];
        let mut opened = false;
        while server.try_next(link.tried) {
            link.tried = server.chosen();
            if let Ok(stream) = Stream::open(server, None, false, None, now_ns) {
                link.transport = Transport::Tcp(stream);
                opened = true;
                break;
            }
        }
        let opened = opened && self.watch(&link, index).is_ok();
        self.links[index as usize] = Some(link);
        opened
    }

    fn close(&mut self, index: u32) {
        if let Some(link) = self.links[index as usize].take() {
            self.free_links.push(index);
            if let (Speaks::Http { user, origin, .. }, None) = (&link.speaks, link.waiter) {
                if let Some(idle) = self.idle.get_mut(&(*user, *origin)) {
                    idle.retain(|other| *other != index);
                }
            }
        }
    }

    fn limit(&mut self, index: u32, at_ns: u64) {
        let link = self.links[index as usize]
            .as_mut()
            .expect("the link was just used");
        link.limit_ns = at_ns;
        // One timer for each link, which finds out when it rings whether it was the right time.
        if at_ns < link.armed_ns {
            link.armed_ns = at_ns;
            let serial = link.serial;
            self.timers.add(at_ns, Due::Limit { link: index, serial });
        }
    }

    /// Closes all connections of a user.
    pub fn forget_user(&mut self, user: u32) {
        let of_user = |link: &Link| matches!(link.speaks, Speaks::Http { user: other, .. } if other == user);
        let found: Vec<u32> = (0..self.links.len() as u32)
            .filter(|&index| {
                self.links[index as usize]
                    .as_ref()
                    .is_some_and(|link| link.waiter.is_none() && of_user(link))
            })
            .collect();
        found.into_iter().for_each(|index| self.close(index));
        self.idle.retain(|(other, _), _| *other != user);
    }

    // --- HTTP ------------------------------------------------------------------------------------------------------

    /// Sends a request of a user to an origin, over a connection that is idle, or else over a new one to `endpoint`.
    pub fn request(
        &mut self,
        user: u32,
        origin: u32,
        endpoint: u32,
        out: Outgoing,
        to_head: bool,
        timeout_ns: u64,
    ) -> Ticket {
        let now = monotonic_ns();
        let timing = Timing {
            sent_ns: now,
            ..Timing::default()
        };
        let index = match self.idle.get_mut(&(user, origin)).and_then(Vec::pop) {
            Some(index) => index,
            None => {
                let speaks = Speaks::Http {
                    user,
                    origin,
                    reader: ReplyReader::default(),
                };
                match self.open(endpoint, false, speaks, now) {
                    Ok(index) => index,
                    Err(failure) => {
                        let ticket = self.new_ticket(Waiting::Done);
                        let timing = Timing {
                            ended_ns: monotonic_ns(),
                            ..timing
                        };
                        self.finish(ticket.index, Done::Failed(failure), timing);
                        return ticket;
                    }
                }
            }
        };
        let ticket = self.new_ticket(Waiting::Link(index));
        let link = self.links[index as usize].as_mut().expect("idle links are open");
        link.waiter = Some(ticket.index);
        link.timing = timing;
        link.out = out;
        link.out_at = 0;
        if let Speaks::Http { reader, .. } = &mut link.speaks {
            reader.begin(to_head);
        }
        self.limit(index, now.saturating_add(timeout_ns));
        if self.links[index as usize]
            .as_ref()
            .is_none_or(|link| link.transport.is_open())
        {
            self.write(index);
        }
        ticket
    }

    /// Looks for connections that were closed while nobody looked; worth it before a request, after a pause.
    pub fn look_for_closed(&mut self) -> io::Result<()> {
        if monotonic_ns().saturating_sub(self.looked_ns) > 1_000_000 {
            self.turn()?;
        }
        Ok(())
    }

    // --- raw sockets -----------------------------------------------------------------------------------------------

    /// Opens a raw socket; the ticket is done when it is connected.
    pub fn connect(&mut self, endpoint: u32, is_udp: bool, timeout_ns: u64) -> (Ticket, Option<Socket>) {
        let now = monotonic_ns();
        let timing = Timing {
            sent_ns: now,
            ..Timing::default()
        };
        let speaks = Speaks::Raw {
            inbox: Vec::new(),
            wanted: None,
            datagrams: VecDeque::new(),
            is_udp,
            closed: false,
            fault: None,
        };
        match self.open(endpoint, is_udp, speaks, now) {
            Err(failure) => {
                let ticket = self.new_ticket(Waiting::Done);
                self.finish(
                    ticket.index,
                    Done::Failed(failure),
                    Timing {
                        ended_ns: monotonic_ns(),
                        ..timing
                    },
                );
                (ticket, None)
            }
            Ok(index) => {
                let ticket = self.new_ticket(Waiting::Link(index));
                let link = self.links[index as usize].as_mut().expect("it was just opened");
                link.timing = timing;
                link.waiter = Some(ticket.index);
                let socket = Socket {
                    index,
                    serial: link.serial,
                };
                if !link.transport.is_open() {
                    self.limit(index, now.saturating_add(timeout_ns));
                } else {
                    link.waiter = None;
                    let timing = Timing {
                        ended_ns: monotonic_ns(),
                        ..timing
                    };
                    self.finish(ticket.index, Done::Ready, timing);
                }
                (ticket, Some(socket))
            }
        }
    }

    fn raw(&mut self, socket: Socket) -> Option<&mut Link> {
        let link = self.links.get_mut(socket.index as usize)?.as_mut()?;
        (link.serial == socket.serial).then_some(link)
    }

    /// Sends bytes on a raw socket; the ticket is done when the kernel has them.
    pub fn send(&mut self, socket: Socket, bytes: Vec<u8>, timeout_ns: u64) -> Ticket {
        self.on_socket(socket, timeout_ns, |engine, index| {
            let link = engine.links[index as usize].as_mut().expect("it is open");
            link.out = Outgoing::Own(bytes);
            link.out_at = 0;
            if let Speaks::Raw { wanted, .. } = &mut link.speaks {
                *wanted = None;
            }
            if link.transport.is_open() {
                engine.write(index);
            }
        })
    }

    /// Receives from a raw socket.
    pub fn receive(&mut self, socket: Socket, what: Receive, timeout_ns: u64) -> Ticket {
        self.on_socket(socket, timeout_ns, |engine, index| {
            let link = engine.links[index as usize].as_mut().expect("it is open");
            if let Speaks::Raw { wanted, .. } = &mut link.speaks {
                *wanted = Some(what);
            }
            engine.serve_raw(index);
        })
    }

    fn on_socket(&mut self, socket: Socket, timeout_ns: u64, act: impl FnOnce(&mut Engine, u32)) -> Ticket {
        let now = monotonic_ns();
        let usable = self.raw(socket).map(|link| link.waiter.is_none());
        if usable != Some(true) {
            let ticket = self.new_ticket(Waiting::Done);
            let text = if usable.is_none() {
                "the connection is closed"
            } else {
                "the connection is in use by another call"
            };
            let timing = Timing {
                sent_ns: now,
                ended_ns: now,
                ..Timing::default()
            };
            let kind = if usable.is_none() {
                ErrorKind::Reset
            } else {
                ErrorKind::Script
            };
            self.finish(ticket.index, Done::Failed(Failure::new(kind, text)), timing);
            return ticket;
        }
        let ticket = self.new_ticket(Waiting::Link(socket.index));
        let link = self.links[socket.index as usize].as_mut().expect("it is open");
        link.waiter = Some(ticket.index);
        link.timing = Timing {
            sent_ns: now,
            ..Timing::default()
        };
        self.limit(socket.index, now.saturating_add(timeout_ns));
        act(self, socket.index);
        ticket
    }

    /// Closes a raw socket.
    pub fn close_socket(&mut self, socket: Socket) {
        if self.raw(socket).is_some() {
            if let Some(waiter) = self.links[socket.index as usize]
                .as_mut()
                .and_then(|link| link.waiter.take())
            {
                let failure = Failure::new(ErrorKind::Reset, "the connection was closed while it was in use");
                self.finish(waiter, Done::Failed(failure), Timing::default());
            }
            self.close(socket.index);
        }
    }

    // --- events ----------------------------------------------------------------------------------------------------

    /// Waits for something to do, at most so long, holding nothing: others may begin things meanwhile. What it finds is for
    /// [`Engine::handle`].
    ///
    /// # Errors
    ///
    /// `EINTR` if a signal came, which the caller may have to see to.
    pub fn wait(epoll: BorrowedFd<'_>, most_ns: u64, found: &mut Found) -> io::Result<()> {
        found.0.clear();
        let most = rustix::event::Timespec {
            tv_sec: (most_ns / 1_000_000_000) as i64,
            tv_nsec: (most_ns % 1_000_000_000) as i64,
        };
        epoll::wait(epoll, rustix::buffer::spare_capacity(&mut found.0), Some(&most))?;
        Ok(())
    }

    /// Does what [`Engine::wait`] has found and what the clock says.
    pub fn handle(&mut self, found: &Found) {
        for event in &found.0 {
            let key = event.data.u64();
            if key == TIMER_KEY {
                self.timers.rang();
                continue;
            }
            let (index, serial) = (key as u32, (key >> 32) as u32);
            let link = self.links.get(index as usize).and_then(Option::as_ref);
            if link.is_some_and(|link| link.serial == serial) {
                self.event(index, event.flags);
            }
        }
        let now = monotonic_ns();
        self.looked_ns = now;
        while let Some(due) = self.timers.pop(now) {
            self.due(due, now);
        }
    }

    /// Does what can be done without waiting.
    ///
    /// # Errors
    ///
    /// The system refuses to watch; this engine cannot go on.
    pub fn turn(&mut self) -> io::Result<()> {
        let mut found = std::mem::take(&mut self.found);
        loop {
            let epoll = self.epoll.clone();
            match Engine::wait(epoll.as_fd(), 0, &mut found) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            }
            self.handle(&found);
            if found.0.len() < found.0.capacity() {
                break;
            }
        }
        self.found = found;
        Ok(())
    }

    /// Arranges to be woken for the next timer; to be called before waiting.
    ///
    /// # Errors
    ///
    /// As [`Engine::turn`].
    pub fn arm(&mut self) -> io::Result<()> {
        self.timers.arm()
    }

    fn due(&mut self, due: Due, now: u64) {
        match due {
            Due::Slept { waiter, serial } => {
                let known = &self.waiters[waiter as usize];
                if known.serial == serial && known.waiting == Waiting::Slept {
                    self.finish(
                        waiter,
                        Done::Slept,
                        Timing {
                            ended_ns: now,
                            ..Timing::default()
                        },
                    );
                }
            }
            Due::Limit { link: index, serial } => {
                let Some(link) = self.links[index as usize]
                    .as_mut()
                    .filter(|link| link.serial == serial)
                else {
                    return;
                };
                if link.armed_ns > now {
                    return;
                }
                link.armed_ns = u64::MAX;
                if link.waiter.is_none() {
                    return;
                }
                if link.limit_ns > now {
                    let at = link.limit_ns;
                    self.limit(index, at);
                    return;
                }
                let waited = (now - link.timing.sent_ns) as f64 * 1e-9;
                let is_udp = matches!(link.speaks, Speaks::Raw { is_udp: true, .. });
                let failure = if !link.transport.is_open() {
                    Failure::new(
                        ErrorKind::ConnectTimeout,
                        format!("no connection within {waited:.3} s"),
                    )
                } else if is_udp {
                    Failure::new(ErrorKind::Lost, format!("no datagram within {waited:.3} s"))
                } else {
                    Failure::new(
                        ErrorKind::Timeout,
                        format!("no complete response within {waited:.3} s"),
                    )
                };
                if is_udp {
                    self.settle(index, Done::Failed(failure), now);
                } else {
                    self.fail(index, failure, now);
                }
            }
        }
    }

    fn event(&mut self, index: u32, flags: EventFlags) {
        let link = self.links[index as usize]
            .as_mut()
            .expect("the caller has looked");
        let closing = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        link.hung_up |= closing;
        if !link.transport.is_open() {
            if !closing && !flags.contains(EventFlags::OUT) {
                return;
            }
            self.connected(index, flags);
        } else if flags.contains(EventFlags::OUT) && link.out_at < link.out.bytes().len() {
            self.write(index);
        }
        let is_readable = closing || flags.contains(EventFlags::IN);
        let is_open = |link: &Link| link.transport.is_open();
        if is_readable && self.links[index as usize].as_ref().is_some_and(is_open) {
            self.read(index);
        }
    }

    fn connected(&mut self, index: u32, flags: EventFlags) {
        let link = self.links[index as usize]
            .as_mut()
            .expect("the caller has looked");
        let now = monotonic_ns();
        let Transport::Tcp(stream) = &mut link.transport else {
            return;
        };
        let server = &mut self.endpoints[link.endpoint as usize];
        let advanced = self
            .desk
            .with(|desk| stream.advance(server, &mut [], Ready(flags), desk.worker.recorder()));
        match advanced {
            // Nobody counts any more.
            None | Some(Ok(false)) => {}
            Some(Ok(true)) => {
                link.timing.written_ns = now;
                if matches!(link.speaks, Speaks::Raw { .. }) {
                    self.settle(index, Done::Ready, now);
                } else {
                    self.write(index);
                }
            }
            Some(Err(failure)) => {
                let link = self.links[index as usize].as_mut().expect("it is open");
                link.hung_up = false;
                if !self.open_elsewhere(index, now) {
                    self.fail(index, failure, now);
                }
            }
        }
    }

    fn write(&mut self, index: u32) {
        let link = self.links[index as usize].as_mut().expect("it is open");
        while link.out_at < link.out.bytes().len() {
            match link.transport.send(&link.out.bytes()[link.out_at..]) {
                Ok(0) => return,
                Ok(sent) => {
                    link.out_at += sent;
                    link.timing.bytes_sent += sent as u64;
                }
                Err(failure) => {
                    // A server that refuses early has said why; that is worth more than the broken pipe.
                    if failure.kind == ErrorKind::Reset {
                        link.out_at = link.out.bytes().len();
                        link.hung_up = true;
                        self.read(index);
                        match self.links[index as usize].as_ref() {
                            Some(link) if link.waiter.is_some() => {}
                            _ => return,
                        }
                    }
                    self.fail(index, failure, monotonic_ns());
                    return;
                }
            }
        }
        if matches!(&link.speaks, Speaks::Raw { wanted: None, .. }) && link.waiter.is_some() {
            self.settle(index, Done::Ready, monotonic_ns());
        }
    }

    fn read(&mut self, index: u32) {
        loop {
            let link = self.links[index as usize].as_mut().expect("it is open");
            let (count, more) = match link.transport.receive(&mut self.buffer) {
                Ok(Some(received)) => received,
                Ok(None) => return,
                Err(failure) => {
                    match &mut link.speaks {
                        Speaks::Raw {
                            is_udp: true, fault, ..
                        } => {
                            // A port where nobody listens; the socket lives on.
                            *fault = Some(failure);
                            self.serve_raw(index);
                            return;
                        }
                        Speaks::Raw { closed, fault, .. } => {
                            *closed = true;
                            *fault = Some(failure);
                            self.serve_raw(index);
                            return;
                        }
                        Speaks::Http { .. } => {
                            self.fail(index, failure, monotonic_ns());
                            return;
                        }
                    }
                }
            };
            let now = monotonic_ns();
            let data = &self.buffer[..count];
            match &mut link.speaks {
                Speaks::Http { reader, .. } => {
                    if link.waiter.is_none() {
                        // Closed while idle, or it talks without being asked.
                        self.close(index);
                        return;
                    }
                    if count == 0 {
                        let begun = reader.has_begun();
                        match reader.closed() {
                            Some(reply) => self.replied(index, reply, now),
                            None => {
                                let text = if begun {
                                    "the connection was closed in the middle of the response"
                                } else {
                                    "the connection was closed without a response"
                                };
                                self.fail(index, Failure::new(ErrorKind::Reset, text), now);
                            }
                        }
                        return;
                    }
                    link.timing.bytes_received += count as u64;
                    if link.timing.first_byte_ns == 0 {
                        link.timing.first_byte_ns = now;
                    }
                    match reader.feed(data) {
                        Ok(Some(reply)) => {
                            self.replied(index, reply, now);
                            // What the server closes now shows itself by an event of its own.
                            return;
                        }
                        Ok(None) => {}
                        Err(text) => {
                            self.fail(index, Failure::new(ErrorKind::Protocol, text), now);
                            return;
                        }
                    }
                }
                Speaks::Raw {
                    is_udp: true,
                    datagrams,
                    ..
                } => {
                    if datagrams.len() < 4096 {
                        datagrams.push_back(data.to_vec());
                    }
                    if link.timing.first_byte_ns == 0 {
                        link.timing.first_byte_ns = now;
                    }
                    link.timing.bytes_received += count as u64;
                    self.serve_raw(index);
                    continue;
                }
                Speaks::Raw { inbox, closed, .. } => {
                    if count == 0 {
                        *closed = true;
                    } else {
                        inbox.extend_from_slice(data);
                        if link.timing.first_byte_ns == 0 {
                            link.timing.first_byte_ns = now;
                        }
                        link.timing.bytes_received += count as u64;
                    }
                    let (over, full) = (count == 0, inbox.len() > MOST_UNREAD_BYTES);
                    self.serve_raw(index);
                    if over {
                        return;
                    }
                    if full
                        && self.links[index as usize]
                            .as_ref()
                            .is_some_and(|link| link.waiter.is_some())
                    {
                        let text =
                            format!("more than {MOST_UNREAD_BYTES} bytes came without what was waited for");
                        self.fail(index, Failure::new(ErrorKind::Protocol, text), now);
                        return;
                    }
                }
            }
            // Edge-triggered: less than there was room for means that there is no more, but for the end.
            if !more && !self.has_hung_up(index) {
                return;
            }
        }
    }

    fn has_hung_up(&self, index: u32) -> bool {
        self.links[index as usize]
            .as_ref()
            .is_some_and(|link| link.hung_up)
    }

    /// Gives a raw socket's reader what it waits for, if it is there.
    fn serve_raw(&mut self, index: u32) {
        let Some(link) = self.links[index as usize].as_mut() else {
            return;
        };
        if link.waiter.is_none() {
            return;
        }
        let Speaks::Raw {
            inbox,
            wanted,
            datagrams,
            closed,
            fault,
            is_udp,
        } = &mut link.speaks
        else {
            return;
        };
        let Some(what) = wanted else { return };
        let found = match what {
            Receive::Datagram => datagrams.pop_front(),
            Receive::Some(most) if !inbox.is_empty() => {
                let count = inbox.len().min((*most).max(1));
                Some(inbox.drain(..count).collect())
            }
            Receive::Some(_) => None,
            Receive::Exactly(count) if inbox.len() >= *count => Some(inbox.drain(..*count).collect()),
            Receive::Exactly(_) => None,
            Receive::Until(end) => find(inbox, end).map(|at| inbox.drain(..at + end.len()).collect()),
        };
        let done = match found {
            Some(bytes) => Done::Received(bytes),
            None if *is_udp => match fault.take() {
                Some(failure) => Done::Failed(failure),
                None => return,
            },
            None if *closed => match (fault.take(), what) {
                (Some(failure), _) => Done::Failed(failure),
                (None, Receive::Some(_)) => Done::Received(Vec::new()),
                (None, _) => Done::Failed(Failure::new(
                    ErrorKind::Reset,
                    "the connection was closed before what was waited for came",
                )),
            },
            None => return,
        };
        *wanted = None;
        self.settle(index, done, monotonic_ns());
    }

    fn settle(&mut self, index: u32, done: Done, now: u64) {
        let link = self.links[index as usize].as_mut().expect("it is open");
        if let Some(waiter) = link.waiter.take() {
            let timing = Timing {
                ended_ns: now,
                ..link.timing
            };
            self.finish(waiter, done, timing);
        }
    }

    fn replied(&mut self, index: u32, reply: Reply, now: u64) {
        let link = self.links[index as usize].as_mut().expect("it is open");
        let whole = link.out_at == link.out.bytes().len();
        link.out = Outgoing::Own(Vec::new());
        link.out_at = 0;
        let waiter = link.waiter.take();
        let timing = Timing {
            ended_ns: now,
            ..link.timing
        };
        let Speaks::Http { user, origin, reader } = &link.speaks else {
            return;
        };
        let key = (*user, *origin);
        // A response before the request was out leaves the connection in the middle of it.
        if reader.keeps_alive() && whole && !link.hung_up {
            self.idle.entry(key).or_default().push(index);
        } else {
            self.close(index);
        }
        if let Some(waiter) = waiter {
            self.finish(waiter, Done::Replied(Box::new(reply)), timing);
        }
    }

    fn fail(&mut self, index: u32, failure: Failure, now: u64) {
        let link = self.links[index as usize].as_mut().expect("it is open");
        let timing = Timing {
            ended_ns: now,
            ..link.timing
        };
        let waiter = link.waiter;
        self.close(index);
        if let Some(waiter) = waiter {
            self.finish(waiter, Done::Failed(failure), timing);
        }
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    if what.is_empty() {
        return Some(0);
    }
    text.windows(what.len()).position(|window| window == what)
}
