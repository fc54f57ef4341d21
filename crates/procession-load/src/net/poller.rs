use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

/// So many descriptors are told of at once.
const BATCH: usize = 256;

/// What a descriptor is ready for.
#[derive(Debug, Clone, Copy)]
pub struct Ready(pub(crate) EventFlags);

impl Ready {
    /// There may be something to read, or the end of it.
    #[inline]
    pub fn readable(self) -> bool {
        self.0
            .intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR)
    }

    /// There may be room to write.
    #[inline]
    pub fn writable(self) -> bool {
        self.0
            .intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR)
    }

    /// The other side has closed: what is there to read ends.
    #[inline]
    pub fn closing(self) -> bool {
        self.0
            .intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR)
    }
}

/// Edge-triggered readiness of many descriptors. Each is registered once, for everything, and forgotten when it is closed.
#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
    events: Vec<MaybeUninit<Event>>,
    /// Whether the kernel takes time limits in nanoseconds here (Linux 5.11).
    fine: bool,
}

impl Poller {
    /// An empty one.
    ///
    /// # Errors
    ///
    /// If the process may open no more descriptors.
    pub fn new() -> io::Result<Poller> {
        Ok(Poller {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            events: vec![MaybeUninit::uninit(); BATCH],
            fine: true,
        })
    }

    /// Tells of this descriptor from now on, by this token.
    ///
    /// # Errors
    ///
    /// As the system has them.
    pub fn add(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.epoll, fd, EventData::new_u64(token), flags)?)
    }

    /// Waits until something is ready or this time has passed, and gives what is ready to `each`. A signal ends the wait as
    /// time does.
    ///
    /// # Errors
    ///
    /// As the system has them; none is expected.
    pub fn wait(&mut self, timeout_ns: u64, mut each: impl FnMut(u64, Ready)) -> io::Result<()> {
        let limit = Timespec {
            tv_sec: (timeout_ns / 1_000_000_000) as i64,
            tv_nsec: (timeout_ns % 1_000_000_000) as i64,
        };
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let limit = if self.fine || timeout_ns == 0 {
            &limit
        } else {
            let _ = poll(&mut [PollFd::new(&self.epoll, PollFlags::IN)], Some(&limit));
            &now
        };
        let events = match epoll::wait(&self.epoll, &mut self.events[..], Some(limit)) {
            Ok((events, _)) => events,
            Err(Errno::INTR) => return Ok(()),
            Err(Errno::NOSYS) if self.fine => {
                self.fine = false;
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        for event in events {
            each(event.data.u64(), Ready(event.flags));
        }
        Ok(())
    }

    /// As [`wait`](Poller::wait), but puts what is ready into `into`, for callers that change the poller meanwhile.
    ///
    /// # Errors
    ///
    /// As [`wait`](Poller::wait).
    pub fn wait_into(&mut self, timeout_ns: u64, into: &mut Vec<(u64, Ready)>) -> io::Result<()> {
        into.clear();
        self.wait(timeout_ns, |token, ready| into.push((token, ready)))
    }
}
