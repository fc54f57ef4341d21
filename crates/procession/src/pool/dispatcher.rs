//! The caller's side of a pool: slots out, arrivals in.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use crate::channel::{Channel, Record, Seat, SlotState, Stage, What};
use crate::shm::{Block, Owner};

/// How a worker ended.
#[derive(Debug, Clone, Copy)]
pub struct Loss {
    /// The worker's process id.
    pub pid: u32,
    /// The number in the worker's name.
    pub number: u32,
    /// Its exit code, or minus the signal that killed it.
    pub exit_code: i32,
    /// Why the supervisor killed it, if it did: [`Seat::NOT_KILLED`] or one of its siblings.
    pub killed: u32,
    /// Nanoseconds of the monotonic clock when the running item began; 0 if that was not noted.
    pub started_ns: u64,
    /// Nanoseconds of the monotonic clock when the worker's end was noticed.
    pub ended_ns: u64,
    /// The most memory of its own that it was seen with, in bytes; 0 if nobody looked.
    pub peak_bytes: u64,
    seat: u32,
}

impl Loss {
    /// Whether the supervisor killed it because its task's time was over.
    pub fn timed_out(&self) -> bool {
        self.killed == Seat::KILLED_FOR_TIME
    }

    /// How long the running item ran, as far as that was noted.
    pub fn elapsed(&self) -> Duration {
        match self.started_ns {
            0 => Duration::ZERO,
            began => Duration::from_nanos(self.ended_ns.saturating_sub(began)),
        }
    }
}

/// What comes back from the workers.
#[derive(Debug, Clone, Copy)]
pub enum Arrival {
    /// A slot's result can be read.
    Done {
        /// The slot.
        slot: u32,
    },
    /// The worker that had this slot has ended in the midst of it.
    Lost {
        /// The slot.
        slot: u32,
        /// How the worker ended.
        loss: Loss,
    },
}

/// A task's place: the higher priority first, then the order of arrival.
type Key = (Reverse<i32>, u64);

#[derive(Debug, Default)]
struct PriorityQueue {
    waiting: BTreeMap<Key, u32>,
    keys: HashMap<u32, Key>,
    /// Those that were published from here, and may still be unclaimed.
    in_ring: Vec<(Key, u32)>,
    pushed: u64,
}

impl PriorityQueue {
    fn push(&mut self, slot: u32, priority: i32) {
        self.pushed += 1;
        self.put(slot, (Reverse(priority), self.pushed));
    }

    fn put(&mut self, slot: u32, key: Key) {
        self.waiting.insert(key, slot);
        self.keys.insert(slot, key);
    }

    fn remove(&mut self, slot: u32) -> bool {
        let key = self.keys.remove(&slot);
        key.is_some_and(|key| self.waiting.remove(&key).is_some())
    }
}

/// The caller's side of a pool. One thread at a time uses it; waiting is [`super::waiter::Waiter`]'s affair.
#[derive(Debug)]
pub struct Dispatcher {
    channel: Arc<Channel>,
    vacant: Vec<u32>,
    fresh: u32,
    in_flight: Vec<bool>,
    in_flight_count: usize,
    /// Positions that can be published before the ring's room must be looked at again.
    room: u64,
    /// How many results were taken from each seat.
    taken: Arc<[AtomicU64]>,
    ends_seen: u32,
    ended: Vec<u32>,
    /// Tasks that wait in the caller, in the order of their priority; none while all have the same.
    queue: Option<Box<PriorityQueue>>,
}

impl Dispatcher {
    /// The dispatcher of a fresh channel.
    ///
    /// # Errors
    /// [`io::ErrorKind::OutOfMemory`], if some bytes for each slot are not to be had.
    pub fn new(channel: Arc<Channel>) -> io::Result<Self> {
        let geometry = channel.geometry();
        let slots = geometry.slots as usize;
        let mut in_flight = Vec::new();
        in_flight
            .try_reserve_exact(slots)
            .map_err(|_| io::ErrorKind::OutOfMemory)?;
        in_flight.resize(slots, false);
        Ok(Dispatcher {
            vacant: Vec::new(),
            fresh: 0,
            in_flight,
            in_flight_count: 0,
            room: 0,
            taken: (0..geometry.seats).map(|_| AtomicU64::new(0)).collect(),
            ends_seen: 0,
            ended: Vec::new(),
            queue: None,
            channel,
        })
    }

    /// The shared memory.
    pub fn channel(&self) -> &Arc<Channel> {
        &self.channel
    }

    /// How many results were taken from each seat, for waiters that look for more.
    pub fn taken(&self) -> Arc<[AtomicU64]> {
        self.taken.clone()
    }

    /// Slots that are published and not yet come back.
    pub fn in_flight(&self) -> usize {
        self.in_flight_count
    }

    /// Takes a vacant slot to fill; `None` if all are in use.
    #[inline]
    pub fn take_slot(&mut self) -> Option<u32> {
        // Slots that were taken back left gaps in the ring: it can be full although there are vacant slots. A cell is not
        // to be written again before nothing unclaimed lies in it. The look costs a cache line that workers write, so it
        // is taken once for many.
        if self.room == 0 {
            self.room = self.channel.room();
            if self.room == 0 {
                return None;
            }
        }
        // The one used last is the one whose memory is warm.
        let slot = match self.vacant.pop() {
            Some(slot) => slot,
            // One cell of the ring stays free, so that a full ring and an empty one differ.
            None if self.fresh < self.channel.geometry().slots - 1 => {
                self.fresh += 1;
                self.fresh - 1
            }
            None => return None,
        };
        self.room -= 1;
        Some(slot)
    }

    /// Puts a slot back that was never published, or whose arrival is dealt with.
    #[inline]
    pub fn return_slot(&mut self, slot: u32) {
        self.vacant.push(slot);
    }

    /// Publishes a filled slot. Workers are woken by [`Dispatcher::flush`].
    #[inline]
    pub fn publish(&mut self, slot: u32) {
        self.in_flight[slot as usize] = true;
        self.in_flight_count += 1;
        if self.queue.is_none() {
            self.channel.publish(slot);
        } else {
            self.enqueue(slot, 0);
        }
    }

    /// Publishes a filled slot before all that have a lower priority and are not claimed yet, and behind the others.
    /// [`Dispatcher::publish`] does so with priority 0.
    ///
    /// From the first priority on until all waiting tasks are claimed, tasks wait here instead of in the ring, which then
    /// holds about one for each worker; so somebody must collect for them to go on.
    pub fn publish_with_priority(&mut self, slot: u32, priority: i32) {
        if priority == 0 {
            return self.publish(slot);
        }
        if self.queue.is_none() {
            self.begin_queue();
        }
        self.in_flight[slot as usize] = true;
        self.in_flight_count += 1;
        self.enqueue(slot, priority);
    }

    /// Publishes a slot again whose worker has died before it began it: at once, for it has waited its turn.
    pub fn publish_again(&mut self, slot: u32) {
        self.in_flight[slot as usize] = true;
        self.in_flight_count += 1;
        self.channel.publish(slot);
    }

    /// Whether tasks wait here that [`Dispatcher::collect`] is to publish.
    #[inline]
    pub fn has_queue(&self) -> bool {
        self.queue.is_some()
    }

    fn begin_queue(&mut self) {
        let mut unclaimed: Vec<(u64, u32)> = (0..self.fresh)
            .filter(|&slot| self.in_flight[slot as usize])
            .filter_map(|slot| match self.channel.slot_state(slot) {
                SlotState::Ready(position) => Some((position, slot)),
                _ => None,
            })
            .collect();
        unclaimed.sort_unstable();
        let mut queue = PriorityQueue::default();
        for (_, slot) in unclaimed {
            if self.channel.take_back(slot) {
                queue.push(slot, 0);
            }
        }
        self.queue = Some(Box::new(queue));
        self.channel.header().caller.one_by_one.store(1, Ordering::SeqCst);
    }

    fn enqueue(&mut self, slot: u32, priority: i32) {
        let Some(queue) = &mut self.queue else {
            return;
        };
        queue.push(slot, priority);
        // What is in the ring, and of lower priority, makes way.
        let channel = &self.channel;
        queue
            .in_ring
            .retain(|&(_, slot)| matches!(channel.slot_state(slot), SlotState::Ready(_)));
        let place = (Reverse(priority), u64::MAX);
        for (key, slot) in std::mem::take(&mut queue.in_ring) {
            if key > place && self.channel.take_back(slot) {
                queue.put(slot, key);
            } else {
                queue.in_ring.push((key, slot));
            }
        }
        self.feed();
    }

    /// Publishes what waits here, as long as the ring holds fewer unclaimed tasks than there are workers. True if any.
    fn feed(&mut self) -> bool {
        let Some(queue) = &mut self.queue else {
            return false;
        };
        let workers = self.channel.header().life.workers.load(Ordering::Relaxed).max(1);
        let mut any = false;
        while self.channel.unclaimed() < u64::from(workers) {
            let Some((key, slot)) = queue.waiting.pop_first() else {
                break;
            };
            queue.keys.remove(&slot);
            self.channel.publish(slot);
            queue.in_ring.push((key, slot));
            any = true;
        }
        // As long as something in the ring has a priority of its own, others may have to go before it.
        let channel = &self.channel;
        let overtakable = |&(key, slot): &(Key, u32)| {
            key.0 != Reverse(0) && matches!(channel.slot_state(slot), SlotState::Ready(_))
        };
        if queue.waiting.is_empty() && !queue.in_ring.iter().any(overtakable) {
            self.queue = None;
            self.channel.header().caller.one_by_one.store(0, Ordering::SeqCst);
        }
        any
    }

    /// Wakes a worker for what was published.
    #[inline]
    pub fn flush(&self) {
        self.channel.wake_worker();
    }

    /// Takes an unclaimed slot back: true if no worker has it. The slot is the caller's again, to be returned.
    pub fn take_back(&mut self, slot: u32) -> bool {
        if !self.in_flight[slot as usize] {
            return false;
        }
        let waits_here = self.queue.as_mut().is_some_and(|queue| queue.remove(slot));
        if waits_here || self.channel.take_back(slot) {
            self.land(slot);
            return true;
        }
        false
    }

    fn land(&mut self, slot: u32) {
        self.in_flight[slot as usize] = false;
        self.in_flight_count -= 1;
    }

    /// Whether there is anything to collect; cheap.
    #[inline]
    pub fn has_arrivals(&self) -> bool {
        has_arrivals(&self.channel, &self.taken)
            || self.channel.header().life.ends.load(Ordering::Acquire) != self.ends_seen
    }

    /// Up to which count the ends of workers were looked at, for [`super::waiter::Waiter::saw_ends`].
    pub fn ends_seen(&self) -> u32 {
        self.ends_seen
    }

    /// Collects what has come back. Each slot in `arrivals` is the caller's; deal with all of them (adopting their
    /// blocks), return the slots, then call [`Dispatcher::settle`].
    pub fn collect(&mut self, arrivals: &mut Vec<Arrival>) {
        let channel = self.channel.clone();
        // Ends are looked at first: what a worker published before its end is in its ring then.
        let ends = channel.header().life.ends.load(Ordering::Acquire);
        if ends != self.ends_seen {
            self.ends_seen = ends;
            for seat in 0..channel.geometry().seats {
                if channel.seat(seat).stage.load(Ordering::Acquire) == Seat::ENDED
                    && !self.ended.contains(&seat)
                {
                    self.ended.push(seat);
                }
            }
        }
        for seat in channel.live_seats() {
            let produced = channel.produced(seat);
            let mut taken = self.taken[seat as usize].load(Ordering::Relaxed);
            while taken < produced {
                if let Some(slot) = channel.result_at(seat, taken) {
                    self.arrive(seat, slot, arrivals);
                }
                taken += 1;
            }
            self.taken[seat as usize].store(taken, Ordering::Relaxed);
        }
        for i in 0..self.ended.len() {
            self.find_victim(self.ended[i], arrivals);
        }
        if self.queue.is_some() && self.feed() {
            self.flush();
        }
    }

    fn arrive(&mut self, seat: u32, slot: u32, arrivals: &mut Vec<Arrival>) {
        let done_by_it = matches!(self.channel.slot_state(slot), SlotState::Done(s, _) if s == seat);
        if self.in_flight[slot as usize] && done_by_it {
            self.land(slot);
            arrivals.push(Arrival::Done { slot });
        }
    }

    fn find_victim(&mut self, seat: u32, arrivals: &mut Vec<Arrival>) {
        let channel = self.channel.clone();
        let s = channel.seat(seat);
        let Some(slot) = s.current.swap(0, Ordering::Relaxed).checked_sub(1) else {
            return;
        };
        if slot >= self.channel.geometry().slots || !self.in_flight[slot as usize] {
            return;
        }
        match self.channel.slot_state(slot) {
            SlotState::Done(by, _) if by == seat => self.arrive(seat, slot, arrivals),
            SlotState::Claimed(by, _) | SlotState::Doomed(by, _) if by == seat => {
                self.land(slot);
                let timed_out = s.killed.load(Ordering::Acquire) == Seat::KILLED_FOR_TIME;
                let watch = &channel.header().watch;
                watch.lost.fetch_add(1, Ordering::Relaxed);
                watch.timed_out.fetch_add(u64::from(timed_out), Ordering::Relaxed);
                let (next, _) = channel.slot(slot).range();
                channel.tell_event(&Record {
                    what: What::Lost,
                    time_ns: s.ended_ns.load(Ordering::Relaxed),
                    worker: s.number.load(Ordering::Relaxed),
                    pid: s.pid.load(Ordering::Relaxed),
                    function: channel.slot(slot).function.load(Ordering::Relaxed),
                    item: channel.note(slot).item(next.saturating_sub(1)),
                    value: i64::from(s.exit_code.load(Ordering::Relaxed)),
                });
                let loss = Loss {
                    pid: s.pid.load(Ordering::Relaxed),
                    number: s.number.load(Ordering::Relaxed),
                    exit_code: s.exit_code.load(Ordering::Relaxed),
                    killed: s.killed.load(Ordering::Acquire),
                    started_ns: s.started_ns.load(Ordering::Relaxed),
                    ended_ns: s.ended_ns.load(Ordering::Relaxed),
                    peak_bytes: s.peak_bytes.load(Ordering::Relaxed),
                    seat,
                };
                arrivals.push(Arrival::Lost { slot, loss });
            }
            _ => {}
        }
    }

    /// Where the lost worker was when it was killed, as it wrote it down itself; empty if it did not. To be asked before
    /// [`Dispatcher::settle`].
    pub fn stack_of(&self, loss: &Loss) -> String {
        let seat = self.channel.seat(loss.seat);
        self.text_in(&seat.stack_block, &seat.stack_len)
    }

    /// What the item had written that the lost worker was running; empty if that is not kept. To be asked before
    /// [`Dispatcher::settle`].
    pub fn output_of(&self, loss: &Loss) -> String {
        let seat = self.channel.seat(loss.seat);
        self.text_in(&seat.output_block, &seat.output_len)
    }

    fn text_in(&self, block: &AtomicU32, len: &AtomicU32) -> String {
        let arena = self.channel.arena();
        let Some(block) = arena.check(block.load(Ordering::Acquire)) else {
            return String::new();
        };
        let len = u64::from(len.load(Ordering::Relaxed)).min(block.capacity()) as usize;
        // SAFETY: the supervisor gave this block to the caller with its number, and has no more to do with it.
        let bytes = unsafe { std::slice::from_raw_parts(arena.start(block), len) };
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// Vacates the seats of the dead, once all that they left is dealt with. True if the supervisor waits for a seat
    /// and must be told.
    pub fn settle(&mut self) -> bool {
        let mut wanted = false;
        for seat in std::mem::take(&mut self.ended) {
            self.channel.arena().sweep(Owner::seat(seat));
            let s = self.channel.seat(seat);
            s.produced.store(0, Ordering::Relaxed);
            s.started_ns.store(0, Ordering::Relaxed);
            for text in [&s.stack_block, &s.output_block] {
                if let Some(block) = self.channel.arena().check(text.swap(0, Ordering::Relaxed)) {
                    self.channel.arena().free(block, Owner::CALLER);
                }
            }
            self.taken[seat as usize].store(0, Ordering::Relaxed);
            self.channel.set_live(seat, false);
            s.stage.store(Seat::VACANT, Ordering::SeqCst);
            wanted |= self.channel.header().life.seats_wanted.swap(0, Ordering::SeqCst) != 0;
        }
        wanted
    }

    /// Why the pool cannot have workers any more, if so.
    pub fn broken(&self) -> Option<String> {
        let life = &self.channel.header().life;
        // Sync point *broken text*: pairs with the Release in `report_broken`.
        if life.broken.load(Ordering::Acquire) == 0 {
            return None;
        }
        let arena = self.channel.arena();
        let block: Option<Block> = arena.check(life.broken_block.load(Ordering::Relaxed));
        let text = block.map(|block| {
            let len = life.broken_len.load(Ordering::Relaxed).min(block.capacity()) as usize;
            // SAFETY: the block was handed to us with its number, and has at least `len` bytes.
            let bytes = unsafe { std::slice::from_raw_parts(arena.start(block), len) };
            String::from_utf8_lossy(bytes).into_owned()
        });
        Some(text.unwrap_or_else(|| "the reason could not be recorded".into()))
    }

    /// All slots that are published and not yet come back, whatever their state.
    pub fn slots_in_flight(&self) -> Vec<u32> {
        (0..self.fresh)
            .filter(|&slot| self.in_flight[slot as usize])
            .collect()
    }

    /// Gives a slot up whose worker will never answer, since all processes of the pool are gone.
    pub fn give_up(&mut self, slot: u32) {
        if self.in_flight[slot as usize] {
            if let Some(queue) = &mut self.queue {
                queue.remove(slot);
            }
            self.land(slot);
            self.channel.vacate(slot);
        }
    }

    /// Moves the pool to another stage.
    pub fn set_stage(&self, stage: Stage) {
        self.channel
            .header()
            .life
            .stage
            .store(stage as u32, Ordering::Release);
    }

    /// After the supervisor's death, and with it that of all workers: every seat is ended.
    pub fn all_have_ended(&mut self) {
        for seat in 0..self.channel.geometry().seats {
            let s = self.channel.seat(seat);
            let stage = s.stage.load(Ordering::Acquire);
            if stage == Seat::STARTING || stage == Seat::READY {
                s.exit_code.store(-9, Ordering::Relaxed);
                self.channel.add_up(seat, false);
                s.stage.store(Seat::ENDED, Ordering::Release);
                self.channel.forget_worker(seat);
            }
        }
        self.channel.header().life.ends.fetch_add(1, Ordering::Release);
    }
}

/// Whether any live seat has produced more than was taken from it.
#[inline]
pub(super) fn has_arrivals(channel: &Channel, taken: &[AtomicU64]) -> bool {
    channel
        .live_seats()
        .any(|seat| channel.produced(seat) > taken[seat as usize].load(Ordering::Relaxed))
}
