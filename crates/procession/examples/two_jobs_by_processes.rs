//! Two different jobs at once, by a process each: start all, then join all. `two_jobs_by_pool` does the same by a pool.

use std::thread;
use std::time::Duration;

use procession::Process;

/// The product of all numbers below this one.
fn multiply_all(n: u32) {
    println!("{}", (1..n).map(u128::from).product::<u128>());
}

fn sleep_often(n: u32) {
    for _ in 0..n {
        thread::sleep(Duration::from_millis(10));
    }
    println!("sleep long time!");
}

fn main() -> procession::Result<()> {
    let jobs: [(fn(u32), u32); 2] = [(multiply_all, 26), (sleep_often, 50)];
    let processes: Vec<Process> = jobs
        .into_iter()
        .map(|(job, n)| Process::new(move || job(n)))
        .collect();
    for process in &processes {
        process.start()?;
    }
    for process in &processes {
        process.join()?;
    }
    println!("Process end.");
    Ok(())
}
