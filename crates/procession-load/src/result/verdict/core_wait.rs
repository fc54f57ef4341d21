//! Whether the wait of workers for a core has spoilt the figures, and whether they took CPU from the server.

use super::evidence::Evidence;
use super::judge::{milliseconds, percent, Judge, LAG_SHARE, LEAST_LAG_LIMIT_SECONDS};

/// Of time, and of response times.
const MOST_CPU_WAIT_SHARE: f64 = 0.05;
/// What a change from one program to the next may take on any machine, an idle one included.
const LEAST_CORE_WAIT_LIMIT_SECONDS: f64 = 0.000_01;
const MOST_TAKEN_SHARE: f64 = 0.05;

impl Judge {
    /// Whether the wait for a core has changed the figures: a worker that waits while the server works on makes no response
    /// later than it is.
    pub(super) fn core_wait(&mut self, evidence: &Evidence) {
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

#[cfg(test)]
mod tests {
    use super::super::evidence::CoreWait;
    use super::super::sound::{is_invalid, passes, with};
    use super::super::Verdict;

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
}
