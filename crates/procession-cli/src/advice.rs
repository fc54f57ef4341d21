//! What a bench's figures mean for the user: what was seen, and what to try.

use std::fmt;

use crate::measure::Bench;
use crate::units;

/// A plain loop that is busy for less of its time than this waits more than it computes.
const WAITING_BELOW: f64 = 0.5;
/// A pool must be at least this much faster than the plain loop to count as a gain.
const GAIN: f64 = 1.1;
/// A pool that is within this factor of the fastest is as good, and smaller ones are cheaper.
const AS_GOOD: f64 = 1.05;
/// From this efficiency on a pool uses its processes well.
const WELL_USED: f64 = 0.7;
/// Calls shorter than this cost less than handing them over does.
const TINY_CALL_SECONDS: f64 = 20e-6;
/// Work shorter than this is over before processes have started.
const TINY_WORK_SECONDS: f64 = 0.1;

/// One sentence for the user.
#[derive(Debug, Clone, PartialEq)]
pub enum Advice {
    /// Each call costs less than handing it to another process.
    TasksTooSmall {
        /// Time of a call in the plain loop.
        call_seconds: f64,
    },
    /// The work is over before processes have started.
    TooLittleWork {
        /// Time of the plain loop.
        total_seconds: f64,
    },
    /// Processes bring nothing although the tasks are large enough.
    NoGain,
    /// The function waits, so more processes than cores help.
    Waits {
        /// Share of the time that the plain loop waits.
        waiting_share: f64,
        /// The fastest pool.
        best: usize,
        /// Its speed-up.
        speed_up: f64,
        /// Whether an even larger pool is worth a try.
        larger: bool,
    },
    /// More processes than cores do not help a function that computes.
    MoreThanCores {
        /// The pool to use.
        best: usize,
        /// Its speed-up.
        speed_up: f64,
        /// Cores there are.
        cores: usize,
    },
    /// A pool uses its processes well.
    Scales {
        /// The pool to use.
        best: usize,
        /// Its speed-up.
        speed_up: f64,
    },
    /// A pool helps, but less than its processes could.
    ScalesPoorly {
        /// The pool to use.
        best: usize,
        /// Its speed-up.
        speed_up: f64,
    },
}

impl Advice {
    /// The advice on these figures; none without a plain loop and a pool to compare.
    pub fn on(bench: &Bench) -> Option<Self> {
        let plain_loop = bench.plain_loop()?;
        let fastest = bench
            .pools()
            .map(|(_, row)| row.speed_up)
            .max_by(f64::total_cmp)?;
        let (best, row) = bench
            .pools()
            .filter(|(_, row)| row.speed_up * AS_GOOD >= fastest)
            .min_by_key(|pool| pool.0)?;
        let largest = bench.pools().map(|(processes, _)| processes).max()?;
        let speed_up = row.speed_up;
        let waiting_share = 1.0 - plain_loop.busy_share.clamp(0.0, 1.0);
        let call_seconds = plain_loop.median_seconds / bench.items.max(1) as f64;
        Some(if speed_up < GAIN {
            // One process alone is not meant to be faster, only not to be slower.
            if largest == 1 && speed_up >= WELL_USED {
                Self::Scales { best, speed_up }
            } else if call_seconds < TINY_CALL_SECONDS {
                Self::TasksTooSmall { call_seconds }
            } else if plain_loop.median_seconds < TINY_WORK_SECONDS {
                Self::TooLittleWork {
                    total_seconds: plain_loop.median_seconds,
                }
            } else {
                Self::NoGain
            }
        } else if plain_loop.busy_share < WAITING_BELOW {
            let larger = best == largest && speed_up >= WELL_USED * largest as f64;
            Self::Waits {
                waiting_share,
                best,
                speed_up,
                larger,
            }
        } else if largest > bench.cores && best <= bench.cores {
            Self::MoreThanCores {
                best,
                speed_up,
                cores: bench.cores,
            }
        } else if speed_up >= WELL_USED * best as f64 {
            Self::Scales { best, speed_up }
        } else {
            Self::ScalesPoorly { best, speed_up }
        })
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let times = |speed_up: f64| format!("{} times as fast as a plain loop", units::factor(speed_up));
        match self {
            Self::TasksTooSmall { call_seconds } => write!(
                f,
                "The calls are too small: each takes {}, about what handing it to another process costs; let one call \
                 do more (take a list of inputs), or stay with a plain loop.",
                units::seconds(*call_seconds)
            ),
            Self::TooLittleWork { total_seconds } => write!(
                f,
                "There is too little work: a plain loop does all of it in {}, and processes take that long to start; \
                 give more inputs, or stay with a plain loop.",
                units::seconds(*total_seconds)
            ),
            Self::NoGain => write!(
                f,
                "More processes bring nothing here: something that all of them share holds them up, such as a disk, \
                 memory bandwidth, a lock, a server, or large results on their way back."
            ),
            Self::Waits { waiting_share, best, speed_up, larger } => {
                write!(
                    f,
                    "The function waits {:.0} % of its time, so more processes than cores help: with {best} it is {}",
                    waiting_share * 100.0,
                    times(*speed_up)
                )?;
                if *larger {
                    write!(f, "; try --processes {} too", best * 4)?;
                }
                write!(f, ".")
            }
            Self::MoreThanCores { best, speed_up, cores } => write!(
                f,
                "Use {}: {}; more than the {} here do not help a function that computes.",
                units::counted(*best as u64, "process"),
                times(*speed_up),
                units::counted(*cores as u64, "core")
            ),
            Self::Scales { best, speed_up } => {
                write!(f, "Use {}: {}.", units::counted(*best as u64, "process"), times(*speed_up))
            }
            Self::ScalesPoorly { best, speed_up } => write!(
                f,
                "{} are {}, not {best} times: something that they share holds them up (memory bandwidth, a disk, a \
                 lock, large results), or a few long calls keep one process busy at the end.",
                units::counted(*best as u64, "process"),
                times(*speed_up)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::tests::bench;

    #[test]
    fn tiny_calls_and_little_work_are_told_apart() {
        let tiny = bench(1_000_000, 2, 1.0, 1.0, &[(1, 2.0), (2, 1.2)]);
        assert!(matches!(Advice::on(&tiny), Some(Advice::TasksTooSmall { .. })));
        let little = bench(10, 2, 1.0, 0.01, &[(1, 0.05), (2, 0.06)]);
        assert!(matches!(Advice::on(&little), Some(Advice::TooLittleWork { .. })));
        let one_process = bench(10, 1, 1.0, 0.01, &[(1, 0.05)]);
        assert!(matches!(
            Advice::on(&one_process),
            Some(Advice::TooLittleWork { .. })
        ));
        let one_that_is_as_fast = bench(10, 1, 1.0, 10.0, &[(1, 10.1)]);
        assert!(matches!(
            Advice::on(&one_that_is_as_fast),
            Some(Advice::Scales { best: 1, .. })
        ));
        let shared = bench(10, 2, 1.0, 10.0, &[(1, 10.0), (2, 9.9)]);
        assert_eq!(Advice::on(&shared), Some(Advice::NoGain));
    }

    #[test]
    fn a_function_that_waits_is_told_to_take_more_processes_than_cores() {
        let waits = bench(1000, 2, 0.02, 10.0, &[(1, 10.0), (2, 5.0), (8, 1.3)]);
        let Some(Advice::Waits {
            best: 8,
            larger: true,
            ..
        }) = Advice::on(&waits)
        else {
            panic!("{:?}", Advice::on(&waits))
        };
    }

    #[test]
    fn a_function_that_computes_is_told_to_stay_within_the_cores() {
        let computes = bench(1000, 4, 1.0, 8.0, &[(1, 8.0), (2, 4.1), (4, 2.1), (8, 2.05)]);
        assert!(matches!(
            Advice::on(&computes),
            Some(Advice::MoreThanCores {
                best: 4,
                cores: 4,
                ..
            })
        ));
    }

    #[test]
    fn the_smallest_pool_that_is_as_good_is_recommended() {
        let scales = bench(1000, 4, 1.0, 8.0, &[(1, 8.0), (2, 4.1), (3, 2.7), (4, 2.65)]);
        assert!(matches!(
            Advice::on(&scales),
            Some(Advice::Scales { best: 3, .. })
        ));
        let poorly = bench(1000, 4, 1.0, 8.0, &[(1, 8.0), (4, 5.0)]);
        assert!(matches!(
            Advice::on(&poorly),
            Some(Advice::ScalesPoorly { best: 4, .. })
        ));
    }
}
