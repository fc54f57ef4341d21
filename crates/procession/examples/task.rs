//! A task begins in a new copy of this program instead of a fork, so it can be started while other threads are running. It
//! needs three things: the function registered by `task!`, `init()` as the first line of `main`, and arguments that serde
//! can encode.

use procession::{current, Process};
use std::thread;

fn greet(name: String, times: u32) {
    for _ in 0..times {
        println!("{}: hello, {name}", current().name());
    }
}
procession::task!(greet: fn(String, u32));

fn main() -> procession::Result<()> {
    procession::init();
    let threads: Vec<_> = ["ann", "bob"]
        .into_iter()
        .map(|name| {
            thread::spawn(move || {
                let process = Process::builder()
                    .name(format!("greeter of {name}"))
                    .task::<greet>((name.to_owned(), 2));
                process.start()?;
                process.join()
            })
        })
        .collect();
    for thread in threads {
        println!("it {}", thread.join().expect("no thread panics")?);
    }
    Ok(())
}
