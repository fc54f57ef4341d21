//! The figures of a result by which it is judged.

use crate::result::{ErrorCount, ErrorKind, RunResult, RunState, WorkerResult};

/// A worker that is done sooner has hardly done anything but begin and end, and was busy with that.
const LEAST_BUSY_SECONDS: f64 = 0.1;
/// Below this, chance alone moves the figures of Little's law by more than its limit.
const LEAST_REQUESTS: u64 = 200;

/// The figures that decide.
#[derive(Debug, Clone)]
pub(crate) struct Evidence {
    pub(super) state: RunState,
    pub(super) requests: u64,
    pub(super) iterations: u64,
    pub(super) unfinished: u64,
    pub(super) processes: u32,
    pub(super) cores: u32,
    /// p99 of how late the generator itself was, in seconds; none without a rate.
    pub(super) generator_delay_p99: Option<f64>,
    /// Median from sending to the last byte, in seconds.
    pub(super) service_p50: f64,
    /// p99 and average of the same.
    pub(super) service_p99: f64,
    pub(super) service_mean: f64,
    /// Of the worker that used most of its core.
    pub(super) cpu_share: f64,
    /// Of the worker that waited longest for a core, of all time.
    pub(super) cpu_wait_share: f64,
    /// How long responses waited for their worker to get a core; none where nobody has looked or there is no response.
    pub(super) core_wait: Option<CoreWait>,
    /// How much more CPU the server could have had without us, of what it and others had; none where nobody knows.
    pub(super) taken_share: Option<f64>,
    /// What could not be begun for want of descriptors, ports or memory.
    pub(super) starved: Option<ErrorCount>,
    /// How many were due, and whether chance has a part in that; none without a rate.
    pub(super) due: Option<(f64, bool)>,
    pub(super) most_in_flight: u32,
    pub(super) mean_in_flight: f64,
    pub(super) little_in_flight: f64,
    pub(super) restarts: u32,
    pub(super) last_death: Option<String>,
    pub(super) slos_kept: bool,
}

/// In seconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct CoreWait {
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p99: f64,
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
            cpu_share: if result.info.elapsed_seconds < LEAST_BUSY_SECONDS {
                0.0
            } else {
                most(|worker| worker.cpu_share)
            },
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

    pub(super) fn more_processes(&self) -> String {
        if self.processes < self.cores {
            format!("use more processes than {}, or ask for less", self.processes)
        } else {
            "ask for less, or use a machine with more cores".to_owned()
        }
    }

    /// By how much the mean number of requests in flight differs from throughput times mean duration, relatively.
    pub(super) fn little_error(&self) -> Option<f64> {
        if self.state < RunState::Finished || self.requests < LEAST_REQUESTS {
            return None;
        }
        let difference = (self.mean_in_flight - self.little_in_flight).abs();
        Some(difference / self.little_in_flight.max(f64::MIN_POSITIVE))
    }
}

#[cfg(test)]
mod tests {
    use super::super::judge;
    use super::super::sound::passes;
    use super::*;
    use crate::report::sample;

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
    fn a_run_that_is_over_at_once_has_used_no_core_up() {
        let mut result = sample::good();
        result.workers[0].cpu_share = 1.0;
        assert_eq!(Evidence::of(&result).cpu_share, 1.0);
        result.info.elapsed_seconds = 0.001;
        assert_eq!(Evidence::of(&result).cpu_share, 0.0);
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
