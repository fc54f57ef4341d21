//! The `procession` command; everything it does is in the library, so that the Python wheel offers the same.

fn main() {
    std::process::exit(procession_cli::run(std::env::args_os().collect()));
}
