//! What `bench` measured, as data; table, plot, chart, JSON and advice are views of it.

use serde::Serialize;

/// Raised when a field changes its meaning or goes.
const SCHEMA_VERSION: u32 = 1;

/// Everything a bench came to. `schema/bench.schema.json` says the same for its JSON.
#[derive(Debug, Clone, Serialize)]
pub struct Bench {
    /// Version of this layout.
    pub schema_version: u32,
    /// The function, as named on the command line.
    pub function: String,
    /// How many inputs each measurement runs.
    pub items: u64,
    /// Cores that this process may use.
    pub cores: usize,
    /// Version of Python.
    pub python: String,
    /// How processes were started, if it was asked for; else Python's default.
    pub start_method: Option<&'static str>,
    /// One for each number of processes, the plain loop first.
    pub rows: Vec<Row>,
    /// What follows from it, in a sentence.
    pub advice: Option<String>,
}

/// The measurements of one number of processes.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Size of the pool; none for the plain loop without a pool.
    pub processes: Option<usize>,
    /// Wall time of each round.
    pub seconds: Vec<f64>,
    /// Share of the wall time that the measuring thread computed or waited for a core, median of the rounds: near 1 for
    /// a plain loop that computes, also on a busy machine.
    pub busy_share: f64,
    /// Median of `seconds`.
    pub median_seconds: f64,
    /// Half the way from the fastest to the slowest round, relative to the median.
    pub spread: f64,
    /// Items divided by `median_seconds`.
    pub items_per_second: f64,
    /// How much faster than the plain loop.
    pub speed_up: f64,
    /// `speed_up` divided by `processes`; none for the plain loop.
    pub efficiency: Option<f64>,
}

/// The rounds of one number of processes, while they are taken.
#[derive(Debug, Clone, Default)]
pub struct Rounds {
    /// Wall times.
    pub seconds: Vec<f64>,
    /// How much of each the measuring thread computed or waited for a core.
    pub busy_seconds: Vec<f64>,
}

impl Bench {
    /// Works out the figures. Numbers of processes that were not measured are left out; the first must be the plain
    /// loop.
    pub fn new(
        function: String,
        items: u64,
        cores: usize,
        python: String,
        start_method: Option<&'static str>,
        measured: &[(Option<usize>, Rounds)],
    ) -> Self {
        let mut rows: Vec<Row> = Vec::new();
        for (processes, rounds) in measured.iter().filter(|(_, rounds)| !rounds.seconds.is_empty()) {
            let median_seconds = median(&rounds.seconds);
            let slowest = rounds.seconds.iter().copied().fold(f64::MIN, f64::max);
            let fastest = rounds.seconds.iter().copied().fold(f64::MAX, f64::min);
            let base = rows.first().map_or(median_seconds, |row| row.median_seconds);
            let speed_up = base / median_seconds;
            let shares: Vec<f64> = rounds
                .busy_seconds
                .iter()
                .zip(&rounds.seconds)
                .map(|(busy, wall)| busy / wall)
                .collect();
            rows.push(Row {
                processes: *processes,
                seconds: rounds.seconds.clone(),
                busy_share: median(&shares),
                median_seconds,
                spread: (slowest - fastest) / 2.0 / median_seconds,
                items_per_second: items as f64 / median_seconds,
                speed_up,
                efficiency: processes.map(|processes| speed_up / processes as f64),
            });
        }
        let mut bench = Self {
            schema_version: SCHEMA_VERSION,
            function,
            items,
            cores,
            python,
            start_method,
            rows,
            advice: None,
        };
        bench.advice = crate::advice::Advice::on(&bench).map(|advice| advice.to_string());
        bench
    }

    /// The plain loop, if it was measured.
    pub fn plain_loop(&self) -> Option<&Row> {
        self.rows.iter().find(|row| row.processes.is_none())
    }

    /// The pools, in the order measured.
    pub fn pools(&self) -> impl Iterator<Item = (usize, &Row)> {
        self.rows
            .iter()
            .filter_map(|row| row.processes.map(|processes| (processes, row)))
    }
}

impl Row {
    /// What the row is called in tables and charts.
    pub fn name(&self) -> String {
        self.processes
            .map_or_else(|| "plain loop".to_owned(), |processes| processes.to_string())
    }
}

/// The middle value, or the mean of the two in the middle.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        length if length % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The numbers of processes to measure on this many cores: each up to 8, then doublings, and all cores.
pub fn default_processes(cores: usize) -> Vec<usize> {
    let mut counts: Vec<usize> = (1..=cores.min(8)).collect();
    let mut next = 16;
    while next < cores {
        counts.push(next);
        next *= 2;
    }
    if cores > 8 {
        counts.push(cores);
    }
    counts
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A bench with one round of these wall times: the plain loop, then the pools.
    pub fn bench(
        items: u64,
        cores: usize,
        busy_share: f64,
        plain_loop: f64,
        pools: &[(usize, f64)],
    ) -> Bench {
        let rounds = |seconds: f64| Rounds {
            seconds: vec![seconds],
            busy_seconds: vec![seconds * busy_share],
        };
        let mut measured = vec![(None, rounds(plain_loop))];
        measured.extend(
            pools
                .iter()
                .map(|&(processes, seconds)| (Some(processes), rounds(seconds))),
        );
        Bench::new(
            "count.py:words".into(),
            items,
            cores,
            "3.13.0".into(),
            None,
            &measured,
        )
    }

    #[test]
    fn speed_up_is_over_the_plain_loop_and_efficiency_per_process() {
        let bench = bench(100, 4, 1.0, 8.0, &[(1, 8.0), (4, 2.5)]);
        let (_, four) = bench.pools().nth(1).unwrap();
        assert_eq!(
            (four.speed_up, four.efficiency, four.items_per_second),
            (3.2, Some(0.8), 40.0)
        );
    }

    #[test]
    fn the_median_of_an_even_number_is_the_mean_of_the_middle_two() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 100.0]), 3.5);
        assert_eq!(median(&[4.0, 1.0, 3.0]), 3.0);
    }

    #[test]
    fn counts_double_from_eight_on_and_end_with_all_cores() {
        assert_eq!(default_processes(1), [1]);
        assert_eq!(default_processes(4), [1, 2, 3, 4]);
        assert_eq!(default_processes(8), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(default_processes(12), [1, 2, 3, 4, 5, 6, 7, 8, 12]);
        assert_eq!(default_processes(64), [1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64]);
    }
}
