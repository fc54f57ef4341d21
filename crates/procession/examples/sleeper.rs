//! The parent goes on while its child sleeps, until it joins it.
//!
//! ```text
//! cargo run --example sleeper        sleeps for 5 seconds
//! cargo run --example sleeper 0.5
//! ```

use procession::{current, Process};
use std::time::Duration;
use std::{env, thread};

fn sleeper(name: &str, seconds: f64) {
    println!("Process ID# {}", current().pid());
    println!("Parent Process ID# {}", current().parent_pid());
    println!("{name} will sleep for {seconds} seconds");
    thread::sleep(Duration::from_secs_f64(seconds));
}

fn main() -> procession::Result<()> {
    let seconds = env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(5.0);
    let child = Process::new(move || sleeper("bob", seconds));
    child.start()?;
    println!("in parent process after child process start");
    println!("parent process about to join child process");
    child.join()?;
    println!("in parent process after child process join");
    println!("the major process: {}", current().pid());
    println!("the parent's parent process: {}", current().parent_pid());
    Ok(())
}
