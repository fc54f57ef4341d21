//! A result as one HTML file that needs nothing else: no network, no fonts, no foreign code.
//!
//! The tables are here, so that they can be read where scripts do not run; `report.js` draws the charts.

mod data;

use std::fmt::Write as _;

use super::{escaped, units, words};
use crate::result::{LatencySummary, Outcome, RunResult, StepKind};

/// The result as an HTML page that works offline, light or dark as its reader's system is.
pub fn html(result: &RunResult) -> String {
    let plan = &result.info.plan;
    let outcome = result.verdict.outcome;
    let title = format!("{} · {}", words::outcome(outcome), words::target(plan));
    let mut page = Page::default();
    page.raw("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    page.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    // Says to the browser what the report promises: nothing is loaded from anywhere.
    page.raw("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n");
    page.add(format_args!("<title>{}</title>\n<style>\n", escaped(&title)));
    page.raw(include_str!("report.css"));
    page.raw("</style>\n</head>\n<body>\n");
    page.heading(result);
    page.tiles(result);
    page.reasons_and_slos(result);
    page.charts(result);
    page.steps(result);
    page.errors(result);
    page.phases(result);
    page.workers(result);
    page.details(result);
    page.add(format_args!(
        "<footer>procession {}. Percentiles are taken from histograms that are right to 0.4 %. Response time counts from the \
         moment a request was due, service time from the moment it was sent.</footer>\n<div id=\"tip\"></div>\n",
        escaped(&result.info.version)
    ));
    page.add(format_args!(
        "<script type=\"application/json\" id=\"data\">{}</script>\n<script>\n{}</script>\n</body>\n</html>\n",
        data::Charts::new(result).script(),
        include_str!("report.js")
    ));
    page.text
}

#[derive(Default)]
struct Page {
    text: String,
}

/// A cell, and its class if it has one.
struct Cell(String, &'static str);

fn figure(text: impl Into<String>) -> Cell {
    Cell(text.into(), "")
}

fn words_in(text: impl Into<String>) -> Cell {
    Cell(text.into(), "text")
}

fn failures(count: u64) -> Cell {
    Cell(units::grouped(count), if count > 0 { "some" } else { "" })
}

impl Page {
    fn raw(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn add(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.text.write_fmt(text);
    }

    /// A card with a table; nothing if there are no rows.
    fn table(&mut self, title: &str, note: &str, head: &[&str], rows: &[Vec<Cell>]) {
        if rows.is_empty() {
            return;
        }
        self.add(format_args!(
            "<section class=\"card\"><h2>{} <small>{}</small></h2><div class=\"scroll\"><table><thead><tr>",
            escaped(title),
            escaped(note)
        ));
        for (name, cell) in head.iter().zip(&rows[0]) {
            let class = if cell.1 == "text" { " class=\"text\"" } else { "" };
            self.add(format_args!("<th{class}>{}</th>", escaped(name)));
        }
        self.raw("</tr></thead><tbody>\n");
        for row in rows {
            self.raw("<tr>");
            for Cell(text, class) in row {
                let class = if class.is_empty() {
                    String::new()
                } else {
                    format!(" class=\"{class}\"")
                };
                self.add(format_args!("<td{class}>{}</td>", escaped(text)));
            }
            self.raw("</tr>\n");
        }
        self.raw("</tbody></table></div></section>\n");
    }

    fn heading(&mut self, result: &RunResult) {
        let plan = &result.info.plan;
        let outcome = result.verdict.outcome;
        let class = match outcome {
            Outcome::Pass => "pass",
            Outcome::Fail => "fail",
            Outcome::Invalid => "invalid",
        };
        self.add(format_args!(
            "<header><div class=\"badge {class}\">{}</div><div><h1>{}</h1><p>{}; {}, {} UTC on {}</p></div></header>\n",
            words::outcome(outcome),
            escaped(&words::target(plan)),
            escaped(&words::pacing(plan)),
            words::state(result.state),
            words::moment(result.info.started_at),
            escaped(&result.info.environment.host)
        ));
    }

    fn tiles(&mut self, result: &RunResult) {
        let totals = &result.totals;
        let response = &result.latency.response;
        let asked = totals.target_per_second.map_or_else(
            || "requests".to_owned(),
            |rate| format!("requests, of {}", units::per_second(rate)),
        );
        let tiles = [
            (units::per_second(totals.requests_per_second), asked),
            (
                words::at_least(response.p50, response.is_censored(0.5)),
                "response time, p50".to_owned(),
            ),
            (
                words::at_least(response.p99, response.is_censored(0.99)),
                "response time, p99".to_owned(),
            ),
            (
                units::percent(totals.error_share),
                format!(
                    "{} of {}",
                    units::counted(totals.errors, "error"),
                    units::grouped(totals.requests)
                ),
            ),
            (
                format!("{:.1}", totals.mean_in_flight),
                "in flight, on average".to_owned(),
            ),
        ];
        self.raw("<div class=\"tiles\">");
        for (value, name) in tiles {
            self.add(format_args!(
                "<div class=\"tile\"><b>{}</b><span>{}</span></div>",
                escaped(&value),
                escaped(&name)
            ));
        }
        self.raw("</div>\n");
    }

    fn reasons_and_slos(&mut self, result: &RunResult) {
        if !result.verdict.reasons.is_empty() {
            self.add(format_args!(
                "<section class=\"card\"><h2>{}</h2>",
                escaped(&words::meaning(result))
            ));
            for reason in &result.verdict.reasons {
                self.add(format_args!(
                    "<div class=\"reason\"><p><b>{}</b>: {}, {}</p><p class=\"cure\">{}</p></div>",
                    escaped(&reason.what),
                    escaped(&reason.figure),
                    escaped(&reason.limit),
                    escaped(&reason.cure)
                ));
            }
            self.raw("</section>\n");
        }
        let rows: Vec<Vec<Cell>> = result
            .slos
            .iter()
            .map(|slo| {
                let (mark, class) = if slo.kept {
                    ("kept", "pass")
                } else {
                    ("broken", "fail")
                };
                vec![
                    words_in(&slo.slo),
                    Cell(slo.figure.clone(), ""),
                    Cell(mark.to_owned(), class),
                ]
            })
            .collect();
        self.table("SLOs", "what was promised", &["condition", "figure", ""], &rows);
    }

    fn charts(&mut self, result: &RunResult) {
        let open = result.latency.lag.is_some();
        let model = if open {
            "counted from the moment each request was due"
        } else {
            "a closed model: each user waits for its answer, so a slow server is asked less often"
        };
        self.add(format_args!(
            "<section class=\"card\"><div class=\"switch\"><button value=\"bands\" aria-pressed=\"true\">percentiles</button>\
             <button value=\"heat\" aria-pressed=\"false\">heatmap</button></div>\
             <h2>Response time <small>{model}</small></h2><div id=\"latency\"></div><div class=\"legend\">\
             <span><i style=\"opacity:.75\"></i>p50 to p90</span><span><i style=\"opacity:.4\"></i>to p99</span>\
             <span><i style=\"opacity:.15\"></i>to the longest</span></div></section>\n"
        ));
        let wanted = if open {
            "<span><i class=\"dashed\"></i>asked for</span>"
        } else {
            ""
        };
        self.add(format_args!(
            "<section class=\"card\"><h2>Rate <small>requests that ended</small></h2><div id=\"rate\"></div><div class=\"legend\">\
             <span><i></i>good</span><span><i style=\"background:var(--errors)\"></i>failed</span>{wanted}</div></section>\n"
        ));
        let users = match result.info.plan.target {
            crate::plan::Target::Custom { .. } => "users",
            _ => "connections",
        };
        self.add(format_args!(
            "<section class=\"card\"><h2>Load <small>at the end of each second</small></h2><div id=\"flight\"></div>\
             <div class=\"legend\"><span><i></i>requests in flight</span>\
             <span><i style=\"background:var(--users)\"></i>{users}</span></div></section>\n"
        ));
        let beside = if open {
            "<div class=\"legend\"><span><i></i>response time</span><span><i style=\"background:var(--users)\"></i>service time</span></div>"
        } else {
            ""
        };
        let unsure = if result.latency.response.censored_above.is_some() {
            "dashed: lower bounds, as requests were unfinished at the end"
        } else {
            "share of requests that took no longer"
        };
        self.add(format_args!(
            "<div class=\"two\"><section class=\"card\"><h2>Percentiles <small>{unsure}</small></h2>\
             <div id=\"percentiles\"></div>{beside}</section>\
             <section class=\"card\"><h2>Distribution <small>requests by response time</small></h2>\
             <div id=\"distribution\"></div></section></div>\n"
        ));
        let latency = &result.latency;
        let mut rows = vec![summary_row("response time", &latency.response)];
        if let Some(lag) = &latency.lag {
            rows.push(summary_row("service time", &latency.service));
            rows.push(summary_row("sent late", lag));
        }
        if let Some(delay) = &result.generator_delay {
            rows.push(summary_row("of that, by the generator", delay));
        }
        self.table(
            "Times",
            "≥ marks lower bounds",
            &[
                "", "p50", "p75", "p90", "p95", "p99", "p99.9", "max", "mean", "samples",
            ],
            &rows,
        );
    }

    fn steps(&mut self, result: &RunResult) {
        let rows: Vec<Vec<Cell>> = result
            .steps
            .iter()
            .map(|step| {
                let response = &step.latency.response;
                let at = |share, seconds| figure(words::at_least(seconds, response.is_censored(share)));
                let kind = match step.kind {
                    StepKind::Request => "request",
                    StepKind::Step => "step",
                    StepKind::Iteration => "iteration",
                };
                vec![
                    words_in(&step.name),
                    words_in(kind),
                    figure(units::grouped(step.count)),
                    failures(step.errors),
                    figure(units::per_second(step.per_second)),
                    at(0.5, response.p50),
                    at(0.9, response.p90),
                    at(0.99, response.p99),
                    at(1.0, response.max),
                    figure(if step.first_byte.count > 0 {
                        units::seconds(step.first_byte.p50)
                    } else {
                        "-".to_owned()
                    }),
                ]
            })
            .collect();
        self.table(
            "Steps",
            "response time",
            &[
                "name",
                "kind",
                "count",
                "errors",
                "rate",
                "p50",
                "p90",
                "p99",
                "max",
                "first byte p50",
            ],
            &rows,
        );
    }

    fn errors(&mut self, result: &RunResult) {
        let rows: Vec<Vec<Cell>> = result
            .errors
            .iter()
            .map(|error| {
                vec![
                    words_in(words::error(error.kind)),
                    failures(error.count),
                    words_in(&error.example),
                ]
            })
            .collect();
        self.table(
            "Errors",
            "with the first example of each kind",
            &["kind", "count", "first example"],
            &rows,
        );
        let rows: Vec<Vec<Cell>> = result
            .statuses
            .iter()
            .map(|status| {
                let count = if status.status >= 400 {
                    failures(status.count)
                } else {
                    figure(units::grouped(status.count))
                };
                vec![words_in(status.status.to_string()), count]
            })
            .collect();
        self.table("Responses", "by status", &["status", "count"], &rows);
    }

    fn phases(&mut self, result: &RunResult) {
        let phases = &result.phases;
        let rows: Vec<Vec<Cell>> = [
            ("DNS", &phases.dns),
            ("connect", &phases.connect),
            ("TLS", &phases.tls),
            ("first byte", &phases.first_byte),
            ("body", &phases.body),
        ]
        .into_iter()
        .filter(|(_, summary)| summary.count > 0)
        .map(|(name, summary)| summary_row(name, summary))
        .collect();
        self.table(
            "Phases",
            "DNS, connect and TLS once for each connection",
            &[
                "phase", "p50", "p75", "p90", "p95", "p99", "p99.9", "max", "mean", "samples",
            ],
            &rows,
        );
        if let Some(tcp) = &result.tcp {
            let rows = vec![vec![
                figure(units::grouped(tcp.samples)),
                failures(tcp.retransmits),
                failures(tcp.connect_retransmits),
                figure(units::seconds(tcp.round_trip.p50)),
                figure(units::seconds(tcp.round_trip.p99)),
            ]];
            let note = "as the kernel sees the connections that were looked at";
            self.table(
                "TCP",
                note,
                &[
                    "looks",
                    "retransmits",
                    "first packet sent again",
                    "round trip p50",
                    "p99",
                ],
                &rows,
            );
        }
        if let Some(udp) = &result.udp {
            let rows = vec![vec![
                figure(units::grouped(udp.sent)),
                figure(units::grouped(udp.received)),
                failures(udp.lost),
                failures(udp.reordered),
                failures(udp.duplicates),
                figure(units::seconds(udp.jitter_seconds)),
            ]];
            self.table(
                "Datagrams",
                "",
                &["sent", "received", "lost", "out of order", "twice", "jitter"],
                &rows,
            );
        }
    }

    fn workers(&mut self, result: &RunResult) {
        let rows: Vec<Vec<Cell>> = result
            .workers
            .iter()
            .map(|worker| {
                vec![
                    words_in(worker.number.to_string()),
                    figure(worker.pid.to_string()),
                    figure(units::grouped(worker.requests)),
                    failures(worker.errors),
                    figure(units::percent(worker.cpu_share)),
                    figure(units::percent(worker.cpu_wait_share)),
                    failures(u64::from(worker.restarts)),
                    failures(worker.lost_in_flight),
                    words_in(worker.last_death.as_deref().unwrap_or("")),
                ]
            })
            .collect();
        self.table(
            "Workers",
            "processes that made the load",
            &[
                "worker",
                "pid",
                "requests",
                "errors",
                "CPU",
                "waited for CPU",
                "replaced",
                "lost",
                "last death",
            ],
            &rows,
        );
        let rows: Vec<Vec<Cell>> = result
            .verdict
            .checks
            .iter()
            .map(|check| {
                let (mark, class) = if check.sound {
                    ("sound", "pass")
                } else {
                    ("not sound", "invalid")
                };
                vec![
                    words_in(&check.what),
                    figure(&check.figure),
                    figure(&check.limit),
                    Cell(mark.to_owned(), class),
                ]
            })
            .collect();
        self.table(
            "Can the figures be trusted?",
            "what would make the run INVALID",
            &["looked for", "found", "limit", ""],
            &rows,
        );
    }

    fn details(&mut self, result: &RunResult) {
        let environment = &result.info.environment;
        let ports = environment
            .port_range
            .map_or_else(|| "-".to_owned(), |(first, last)| format!("{first} to {last}"));
        let rows = [
            ("processor", environment.cpu.clone()),
            ("cores", environment.cores.to_string()),
            ("kernel", environment.kernel.clone()),
            ("descriptors", units::grouped(environment.most_descriptors)),
            ("local ports", ports),
        ]
        .map(|(name, value)| vec![words_in(name), words_in(value)]);
        self.table(
            "The machine that made the load",
            &environment.host,
            &["", ""],
            &rows,
        );
        let plan = serde_json::to_string_pretty(&result.info.plan).unwrap_or_default();
        self.add(format_args!(
            "<section class=\"card\"><details><summary>What was asked for</summary><pre>{}</pre></details></section>\n",
            escaped(&plan)
        ));
    }
}

fn summary_row(name: &str, summary: &LatencySummary) -> Vec<Cell> {
    let at = |share, seconds| figure(words::at_least(seconds, summary.is_censored(share)));
    vec![
        words_in(name),
        at(0.5, summary.p50),
        at(0.75, summary.p75),
        at(0.9, summary.p90),
        at(0.95, summary.p95),
        at(0.99, summary.p99),
        at(0.999, summary.p999),
        at(1.0, summary.max),
        figure(units::seconds(summary.mean)),
        figure(units::grouped(summary.count)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn the_page_loads_nothing_from_anywhere() {
        let page = html(&sample::bad());
        for sign in ["src=", "@import", "url(", "<link", "fetch(", "XMLHttpRequest"] {
            assert!(!page.contains(sign), "{sign}");
        }
        let addresses = page.matches("http://").count() - page.matches("http://127.0.0.1:8080").count();
        // The name of a namespace, which nobody asks for.
        assert_eq!(addresses, page.matches("http://www.w3.org/2000/svg").count());
    }

    #[test]
    fn texts_from_outside_cannot_break_out_of_their_place() {
        let mut result = sample::good();
        let evil = "</script><script>alert(1)</script>\"'&";
        result.errors[0].example = evil.to_owned();
        result.steps[0].name = evil.to_owned();
        result.info.environment.host = evil.to_owned();
        result.slos[0].slo = evil.to_owned();
        let page = html(&result);
        assert!(!page.contains("<script>alert"));
        assert_eq!(page.matches("</script>").count(), 2);
    }

    #[test]
    fn the_page_says_what_the_text_says() {
        let page = html(&sample::bad());
        for part in [
            "INVALID",
            "was killed by SIGKILL",
            "the rate was not reached",
            "use more processes than 2",
            "≥2.",
        ] {
            assert!(page.contains(part), "{part}");
        }
    }
}
