//! A semaphore with its memory.

use std::io;
use std::mem;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::memory::Cell;
use super::pace::never_stopped;
use super::semaphore::{AtLimit, RawSemaphore};
use crate::os::process::generation;

#[repr(C)]
#[derive(Debug)]
struct Inside {
    raw: RawSemaphore,
    limit: AtomicU32,
}

/// So many permits, which processes take and give back.
///
/// Nobody owns a permit: anybody may [release](Semaphore::release) what another has taken. So **a permit that a killed
/// process had is lost**; where that must not be, use a [`Mutex`](super::Mutex) or a [`SharedLock`](super::SharedLock).
///
/// ```
/// use procession::sync::Semaphore;
///
/// let connections = Semaphore::new(2)?;
/// let one = connections.acquire();
/// let other = connections.acquire();
/// assert!(connections.try_acquire().is_none());
/// drop(one);
/// assert_eq!(connections.available_permits(), 1);
/// # drop(other);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Semaphore {
    cell: Cell,
}

impl Semaphore {
    /// A semaphore with so many permits, and room for any number ([`RawSemaphore::MAX`]).
    ///
    /// # Errors
    ///
    /// If the system has no memory or descriptor left.
    pub fn new(permits: u32) -> io::Result<Semaphore> {
        Semaphore::with_limit(permits, RawSemaphore::MAX)
    }

    /// A semaphore with so many permits that never has more than `limit`: to release one too many is an error.
    ///
    /// # Errors
    ///
    /// If `permits` is above the limit or [`RawSemaphore::MAX`], or the system has no memory or descriptor left.
    pub fn with_limit(permits: u32, limit: u32) -> io::Result<Semaphore> {
        if permits > limit.min(RawSemaphore::MAX) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a semaphore for {limit} permits cannot begin with {permits}"),
            ));
        }
        let semaphore = Semaphore {
            cell: Cell::allocate(size_of::<Inside>())?,
        };
        semaphore.raw().set(permits);
        semaphore.inside().limit.store(limit, Ordering::Relaxed);
        Ok(semaphore)
    }

    /// The semaphore that another process has made.
    ///
    /// # Errors
    ///
    /// If the cell is too short for one.
    pub fn attach(cell: Cell) -> io::Result<Semaphore> {
        if cell.len() < size_of::<Inside>() as u64 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Semaphore { cell })
    }

    /// Its memory, to hand it on.
    pub fn cell(&self) -> &Cell {
        &self.cell
    }

    fn inside(&self) -> &Inside {
        // SAFETY: the cell is long enough (see `with_limit` and `attach`), and atomics may have any bits.
        unsafe { self.cell.at(0) }
    }

    /// The word itself.
    pub fn raw(&self) -> &RawSemaphore {
        &self.inside().raw
    }

    /// How many permits can be had now.
    pub fn available_permits(&self) -> u32 {
        self.raw().value()
    }

    fn permit(&self) -> Permit<'_> {
        Permit {
            semaphore: self,
            generation: generation(),
        }
    }

    /// Waits for a permit. If those who have the permits are dead, only a [limit](Semaphore::acquire_timeout) ends the wait.
    pub fn acquire(&self) -> Permit<'_> {
        let Ok(_) = self.raw().acquire(None, &mut never_stopped);
        self.permit()
    }

    /// Takes a permit if there is one.
    pub fn try_acquire(&self) -> Option<Permit<'_>> {
        self.raw().try_acquire().then(|| self.permit())
    }

    /// Waits for a permit for `limit` at most: `None` if the time was over.
    ///
    /// ```
    /// use procession::sync::Semaphore;
    /// use std::time::Duration;
    ///
    /// let semaphore = Semaphore::new(0)?;
    /// assert!(semaphore.acquire_timeout(Duration::from_millis(5)).is_none());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn acquire_timeout(&self, limit: Duration) -> Option<Permit<'_>> {
        let Ok(acquired) = self.raw().acquire(Some(limit), &mut never_stopped);
        acquired.then(|| self.permit())
    }

    /// Gives back a permit that was [kept](Permit::forget), or adds one, and lets one go on who waits.
    ///
    /// ```
    /// use procession::sync::{AtLimit, Semaphore};
    ///
    /// let semaphore = Semaphore::with_limit(1, 1)?;
    /// semaphore.acquire().forget();
    /// assert_eq!(semaphore.release(), Ok(()));
    /// assert_eq!(semaphore.release(), Err(AtLimit));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If there are as many permits as the semaphore may have.
    pub fn release(&self) -> Result<(), AtLimit> {
        self.raw().release(self.inside().limit.load(Ordering::Relaxed))
    }
}

/// A permit of a [`Semaphore`]. Dropping it gives it back; in a forked child a copy of it does not, as the permit is the parent's.
#[derive(Debug)]
#[must_use = "the permit is given back at once, if nobody keeps it"]
pub struct Permit<'a> {
    semaphore: &'a Semaphore,
    generation: u32,
}

impl Permit<'_> {
    /// Keeps the permit: it is not given back, unless somebody calls [`Semaphore::release`].
    pub fn forget(self) {
        mem::forget(self);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.generation == generation() {
            let _ = self.semaphore.release();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_are_given_back_when_they_are_dropped() {
        let semaphore = Semaphore::with_limit(2, 3).unwrap();
        let first = semaphore.acquire();
        let second = semaphore.try_acquire().unwrap();
        assert!(semaphore.try_acquire().is_none());
        std::thread::scope(|scope| {
            scope.spawn(|| semaphore.acquire().forget());
            std::thread::sleep(Duration::from_millis(5));
            drop(first);
        });
        drop(second);
        assert_eq!(semaphore.available_permits(), 1);
        assert_eq!((semaphore.release(), semaphore.release()), (Ok(()), Ok(())));
        assert_eq!(semaphore.release(), Err(AtLimit));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert!(Semaphore::with_limit(3, 2).is_err());
        assert!(Semaphore::new(u32::MAX).is_err());
        // Threads share one word through each handle of its memory.
        let semaphore = Semaphore::new(1).unwrap();
        let cell = semaphore.cell();
        let there = Cell::attach(cell.chunk().clone(), cell.offset(), cell.len()).unwrap();
        Semaphore::attach(there).unwrap().acquire().forget();
        assert_eq!(semaphore.available_permits(), 0);
    }
}
