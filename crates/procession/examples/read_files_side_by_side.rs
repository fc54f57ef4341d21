//! Processes read files side by side; "Done!" is printed when all of them have ended.
//!
//! ```text
//! cargo run --example read_files_side_by_side x.txt y.txt
//! ```

use procession::Process;
use std::{env, fs, io};

fn read_file(path: &str) -> io::Result<()> {
    println!("{}", fs::read_to_string(path)?);
    Ok(())
}

fn main() -> procession::Result<()> {
    let processes: Vec<_> = env::args()
        .skip(1)
        .map(|path| Process::new(move || read_file(&path)))
        .collect();
    for process in &processes {
        process.start()?;
    }
    for process in &processes {
        process.join()?;
    }
    println!("Done!");
    Ok(())
}
