//! Whether a result may be believed.

use super::{ErrorCount, ErrorKind, RunResult, RunState, WorkerResult};
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
/// Of time, and of response times.
const MOST_CPU_WAIT_SHARE: f64 = 0.05;
/// What a change from one program to the next may take on any machine, an idle one included.
const LEAST_CORE_WAIT_LIMIT_SECONDS: f64 = 0.000_01;
const MOST_TAKEN_SHARE: f64 = 0.05;
const LEAST_LAG_LIMIT_SECONDS: f64 = 0.001;
const LAG_SHARE: f64 = 0.1;
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

impl Judge {
    /// Whether the wait for a core has changed the figures: a worker that waits while the server works on makes no response
    /// later than it is.
    fn core_wait(&mut self, evidence: &Evidence) {
        let cure = || {
            let fewer = match evidence.processes {
                0 | 1 => String::new(),
                many => format!(" use fewer processes than {many},"),
            };
            format!(
                "leave more of this machine's CPU to the test: stop other programs,{fewer} or test from another machine"
            )
        };
        let Some(wait) = evidence.core_wait else {
            // Of users who wait for other things than responses nothing else is known.
            self.check(
                "a worker had to wait for a core",
                percent(evidence.cpu_wait_share),
                format!("at most {}", percent(MOST_CPU_WAIT_SHARE)),
                evidence.cpu_wait_share <= MOST_CPU_WAIT_SHARE,
                cure,
            );
            return;
        };
        for (name, wait, service) in [
            ("p50", wait.p50, evidence.service_p50),
            ("p99", wait.p99, evidence.service_p99),
        ] {
            let limit = (service * LAG_SHARE).max(LEAST_LAG_LIMIT_SECONDS);
            self.check(
                &format!("a worker had to wait for a core, which is in the {name} of response times"),
                milliseconds(wait),
                format!("at most {}", milliseconds(limit)),
                wait <= limit,
                cure,
            );
        }
        // Without a rate the throughput is users by response time, so it is wrong by the same share.
        if evidence.generator_delay_p99.is_none() {
            let limit = (evidence.service_mean * MOST_CPU_WAIT_SHARE).max(LEAST_CORE_WAIT_LIMIT_SECONDS);
            self.check(
                "a worker had to wait for a core, which is in mean response time and throughput",
                milliseconds(wait.mean),
                format!("at most {}", milliseconds(limit)),
                wait.mean <= limit,
                cure,
            );
        }
        if let Some(taken) = evidence.taken_share {
            // Whoever never waits shares no core with anybody, and so takes nothing away.
            let taken = if evidence.cpu_wait_share > MOST_CPU_WAIT_SHARE {
                taken
            } else {
                0.0
            };
            self.check(
                "workers took CPU from the server, which is on this machine",
                format!("{} of what others had", percent(taken)),
                format!("at most {}", percent(MOST_TAKEN_SHARE)),
                taken <= MOST_TAKEN_SHARE,
                || match evidence.processes {
                    1 => "ask for less, or test from another machine".to_owned(),
                    many => {
                        format!("use fewer processes than {many}, ask for less, or test from another machine")
                    }
                },
            );
        }
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.3} ms", seconds * 1000.0)
}

/// The figures that decide.
#[derive(Debug, Clone)]
pub(crate) struct Evidence {
    state: RunState,
    requests: u64,
    iterations: u64,
    unfinished: u64,
    processes: u32,
    cores: u32,
    /// p99 of how late the generator itself was, in seconds; none without a rate.
    generator_delay_p99: Option<f64>,
    /// Median from sending to the last byte, in seconds.
    service_p50: f64,
    /// p99 and average of the same.
    service_p99: f64,
    service_mean: f64,
    /// Of the worker that used most of its core.
    cpu_share: f64,
    /// Of the worker that waited longest for a core, of all time.
    cpu_wait_share: f64,
    /// How long responses waited for their worker to get a core; none where nobody has looked or there is no response.
    core_wait: Option<CoreWait>,
    /// How much more CPU the server could have had without us, of what it and others had; none where nobody knows.
    taken_share: Option<f64>,
    /// What could not be begun for want of descriptors, ports or memory.
    starved: Option<ErrorCount>,
    /// How many were due, and whether chance has a part in that; none without a rate.
    due: Option<(f64, bool)>,
    most_in_flight: u32,
    mean_in_flight: f64,
    little_in_flight: f64,
    restarts: u32,
    last_death: Option<String>,
    slos_kept: bool,
}

/// In seconds.
#[derive(Debug, Clone, Copy)]
struct CoreWait {
    mean: f64,
    p50: f64,
    p99: f64,
}

/// How much more CPU a server on the same machine could have had if we had used none, of what was used by all others: what
/// lay idle beside us, it did not want.
fn taken_share(result: &RunResult) -> Option<f64> {
    let idle = result.idle_cores?;
    let cores = f64::from(result.info.environment.cores);
    let used: f64 = result.workers.iter().map(|worker| worker.cpu_share).sum();
    let others = cores - used - idle;
    (result.info.plan.target.is_here() && others > 0.0).then(|| (used - idle).max(0.0) / others)
}

impl Evidence {
    /// Of a result whose other parts are complete.
    pub(crate) fn of(result: &RunResult) -> Evidence {
        let (totals, plan) = (&result.totals, &result.info.plan);
        let (wait, service) = (&result.core_wait, &result.latency.service);
        let most = |share: fn(&WorkerResult) -> f64| result.workers.iter().map(share).fold(0.0, f64::max);
        let starved = result
            .errors
            .iter()
            .find(|error| error.kind == ErrorKind::Generator);
        Evidence {
            state: result.state,
            requests: totals.requests,
            iterations: totals.iterations,
            unfinished: totals.unfinished,
            processes: result.workers.len() as u32,
            cores: result.info.environment.cores,
            generator_delay_p99: result.generator_delay.as_ref().map(|delay| delay.p99),
            service_p50: service.p50,
            service_p99: service.p99,
            service_mean: service.mean,
            cpu_share: most(|worker| worker.cpu_share),
            cpu_wait_share: most(|worker| worker.cpu_wait_share),
            core_wait: (wait.count > 0 && service.count > 0).then_some(CoreWait {
                mean: wait.mean,
                p50: wait.p50,
                p99: wait.p99,
            }),
            taken_share: taken_share(result),
            starved: starved.cloned(),
            due: totals
                .target_per_second
                .map(|rate| (rate * result.info.measured_seconds, plan.pacing.is_random())),
            most_in_flight: plan.pacing.most_users(),
            mean_in_flight: totals.mean_in_flight,
            little_in_flight: totals.little_in_flight,
            restarts: result.workers.iter().map(|worker| worker.restarts).sum(),
            last_death: result.workers.iter().find_map(|worker| worker.last_death.clone()),
            slos_kept: result.slos.iter().all(|slo| slo.kept),
        }
    }

    fn more_processes(&self) -> String {
        if self.processes < self.cores {
            format!("use more processes than {}, or ask for less", self.processes)
        } else {
            "ask for less, or use a machine with more cores".to_owned()
        }
    }

    /// By how much the mean number of requests in flight differs from throughput times mean duration, relatively.
    fn little_error(&self) -> Option<f64> {
        if self.state < RunState::Finished || self.requests < LEAST_REQUESTS {
            return None;
        }
        let difference = (self.mean_in_flight - self.little_in_flight).abs();
        Some(difference / self.little_in_flight.max(f64::MIN_POSITIVE))
    }
}

/// What can be said of these figures.
pub(crate) fn judge(evidence: &Evidence) -> Verdict {
    let mut judge = Judge {
        verdict: Verdict::default(),
    };
    if evidence.state == RunState::Starting {
        return judge.verdict;
    }
    if evidence.requests == 0
        && evidence.iterations == 0
        && evidence.unfinished == 0
        && evidence.state >= RunState::Finished
    {
        judge.check(
            "nothing was measured",
            "0 requests".into(),
            "at least 1".into(),
            false,
            || "let it run longer".into(),
        );
    }
    if let Some(delay) = evidence.generator_delay_p99 {
        let limit = (evidence.service_p50 * LAG_SHARE).max(LEAST_LAG_LIMIT_SECONDS);
        judge.check(
            "requests were sent late (p99 of the generator's own delay)",
            milliseconds(delay),
            format!("at most {}", milliseconds(limit)),
            delay <= limit,
            || evidence.more_processes(),
        );
    }
    // In the closed model without think time a worker that is never idle is what was asked for, if it is fast: then the
    // figures are right as long as the target and not the worker is the slower one, which this cannot tell apart.
    judge.check(
        "a worker used its core up",
        percent(evidence.cpu_share),
        format!("at most {}", percent(MOST_CPU_SHARE)),
        evidence.cpu_share <= MOST_CPU_SHARE,
        || evidence.more_processes(),
    );
    judge.core_wait(evidence);
    let starved = evidence.starved.as_ref();
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
    if let Some((due, is_random)) = evidence.due {
        let begun = (evidence.requests.max(evidence.iterations) + evidence.unfinished) as f64;
        // One request more or less is the schedule's phase; of Poisson arrivals chance has its part, too.
        let slack = if is_random { 4.0 * due.sqrt() } else { 1.0 };
        let share = if due > 0.0 { begun / due } else { 1.0 };
        judge.check(
            "the rate was not reached",
            percent(share),
            format!("at least {}", percent(LEAST_RATE_SHARE)),
            begun + slack >= due * LEAST_RATE_SHARE,
            || {
                format!(
                    "allow more than {} requests in flight, or ask for less",
                    evidence.most_in_flight
                )
            },
        );
    }
    if let Some(error) = evidence.little_error() {
        judge.check(
            "requests in flight do not agree with rate times duration (Little's law)",
            percent(error),
            format!("at most {}", percent(MOST_LITTLE_ERROR)),
            error <= MOST_LITTLE_ERROR,
            || "samples were lost, or clocks disagree: please report this".into(),
        );
    }
    judge.check(
        "worker processes died",
        format!("{} times", evidence.restarts),
        "never".into(),
        evidence.restarts == 0,
        || {
            let death = evidence.last_death.as_deref();
            format!("find out why: the last one {}", death.unwrap_or("ended"))
        },
    );
    if judge.verdict.outcome == Outcome::Pass && !evidence.slos_kept {
        judge.verdict.outcome = Outcome::Fail;
    }
    judge.verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    /// Nothing to complain of, at a constant rate of a thousand a second for ten seconds.
    fn sound() -> Evidence {
        Evidence {
            state: RunState::Finished,
            requests: 10_000,
            iterations: 0,
            unfinished: 0,
            processes: 2,
            cores: 4,
            generator_delay_p99: Some(0.000_02),
            service_p50: 0.002,
            service_p99: 0.009,
            service_mean: 0.003,
            cpu_share: 0.2,
            cpu_wait_share: 0.001,
            core_wait: Some(CoreWait {
                mean: 0.000_004,
                p50: 0.0,
                p99: 0.000_05,
            }),
            taken_share: Some(0.0),
            starved: None,
            due: Some((10_000.0, false)),
            most_in_flight: 64,
            mean_in_flight: 4.0,
            little_in_flight: 4.0,
            restarts: 0,
            last_death: None,
            slos_kept: true,
        }
    }

    fn with(change: impl FnOnce(&mut Evidence)) -> Verdict {
        let mut evidence = sound();
        change(&mut evidence);
        judge(&evidence)
    }

    #[track_caller]
    fn passes(verdict: &Verdict) {
        assert_eq!((verdict.outcome, &verdict.reasons[..]), (Outcome::Pass, &[][..]));
        assert!(verdict.checks.iter().all(|check| check.sound));
    }

    /// That these figures are invalid for this reason alone, and that it is told with these words.
    #[track_caller]
    fn is_invalid(verdict: &Verdict, what: &str, figure: &str, limit: &str, cure: &str) {
        assert_eq!(verdict.outcome, Outcome::Invalid);
        let [reason] = &verdict.reasons[..] else {
            panic!("{:?}", verdict.reasons)
        };
        assert!(reason.what.contains(what), "{reason:?}");
        assert_eq!((&reason.figure[..], &reason.limit[..]), (figure, limit));
        assert!(reason.cure.contains(cure), "{reason:?}");
        let unsound: Vec<&Check> = verdict.checks.iter().filter(|check| !check.sound).collect();
        assert_eq!(unsound.len(), 1);
        assert_eq!(
            (&unsound[0].what, &unsound[0].figure, &unsound[0].limit),
            (&reason.what, &reason.figure, &reason.limit)
        );
    }

    #[test]
    fn figures_without_fault_pass_and_everything_that_was_looked_at_is_told() {
        let verdict = judge(&sound());
        passes(&verdict);
        let told: Vec<&str> = verdict.checks.iter().map(|check| &check.what[..]).collect();
        for what in [
            "sent late",
            "used its core up",
            "wait for a core",
            "no descriptors",
            "rate was not reached",
            "Little's law",
            "died",
        ] {
            assert!(told.iter().any(|told| told.contains(what)), "{what}: {told:?}");
        }
        assert!(verdict
            .checks
            .iter()
            .all(|check| !check.figure.is_empty() && !check.limit.is_empty()));
    }

    #[test]
    fn requests_may_be_sent_late_by_a_tenth_of_the_median() {
        let late = |p50: f64, p99: f64| {
            with(|evidence| {
                evidence.service_p50 = p50;
                evidence.generator_delay_p99 = Some(p99);
            })
        };
        passes(&late(0.050, 0.00499));
        is_invalid(
            &late(0.050, 0.00501),
            "sent late",
            "5.010 ms",
            "at most 5.000 ms",
            "use more processes than 2",
        );
    }

    #[test]
    fn requests_may_be_sent_late_by_a_millisecond_however_fast_the_server_is() {
        let late = |p99: f64| {
            with(|evidence| {
                evidence.service_p50 = 0.000_1;
                evidence.generator_delay_p99 = Some(p99);
            })
        };
        passes(&late(0.000_99));
        is_invalid(
            &late(0.001_01),
            "sent late",
            "1.010 ms",
            "at most 1.000 ms",
            "ask for less",
        );
    }

    #[test]
    fn without_a_rate_nothing_is_late_and_no_rate_is_missed() {
        let verdict = with(|evidence| {
            evidence.generator_delay_p99 = None;
            evidence.due = None;
        });
        passes(&verdict);
        let told = |what: &str| verdict.checks.iter().any(|check| check.what.contains(what));
        assert!(!told("sent late") && !told("rate was not reached"));
    }

    #[test]
    fn a_worker_may_use_85_percent_of_its_core() {
        passes(&with(|evidence| evidence.cpu_share = 0.849));
        is_invalid(
            &with(|evidence| evidence.cpu_share = 0.851),
            "used its core up",
            "85.1 %",
            "at most 85.0 %",
            "use more processes than 2",
        );
    }

    #[test]
    fn more_processes_are_no_cure_where_each_core_has_one() {
        let verdict = with(|evidence| {
            evidence.cpu_share = 0.9;
            evidence.processes = 4;
        });
        is_invalid(
            &verdict,
            "used its core up",
            "90.0 %",
            "at most 85.0 %",
            "a machine with more cores",
        );
    }

    #[test]
    fn a_worker_without_responses_may_wait_for_a_core_for_5_percent_of_the_time() {
        let waited = |share: f64| {
            with(|evidence| {
                evidence.core_wait = None;
                evidence.cpu_wait_share = share;
            })
        };
        passes(&waited(0.049));
        is_invalid(
            &waited(0.051),
            "wait for a core",
            "5.1 %",
            "at most 5.0 %",
            "stop other programs",
        );
    }

    /// How the wait for a core is judged without a rate, if each response takes as long as that.
    fn closed(service: f64, mean: f64, p50: f64, p99: f64) -> Verdict {
        with(|evidence| {
            evidence.generator_delay_p99 = None;
            evidence.due = None;
            evidence.service_p50 = service;
            evidence.service_p99 = service;
            evidence.service_mean = service;
            evidence.core_wait = Some(CoreWait { mean, p50, p99 });
        })
    }

    #[test]
    fn responses_may_wait_for_a_core_for_5_percent_of_their_mean_time() {
        passes(&closed(0.020, 0.000_99, 0.001, 0.001));
        is_invalid(
            &closed(0.020, 0.001_01, 0.001, 0.001),
            "is in mean response time and throughput",
            "1.010 ms",
            "at most 1.000 ms",
            "stop other programs",
        );
    }

    #[test]
    fn responses_may_wait_for_a_core_for_ten_microseconds_however_fast_the_server_is() {
        passes(&closed(0.000_02, 0.000_009, 0.0, 0.001));
        is_invalid(
            &closed(0.000_02, 0.000_011, 0.0, 0.001),
            "is in mean response time and throughput",
            "0.011 ms",
            "at most 0.010 ms",
            "use fewer processes than 2, or test",
        );
    }

    #[test]
    fn fewer_processes_are_no_cure_for_one() {
        let verdict = with(|evidence| {
            evidence.core_wait = None;
            evidence.cpu_wait_share = 0.5;
            evidence.processes = 1;
        });
        let cure = &verdict.reasons[0].cure;
        assert!(
            cure.ends_with("stop other programs, or test from another machine"),
            "{cure}"
        );
    }

    #[test]
    fn responses_may_wait_for_a_core_for_a_tenth_of_the_same_percentile() {
        passes(&closed(0.020, 0.000_1, 0.001_99, 0.001_99));
        for (figures, what) in [
            ((0.0, 0.002_01), "is in the p99"),
            ((0.002_01, 0.0), "is in the p50"),
        ] {
            is_invalid(
                &closed(0.020, 0.000_1, figures.0, figures.1),
                what,
                "2.010 ms",
                "at most 2.000 ms",
                "from another machine",
            );
        }
    }

    #[test]
    fn one_response_in_a_hundred_may_wait_for_a_core_for_a_millisecond_however_fast_the_server_is() {
        passes(&closed(0.000_1, 0.000_001, 0.0, 0.000_99));
        is_invalid(
            &closed(0.000_1, 0.000_001, 0.0, 0.001_01),
            "is in the p99",
            "1.010 ms",
            "at most 1.000 ms",
            "stop other programs",
        );
    }

    #[test]
    fn a_worker_that_waits_while_the_server_works_on_is_no_fault() {
        passes(&with(|evidence| evidence.cpu_wait_share = 0.6));
    }

    #[test]
    fn at_a_rate_the_mean_wait_for_a_core_decides_nothing() {
        let waited = |p99: f64| {
            with(|evidence| {
                evidence.service_p50 = 0.000_1;
                evidence.service_p99 = 0.000_1;
                evidence.service_mean = 0.000_1;
                evidence.core_wait = Some(CoreWait {
                    mean: 0.000_1,
                    p50: 0.000_1,
                    p99,
                });
            })
        };
        passes(&waited(0.000_99));
        is_invalid(
            &waited(0.001_01),
            "is in the p99",
            "1.010 ms",
            "at most 1.000 ms",
            "stop other programs",
        );
    }

    #[test]
    fn of_the_cpu_that_others_had_5_percent_may_be_missing_to_the_server() {
        let taken = |share: f64, waited: f64, processes: u32| {
            with(|evidence| {
                evidence.taken_share = Some(share);
                evidence.cpu_wait_share = waited;
                evidence.processes = processes;
            })
        };
        passes(&taken(0.049, 0.3, 2));
        for (processes, cure) in [(1, "ask for less, or test"), (2, "use fewer processes than 2")] {
            is_invalid(
                &taken(0.051, 0.3, processes),
                "took CPU from the server",
                "5.1 % of what others had",
                "at most 5.0 %",
                cure,
            );
        }
        // A worker that never waits has a core that nobody else wanted.
        passes(&taken(0.6, 0.049, 2));
        passes(&with(|evidence| {
            evidence.taken_share = None;
            evidence.cpu_wait_share = 0.3;
        }));
    }

    #[test]
    fn what_lay_idle_was_not_taken_from_anybody() {
        let mut result = sample::good();
        let mut taken = |used: [f64; 2], idle: f64, url: &str| {
            let target = crate::plan::HttpTarget::get(url).unwrap();
            result.info.plan.target = crate::plan::Target::Http(target);
            result.workers[0].cpu_share = used[0];
            result.workers[1].cpu_share = used[1];
            result.idle_cores = Some(idle);
            Evidence::of(&result).taken_share
        };
        let here = "http://localhost:8080/";
        assert_eq!(taken([0.25, 0.25], 0.75, here), Some(0.0));
        assert_eq!(taken([0.25, 0.25], 0.25, here), Some(0.2));
        assert_eq!(taken([0.5, 0.5], 0.0, here), Some(1.0));
        assert_eq!(taken([0.5, 0.5], 0.0, "http://192.0.2.1/"), None);
        // Coarse figures may add up to more than there is.
        assert_eq!(taken([1.0, 1.0], 0.1, here), None);
        result.idle_cores = None;
        assert_eq!(Evidence::of(&result).taken_share, None);
    }

    #[test]
    fn one_request_for_which_the_machine_had_no_descriptor_is_one_too_many() {
        let verdict = with(|evidence| {
            evidence.starved = Some(ErrorCount {
                kind: ErrorKind::Generator,
                count: 1,
                example: "Too many open files".into(),
            });
        });
        is_invalid(
            &verdict,
            "no descriptors, ports or memory",
            "1 requests",
            "none",
            "Too many open files: raise the limit",
        );
    }

    #[test]
    fn of_a_constant_rate_99_percent_and_one_request_less_must_have_begun() {
        let begun = |requests: u64| with(|evidence| evidence.requests = requests);
        passes(&begun(9_899));
        is_invalid(
            &begun(9_898),
            "rate was not reached",
            "99.0 %",
            "at least 99.0 %",
            "allow more than 64 requests in flight",
        );
    }

    #[test]
    fn what_is_unfinished_was_begun_and_of_a_scenario_iterations_count() {
        passes(&with(|evidence| {
            evidence.requests = 5_000;
            evidence.unfinished = 4_950;
        }));
        passes(&with(|evidence| {
            evidence.requests = 5_000;
            evidence.iterations = 9_950;
        }));
    }

    #[test]
    fn chance_has_its_part_of_random_arrivals() {
        let begun = |requests: u64| {
            with(|evidence| {
                evidence.requests = requests;
                evidence.due = Some((10_000.0, true));
            })
        };
        // Four standard deviations of a Poisson distribution of ten thousand are four hundred.
        passes(&begun(9_500));
        is_invalid(
            &begun(9_499),
            "rate was not reached",
            "95.0 %",
            "at least 99.0 %",
            "ask for less",
        );
    }

    #[test]
    fn littles_law_holds_within_2_percent_on_either_side() {
        let measured = |in_flight: f64| with(|evidence| evidence.mean_in_flight = in_flight);
        for in_flight in [4.0 * 0.981, 4.0 * 1.019] {
            passes(&measured(in_flight));
        }
        for in_flight in [4.0 * 0.979, 4.0 * 1.021] {
            is_invalid(
                &measured(in_flight),
                "Little's law",
                "2.1 %",
                "at most 2.0 %",
                "samples were lost",
            );
        }
    }

    #[test]
    fn littles_law_is_not_asked_of_few_requests_or_before_the_end() {
        let wrong = |requests: u64, state: RunState| {
            with(|evidence| {
                evidence.mean_in_flight = 8.0;
                evidence.due = None;
                evidence.requests = requests;
                evidence.state = state;
            })
        };
        passes(&wrong(199, RunState::Finished));
        assert_eq!(wrong(200, RunState::Finished).outcome, Outcome::Invalid);
        assert_eq!(wrong(200, RunState::Stopped).outcome, Outcome::Invalid);
        passes(&wrong(200, RunState::Draining));
    }

    #[test]
    fn the_death_of_a_worker_is_told_with_its_cause() {
        let verdict = with(|evidence| {
            evidence.restarts = 1;
            evidence.last_death = Some("was killed by SIGKILL".into());
        });
        is_invalid(
            &verdict,
            "worker processes died",
            "1 times",
            "never",
            "the last one was killed by SIGKILL",
        );
    }

    #[test]
    fn a_run_in_which_nothing_began_has_measured_nothing() {
        let empty = |state: RunState| {
            with(|evidence| {
                evidence.requests = 0;
                evidence.due = None;
                evidence.state = state;
            })
        };
        is_invalid(
            &empty(RunState::Finished),
            "nothing was measured",
            "0 requests",
            "at least 1",
            "run longer",
        );
        passes(&empty(RunState::Running));
        for change in [
            (|evidence: &mut Evidence| evidence.requests = 1) as fn(&mut Evidence),
            |evidence| evidence.iterations = 1,
            |evidence| evidence.unfinished = 1,
        ] {
            passes(&with(|evidence| {
                evidence.requests = 0;
                evidence.due = None;
                change(evidence);
            }));
        }
    }

    #[test]
    fn a_broken_promise_fails_a_run_whose_figures_can_be_believed() {
        let verdict = with(|evidence| evidence.slos_kept = false);
        assert_eq!((verdict.outcome, verdict.reasons.len()), (Outcome::Fail, 0));
    }

    #[test]
    fn invalid_goes_before_fail_and_all_reasons_are_told() {
        let verdict = with(|evidence| {
            evidence.slos_kept = false;
            evidence.cpu_share = 1.0;
            evidence.core_wait = Some(CoreWait {
                mean: 0.1,
                p50: 0.0,
                p99: 0.1,
            });
            evidence.restarts = 2;
        });
        assert_eq!(verdict.outcome, Outcome::Invalid);
        let told: Vec<&str> = verdict.reasons.iter().map(|reason| &reason.what[..]).collect();
        assert_eq!(
            told,
            [
                "a worker used its core up",
                "a worker had to wait for a core, which is in the p99 of response times",
                "worker processes died"
            ]
        );
    }

    #[test]
    fn nothing_is_held_against_a_run_that_has_not_begun() {
        let verdict = with(|evidence| {
            evidence.state = RunState::Starting;
            evidence.cpu_share = 1.0;
            evidence.slos_kept = false;
        });
        assert_eq!(verdict, Verdict::default());
    }

    #[test]
    fn a_figure_that_is_no_number_is_not_believed() {
        for change in [
            (|evidence: &mut Evidence| evidence.generator_delay_p99 = Some(f64::NAN)) as fn(&mut Evidence),
            |evidence| evidence.cpu_share = f64::NAN,
            |evidence| {
                evidence.core_wait = None;
                evidence.cpu_wait_share = f64::NAN;
            },
            |evidence| {
                evidence.core_wait = Some(CoreWait {
                    mean: 0.0,
                    p50: 0.0,
                    p99: f64::NAN,
                });
            },
            |evidence| evidence.mean_in_flight = f64::NAN,
            |evidence| evidence.due = Some((f64::NAN, false)),
        ] {
            assert_eq!(with(change).outcome, Outcome::Invalid);
        }
    }

    #[test]
    fn the_worst_of_all_workers_is_what_a_result_is_judged_by() {
        let mut result = sample::good();
        passes(&judge(&Evidence::of(&result)));
        result.workers[0].cpu_share = 0.9;
        result.workers[1].cpu_wait_share = 0.5;
        result.workers[0].restarts = 1;
        result.workers[1].restarts = 2;
        result.workers[1].last_death = Some("exited with 3".into());
        let evidence = Evidence::of(&result);
        assert_eq!((evidence.cpu_share, evidence.cpu_wait_share), (0.9, 0.5));
        assert_eq!(
            (evidence.restarts, evidence.last_death.as_deref()),
            (3, Some("exited with 3"))
        );
        assert_eq!((evidence.processes, evidence.cores), (2, 2));
        assert!(evidence.core_wait.is_some_and(|wait| wait.p99 > wait.mean));
        assert_eq!(evidence.due, Some((10_000.0, false)));
        result.core_wait = crate::result::LatencySummary::default();
        assert!(Evidence::of(&result).core_wait.is_none());
        result.slos[0].kept = false;
        assert!(!Evidence::of(&result).slos_kept);
        result.errors[0].kind = ErrorKind::Generator;
        assert_eq!(Evidence::of(&result).starved.map(|error| error.count), Some(12));
    }
}
