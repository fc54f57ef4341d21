//! The figures that the charts of the HTML report are drawn from: as few as a screen can show.

use serde::Serialize;

use crate::histogram::{lower_ns, Histogram};
use crate::plan::Target;
use crate::result::RunResult;

/// Bins of a heatmap's column and of the bar chart.
const BINS: usize = 48;
/// More columns than this are narrower than a few pixels each.
const MOST_COLUMNS: usize = 240;

#[derive(Serialize)]
pub struct Charts {
    seconds: Vec<Stretch>,
    warmup: f64,
    user_noun: &'static str,
    heat: Heat,
    curve: Vec<(f64, f64)>,
    service: Vec<(f64, f64)>,
    censored_above: f64,
    bars: Bars,
}

#[derive(Serialize)]
struct Stretch {
    t: u32,
    span: u32,
    rate: f64,
    errors: u64,
    target: Option<f64>,
    in_flight: u64,
    users: u64,
    /// p50, p90, p99, the longest, the shortest.
    p: Option<[f64; 5]>,
}

#[derive(Serialize)]
struct Heat {
    edges: Vec<f64>,
    columns: Vec<Column>,
}

#[derive(Serialize)]
struct Column {
    t: u32,
    span: u32,
    /// Bins that are not empty, and how much is in them.
    cells: Vec<(usize, u64)>,
}

#[derive(Serialize)]
struct Bars {
    edges: Vec<f64>,
    counts: Vec<u64>,
}

/// Edges in seconds, at equal ratios, that hold all of the histogram.
fn edges(histogram: &Histogram) -> Vec<f64> {
    if histogram.is_empty() {
        return Vec::new();
    }
    // Times of a bucket are counted at its beginning, so the first edge must not lie behind that.
    let first = histogram
        .buckets
        .first()
        .map_or(1, |&(bucket, _)| lower_ns(bucket as usize))
        .max(1) as f64
        * 1e-9;
    let last = (histogram.most_ns as f64 * 1e-9).max(first * 1.2);
    (0..=BINS)
        .map(|bin| first * (last / first).powf(bin as f64 / BINS as f64))
        .collect()
}

fn binned(histogram: &Histogram, edges: &[f64]) -> Vec<u64> {
    let mut counts = vec![0; edges.len().saturating_sub(1)];
    for &(bucket, count) in &histogram.buckets {
        let seconds = lower_ns(bucket as usize) as f64 * 1e-9;
        let bin = edges
            .partition_point(|&edge| edge <= seconds)
            .clamp(1, counts.len().max(1))
            - 1;
        if let Some(cell) = counts.get_mut(bin) {
            *cell += count;
        }
    }
    counts
}

impl Charts {
    pub fn new(result: &RunResult) -> Self {
        let mut over_time = Histogram::default();
        result
            .seconds
            .iter()
            .for_each(|second| over_time.merge(&second.response));
        let heat_edges = edges(&over_time);
        let merged = result.seconds.len().div_ceil(MOST_COLUMNS).max(1);
        let columns = result
            .seconds
            .chunks(merged)
            .filter_map(|chunk| {
                let mut together = Histogram::default();
                chunk.iter().for_each(|second| together.merge(&second.response));
                let cells = binned(&together, &heat_edges).into_iter().enumerate();
                Some(Column {
                    t: chunk.first()?.start,
                    span: chunk.iter().map(|second| second.span).sum(),
                    cells: cells.filter(|&(_, count)| count > 0).collect(),
                })
            })
            .collect();

        let mut all = result.latency.response_histogram.clone();
        all.merge(&result.latency.censored_histogram);
        let bar_edges = edges(&all);
        Self {
            seconds: result
                .seconds
                .iter()
                .map(|second| Stretch {
                    t: second.start,
                    span: second.span.max(1),
                    rate: second.requests as f64 / f64::from(second.span.max(1)),
                    errors: second.errors,
                    target: second.target_per_second,
                    in_flight: second.in_flight,
                    users: second.users,
                    p: second.quantile(0.5).map(|p50| {
                        let at = |share| second.quantile(share).unwrap_or(p50);
                        [p50, at(0.9), at(0.99), at(1.0), at(0.0)]
                    }),
                })
                .collect(),
            warmup: result.info.plan.warmup.as_secs_f64(),
            user_noun: match result.info.plan.target {
                Target::Custom { .. } => "users",
                Target::Http(_) | Target::Tcp(_) | Target::Udp(_) => "connections",
            },
            heat: Heat {
                edges: heat_edges,
                columns,
            },
            curve: curve(&all),
            service: service(result),
            censored_above: result.latency.response.censored_above.unwrap_or(1.0),
            bars: Bars {
                counts: binned(&all, &bar_edges),
                edges: bar_edges,
            },
        }
    }

    /// As JSON that can stand in a script element: no text in it can end that.
    pub fn script(&self) -> String {
        serde_json::to_string(self)
            .unwrap_or_default()
            .replace('<', "\\u003c")
    }
}

/// Times over their shares, closer together towards the end, as far as there are samples to tell.
fn curve(all: &Histogram) -> Vec<(f64, f64)> {
    let count = all.count();
    if count == 0 {
        return Vec::new();
    }
    let most_nines = (count as f64).log10().max(1.0);
    (0..=120)
        .map(|n| 1.0 - 10_f64.powf(-most_nines * f64::from(n) / 120.0))
        .filter_map(|share| Some((share, all.quantile_ns(share)? as f64 * 1e-9)))
        .collect()
}

/// The service times beside them, where they differ from response times.
fn service(result: &RunResult) -> Vec<(f64, f64)> {
    let service = &result.latency.service;
    if result.latency.lag.is_none() || service.count == 0 {
        return Vec::new();
    }
    [
        (0.0, service.min),
        (0.5, service.p50),
        (0.75, service.p75),
        (0.9, service.p90),
        (0.95, service.p95),
        (0.99, service.p99),
        (0.999, service.p999),
    ]
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;
    use crate::result::Second;

    #[test]
    fn every_sample_lands_in_a_bin() {
        let result = sample::bad();
        let charts = Charts::new(&result);
        let in_bars: u64 = charts.bars.counts.iter().sum();
        assert_eq!(
            in_bars,
            result.latency.response_histogram.count() + result.latency.censored_histogram.count()
        );
        let in_cells: u64 = charts
            .heat
            .columns
            .iter()
            .flat_map(|column| &column.cells)
            .map(|cell| cell.1)
            .sum();
        assert_eq!(
            in_cells,
            result
                .seconds
                .iter()
                .map(|second| second.response.count())
                .sum::<u64>()
        );
        assert!(charts
            .curve
            .windows(2)
            .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
    }

    #[test]
    fn a_run_of_any_length_is_drawn_with_as_many_columns_as_fit() {
        let mut result = sample::good();
        let second = result.seconds[0].clone();
        result.seconds = (0..5000)
            .map(|start| Second {
                start,
                ..second.clone()
            })
            .collect();
        let charts = Charts::new(&result);
        assert!(charts.heat.columns.len() <= MOST_COLUMNS);
        assert_eq!(
            charts.heat.columns.iter().map(|column| column.span).sum::<u32>(),
            5000
        );
    }
}
