//! Runs your function in many processes: fast, and it cannot hang.

#[cfg(not(target_os = "linux"))]
compile_error!("procession does not support this system yet: it needs Linux (pidfds, futexes and memfds)");

pub mod channel;
pub mod connection;
pub mod crash;
mod error;
mod options;
pub mod os;
pub mod pool;
pub mod process;
pub mod queue;
pub mod shm;
pub mod sync;
pub mod watch;

pub use channel::What;
pub use error::{Error, Result};
pub use options::{cpu_count, Knob, Output, PoolOptions, StartMethod};
pub use os::process::ExitStatus;
pub use pool::events::{Events, PoolEvent};
pub use pool::{
    Array, AsyncResult, Bytes, Calls, Imap, MapResult, Plain, Pool, PoolBuilder, WorkerInfo, WorkerState,
};
pub use process::{active_children, current, fork, fork_despite_threads, Fork, Process, State};

/// What the macros of this crate need. Not for use by hand.
#[doc(hidden)]
pub mod __private {
    pub use linkme;
}

/// So that the front page's Rust is known to compile and run.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
pub struct FrontPage;

/// Where started tasks begin: call it in the first line of `main`.
///
/// In a process that [`Process::start`] has made for a task, it runs the task and exits; whatever stood before it in `main`
/// has run there, too. In any other process it returns at once. A program that starts no tasks does not need it.
///
/// In `cargo test`, where `main` is not yours, write a test that only calls this, and lead tasks there by
/// [`ProcessBuilder::arguments`](process::ProcessBuilder::arguments).
pub fn init() {
    process::mark_initialised();
    if let Some(code) = pool::begin_if_supervisor() {
        std::process::exit(code);
    }
    process::begin_if_task();
}
