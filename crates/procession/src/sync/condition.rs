//! A condition variable between processes.

use std::io;
use std::panic::Location;
use std::time::{Duration, Instant};

use super::guard::{LockError, SharedLockGuard};
use super::lock::RawLock;
use super::memory::Cell;
use super::mutex::{Mutex, MutexGuard, Pod};
use super::pace::never_stopped;
use super::shared_lock::SharedLock;
use super::wait_queue::WaitQueue;
use super::waits::Deadlock;

/// How long to sleep where there is no room to wait in, before one looks again.
const WITHOUT_A_PLACE: Duration = Duration::from_millis(20);

/// Those who hold a lock may wait here for others, who hold it later, to notify them: a condition variable between processes.
///
/// It goes with the guards of a [`Mutex`] and of a [`SharedLock`]. Whoever waits goes on when notified, and in the order of
/// coming. As a notification is given only to a waiter that is alive, **one that is killed while it waits takes none away from the
/// others**. A waiter that is killed after it was notified has had its notification; whoever notifies and wants more than that
/// notifies all.
///
/// A wait does not end without a reason, unless more than 1024 threads wait: of these the surplus ones look every 20 ms
/// whether they may go on. So wait in a loop, or by [`wait_while`](Condition::wait_while).
///
/// ```
/// use procession::sync::{Condition, Mutex};
/// use procession::Process;
/// use std::sync::Arc;
///
/// let stock = Arc::new((Mutex::new(0u32)?, Condition::new()?));
/// let theirs = stock.clone();
/// let baker = Process::new(move || {
///     let (loaves, baked) = &*theirs;
///     *loaves.lock().unwrap() += 1;
///     baked.notify_one();
/// });
/// baker.start()?;
/// let (loaves, baked) = &*stock;
/// let mut left = baked.wait_while(loaves.lock()?, |loaves| *loaves == 0)?;
/// *left -= 1;
/// drop(left);
/// baker.join()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "Condvar")]
#[derive(Debug)]
pub struct Condition {
    /// Behind it lies the lock under which its places change hands.
    waiters: WaitQueue,
}

/// Whether a wait ended because its time was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitTimeoutResult {
    timed_out: bool,
}

impl WaitTimeoutResult {
    /// Whether the time was over before the waiter was notified.
    pub fn timed_out(&self) -> bool {
        self.timed_out
    }
}

mod sealed {
    pub trait Sealed {}
}

/// The guards that a [`Condition`] knows: [`MutexGuard`] and [`SharedLockGuard`].
pub trait ConditionGuard: sealed::Sealed + Sized {
    /// How locking fails: [`Deadlock`], or [`LockError`].
    type Error;
    /// What it guards: the value of a [`Mutex`], or nothing that is known.
    type Value;
    /// What it takes to make the guard again.
    #[doc(hidden)]
    type Rest;

    #[doc(hidden)]
    fn value(&self) -> &Self::Value;
    #[doc(hidden)]
    fn is_held(&self) -> bool;
    #[doc(hidden)]
    fn give_away(self) -> Self::Rest;
    #[doc(hidden)]
    fn take_back(rest: Self::Rest, place: &'static Location<'static>) -> Result<Self, Self::Error>;
    /// Whether one who got this error has no lock.
    #[doc(hidden)]
    fn is_lost(error: &Self::Error) -> bool;
}

impl<T: Pod> sealed::Sealed for MutexGuard<'_, T> {}

impl<'a, T: Pod> ConditionGuard for MutexGuard<'a, T> {
    type Error = Deadlock;
    type Value = T;
    type Rest = &'a Mutex<T>;

    fn value(&self) -> &T {
        self
    }

    fn is_held(&self) -> bool {
        self.holds()
    }

    fn give_away(self) -> &'a Mutex<T> {
        self.mutex()
    }

    fn take_back(mutex: &'a Mutex<T>, place: &'static Location<'static>) -> Result<Self, Deadlock> {
        mutex.lock_at(place)
    }

    fn is_lost(_: &Deadlock) -> bool {
        true
    }
}

impl sealed::Sealed for SharedLockGuard<'_> {}

impl<'a> ConditionGuard for SharedLockGuard<'a> {
    type Error = LockError<SharedLockGuard<'a>>;
    type Value = ();
    /// With how often its owner has it.
    type Rest = (&'a SharedLock, u32);

    fn value(&self) -> &() {
        &()
    }

    fn is_held(&self) -> bool {
        self.holds()
    }

    fn give_away(self) -> Self::Rest {
        let lock = self.lock();
        let depth = lock.depth();
        // The guard itself releases it for the last time.
        for _ in 1..depth {
            let _ = lock.release();
        }
        (lock, depth)
    }

    fn take_back((lock, depth): Self::Rest, place: &'static Location<'static>) -> Result<Self, Self::Error> {
        let guard = lock.lock_at(place);
        if !guard.as_ref().is_err_and(Self::is_lost) {
            for _ in 1..depth {
                lock.try_acquire(true);
            }
        }
        guard
    }

    fn is_lost(error: &Self::Error) -> bool {
        !matches!(error, LockError::Poisoned(_))
    }
}

impl Condition {
    /// A condition that nobody waits for.
    ///
    /// # Errors
    ///
    /// If the system has no memory or descriptor left.
    pub fn new() -> io::Result<Condition> {
        Ok(Condition {
            waiters: WaitQueue::with_room(size_of::<RawLock>())?,
        })
    }

    /// The condition that another process has made.
    ///
    /// # Errors
    ///
    /// If the cell is too short for one.
    pub fn attach(cell: Cell) -> io::Result<Condition> {
        Ok(Condition {
            waiters: WaitQueue::attach_with_room(cell, size_of::<RawLock>())?,
        })
    }

    /// Its memory, to hand it on.
    pub fn cell(&self) -> &Cell {
        self.waiters.cell()
    }

    fn table(&self) -> &RawLock {
        // SAFETY: a lock's fields are atomics, which may have any bits and are only changed as such.
        unsafe { self.waiters.room() }
    }

    /// Releases the lock, waits to be notified, and locks again. Who notifies while it holds the lock, or after it has held it,
    /// misses nobody who waits.
    ///
    /// A recursive lock is released altogether, and locked as often as before.
    ///
    /// # Errors
    ///
    /// As of locking. If the lock could not be got again, the notification goes to another waiter.
    ///
    /// # Panics
    ///
    /// If the lock is not the calling thread's: the guard was inherited by a fork, or the lock was released by hand.
    #[track_caller]
    pub fn wait<G: ConditionGuard>(&self, guard: G) -> Result<G, G::Error> {
        self.wait_at(guard, None, Location::caller())
            .map(|(guard, _)| guard)
    }

    /// As [`wait`](Condition::wait), but waits to be notified for `limit` at most. That it has the lock again may take
    /// longer.
    ///
    /// ```
    /// use procession::sync::{Condition, Mutex};
    /// use std::time::Duration;
    ///
    /// let (mutex, condition) = (Mutex::new(0)?, Condition::new()?);
    /// let (guard, waited) = condition.wait_timeout(mutex.lock()?, Duration::from_millis(5))?;
    /// assert!(waited.timed_out() && *guard == 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`wait`](Condition::wait).
    ///
    /// # Panics
    ///
    /// As [`wait`](Condition::wait).
    #[track_caller]
    pub fn wait_timeout<G: ConditionGuard>(
        &self,
        guard: G,
        limit: Duration,
    ) -> Result<(G, WaitTimeoutResult), G::Error> {
        self.wait_at(guard, Some(limit), Location::caller())
    }

    /// Waits as long as `condition` is true of what the lock guards. It is asked at first, and whenever the waiter was
    /// notified; in between it is not.
    ///
    /// # Errors
    ///
    /// As [`wait`](Condition::wait).
    ///
    /// # Panics
    ///
    /// As [`wait`](Condition::wait).
    #[track_caller]
    pub fn wait_while<G: ConditionGuard>(
        &self,
        mut guard: G,
        mut condition: impl FnMut(&G::Value) -> bool,
    ) -> Result<G, G::Error> {
        let place = Location::caller();
        while condition(guard.value()) {
            guard = self.wait_at(guard, None, place)?.0;
        }
        Ok(guard)
    }

    /// As [`wait_while`](Condition::wait_while), for `limit` at most. The time was over if `condition` is true at the end.
    ///
    /// # Errors
    ///
    /// As [`wait`](Condition::wait).
    ///
    /// # Panics
    ///
    /// As [`wait`](Condition::wait).
    #[track_caller]
    pub fn wait_timeout_while<G: ConditionGuard>(
        &self,
        mut guard: G,
        limit: Duration,
        mut condition: impl FnMut(&G::Value) -> bool,
    ) -> Result<(G, WaitTimeoutResult), G::Error> {
        let place = Location::caller();
        let begin = Instant::now();
        loop {
            let timed_out = condition(guard.value());
            let left = limit.saturating_sub(begin.elapsed());
            if !timed_out || left.is_zero() {
                return Ok((guard, WaitTimeoutResult { timed_out }));
            }
            guard = self.wait_at(guard, Some(left), place)?.0;
        }
    }

    fn wait_at<G: ConditionGuard>(
        &self,
        guard: G,
        limit: Option<Duration>,
        place: &'static Location<'static>,
    ) -> Result<(G, WaitTimeoutResult), G::Error> {
        assert!(
            guard.is_held(),
            "the lock is not the calling thread's: was its guard inherited by a fork, or the lock released by hand?"
        );
        let entered = {
            let _held = self.table().hold();
            self.waiters.enter()
        };
        let rest = guard.give_away();
        let notified = entered.map(|seat| {
            let Ok(_) = self.waiters.wait(seat, limit, &mut never_stopped);
            let _held = self.table().hold();
            self.waiters.leave(seat)
        });
        let timed_out = match notified {
            Ok(notified) => !notified,
            Err(_) => {
                std::thread::sleep(limit.unwrap_or(WITHOUT_A_PLACE).min(WITHOUT_A_PLACE));
                limit.is_some_and(|limit| limit <= WITHOUT_A_PLACE)
            }
        };
        let taken = G::take_back(rest, place);
        if notified == Ok(true) && taken.as_ref().is_err_and(G::is_lost) {
            // What was meant for somebody who goes on must not end with one who does not.
            self.notify_one();
        }
        Ok((taken?, WaitTimeoutResult { timed_out }))
    }

    /// Lets the one go on who has waited longest; `false` if nobody waits.
    ///
    /// The caller need not hold the lock, but must have held it when it changed what is waited for.
    pub fn notify_one(&self) -> bool {
        self.notify_n(1) == 1
    }

    /// Lets up to `count` go on, those who have waited longest, and says how many it were.
    ///
    /// ```
    /// let condition = procession::sync::Condition::new()?;
    /// assert_eq!(condition.notify_n(3), 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn notify_n(&self, count: usize) -> usize {
        let _held = self.table().hold();
        self.waiters.notify(count)
    }

    /// Lets all go on who wait, and says how many it were.
    pub fn notify_all(&self) -> usize {
        self.notify_n(usize::MAX)
    }

    /// How many wait who have not been notified; the dead count until a notification passes them.
    pub fn waiting(&self) -> usize {
        self.waiters.waiting()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::dies;
    use std::thread;

    const LONG: Duration = Duration::from_secs(20);
    const SOON: Duration = Duration::from_millis(2);

    fn wait_until_waiting(condition: &Condition, count: usize) {
        while condition.waiting() != count {
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn turns_go_to_and_fro_thousands_of_times() {
        let turn = Mutex::new(0u64).unwrap();
        let changed = Condition::new().unwrap();
        thread::scope(|scope| {
            for me in 0..3 {
                let (turn, changed) = (&turn, &changed);
                scope.spawn(move || {
                    for _ in 0..2000 {
                        let mut now = changed
                            .wait_while(turn.lock().unwrap(), |turn| turn % 3 != me)
                            .unwrap();
                        *now += 1;
                        drop(now);
                        changed.notify_all();
                    }
                });
            }
        });
        assert_eq!(*turn.lock().unwrap(), 6000);
        assert_eq!((changed.waiting(), changed.waiters.taken()), (0, 0));
    }

    #[test]
    fn notifications_are_counted_and_go_in_the_order_of_coming() {
        let lock = SharedLock::new(false, "test").unwrap();
        let condition = Condition::new().unwrap();
        let order = std::sync::Mutex::new(Vec::new());
        thread::scope(|scope| {
            for number in 0..4 {
                let (lock, condition, order) = (&lock, &condition, &order);
                scope.spawn(move || {
                    let guard = lock.lock().unwrap();
                    let _guard = condition.wait(guard).unwrap();
                    order.lock().unwrap().push(number);
                });
                wait_until_waiting(condition, number + 1);
            }
            assert!(condition.notify_one());
            while order.lock().unwrap().is_empty() {
                thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(condition.notify_n(2), 2);
            wait_until_waiting(&condition, 1);
            assert_eq!(condition.notify_all(), 1);
        });
        let mut order = order.into_inner().unwrap();
        assert_eq!((order[0], order.len()), (0, 4));
        order.sort_unstable();
        assert_eq!(order, [0, 1, 2, 3]);
        assert!(!condition.notify_one());
    }

    #[test]
    fn a_wait_gives_a_recursive_lock_away_altogether_and_takes_it_back() {
        let lock = SharedLock::new(true, "test").unwrap();
        let condition = Condition::new().unwrap();
        let outer = lock.lock().unwrap();
        let inner = lock.lock().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let guard = lock.lock_timeout(LONG).unwrap();
                assert!(condition.notify_one());
                drop(guard);
            });
            let inner = condition.wait(inner).unwrap();
            assert_eq!(lock.depth(), 2);
            drop(inner);
        });
        drop(outer);
        assert!(!lock.raw().is_locked());
    }

    #[test]
    fn waits_with_a_limit_say_whether_the_time_was_over() {
        let mutex = Mutex::new(1u8).unwrap();
        let condition = Condition::new().unwrap();
        let begin = Instant::now();
        let (guard, result) = condition.wait_timeout(mutex.lock().unwrap(), SOON).unwrap();
        assert!(result.timed_out() && begin.elapsed() >= SOON);
        let (guard, result) = condition
            .wait_timeout_while(guard, SOON, |value| *value == 1)
            .unwrap();
        assert!(result.timed_out());
        let (guard, result) = condition
            .wait_timeout_while(guard, Duration::ZERO, |value| *value == 2)
            .unwrap();
        assert!(!result.timed_out());
        drop(guard);
        assert_eq!(condition.waiters.taken(), 0);
    }

    #[test]
    fn who_finds_no_place_looks_from_time_to_time() {
        let mutex = Mutex::new(false as u8).unwrap();
        let condition = Condition::new().unwrap();
        while condition.waiters.enter().is_ok() {}
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(50));
                *mutex.lock().unwrap() = 1;
            });
            let guard = condition.wait_while(mutex.lock().unwrap(), |done| *done == 0);
            assert_eq!(*guard.unwrap(), 1);
        });
        let (_, result) = condition.wait_timeout(mutex.lock().unwrap(), SOON).unwrap();
        assert!(result.timed_out());
    }

    #[test]
    fn a_wait_that_comes_back_to_a_lock_of_the_dead_tells_of_it() {
        let lock = SharedLock::new(false, "test").unwrap();
        let condition = Condition::new().unwrap();
        let guard = lock.lock().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                wait_until_waiting(&condition, 1);
                while lock.raw().is_locked() {
                    thread::sleep(Duration::from_millis(1));
                }
                // One who dies with both locks, after it has notified.
                assert!(dies(1, || {
                    std::mem::forget(lock.lock());
                    condition.notify_all();
                    crate::crash_point!("end");
                }));
                condition.notify_all();
            });
            assert!(matches!(condition.wait(guard), Err(LockError::Poisoned(_))));
        });
    }

    #[test]
    fn whoever_dies_at_any_step_of_a_notification_leaves_the_condition_usable() {
        let mutex = Mutex::new(0u8).unwrap();
        let condition = Condition::new().unwrap();
        for step in 0.. {
            let died = thread::scope(|scope| {
                let waiters: Vec<_> = (0..2)
                    .map(|_| scope.spawn(|| condition.wait_timeout(mutex.lock().unwrap(), LONG).unwrap().1))
                    .collect();
                wait_until_waiting(&condition, 2);
                let died = dies(step, || {
                    condition.notify_all();
                });
                condition.notify_all();
                for waiter in waiters {
                    assert!(!waiter.join().unwrap().timed_out(), "step {step}");
                }
                died
            });
            assert_eq!(condition.waiters.taken(), 0);
            if !died {
                assert!(step >= 2);
                break;
            }
        }
    }

    #[test]
    fn whoever_dies_at_any_step_of_a_wait_takes_nothing_away() {
        let mutex = Mutex::new(0u8).unwrap();
        let condition = Condition::new().unwrap();
        for step in 0.. {
            let died = dies(step, || {
                let _ = condition.wait_timeout(mutex.lock().unwrap(), SOON);
            });
            thread::scope(|scope| {
                let before = condition.waiting();
                let waiter = scope.spawn(|| condition.wait_timeout(mutex.lock().unwrap(), LONG).unwrap().1);
                wait_until_waiting(&condition, before + 1);
                // The dead one may have been the first.
                assert!(condition.notify_one());
                assert!(!waiter.join().unwrap().timed_out(), "step {step}");
            });
            if !died {
                break;
            }
        }
    }
}
