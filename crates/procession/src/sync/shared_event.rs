//! A flag with its memory.

use std::io;
use std::time::Duration;

use super::event::RawEvent;
use super::memory::Cell;
use super::pace::never_stopped;

/// A flag between processes: those who wait for it go on when it is set.
///
/// Who waited when it was set goes on even if it is cleared again at once, or if who has set it was killed in between.
///
/// ```
/// use procession::sync::Event;
/// use procession::Process;
/// use std::sync::Arc;
///
/// let ready = Arc::new(Event::new()?);
/// let theirs = ready.clone();
/// let process = Process::new(move || theirs.set());
/// process.start()?;
/// ready.wait();
/// assert!(ready.is_set());
/// process.join()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Event {
    cell: Cell,
}

impl Event {
    /// A flag that is not set.
    ///
    /// # Errors
    ///
    /// If the system has no memory or descriptor left.
    pub fn new() -> io::Result<Event> {
        Ok(Event {
            cell: Cell::allocate(size_of::<RawEvent>())?,
        })
    }

    /// The event that another process has made.
    ///
    /// # Errors
    ///
    /// If the cell is too short for one.
    pub fn attach(cell: Cell) -> io::Result<Event> {
        if cell.len() < size_of::<RawEvent>() as u64 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Event { cell })
    }

    /// Its memory, to hand it on.
    pub fn cell(&self) -> &Cell {
        &self.cell
    }

    /// The word itself.
    pub fn raw(&self) -> &RawEvent {
        // SAFETY: the cell is long enough (see `new` and `attach`), and an atomic may have any bits.
        unsafe { self.cell.at(0) }
    }

    /// Whether the flag is set.
    pub fn is_set(&self) -> bool {
        self.raw().is_set()
    }

    /// Sets the flag, and lets all go on who wait for it.
    pub fn set(&self) {
        self.raw().set();
    }

    /// Takes the flag back.
    pub fn clear(&self) {
        self.raw().clear();
    }

    /// Waits until the flag is set. An event has no owner: if who was to set it is dead, only a
    /// [limit](Event::wait_timeout) ends the wait.
    pub fn wait(&self) {
        let Ok(_) = self.raw().wait(None, &mut never_stopped);
    }

    /// Waits until the flag is set, for `limit` at most; `false` if the time was over.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let event = procession::sync::Event::new()?;
    /// assert!(!event.wait_timeout(Duration::from_millis(5)));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn wait_timeout(&self, limit: Duration) -> bool {
        let Ok(set) = self.raw().wait(Some(limit), &mut never_stopped);
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_event_is_seen_through_each_handle_of_its_memory() {
        let event = Event::new().unwrap();
        let cell = event.cell();
        let there = Cell::attach(cell.chunk().clone(), cell.offset(), cell.len()).unwrap();
        let same = Event::attach(there).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| event.wait());
            std::thread::sleep(Duration::from_millis(5));
            same.set();
        });
        assert!(event.is_set() && event.wait_timeout(Duration::ZERO));
        event.clear();
        assert!(!same.wait_timeout(Duration::from_millis(1)));
    }
}
