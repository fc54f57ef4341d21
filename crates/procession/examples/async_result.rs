//! A result that comes later, and a wait that ends before it.

use std::thread;
use std::time::Duration;

use procession::Pool;

fn square(x: u64) -> u64 {
    x * x
}

fn slow_square(x: u64) -> u64 {
    thread::sleep(Duration::from_millis(600));
    x * x
}

fn main() -> procession::Result<()> {
    let pool = Pool::builder().processes(4).build()?;

    let mut result = pool.apply_async(square, 10)?;
    println!("{}", result.get_timeout(Duration::from_secs(1))?);

    println!("{:?}", pool.map(square, 0..10)?);

    let mut result = pool.apply_async(slow_square, 10)?;
    match result.get_timeout(Duration::from_millis(200)) {
        Err(error) if error.is_timeout() => println!("not yet: {error}"),
        other => println!("{other:?}"),
    }
    println!("now: {}", result.get()?);
    Ok(())
}
