//! Calls that go well: every way to call, orders, laziness, callbacks.

use super::*;

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

#[test]
fn stats_tell_what_became_of_the_calls_of_each_function() {
    let _alone = alone();
    no_core_dumps();
    let pool = pool(2);
    assert!(pool.stats().unwrap().is_empty());
    pool.map(square, 0..1000).unwrap();
    for n in 0..40 {
        let fault = if n % 4 == 0 { Fault::Panics } else { Fault::None };
        let _ = pool.apply(run, (fault, n));
    }
    assert!(pool.apply(run, (DEADLY[0], 1)).unwrap_err().is_worker_died());
    let stats = pool.stats().unwrap();
    let of = |name: &str| stats.iter().find(|f| f.function.ends_with(name)).unwrap();
    let squares = of("square");
    assert_eq!((squares.items, squares.failed, squares.lost), (1000, 0, 0));
    assert!(squares.batches < 1000 && squares.largest_batch > 1 && squares.run_seconds > 0.0);
    let runs = of("run");
    assert_eq!(
        (runs.items, runs.failed, runs.lost, runs.batches),
        (40, 10, 1, 40)
    );
    assert!(runs.queue_seconds > 0.0 && runs.return_seconds > 0.0 && runs.argument_bytes > 0);
}
