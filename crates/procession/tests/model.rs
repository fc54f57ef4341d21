//! The ring protocol and the arena against simple models of them, in random order.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::Arc;

use procession::channel::{Channel, Geometry, Seat};
use procession::pool::dispatcher::{Arrival, Dispatcher};
use procession::shm::{AllocError, Block, Owner};
use proptest::prelude::*;

const SEATS: u32 = 4;
/// Few, so that the ring wraps and fills all the time.
const SLOTS: u32 = 16;

#[derive(Debug, Clone)]
enum Step {
    Publish,
    Claim(u32),
    Complete(u32),
    Die(u32),
    /// Takes back the published slot of this rank, if it is still there.
    TakeBack(usize),
    /// Takes back all that is there.
    TakeBackAll,
    Collect,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => Just(Step::Publish),
        6 => (0..SEATS).prop_map(Step::Claim),
        6 => (0..SEATS).prop_map(Step::Complete),
        1 => (0..SEATS).prop_map(Step::Die),
        2 => any::<usize>().prop_map(Step::TakeBack),
        1 => Just(Step::TakeBackAll),
        3 => Just(Step::Collect),
    ];
    prop::collection::vec(step, 0..400)
}

/// What must be true of the ring.
struct Ring {
    channel: Arc<Channel>,
    dispatcher: Dispatcher,
    /// In the order of their publication.
    ready: VecDeque<u32>,
    claimed: HashMap<u32, u32>,
    done: HashSet<u32>,
    lost: HashSet<u32>,
    dead: HashSet<u32>,
    published: u64,
    came_back: u64,
}

impl Ring {
    fn new() -> Self {
        let geometry = Geometry {
            seats: SEATS,
            slots: SLOTS,
            class_bytes: 1 << 16,
        };
        let channel = Arc::new(Channel::create(geometry, 0).unwrap());
        (0..SEATS).for_each(|seat| Self::sit_down(&channel, seat));
        Ring {
            dispatcher: Dispatcher::new(channel.clone()).unwrap(),
            channel,
            ready: VecDeque::new(),
            claimed: HashMap::new(),
            done: HashSet::new(),
            lost: HashSet::new(),
            dead: HashSet::new(),
            published: 0,
            came_back: 0,
        }
    }

    fn sit_down(channel: &Channel, seat: u32) {
        channel.seat(seat).stage.store(Seat::READY, Ordering::Release);
        channel.set_live(seat, true);
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Publish => {
                if let Some(slot) = self.dispatcher.take_slot() {
                    let known = [&self.done, &self.lost].iter().any(|set| set.contains(&slot))
                        || self.ready.contains(&slot)
                        || self.claimed.values().any(|&other| other == slot);
                    assert!(!known, "slot {slot} was given out twice");
                    self.dispatcher.publish(slot);
                    self.ready.push_back(slot);
                    self.published += 1;
                } else {
                    assert!(self.dispatcher.in_flight() > 0, "an empty ring has no room");
                }
            }
            Step::Claim(seat) if !self.dead.contains(&seat) && !self.claimed.contains_key(&seat) => {
                let claimed = self.channel.claim(seat);
                assert_eq!(claimed, self.ready.pop_front());
                claimed.map(|slot| self.claimed.insert(seat, slot));
            }
            Step::Complete(seat) => {
                if let Some(slot) = self.claimed.remove(&seat) {
                    self.channel.complete(seat, slot);
                    self.done.insert(slot);
                }
            }
            Step::Die(seat) if self.dead.insert(seat) => {
                self.lost.extend(self.claimed.remove(&seat));
                self.channel.seat(seat).exit_code.store(-9, Ordering::Relaxed);
                self.channel
                    .seat(seat)
                    .stage
                    .store(Seat::ENDED, Ordering::Release);
                self.channel.forget_worker(seat);
                self.channel.header().life.ends.fetch_add(1, Ordering::Release);
            }
            Step::TakeBack(rank) if !self.ready.is_empty() => {
                let slot = self.ready.remove(rank % self.ready.len()).unwrap();
                self.take_back(slot);
            }
            Step::TakeBackAll => {
                while let Some(slot) = self.ready.pop_front() {
                    self.take_back(slot);
                }
            }
            Step::Collect => self.collect(),
            _ => {}
        }
    }

    fn take_back(&mut self, slot: u32) {
        assert!(self.dispatcher.take_back(slot), "nobody has claimed slot {slot}");
        assert!(!self.dispatcher.take_back(slot));
        self.dispatcher.return_slot(slot);
        self.came_back += 1;
    }

    fn collect(&mut self) {
        let mut arrivals = Vec::new();
        self.dispatcher.collect(&mut arrivals);
        for arrival in arrivals {
            let slot = match arrival {
                Arrival::Done { slot } => {
                    assert!(self.done.remove(&slot), "slot {slot} was not done");
                    slot
                }
                Arrival::Lost { slot, loss } => {
                    assert!(self.lost.remove(&slot), "slot {slot} was not lost");
                    assert_eq!(loss.exit_code, -9);
                    slot
                }
            };
            self.dispatcher.return_slot(slot);
            self.came_back += 1;
        }
        assert!(
            self.done.is_empty() && self.lost.is_empty(),
            "{:?} {:?} did not arrive",
            self.done,
            self.lost
        );
        self.dispatcher.settle();
        for seat in self.dead.drain() {
            assert_eq!(
                self.channel.seat(seat).stage.load(Ordering::Acquire),
                Seat::VACANT
            );
            Self::sit_down(&self.channel, seat);
        }
    }

    fn finish(&mut self) {
        self.collect();
        while !self.ready.is_empty() || !self.claimed.is_empty() {
            for seat in 0..SEATS {
                self.step(&Step::Claim(seat));
                self.step(&Step::Complete(seat));
            }
            self.collect();
        }
        assert_eq!(self.channel.claim(0), None);
        assert_eq!((self.dispatcher.in_flight(), self.came_back), (0, self.published));
    }
}

#[derive(Debug, Clone)]
enum Use {
    Take(u64, u32),
    Free(usize),
    HandOver(usize, u32),
    /// Somebody tries to free what is not his.
    FreeAsAnother(usize, u32),
    Sweep(u32),
}

fn owner(number: u32) -> Owner {
    number.checked_sub(1).map_or(Owner::CALLER, Owner::seat)
}

fn uses() -> impl Strategy<Value = Vec<Use>> {
    let step = prop_oneof![
        6 => (1u64..20_000, 0..SEATS + 1).prop_map(|(len, owner)| Use::Take(len, owner)),
        3 => any::<usize>().prop_map(Use::Free),
        2 => (any::<usize>(), 0..SEATS + 1).prop_map(|(rank, to)| Use::HandOver(rank, to)),
        1 => (any::<usize>(), 0..SEATS + 1).prop_map(|(rank, other)| Use::FreeAsAnother(rank, other)),
        1 => (1..SEATS + 1).prop_map(Use::Sweep),
    ];
    prop::collection::vec(step, 0..300)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_published_slot_comes_back_exactly_once(steps in steps()) {
        let mut ring = Ring::new();
        for step in &steps {
            ring.step(step);
        }
        ring.finish();
    }

    #[test]
    fn each_block_has_one_owner_and_none_is_lost(uses in uses()) {
        let geometry = Geometry { seats: SEATS, slots: SLOTS, class_bytes: 1 << 17 };
        let channel = Channel::create(geometry, 0).unwrap();
        let arena = channel.arena();
        let mut owned: Vec<(Block, u32, u64)> = Vec::new();
        for step in &uses {
            match *step {
                Use::Take(len, by) => match arena.alloc(len, owner(by)) {
                    Ok(block) => {
                        prop_assert!(block.capacity() >= len);
                        prop_assert!(owned.iter().all(|other| other.0 != block));
                        // SAFETY: the block is ours, and has that many bytes.
                        unsafe { arena.start(block).write_bytes(owned.len() as u8, len as usize) };
                        owned.push((block, by, len));
                    }
                    Err(failure) => prop_assert!(matches!(failure, AllocError::Full), "{}", failure),
                },
                Use::Free(rank) if !owned.is_empty() => {
                    let (block, by, _) = owned.swap_remove(rank % owned.len());
                    prop_assert!(arena.free(block, owner(by)));
                    prop_assert!(!arena.free(block, owner(by)));
                }
                Use::HandOver(rank, to) if !owned.is_empty() => {
                    let rank = rank % owned.len();
                    prop_assert!(arena.hand_over(owned[rank].0, owner(owned[rank].1), owner(to)));
                    owned[rank].1 = to;
                }
                Use::FreeAsAnother(rank, other) if !owned.is_empty() => {
                    let (block, by, _) = owned[rank % owned.len()];
                    prop_assert!(by == other || !arena.free(block, owner(other)));
                    prop_assert!(by != other || arena.hand_over(block, owner(by), owner(by)));
                }
                Use::Sweep(dead) => {
                    arena.sweep(owner(dead));
                    owned.retain(|&(_, by, _)| by != dead);
                }
                _ => {}
            }
        }
        for (block, by, _) in owned {
            prop_assert!(arena.free(block, owner(by)));
        }
        // All of the largest can be had again, and as many as there were.
        let all: Vec<Block> = std::iter::from_fn(|| arena.alloc(1 << 14, Owner::CALLER).ok()).collect();
        prop_assert!(all.len() >= 8, "{}", all.len());
        prop_assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    }
}
