//! Three tasks at once take as long as one: the pool's workers run side by side, and the parent waits for none of them
//! before it has started all.
//!
//! ```text
//! cargo run --example async_side_by_side        each task takes 3 seconds
//! cargo run --example async_side_by_side 0.2
//! ```

use std::env;
use std::thread;
use std::time::{Duration, Instant};

use procession::Pool;

fn square((x, seconds): (u64, f64)) -> u64 {
    println!("work: {}", std::process::id());
    thread::sleep(Duration::from_secs_f64(seconds));
    x * x
}

fn main() -> procession::Result<()> {
    let seconds = env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(3.0);
    let pool = Pool::builder().processes(4).build()?;
    let began = Instant::now();
    let mut results = Vec::new();
    for _ in 0..3 {
        results.push(pool.apply_async(square, (10, seconds))?);
    }
    for result in &mut results {
        println!("{}", result.get_timeout(Duration::from_secs_f64(seconds + 10.0))?);
    }
    println!(
        "three tasks of {seconds} s took {:.1} s",
        began.elapsed().as_secs_f64()
    );
    println!("{:?}", pool.map(square, (0..10).map(|x| (x, seconds / 10.0)))?);
    Ok(())
}
