//! Locks, conditions and barriers between processes that are killed.
//!
//! The test harness has threads, so closures are forked despite of them here: they keep to what is allowed then.

mod support;

use procession::sync::{
    Barrier, BrokenBarrier, Condition, Event, LockError, Mutex, RawSemaphore, Semaphore, SharedLock,
};
use procession::{Error, Process};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use support::{alone, sleep_for_ever, wait_until, PATIENCE};

const SOON: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(30);

fn started(function: impl FnOnce() + Send + 'static) -> Process {
    // SAFETY: tests run one at a time, so the other threads are waiting; the closures use nothing of theirs.
    let builder = unsafe { Process::builder().fork_despite_threads() };
    let process = builder.target(function);
    process.start().unwrap();
    process
}

fn kill(process: &Process) {
    process.kill().unwrap();
    assert_eq!(process.join().unwrap().signal(), Some(9));
}

fn all_succeed(processes: &[Process]) {
    for process in processes {
        assert!(process.join().unwrap().success(), "{process}");
    }
}

#[test]
fn mutex_counts_every_change_of_every_process() {
    let _alone = alone();
    let counts = Arc::new(Mutex::new([0u64; 20]).unwrap());
    let processes: Vec<_> = (0..4)
        .map(|_| {
            let counts = counts.clone();
            started(move || {
                for _ in 0..2000 {
                    counts.lock().unwrap().iter_mut().for_each(|count| *count += 1);
                }
            })
        })
        .collect();
    all_succeed(&processes);
    assert_eq!(*counts.lock().unwrap(), [8000; 20]);
    assert_eq!(counts.owner_deaths(), 0);
}

#[test]
fn mutex_of_a_killed_process_has_the_value_from_before() {
    let _alone = alone();
    let mutex = Arc::new(Mutex::new([1u8; 3]).unwrap());
    let holds = Arc::new(Event::new().unwrap());
    let holder = {
        let (mutex, holds) = (mutex.clone(), holds.clone());
        started(move || {
            let mut guard = mutex.lock().unwrap();
            guard[1] = 2;
            holds.set();
            sleep_for_ever();
        })
    };
    assert!(holds.wait_timeout(LONG));
    assert!(mutex.try_lock().is_none());
    assert!(mutex.lock_timeout(SOON).is_none());
    let waiter = {
        let mutex = mutex.clone();
        started(move || mutex.lock().unwrap()[2] = 3)
    };
    kill(&holder);
    all_succeed(&[waiter]);
    assert_eq!(*mutex.lock().unwrap(), [1, 1, 3]);
    assert_eq!(mutex.owner_deaths(), 1);
}

#[test]
fn mutex_survives_processes_that_are_killed_at_random_moments() {
    let _alone = alone();
    let pair = Arc::new(Mutex::new([0u64; 64]).unwrap());
    for round in 0..30 {
        let processes: Vec<_> = (0..2)
            .map(|_| {
                let pair = pair.clone();
                started(move || loop {
                    pair.lock().unwrap().iter_mut().for_each(|number| *number += 1);
                })
            })
            .collect();
        thread::sleep(Duration::from_micros(3000 + 137 * round));
        processes.iter().for_each(kill);
        let value = *pair.lock_timeout(LONG).unwrap();
        assert!(value.iter().all(|&number| number == value[0]), "{value:?}");
    }
    assert!(pair.lock().unwrap()[0] > 0);
}

#[test]
fn lock_of_a_killed_process_goes_to_a_waiter_who_is_told() {
    let _alone = alone();
    let lock = Arc::new(SharedLock::new(false, "accounts").unwrap());
    let holds = Arc::new(Event::new().unwrap());
    let holder = {
        let (lock, holds) = (lock.clone(), holds.clone());
        started(move || {
            let _guard = lock.lock().unwrap();
            holds.set();
            sleep_for_ever();
        })
    };
    assert!(holds.wait_timeout(LONG));
    assert!(matches!(lock.lock_timeout(SOON), Err(LockError::TimedOut)));
    let pid = holder.pid().unwrap();
    let poisoned = thread::scope(|scope| {
        let waiter = scope.spawn(|| match lock.lock_timeout(LONG) {
            Err(LockError::Poisoned(poisoned)) => {
                lock.clear_poison();
                poisoned.dead_owner()
            }
            other => panic!("{other:?}"),
        });
        thread::sleep(SOON);
        kill(&holder);
        waiter.join().unwrap()
    });
    assert_eq!(poisoned, Some(pid));
    drop(lock.lock().unwrap());
}

#[test]
fn deadlock_between_processes_is_told_to_one_of_them() {
    let _alone = alone();
    let locks = Arc::new((
        SharedLock::new(false, "left").unwrap(),
        SharedLock::new(false, "right").unwrap(),
    ));
    let both = Arc::new(Barrier::new(2).unwrap());
    let theirs = (locks.clone(), both.clone());
    let other = started(move || {
        let (locks, both) = theirs;
        let _right = locks.1.lock().unwrap();
        both.wait().unwrap();
        std::process::exit(match locks.0.lock() {
            Err(LockError::Deadlock(_)) => 1,
            _ => 0,
        });
    });
    let left = locks.0.lock().unwrap();
    both.wait().unwrap();
    let told = match locks.1.lock() {
        Err(LockError::Deadlock(deadlock)) => {
            assert_eq!(deadlock.members.len(), 2);
            let text = Error::from(deadlock).to_string();
            assert!(text.contains("Lock left") && text.contains("sync.rs:"), "{text}");
            1
        }
        // The other one has given up, and ended with its lock.
        _ => 0,
    };
    drop(left);
    let theirs = other.join().unwrap().code().unwrap();
    assert_eq!(told + theirs, 1);
}

#[test]
fn condition_hands_over_thousands_of_items_and_loses_none() {
    let _alone = alone();
    const ITEMS: u64 = 5000;
    // How many there are, and the sum of what was taken.
    let shelf = Arc::new((Mutex::new([0u64; 2]).unwrap(), Condition::new().unwrap()));
    let consumers: Vec<_> = (0..3)
        .map(|_| {
            let shelf = shelf.clone();
            started(move || {
                let (items, changed) = &*shelf;
                loop {
                    let mut now = changed
                        .wait_while(items.lock().unwrap(), |items| items[0] == 0)
                        .unwrap();
                    if now[0] == u64::MAX {
                        break;
                    }
                    now[0] -= 1;
                    now[1] += 1;
                }
            })
        })
        .collect();
    let (items, changed) = &*shelf;
    for _ in 0..ITEMS {
        items.lock().unwrap()[0] += 1;
        changed.notify_one();
    }
    wait_until("all is taken", || items.lock().unwrap()[1] == ITEMS);
    items.lock().unwrap()[0] = u64::MAX;
    changed.notify_all();
    all_succeed(&consumers);
}

#[test]
fn notification_goes_past_a_killed_waiter_to_the_next() {
    let _alone = alone();
    let shared = Arc::new((
        SharedLock::new(false, "test").unwrap(),
        Condition::new().unwrap(),
        Event::new().unwrap(),
    ));
    let waiter = || {
        let shared = shared.clone();
        started(move || {
            let (lock, condition, notified) = &*shared;
            let _guard = condition.wait(lock.lock().unwrap()).unwrap();
            notified.set();
        })
    };
    let (lock, condition, notified) = &*shared;
    let first = waiter();
    wait_until("the first waits", || condition.waiting() == 1);
    let second = waiter();
    wait_until("both wait", || condition.waiting() == 2);
    kill(&first);
    let guard = lock.lock().unwrap();
    assert!(condition.notify_one());
    drop(guard);
    assert!(notified.wait_timeout(LONG));
    all_succeed(&[second]);
    assert_eq!(condition.notify_all(), 0);
}

#[test]
fn condition_is_usable_after_a_notifier_was_killed_at_a_random_moment() {
    let _alone = alone();
    let shared = Arc::new((Mutex::new(0u64).unwrap(), Condition::new().unwrap()));
    let (number, changed) = &*shared;
    for round in 0..20 {
        let notifier = {
            let shared = shared.clone();
            started(move || loop {
                *shared.0.lock().unwrap() += 1;
                shared.1.notify_all();
            })
        };
        let waiters: Vec<_> = (0..2)
            .map(|_| {
                let shared = shared.clone();
                started(move || loop {
                    let _ = shared.1.wait(shared.0.lock().unwrap());
                })
            })
            .collect();
        thread::sleep(Duration::from_micros(2000 + 211 * round));
        kill(&notifier);
        kill(&waiters[0]);
        let before = *number.lock_timeout(LONG).unwrap();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let guard = number.lock().unwrap();
                changed
                    .wait_timeout_while(guard, LONG, |now| *now == before)
                    .unwrap()
                    .1
            });
            thread::sleep(Duration::from_millis(1));
            *number.lock().unwrap() += 1;
            changed.notify_all();
            assert!(!waiter.join().unwrap().timed_out());
        });
        kill(&waiters[1]);
    }
}

#[test]
fn barrier_lets_processes_go_together_in_thousands_of_rounds() {
    let _alone = alone();
    const ROUNDS: u64 = 1500;
    let shared = Arc::new((Barrier::new(3).unwrap(), Mutex::new([0u64; 2]).unwrap()));
    let processes: Vec<_> = (0..3)
        .map(|_| {
            let shared = shared.clone();
            started(move || {
                let (barrier, come) = &*shared;
                for round in 1..=ROUNDS {
                    come.lock().unwrap()[0] += 1;
                    let passed = barrier.wait().unwrap();
                    let mut come = come.lock().unwrap();
                    assert!(come[0] >= 3 * round);
                    if passed.is_leader() {
                        come[1] += 1;
                    }
                }
            })
        })
        .collect();
    all_succeed(&processes);
    assert_eq!(*shared.1.lock().unwrap(), [3 * ROUNDS, ROUNDS]);
}

#[test]
fn barrier_breaks_when_a_party_is_killed_waiting_and_works_again_after_a_reset() {
    let _alone = alone();
    let barrier = Arc::new(Barrier::new(3).unwrap());
    let waiter = || {
        let barrier = barrier.clone();
        started(move || {
            let _ = barrier.wait();
        })
    };
    // For one who waits already, and for one who comes later.
    for come_first in [true, false] {
        let victim = waiter();
        wait_until("it waits", || barrier.n_waiting() == 1);
        let outcome = thread::scope(|scope| {
            let other = || barrier.wait_timeout(LONG);
            if come_first {
                let other = scope.spawn(other);
                wait_until("both wait", || barrier.n_waiting() == 2);
                kill(&victim);
                other.join().unwrap()
            } else {
                kill(&victim);
                other()
            }
        });
        assert_eq!(outcome, Err(BrokenBarrier::PartyDied));
        assert!(barrier.is_broken());
        assert!(Error::from(barrier.wait().unwrap_err()).is_barrier_broken());
        barrier.reset();
        let others = [waiter(), waiter()];
        assert!(barrier.wait_timeout(LONG).is_ok());
        all_succeed(&others);
    }
}

#[test]
fn barrier_is_usable_after_parties_were_killed_at_random_moments() {
    let _alone = alone();
    let barrier = Arc::new(Barrier::new(2).unwrap());
    for round in 0..20 {
        let parties = [(); 2].map(|()| {
            let barrier = barrier.clone();
            started(move || while barrier.wait().is_ok() {})
        });
        thread::sleep(Duration::from_micros(2000 + 211 * round));
        kill(&parties[0]);
        // Whether it was killed waiting or in between, this ends it.
        barrier.abort();
        all_succeed(&parties[1..]);
        barrier.reset();
        let other = {
            let barrier = barrier.clone();
            started(move || assert!(barrier.wait_timeout(LONG).is_ok()))
        };
        assert!(barrier.wait_timeout(LONG).is_ok());
        all_succeed(&[other]);
    }
}

#[test]
fn time_limits_end_waits_on_everything() {
    let _alone = alone();
    let begin = Instant::now();
    let barrier = Barrier::new(2).unwrap();
    assert_eq!(barrier.wait_timeout(SOON), Err(BrokenBarrier::TimedOut));
    assert!(!Event::new().unwrap().wait_timeout(SOON));
    assert!(Semaphore::new(0).unwrap().acquire_timeout(SOON).is_none());
    let (mutex, condition) = (Mutex::new(0u8).unwrap(), Condition::new().unwrap());
    let (guard, waited) = condition.wait_timeout(mutex.lock().unwrap(), SOON).unwrap();
    assert!(waited.timed_out());
    assert!(mutex.lock_timeout(SOON).is_none());
    drop(guard);
    assert!(begin.elapsed() >= 5 * SOON && begin.elapsed() < PATIENCE);
}

#[test]
fn semaphore_lets_so_many_processes_in_and_loses_the_permit_of_a_killed_one() {
    let _alone = alone();
    let shared = Arc::new((
        Semaphore::with_limit(2, 2).unwrap(),
        Mutex::new([0u32; 2]).unwrap(),
        Event::new().unwrap(),
    ));
    let processes: Vec<_> = (0..4)
        .map(|_| {
            let shared = shared.clone();
            started(move || {
                let (semaphore, inside, _) = &*shared;
                for _ in 0..300 {
                    let _permit = semaphore.acquire();
                    {
                        let mut now = inside.lock().unwrap();
                        now[0] += 1;
                        now[1] = now[1].max(now[0]);
                    }
                    inside.lock().unwrap()[0] -= 1;
                }
            })
        })
        .collect();
    all_succeed(&processes);
    let most = shared.1.lock().unwrap()[1];
    assert!((1..=2).contains(&most), "{most}");
    assert!(shared.0.release().is_err() && RawSemaphore::MAX > 2);
    let victim = {
        let shared = shared.clone();
        started(move || {
            let _permit = shared.0.acquire();
            shared.2.set();
            sleep_for_ever();
        })
    };
    assert!(shared.2.wait_timeout(LONG));
    kill(&victim);
    assert_eq!(shared.0.available_permits(), 1);
}
