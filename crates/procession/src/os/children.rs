//! What a process needs that owns all of its children: their ends as readable events.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicI32, Ordering};

use super::event::Event;

/// Readable whenever a child of this process has ended.
///
/// While it exists, SIGCHLD has a handler of ours; [`ChildEvents::hand_back`] restores the former disposition. Only for
/// processes that are ours alone, such as a pool's supervisor: a library does not own its user's SIGCHLD.
///
/// No signalfd: the signal may be delivered to any thread that does not block it, and a process that was not forked by us
/// may have some that we know nothing of.
pub struct ChildEvents {
    event: Event,
    former: libc::sigaction,
}

/// The descriptor that the handler writes to, plus one; 0 if there is none.
static TOLD: AtomicI32 = AtomicI32::new(0);

extern "C" fn tell(_signal: i32) {
    let fd = TOLD.load(Ordering::Relaxed) - 1;
    if fd >= 0 {
        let one = 1u64;
        // SAFETY: write(2) may be called in a handler, and reads eight bytes of a local. The descriptor is open as long as it
        // is told here. The interrupted code finds its errno as it was.
        unsafe {
            let errno = *libc::__errno_location();
            libc::write(fd, (&raw const one).cast(), 8);
            *libc::__errno_location() = errno;
        }
    }
}

impl std::fmt::Debug for ChildEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChildEvents")
            .field("event", &self.event)
            .finish_non_exhaustive()
    }
}

impl ChildEvents {
    /// Begins to listen, and lets SIGCHLD reach the calling thread. There is one listener in a process.
    pub fn new() -> io::Result<Self> {
        let event = Event::new()?;
        TOLD.store(event.as_fd().as_raw_fd() + 1, Ordering::Relaxed);
        // SAFETY: an all-zero sigaction is a valid one.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = tell as extern "C" fn(i32) as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART | libc::SA_NOCLDSTOP;
        let mut former = MaybeUninit::uninit();
        // SAFETY: both pointers are to locals of the right type; the kernel fills `former` on success. The handler does
        // only what handlers may.
        if unsafe { libc::sigaction(libc::SIGCHLD, &action, former.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `sigemptyset` initialises the local set before the others use it.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), std::ptr::null_mut());
        }
        Ok(ChildEvents {
            event,
            // SAFETY: filled by the successful call above.
            former: unsafe { former.assume_init() },
        })
    }

    /// Forgets the events so far; who calls it looks at all children afterwards.
    pub fn clear(&self) {
        self.event.clear();
    }

    /// Gives SIGCHLD its former disposition back, as a forked child does that is somebody else's from now on.
    pub fn hand_back(self) {
        // SAFETY: the disposition is the one that the process had before, and no handler of ours is involved.
        unsafe { libc::sigaction(libc::SIGCHLD, &self.former, std::ptr::null_mut()) };
        TOLD.store(0, Ordering::Relaxed);
    }
}

impl AsFd for ChildEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// Whether this process is in the same session as the caller: who left it, did so on purpose.
pub fn same_session(pid: u32) -> bool {
    // SAFETY: both calls take numbers and touch no memory.
    unsafe { libc::getsid(pid as libc::pid_t) == libc::getsid(0) }
}
