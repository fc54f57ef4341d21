//! How each condition stands in the result of a run.

use super::{Comparison, Figure, Slo, Statistic, SERVICE_PERCENTILES};
use crate::report::{units, words};
use crate::result::{Latency, LatencySummary, RunResult, RunState, SloResult};

/// How each condition stands in this result.
pub(crate) fn evaluate(slos: &[Slo], result: &RunResult) -> Vec<SloResult> {
    let evaluated = |slo: &Slo| {
        let (value, figure, certain) = measured(slo, result);
        SloResult {
            slo: slo.to_string(),
            kept: certain && slo.holds_for(value),
            figure,
        }
    };
    let mut results: Vec<SloResult> = slos.iter().map(evaluated).collect();
    // Nobody wants a run to pass in which nothing succeeded. Who does, has a condition about errors that says so.
    let about_errors = |slo: &Slo| matches!(slo.figure, Figure::ErrorShare | Figure::ErrorCount);
    let totals = &result.totals;
    let something_began = totals.requests > 0 || totals.iterations > 0 || totals.unfinished > 0;
    if something_began && result.state >= RunState::Finished && !slos.iter().any(about_errors) {
        let unspoken = evaluated(&Slo {
            figure: Figure::ErrorShare,
            comparison: Comparison::Below,
            limit: 1.0,
            step: None,
        });
        results.extend((!unspoken.kept).then_some(unspoken));
    }
    results
}

/// Failed iterations and all, of a scenario as a whole.
fn iterations(slo: &Slo, result: &RunResult) -> (u64, u64) {
    match slo.step {
        None => (result.totals.failed_iterations, result.totals.iterations),
        Some(_) => (0, 0),
    }
}

/// The figure that a condition is about, in the unit of its limit and as a text, and whether it is more than a lower bound.
fn measured(slo: &Slo, result: &RunResult) -> (f64, String, bool) {
    let totals = &result.totals;
    let (requests, errors, successes_per_second, latency) = match &slo.step {
        None => (
            totals.requests,
            totals.errors,
            totals.successes_per_second,
            &result.latency,
        ),
        Some(name) => match result.steps.iter().find(|step| step.name == *name) {
            Some(step) => (step.count, step.errors, step.successes_per_second, &step.latency),
            None => return (f64::NAN, "no such step".to_owned(), false),
        },
    };
    match slo.figure {
        Figure::ResponseTime(statistic) => time(statistic, &latency.response, Some(latency)),
        Figure::ServiceTime(statistic) => time(statistic, &latency.service, None),
        Figure::ErrorShare => {
            let (failed, all) = iterations(slo, result);
            if requests == 0 && all == 0 {
                let nothing = if totals.unfinished > 0 {
                    "none ended"
                } else {
                    "no requests"
                };
                return (f64::NAN, nothing.to_owned(), false);
            }
            let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
            let share = share(errors, requests).max(share(failed, all));
            (share, units::percent(share), true)
        }
        Figure::ErrorCount => {
            let errors = errors.max(iterations(slo, result).0);
            (errors as f64, units::grouped(errors), true)
        }
        Figure::Rate => {
            let rate = successes_per_second;
            (rate, units::per_second(rate), true)
        }
    }
}

fn time(statistic: Statistic, summary: &LatencySummary, whole: Option<&Latency>) -> (f64, String, bool) {
    if summary.count == 0 {
        return (f64::NAN, "no requests".to_owned(), false);
    }
    let (share, seconds) = match statistic {
        Statistic::Mean => (1.0, summary.mean),
        Statistic::Max => (1.0, summary.max),
        Statistic::Percentile(percentile) => {
            let share = percentile / 100.0;
            let seconds = match whole {
                Some(latency) => latency.quantile(share).seconds,
                None => {
                    let kept = [
                        summary.p50,
                        summary.p75,
                        summary.p90,
                        summary.p95,
                        summary.p99,
                        summary.p999,
                    ];
                    let at = SERVICE_PERCENTILES.iter().position(|&known| known == percentile);
                    at.map_or(f64::NAN, |at| kept[at])
                }
            };
            (share, seconds)
        }
    };
    // The mean grows with every request that is still unfinished, the longest time too.
    let censored = summary.is_censored(share);
    (seconds, words::at_least(seconds, censored), !censored)
}

#[cfg(test)]
mod tests {
    use super::super::tests::read;
    use super::*;

    #[test]
    fn conditions_are_measured_by_what_they_name() {
        let result = crate::report::sample::bad();
        let cases = [
            ("p50<3ms", true, "2.11 ms"),
            ("p50<2ms", false, "2.11 ms"),
            // What was unfinished at the end could be anything above.
            ("p99<5s", false, "≥2.19 s"),
            ("mean<5s", false, "≥70.0 ms"),
            ("service p99<30ms", true, "25.5 ms"),
            ("errors<12%", false, "12.1 %"),
            ("errors<=1210", true, "1,210"),
            // Failures are no throughput.
            ("rate>=879/s", true, "879/s"),
            ("rate>900/s", false, "879/s"),
            ("errors=3 for GET /a/path/that/is/rather/long/3", true, "3"),
            ("rate>49/s for GET /a/path/that/is/rather/long/3", true, "49.7/s"),
            ("p99<1s for GET /elsewhere", false, "no such step"),
        ];
        for (text, kept, figure) in cases {
            let found = &evaluate(&[read(text)], &result)[0];
            assert_eq!((found.kept, found.figure.as_str()), (kept, figure), "{text}");
        }
    }

    #[test]
    fn a_run_in_which_nothing_succeeds_fails_unless_its_conditions_say_otherwise() {
        let mut result = crate::report::sample::good();
        result.state = RunState::Finished;
        assert_eq!(evaluate(&[], &result), []);
        result.totals.errors = result.totals.requests;
        let found = evaluate(&[read("rate>0/s")], &result);
        assert_eq!((found[1].slo.as_str(), found[1].kept), ("errors<100%", false));
        assert_eq!(evaluate(&[read("errors<=100%")], &result).len(), 1);
        // Nothing has succeeded either where nothing has ended.
        (
            result.totals.requests,
            result.totals.errors,
            result.totals.unfinished,
        ) = (0, 0, 3);
        let found = &evaluate(&[], &result)[0];
        assert_eq!((found.figure.as_str(), found.kept), ("none ended", false));
        // How it ends is known at the end.
        result.state = RunState::Running;
        assert_eq!(evaluate(&[], &result), []);
    }

    #[test]
    fn a_scenario_without_requests_has_errors_too() {
        let mut result = crate::report::sample::good();
        result.totals = crate::result::Totals {
            iterations: 200,
            failed_iterations: 3,
            ..Default::default()
        };
        let found = evaluate(&[read("errors<1%"), read("errors<=3")], &result);
        assert_eq!((found[0].kept, found[0].figure.as_str()), (false, "1.50 %"));
        assert!(found[1].kept);
    }
}
