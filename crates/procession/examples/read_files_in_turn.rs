//! Two processes read two files, one after the other, as each is joined before the next one is started.
//!
//! ```text
//! cargo run --example read_files_in_turn x.txt y.txt
//! ```

use procession::Process;
use std::{env, fs, io};

fn read_file(path: &str) -> io::Result<()> {
    println!("{}", fs::read_to_string(path)?);
    Ok(())
}

fn main() -> procession::Result<()> {
    for path in env::args().skip(1) {
        let process = Process::new(move || read_file(&path));
        process.start()?;
        process.join()?;
    }
    println!("Done!");
    Ok(())
}
