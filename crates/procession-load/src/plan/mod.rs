//! What to run: *when* requests begin ([`Pacing`]) and *what* they are ([`Target`]), which are independent of each other.

mod check;
mod pacing;
mod target;

pub(crate) use check::{is_loopback, stranger_refusal};
pub use pacing::{Arrivals, Pacing, RateStage, Think, UserStage};
pub use target::{
    Dns, Header, HttpRequest, HttpTarget, HttpVersion, Payload, Target, TcpTarget, TlsOptions, UdpTarget,
    Until,
};

use crate::seconds;
use crate::Slo;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Everything a run needs to know. Made by [`Plan::new`], changed field by field, checked by [`Plan::check`] (which
/// [`Run::start`](crate::Run::start) does as well).
///
/// ```
/// use procession_load::plan::{HttpTarget, Pacing, Plan, Target};
/// use std::time::Duration;
///
/// let target = Target::Http(HttpTarget::get("http://127.0.0.1:8080/")?);
/// let mut plan = Plan::new(target, Pacing::users(64));
/// plan.duration = Some(Duration::from_secs(30));
/// plan.check()?;
/// # Ok::<(), procession_load::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Plan {
    /// What is called.
    pub target: Target,
    /// When it is called.
    pub pacing: Pacing,
    /// How many worker processes share the work. Never more than there are users or requests in flight.
    pub processes: u32,
    /// How long new requests begin, warm-up included. `None`: until `iterations` are through, or the stages are.
    #[serde(rename = "duration_seconds", with = "seconds::optional")]
    #[cfg_attr(test, schemars(with = "Option<f64>"))]
    pub duration: Option<Duration>,
    /// At most so many requests (of a scenario: iterations) begin, over all processes.
    pub iterations: Option<u64>,
    /// What is sent in this time at the beginning is not part of the result's totals, only of its seconds.
    #[serde(rename = "warmup_seconds", with = "seconds")]
    #[cfg_attr(test, schemars(with = "f64"))]
    pub warmup: Duration,
    /// A request that takes longer fails. Counted from the moment it is sent, connecting included.
    #[serde(rename = "timeout_seconds", with = "seconds")]
    #[cfg_attr(test, schemars(with = "f64"))]
    pub timeout: Duration,
    /// How long to wait at the end for what is in flight; what is still unfinished then is counted as censored.
    #[serde(rename = "drain_seconds", with = "seconds")]
    #[cfg_attr(test, schemars(with = "f64"))]
    pub drain: Duration,
    /// What random choices (Poisson arrivals, weights, think times) begin with: the same seed gives the same schedule.
    pub seed: u64,
    /// What the result must be like for the run to pass.
    #[serde(default)]
    pub slos: Vec<Slo>,
    /// Limits against accidents.
    pub guards: Guards,
}

/// Limits that keep a slip of the finger from becoming somebody's outage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Guards {
    /// Whether the tester has said that a target that is not on this machine is theirs to test.
    pub owns_target: bool,
    /// The highest rate of requests, per second, at which others are tested without that.
    pub stranger_rate: f64,
    /// The most users (or connections) that others are tested with without that.
    pub stranger_users: u32,
}

impl Default for Guards {
    fn default() -> Guards {
        Guards {
            owns_target: false,
            stranger_rate: 50.0,
            stranger_users: 10,
        }
    }
}

impl Plan {
    /// A limit without which a hung server would hang the test.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
    /// How long a test runs if nobody says.
    pub const DEFAULT_DURATION: Duration = Duration::from_secs(10);

    /// A plan with the defaults: ten seconds, one process for each core that this process may use (half as many if the
    /// server is on this machine, as it needs cores, too), no warm-up, a timeout of ten seconds, and as long again for what is
    /// in flight at the end.
    pub fn new(target: Target, pacing: Pacing) -> Plan {
        let duration = match pacing.staged_duration() {
            Some(_) => None,
            None => Some(Plan::DEFAULT_DURATION),
        };
        let cores = procession::os::process::available_cpus() as u32;
        Plan {
            processes: if target.is_here() {
                cores.div_ceil(2)
            } else {
                cores
            },
            target,
            pacing,
            duration,
            iterations: None,
            warmup: Duration::ZERO,
            timeout: Plan::DEFAULT_TIMEOUT,
            drain: Plan::DEFAULT_TIMEOUT,
            seed: 0,
            slos: Vec::new(),
            guards: Guards::default(),
        }
    }

    /// How long new requests begin at most: the shorter of `duration` and the stages. `None` without limit.
    pub fn load_duration(&self) -> Option<Duration> {
        match (self.duration, self.pacing.staged_duration()) {
            (Some(duration), Some(staged)) => Some(duration.min(staged)),
            (duration, staged) => duration.or(staged),
        }
    }

    /// How many worker processes there will be: no more than there are users, or requests in flight.
    pub fn workers(&self) -> u32 {
        self.processes.min(self.pacing.most_users()).max(1)
    }
}
