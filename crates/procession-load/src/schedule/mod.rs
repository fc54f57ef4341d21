//! When things are due: pure functions of the plan and the clock.
//!
//! The schedule of a rate is a curve: how many arrivals there have been after so many seconds. The n-th arrival is where the
//! curve reaches n; of Poisson arrivals, where it reaches a sum of exponential distances. Worker i of W takes each W-th
//! arrival from the i-th on, or, of Poisson arrivals, has a process of its own with a W-th of the rate, which together
//! are one of the whole rate. So the split is exact, and no worker needs to know of another.

mod curve;
mod random;

use crate::plan::{Arrivals, Pacing, Plan};
use curve::{RateCurve, UserCurve};
pub use random::Random;
use std::time::Duration;

/// The arrivals of one worker.
#[derive(Debug, Clone)]
pub struct Schedule {
    curve: RateCurve,
    arrivals: Arrivals,
    worker: u32,
    workers: u32,
    seed: u64,
    start_ns: u64,
    end_ns: u64,
}

/// A place in a [`Schedule`]: as many arrivals were taken, and this is where the curve was at the last one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Place {
    pub taken: u64,
    pub position: f64,
}

impl Schedule {
    /// The schedule of this worker; `None` in the closed model.
    pub(crate) fn new(plan: &Plan, worker: u32, workers: u32, start_ns: u64) -> Option<Schedule> {
        let (curve, arrivals) = match &plan.pacing {
            Pacing::Rate {
                per_second, arrivals, ..
            } => (RateCurve::constant(*per_second), *arrivals),
            Pacing::RateStages {
                start,
                stages,
                arrivals,
                ..
            } => (RateCurve::staged(*start, stages), *arrivals),
            Pacing::Users { .. } | Pacing::UserStages { .. } => return None,
        };
        let end_ns = plan.load_duration().map_or(u64::MAX, |duration| {
            start_ns.saturating_add(duration.as_nanos() as u64)
        });
        Some(Schedule {
            curve,
            arrivals,
            worker,
            workers,
            seed: plan.seed,
            start_ns,
            end_ns,
        })
    }

    /// The arrival after this place, and when it is due; `None` if there is none before the end.
    pub(crate) fn after(&self, place: Place) -> Option<(Place, u64)> {
        let workers = f64::from(self.workers);
        let position = match self.arrivals {
            Arrivals::Constant => f64::from(self.worker) + place.taken as f64 * workers,
            Arrivals::Poisson => {
                let mut random = Random::new(self.seed, u64::from(self.worker) << 40 | place.taken);
                place.position + random.exponential() * workers
            }
        };
        let seconds = self.curve.when(position)?;
        let due_ns = self.start_ns.saturating_add((seconds * 1e9) as u64);
        let taken = place.taken + 1;
        (due_ns < self.end_ns).then_some((Place { taken, position }, due_ns))
    }

    /// The rate asked for after so many seconds, over all workers.
    pub(crate) fn rate_at(plan: &Plan, seconds: f64) -> Option<f64> {
        match &plan.pacing {
            Pacing::Rate { per_second, .. } => Some(*per_second),
            Pacing::RateStages { start, stages, .. } => {
                Some(RateCurve::staged(*start, stages).rate_at(seconds))
            }
            Pacing::Users { .. } | Pacing::UserStages { .. } => None,
        }
    }

    /// How many arrivals there should be between these moments, over all workers.
    pub(crate) fn due_between(plan: &Plan, from: Duration, to: Duration) -> Option<f64> {
        let curve = match &plan.pacing {
            Pacing::Rate { per_second, .. } => RateCurve::constant(*per_second),
            Pacing::RateStages { start, stages, .. } => RateCurve::staged(*start, stages),
            Pacing::Users { .. } | Pacing::UserStages { .. } => return None,
        };
        Some(curve.position_at(to.as_secs_f64()) - curve.position_at(from.as_secs_f64()))
    }
}

/// How many users one worker has.
#[derive(Debug, Clone)]
pub(crate) struct Users {
    curve: UserCurve,
    worker: u32,
    workers: u32,
}

impl Users {
    pub(crate) fn new(plan: &Plan, worker: u32, workers: u32) -> Users {
        let curve = match &plan.pacing {
            Pacing::UserStages { start, stages, .. } => UserCurve::staged(*start, stages),
            pacing => UserCurve::constant(pacing.most_users()),
        };
        Users {
            curve,
            worker,
            workers,
        }
    }

    /// How many of this worker's users are there after so many seconds. User n of all is worker n mod W's.
    pub(crate) fn at(&self, seconds: f64) -> u32 {
        self.share_of(self.curve.at(seconds))
    }

    /// The most there will be.
    pub(crate) fn most(&self) -> u32 {
        self.share_of(self.curve.most())
    }

    fn share_of(&self, users: u32) -> u32 {
        (users + self.workers - 1 - self.worker) / self.workers
    }

    pub(crate) fn change(&self) -> bool {
        self.curve.changes()
    }
}

/// A worker's share of a number of iterations.
pub(crate) fn share_of_iterations(iterations: u64, worker: u32, workers: u32) -> u64 {
    let (worker, workers) = (u64::from(worker), u64::from(workers));
    iterations / workers + u64::from(worker < iterations % workers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{HttpTarget, RateStage, Target, UserStage};

    fn plan(pacing: Pacing, seconds: u64) -> Plan {
        let mut plan = Plan::new(
            Target::Http(HttpTarget::get("http://localhost/").unwrap()),
            pacing,
        );
        plan.duration = Some(Duration::from_secs(seconds));
        plan
    }

    fn all_due(plan: &Plan, worker: u32, workers: u32) -> Vec<u64> {
        let schedule = Schedule::new(plan, worker, workers, 1_000).unwrap();
        let mut place = Place {
            taken: 0,
            position: 0.0,
        };
        std::iter::from_fn(|| {
            let (next, due) = schedule.after(place)?;
            place = next;
            Some(due)
        })
        .collect()
    }

    #[test]
    fn constant_rate_is_the_same_schedule_however_many_workers_share_it() {
        let plan = plan(Pacing::constant_rate(100.0), 3);
        let alone = all_due(&plan, 0, 1);
        assert_eq!(alone.len(), 300);
        assert_eq!(alone[..3], [1_000, 10_001_000, 20_001_000]);
        for workers in [2, 3, 7] {
            let mut together: Vec<u64> = (0..workers).flat_map(|w| all_due(&plan, w, workers)).collect();
            together.sort_unstable();
            assert_eq!(together, alone);
        }
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_dispersion_asked_for() {
        for workers in [1, 4] {
            let plan = plan(Pacing::poisson(1000.0), 50);
            let mut due: Vec<u64> = (0..workers).flat_map(|w| all_due(&plan, w, workers)).collect();
            due.sort_unstable();
            assert!((due.len() as f64 - 50_000.0).abs() < 1000.0, "{}", due.len());
            let gaps: Vec<f64> = due.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
            assert!((variance.sqrt() / mean - 1.0).abs() < 0.05);
        }
        let seeded = |seed| {
            let mut plan = plan(Pacing::poisson(100.0), 1);
            plan.seed = seed;
            all_due(&plan, 0, 1)
        };
        assert_eq!(seeded(1), seeded(1));
        assert_ne!(seeded(1), seeded(2));
    }

    #[test]
    fn stages_ramp_evenly() {
        let stages = vec![
            RateStage {
                duration: Duration::from_secs(10),
                per_second: 100.0,
            },
            RateStage {
                duration: Duration::from_secs(10),
                per_second: 100.0,
            },
            RateStage {
                duration: Duration::from_secs(10),
                per_second: 0.0,
            },
        ];
        let plan = plan(
            Pacing::RateStages {
                start: 0.0,
                stages,
                arrivals: Arrivals::Constant,
                most_in_flight: 10,
            },
            100,
        );
        let due = all_due(&plan, 0, 1);
        let before = |second: u64| {
            due.iter()
                .filter(|&&ns| ns < second * 1_000_000_000 + 1_000)
                .count() as i64
        };
        for (second, count) in [(5, 125), (10, 500), (20, 1500), (25, 1875), (30, 2000)] {
            assert!(
                (before(second) - count).abs() <= 1,
                "{second}: {}",
                before(second)
            );
        }
        assert_eq!(Schedule::rate_at(&plan, 5.0), Some(50.0));
        assert_eq!(Schedule::rate_at(&plan, 29.0), Some(10.0));
    }

    #[test]
    fn users_are_shared_out_without_remainder() {
        let stages = vec![UserStage {
            duration: Duration::from_secs(10),
            users: 10,
        }];
        let plan = plan(
            Pacing::UserStages {
                start: 0,
                stages,
                think: Default::default(),
            },
            10,
        );
        for seconds in [0.0, 1.0, 4.9, 5.0, 9.99, 10.0, 11.0] {
            let sum: u32 = (0..3)
                .map(|worker| Users::new(&plan, worker, 3).at(seconds))
                .sum();
            assert_eq!(sum, Users::new(&plan, 0, 1).at(seconds));
        }
        assert_eq!(Users::new(&plan, 0, 1).at(5.0), 5);
        assert_eq!(Users::new(&plan, 0, 1).at(10.0), 10);
        assert_eq!(
            (0..3)
                .map(|worker| share_of_iterations(10, worker, 3))
                .sum::<u64>(),
            10
        );
    }

    #[test]
    fn a_successor_goes_on_where_the_schedule_was_left() {
        let plan = plan(Pacing::poisson(100.0), 2);
        let schedule = Schedule::new(&plan, 1, 2, 0).unwrap();
        let place = Place {
            taken: 0,
            position: 0.0,
        };
        let (first, _) = schedule.after(place).unwrap();
        let stored = (first.taken, first.position.to_bits());
        let restored = Place {
            taken: stored.0,
            position: f64::from_bits(stored.1),
        };
        assert_eq!(schedule.after(first), schedule.after(restored));
    }
}
