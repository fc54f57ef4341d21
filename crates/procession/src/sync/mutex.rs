//! A value between processes that survives whoever changes it.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::panic::Location;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::guard::Tenure;
use super::memory::Cell;
use super::shared_lock::{SharedLock, ROOM_AT};
use super::waits::Deadlock;

/// Values that can lie in memory which processes share: plain old data.
///
/// All integers and floats are, and arrays of them. For a struct of such fields say so by
///
/// ```
/// use procession::sync::Pod;
///
/// #[derive(Clone, Copy)]
/// #[repr(C)]
/// struct Progress {
///     done: u64,
///     failed: u32,
///     last_code: i32,
/// }
///
/// // SAFETY: it is made of numbers, and has no padding.
/// unsafe impl Pod for Progress {}
/// ```
///
/// # Safety
///
/// Any bytes are a value of the type (so no `bool`, no enum, no reference), and each of its bytes belongs to a field (so no
/// padding). If programs that were built separately share it, its layout is the same in both (`#[repr(C)]`).
pub unsafe trait Pod: Copy + Send + Sync + 'static {}

macro_rules! pod {
    ($($type:ty)+) => {
        // SAFETY: numbers have neither padding nor bytes that are none of their values.
        $(unsafe impl Pod for $type {})+
    };
}

pod!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64);

// SAFETY: an array's elements lie side by side, without gaps.
unsafe impl<T: Pod, const N: usize> Pod for [T; N] {}

/// A value that processes and threads share, and that one at a time may change.
///
/// **The value is never half changed**, whoever dies: the guard holds a copy of it, and if that was changed, it becomes *the*
/// value in one step when the guard is dropped. If the process is killed before, or the thread panics, it is as if it had never
/// locked the mutex. So there is nothing to be told about, and no poison. As a value is copied by each lock (twice, if
/// it is changed), it should not be longer than some KiB; for what is longer use a [`SharedLock`].
///
/// ```
/// use procession::sync::Mutex;
/// use procession::Process;
/// use std::sync::Arc;
///
/// let counter = Arc::new(Mutex::new(0u64)?);
/// let count = |counter: Arc<Mutex<u64>>| move || {
///     for _ in 0..1000 {
///         *counter.lock().unwrap() += 1;
///     }
/// };
/// let processes: Vec<_> = (0..3).map(|_| Process::new(count(counter.clone()))).collect();
/// for process in &processes {
///     process.start()?;
/// }
/// for process in &processes {
///     process.join()?;
/// }
/// assert_eq!(*counter.lock()?, 3000);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Mutex<T: Pod> {
    lock: SharedLock,
    value: PhantomData<T>,
}

const WORD_BYTES: usize = size_of::<AtomicU64>();

impl<T: Pod> Mutex<T> {
    const VALUE_WORDS: usize = size_of::<T>().div_ceil(WORD_BYTES);
    /// The number of the copy that is the value, and two copies.
    const ROOM_BYTES: usize = (1 + 2 * Self::VALUE_WORDS) * WORD_BYTES;

    /// A mutex that nobody holds.
    ///
    /// # Errors
    ///
    /// If the system has no memory or descriptor left.
    #[track_caller]
    pub fn new(value: T) -> io::Result<Mutex<T>> {
        let place = Location::caller();
        let name = format!("made at {}:{}", place.file(), place.line());
        let mutex = Mutex {
            lock: SharedLock::with_room(false, &name, Self::ROOM_BYTES)?,
            value: PhantomData,
        };
        mutex.store(0, &value);
        Ok(mutex)
    }

    /// The mutex that another process has made, of the same type.
    ///
    /// # Errors
    ///
    /// If the cell is too short for one.
    pub fn attach(cell: Cell) -> io::Result<Mutex<T>> {
        if cell.len() < (ROOM_AT + Self::ROOM_BYTES) as u64 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Mutex {
            lock: SharedLock::attach(cell, false)?,
            value: PhantomData,
        })
    }

    /// Its memory, to hand it on.
    pub fn cell(&self) -> &Cell {
        self.lock.cell()
    }

    /// How many owners have died with it so far, each without having changed the value.
    pub fn owner_deaths(&self) -> u32 {
        self.lock.raw().owner_deaths()
    }

    /// Waits for the mutex, and holds it until the guard is dropped. If its owner dies, it goes to the next who waits or asks.
    ///
    /// # Errors
    ///
    /// The deadlock, if the wait would never have ended.
    #[track_caller]
    pub fn lock(&self) -> Result<MutexGuard<'_, T>, Deadlock> {
        self.lock_at(Location::caller())
    }

    pub(super) fn lock_at(&self, place: &'static Location<'static>) -> Result<MutexGuard<'_, T>, Deadlock> {
        self.lock.hold_at(None, place)?;
        Ok(self.guard())
    }

    /// Takes the mutex if it is free or its owner is dead, and never waits. It is a few microseconds' work if it fails.
    ///
    /// ```
    /// use procession::sync::Mutex;
    ///
    /// let mutex = Mutex::new([1.5, 2.5])?;
    /// let guard = mutex.try_lock().unwrap();
    /// assert_eq!(guard[1], 2.5);
    /// assert!(mutex.try_lock().is_none());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.lock.try_acquire_or_recover(true)?;
        Some(self.guard())
    }

    /// As [`lock`](Mutex::lock), but waits for `limit` at most: `None` if the time was over. As such a wait ends by itself, no
    /// deadlock is looked for.
    #[track_caller]
    pub fn lock_timeout(&self, limit: Duration) -> Option<MutexGuard<'_, T>> {
        // Without a watch there is no deadlock to be told of.
        self.lock.hold_at(Some(limit), Location::caller()).ok()??;
        Some(self.guard())
    }

    /// For the owner of the lock.
    fn guard(&self) -> MutexGuard<'_, T> {
        MutexGuard {
            mutex: self,
            value: self.load(self.current()),
            changed: false,
            tenure: Tenure::begin(),
        }
    }

    /// Which copy is the value.
    fn current(&self) -> usize {
        // Sync point *whole value*: pairs with the store in `publish`.
        self.which().load(Ordering::Acquire) as usize & 1
    }

    fn which(&self) -> &AtomicU64 {
        // SAFETY: the cell has that room, which begins at a multiple of 8, and an atomic may have any bits.
        unsafe { self.lock.cell().at(ROOM_AT) }
    }

    fn copy(&self, number: usize) -> &[AtomicU64] {
        let offset = ROOM_AT + (1 + number * Self::VALUE_WORDS) * WORD_BYTES;
        // SAFETY: there is room for two copies behind `which` (see `new` and `attach`), the mapping lives as long as `self`, and
        // atomics may have any bits.
        unsafe {
            let start = self.lock.cell().start().add(offset).cast::<AtomicU64>();
            std::slice::from_raw_parts(start.as_ptr(), Self::VALUE_WORDS)
        }
    }

    // Words are read and written one by one, as a stranger to this protocol may scribble meanwhile.
    fn load(&self, number: usize) -> T {
        let mut value = MaybeUninit::<T>::uninit();
        let bytes = value.as_mut_ptr().cast::<u8>();
        for (index, word) in self.copy(number).iter().enumerate() {
            let at = index * WORD_BYTES;
            let word = word.load(Ordering::Relaxed).to_ne_bytes();
            // SAFETY: these bytes lie inside the value.
            unsafe {
                ptr::copy_nonoverlapping(word.as_ptr(), bytes.add(at), WORD_BYTES.min(size_of::<T>() - at));
            }
        }
        // SAFETY: all its bytes were written, and any bytes are a value of a `Pod`.
        unsafe { value.assume_init() }
    }

    fn store(&self, number: usize, value: &T) {
        let bytes = ptr::from_ref(value).cast::<u8>();
        for (index, word) in self.copy(number).iter().enumerate() {
            let at = index * WORD_BYTES;
            let mut buffer = [0; WORD_BYTES];
            // SAFETY: these bytes lie inside the value, and a `Pod` has no padding, so all of them are initialised.
            unsafe {
                let length = WORD_BYTES.min(size_of::<T>() - at);
                ptr::copy_nonoverlapping(bytes.add(at), buffer.as_mut_ptr(), length);
            }
            word.store(u64::from_ne_bytes(buffer), Ordering::Relaxed);
        }
    }

    /// For the owner of the lock: makes this the value.
    fn publish(&self, value: &T) {
        let other = 1 - self.current();
        crate::crash_point!("mutex-before-copy");
        self.store(other, value);
        crate::crash_point!("mutex-before-publish");
        // Sync point *whole value*: who is killed right after it still holds the lock, so its release cannot order this.
        self.which().store(other as u64, Ordering::Release);
        crate::crash_point!("mutex-before-unlock");
    }
}

/// A [`Mutex`] that the calling thread holds, until this is dropped: then what was changed through it becomes the value.
///
/// It does not if the thread panics. In a process that is forked meanwhile its copy means nothing: the mutex stays the parent's.
#[must_use = "the mutex is released at once, if nobody keeps its guard"]
pub struct MutexGuard<'a, T: Pod> {
    mutex: &'a Mutex<T>,
    value: T,
    changed: bool,
    tenure: Tenure,
}

impl<'a, T: Pod> MutexGuard<'a, T> {
    pub(super) fn mutex(&self) -> &'a Mutex<T> {
        self.mutex
    }

    /// Whether this process has locked the mutex, not only a parent that has forked it.
    pub(super) fn holds(&self) -> bool {
        self.tenure.holds(&self.mutex.lock)
    }
}

impl<T: Pod> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Pod> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.changed = true;
        &mut self.value
    }
}

impl<T: Pod> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        if self.holds() {
            if self.changed && !self.tenure.panicked() {
                self.mutex.publish(&self.value);
            }
            let _ = self.mutex.lock.release();
        }
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

impl<T: Pod + fmt::Display> fmt::Display for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::dies;
    use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};

    #[test]
    fn values_of_any_length_come_back() {
        fn check<T: Pod + PartialEq + fmt::Debug>(first: T, second: T) {
            let mutex = Mutex::new(first).unwrap();
            assert_eq!(*mutex.lock().unwrap(), first);
            *mutex.lock().unwrap() = second;
            assert_eq!(*mutex.lock().unwrap(), second);
            let cell = mutex.cell();
            let there = Cell::attach(cell.chunk().clone(), cell.offset(), cell.len()).unwrap();
            assert_eq!(*Mutex::<T>::attach(there).unwrap().lock().unwrap(), second);
        }
        check(1u8, 255);
        check(-1i16, 7);
        check(1.5f64, -0.5);
        check(u128::MAX, 1);
        check([1u8; 13], [2; 13]);
        check([[7u32; 3]; 500], [[8; 3]; 500]);
        check([0u64; 0], []);
    }

    #[test]
    fn a_panic_changes_nothing() {
        let mutex = Mutex::new(5u32).unwrap();
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            *mutex.lock().unwrap() = 6;
            let mut guard = mutex.lock().unwrap();
            *guard = 7;
            resume_unwind(Box::new("deliberate"));
        }));
        assert!(panicked.is_err());
        assert_eq!(*mutex.try_lock().unwrap(), 6);
    }

    #[test]
    fn memory_that_is_too_short_is_refused() {
        let cell = Cell::allocate(64).unwrap();
        assert!(Mutex::<[u64; 100]>::attach(cell).is_err());
    }

    #[test]
    fn whoever_dies_at_any_step_leaves_the_old_value_or_the_new_one() {
        let mutex = Mutex::new([0u64; 9]).unwrap();
        let mut seen = Vec::new();
        for step in 0.. {
            let before = *mutex.lock().unwrap();
            let died = dies(step, || *mutex.lock().unwrap() = [step + 1; 9]);
            let after = *mutex.lock_timeout(Duration::from_secs(20)).unwrap();
            let new = [step + 1; 9];
            assert!(
                after == new || (died && after == before),
                "step {step}: {after:?}"
            );
            seen.push(after == new);
            if !died {
                break;
            }
        }
        assert_eq!(seen, [false, false, true, true]);
        assert_eq!(mutex.owner_deaths(), 3);
    }
}
