//! The same work by one process and by a pool of as many as there are CPUs: each item waits for a moment, as a request
//! would, and squares a number.
//!
//! ```text
//! cargo run --release --example one_process_or_many         1000 items
//! cargo run --release --example one_process_or_many 100
//! ```

use std::env;
use std::thread;
use std::time::{Duration, Instant};

use procession::{cpu_count, Pool};

fn square(x: u64) -> u64 {
    thread::sleep(Duration::from_millis(10));
    x * x
}

fn main() -> procession::Result<()> {
    let items = env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(1000);
    let pool = Pool::builder().processes(cpu_count()).build()?;

    let began = Instant::now();
    let by_pool = pool.map(square, 0..items)?;
    let pool_time = began.elapsed();
    println!("{} processes: {pool_time:.2?}", cpu_count());

    let began = Instant::now();
    let by_one: Vec<u64> = (0..items).map(square).collect();
    let one_time = began.elapsed();
    println!("1 process: {one_time:.2?}");

    assert_eq!(by_pool, by_one);
    println!(
        "speed-up: {:.1}",
        one_time.as_secs_f64() / pool_time.as_secs_f64()
    );
    Ok(())
}
