//! Whether a result may be believed.

use super::{ErrorKind, RunResult, RunState};
use serde::{Deserialize, Serialize};

/// What a run ends with.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Verdict {
    /// In a word.
    pub outcome: Outcome,
    /// Why it is not a pass.
    pub reasons: Vec<Reason>,
    /// All that was looked at, with its figure.
    pub checks: Vec<Check>,
}

/// A run's verdict in a word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The figures may be believed, and are what was asked for.
    #[default]
    Pass,
    /// The figures may be believed, and are not what was asked for.
    Fail,
    /// The figures say more about the machine that made the load than about the one that was tested.
    Invalid,
}

/// One reason of a verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Reason {
    /// What was found, such as "workers were short of CPU".
    pub what: String,
    /// How much, with its unit.
    pub figure: String,
    /// How much it may be.
    pub limit: String,
    /// What to do about it.
    pub cure: String,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Check {
    /// What.
    pub what: String,
    /// How much, with its unit.
    pub figure: String,
    /// How much it may be.
    pub limit: String,
    /// Whether it is within the limit.
    pub sound: bool,
}

const MOST_CPU_SHARE: f64 = 0.85;
const MOST_CPU_WAIT_SHARE: f64 = 0.05;
const LEAST_LAG_LIMIT_SECONDS: f64 = 0.001;
const LAG_SHARE_OF_P50: f64 = 0.1;
const LEAST_RATE_SHARE: f64 = 0.99;
const MOST_LITTLE_ERROR: f64 = 0.02;
/// Below this, chance alone moves the figures of Little's law by more than its limit.
const LEAST_REQUESTS: u64 = 200;

struct Judge {
    verdict: Verdict,
}

impl Judge {
    fn check(
        &mut self,
        what: &str,
        figure: String,
        limit: String,
        sound: bool,
        cure: impl FnOnce() -> String,
    ) {
        if !sound {
            self.verdict.outcome = Outcome::Invalid;
            self.verdict.reasons.push(Reason {
                what: what.into(),
                figure: figure.clone(),
                limit: limit.clone(),
                cure: cure(),
            });
        }
        self.verdict.checks.push(Check {
            what: what.into(),
            figure,
            limit,
            sound,
        });
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.3} ms", seconds * 1000.0)
}

/// What can be said of a result whose other parts are complete.
pub(crate) fn judge(result: &RunResult) -> Verdict {
    let mut judge = Judge {
        verdict: Verdict::default(),
    };
    let processes = result.workers.len() as u32;
    let more_processes = || {
        if processes < result.info.environment.cores {
            format!("use more processes than {processes}, or ask for less")
        } else {
            "ask for less, or use a machine with more cores".to_owned()
        }
    };
    let (totals, latency) = (&result.totals, &result.latency);
    if result.state == RunState::Starting {
        return judge.verdict;
    }
    if totals.requests == 0
        && totals.iterations == 0
        && totals.unfinished == 0
        && result.state >= RunState::Finished
    {
        judge.check(
            "nothing was measured",
            "0 requests".into(),
            "at least 1".into(),
            false,
            || "let it run longer".into(),
        );
    }

    if let Some(delay) = &result.generator_delay {
        let limit = (latency.service.p50 * LAG_SHARE_OF_P50).max(LEAST_LAG_LIMIT_SECONDS);
        judge.check(
            "requests were sent late (p99 of the generator's own delay)",
            milliseconds(delay.p99),
            format!("at most {}", milliseconds(limit)),
            delay.p99 <= limit,
            more_processes,
        );
    }
    let busiest = result.workers.iter().map(|w| w.cpu_share).fold(0.0, f64::max);
    // In the closed model without think time a worker that is never idle is what was asked for, if it is fast: then the
    // figures are right as long as the target and not the worker is the slower one, which this cannot tell apart.
    judge.check(
        "a worker used its core up",
        percent(busiest),
        format!("at most {}", percent(MOST_CPU_SHARE)),
        busiest <= MOST_CPU_SHARE,
        more_processes,
    );
    let waited = result
        .workers
        .iter()
        .map(|w| w.cpu_wait_share)
        .fold(0.0, f64::max);
    judge.check(
        "a worker had to wait for a core",
        percent(waited),
        format!("at most {}", percent(MOST_CPU_WAIT_SHARE)),
        waited <= MOST_CPU_WAIT_SHARE,
        || "leave more of this machine's CPU to the test: stop other programs, use fewer processes".into(),
    );
    let starved = result
        .errors
        .iter()
        .find(|error| error.kind == ErrorKind::Generator);
    judge.check(
        "this machine had no descriptors, ports or memory left",
        format!("{} requests", starved.map_or(0, |error| error.count)),
        "none".into(),
        starved.is_none(),
        || {
            let example = starved.map_or("", |error| error.example.as_str());
            format!("{example}: raise the limit, or use fewer connections")
        },
    );
    if let Some(target) = totals.target_per_second {
        let due = target * result.info.measured_seconds;
        let begun = (totals.requests.max(totals.iterations) + totals.unfinished) as f64;
        // One request more or less is the schedule's phase; of Poisson arrivals chance has its part, too.
        let slack = if result.info.plan.pacing.is_random() {
            4.0 * due.sqrt()
        } else {
            1.0
        };
        let share = if due > 0.0 { begun / due } else { 1.0 };
        judge.check(
            "the rate was not reached",
            percent(share),
            format!("at least {}", percent(LEAST_RATE_SHARE)),
            begun + slack >= due * LEAST_RATE_SHARE,
            || {
                format!(
                    "allow more than {} requests in flight, or ask for less",
                    result.info.plan.pacing.most_users()
                )
            },
        );
    }
    if let Some(error) = little_error(result) {
        judge.check(
            "requests in flight do not agree with rate times duration (Little's law)",
            percent(error),
            format!("at most {}", percent(MOST_LITTLE_ERROR)),
            error <= MOST_LITTLE_ERROR,
            || "samples were lost, or clocks disagree: please report this".into(),
        );
    }
    let restarts: u32 = result.workers.iter().map(|w| w.restarts).sum();
    judge.check(
        "worker processes died",
        format!("{restarts} times"),
        "never".into(),
        restarts == 0,
        || {
            let death = result.workers.iter().find_map(|w| w.last_death.as_deref());
            format!("find out why: the last one {}", death.unwrap_or("ended"))
        },
    );
    if judge.verdict.outcome == Outcome::Pass && result.slos.iter().any(|slo| !slo.kept) {
        judge.verdict.outcome = Outcome::Fail;
    }
    judge.verdict
}

/// By how much the mean number of requests in flight differs from throughput times mean duration, relatively.
fn little_error(result: &RunResult) -> Option<f64> {
    let (measured, expected) = (result.totals.mean_in_flight, result.totals.little_in_flight);
    if result.state < RunState::Finished || result.totals.requests < LEAST_REQUESTS {
        return None;
    }
    Some((measured - expected).abs() / expected.max(f64::MIN_POSITIVE))
}
