//! Two different jobs at once, by a pool: submit both, close the pool, get both results. `two_jobs_by_processes` does the
//! same by a process each.

use std::thread;
use std::time::Duration;

use procession::Pool;

/// The product of all numbers below this one.
fn multiply_all(n: u32) -> u128 {
    let product = (1..n).map(u128::from).product();
    println!("{product}");
    product
}

fn sleep_often(n: u32) -> String {
    for _ in 0..n {
        thread::sleep(Duration::from_millis(10));
    }
    println!("sleep long time!");
    "sleep long time!".to_owned()
}

fn main() -> procession::Result<()> {
    let pool = Pool::builder().processes(4).build()?;
    let mut product = pool.apply_async(multiply_all, 26)?;
    let mut slept = pool.apply_async(sleep_often, 50)?;
    pool.close();
    product.get_timeout(Duration::from_secs(10))?;
    slept.get_timeout(Duration::from_secs(10))?;
    pool.join()?;
    println!("Process end.");
    Ok(())
}
