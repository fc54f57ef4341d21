//! Who waits to be notified: the heart of a condition variable.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::identity::Identity;
use super::memory::Cell;
use super::pace::{Pace, Stir};
use crate::os::futex::{self, Waited};

pub(super) const PLACES: usize = 1024;
pub(super) const WAITING: u32 = 1;
/// What is above it says how a wait of another kind ended (see [`WaitQueue::tell_all`]).
pub(super) const NOTIFIED: u32 = 2;

#[repr(C, align(64))]
#[derive(Debug)]
struct Queue {
    next_ticket: AtomicU32,
    /// No place at or behind this one was ever taken.
    used: AtomicU32,
    places: [Place; PLACES],
}

#[repr(C)]
#[derive(Debug)]
struct Place {
    waiter: AtomicU64,
    state: AtomicU32,
    ticket: AtomicU32,
}

impl Place {
    /// Whether somebody, perhaps dead, waits here and has not been notified.
    fn is_waiting(&self) -> bool {
        self.waiter.load(Ordering::Acquire) != 0 && self.state.load(Ordering::Relaxed) == WAITING
    }
}

/// All places are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PLACES} threads wait already, and there is no room for more")
    }
}

impl std::error::Error for Full {}

/// Those who wait to be notified, in the order of their coming, each with its name.
///
/// It is the heart of a condition variable, and has no lock of its own: [`enter`](WaitQueue::enter),
/// [`leave`](WaitQueue::leave) and [`notify`](WaitQueue::notify) are called by whoever holds the condition's lock, and
/// [`wait`](WaitQueue::wait) without it. A notification is one store, made to a waiter that is alive: who was killed while
/// it waited takes none away from the others.
///
/// ```
/// use procession::sync::WaitQueue;
/// use std::time::Duration;
///
/// let queue = WaitQueue::new()?;
/// let place = queue.enter()?;
/// assert_eq!(queue.waiting(), 1);
/// assert_eq!(queue.notify(5), 1);
/// let notified = queue.wait(place, Some(Duration::from_secs(1)), &mut |_| Ok::<(), ()>(()));
/// assert_eq!(notified, Ok(true));
/// assert!(queue.leave(place));
/// assert_eq!(queue.waiting(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct WaitQueue {
    cell: Cell,
}

impl WaitQueue {
    /// A queue in which nobody waits.
    ///
    /// # Errors
    ///
    /// If the system has no memory left.
    pub fn new() -> io::Result<WaitQueue> {
        WaitQueue::with_room(0)
    }

    /// One whose cell has so many bytes more, for [`room`](WaitQueue::room).
    pub(super) fn with_room(room: usize) -> io::Result<WaitQueue> {
        Ok(WaitQueue {
            cell: Cell::allocate(size_of::<Queue>() + room)?,
        })
    }

    /// What lies behind the queue.
    ///
    /// # Panics
    ///
    /// If there is no room for it.
    ///
    /// # Safety
    ///
    /// As [`Cell::at`].
    pub(super) unsafe fn room<T>(&self) -> &T {
        // SAFETY: the caller vouches for it; a queue's length is a multiple of its alignment, 64.
        unsafe { self.cell.at(size_of::<Queue>()) }
    }

    /// The queue that another process has made.
    ///
    /// # Errors
    ///
    /// If the cell is too short for one.
    pub fn attach(cell: Cell) -> io::Result<WaitQueue> {
        WaitQueue::attach_with_room(cell, 0)
    }

    pub(super) fn attach_with_room(cell: Cell, room: usize) -> io::Result<WaitQueue> {
        if cell.len() < (size_of::<Queue>() + room) as u64 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(WaitQueue { cell })
    }

    /// Its memory, to hand it on.
    pub fn cell(&self) -> &Cell {
        &self.cell
    }

    fn queue(&self) -> &Queue {
        // SAFETY: the cell is long enough, and a queue's fields are atomics, which may have any bits.
        unsafe { self.cell.at(0) }
    }

    fn used(&self) -> &[Place] {
        let queue = self.queue();
        let used = queue.used.load(Ordering::Relaxed) as usize;
        &queue.places[..used.min(PLACES)]
    }

    /// Takes a place for the calling thread.
    ///
    /// # Errors
    ///
    /// If 1024 threads wait already.
    pub fn enter(&self) -> Result<usize, Full> {
        self.enter_for(Identity::current())
    }

    fn enter_for(&self, waiter: Identity) -> Result<usize, Full> {
        let queue = self.queue();
        let used = self.used().len();
        let vacant = self
            .used()
            .iter()
            .position(|place| place.waiter.load(Ordering::Relaxed) == 0);
        let index = match vacant {
            Some(index) => index,
            None if used < PLACES => {
                queue.used.store(used as u32 + 1, Ordering::Relaxed);
                used
            }
            None => {
                self.sweep();
                self.used()
                    .iter()
                    .position(|place| place.waiter.load(Ordering::Relaxed) == 0)
                    .ok_or(Full)?
            }
        };
        let place = &queue.places[index];
        place.ticket.store(
            queue.next_ticket.fetch_add(1, Ordering::Relaxed),
            Ordering::Relaxed,
        );
        place.state.store(WAITING, Ordering::Relaxed);
        crate::crash_point!("queue-before-entry");
        place.waiter.store(waiter.word(), Ordering::Release);
        Ok(index)
    }

    #[cfg(test)]
    pub(super) fn enter_as(&self, waiter: Identity) -> usize {
        self.enter_for(waiter).unwrap()
    }

    /// Waits in this place until notified, for `limit` at most; `false` if the time was over. `stir` as in
    /// [`RawLock::lock`](super::RawLock::lock).
    ///
    /// # Errors
    ///
    /// What `stir` returned.
    pub fn wait<E>(
        &self,
        place: usize,
        limit: Option<Duration>,
        stir: &mut dyn FnMut(Stir) -> Result<(), E>,
    ) -> Result<bool, E> {
        let state = &self.queue().places[place].state;
        let pace = Pace::begin_without_owner(limit);
        loop {
            // Sync point *notified*: pairs with the store in `notify`.
            if state.load(Ordering::Acquire) != WAITING {
                return Ok(true);
            }
            let Some(slice) = pace.slice() else {
                return Ok(false);
            };
            let waited = futex::wait(state, WAITING, Some(slice));
            if waited != Waited::Woken {
                stir(Stir {
                    waited: pace.waited(),
                    interrupted: waited == Waited::Interrupted,
                })?;
            }
        }
    }

    /// Gives the place back, and says whether it had been notified.
    pub fn leave(&self, place: usize) -> bool {
        let place = &self.queue().places[place];
        let notified = place.state.load(Ordering::Acquire) == NOTIFIED;
        place.waiter.store(0, Ordering::Release);
        notified
    }

    /// Notifies up to `count` of those who wait, in the order of their coming; gives how many it were.
    pub fn notify(&self, count: usize) -> usize {
        let now = self.queue().next_ticket.load(Ordering::Relaxed);
        let mut waiting: Vec<_> = self.used().iter().filter(|place| place.is_waiting()).collect();
        // The oldest ticket is the one furthest behind the next one, also when the numbers have wrapped.
        waiting
            .sort_by_key(|place| std::cmp::Reverse(now.wrapping_sub(place.ticket.load(Ordering::Relaxed))));
        let mut notified = 0;
        for place in waiting {
            if notified == count {
                break;
            }
            if !self.is_alive(place) {
                place.waiter.store(0, Ordering::Release);
                continue;
            }
            // Sync point *notified*.
            place.state.store(NOTIFIED, Ordering::Release);
            crate::crash_point!("queue-before-wake");
            futex::wake(&place.state, 1);
            notified += 1;
        }
        notified
    }

    /// How the wait in this place ended, or that it goes on.
    pub(super) fn state(&self, place: usize) -> u32 {
        // Sync point *notified*.
        self.queue().places[place].state.load(Ordering::Acquire)
    }

    /// Tells all who wait, the dead among them, how their wait ended: `outcome` is [`NOTIFIED`] or a number above it.
    pub(super) fn tell_all(&self, outcome: u32) {
        for place in self.used().iter().filter(|place| place.is_waiting()) {
            // Sync point *notified*.
            place.state.store(outcome, Ordering::Release);
            crate::crash_point!("queue-before-wake");
            futex::wake(&place.state, 1);
        }
    }

    /// Gives back the places of those who died before they were notified, and says how many it were.
    pub(super) fn sweep_waiting(&self) -> usize {
        self.used()
            .iter()
            .filter(|place| place.is_waiting() && !self.is_alive(place))
            .map(|place| place.waiter.store(0, Ordering::Release))
            .count()
    }

    fn is_alive(&self, place: &Place) -> bool {
        Identity::from_word(place.waiter.load(Ordering::Relaxed)).is_some_and(Identity::process_is_alive)
    }

    /// How many places are taken, by waiters who have not been notified.
    pub fn waiting(&self) -> usize {
        self.used().iter().filter(|place| place.is_waiting()).count()
    }

    /// How many places are taken.
    pub fn taken(&self) -> usize {
        self.used()
            .iter()
            .filter(|place| place.waiter.load(Ordering::Relaxed) != 0)
            .count()
    }

    /// Gives back the places of those who have died, and says how many it were. It is some microseconds' work for each place
    /// that is taken.
    pub fn sweep(&self) -> usize {
        self.used()
            .iter()
            .filter(|place| place.waiter.load(Ordering::Relaxed) != 0 && !self.is_alive(place))
            .map(|place| place.waiter.store(0, Ordering::Release))
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_stir(_: Stir) -> Result<(), ()> {
        Ok(())
    }

    #[test]
    fn notifications_go_in_the_order_of_coming_and_past_the_dead() {
        let queue = WaitQueue::new().unwrap();
        let places: Vec<_> = (0..4).map(|_| queue.enter().unwrap()).collect();
        let me = Identity::current();
        let dead = Identity::new(me.pid(), 1, 12345);
        queue.queue().places[places[0]]
            .waiter
            .store(dead.word(), Ordering::Relaxed);
        assert_eq!(queue.notify(2), 2);
        let soon = Some(Duration::from_millis(1));
        let outcomes: Vec<_> = places[1..]
            .iter()
            .map(|&place| queue.wait(place, soon, &mut no_stir).unwrap())
            .collect();
        assert_eq!(outcomes, [true, true, false]);
        assert_eq!((queue.waiting(), queue.taken()), (1, 3));
        assert!(queue.leave(places[1]) && queue.leave(places[2]) && !queue.leave(places[3]));
        assert_eq!((queue.notify(9), queue.taken()), (0, 0));
    }

    #[test]
    fn the_dead_are_swept_out_when_there_is_no_room() {
        let queue = WaitQueue::new().unwrap();
        let places: Vec<_> = (0..PLACES).map(|_| queue.enter().unwrap()).collect();
        assert_eq!(queue.enter(), Err(Full));
        let me = Identity::current();
        let dead = Identity::new(me.pid(), 1, 12345);
        queue.queue().places[places[7]]
            .waiter
            .store(dead.word(), Ordering::Relaxed);
        assert_eq!(queue.enter(), Ok(places[7]));
    }

    #[test]
    fn sleepers_are_woken() {
        let queue = WaitQueue::new().unwrap();
        std::thread::scope(|scope| {
            let waiters: Vec<_> = (0..4)
                .map(|_| {
                    let (queue, place) = (&queue, queue.enter().unwrap());
                    scope.spawn(move || queue.wait(place, None, &mut no_stir))
                })
                .collect();
            std::thread::sleep(Duration::from_millis(5));
            assert_eq!(queue.notify(usize::MAX), 4);
            assert!(waiters.into_iter().all(|w| w.join().unwrap() == Ok(true)));
        });
    }
}
