//! Programs of their own: what is left when the caller ends in any way.

use super::*;

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
    kill_and_look("suite::programs::nobody_is_left_when_the_caller_of_an_idle_pool_is_killed");
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
    kill_and_look("suite::programs::nobody_is_left_when_the_caller_of_a_busy_pool_is_killed");
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
    let mut program =
        start_program("suite::programs::nobody_is_left_when_the_caller_exits_without_dropping_the_pool");
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
            "suite::programs::interrupting_the_whole_process_group_ends_the_program_and_its_workers",
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
