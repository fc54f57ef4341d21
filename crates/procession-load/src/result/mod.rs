//! What a run came to, as data. Reports of every form are views of [`RunResult`], while the run goes on and afterwards.

mod latency;
mod model;
#[cfg(test)]
mod schema;
mod verdict;

pub use latency::{LatencySummary, Quantile};
pub use model::{
    Environment, ErrorCount, ErrorKind, Latency, Phases, RunInfo, RunResult, RunState, Second, SloResult,
    StatusCount, StepKind, StepResult, TcpResult, Totals, UdpResult, WorkerResult, SCHEMA_VERSION,
};
pub use verdict::{Check, Outcome, Reason, Verdict};

pub(crate) use verdict::{judge, Evidence};
