//! The rules of the verdict: how much each figure may be, and what to do if it is more.

use super::evidence::Evidence;
use super::{Check, Outcome, Reason, Verdict};
use crate::result::RunState;

const MOST_CPU_SHARE: f64 = 0.85;
pub(super) const LEAST_LAG_LIMIT_SECONDS: f64 = 0.001;
pub(super) const LAG_SHARE: f64 = 0.1;
const LEAST_RATE_SHARE: f64 = 0.99;
const MOST_LITTLE_ERROR: f64 = 0.02;

pub(super) struct Judge {
    verdict: Verdict,
}

impl Judge {
    pub(super) fn check(
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

pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

pub(super) fn milliseconds(seconds: f64) -> String {
    format!("{:.3} ms", seconds * 1000.0)
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
    use super::super::evidence::CoreWait;
    use super::super::sound::{is_invalid, passes, sound, with};
    use super::*;
    use crate::result::{ErrorCount, ErrorKind};

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
}
