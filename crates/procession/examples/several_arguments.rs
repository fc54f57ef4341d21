//! A task with more than one argument: they travel as a tuple.

use std::time::Duration;

use procession::Pool;

fn multiply(x: u64, y: u64) -> u64 {
    println!("worker: {}", std::process::id());
    x * y
}

fn main() -> procession::Result<()> {
    let pool = Pool::builder().processes(4).build()?;
    let mut result = pool.apply_async(|(x, y)| multiply(x, y), (10, 4))?;
    println!("{}", result.get_timeout(Duration::from_secs(4))?);
    println!(
        "{:?}",
        pool.map(|(x, y)| multiply(x, y), [(1, 2), (3, 4), (5, 6)])?
    );
    Ok(())
}
