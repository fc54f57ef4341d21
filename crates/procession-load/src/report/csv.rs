//! A result's course over time as a table for spreadsheets.

use std::fmt::Write as _;

use crate::result::RunResult;

const HEAD: &str = "start_seconds,span_seconds,requests,errors,requests_per_second,target_per_second,in_flight,users,\
                    bytes_received,p50_seconds,p90_seconds,p95_seconds,p99_seconds,p999_seconds,max_seconds\n";

/// The result as CSV: a row for each second (of long runs: for each stretch of seconds), the warm-up included. Cells are
/// empty where there is no figure. Times are response times.
pub fn csv(result: &RunResult) -> String {
    let mut text = HEAD.to_owned();
    for second in &result.seconds {
        let target = second
            .target_per_second
            .map_or_else(String::new, |rate| rate.to_string());
        let _ = write!(
            text,
            "{},{},{},{},{},{target},{},{},{}",
            second.start,
            second.span,
            second.requests,
            second.errors,
            second.requests as f64 / f64::from(second.span.max(1)),
            second.in_flight,
            second.users,
            second.bytes_received
        );
        for share in [0.5, 0.9, 0.95, 0.99, 0.999, 1.0] {
            let _ = match second.quantile(share) {
                Some(seconds) => write!(text, ",{seconds:.6}"),
                None => write!(text, ","),
            };
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn every_row_has_the_columns_of_the_head_also_where_nothing_ended() {
        let mut result = sample::good();
        result.seconds[3] = crate::result::Second {
            start: 3,
            span: 1,
            ..Default::default()
        };
        let text = csv(&result);
        let columns = HEAD.matches(',').count();
        assert_eq!(text.lines().count(), 11);
        assert!(
            text.lines().all(|line| line.matches(',').count() == columns),
            "{text}"
        );
        sample::golden("seconds.csv", &csv(&sample::good()));
    }
}
