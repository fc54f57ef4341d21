use super::{LatencySummary, Quantile, Verdict};
use crate::histogram::Histogram;
use crate::plan::Plan;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Raised when a field changes its meaning or goes; new fields may come without that.
pub const SCHEMA_VERSION: u32 = 1;

/// Everything a run came to, or has come to so far.
///
/// Times are in seconds unless their name says otherwise. Times of requests count from the first byte that is sent unless it
/// is said otherwise, and a connection that a request had to wait for is part of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RunResult {
    /// Version of this layout.
    pub schema_version: u32,
    /// How far the run has come.
    pub state: RunState,
    /// When, where and what was run.
    pub info: RunInfo,
    /// Whether the figures below may be believed, and whether they are what was asked for.
    pub verdict: Verdict,
    /// All requests together.
    pub totals: Totals,
    /// How long all requests took.
    pub latency: Latency,
    /// How late the generator itself was: from the moment a request was due and a connection for it was free to the moment
    /// it was sent. None without a rate.
    pub generator_delay: Option<LatencySummary>,
    /// How many of the cores that this process may use had nothing to do while load was made, on average, or only what gives
    /// way to everything else. `None` where the system does not tell.
    #[serde(default)]
    pub idle_cores: Option<f64>,
    /// How long responses may have lain there because their worker had to wait for a core: upper bounds. Empty if nobody
    /// has looked.
    #[serde(default)]
    pub core_wait: LatencySummary,
    /// What the time of requests was spent on.
    pub phases: Phases,
    /// By kind of request, by named step of a scenario, and whole iterations, in this order.
    pub steps: Vec<StepResult>,
    /// Over time.
    pub seconds: Vec<Second>,
    /// What went wrong, the most frequent first.
    pub errors: Vec<ErrorCount>,
    /// Responses by status, in ascending order.
    pub statuses: Vec<StatusCount>,
    /// One for each worker process.
    pub workers: Vec<WorkerResult>,
    /// What the kernel says about the connections, if any were looked at.
    pub tcp: Option<TcpResult>,
    /// Of a test of datagrams.
    pub udp: Option<UdpResult>,
    /// What was promised, and whether it was kept.
    pub slos: Vec<SloResult>,
}

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Workers are being made.
    Starting,
    /// The time that does not count.
    WarmingUp,
    /// New requests begin.
    Running,
    /// No new requests begin; those in flight are waited for.
    Draining,
    /// It has come to its end.
    Finished,
    /// It was ended early.
    Stopped,
}

/// When, where and what was run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RunInfo {
    /// Version of this program.
    pub version: String,
    /// When requests began, in seconds since 1970 (UTC).
    pub started_at: f64,
    /// From the first request to the end, or to now.
    pub elapsed_seconds: f64,
    /// How much of that counts in `totals`: the time in which new requests began, without the warm-up.
    pub measured_seconds: f64,
    /// What was asked for.
    pub plan: Plan,
    /// The machine.
    pub environment: Environment,
}

/// The machine that made the load.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Environment {
    /// Its name.
    pub host: String,
    /// Name and version of the kernel.
    pub kernel: String,
    /// As the kernel calls it.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: u32,
    /// How many descriptors a process may have.
    pub most_descriptors: u64,
    /// First and last local port of outgoing connections.
    pub port_range: Option<(u16, u16)>,
}

/// All requests together. Only what was due after the warm-up counts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Totals {
    /// How many came to an end, well or not.
    pub requests: u64,
    /// How many of them failed, statuses of 400 and more included.
    pub errors: u64,
    /// How many were begun and still unfinished at the end.
    pub unfinished: u64,
    /// How many were due and could not be begun before the end.
    pub unsent: u64,
    /// How many ended in the measured time, per second.
    pub requests_per_second: f64,
    /// How many of them succeeded, per second.
    #[serde(default)]
    pub successes_per_second: f64,
    /// What was asked for, per second, if a rate was.
    pub target_per_second: Option<f64>,
    /// `errors` of `requests`, 0 to 1.
    pub error_share: f64,
    /// Bytes that were sent, as the application sees them: without TCP, with headers and TLS.
    pub bytes_sent: u64,
    /// Bytes that were received.
    pub bytes_received: u64,
    /// How many connections were made.
    pub connections: u64,
    /// How many requests were in flight at the same time, on average over time.
    pub mean_in_flight: f64,
    /// What that should be by Little's law: requests per second times their mean time in flight.
    pub little_in_flight: f64,
    /// How many whole iterations of a scenario there were.
    pub iterations: u64,
    /// How many of them failed.
    pub failed_iterations: u64,
    /// How many requests came to an end in the warm-up, which counts nowhere else.
    pub warmup_requests: u64,
}

/// How long something took. Failures that brought no response (refused, reset …) are counted as errors and not here;
/// timeouts are here, with the time that had passed; so is what was unfinished at the end.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Latency {
    /// From the moment it was due to the last byte of the response. Without a rate, this is `service`.
    pub response: LatencySummary,
    /// From the moment it was sent to the last byte of the response.
    pub service: LatencySummary,
    /// From the moment it was due to the moment it was sent, which may be the server's fault (all connections were in use)
    /// or the generator's (see [`RunResult::generator_delay`]); none without a rate.
    pub lag: Option<LatencySummary>,
    /// The whole distribution of `response`, finished requests only.
    pub response_histogram: Histogram,
    /// Of what was unfinished at the end: how long it had waited.
    pub censored_histogram: Histogram,
}

/// What the time of requests was spent on. Those of connecting count once for each connection.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Phases {
    /// Looking up the name.
    pub dns: LatencySummary,
    /// From the first packet to an established connection.
    pub connect: LatencySummary,
    /// Agreeing on TLS.
    pub tls: LatencySummary,
    /// From sending the request to the first byte of the response.
    pub first_byte: LatencySummary,
    /// From the first to the last byte of the response.
    pub body: LatencySummary,
}

/// What a [`StepResult`] is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    /// A request, which is part of `totals`.
    Request,
    /// A part of a scenario that the tester has named.
    Step,
    /// A scenario from its beginning to its end.
    Iteration,
}

/// One kind of request, or one step of a scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StepResult {
    /// As the tester calls it.
    pub name: String,
    /// What it is.
    pub kind: StepKind,
    /// How many came to an end.
    pub count: u64,
    /// How many of them failed.
    pub errors: u64,
    /// How many ended in the measured time, per second.
    pub per_second: f64,
    /// How many of them succeeded, per second.
    #[serde(default)]
    pub successes_per_second: f64,
    /// How long it took.
    pub latency: Latency,
    /// From sending to the first byte; empty for what has no response.
    pub first_byte: LatencySummary,
}

/// What ended in one second (or several: long runs keep fewer, longer stretches). All requests, warm-up included.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Second {
    /// When it began, in whole seconds since the first request.
    pub start: u32,
    /// How many seconds it covers.
    pub span: u32,
    /// How many requests ended.
    pub requests: u64,
    /// How many of them failed.
    pub errors: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// How many requests were in flight at its end.
    pub in_flight: u64,
    /// How many users there were at its end (connections in use, of a URL test).
    pub users: u64,
    /// What was asked for, per second, if a rate was.
    pub target_per_second: Option<f64>,
    /// Distribution of response times. Its percentiles are computed from here.
    pub response: Histogram,
}

impl Second {
    /// A percentile (share 0 to 1) of the response times, in seconds; `None` if nothing ended.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        self.response.quantile_ns(share).map(|ns| ns as f64 * 1e-9)
    }
}

/// The ways in which a request can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The host's name could not be looked up.
    Dns,
    /// The server refused the connection.
    Refused,
    /// The connection was broken off, before or in the middle of the response.
    Reset,
    /// No agreement on TLS, or its breach.
    Tls,
    /// No connection within the time limit.
    ConnectTimeout,
    /// No complete response within the time limit.
    Timeout,
    /// What came was not the protocol.
    Protocol,
    /// A status from 400 to 499.
    Status4xx,
    /// A status from 500 to 599.
    Status5xx,
    /// A response was not what the scenario expected.
    Assertion,
    /// The scenario itself failed.
    Script,
    /// A datagram was not answered, or an answer was lost.
    Lost,
    /// This machine had no descriptor, port or memory left for it.
    Generator,
    /// Another error of the network.
    Network,
}

impl ErrorKind {
    /// All of them.
    pub const ALL: [ErrorKind; 14] = [
        ErrorKind::Dns,
        ErrorKind::Refused,
        ErrorKind::Reset,
        ErrorKind::Tls,
        ErrorKind::ConnectTimeout,
        ErrorKind::Timeout,
        ErrorKind::Protocol,
        ErrorKind::Status4xx,
        ErrorKind::Status5xx,
        ErrorKind::Assertion,
        ErrorKind::Script,
        ErrorKind::Lost,
        ErrorKind::Generator,
        ErrorKind::Network,
    ];

    /// As files and messages call it.
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::Dns => "dns",
            ErrorKind::Refused => "refused",
            ErrorKind::Reset => "reset",
            ErrorKind::Tls => "tls",
            ErrorKind::ConnectTimeout => "connect_timeout",
            ErrorKind::Timeout => "timeout",
            ErrorKind::Protocol => "protocol",
            ErrorKind::Status4xx => "status4xx",
            ErrorKind::Status5xx => "status5xx",
            ErrorKind::Assertion => "assertion",
            ErrorKind::Script => "script",
            ErrorKind::Lost => "lost",
            ErrorKind::Generator => "generator",
            ErrorKind::Network => "network",
        }
    }

    /// Whether the request ended with a complete response, whose time is worth as much as a good one's.
    pub fn has_response(self) -> bool {
        matches!(
            self,
            ErrorKind::Status4xx | ErrorKind::Status5xx | ErrorKind::Assertion
        )
    }

    /// Whether the request ended because it took too long.
    pub fn is_timeout(self) -> bool {
        matches!(
            self,
            ErrorKind::Timeout | ErrorKind::ConnectTimeout | ErrorKind::Lost
        )
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How often something went wrong, in one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ErrorCount {
    /// What.
    pub kind: ErrorKind,
    /// How often.
    pub count: u64,
    /// What the first one said.
    pub example: String,
}

/// How often the server answered with a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StatusCount {
    /// Such as 200.
    pub status: u16,
    /// How often.
    pub count: u64,
}

/// One seat of a worker process: the process that has it, and those that had it before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct WorkerResult {
    /// Counts from 0.
    pub number: u32,
    /// Of the process that has it now, or had it at last.
    pub pid: u32,
    /// Whether it is alive.
    pub alive: bool,
    /// How many requests ended here.
    pub requests: u64,
    /// How many of them failed.
    pub errors: u64,
    /// How many are in flight.
    pub in_flight: u64,
    /// How much of one core it used while requests were made, 0 to 1.
    pub cpu_share: f64,
    /// How much of that time it was ready to run and had to wait for a core, 0 to 1.
    pub cpu_wait_share: f64,
    /// How often it died and was replaced.
    pub restarts: u32,
    /// How the last one of those ended, if any.
    pub last_death: Option<String>,
    /// How many requests were in flight in processes that died.
    pub lost_in_flight: u64,
}

/// What the kernel says about connections, of which some are looked at now and then.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TcpResult {
    /// How many looks.
    pub samples: u64,
    /// Segments that had to be sent again, on the connections looked at.
    pub retransmits: u64,
    /// Connections whose first packet had to be sent again: the server's backlog was full, or packets were lost.
    pub connect_retransmits: u64,
    /// Round trips, as smoothed by the kernel.
    pub round_trip: LatencySummary,
}

/// Of a test of datagrams.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct UdpResult {
    /// Datagrams sent.
    pub sent: u64,
    /// Answers received.
    pub received: u64,
    /// Datagrams without an answer within the timeout.
    pub lost: u64,
    /// Answers that came after the answer to a later datagram.
    pub reordered: u64,
    /// Answers that had come before.
    pub duplicates: u64,
    /// Mean difference between the times of successive answers (RFC 3550).
    pub jitter_seconds: f64,
}

/// A promise, and whether it was kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SloResult {
    /// As the tester wrote it.
    pub slo: String,
    /// Whether it was kept.
    pub kept: bool,
    /// What the figure came to, with its unit.
    pub figure: String,
}

impl RunResult {
    /// A percentile (share 0 to 1) of all response times.
    pub fn quantile(&self, share: f64) -> Quantile {
        self.latency.quantile(share)
    }
}

impl Latency {
    /// A percentile (share 0 to 1) of the response times.
    pub fn quantile(&self, share: f64) -> Quantile {
        let mut all = self.response_histogram.clone();
        all.merge(&self.censored_histogram);
        Quantile {
            share,
            seconds: all.quantile_ns(share).map_or(0.0, |ns| ns as f64 * 1e-9),
            censored: self.response.is_censored(share),
        }
    }
}
