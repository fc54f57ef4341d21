//! How a pool ends: closed, terminated, dropped, with work left or without.

use super::*;

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
