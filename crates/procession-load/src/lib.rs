//! Load testing as a library, on processes of the engine: results that can be trusted, or that say why they cannot.
//!
//! A [`Plan`](plan::Plan) says what is called and when. [`Run::start`] begins it in worker processes, each with one event
//! loop and its own counts in shared memory, which the calling process only reads. [`Run::snapshot`] is what it has come to
//! so far, [`Run::finish`] waits for the end; both give a [`RunResult`](result::RunResult), of which all reports are views.
//!
//! This crate never prints, never reads arguments, and keeps no thread.
//!
//! ```no_run
//! use procession_load::plan::{HttpTarget, Pacing, Plan, Target};
//! use procession_load::Run;
//!
//! let target = Target::Http(HttpTarget::get("http://127.0.0.1:8080/")?);
//! let result = Run::start(Plan::new(target, Pacing::constant_rate(500.0)))?.finish()?;
//! println!("{:?}: p99 {:.3} s", result.verdict.outcome, result.latency.response.p99);
//! # Ok::<(), procession_load::Error>(())
//! ```

mod drive;
mod error;
pub mod histogram;
pub mod http;
pub mod net;
pub mod plan;
pub mod quantity;
mod raw;
mod record;
pub mod report;
pub mod result;
mod run;
mod schedule;
mod seconds;
pub mod server;
mod slo;
pub mod users;

pub use error::{Error, Result};
pub use record::{Datagram, Recorder, Sample, StepId};
pub use run::{ForkHooks, Phase, Run, Worker, Workload};
pub use schedule::Random;
pub use slo::{Comparison, Figure, Slo, SloError, Statistic};

/// Nanoseconds of the clock that all moments of a run are told by; the same in every process.
#[inline]
pub fn now_ns() -> u64 {
    procession::os::time::monotonic_ns()
}
