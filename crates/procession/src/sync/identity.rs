//! Who holds, who waits: a thread's name in one word.

use std::cell::Cell;
use std::fmt;

use crate::os::process::{self, generation, ProcStat};

/// A thread of some process, and when that process began, in one 64-bit word, so that a lock's owner is recorded by the very
/// compare-and-swap that takes the lock.
///
/// ```text
/// bit  63      54 53        32 31  30  29       22 21         0
///      [ began, hi ][  thread  ][flags][ began, lo ][  process  ]
/// ```
///
/// *Began* is the process's start time in clock ticks (10 ms), of which the word holds the low 18 bits: a process that is
/// given a dead one's number is taken for it only if it began a whole multiple of 43 minutes later, to the tick. The two
/// flags are the lock's own (see [`RawLock`](super::RawLock)) and zero here.
///
/// ```
/// use procession::sync::Identity;
///
/// let me = Identity::current();
/// assert_eq!(me.pid(), std::process::id());
/// assert!(me.process_is_alive());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity(u64);

const NUMBER_BITS: u32 = 22;
const NUMBER_MASK: u64 = (1 << NUMBER_BITS) - 1;
const BEGAN_LOW_SHIFT: u32 = 22;
const BEGAN_LOW_MASK: u64 = 0xFF;
const THREAD_SHIFT: u32 = 32;
const BEGAN_HIGH_SHIFT: u32 = 54;
const BEGAN_HIGH_MASK: u64 = 0x3FF;

/// The two bits that an identity leaves free.
pub(super) const FLAGS: u64 = 0b11 << 30;

thread_local! {
    /// With the generation of the process in which it was found out: a forked child has another number.
    static ME: Cell<(u32, u64)> = const { Cell::new((0, 0)) };
}

impl Identity {
    /// The calling thread.
    #[inline]
    pub fn current() -> Identity {
        let (of_generation, word) = ME.get();
        if of_generation == generation() {
            Identity(word)
        } else {
            Identity::find_out()
        }
    }

    #[cold]
    fn find_out() -> Identity {
        let began = ProcStat::of_self().map_or(0, |stat| stat.start_ticks);
        let me = Identity::new(std::process::id(), process::thread_number(), began);
        ME.set((generation(), me.0));
        me
    }

    pub(super) fn new(pid: u32, thread: u32, began_ticks: u64) -> Identity {
        Identity(
            u64::from(pid) & NUMBER_MASK
                | (began_ticks & BEGAN_LOW_MASK) << BEGAN_LOW_SHIFT
                | (u64::from(thread) & NUMBER_MASK) << THREAD_SHIFT
                | (began_ticks >> 8 & BEGAN_HIGH_MASK) << BEGAN_HIGH_SHIFT,
        )
    }

    /// The first thread of the process with this number; `None` if there is none.
    pub fn of_process(pid: u32) -> Option<Identity> {
        if pid == std::process::id() {
            return Some(Identity::current().main_thread());
        }
        let stat = ProcStat::of(pid)?;
        Some(Identity::new(pid, pid, stat.start_ticks))
    }

    /// The thread in this word, if there is one.
    #[inline]
    pub(super) fn from_word(word: u64) -> Option<Identity> {
        match word & !FLAGS {
            0 => None,
            word => Some(Identity(word)),
        }
    }

    #[inline]
    pub(super) fn word(self) -> u64 {
        self.0
    }

    /// The process's number.
    pub fn pid(self) -> u32 {
        (self.0 & NUMBER_MASK) as u32
    }

    /// The thread's number; a process's first thread has the process's.
    pub fn thread(self) -> u32 {
        (self.0 >> THREAD_SHIFT & NUMBER_MASK) as u32
    }

    fn began(self) -> u64 {
        self.0 >> BEGAN_LOW_SHIFT & BEGAN_LOW_MASK | (self.0 >> BEGAN_HIGH_SHIFT & BEGAN_HIGH_MASK) << 8
    }

    /// Whether both are threads of one process.
    pub fn is_same_process(self, other: Identity) -> bool {
        self.pid() == other.pid() && self.began() == other.began()
    }

    /// The first thread of this one's process.
    pub fn main_thread(self) -> Identity {
        Identity(self.0 & !(NUMBER_MASK << THREAD_SHIFT) | u64::from(self.pid()) << THREAD_SHIFT)
    }

    /// Whether the thread's *process* is alive. A thread that has ended while its process goes on does not count as dead:
    /// what it holds another thread may release.
    ///
    /// It is a few microseconds' work: `/proc` is read. A process that was killed counts as dead at once, also while nobody
    /// has reaped it.
    pub fn process_is_alive(self) -> bool {
        let me = Identity::current();
        if self.pid() == me.pid() {
            return self.is_same_process(me);
        }
        match ProcStat::of(self.pid()) {
            Some(stat) => {
                let same = self.is_same_process(Identity::new(self.pid(), 0, stat.start_ticks));
                // Of a zombie with more threads than one only the first has ended.
                same && !(matches!(stat.state, 'Z' | 'X') && stat.threads <= 1)
            }
            // Where `/proc` does not show other users' processes, the kernel still says whether they exist.
            None => process::kill(self.pid(), 0).map_or_else(|e| !process::is_gone(&e), |()| true),
        }
    }

    /// Whether the thread itself is alive; its process may go on without it.
    pub fn thread_is_alive(self) -> bool {
        self.process_is_alive() && process::has_thread(self.pid(), self.thread())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity(pid {}, thread {})", self.pid(), self.thread())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_gives_back_what_was_put_into_it() {
        let began = 0x3_ABCD;
        let id = Identity::new(4_194_303, 4_194_302, began);
        assert_eq!((id.pid(), id.thread(), id.began()), (4_194_303, 4_194_302, began));
        assert_eq!(id.word() & FLAGS, 0);
        assert_eq!(id.main_thread().thread(), id.pid());
        assert_eq!(Identity::from_word(id.word() | FLAGS), Some(id));
        assert_eq!(Identity::from_word(FLAGS), None);
    }

    #[test]
    fn threads_differ_and_share_their_process() {
        let me = Identity::current();
        let other = std::thread::spawn(Identity::current).join().unwrap();
        assert_ne!(me, other);
        assert!(me.is_same_process(other) && other.process_is_alive());
        assert!(me.thread_is_alive());
        // The kernel may take a moment to forget a thread that was joined.
        while other.thread_is_alive() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_reused_number_is_not_taken_for_the_dead() {
        let me = Identity::current();
        let before_me = Identity::new(me.pid(), me.thread(), me.began() ^ 1);
        assert!(!before_me.process_is_alive());
        let init = Identity::of_process(1).unwrap();
        assert!(init.process_is_alive());
        assert!(!Identity::new(1, 1, init.began() ^ 1).process_is_alive());
    }
}
