//! A result as metrics in Prometheus' text format, for a push gateway or the textfile collector.

use std::fmt::Write as _;

use super::words;
use crate::result::{LatencySummary, Outcome, RunResult};

/// The result as Prometheus text. Times are in seconds; all names begin with `procession_load_`.
pub fn prometheus(result: &RunResult) -> String {
    let mut page = Page::default();
    let totals = &result.totals;
    page.metric("requests_total", "counter", "Requests that came to an end.");
    page.sample("requests_total", &[], totals.requests as f64);
    page.metric("errors_total", "counter", "Requests that failed, by kind.");
    for error in &result.errors {
        page.sample("errors_total", &[("kind", error.kind.name())], error.count as f64);
    }
    page.metric("responses_total", "counter", "Responses, by status.");
    for status in &result.statuses {
        page.sample(
            "responses_total",
            &[("status", &status.status.to_string())],
            status.count as f64,
        );
    }
    page.metric(
        "unfinished_requests",
        "gauge",
        "Requests that were begun and still unfinished at the end.",
    );
    page.sample("unfinished_requests", &[], totals.unfinished as f64);
    page.metric(
        "unsent_requests",
        "gauge",
        "Requests that were due and could not be begun before the end.",
    );
    page.sample("unsent_requests", &[], totals.unsent as f64);
    page.metric(
        "requests_per_second",
        "gauge",
        "Requests that ended, per second of the measured time.",
    );
    page.sample("requests_per_second", &[], totals.requests_per_second);
    if let Some(target) = totals.target_per_second {
        page.metric(
            "target_requests_per_second",
            "gauge",
            "Requests per second that were asked for.",
        );
        page.sample("target_requests_per_second", &[], target);
    }
    page.metric(
        "sent_bytes_total",
        "counter",
        "Bytes sent, headers and TLS included.",
    );
    page.sample("sent_bytes_total", &[], totals.bytes_sent as f64);
    page.metric(
        "received_bytes_total",
        "counter",
        "Bytes received, headers and TLS included.",
    );
    page.sample("received_bytes_total", &[], totals.bytes_received as f64);
    page.metric(
        "in_flight_requests",
        "gauge",
        "Requests in flight, on average over time.",
    );
    page.sample("in_flight_requests", &[], totals.mean_in_flight);

    let latency = &result.latency;
    page.metric(
        "response_seconds",
        "summary",
        "From the moment a request was due to its last byte.",
    );
    page.summary("response_seconds", &[], &latency.response);
    page.metric(
        "service_seconds",
        "summary",
        "From the moment a request was sent to its last byte.",
    );
    page.summary("service_seconds", &[], &latency.service);
    if let Some(lag) = &latency.lag {
        page.metric(
            "lag_seconds",
            "summary",
            "From the moment a request was due to the moment it was sent.",
        );
        page.summary("lag_seconds", &[], lag);
    }
    page.metric(
        "phase_seconds",
        "summary",
        "What the time of requests was spent on.",
    );
    let phases = &result.phases;
    for (name, summary) in [
        ("dns", &phases.dns),
        ("connect", &phases.connect),
        ("tls", &phases.tls),
        ("first_byte", &phases.first_byte),
        ("body", &phases.body),
    ] {
        if summary.count > 0 {
            page.summary("phase_seconds", &[("phase", name)], summary);
        }
    }
    page.metric(
        "step_seconds",
        "summary",
        "Response time by kind of request or step.",
    );
    for step in &result.steps {
        page.summary("step_seconds", &[("step", &step.name)], &step.latency.response);
    }
    page.metric(
        "step_errors_total",
        "counter",
        "Failures by kind of request or step.",
    );
    for step in &result.steps {
        page.sample("step_errors_total", &[("step", &step.name)], step.errors as f64);
    }
    page.metric(
        "slo_kept",
        "gauge",
        "1 for an SLO that was kept, 0 for one that was broken.",
    );
    for slo in &result.slos {
        page.sample("slo_kept", &[("slo", &slo.slo)], f64::from(u8::from(slo.kept)));
    }
    page.metric(
        "verdict",
        "gauge",
        "1 for the verdict of the run, 0 for the others.",
    );
    for outcome in [Outcome::Pass, Outcome::Fail, Outcome::Invalid] {
        let is_it = result.verdict.outcome == outcome;
        page.sample(
            "verdict",
            &[("verdict", words::outcome(outcome))],
            f64::from(u8::from(is_it)),
        );
    }
    page.metric(
        "start_timestamp_seconds",
        "gauge",
        "When requests began, in seconds since 1970.",
    );
    page.sample("start_timestamp_seconds", &[], result.info.started_at);
    page.text
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn metric(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(
            self.text,
            "# HELP procession_load_{name} {help}\n# TYPE procession_load_{name} {kind}"
        );
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{}\"", label(value)))
            .collect();
        let labels = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{}}}", labels.join(","))
        };
        let _ = writeln!(self.text, "procession_load_{name}{labels} {value}");
    }

    fn summary(&mut self, name: &str, labels: &[(&str, &str)], summary: &LatencySummary) {
        for (share, seconds) in [
            ("0.5", summary.p50),
            ("0.75", summary.p75),
            ("0.9", summary.p90),
            ("0.95", summary.p95),
            ("0.99", summary.p99),
            ("0.999", summary.p999),
            ("1", summary.max),
        ] {
            self.sample(name, &[labels, &[("quantile", share)]].concat(), seconds);
        }
        self.sample(
            &format!("{name}_sum"),
            labels,
            summary.mean * summary.count as f64,
        );
        self.sample(&format!("{name}_count"), labels, summary.count as f64);
    }
}

fn label(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn the_page_is_that_of_the_golden_file() {
        sample::golden("metrics.prom", &prometheus(&sample::good()));
    }

    #[test]
    fn every_sample_belongs_to_a_metric_that_was_introduced() {
        let page = prometheus(&sample::bad());
        let mut known = Vec::new();
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                known.push(rest.split(' ').next().unwrap().to_owned());
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                let base = name.trim_end_matches("_sum").trim_end_matches("_count");
                assert!(known.iter().any(|metric| metric == base), "{line}");
                assert!(line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(), "{line}");
            }
        }
    }

    #[test]
    fn labels_cannot_break_a_line() {
        let mut result = sample::good();
        result.steps[0].name = "a \"quoted\"\nname \\".to_owned();
        assert!(prometheus(&result).contains(r#"step="a \"quoted\"\nname \\""#));
    }
}
