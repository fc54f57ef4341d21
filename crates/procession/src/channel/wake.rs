//! Sleeping and waking across processes. The protocol is told in the module's README.

use std::sync::atomic::{fence, AtomicU64, Ordering};

use super::{Channel, Stage};
use crate::os::{futex, time};

const SLEEPING: usize = 0;
const SEARCHING: usize = 1;
const LIVE: usize = 2;

/// How an idle wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// There may be work.
    Work,
    /// No more work will come.
    Finish,
    /// A signal arrived; its handler may want to be heard.
    Interrupted,
}

/// How long a waiter spins before it sleeps: about as long as a wake-up costs, and only if past waits were that short.
#[derive(Debug, Clone, Copy)]
pub struct SpinBudget {
    /// A moving average of past waits.
    average_ns: u64,
}

const SPIN_NS: u64 = 40_000;
const WORTH_SPINNING_NS: u64 = 60_000;

impl Default for SpinBudget {
    fn default() -> Self {
        // Begin as one who may spin: the first waits teach.
        SpinBudget { average_ns: SPIN_NS }
    }
}

impl SpinBudget {
    /// Nanoseconds to spin now, if the awaited one was last seen on the CPU `peer_cpu` (plus one; 0 if unknown).
    pub fn spin_ns(&self, peer_cpu: u32) -> u64 {
        // On one CPU the awaited one cannot run while we spin.
        if self.average_ns < WORTH_SPINNING_NS && peer_cpu != time::current_cpu() + 1 {
            SPIN_NS
        } else {
            0
        }
    }

    /// Learns how long a wait took.
    pub fn learn(&mut self, waited_ns: u64) {
        self.average_ns = (self.average_ns * 7 + waited_ns.min(1_000_000)) / 8;
    }
}

fn set(words: &[AtomicU64], seat: u32) {
    words[seat as usize / 64].fetch_or(1 << (seat % 64), Ordering::SeqCst);
}

fn clear(words: &[AtomicU64], seat: u32) -> bool {
    let mask = 1u64 << (seat % 64);
    words[seat as usize / 64].fetch_and(!mask, Ordering::SeqCst) & mask != 0
}

fn contains(words: &[AtomicU64], seat: u32) -> bool {
    words[seat as usize / 64].load(Ordering::SeqCst) & 1 << (seat % 64) != 0
}

fn any(words: &[AtomicU64]) -> bool {
    words.iter().any(|w| w.load(Ordering::Relaxed) != 0)
}

impl Channel {
    /// Wakes one sleeping worker, unless one is searching already. Call it after publishing tasks.
    #[inline]
    pub fn wake_worker(&self) {
        // Sync point *worker sleeps*: pairs with the fence in `idle`.
        fence(Ordering::SeqCst);
        if any(self.seat_set(SEARCHING)) {
            return;
        }
        self.wake_a_sleeper();
    }

    /// Wakes one sleeping worker whoever is searching: the searcher seems unable to take what lies there.
    pub fn wake_another_worker(&self) {
        fence(Ordering::SeqCst);
        self.wake_a_sleeper();
    }

    fn wake_a_sleeper(&self) {
        'scan: loop {
            for (word, sleeping) in self.seat_set(SLEEPING).iter().enumerate() {
                let bits = sleeping.load(Ordering::Relaxed);
                let seat = word as u32 * 64 + bits.trailing_zeros();
                if bits == 0 || seat >= self.geometry().seats {
                    continue;
                }
                // Searching first: a late mark would stand for ever, and then nobody would be woken again.
                set(self.seat_set(SEARCHING), seat);
                crate::crash_point!("wake-marked");
                if clear(self.seat_set(SLEEPING), seat) {
                    crate::crash_point!("wake-unmarked");
                    self.ring(seat);
                    return;
                }
                // It woke by itself, so this mark is the late one. Others may have seen it and have left the waking to us,
                // and somebody may have gone to sleep since the bits were read: take it away, look anew.
                clear(self.seat_set(SEARCHING), seat);
                fence(Ordering::SeqCst);
                if self.has_tasks() && !any(self.seat_set(SEARCHING)) {
                    continue 'scan;
                }
                return;
            }
            return;
        }
    }

    /// Rings a worker's bell.
    pub fn ring(&self, seat: u32) {
        let bell = &self.seat(seat).bell;
        bell.fetch_add(1, Ordering::SeqCst);
        futex::wake(bell, 1);
    }

    /// Wakes every worker, to look at the pool's stage.
    pub fn wake_all_workers(&self) {
        for seat in self.live_seats() {
            clear(self.seat_set(SLEEPING), seat);
            self.ring(seat);
        }
    }

    /// A worker that was searching has found work: if there is more, the next one is woken.
    ///
    /// Its mark may be gone already (see `wake_a_sleeper`), so the mark does not decide who wakes the next one.
    #[inline]
    pub fn stop_searching(&self, seat: u32) {
        clear(self.seat_set(SEARCHING), seat);
        if self.has_tasks() {
            self.wake_worker();
        }
    }

    /// Waits until there may be work for the worker in `seat`.
    pub fn idle(&self, seat: u32, budget: &mut SpinBudget) -> Idle {
        let began = time::monotonic_ns();
        let alone = !any(self.seat_set(SEARCHING));
        set(self.seat_set(SEARCHING), seat);
        let me = self.seat(seat);
        me.cpu.store(time::current_cpu() + 1, Ordering::Relaxed);
        if alone {
            let spin_ns = budget.spin_ns(self.header().caller.cpu.load(Ordering::Relaxed));
            if spin_ns > 0 && self.spin_until(spin_ns, || self.has_tasks()) {
                budget.learn(time::monotonic_ns() - began);
                return Idle::Work;
            }
        }
        let seen = me.bell.load(Ordering::SeqCst);
        set(self.seat_set(SLEEPING), seat);
        clear(self.seat_set(SEARCHING), seat);
        // Sync point *worker sleeps*: pairs with the fence in `wake_worker`. Either the publisher sees the sleeping bit,
        // or this check sees the task.
        fence(Ordering::SeqCst);
        let outcome = if self.has_tasks() {
            Idle::Work
        } else if self.header().stage() != Stage::Running {
            Idle::Finish
        } else {
            match futex::wait(&me.bell, seen, None) {
                futex::Waited::Interrupted => Idle::Interrupted,
                _ => Idle::Work,
            }
        };
        clear(self.seat_set(SLEEPING), seat);
        budget.learn(time::monotonic_ns() - began);
        outcome
    }

    /// Spins until `done` or the time is over; true if it is done.
    pub fn spin_until(&self, spin_ns: u64, mut done: impl FnMut() -> bool) -> bool {
        let end = time::monotonic_ns() + spin_ns;
        loop {
            for _ in 0..32 {
                if done() {
                    return true;
                }
                std::hint::spin_loop();
            }
            if time::monotonic_ns() >= end {
                return false;
            }
        }
    }

    /// Removes all traces of a worker that has ended, and passes on the wake-up it may have taken with it.
    pub fn forget_worker(&self, seat: u32) {
        clear(self.seat_set(SLEEPING), seat);
        // It may have died while it woke another worker: after marking it as searching, and that mark would keep
        // everybody from waking anyone; or before ringing, and that one would sleep for ever with no mark to be found by.
        // True marks may go as well: they only save wake-ups.
        for marks in self.seat_set(SEARCHING) {
            marks.store(0, Ordering::SeqCst);
        }
        for other in self.live_seats() {
            if other != seat && !contains(self.seat_set(SLEEPING), other) {
                self.ring(other);
            }
        }
        if self.has_tasks() {
            self.wake_worker();
        }
    }

    /// Marks a seat as one whose results are to be looked for, or no longer.
    pub fn set_live(&self, seat: u32, live: bool) {
        if live {
            set(self.seat_set(LIVE), seat);
        } else {
            clear(self.seat_set(LIVE), seat);
        }
    }

    /// The seats whose results are to be looked for.
    #[inline]
    pub fn live_seats(&self) -> impl Iterator<Item = u32> + '_ {
        let seats = self.geometry().seats;
        self.seat_set(LIVE)
            .iter()
            .enumerate()
            .flat_map(move |(word, bits)| {
                let mut bits = bits.load(Ordering::Acquire);
                std::iter::from_fn(move || {
                    if bits == 0 {
                        return None;
                    }
                    let seat = word as u32 * 64 + bits.trailing_zeros();
                    bits &= bits - 1;
                    Some(seat)
                })
                .filter(move |&seat| seat < seats)
            })
    }

    /// Whether the worker in `seat` sleeps for want of work.
    pub fn worker_sleeps(&self, seat: u32) -> bool {
        contains(self.seat_set(SLEEPING), seat)
    }

    /// Whether some live worker sleeps for want of work.
    pub fn any_worker_sleeps(&self) -> bool {
        any(self.seat_set(SLEEPING))
    }

    /// The caller is about to sleep until `results` more results are there. It must look once more before it does.
    pub fn prepare_caller_sleep(&self, results: i64) {
        let caller = &self.header().caller;
        let one_by_one = caller.one_by_one.load(Ordering::Relaxed) != 0;
        caller
            .countdown
            .store(if one_by_one { 1 } else { results }, Ordering::Relaxed);
        caller.sleeping.store(1, Ordering::SeqCst);
        // Sync point *caller sleeps*: pairs with the fence in `complete`. Either the worker sees the flag, or the
        // caller's last look sees the result.
        fence(Ordering::SeqCst);
    }

    /// The caller is awake.
    pub fn end_caller_sleep(&self) {
        self.header().caller.sleeping.store(0, Ordering::Relaxed);
    }

    /// Whether a worker that has just published one result should wake the caller. Says yes to one worker only.
    pub fn caller_wants_waking(&self) -> bool {
        let caller = &self.header().caller;
        caller.countdown.fetch_sub(1, Ordering::AcqRel) <= 1 && caller.sleeping.swap(0, Ordering::AcqRel) != 0
    }

    /// Notes which CPU the caller is on, for spinners that must not stand in its way.
    pub fn note_caller_cpu(&self) {
        self.header()
            .caller
            .cpu
            .store(time::current_cpu() + 1, Ordering::Relaxed);
    }
}
