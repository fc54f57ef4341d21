use crate::histogram::Histogram;
use serde::{Deserialize, Serialize};

/// One percentile.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Quantile {
    /// The share of times that are not longer, 0 to 1.
    pub share: f64,
    /// The time, in seconds.
    pub seconds: f64,
    /// Whether requests that were still unfinished when the run ended could raise it: the true figure is this or more.
    pub censored: bool,
}

/// A distribution of times in the figures that people ask for, in seconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LatencySummary {
    /// How many there are, unfinished ones included.
    pub count: u64,
    /// The average.
    pub mean: f64,
    /// The shortest.
    pub min: f64,
    /// Half of them are not longer.
    pub p50: f64,
    /// 75 % of them are not longer.
    pub p75: f64,
    /// 90 % of them are not longer.
    pub p90: f64,
    /// 95 % of them are not longer.
    pub p95: f64,
    /// 99 % of them are not longer.
    pub p99: f64,
    /// 99.9 % of them are not longer.
    pub p999: f64,
    /// The longest.
    pub max: f64,
    /// From this share (0 to 1) on, percentiles are lower bounds, because requests that had waited that long were still
    /// unfinished when the run ended. `None`: there were none.
    pub censored_above: Option<f64>,
}

const NS: f64 = 1e-9;

impl LatencySummary {
    /// The figures of `finished` times, and of `censored` ones, of which only a lower bound is known.
    pub fn new(finished: &Histogram, censored: &Histogram) -> LatencySummary {
        let mut all = finished.clone();
        all.merge(censored);
        let at = |share| all.quantile_ns(share).map_or(0.0, |ns| ns as f64 * NS);
        LatencySummary {
            count: all.count(),
            mean: all.mean_ns().unwrap_or(0.0) * NS,
            min: all.least_ns as f64 * NS,
            p50: at(0.5),
            p75: at(0.75),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            p999: at(0.999),
            max: all.most_ns as f64 * NS,
            censored_above: censored_above(&all, censored),
        }
    }

    /// Whether the percentile of this share is only a lower bound.
    pub fn is_censored(&self, share: f64) -> bool {
        self.censored_above.is_some_and(|from| share > from)
    }
}

/// The share of times that are certainly shorter than every unfinished one.
fn censored_above(all: &Histogram, censored: &Histogram) -> Option<f64> {
    let first = censored.buckets.first()?.0;
    let below: u64 = all
        .buckets
        .iter()
        .filter(|&&(bucket, _)| bucket < first)
        .map(|&(_, count)| count)
        .sum();
    Some(below as f64 / all.count() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_that_unfinished_requests_could_raise_are_marked() {
        let (mut finished, mut censored) = <(Histogram, Histogram)>::default();
        (0..90).for_each(|_| finished.record(1_000_000));
        assert_eq!(LatencySummary::new(&finished, &censored).censored_above, None);
        (0..10).for_each(|_| censored.record(2_000_000_000));
        let summary = LatencySummary::new(&finished, &censored);
        assert_eq!(summary.count, 100);
        assert!(!summary.is_censored(0.9) && summary.is_censored(0.95));
        assert!((summary.p50 - 0.001).abs() < 1e-5);
        assert!((summary.p95 - 2.0).abs() < 0.01);
    }
}
