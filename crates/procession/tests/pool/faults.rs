//! Tasks and workers that die, panic, hang or are stopped.

use super::*;

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

#[test]
fn initializer_that_forks_does_not_become_two_workers() {
    let _alone = alone();
    let pool = builder()
        .processes(1)
        // SAFETY: a worker has one thread.
        .initializer(|| match unsafe { os::fork() }.unwrap() {
            os::Forked::Child => panic!("in the copy alone"),
            os::Forked::Parent(_) => {}
        })
        .build()
        .unwrap();
    assert_eq!(pool.map(square, 0..1000).unwrap().len(), 1000);
}

#[test]
fn task_that_closes_descriptors_which_are_not_its_own_hinders_nobody() {
    let _alone = alone();
    let pool = pool(2);
    let close_all = |n: u64| {
        for descriptor in 3..256 {
            // SAFETY: nothing in this worker is used after this but what its pool does, whose reaction is the test.
            let _ = unsafe { libc::close(descriptor) };
        }
        n
    };
    for n in 0..5 {
        assert_eq!(pool.apply(close_all, n).unwrap(), n);
    }
    assert_eq!(pool.map(close_all, 0..20).unwrap().len(), 20);
    assert_eq!(pool.map(square, 0..100).unwrap().len(), 100);
}

#[test]
fn a_task_that_fails_leaves_what_it_had_written() {
    let _alone = alone();
    no_core_dumps();
    let pool = builder()
        .processes(2)
        .timeout(Duration::from_millis(300))
        .output(procession::Output::Capture)
        .build()
        .unwrap();
    let work = |(n, fault): (u64, u64)| {
        // The macros' output is the test harness's.
        let _ = writeln!(std::io::stdout(), "item {n}");
        let _ = write!(std::io::stderr(), "no end");
        match fault {
            1 => panic!("as told"),
            2 => std::process::abort(),
            3 => sleep_for_ever(),
            _ => {}
        }
        n
    };
    for fault in 1..=3 {
        for chunk in [1, 10] {
            let items = (0..10).map(|n| (n, if n == 5 { fault } else { 0 }));
            let error = pool.map_with_chunks(work, items, chunk).unwrap_err();
            assert_eq!(error.output(), Some("item 5\nno end"), "{error}");
        }
    }
    assert_eq!(pool.apply(work, (3, 0)).unwrap(), 3);
}

#[test]
fn a_task_whose_worker_died_is_tried_again_alone() {
    let _alone = alone();
    no_core_dumps();
    let pool = builder()
        .processes(2)
        .retries(2)
        .timeout(Duration::from_millis(300))
        .build()
        .unwrap();
    let folder = std::env::temp_dir().join(format!("procession-retries-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let marks = folder.to_str().unwrap().to_owned();
    // Fails as often as its mark has letters, in one way or another, then succeeds.
    let work = |(marks, n, failures): (String, u64, usize)| {
        let mark = format!("{marks}/{n}");
        let attempt = std::fs::read_to_string(&mark).unwrap_or_default();
        std::fs::write(&mark, format!("{attempt}x")).unwrap();
        match attempt.len() {
            done if done >= failures => (n, attempt.len()),
            0 => std::process::abort(),
            _ => {
                sleep_for_ever();
                unreachable!()
            }
        }
    };
    for (round, chunk) in [1, 7].into_iter().enumerate() {
        let items = (0..20).map(|n| (marks.clone(), n + 100 * round as u64, (n % 3) as usize));
        let results = pool.map_with_chunks(work, items, chunk).unwrap();
        let expected: Vec<_> = (0..20)
            .map(|n| (n + 100 * round as u64, (n % 3) as usize))
            .collect();
        assert_eq!(results, expected);
    }
    let error = pool.apply(work, (marks.clone(), 1000, 9)).unwrap_err();
    assert!(error.is_task_timeout() && error.attempts() == 3, "{error}");
    assert!(error.to_string().ends_with("(attempt 3)"), "{error}");
    std::fs::remove_dir_all(&folder).unwrap();
    // What a task says itself is its answer.
    let error = pool.apply(|()| -> u8 { panic!("no") }, ()).unwrap_err();
    assert!(error.is_task_panicked() && error.attempts() == 1, "{error}");
}
