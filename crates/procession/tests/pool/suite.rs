//! The pool as users of the crate meet it, in good and in bad times, with the start method of the test program.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{mpsc, Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{alone, sleep_for_ever, wait_until};
use procession::os::process as os;
use procession::{Array, Bytes, Error, Pool, PoolBuilder, Result, StartMethod, WorkerState};
use serde::{Deserialize, Serialize};

/// Where spawned supervisors are led to.
const BEGINNING: [&str; 3] = ["suite::spawned_processes_begin_here", "--exact", "--nocapture"];

fn builder() -> PoolBuilder {
    procession::init();
    Pool::builder().start_method(crate::METHOD).arguments(BEGINNING)
}

#[test]
fn spawned_processes_begin_here() {
    procession::init();
}

fn pool(processes: usize) -> Pool {
    builder().processes(processes).build().unwrap()
}

fn square(x: u64) -> u64 {
    x * x
}

fn sleep_ms(ms: u64) {
    thread::sleep(Duration::from_millis(ms));
}

/// A fresh file for tasks to write to; gone with the value.
struct Notes(PathBuf);

impl Notes {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("procession-test-{}-{number}", std::process::id()));
        File::create(&path).unwrap();
        Notes(path)
    }

    fn path(&self) -> String {
        self.0.to_str().unwrap().to_owned()
    }

    fn lines(&self) -> Vec<String> {
        fs::read_to_string(&self.0)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// How many threads of this process are a pool's.
fn helpers() -> usize {
    let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
    let name = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
    threads
        .map(name)
        .filter(|name| name.starts_with("procession"))
        .count()
}

/// Appends a line, in one piece.
fn note(path: &str, line: impl std::fmt::Display) {
    let mut file = OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// The ways in which a task may end that is not to return.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Fault {
    None,
    Panics,
    Killed,
    Segfaults,
    Aborts,
    Exits,
}

const DEADLY: [Fault; 4] = [Fault::Killed, Fault::Segfaults, Fault::Aborts, Fault::Exits];

fn run((fault, value): (Fault, u64)) -> u64 {
    match fault {
        Fault::None => {}
        Fault::Panics => panic!("deliberate {value}"),
        Fault::Killed => os::kill(std::process::id(), os::SIGKILL).unwrap(),
        // SAFETY: to be killed for it is what the test wants.
        Fault::Segfaults => unsafe { std::ptr::null_mut::<u64>().wrapping_add(1).write_volatile(1) },
        Fault::Aborts => std::process::abort(),
        Fault::Exits => std::process::exit(3),
    }
    value
}

fn no_core_dumps() {
    // SAFETY: sets a limit of this process alone.
    unsafe {
        let none = libc_rlimit { current: 0, most: 0 };
        setrlimit(4, &none);
    }
}

#[repr(C)]
#[allow(non_camel_case_types)]
struct libc_rlimit {
    current: u64,
    most: u64,
}

extern "C" {
    fn setrlimit(resource: i32, limit: *const libc_rlimit) -> i32;
}

/// Whether the error is the one that this fault deserves.
fn check_error(error: &Error, fault: Fault, value: u64) {
    let text = error.to_string();
    assert!(error.task().unwrap().contains("run"), "{text}");
    if fault == Fault::Panics {
        assert!(error.is_task_panicked() && !error.is_worker_died(), "{text}");
        assert_eq!(
            error.panic_message(),
            Some(format!("deliberate {value}").as_str())
        );
        assert!(text.contains("suite.rs:"), "{text}");
        return;
    }
    assert!(error.is_worker_died(), "{text}");
    assert!(error.worker_pid().unwrap() > 1);
    let (signal, code) = match fault {
        Fault::Killed => (Some(9), None),
        Fault::Segfaults => (Some(11), None),
        Fault::Aborts => (Some(6), None),
        _ => (None, Some(3)),
    };
    let status = error.exit_status().unwrap();
    assert_eq!((status.signal(), status.code()), (signal, code), "{text}");
}

// ---- good times -------------------------------------------------------------------------------------------------

#[test]
fn map_gives_results_in_order_whatever_the_sizes() {
    let _alone = alone();
    let pool = pool(3);
    for n in [0, 1, 2, 7, 1000, 100_000] {
        let expected: Vec<u64> = (0..n).map(square).collect();
        assert_eq!(pool.map(square, 0..n).unwrap(), expected);
        for chunk in [1, 3, 5000] {
            assert_eq!(
                pool.map_with_chunks(square, 0..n, chunk).unwrap(),
                expected,
                "{n} by {chunk}"
            );
        }
        assert_eq!(pool.map_async(square, 0..n).unwrap().get().unwrap(), expected);
        assert_eq!(
            pool.imap(square, 0..n)
                .unwrap()
                .collect::<Result<Vec<_>>>()
                .unwrap(),
            expected
        );
        let mut unordered = pool
            .imap_unordered(square, 0..n)
            .unwrap()
            .collect::<Result<Vec<_>>>()
            .unwrap();
        unordered.sort_unstable();
        assert_eq!(unordered, expected);
    }
}

#[test]
fn several_arguments_are_a_tuple_and_any_serde_type_travels() {
    let _alone = alone();
    let pool = pool(2);
    assert_eq!(pool.apply(|(x, y): (u64, u64)| x * y, (10, 4)).unwrap(), 40);
    let pairs = pool
        .map(
            |(word, n): (String, usize)| word.repeat(n),
            [("a".into(), 3), ("bc".into(), 100_000)],
        )
        .unwrap();
    assert_eq!((pairs[0].as_str(), pairs[1].len()), ("aaa", 200_000));
    assert_eq!(
        pool.apply(|values: Vec<Option<f64>>| values.len(), vec![Some(1.5), None])
            .unwrap(),
        2
    );
    pool.apply(|()| (), ()).unwrap();
}

#[test]
fn items_that_are_long_or_huge_travel_in_one_batch() {
    let _alone = alone();
    let pool = pool(2);
    let items: Vec<String> = (0..300usize).map(|n| "x".repeat(n * n)).collect();
    let lengths = pool
        .map_with_chunks(|text: String| (text.len(), text), items.clone(), 100)
        .unwrap();
    for (n, (length, text)) in lengths.into_iter().enumerate() {
        assert_eq!((length, &text), (n * n, &items[n]));
    }
}

#[test]
fn async_result_can_be_waited_for_and_asked() {
    let _alone = alone();
    let pool = pool(2);
    let mut slow = pool
        .apply_async(
            |ms| {
                sleep_ms(ms);
                ms
            },
            300,
        )
        .unwrap();
    assert!(!slow.is_ready() && !slow.is_successful());
    assert!(!slow.wait_timeout(Duration::from_millis(20)));
    let early = slow.get_timeout(Duration::from_millis(20)).unwrap_err();
    assert!(early.is_timeout() && !early.is_task_timeout(), "{early}");
    slow.wait();
    assert!(slow.is_ready() && slow.is_successful() && slow.wait_timeout(Duration::ZERO));
    assert_eq!(slow.get_timeout(Duration::ZERO).unwrap(), 300);
    assert!(slow
        .get_timeout(Duration::ZERO)
        .unwrap_err()
        .to_string()
        .contains("taken"));
    let failed = pool.apply_async(run, (Fault::Panics, 1)).unwrap();
    failed.wait();
    assert!(failed.is_ready() && !failed.is_successful());
    check_error(&failed.get().unwrap_err(), Fault::Panics, 1);
}

#[test]
fn async_tasks_run_side_by_side() {
    let _alone = alone();
    let pool = pool(4);
    let began = Instant::now();
    let results: Vec<_> = (0..4).map(|_| pool.apply_async(sleep_ms, 400).unwrap()).collect();
    for result in results {
        result.get().unwrap();
    }
    assert!(
        began.elapsed() < Duration::from_millis(1500),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn callbacks_are_called_and_leave_no_thread() {
    let _alone = alone();
    let pool = pool(2);
    let (send, receive) = mpsc::channel();
    let mut results = Vec::new();
    for value in 0..20 {
        let (good, bad) = (send.clone(), send.clone());
        let fault = if value % 4 == 0 {
            Fault::Panics
        } else {
            Fault::None
        };
        let result = pool.apply_async_with(
            run,
            (fault, value),
            move |result| good.send(Ok(*result)).unwrap(),
            move |error| bad.send(Err(error.clone())).unwrap(),
        );
        results.push(result.unwrap());
    }
    let heard: Vec<std::result::Result<u64, Error>> = receive.iter().take(20).collect();
    assert_eq!(heard.iter().filter(|heard| heard.is_err()).count(), 5);
    for (value, result) in results.into_iter().enumerate() {
        assert_eq!(result.get().is_ok(), value % 4 != 0);
    }
    wait_until("the helper has gone", || helpers() == 0);
    drop(pool);
}

#[test]
fn panicking_callback_harms_nobody() {
    let _alone = alone();
    let pool = pool(2);
    let first = pool
        .apply_async_with(square, 3, |_| panic!("deliberate, in a callback"), |_| ())
        .unwrap();
    assert_eq!(first.get().unwrap(), 9);
    let (send, receive) = mpsc::channel();
    drop(
        pool.apply_async_with(square, 4, move |&value| send.send(value).unwrap(), |_| ())
            .unwrap(),
    );
    assert_eq!(receive.recv().unwrap(), 16);
}

#[test]
fn imap_reads_no_further_than_its_buffer() {
    let _alone = alone();
    let pool = builder().processes(2).buffer(10).build().unwrap();
    for ordered in [true, false] {
        let read = AtomicUsize::new(0);
        let endless = (0u64..).inspect(|_| {
            read.fetch_add(1, Ordering::Relaxed);
        });
        let results = if ordered {
            pool.imap(square, endless)
        } else {
            pool.imap_unordered(square, endless)
        };
        let mut results = results.unwrap();
        thread::sleep(Duration::from_millis(100));
        assert!((1..=10).contains(&read.load(Ordering::Relaxed)), "{read:?}");
        for taken in 1..=50 {
            results.next().unwrap().unwrap();
            let read = read.load(Ordering::Relaxed);
            assert!(read <= taken + 10, "{read} read, {taken} taken");
        }
        drop(results);
    }
    assert_eq!(pool.apply(square, 5).unwrap(), 25);
}

#[test]
fn imap_gives_each_result_as_soon_as_it_is_there() {
    let _alone = alone();
    let pool = pool(2);
    let mut results = pool
        .imap_unordered(
            |ms| {
                sleep_ms(ms);
                ms
            },
            [10_000, 1, 2, 3],
        )
        .unwrap();
    let early: Vec<u64> = results.by_ref().take(3).map(Result::unwrap).collect();
    assert_eq!(early, [1, 2, 3]);
    // Dropping both takes nothing that the test would have to wait for.
    drop(results);
}

#[test]
fn dropped_imap_takes_back_what_was_not_begun() {
    let _alone = alone();
    let notes = Notes::new();
    let pool = pool(1);
    let tasks = (0..100).map(|n| (notes.path(), n));
    let slow = |(path, n): (String, u32)| {
        note(&path, n);
        sleep_ms(30)
    };
    let mut results = pool.imap(slow, tasks).unwrap();
    results.next().unwrap().unwrap();
    drop(results);
    pool.apply(square, 1).unwrap();
    assert!(notes.lines().len() < 10, "{}", notes.lines().len());
}

#[test]
fn batches_follow_the_time_that_items_take() {
    let _alone = alone();
    let pool = pool(2);
    let long = pool
        .map(
            |_: u32| {
                sleep_ms(5);
                std::process::id()
            },
            0..40,
        )
        .unwrap();
    let distinct: HashSet<u32> = long.iter().copied().collect();
    let counts: Vec<_> = distinct
        .iter()
        .map(|pid| long.iter().filter(|&other| other == pid).count())
        .collect();
    assert!(
        counts.len() == 2 && counts.iter().all(|&count| count >= 10),
        "{counts:?}"
    );
    let before: u64 = pool.workers().iter().map(|worker| worker.tasks_done).sum();
    pool.map(square, 0..100_000).unwrap();
    let after: u64 = pool.workers().iter().map(|worker| worker.tasks_done).sum();
    assert!(after - before < 10_000, "{} batches", after - before);
}

#[test]
fn rest_of_a_batch_goes_to_idle_workers_while_one_item_takes_long() {
    let _alone = alone();
    let pool = pool(2);
    let items: Vec<u64> = (0..40).map(|n| if n == 0 { 700 } else { 1 }).collect();
    for asynchronous in [false, true] {
        let work = |ms| {
            sleep_ms(ms);
            std::process::id()
        };
        let began = Instant::now();
        let pids = match asynchronous {
            false => pool.map_with_chunks(work, items.clone(), 20).unwrap(),
            true => pool.map_async(work, items.clone()).unwrap().get().unwrap(),
        };
        assert!(
            pids[1..].iter().all(|&pid| pid != pids[0]),
            "{:?} {pids:?}",
            began.elapsed()
        );
    }
}

#[test]
fn backlog_beyond_the_ring_is_worked_off() {
    let _alone = alone();
    let pool = pool(2);
    let n = 150_000;
    let results: Vec<_> = (0..n).map(|x| pool.apply_async(square, x).unwrap()).collect();
    for (x, result) in results.into_iter().enumerate() {
        assert_eq!(result.get().unwrap(), square(x as u64));
    }
}

#[test]
fn backlog_is_worked_off_although_nobody_waits() {
    let _alone = alone();
    let pool = pool(2);
    let notes = Notes::new();
    let results: Vec<_> = (0..70_000)
        .map(|x| pool.apply_async(square, x).unwrap())
        .collect();
    let last = pool
        .apply_async(|path: String| note(&path, "last"), notes.path())
        .unwrap();
    wait_until("the last task has run", || notes.lines() == ["last"]);
    drop(results);
    last.get().unwrap();
}

#[test]
fn more_than_64_workers_work() {
    let _alone = alone();
    let pool = pool(80);
    let pids: HashSet<u32> = pool
        .map_with_chunks(
            |_: u32| {
                sleep_ms(50);
                std::process::id()
            },
            0..400,
            1,
        )
        .unwrap()
        .into_iter()
        .collect();
    assert!(pids.len() > 64, "{}", pids.len());
    assert_eq!(pool.workers().len(), 80);
}

#[test]
fn several_pools_and_threads_at_once() {
    let _alone = alone();
    let pools = [pool(2), pool(1)];
    thread::scope(|scope| {
        for thread in 0..4u64 {
            let pool = &pools[thread as usize % 2];
            scope.spawn(move || {
                for round in 0..30 {
                    let n = 100 * (thread + 1);
                    assert_eq!(
                        pool.map(square, 0..n).unwrap(),
                        (0..n).map(square).collect::<Vec<_>>()
                    );
                    assert_eq!(pool.apply(square, round).unwrap(), square(round));
                    assert_eq!(
                        pool.imap(square, 0..n).unwrap().map(Result::unwrap).sum::<u64>(),
                        (0..n).map(square).sum()
                    );
                }
            });
        }
    });
}

#[test]
fn task_may_have_a_pool_of_its_own() {
    let _alone = alone();
    let pool = pool(2);
    let sums = pool.map_with_chunks(
        |n: u64| {
            builder()
                .processes(2)
                .build()
                .unwrap()
                .map(square, 0..n)
                .unwrap()
                .iter()
                .sum::<u64>()
        },
        [10, 100, 1000],
        1,
    );
    assert_eq!(
        sums.unwrap(),
        [10, 100, 1000].map(|n| (0..n).map(square).sum::<u64>())
    );
}

#[test]
fn initializer_runs_once_in_each_worker() {
    let _alone = alone();
    static READY: AtomicU32 = AtomicU32::new(0);
    let pool = builder()
        .processes(3)
        .initializer(|| {
            READY.fetch_add(7, Ordering::Relaxed);
        })
        .build()
        .unwrap();
    let seen = pool
        .map_with_chunks(
            |_: u32| {
                sleep_ms(5);
                READY.load(Ordering::Relaxed)
            },
            0..30,
            1,
        )
        .unwrap();
    assert!(seen.iter().all(|&seen| seen == 7), "{seen:?}");
    assert_eq!(READY.load(Ordering::Relaxed), 0);
}

#[test]
fn workers_are_replaced_after_so_many_tasks() {
    let _alone = alone();
    let pool = builder().processes(2).tasks_per_worker(3).build().unwrap();
    let pids = pool.map(|_: u32| std::process::id(), 0..60).unwrap();
    let distinct: HashSet<u32> = pids.iter().copied().collect();
    assert!(distinct.len() >= 20, "{}", distinct.len());
    assert!(distinct
        .iter()
        .all(|pid| pids.iter().filter(|other| *other == pid).count() <= 3));
}

#[test]
fn workers_can_be_looked_at() {
    let _alone = alone();
    let pool = pool(2);
    let running = pool.apply_async(sleep_ms, 400).unwrap();
    let states = || {
        pool.workers()
            .iter()
            .map(|worker| worker.state)
            .collect::<Vec<_>>()
    };
    wait_until("one runs and one is idle", || {
        let states = states();
        states.contains(&WorkerState::Running) && states.contains(&WorkerState::Idle)
    });
    running.get().unwrap();
    wait_until("both are idle", || states() == [WorkerState::Idle; 2]);
    assert!(pool
        .workers()
        .iter()
        .all(|worker| worker.name.starts_with("ForkPoolWorker-") && worker.pid > 1));
    assert_eq!(
        pool.workers().iter().map(|worker| worker.tasks_done).sum::<u64>(),
        1
    );
}

#[test]
fn worker_knows_its_name() {
    let _alone = alone();
    let pool = pool(1);
    let name = pool
        .apply(|()| procession::current().name().to_owned(), ())
        .unwrap();
    assert_eq!(name, pool.workers()[0].name);
}

// ---- closing ----------------------------------------------------------------------------------------------------

#[test]
fn closed_pool_does_what_it_has_and_takes_no_more() {
    let _alone = alone();
    let pool = pool(2);
    let before = pool.join().unwrap_err();
    assert!(before.is_still_running(), "{before}");
    let results: Vec<_> = (0..20)
        .map(|x| {
            pool.apply_async(
                |x| {
                    sleep_ms(5);
                    square(x)
                },
                x,
            )
            .unwrap()
        })
        .collect();
    let map = pool.map_async(square, 0..1000).unwrap();
    pool.close();
    for refused in [
        pool.apply(square, 1).map(drop),
        pool.map(square, 0..3).map(drop),
        pool.imap(square, 0..3).map(drop),
    ] {
        assert!(refused.unwrap_err().is_closed());
    }
    pool.join().unwrap();
    pool.join().unwrap();
    assert!(results.iter().all(|result| result.is_ready()));
    assert_eq!(
        results
            .into_iter()
            .map(|result| result.get().unwrap())
            .sum::<u64>(),
        (0..20).map(square).sum()
    );
    assert_eq!(map.get().unwrap().len(), 1000);
    pool.terminate();
    assert!(pool.apply(square, 1).unwrap_err().is_closed());
}

#[test]
fn join_does_not_wait_for_an_imap_that_its_own_thread_does_not_read() {
    let _alone = alone();
    let pool = builder().processes(2).buffer(4).build().unwrap();
    let mut results = pool.imap(square, 0..).unwrap();
    assert_eq!(results.next().unwrap().unwrap(), 0);
    pool.close();
    pool.join().unwrap();
    let rest: Vec<_> = results.take(20).collect();
    assert!(rest.last().unwrap().as_ref().unwrap_err().is_closed());
}

#[test]
fn closing_lets_another_threads_imap_come_to_its_end() {
    let _alone = alone();
    let pool = Arc::new(builder().processes(2).buffer(4).build().unwrap());
    let (send, begun) = mpsc::channel();
    let reader = {
        let pool = pool.clone();
        thread::spawn(move || {
            let results = pool.imap(square, 0..200).unwrap();
            send.send(()).unwrap();
            drop(pool);
            results
                .map(|result| {
                    thread::sleep(Duration::from_millis(1));
                    result.unwrap()
                })
                .sum::<u64>()
        })
    };
    begun.recv().unwrap();
    pool.close();
    pool.join().unwrap();
    assert_eq!(reader.join().unwrap(), (0..200).map(square).sum());
}

#[test]
fn terminate_fails_what_was_not_done() {
    let _alone = alone();
    let pool = pool(2);
    let done = pool.apply_async(square, 3).unwrap();
    done.wait();
    let running: Vec<_> = (0..5)
        .map(|_| pool.apply_async(|()| sleep_for_ever(), ()).unwrap())
        .collect();
    let map = pool.map_async(|_: u32| sleep_for_ever(), 0..10).unwrap();
    thread::sleep(Duration::from_millis(50));
    pool.terminate();
    pool.terminate();
    pool.join().unwrap();
    assert_eq!(done.get().unwrap(), 9);
    for result in running {
        let error = result.get().unwrap_err();
        assert!(error.is_terminated() && error.is_closed(), "{error}");
    }
    assert!(map.get().unwrap_err().is_terminated());
    assert!(pool.apply(square, 1).unwrap_err().is_terminated());
}

#[test]
fn terminate_from_another_thread_ends_all_kinds_of_waiting() {
    let _alone = alone();
    let pool = pool(2);
    thread::scope(|scope| {
        let waiters = [
            scope.spawn(|| pool.apply(sleep_ms, 100_000).unwrap_err()),
            scope.spawn(|| pool.map(sleep_ms, [100_000; 10]).unwrap_err()),
            scope.spawn(|| {
                pool.imap(sleep_ms, [100_000; 10])
                    .unwrap()
                    .next()
                    .unwrap()
                    .unwrap_err()
            }),
            scope.spawn(|| {
                pool.map_async(sleep_ms, [100_000; 10])
                    .unwrap()
                    .get()
                    .unwrap_err()
            }),
        ];
        thread::sleep(Duration::from_millis(100));
        pool.terminate();
        for waiter in waiters {
            let error = waiter.join().unwrap();
            assert!(error.is_terminated(), "{error}");
        }
    });
}

#[test]
fn terminate_from_a_callback_works() {
    let _alone = alone();
    let pool = Arc::new(pool(2));
    let in_callback = pool.clone();
    let stuck = pool.apply_async(|()| sleep_for_ever(), ()).unwrap();
    let first = pool
        .apply_async_with(square, 2, move |_| in_callback.terminate(), |_| ())
        .unwrap();
    assert!(stuck.get().unwrap_err().is_terminated());
    assert_eq!(first.get().unwrap(), 4);
    pool.join().unwrap();
}

#[test]
fn last_handle_may_be_dropped_in_a_callback() {
    let _alone = alone();
    let pool = Arc::new(pool(2));
    let in_callback = pool.clone();
    let result = pool.apply_async_with(
        square,
        2,
        move |_| {
            thread::sleep(Duration::from_millis(50));
            drop(in_callback)
        },
        |_| (),
    );
    drop(pool);
    assert_eq!(result.unwrap().get().unwrap(), 4);
    wait_until("the helper has gone", || helpers() == 0);
}

#[test]
fn dropping_a_pool_ends_its_workers_also_those_that_do_not_listen() {
    let _alone = alone();
    let pool = pool(3);
    let deaf = pool
        .apply_async(
            |()| {
                os::ignore_signal(os::SIGTERM).unwrap();
                sleep_for_ever()
            },
            (),
        )
        .unwrap();
    let stopped = pool
        .apply_async(|()| os::kill(std::process::id(), os::SIGSTOP).unwrap(), ())
        .unwrap();
    wait_until("both run", || {
        pool.workers()
            .iter()
            .filter(|w| w.state == WorkerState::Running)
            .count()
            == 2
    });
    thread::sleep(Duration::from_millis(50));
    let pids: Vec<u32> = pool.workers().iter().map(|worker| worker.pid).collect();
    drop(pool);
    assert!(pids.iter().all(|&pid| os::process_state(pid).is_none()));
    assert!(deaf.get().unwrap_err().is_terminated() && stopped.get().unwrap_err().is_terminated());
}

#[test]
fn pool_belongs_to_the_process_that_made_it() {
    let _alone = alone();
    let pool = Arc::new(pool(1));
    let pending = pool.apply_async(square, 6).unwrap();
    let in_child = pool.clone();
    // SAFETY: the other threads are waiting; the child uses nothing of theirs.
    let builder = unsafe { procession::Process::builder().fork_despite_threads() };
    let child = builder.target(move || {
        let refused = in_child.apply(square, 1).unwrap_err().is_not_owner()
            && in_child.join().unwrap_err().is_not_owner();
        in_child.close();
        in_child.terminate();
        drop(in_child);
        i32::from(!refused)
    });
    child.start().unwrap();
    assert!(child.join().unwrap().success());
    assert_eq!(pending.get().unwrap(), 36);
    assert_eq!(pool.apply(square, 7).unwrap(), 49);
}

// ---- bad times --------------------------------------------------------------------------------------------------

#[test]
fn each_fault_costs_exactly_its_own_task() {
    let _alone = alone();
    no_core_dumps();
    let pool = pool(2);
    for fault in DEADLY.into_iter().chain([Fault::Panics]) {
        let items = || (0..40).map(move |value| (if value == 17 { fault } else { Fault::None }, value));
        let results: Vec<_> = items().map(|item| pool.apply_async(run, item).unwrap()).collect();
        for (value, result) in results.into_iter().enumerate() {
            match result.get() {
                Ok(result) => assert_eq!((result, value == 17), (value as u64, false)),
                Err(error) => {
                    assert_eq!(value, 17, "{error}");
                    check_error(&error, fault, 17);
                }
            }
        }
        for chunk in [1, 4, 40] {
            let error = pool.map_with_chunks(run, items(), chunk).unwrap_err();
            check_error(&error, fault, 17);
            assert!(error.to_string().contains("(item 17)"), "{error}");
        }
        check_error(&pool.map(run, items()).unwrap_err(), fault, 17);
        check_error(
            &pool.map_async(run, items()).unwrap().get().unwrap_err(),
            fault,
            17,
        );
        let mut failed = 0;
        for (value, result) in pool.imap(run, items()).unwrap().enumerate() {
            match result {
                Ok(result) => assert_eq!(result, value as u64),
                Err(error) => {
                    assert_eq!(value, 17);
                    check_error(&error, fault, 17);
                    failed += 1;
                }
            }
        }
        assert_eq!(failed, 1);
        let (good, bad): (Vec<_>, Vec<_>) = pool
            .imap_unordered(run, items())
            .unwrap()
            .partition(Result::is_ok);
        assert_eq!((good.len(), bad.len()), (39, 1));
        check_error(bad[0].as_ref().unwrap_err(), fault, 17);
    }
    assert_eq!(pool.apply(square, 9).unwrap(), 81);
}

#[test]
fn every_item_of_a_map_runs_exactly_once_also_around_a_death() {
    let _alone = alone();
    let notes = Notes::new();
    let pool = pool(2);
    let items = (0..200).map(|n| (notes.path(), n));
    let work = |(path, n): (String, u32)| {
        note(&path, n);
        if n % 50 == 20 {
            os::kill(std::process::id(), os::SIGKILL).unwrap();
        }
    };
    let error = pool.map_with_chunks(work, items, 25).unwrap_err();
    assert!(error.to_string().contains("(item 20)"), "{error}");
    let mut lines: Vec<u32> = notes.lines().iter().map(|line| line.parse().unwrap()).collect();
    lines.sort_unstable();
    assert_eq!(lines, (0..200).collect::<Vec<_>>());
}

#[test]
fn idle_worker_that_is_killed_is_replaced() {
    let _alone = alone();
    let pool = pool(2);
    pool.map_with_chunks(|_: u32| sleep_ms(5), 0..10, 1).unwrap();
    for _ in 0..20 {
        for worker in pool.workers() {
            let _ = os::kill(worker.pid, os::SIGKILL);
        }
        assert_eq!(pool.map(square, 0..100).unwrap().len(), 100);
        wait_until("there are two again", || {
            pool.workers()
                .iter()
                .filter(|w| w.state == WorkerState::Idle)
                .count()
                == 2
        });
    }
}

#[test]
fn storm_of_kills_costs_no_more_than_one_task_each() {
    let _alone = alone();
    let pool = pool(2);
    let stop = AtomicU32::new(0);
    thread::scope(|scope| {
        let kills = scope.spawn(|| {
            let mut kills = 0;
            while stop.load(Ordering::Relaxed) == 0 {
                thread::sleep(Duration::from_millis(3));
                let workers = pool.workers();
                // For a moment there may be none: all have been killed.
                let Some(victim) = workers.get(kills % workers.len().max(1)) else {
                    continue;
                };
                if victim.state == WorkerState::Running || victim.state == WorkerState::Idle {
                    kills += usize::from(os::kill(victim.pid, os::SIGKILL).is_ok());
                }
            }
            kills
        });
        let until = Instant::now() + Duration::from_secs(4);
        let (mut failed, mut rounds) = (0, 0);
        while Instant::now() < until {
            rounds += 1;
            let n = 20_000;
            for (x, result) in pool.imap(square, 0..n).unwrap().enumerate() {
                match result {
                    Ok(result) => assert_eq!(result, square(x as u64)),
                    Err(error) => {
                        assert!(error.is_worker_died(), "{error}");
                        failed += 1;
                    }
                }
            }
            match pool.map(square, 0..n) {
                Ok(results) => assert_eq!(results.len() as u64, n),
                Err(error) => assert!(error.is_worker_died(), "{error}"),
            }
        }
        stop.store(1, Ordering::Relaxed);
        let kills = kills.join().unwrap();
        assert!(failed <= kills, "{failed} failed, {kills} kills");
        assert!(kills > 20 && rounds > 2, "{kills} kills, {rounds} rounds");
    });
    assert_eq!(pool.apply(square, 9).unwrap(), 81);
}

#[test]
fn cancelled_tasks_fail_and_nothing_else_does() {
    let _alone = alone();
    let pool = pool(2);
    let running: Vec<_> = (0..2)
        .map(|_| pool.apply_async(|()| sleep_for_ever(), ()).unwrap())
        .collect();
    wait_until("both workers to be busy", || {
        pool.workers()
            .iter()
            .all(|worker| worker.state == WorkerState::Running)
    });
    let queued = pool.apply_async(|()| sleep_for_ever(), ()).unwrap();
    let innocent = pool.apply_async(square, 7).unwrap();
    let many = pool.map_async(|_: u64| sleep_for_ever(), 0..50).unwrap();
    assert!(queued.cancel() && many.cancel());
    assert!(running.iter().all(|result| result.cancel()));
    let error = queued.get().unwrap_err();
    assert!(error.is_cancelled() && !error.is_worker_died(), "{error}");
    assert!(many.get().unwrap_err().is_cancelled());
    for result in running {
        assert!(result.get().unwrap_err().is_cancelled());
    }
    assert_eq!(innocent.get().unwrap(), 49);
    let rest: Vec<_> = (0..5)
        .map(|_| pool.apply_async(|()| sleep_for_ever(), ()).unwrap())
        .collect();
    assert_eq!(pool.cancel().unwrap(), 5);
    assert!(rest
        .into_iter()
        .all(|result| result.get().unwrap_err().is_cancelled()));
    let done = pool.apply_async(square, 3).unwrap();
    done.wait();
    assert!(!done.cancel());
    assert_eq!(done.get().unwrap(), 9);
}

#[test]
fn calls_have_limits_and_priorities_of_their_own() {
    let _alone = alone();
    let pool = pool(1);
    let notes = Notes::new();
    let error = pool
        .calls()
        .timeout(Duration::from_millis(50))
        .unwrap()
        .apply(|()| sleep_for_ever(), ())
        .unwrap_err();
    assert!(
        error.is_task_timeout() && error.to_string().contains("50ms"),
        "{error}"
    );
    assert!(pool.calls().timeout(Duration::ZERO).unwrap_err().is_bad_option());
    let blocking = pool.apply_async(|()| sleep_for_ever(), ()).unwrap();
    wait_until("the worker to be busy", || {
        pool.workers()
            .iter()
            .all(|worker| worker.state == WorkerState::Running)
    });
    let note = |(path, text): (String, String)| {
        writeln!(OpenOptions::new().append(true).open(path).unwrap(), "{text}").unwrap()
    };
    let mut results = Vec::new();
    for (text, priority) in [("last", -1), ("c", 0), ("a", 7), ("d", 0), ("b", 7)] {
        let calls = pool.calls().priority(priority);
        results.push(calls.apply_async(note, (notes.path(), text.to_string())).unwrap());
    }
    let many = pool.calls().priority(9).map_async(square, 0..100).unwrap();
    assert!(blocking.cancel());
    assert_eq!(many.get().unwrap().len(), 100);
    for result in results {
        result.get().unwrap();
    }
    assert_eq!(notes.lines(), ["a", "b", "c", "d", "last"]);
    assert_eq!(
        pool.calls()
            .imap(square, 0..3)
            .unwrap()
            .map(Result::unwrap)
            .collect::<Vec<_>>(),
        [0, 1, 4]
    );
}

#[test]
fn a_task_that_takes_too_much_memory_fails_alone() {
    let _alone = alone();
    let pool = builder().processes(2).memory_limit(64 << 20).build().unwrap();
    let greedy = pool
        .apply_async(
            |()| {
                let mut hoard = Vec::new();
                loop {
                    hoard.push(vec![1_u8; 1 << 20]);
                    sleep_ms(1);
                }
            },
            (),
        )
        .unwrap();
    let greedy: procession::AsyncResult<()> = greedy;
    assert_eq!(pool.map(square, 0..100).unwrap().len(), 100);
    let error = greedy.get().unwrap_err();
    assert!(error.is_memory_limit() && error.worker_pid().is_some(), "{error}");
    assert_eq!(pool.apply(square, 3).unwrap(), 9);
}

#[test]
fn a_worker_that_has_grown_is_replaced_after_its_task() {
    let _alone = alone();
    let pool = builder().processes(1).recycle_memory(32 << 20).build().unwrap();
    let first = pool.apply(|()| std::process::id(), ()).unwrap();
    let leaked = |bytes: u64| std::mem::forget(vec![1_u8; bytes as usize]);
    pool.apply(leaked, 64 << 20).unwrap();
    wait_until("a fresh worker", || {
        pool.apply(|()| std::process::id(), ()).unwrap() != first
    });
}

#[test]
fn timeout_kills_only_the_stuck_task() {
    let _alone = alone();
    let pool = builder()
        .processes(2)
        .timeout(Duration::from_millis(200))
        .build()
        .unwrap();
    let work = |n: u64| {
        if n == 5 {
            sleep_for_ever()
        }
        n
    };
    for chunk in [1, 20] {
        let error = pool.map_with_chunks(work, 0..20, chunk).unwrap_err();
        assert!(
            error.is_task_timeout() && !error.is_timeout() && !error.is_worker_died(),
            "{error}"
        );
        assert!(
            error.to_string().contains("(item 5)") && error.to_string().contains("200ms"),
            "{error}"
        );
    }
    let results: Vec<_> = pool.imap(work, 0..20).unwrap().collect();
    assert!(results
        .iter()
        .enumerate()
        .all(|(n, result)| result.is_ok() == (n != 5)));
    let stuck = pool.apply_async(work, 5).unwrap();
    assert_eq!(pool.apply(work, 6).unwrap(), 6);
    assert!(stuck.get().unwrap_err().is_task_timeout());
}

#[test]
fn time_in_the_queue_does_not_count() {
    let _alone = alone();
    let pool = builder()
        .processes(1)
        .timeout(Duration::from_millis(500))
        .build()
        .unwrap();
    let results: Vec<_> = (0..6).map(|_| pool.apply_async(sleep_ms, 150).unwrap()).collect();
    for result in results {
        result.get().unwrap();
    }
}

#[test]
fn panicking_initializer_is_one_error_for_everybody() {
    let _alone = alone();
    let notes = Notes::new();
    // Where spawned workers find it as well. Tests run one at a time, and no other uses it.
    const PATH: &str = "PROCESSION_TEST_NOTES";
    std::env::set_var(PATH, notes.path());
    let pool = builder()
        .processes(2)
        .initializer(|| {
            note(&std::env::var(PATH).unwrap(), "begun");
            panic!("no luck")
        })
        .build()
        .unwrap();
    let result = pool.apply_async(square, 3);
    let errors = [
        result.map_or_else(|error| error, |result| result.get().unwrap_err()),
        pool.map(square, 0..10).unwrap_err(),
        pool.apply(square, 1).unwrap_err(),
    ];
    for error in errors {
        assert!(error.is_broken(), "{error}");
        assert!(
            error.to_string().contains("the initializer panicked at")
                && error.to_string().contains("no luck"),
            "{error}"
        );
    }
    thread::sleep(Duration::from_millis(200));
    assert!(notes.lines().len() <= 2, "{:?}", notes.lines());
    pool.close();
    pool.join().unwrap();
}

#[test]
fn workers_that_end_before_they_are_ready_break_the_pool() {
    let _alone = alone();
    let pool = builder()
        .processes(2)
        .initializer(|| std::process::exit(5))
        .build()
        .unwrap();
    let error = pool.apply(square, 3).unwrap_err();
    assert!(
        error.is_broken() && error.to_string().contains("exited with code 5"),
        "{error}"
    );
}

#[test]
fn workers_killed_while_they_start_do_not_break_the_pool() {
    let _alone = alone();
    let pool = builder()
        .processes(2)
        .initializer(|| thread::sleep(Duration::from_millis(20)))
        .build()
        .unwrap();
    let mut killed = HashSet::new();
    wait_until("some have been killed", || {
        let starting =
            |worker: &procession::WorkerInfo| worker.state == WorkerState::Starting && worker.pid > 1;
        for worker in pool.workers().into_iter().filter(starting) {
            if killed.len() < 10 && os::kill(worker.pid, os::SIGKILL).is_ok() {
                killed.insert(worker.pid);
            }
        }
        // Their seats are made vacant by who looks for results.
        let _ = pool.map_async(square, 0..1).unwrap().wait_timeout(Duration::ZERO);
        killed.len() >= 10
    });
    assert_eq!(pool.apply(square, 3).unwrap(), 9);
}

fn supervisor_pid() -> u32 {
    let children = os::children_of(std::process::id());
    assert_eq!(children.len(), 1, "{children:?}");
    children[0]
}

#[test]
fn killed_supervisor_is_replaced_and_queued_tasks_survive() {
    let _alone = alone();
    let pool = pool(2);
    assert_eq!(pool.apply(square, 2).unwrap(), 4);
    let results: Vec<_> = (0..20)
        .map(|n| {
            pool.apply_async(
                |n| {
                    sleep_ms(100);
                    n
                },
                n,
            )
            .unwrap()
        })
        .collect();
    wait_until("both run", || {
        pool.workers()
            .iter()
            .all(|worker| worker.state == WorkerState::Running)
    });
    os::kill(supervisor_pid(), os::SIGKILL).unwrap();
    let mut failed = 0;
    for (n, result) in results.into_iter().enumerate() {
        match result.get() {
            Ok(result) => assert_eq!(result, n as u64),
            Err(error) => {
                assert!(error.is_worker_died(), "{error}");
                failed += 1;
            }
        }
    }
    assert!((1..=2).contains(&failed), "{failed}");
    assert_eq!(pool.map(square, 0..1000).unwrap().len(), 1000);
    assert_eq!(pool.workers().len(), 2);
}

#[test]
fn supervisor_killed_while_nobody_waits_is_replaced_when_somebody_does() {
    let _alone = alone();
    let pool = pool(2);
    assert_eq!(pool.apply(square, 2).unwrap(), 4);
    for n in 0..3 {
        os::kill(supervisor_pid(), os::SIGKILL).unwrap();
        thread::sleep(Duration::from_millis(500));
        assert_eq!(pool.apply(square, n).unwrap(), square(n));
    }
}

#[test]
fn supervisor_that_is_killed_again_and_again_breaks_the_pool() {
    let _alone = alone();
    let pool = pool(1);
    let error = loop {
        if let [supervisor] = os::children_of(std::process::id())[..] {
            let _ = os::kill(supervisor, os::SIGKILL);
        }
        match pool.apply(sleep_ms, 1) {
            Err(error) if !error.is_worker_died() => break error,
            _ => {}
        }
    };
    assert!(
        error.is_broken() && error.to_string().contains("supervisor"),
        "{error}"
    );
}

#[test]
fn stopped_supervisor_does_not_keep_the_pool_from_ending() {
    let _alone = alone();
    let pool = pool(2);
    pool.apply(square, 2).unwrap();
    os::kill(supervisor_pid(), os::SIGSTOP).unwrap();
    assert_eq!(pool.apply(square, 3).unwrap(), 9);
    drop(pool);
}

#[test]
fn stopped_worker_holds_nobody_up() {
    let _alone = alone();
    let pool = pool(3);
    pool.map_with_chunks(|_: u32| sleep_ms(5), 0..30, 1).unwrap();
    wait_until("all are idle", || {
        pool.workers()
            .iter()
            .all(|worker| worker.state == WorkerState::Idle)
    });
    let stopped = pool.workers()[0].pid;
    os::kill(stopped, os::SIGSTOP).unwrap();
    for n in 0..20 {
        assert_eq!(pool.apply(square, n).unwrap(), square(n));
        assert_eq!(pool.map_with_chunks(square, 0..20, 1).unwrap().len(), 20);
        thread::sleep(Duration::from_millis(2));
    }
    os::kill(stopped, os::SIGCONT).unwrap();
    assert_eq!(pool.map(square, 0..1000).unwrap().len(), 1000);
}

#[test]
fn process_left_behind_by_a_killed_worker_is_ended() {
    let _alone = alone();
    let notes = Notes::new();
    let pool = pool(1);
    let work = |path: String| {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        note(&path, child.id());
        os::kill(std::process::id(), os::SIGKILL).unwrap();
        child.wait().unwrap();
    };
    assert!(pool.apply(work, notes.path()).unwrap_err().is_worker_died());
    let child: u32 = notes.lines()[0].parse().unwrap();
    wait_until("the child has gone", || os::process_state(child).is_none());
}

#[test]
fn task_that_forks_does_not_become_two_workers() {
    let _alone = alone();
    let pool = pool(1);
    // SAFETY: a worker has one thread.
    let forked = pool
        .apply(
            |()| matches!(unsafe { os::fork() }.unwrap(), os::Forked::Parent(_)),
            (),
        )
        .unwrap();
    assert!(forked);
    assert_eq!(pool.map(square, 0..1000).unwrap().len(), 1000);
}

// ---- what cannot be encoded -------------------------------------------------------------------------------------

/// A value that serde refuses at the chosen place.
#[derive(Debug, Clone, PartialEq)]
struct Stubborn(u8);

const FINE: u8 = 0;
const NOT_SERIALIZED: u8 = 1;
const NOT_DESERIALIZED: u8 = 2;
const PANICS_IN_SERIALIZE: u8 = 3;

impl Serialize for Stubborn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self.0 {
            NOT_SERIALIZED => Err(serde::ser::Error::custom("I will not go")),
            PANICS_IN_SERIALIZE => panic!("I would rather panic"),
            _ => serializer.serialize_u8(self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Stubborn {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        match u8::deserialize(deserializer)? {
            NOT_DESERIALIZED => Err(serde::de::Error::custom("I will not come")),
            value => Ok(Stubborn(value)),
        }
    }
}

#[test]
fn argument_or_result_that_serde_refuses_fails_alone() {
    let _alone = alone();
    let pool = pool(2);
    for bad in [NOT_SERIALIZED, NOT_DESERIALIZED] {
        let error = pool.apply(|_: Stubborn| (), Stubborn(bad)).unwrap_err();
        assert!(
            error.is_codec() && error.to_string().contains("argument"),
            "{error}"
        );
        let error = pool.apply(Stubborn, bad).unwrap_err();
        assert!(
            error.is_codec() && error.to_string().contains("result"),
            "{error}"
        );
        for chunk in [1, 10] {
            let items = (0..30).map(|n| Stubborn(if n == 13 { bad } else { FINE }));
            let results: Vec<_> = pool
                .imap(|item: Stubborn| item.0, items.clone())
                .unwrap()
                .collect();
            assert!(
                results
                    .iter()
                    .enumerate()
                    .all(|(n, result)| result.is_ok() == (n != 13)),
                "{results:?}"
            );
            let error = pool
                .map_with_chunks(|item: Stubborn| item.0, items, chunk)
                .unwrap_err();
            assert!(
                error.is_codec() && error.to_string().contains("(item 13)"),
                "{error}"
            );
            let error = pool
                .map_with_chunks(|n| Stubborn(if n == 13 { 2 } else { 0 }), 0..30, chunk)
                .unwrap_err();
            assert!(
                error.is_codec() && error.to_string().contains("(item 13)"),
                "{error}"
            );
        }
    }
    let error = pool.apply(Stubborn, PANICS_IN_SERIALIZE).unwrap_err();
    assert_eq!(error.panic_message(), Some("I would rather panic"));
    assert_eq!(pool.apply(Stubborn, FINE).unwrap(), Stubborn(FINE));
}

#[test]
fn iterator_that_panics_leaves_the_pool_in_order() {
    let _alone = alone();
    let pool = pool(2);
    for _ in 0..3 {
        let items = (0..1000u64).inspect(|&n| assert!(n < 500, "deliberate"));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pool.map(square, items)));
        assert!(outcome.is_err());
        let endless = (0..).inspect(|&n| assert!(n < 50, "deliberate"));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.imap(square, endless).unwrap().count()
        }));
        assert!(outcome.is_err());
    }
    assert_eq!(pool.map(square, 0..1000).unwrap().len(), 1000);
}

// ---- arrays -----------------------------------------------------------------------------------------------------

const MEGA: usize = 1 << 20;

#[test]
fn arrays_travel_both_ways_and_can_be_changed_in_place() {
    let _alone = alone();
    let pool = pool(2);
    for len in [0, 1, 10, 5000, MEGA] {
        let numbers: Array<f64> = (0..len).map(|n| n as f64).collect();
        let expected: Vec<f64> = numbers.iter().map(|x| x * 2.0).collect();
        let double = |mut numbers: Array<f64>| {
            numbers.iter_mut().for_each(|x| *x *= 2.0);
            numbers
        };
        let doubled = pool.apply(double, numbers.clone()).unwrap();
        assert_eq!(&*doubled, expected);
        assert_eq!(doubled.is_shared(), len >= 5000);
        // One that came back goes again, and as part of something else.
        let (twice, name, _) = pool
            .apply(
                |(a, b): (Array<f64>, String)| (a.clone(), b, a),
                (doubled, "x".into()),
            )
            .unwrap();
        assert_eq!((&*twice, name.as_str()), (expected.as_slice(), "x"));
        let mut made: Array<f64> = pool.array(len).unwrap();
        made.copy_from_slice(&numbers);
        assert_eq!(&*pool.apply(double, made).unwrap(), expected);
    }
    assert_eq!(used_bytes(&pool), 0);
}

/// What the pool's arrays hold, once all workers have been asked for something new.
fn used_bytes(pool: &Pool) -> u64 {
    pool.shared_memory_in_use()
}

#[test]
fn arrays_in_maps_stay_with_their_items() {
    let _alone = alone();
    let pool = pool(2);
    let arrays = |n: usize| (0..n).map(|n| Bytes::from(vec![n as u8; 100_000 + n]));
    for chunk in [1, 7, 50] {
        let back = pool
            .map_with_chunks(|bytes: Bytes| (bytes[0], bytes), arrays(50), chunk)
            .unwrap();
        for (n, (first, bytes)) in back.into_iter().enumerate() {
            assert_eq!((first, bytes.len()), (n as u8, 100_000 + n));
            assert!(bytes.iter().all(|&byte| byte == n as u8));
        }
        assert_eq!(
            pool.map_with_chunks(|bytes: Bytes| bytes.len(), arrays(50), chunk)
                .unwrap()[49],
            100_049
        );
        assert_eq!(
            pool.imap(|bytes: Bytes| bytes, arrays(50))
                .unwrap()
                .map(|bytes| bytes.unwrap().len())
                .sum::<usize>(),
            5_001_225
        );
        drop(
            pool.imap(|bytes: Bytes| bytes, arrays(50))
                .unwrap()
                .take(3)
                .collect::<Vec<_>>(),
        );
    }
    pool.apply(|()| (), ()).unwrap();
    wait_until("all blocks are free", || {
        pool.apply(|()| (), ()).unwrap();
        used_bytes(&pool) == 0
    });
}

#[test]
fn arrays_of_tasks_that_fail_are_freed() {
    let _alone = alone();
    let pool = pool(2);
    let work = |(n, bytes): (u32, Bytes)| {
        match n % 10 {
            3 => panic!("deliberate"),
            6 => os::kill(std::process::id(), os::SIGKILL).unwrap(),
            _ => {}
        }
        (bytes.clone(), bytes)
    };
    let items = || (0..40).map(|n| (n, Bytes::from(vec![n as u8; 70_000])));
    for _ in 0..3 {
        let results: Vec<_> = pool.imap(work, items()).unwrap().collect();
        for (n, result) in results.iter().enumerate() {
            match result {
                Ok((a, b)) => assert!(a == b && a[69_999] == n as u8),
                Err(error) => assert_eq!(error.is_task_panicked(), n % 10 == 3, "{error}"),
            }
        }
        assert_eq!(results.iter().filter(|result| result.is_err()).count(), 8);
        assert!(pool.map_with_chunks(work, items(), 8).is_err());
        drop(results);
    }
    wait_until("all blocks are free", || {
        pool.apply(|()| (), ()).unwrap();
        used_bytes(&pool) == 0
    });
}

#[test]
fn array_kept_by_a_task_is_its_workers_own() {
    let _alone = alone();
    static KEPT: Mutex<Vec<Bytes>> = Mutex::new(Vec::new());
    let pool = pool(1);
    for n in 0..5u8 {
        pool.apply(
            |bytes: Bytes| KEPT.lock().unwrap().push(bytes),
            Bytes::from(vec![n; MEGA]),
        )
        .unwrap();
    }
    for _ in 0..3 {
        // Others use memory meanwhile.
        pool.map(|bytes: Bytes| bytes, (0..10).map(|_| Bytes::from(vec![99; MEGA])))
            .unwrap();
        let sums = pool.apply(
            |()| {
                KEPT.lock()
                    .unwrap()
                    .iter()
                    .map(|b| b.iter().map(|&x| u64::from(x)).sum::<u64>())
                    .collect::<Vec<_>>()
            },
            (),
        );
        assert_eq!(sums.unwrap(), [0, 1, 2, 3, 4].map(|n| n * MEGA as u64));
    }
    // A shared one can be returned as well: then it is copied.
    static SHARED: Mutex<Option<Arc<Bytes>>> = Mutex::new(None);
    pool.apply(
        |bytes: Bytes| *SHARED.lock().unwrap() = Some(Arc::new(bytes)),
        Bytes::from(vec![7; MEGA]),
    )
    .unwrap();
    let copy = pool
        .apply(|()| SHARED.lock().unwrap().as_deref().unwrap().clone(), ())
        .unwrap();
    assert!(copy.iter().all(|&byte| byte == 7));
    assert!(used_bytes(&pool) > 0);
    pool.apply::<_, _, ()>(|()| std::process::exit(1), ())
        .unwrap_err();
    drop(copy);
    wait_until("all blocks are free", || {
        pool.apply(|()| (), ()).unwrap();
        used_bytes(&pool) == 0
    });
}

/// Shared with whoever else holds it, and locked only while it is encoded.
#[derive(Clone)]
struct Held(Arc<Mutex<Bytes>>);

impl Serialize for Held {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.0.lock().unwrap().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Held {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        Ok(Held(Arc::new(Mutex::new(Bytes::deserialize(deserializer)?))))
    }
}

#[test]
fn array_that_others_hold_is_copied_and_can_be_written_to_meanwhile() {
    let _alone = alone();
    let pool = pool(1);
    let held = Held(Arc::new(Mutex::new(pool.array(MEGA).unwrap())));
    for n in 1..=3u8 {
        held.0.lock().unwrap().fill(n);
        let task = |held: Held| {
            let bytes = held.0.lock().unwrap();
            bytes.iter().map(|&byte| u64::from(byte)).sum::<u64>()
        };
        let result = pool.apply_async(task, held.clone()).unwrap();
        held.0.lock().unwrap().fill(100);
        assert_eq!(result.get().unwrap(), u64::from(n) * MEGA as u64);
    }
    drop(held);
    assert_eq!(used_bytes(&pool), 0);
}

#[test]
fn results_outlive_their_pool() {
    let _alone = alone();
    let pool = pool(1);
    let bytes = pool.apply(|n: usize| Bytes::from(vec![5; n]), MEGA).unwrap();
    drop(pool);
    assert!(bytes.is_shared() && bytes.iter().all(|&byte| byte == 5));
}

#[test]
fn array_that_is_larger_than_memory_is_an_error() {
    let _alone = alone();
    let pool = pool(1);
    let error = pool.array::<u64>(usize::MAX / 16).unwrap_err();
    assert!(error.is_out_of_memory(), "{error}");
    assert_eq!(pool.apply(square, 3).unwrap(), 9);
}

// ---- options ----------------------------------------------------------------------------------------------------

#[test]
fn options_that_make_no_sense_are_refused() {
    let _alone = alone();
    let text = |builder: PoolBuilder| {
        let error = builder.build().unwrap_err();
        assert!(error.is_bad_option());
        error.to_string()
    };
    assert_eq!(
        text(builder().processes(0)),
        "a pool cannot be made: it needs 1 process at least, not 0"
    );
    assert!(text(builder().processes(1 << 40)).contains("2040"));
    assert!(text(builder().tasks_per_worker(0)).contains("not 0"));
    assert!(text(builder().timeout(Duration::ZERO)).contains("timeout"));
    assert!(text(builder().buffer(0)).contains("buffer"));
}

// ---- programs of their own --------------------------------------------------------------------------------------

/// Tells a copy of this test program, run for one test alone, that it is the program and not the test.
const PROGRAM: &str = "PROCESSION_TEST_PROGRAM";

fn is_program() -> bool {
    std::env::var_os(PROGRAM).is_some()
}

/// Runs the test with this name as a program of its own.
fn start_program(test: &str) -> std::process::Child {
    std::process::Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(PROGRAM, "1")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap()
}

/// The numbers that a program prints on a line of its own that begins so.
fn numbers_from(program: &mut std::process::Child, label: &str) -> Vec<u32> {
    use std::io::{BufRead, BufReader};
    let mut output = BufReader::new(program.stdout.as_mut().unwrap())
        .lines()
        .map(Result::unwrap);
    let line = output
        .find_map(|line| Some(line.split_once(label)?.1.to_owned()))
        .unwrap();
    line.split_ascii_whitespace()
        .map(|number| number.parse().unwrap())
        .collect()
}

fn print_processes_and(pool: &Pool, work: impl FnOnce(&Pool)) {
    pool.map_with_chunks(sleep_ms, [5; 20], 1).unwrap();
    let workers = pool.workers().into_iter().map(|worker| worker.pid);
    let all: Vec<String> = os::children_of(std::process::id())
        .into_iter()
        .chain(workers)
        .map(|pid| pid.to_string())
        .collect();
    println!("\nprocesses {}", all.join(" "));
    std::io::stdout().flush().unwrap();
    work(pool);
}

fn kill_and_look(test: &str) {
    let mut program = start_program(test);
    let processes = numbers_from(&mut program, "processes ");
    assert_eq!(processes.len(), 3);
    thread::sleep(Duration::from_millis(50));
    program.kill().unwrap();
    program.wait().unwrap();
    let killed = Instant::now();
    wait_until("all are gone", || {
        processes
            .iter()
            .all(|&pid| matches!(os::process_state(pid), None | Some('Z')))
    });
    assert!(
        killed.elapsed() < Duration::from_secs(10),
        "{:?}",
        killed.elapsed()
    );
}

#[test]
fn nobody_is_left_when_the_caller_of_an_idle_pool_is_killed() {
    if is_program() {
        return print_processes_and(&pool(2), |_| sleep_for_ever());
    }
    let _alone = alone();
    kill_and_look("suite::nobody_is_left_when_the_caller_of_an_idle_pool_is_killed");
}

#[test]
fn nobody_is_left_when_the_caller_of_a_busy_pool_is_killed() {
    if is_program() {
        let busy = |_: u64| loop {
            std::hint::spin_loop();
        };
        return print_processes_and(&pool(2), |pool| {
            let _ = pool.map::<_, _, ()>(busy, 0..10);
        });
    }
    let _alone = alone();
    kill_and_look("suite::nobody_is_left_when_the_caller_of_a_busy_pool_is_killed");
}

#[test]
fn nobody_is_left_when_the_caller_exits_without_dropping_the_pool() {
    if is_program() {
        return print_processes_and(&pool(2), |pool| {
            let _stuck = pool.apply_async(|()| sleep_for_ever(), ()).unwrap();
            std::process::exit(0);
        });
    }
    let _alone = alone();
    let mut program = start_program("suite::nobody_is_left_when_the_caller_exits_without_dropping_the_pool");
    let processes = numbers_from(&mut program, "processes ");
    assert!(program.wait().unwrap().success());
    wait_until("all are gone", || {
        processes
            .iter()
            .all(|&pid| matches!(os::process_state(pid), None | Some('Z')))
    });
}

#[test]
fn interrupting_the_whole_process_group_ends_the_program_and_its_workers() {
    if is_program() {
        return print_processes_and(&pool(2), |_| sleep_for_ever());
    }
    let _alone = alone();
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    let mut program = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "suite::interrupting_the_whole_process_group_ends_the_program_and_its_workers",
            "--exact",
            "--nocapture",
        ])
        .env(PROGRAM, "1")
        .stdout(std::process::Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let processes = numbers_from(&mut program, "processes ");
    // As Ctrl-C does on a terminal: everybody in the group is signalled.
    for pid in processes.iter().copied().chain([program.id()]) {
        os::kill(pid, os::SIGINT).unwrap();
    }
    assert_eq!(program.wait().unwrap().signal(), Some(os::SIGINT));
    wait_until("all are gone", || {
        processes
            .iter()
            .all(|&pid| matches!(os::process_state(pid), None | Some('Z')))
    });
}

#[test]
fn handles_can_be_sent_and_shared_between_threads() {
    fn check<T: Send + Sync>() {}
    check::<Pool>();
    check::<procession::AsyncResult<std::cell::Cell<u8>>>();
    check::<procession::MapResult<u8>>();
    check::<Bytes>();
    check::<Error>();
}

#[test]
fn spawned_workers_need_what_can_be_found_again() {
    let _alone = alone();
    let spawned = || {
        Pool::builder()
            .processes(1)
            .start_method(StartMethod::Spawn)
            .arguments(BEGINNING)
    };
    procession::init();
    let greeting = "hello".to_string();
    let error = spawned()
        .initializer(move || println!("{greeting}"))
        .build()
        .unwrap_err();
    assert!(
        error.is_bad_option() && error.to_string().contains("capture"),
        "{error}"
    );
    let lost = spawned()
        .arguments(["no_such_test", "--exact"])
        .build()
        .unwrap_err();
    assert!(lost.to_string().contains("procession::init()"), "{lost}");
    assert_eq!(spawned().build().unwrap().apply(square, 3).unwrap(), 9);
}

#[test]
fn spawned_workers_have_none_of_this_processs_memory() {
    let _alone = alone();
    static NUMBER: AtomicU32 = AtomicU32::new(1);
    NUMBER.store(2, Ordering::Relaxed);
    procession::init();
    let ask = |pool: &Pool| pool.apply(|()| NUMBER.load(Ordering::Relaxed), ()).unwrap();
    assert_eq!(ask(&Pool::builder().processes(1).build().unwrap()), 2);
    let spawned = Pool::builder()
        .processes(1)
        .start_method(StartMethod::Spawn)
        .arguments(BEGINNING);
    assert_eq!(ask(&spawned.build().unwrap()), 1);
    NUMBER.store(1, Ordering::Relaxed);
}
