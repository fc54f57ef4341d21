//! A barrier between processes.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::lock::{Held, RawLock};
use super::memory::Cell;
use super::pace::Pace;
use super::wait_queue::{WaitQueue, NOTIFIED, PLACES, WAITING};
use crate::error::{Error, Kind};
use crate::os::time::monotonic_ns;

/// How often those who wait look for the dead among them; one of them does it for all.
const LOOK_EVERY_NS: u64 = 50_000_000;

/// How a round ends, as a place's state.
const PASSED: u32 = NOTIFIED;
const TIMED_OUT: u32 = PASSED + 1;
const ABORTED: u32 = PASSED + 2;
const RESET: u32 = PASSED + 3;
const PARTY_DIED: u32 = PASSED + 4;

const OUTCOME: u32 = 0xFF;
const BROKEN: u32 = 0x100;
const ONE_ROUND: u32 = 0x200;

/// What lies behind the queue of those who wait. All of it changes under the lock.
#[repr(C)]
#[derive(Debug)]
struct Inside {
    lock: RawLock,
    parties: AtomicU32,
    /// How the last round ended, whether the barrier is broken, and how many rounds there were. To write it is to end a round.
    ended: AtomicU32,
    /// The last `ended` of which all who waited have been told.
    told: AtomicU32,
    _reserved: AtomicU32,
    looked_ns: AtomicU64,
}

/// So many parties wait for each other, again and again.
///
/// **Nobody waits for ever for one that died waiting**: the barrier breaks within a quarter of a second, and all who wait or come get
/// [`BrokenBarrier::PartyDied`], until it is [reset](Barrier::reset). It breaks, too, if the time of one who waits is over, or if
/// somebody [aborts](Barrier::abort) it. That a party died *before* it came is not seen, as nobody knows who will come: where that may
/// happen, wait [with a limit](Barrier::wait_timeout).
///
/// ```
/// use procession::sync::Barrier;
/// use procession::Process;
/// use std::sync::Arc;
///
/// let start = Arc::new(Barrier::new(3)?);
/// let processes: Vec<_> = (0..2)
///     .map(|_| {
///         let start = start.clone();
///         Process::new(move || start.wait().map(|_| ()))
///     })
///     .collect();
/// for process in &processes {
///     process.start()?;
/// }
/// let mine = start.wait()?;
/// assert!(mine.index() < 3);
/// for process in &processes {
///     assert!(process.join()?.success());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Barrier {
    /// The parties that have come in this round, and those of earlier ones that have not left yet.
    entrants: WaitQueue,
}

/// One party's part in a round that is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BarrierWaitResult {
    index: u32,
    is_leader: bool,
}

impl BarrierWaitResult {
    /// Which one came: a number from 0 that is different in each party of a round.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// True for one party of each round: the one that came last.
    pub fn is_leader(&self) -> bool {
        self.is_leader
    }
}

/// Why a round was not completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BrokenBarrier {
    /// The time of one who waited was over: of this one or of another.
    TimedOut,
    /// Somebody called [`Barrier::abort`].
    Aborted,
    /// Somebody called [`Barrier::reset`]. The barrier can be used again.
    Reset,
    /// A process died while it waited.
    PartyDied,
}

impl BrokenBarrier {
    fn from_outcome(outcome: u32) -> BrokenBarrier {
        match outcome {
            TIMED_OUT => BrokenBarrier::TimedOut,
            RESET => BrokenBarrier::Reset,
            PARTY_DIED => BrokenBarrier::PartyDied,
            _ => BrokenBarrier::Aborted,
        }
    }
}

impl fmt::Display for BrokenBarrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BrokenBarrier::TimedOut => "the barrier is broken: a party waited longer than it wanted to",
            BrokenBarrier::Aborted => "the barrier is broken: it was aborted",
            BrokenBarrier::Reset => "the round was not completed: the barrier was reset",
            BrokenBarrier::PartyDied => "the barrier is broken: a process died while it waited",
        })
    }
}

impl std::error::Error for BrokenBarrier {}

impl From<BrokenBarrier> for Error {
    fn from(reason: BrokenBarrier) -> Error {
        Error::new(Kind::BarrierBroken {
            reason: reason.to_string(),
        })
    }
}

/// One who came.
enum Arrival {
    Last { index: u32 },
    Early { index: u32, place: usize },
    NoRoom,
}

impl Barrier {
    /// A barrier for so many parties, which may be processes or threads.
    ///
    /// # Errors
    ///
    /// If there are none or more than 1024 parties, or the system has no memory or descriptor left.
    pub fn new(parties: u32) -> io::Result<Barrier> {
        if !(1..=PLACES as u32).contains(&parties) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a barrier has 1 to {PLACES} parties, not {parties}"),
            ));
        }
        let barrier = Barrier {
            entrants: WaitQueue::with_room(size_of::<Inside>())?,
        };
        barrier.inside().parties.store(parties, Ordering::Relaxed);
        Ok(barrier)
    }

    /// The barrier that another process has made.
    ///
    /// # Errors
    ///
    /// If the cell is too short for one.
    pub fn attach(cell: Cell) -> io::Result<Barrier> {
        Ok(Barrier {
            entrants: WaitQueue::attach_with_room(cell, size_of::<Inside>())?,
        })
    }

    /// Its memory, to hand it on.
    pub fn cell(&self) -> &Cell {
        self.entrants.cell()
    }

    fn inside(&self) -> &Inside {
        // SAFETY: the fields are atomics, which may have any bits and are only changed as such.
        unsafe { self.entrants.room() }
    }

    /// How many wait for each other.
    pub fn parties(&self) -> u32 {
        self.inside().parties.load(Ordering::Relaxed)
    }

    /// How many have come in this round; the dead count until they are noticed.
    pub fn n_waiting(&self) -> u32 {
        self.entrants.waiting() as u32
    }

    /// Whether nobody can pass until the barrier is [reset](Barrier::reset).
    pub fn is_broken(&self) -> bool {
        self.inside().ended.load(Ordering::Relaxed) & BROKEN != 0
    }

    /// Waits until all parties have come.
    ///
    /// # Errors
    ///
    /// If the round cannot be completed.
    pub fn wait(&self) -> Result<BarrierWaitResult, BrokenBarrier> {
        self.wait_within(None)
    }

    /// Waits until all parties have come, for `limit` at most. If the time is over, the barrier breaks.
    ///
    /// ```
    /// use procession::sync::{Barrier, BrokenBarrier};
    /// use std::time::Duration;
    ///
    /// let barrier = Barrier::new(2)?;
    /// assert_eq!(barrier.wait_timeout(Duration::from_millis(5)), Err(BrokenBarrier::TimedOut));
    /// assert!(barrier.is_broken());
    /// barrier.reset();
    /// assert!(!barrier.is_broken());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the round cannot be completed.
    pub fn wait_timeout(&self, limit: Duration) -> Result<BarrierWaitResult, BrokenBarrier> {
        self.wait_within(Some(limit))
    }

    /// Breaks the barrier: all who wait or come get [`BrokenBarrier::Aborted`].
    pub fn abort(&self) {
        let _held = self.hold();
        self.end(ABORTED | BROKEN);
    }

    /// Makes the barrier as it was at first. All who wait get [`BrokenBarrier::Reset`].
    pub fn reset(&self) {
        let _held = self.hold();
        self.end(RESET);
    }

    /// Takes the lock, and finishes what one who was killed with it has begun.
    fn hold(&self) -> Held<'_> {
        let held = self.inside().lock.hold();
        self.tell();
        held
    }

    /// Ends the round. This is one store, so that all who waited see the same end of it, also if we are killed.
    fn end(&self, how: u32) {
        let ended = &self.inside().ended;
        let rounds = (ended.load(Ordering::Relaxed) & !(OUTCOME | BROKEN)).wrapping_add(ONE_ROUND);
        crate::crash_point!("barrier-before-end");
        ended.store(rounds | how, Ordering::Relaxed);
        crate::crash_point!("barrier-before-telling");
        self.tell();
    }

    /// Tells all who waited how the last round ended, unless they have been told.
    fn tell(&self) {
        let inside = self.inside();
        let ended = inside.ended.load(Ordering::Relaxed);
        if inside.told.load(Ordering::Relaxed) != ended {
            self.entrants.tell_all((ended & OUTCOME).max(PASSED));
            crate::crash_point!("barrier-before-told");
            inside.told.store(ended, Ordering::Relaxed);
        }
    }

    /// Breaks the barrier if a party has died waiting. Needs the lock.
    fn break_if_dead(&self) -> Result<(), BrokenBarrier> {
        if self.entrants.sweep_waiting() == 0 {
            return Ok(());
        }
        self.end(PARTY_DIED | BROKEN);
        Err(BrokenBarrier::PartyDied)
    }

    fn come(&self) -> Result<Arrival, BrokenBarrier> {
        let _held = self.hold();
        let ended = self.inside().ended.load(Ordering::Relaxed);
        if ended & BROKEN != 0 {
            return Err(BrokenBarrier::from_outcome(ended & OUTCOME));
        }
        let index = self.n_waiting();
        let is_last = index + 1 >= self.parties();
        // A full table is swept by `enter`, too, which would not know that a party has died.
        if is_last || self.entrants.taken() == PLACES {
            self.break_if_dead()?;
        }
        let Ok(place) = self.entrants.enter() else {
            return Ok(Arrival::NoRoom);
        };
        if is_last {
            // It has a place like everybody else: if it dies before the round has ended, it is found there.
            self.end(PASSED);
            self.entrants.leave(place);
            return Ok(Arrival::Last { index });
        }
        Ok(Arrival::Early { index, place })
    }

    fn wait_within(&self, limit: Option<Duration>) -> Result<BarrierWaitResult, BrokenBarrier> {
        let pace = Pace::begin(limit);
        loop {
            match self.come()? {
                Arrival::Last { index } => {
                    return Ok(BarrierWaitResult {
                        index,
                        is_leader: true,
                    })
                }
                Arrival::Early { index, place } => {
                    let left = limit.map(|limit| limit.saturating_sub(pace.waited()));
                    return self.wait_for_others(place, left).map(|()| BarrierWaitResult {
                        index,
                        is_leader: false,
                    });
                }
                // Those of earlier rounds will leave when they have noticed that these are over.
                Arrival::NoRoom => match pace.slice() {
                    Some(slice) => std::thread::sleep(slice),
                    None => {
                        let _held = self.hold();
                        self.end(TIMED_OUT | BROKEN);
                        return Err(BrokenBarrier::TimedOut);
                    }
                },
            }
        }
    }

    fn wait_for_others(&self, place: usize, limit: Option<Duration>) -> Result<(), BrokenBarrier> {
        let Ok(_) = self.entrants.wait(place, limit, &mut |_| {
            self.look();
            Ok::<(), std::convert::Infallible>(())
        });
        let _held = self.hold();
        if self.entrants.state(place) == WAITING {
            self.end(TIMED_OUT | BROKEN);
        }
        let outcome = self.entrants.state(place);
        self.entrants.leave(place);
        match outcome {
            PASSED => Ok(()),
            other => Err(BrokenBarrier::from_outcome(other)),
        }
    }

    /// What one who waits does from time to time.
    fn look(&self) {
        let inside = self.inside();
        let is_due = || {
            let since_ns = monotonic_ns().wrapping_sub(inside.looked_ns.load(Ordering::Relaxed));
            since_ns >= LOOK_EVERY_NS
        };
        let all_told = inside.told.load(Ordering::Relaxed) == inside.ended.load(Ordering::Relaxed);
        if all_told && !is_due() {
            return;
        }
        let _held = self.hold();
        if is_due() {
            inside.looked_ns.store(monotonic_ns(), Ordering::Relaxed);
            // Those who wait, this one among them, find the outcome in their places.
            let _ = self.break_if_dead();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::identity::Identity;
    use super::*;
    use crate::crash::dies;
    use std::sync::Mutex;
    use std::thread;

    const LONG: Duration = Duration::from_secs(20);

    fn wait_until_waiting(barrier: &Barrier, count: u32) {
        while barrier.n_waiting() != count {
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn nobody_passes_before_all_have_come_in_thousands_of_rounds() {
        const PARTIES: u32 = 4;
        const ROUNDS: u32 = 2000;
        let barrier = Barrier::new(PARTIES).unwrap();
        let come = AtomicU32::new(0);
        let indices = AtomicU32::new(0);
        let leaders = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..PARTIES {
                scope.spawn(|| {
                    for round in 1..=ROUNDS {
                        come.fetch_add(1, Ordering::Relaxed);
                        let result = barrier.wait_timeout(LONG).unwrap();
                        assert!(come.load(Ordering::Relaxed) >= round * PARTIES);
                        indices.fetch_add(result.index(), Ordering::Relaxed);
                        leaders.fetch_add(u32::from(result.is_leader()), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(indices.into_inner(), ROUNDS * (1 + 2 + 3));
        assert_eq!(leaders.into_inner(), ROUNDS);
        assert_eq!((barrier.n_waiting(), barrier.entrants.taken()), (0, 0));
    }

    #[test]
    fn abort_breaks_and_reset_repairs_and_both_are_told() {
        let barrier = Barrier::new(3).unwrap();
        let told = Mutex::new(Vec::new());
        let two_wait_until = |then: &dyn Fn()| {
            thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        let outcome = barrier.wait_timeout(LONG);
                        told.lock().unwrap().push(outcome);
                    });
                }
                wait_until_waiting(&barrier, 2);
                then();
            });
            std::mem::take(&mut *told.lock().unwrap())
        };
        let reset = two_wait_until(&|| barrier.reset());
        assert_eq!(reset, [Err(BrokenBarrier::Reset); 2]);
        assert!(!barrier.is_broken());
        let aborted = two_wait_until(&|| barrier.abort());
        assert_eq!(aborted, [Err(BrokenBarrier::Aborted); 2]);
        assert!(barrier.is_broken());
        assert_eq!(barrier.wait(), Err(BrokenBarrier::Aborted));
        barrier.reset();
        let passed = two_wait_until(&|| {
            assert_eq!(barrier.wait().unwrap().index(), 2);
        });
        assert!(passed.iter().all(Result::is_ok));
    }

    #[test]
    fn a_party_whose_time_is_over_breaks_it_for_all() {
        let barrier = Barrier::new(3).unwrap();
        thread::scope(|scope| {
            let patient = scope.spawn(|| barrier.wait_timeout(LONG));
            wait_until_waiting(&barrier, 1);
            assert_eq!(
                barrier.wait_timeout(Duration::from_millis(2)),
                Err(BrokenBarrier::TimedOut)
            );
            assert_eq!(patient.join().unwrap(), Err(BrokenBarrier::TimedOut));
        });
    }

    #[test]
    fn one_party_passes_at_once_and_impossible_numbers_are_refused() {
        assert!(Barrier::new(1).unwrap().wait().unwrap().is_leader());
        assert!(Barrier::new(0).is_err());
        assert!(Barrier::new(PLACES as u32 + 1).is_err());
    }

    #[test]
    fn a_place_of_the_dead_breaks_it_for_those_who_wait_and_for_the_last_to_come() {
        let barrier = Barrier::new(2).unwrap();
        let me = Identity::current();
        let dead = Identity::new(me.pid(), 1, 12345);
        barrier.entrants.enter_as(dead);
        assert_eq!(barrier.wait_timeout(LONG), Err(BrokenBarrier::PartyDied));
        let larger = Barrier::new(3).unwrap();
        larger.entrants.enter_as(dead);
        assert_eq!(larger.wait_timeout(LONG), Err(BrokenBarrier::PartyDied));
        // One that died after its round was over is no party of the next.
        let passed = Barrier::new(2).unwrap();
        let place = passed.entrants.enter_as(dead);
        passed.entrants.tell_all(PASSED);
        assert_eq!((passed.n_waiting(), passed.entrants.state(place)), (0, PASSED));
        thread::scope(|scope| {
            scope.spawn(|| passed.wait_timeout(LONG).unwrap());
            passed.wait_timeout(LONG).unwrap();
        });
    }

    #[test]
    fn who_finds_no_place_waits_for_one() {
        let barrier = Barrier::new(2).unwrap();
        let places: Vec<_> = std::iter::from_fn(|| barrier.entrants.enter().ok()).collect();
        barrier.entrants.tell_all(PASSED);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| barrier.wait_timeout(LONG).unwrap());
            }
            thread::sleep(Duration::from_millis(10));
            for place in places {
                let _held = barrier.hold();
                barrier.entrants.leave(place);
            }
        });
        while barrier.entrants.enter().is_ok() {}
        barrier.entrants.tell_all(PASSED);
        let soon = Duration::from_millis(2);
        assert_eq!(barrier.wait_timeout(soon), Err(BrokenBarrier::TimedOut));
    }

    #[test]
    fn if_the_last_party_dies_at_any_step_all_others_see_the_same_end() {
        // Before its first step is over it has not come.
        for step in 1.. {
            let barrier = Barrier::new(3).unwrap();
            let (outcomes, died) = thread::scope(|scope| {
                let waiters = [(); 2].map(|()| scope.spawn(|| barrier.wait_timeout(LONG)));
                wait_until_waiting(&barrier, 2);
                let died = dies(step, || {
                    let _ = barrier.wait();
                });
                (waiters.map(|waiter| waiter.join().unwrap()), died)
            });
            match outcomes {
                [Ok(one), Ok(other)] => {
                    assert_eq!(one.index() + other.index(), 1);
                    assert!(!barrier.is_broken());
                }
                broken => assert_eq!(broken, [Err(BrokenBarrier::PartyDied); 2], "step {step}"),
            }
            barrier.reset();
            thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| barrier.wait_timeout(LONG).unwrap());
                }
            });
            if !died {
                assert!(step >= 5, "{step}");
                break;
            }
        }
    }
}
