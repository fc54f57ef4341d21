//! Workers that are killed at the chosen instruction of the protocol: nothing is lost, nothing is done twice.
//!
//! `cargo test --features crash-points --test pool_crash_points`. Each scenario is a program of its own, as the
//! environment that says where to die is read once.

mod support;

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::process::Command;

use procession::{Bytes, Error, Pool};

const PROGRAM: &str = "PROCESSION_TEST_PROGRAM";
const NOTES: &str = "PROCESSION_TEST_NOTES";

/// Where workers die.
const PLACES: [&str; 8] = [
    "claim-before",
    "claim-after",
    "item-finished",
    "publish-before",
    "publish-between",
    "publish-after",
    "wake-marked",
    "wake-unmarked",
];

/// Notes that an item runs, in one write.
fn work(item: u64) -> u64 {
    let path = std::env::var(NOTES).unwrap();
    let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(format!("{item}\n").as_bytes()).unwrap();
    item * 3
}

fn check(item: u64, result: Result<u64, Error>) {
    // Killed outside of a task, a worker takes no task with it.
    assert_eq!(
        result.unwrap_or_else(|error| panic!("item {item}: {error}")),
        item * 3
    );
}

/// Runs items in every way there is, while workers die at the place that the environment says.
fn program() {
    // More than there are CPUs, so that workers wake workers.
    let pool = Pool::builder().processes(5).build().unwrap();
    let mut item = 0;
    let mut items = |n: u64| {
        item += n;
        item - n..item
    };
    for chunk in [1, 7] {
        for (item, result) in items(300).zip(
            pool.map_with_chunks(work, items(0).start - 300..items(0).start, chunk)
                .unwrap(),
        ) {
            check(item, Ok(result));
        }
    }
    let results: Vec<_> = items(300)
        .map(|item| (item, pool.apply_async(work, item).unwrap()))
        .collect();
    for (item, result) in results {
        check(item, result.get());
    }
    let range = items(300);
    for (item, result) in range.clone().zip(pool.imap(work, range).unwrap()) {
        check(item, result);
    }
    let range = items(300);
    let sum: u64 = pool
        .imap_unordered(work, range.clone())
        .unwrap()
        .map(Result::unwrap)
        .sum();
    assert_eq!(sum, range.sum::<u64>() * 3);
    for item in items(100) {
        check(item, pool.apply(work, item));
    }
    // Workers that sleep, and wake each other.
    for _ in 0..60 {
        let range = items(6);
        let slow = |item| {
            std::thread::sleep(std::time::Duration::from_micros(300));
            work(item)
        };
        let results: Vec<_> = range
            .clone()
            .map(|item| pool.apply_async(slow, item).unwrap())
            .collect();
        for (item, result) in range.zip(results) {
            check(item, result.get());
        }
        std::thread::sleep(std::time::Duration::from_micros(200));
    }
    for chunk in [1, 5] {
        let range = items(60);
        let arrays = range
            .clone()
            .map(|item| (item, Bytes::from(vec![item as u8; 70_000])));
        let results = pool
            .map_with_chunks(|(item, bytes): (u64, Bytes)| (work(item), bytes), arrays, chunk)
            .unwrap();
        for (item, (result, bytes)) in range.zip(results) {
            check(item, Ok(result));
            assert!(bytes.len() == 70_000 && bytes.iter().all(|&byte| byte == item as u8));
        }
    }
    support::wait_until("all shared memory is free", || {
        let item = items(1).start;
        check(item, pool.apply(work, item));
        pool.shared_memory_in_use() == 0
    });
    // Else the scenario shows nothing.
    let started = pool
        .workers()
        .iter()
        .map(|worker| worker.name.rsplit('-').next().unwrap().parse().unwrap())
        .max();
    assert!(started.unwrap_or(0) > 5, "only {started:?} workers were started");
    pool.close();
    pool.join().unwrap();
    println!("\nitems {item}");
}

fn run_program(place: &str, one_in: u32) {
    let _alone = support::alone();
    let notes = std::env::temp_dir().join(format!("procession-crash-{}-{place}", std::process::id()));
    fs::write(&notes, "").unwrap();
    let program = Command::new(std::env::current_exe().unwrap())
        .args(["workers_die_where_they_are_told_to", "--exact", "--nocapture"])
        .env(PROGRAM, "1")
        .env(NOTES, &notes)
        .env("PROCESSION_CRASH_AT", format!("{place}:{one_in}"))
        .output()
        .unwrap();
    let lines = fs::read_to_string(&notes).unwrap();
    fs::remove_file(&notes).unwrap();
    let output =
        String::from_utf8_lossy(&program.stdout).into_owned() + &String::from_utf8_lossy(&program.stderr);
    assert!(program.status.success(), "{place}: {output}");
    let items: u64 = output
        .lines()
        .find_map(|line| line.strip_prefix("items ")?.parse().ok())
        .unwrap();
    let mut runs: HashMap<u64, u32> = HashMap::new();
    for line in lines.lines() {
        *runs.entry(line.parse().unwrap()).or_default() += 1;
    }
    assert_eq!(runs.len() as u64, items, "{place}: items were lost");
    assert!(
        runs.values().all(|&count| count == 1),
        "{place}: items ran twice: {runs:?}"
    );
}

#[test]
fn workers_die_where_they_are_told_to() {
    if std::env::var_os(PROGRAM).is_some() {
        return program();
    }
    for place in PLACES {
        for one_in in [3, 20] {
            run_program(place, one_in);
        }
    }
}
