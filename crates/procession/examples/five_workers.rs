//! The simplest stress test: five processes, each of which runs the same function once.
//!
//! ```text
//! cargo run --example five_workers                 one after the other: joined in the loop that starts them
//! cargo run --example five_workers side-by-side    all at once: joined when all have been started
//! cargo run --example five_workers side-by-side xm names them xm0, xm1 … instead of Process-1, Process-2 …
//! ```

use procession::{current, Process};
use std::env;

fn work(n: u32) {
    println!("{} starting", current().name());
    println!("worker {n}");
}

fn main() -> procession::Result<()> {
    let side_by_side = env::args().nth(1).is_some_and(|order| order == "side-by-side");
    let prefix = env::args().nth(2);
    let mut processes = Vec::new();
    for i in 0..5 {
        let process = match &prefix {
            Some(prefix) => Process::builder()
                .name(format!("{prefix}{i}"))
                .target(move || work(i)),
            None => Process::new(move || work(i)),
        };
        process.start()?;
        if !side_by_side {
            process.join()?;
            println!("Process end.");
        }
        processes.push(process);
    }
    for process in &processes {
        process.join()?;
    }
    println!("{processes:?}");
    Ok(())
}
