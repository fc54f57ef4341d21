//! A worker that is killed after each step of its way: whatever it was about to do, no item is lost or run twice, no block
//! of memory is lost, and at most one item fails.
//!
//! Caller and supervisor are played by the test; workers are real processes, which die for real.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use super::array::{Array, Bytes, Port};
use super::call::{decode_result, encode_argument, Reading, Scratch};
use super::function::{CodeAddress, Function, Ran};
use super::ledger::{Ledger, Payload, ARGUMENT_PARTS};
use super::lifecycle::Shared;
use super::start::Starter;
use super::worker_main::run_slot;
use crate::channel::{Channel, Geometry, Seat, SlotState};
use crate::crash::die_after;
use crate::options::PoolOptions;
use crate::os::event::Event;
use crate::os::memory::{create_sealed, Mapping, PAGE_BYTES};
use crate::os::process as os;
use crate::pool::waiter::Waiter;
use crate::pool::worker::Worker;
use crate::shm::Owner;

const ITEMS: usize = 64;
/// Far more steps than any scenario has.
const MOST_STEPS: u64 = 5000;

/// How often each item was run, in memory that all processes share.
fn runs() -> &'static [AtomicU32; ITEMS] {
    static RUNS: OnceLock<Mapping> = OnceLock::new();
    let mapping =
        RUNS.get_or_init(|| Mapping::new(create_sealed("test", PAGE_BYTES as u64).unwrap()).unwrap());
    // SAFETY: a page has room for them, and zeros are valid ones.
    unsafe { mapping.start().cast().as_ref() }
}

/// A batch as a caller submits it: what its items are, one or several to a slot.
struct Scenario {
    name: &'static str,
    function: Function,
    batches: &'static [u32],
    argument_bytes: usize,
    result_bytes: usize,
}

type Argument = (u32, usize, String, Bytes);
type Outcome = (u32, String, Bytes);

fn result_of(item: u32, bytes: usize) -> (String, Bytes) {
    ("r".repeat(bytes / 2), Bytes::from(vec![item as u8; bytes]))
}

/// Gives new arrays, or, if it is to give as much as it got, those that it got.
fn work((item, bytes, text, mut array): Argument) -> Outcome {
    runs()[item as usize].fetch_add(1, Ordering::Relaxed);
    if bytes == array.len() {
        array.fill(item as u8);
        return (item, text, array);
    }
    let (text, array) = result_of(item, bytes);
    (item, text, array)
}

/// Keeps its array.
fn keep((item, bytes, _, array): Argument) -> Outcome {
    runs()[item as usize].fetch_add(1, Ordering::Relaxed);
    std::mem::forget(array);
    let (text, array) = result_of(item, bytes);
    (item, text, array)
}

fn shared() -> Arc<Shared> {
    let geometry = Geometry {
        seats: 4,
        slots: 64,
        class_bytes: 1 << 22,
    };
    let channel = Arc::new(Channel::create(geometry, 1 << 20).unwrap());
    let ledger = Ledger::new(channel.clone(), None, false, 0).unwrap();
    let waiter = Waiter::new(channel.clone(), ledger.dispatcher.taken(), Event::new().unwrap());
    {
        let options = PoolOptions::default();
        let starter = Starter::new(&options, None, None);
        Arc::new(Shared::new(channel, waiter, ledger, options, starter))
    }
}

/// Runs a worker in `seat` until nothing is left to be claimed, or until it dies after so many steps. True if it died.
fn run_worker(shared: &Shared, seat: u32, steps: u64) -> bool {
    let channel = &shared.channel;
    let s = channel.seat(seat);
    s.number.store(seat + 1, Ordering::Relaxed);
    s.stage.store(Seat::READY, Ordering::Release);
    channel.set_live(seat, true);
    // SAFETY: the child runs only what follows, which uses nothing of other threads.
    match unsafe { os::fork() }.unwrap() {
        os::Forked::Child => {
            die_after(steps);
            let mut worker = Worker::new(channel.clone(), Event::new().unwrap(), seat, None);
            let port = Port::new(channel.clone(), Channel::owner(seat));
            let port = port.open();
            while let Some(slot) = worker.claim() {
                if !run_slot(&worker, slot, &port) {
                    os::exit_now(3);
                }
                worker.complete(slot);
            }
            os::exit_now(0)
        }
        os::Forked::Parent(pid) => {
            s.pid.store(pid, Ordering::Relaxed);
            let pidfd = os::pidfd_open(pid).unwrap();
            let status = os::wait_pidfd(&pidfd, false).unwrap().unwrap();
            assert!(
                status.success() || status.signal() == Some(os::SIGKILL),
                "{status}"
            );
            s.exit_code
                .store(status.exit_code_like_python(), Ordering::Relaxed);
            s.stage.store(Seat::ENDED, Ordering::Release);
            channel.forget_worker(seat);
            channel.header().life.ends.fetch_add(1, Ordering::Release);
            !status.success()
        }
    }
}

fn submit(shared: &Shared, scenario: &Scenario) -> u32 {
    let port = Port::new(shared.channel.clone(), Owner::CALLER);
    let function = shared.lock().register(scenario.function).unwrap();
    let job = shared
        .lock()
        .open_job(function, true, None, super::calls::Terms::default());
    let mut base = 0;
    for &items in scenario.batches {
        let mut scratch = Scratch::new();
        let mut sink = scratch.sink(&shared.channel);
        let mut kind = 0;
        for item in base..base + items {
            let array = Bytes::from(vec![0; scenario.argument_bytes]);
            let text = "a".repeat(scenario.argument_bytes / 2);
            let mut argument: Option<Argument> = Some((item, scenario.result_bytes, text, array));
            match encode_argument(&mut sink, &port.open(), &mut argument) {
                Ok(has_parts) => kind |= if has_parts { ARGUMENT_PARTS } else { 0 },
                Err(failure) => panic!("{failure}"),
            }
        }
        let len = sink.len();
        let mut ledger = shared.lock();
        if Payload::fits(len, items, kind != 0) {
            let bytes = sink.bytes().to_vec();
            ledger.submit(job, base.into(), items, Payload::Inline(&bytes), kind);
        } else {
            let block = sink.into_whole_block().unwrap();
            ledger.submit(job, base.into(), items, Payload::Block(block, len as u64), kind);
        }
        base += items;
    }
    job
}

/// Plays a scenario with a worker that dies after so many steps. False if it did not die any more.
fn play(scenario: &Scenario, steps: u64) -> bool {
    let what = || format!("{}, killed after {steps} steps", scenario.name);
    let items: u32 = scenario.batches.iter().sum();
    runs().iter().for_each(|count| count.store(0, Ordering::Relaxed));
    let shared = shared();
    let job = submit(&shared, scenario);
    let died = run_worker(&shared, 0, steps);
    shared.lock().collect();
    for seat in 1..=3 {
        if shared.lock().outstanding(job) > 0 {
            assert!(!run_worker(&shared, seat, u64::MAX), "{}", what());
            shared.lock().collect();
        }
    }
    let mut deliveries = Vec::new();
    {
        let mut ledger = shared.lock();
        assert_eq!(ledger.outstanding(job), 0, "{}", what());
        ledger.take_deliveries(job, &mut deliveries);
        ledger.close_job(job);
    }
    let port = Port::new(shared.channel.clone(), Owner::CALLER);
    let (mut delivered, mut failed) = ([0; ITEMS], 0);
    for delivery in deliveries {
        let task = delivery.task;
        let mut reading = Reading::of(&*shared, delivery);
        while let Some((item, frame)) = reading.next() {
            delivered[item as usize] += 1;
            let runs = runs()[item as usize].load(Ordering::Relaxed);
            match frame.and_then(|frame| decode_result::<Outcome>(&shared, &port.open(), task, item, frame)) {
                Ok((number, text, array)) => {
                    assert_eq!((u64::from(number), runs), (item, 1), "{}", what());
                    let bytes = scenario.result_bytes;
                    assert!((text.len(), array.len()) == (bytes / 2, bytes), "{}", what());
                    assert!(array.iter().all(|&byte| byte == item as u8), "{}", what());
                }
                Err(error) => {
                    assert!(error.is_worker_died() && died && runs <= 1, "{}: {error}", what());
                    failed += 1;
                }
            }
        }
        let slot = reading.end();
        slot.into_iter()
            .for_each(|slot| shared.lock().dispatcher.return_slot(slot));
    }
    assert!(
        delivered[..items as usize].iter().all(|&count| count == 1),
        "{}: {delivered:?}",
        what()
    );
    assert!(failed <= 1, "{}: {failed} failed", what());
    assert_eq!(shared.channel.arena().owned_blocks(), 0, "{}", what());
    let vacant = |slot| {
        !matches!(
            shared.channel.slot_state(slot),
            SlotState::Ready(_) | SlotState::Claimed(1.., _)
        )
    };
    assert!((0..8).all(vacant), "{}", what());
    died
}

#[test]
fn worker_killed_after_any_step_loses_nothing() {
    let work = || Function::of(work);
    let scenarios = [
        Scenario {
            name: "small ones",
            function: work(),
            batches: &[1, 1, 1],
            argument_bytes: 0,
            result_bytes: 10,
        },
        Scenario {
            name: "small batches",
            function: work(),
            batches: &[3, 2],
            argument_bytes: 0,
            result_bytes: 10,
        },
        Scenario {
            name: "results that grow",
            function: work(),
            batches: &[6],
            argument_bytes: 3,
            result_bytes: 300,
        },
        Scenario {
            name: "larger ones",
            function: work(),
            batches: &[1, 3],
            argument_bytes: 700,
            result_bytes: 900,
        },
        Scenario {
            name: "arrays there",
            function: work(),
            batches: &[1, 2],
            argument_bytes: 5000,
            result_bytes: 10,
        },
        Scenario {
            name: "arrays back",
            function: work(),
            batches: &[1, 2],
            argument_bytes: 3,
            result_bytes: 5000,
        },
        Scenario {
            name: "the same arrays",
            function: work(),
            batches: &[1, 2],
            argument_bytes: 70_000,
            result_bytes: 70_000,
        },
        Scenario {
            name: "new arrays",
            function: work(),
            batches: &[2, 1],
            argument_bytes: 5000,
            result_bytes: 70_000,
        },
        Scenario {
            name: "kept arrays",
            function: Function::of(keep),
            batches: &[2, 1],
            argument_bytes: 5000,
            result_bytes: 6000,
        },
    ];
    for scenario in scenarios {
        let steps = (0..MOST_STEPS).find(|&steps| !play(&scenario, steps)).unwrap();
        // Else the crash points are not where they should be.
        assert!(steps > 10, "{} has only {steps} steps", scenario.name);
    }
}

#[test]
fn item_without_memory_for_its_result_says_so() {
    let shared = shared();
    let port = Port::new(shared.channel.clone(), Channel::owner(0));
    // All blocks are taken.
    while shared.channel.arena().alloc(1 << 13, Owner::CALLER).is_ok() {}
    while shared.channel.arena().alloc(1, Owner::CALLER).is_ok() {}
    let function = Function::of(|_: u32| Array::<u64>::zeroed(1000));
    let mut small = [0u8; 100];
    let mut scratch = Scratch::new();
    let mut argument = scratch.sink(&shared.channel);
    assert!(encode_argument(&mut argument, &port.open(), &mut Some(1u32)).is_ok());
    let frame = super::frame::Frames::of(argument.bytes()).next();
    // SAFETY: the word was made here; the sink's memory is the array's.
    let (thunk, mut sink) = unsafe {
        let sink =
            super::frame::Sink::over(shared.channel.arena(), Channel::owner(0), small.as_mut_ptr(), 100);
        (CodeAddress::from_word(function.code().to_word()).to_thunk(), sink)
    };
    let ran = super::function::run_item(Ok(thunk), frame, &mut sink, &port, String::new);
    assert_eq!(ran, Ran::Failed);
    assert!(super::frame::Frames::of(sink.bytes()).next().unwrap().failed);
}
