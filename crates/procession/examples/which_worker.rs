//! Which worker did what; and a closed pool takes no more work.

use std::thread;
use std::time::Duration;

use procession::{cpu_count, Pool};

fn square(x: u64) -> u64 {
    // As if by chance, each takes another time.
    thread::sleep(Duration::from_millis(x * 7919 % 100));
    println!("pid: {} {}", std::process::id(), x * x);
    x * x
}

fn main() -> procession::Result<()> {
    let pool = Pool::builder().processes(cpu_count()).build()?;
    println!("{:?}", pool.map(square, 0..8)?);
    pool.close();
    if let Err(error) = pool.map(square, 0..8) {
        println!("Error: {error}");
    }
    pool.join()?;
    println!("Done");
    Ok(())
}
