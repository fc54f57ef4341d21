//! A result as text for a terminal.

use std::fmt::Write as _;

use super::{units, words};
use crate::result::{LatencySummary, Outcome, RunResult, RunState, StepKind};

/// The terminal that the text is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextStyle {
    /// Columns: no line is longer.
    pub width: usize,
    /// Rows, the prompt's included: what has no room is left out, the least telling first.
    pub height: usize,
    /// Whether the text may have colours (ANSI escapes).
    pub colours: bool,
}

impl Default for TextStyle {
    fn default() -> Self {
        Self {
            width: 80,
            height: 24,
            colours: false,
        }
    }
}

#[derive(Clone, Copy)]
enum Colour {
    Plain,
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
}

impl Colour {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Bold => "\x1b[1m",
            Self::Dim => "\x1b[2m",
            Self::Red => "\x1b[31;1m",
            Self::Green => "\x1b[32;1m",
            Self::Yellow => "\x1b[33;1m",
        }
    }
}

/// A line in pieces, each with its colour.
#[derive(Default)]
struct Line(Vec<(Colour, String)>);

impl Line {
    fn plain(text: impl Into<String>) -> Self {
        Self(vec![(Colour::Plain, text.into())])
    }

    fn then(mut self, colour: Colour, text: impl Into<String>) -> Self {
        self.0.push((colour, text.into()));
        self
    }

    fn write(&self, out: &mut String, style: &TextStyle) {
        let length: usize = self.0.iter().map(|(_, text)| text.chars().count()).sum();
        let cut = length > style.width;
        let mut room = if cut {
            style.width.saturating_sub(1)
        } else {
            style.width
        };
        for (colour, text) in &self.0 {
            let piece: String = text.chars().take(room).collect();
            room -= piece.chars().count();
            let code = if style.colours { colour.code() } else { "" };
            if code.is_empty() || piece.is_empty() {
                out.push_str(&piece);
            } else {
                let _ = write!(out, "{code}{piece}\x1b[0m");
            }
        }
        if cut && style.width > 0 {
            out.push('…');
        }
        out.push('\n');
    }
}

/// Lines that belong together. The first `least` of them are worth more than any line of a later section beyond its own
/// least.
struct Section {
    lines: Vec<Line>,
    least: usize,
    /// What stands in place of `n` lines that had no room, if they are worth a line.
    rest: Option<fn(usize) -> String>,
}

/// The result as text that fits the terminal: the verdict first, then the figures.
///
/// ```
/// # fn show(result: &procession_load::result::RunResult) -> String {
/// use procession_load::report::{text, TextStyle};
///
/// text(result, &TextStyle { width: 80, height: 24, colours: false })
/// # }
/// ```
pub fn text(result: &RunResult, style: &TextStyle) -> String {
    let sections = vec![
        heading(result),
        reasons(result, style.width),
        slos(result),
        counts(result),
        times(result),
        errors(result),
        phases(result),
        steps(result),
        trouble(result),
    ];
    // One row is the prompt's.
    fit(sections, style.height.saturating_sub(1))
        .iter()
        .fold(String::new(), |mut text, line| {
            line.write(&mut text, style);
            text
        })
}

/// As many lines as there are rows: each section gets its least, then the rest goes to them in their order.
fn fit(sections: Vec<Section>, rows: usize) -> Vec<Line> {
    let sections: Vec<Section> = sections
        .into_iter()
        .filter(|section| !section.lines.is_empty())
        .collect();
    let mut shares: Vec<usize> = sections
        .iter()
        .map(|section| section.least.min(section.lines.len()))
        .collect();
    let mut left = rows.saturating_sub(shares.iter().sum());
    for (share, section) in shares.iter_mut().zip(&sections) {
        let more = left.min(section.lines.len() - *share);
        *share += more;
        left -= more;
    }
    let mut lines = Vec::new();
    for (section, share) in sections.into_iter().zip(shares) {
        let hidden = section.lines.len() - share;
        let total = section.lines.len();
        match section.rest {
            // The line that says how many are missing takes the place of one of them.
            Some(rest) if hidden > 0 && share > 0 => {
                lines.extend(section.lines.into_iter().take(share - 1));
                lines.push(Line::default().then(Colour::Dim, rest(total - (share - 1))));
            }
            _ => lines.extend(section.lines.into_iter().take(share)),
        }
    }
    lines.truncate(rows);
    lines
}

fn outcome_colour(outcome: Outcome) -> Colour {
    match outcome {
        Outcome::Pass => Colour::Green,
        Outcome::Fail => Colour::Red,
        Outcome::Invalid => Colour::Yellow,
    }
}

fn heading(result: &RunResult) -> Section {
    let plan = &result.info.plan;
    let mut what = format!("{}, {}", words::target(plan), words::pacing(plan));
    if result.state == RunState::Stopped {
        let _ = write!(
            what,
            " (stopped after {})",
            units::seconds(result.info.elapsed_seconds)
        );
    }
    let outcome = result.verdict.outcome;
    Section {
        lines: vec![
            Line::default()
                .then(outcome_colour(outcome), words::outcome(outcome))
                .then(Colour::Plain, format!("  {}", words::meaning(result))),
            Line::default().then(Colour::Dim, what),
        ],
        least: 2,
        rest: None,
    }
}

fn reasons(result: &RunResult, width: usize) -> Section {
    let reasons: Vec<Vec<Line>> = result
        .verdict
        .reasons
        .iter()
        .map(|reason| {
            let found = format!("{}: {}, {}", reason.what, reason.figure, reason.limit);
            let mut lines: Vec<Line> = wrapped(&found, width.saturating_sub(2))
                .into_iter()
                .map(|line| Line::plain("  ").then(Colour::Bold, line))
                .collect();
            for (number, line) in wrapped(&reason.cure, width.saturating_sub(6))
                .into_iter()
                .enumerate()
            {
                lines.push(
                    Line::plain(if number == 0 { "    → " } else { "      " }).then(Colour::Plain, line),
                );
            }
            lines
        })
        .collect();
    // The first reason is whole even where there is room for little else.
    let least = reasons.first().map_or(0, Vec::len) + usize::from(reasons.len() > 1);
    Section {
        lines: reasons.into_iter().flatten().collect(),
        least,
        rest: Some(|hidden| format!("  and {} more", units::counted(hidden as u64, "line"))),
    }
}

/// A text in lines that are broken at blanks.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn slos(result: &RunResult) -> Section {
    // What was broken is worth more than what was kept.
    let mut sorted: Vec<_> = result.slos.iter().collect();
    sorted.sort_by_key(|slo| slo.kept);
    let lines = sorted
        .into_iter()
        .map(|slo| {
            let (colour, mark) = if slo.kept {
                (Colour::Green, "✓")
            } else {
                (Colour::Red, "✗")
            };
            // The figure stands first, so that a long name cannot push it out of sight.
            Line::plain("  ")
                .then(colour, mark)
                .then(Colour::Plain, format!(" {:>8}  {}", slo.figure, slo.slo))
        })
        .collect();
    Section {
        lines,
        least: 2,
        rest: Some(|hidden| format!("  and {}", units::counted(hidden as u64, "more SLO"))),
    }
}

fn counts(result: &RunResult) -> Section {
    let totals = &result.totals;
    let seconds = result.info.measured_seconds;
    let mut rate = Line::plain(format!("{:<11}", "rate"))
        .then(Colour::Bold, units::per_second(totals.requests_per_second));
    let asked = totals
        .target_per_second
        .map_or_else(String::new, |rate| format!(" of {}", units::per_second(rate)));
    rate = rate.then(
        Colour::Plain,
        format!(
            "{asked}: {} in {}",
            units::counted(totals.requests, "request"),
            units::seconds(seconds)
        ),
    );
    rate = if totals.errors == 0 {
        rate.then(Colour::Plain, ", no errors")
    } else {
        rate.then(Colour::Plain, ", ").then(
            Colour::Red,
            format!(
                "{} ({})",
                units::counted(totals.errors, "error"),
                units::percent(totals.error_share)
            ),
        )
    };
    let mut load = format!(
        "{:<11}{:.1} at a time, {}, {}/s received, {}/s sent",
        "in flight",
        totals.mean_in_flight,
        units::counted(totals.connections, "connection"),
        units::bytes(totals.bytes_received as f64 / seconds.max(f64::MIN_POSITIVE)),
        units::bytes(totals.bytes_sent as f64 / seconds.max(f64::MIN_POSITIVE)),
    );
    if totals.connections == 0 {
        load = load.replace("0 connections, ", "");
    }
    let mut lines = vec![rate, Line::plain(load)];
    if totals.iterations > 0 {
        lines.push(Line::plain(format!(
            "{:<11}{}, {} failed",
            "scenario",
            units::counted(totals.iterations, "iteration"),
            units::grouped(totals.failed_iterations)
        )));
    }
    if totals.unfinished + totals.unsent > 0 {
        lines.push(Line::default().then(
            Colour::Yellow,
            format!(
                "{:<11}{} unfinished at the end, {} due and never sent",
                "not done",
                units::grouped(totals.unfinished),
                units::grouped(totals.unsent)
            ),
        ));
    }
    let least = lines.len();
    Section {
        lines,
        least,
        rest: None,
    }
}

const COLUMNS: [&str; 7] = ["p50", "p90", "p95", "p99", "p99.9", "max", "mean"];
const FIRST_COLUMN: usize = 11;
const COLUMN: usize = 9;

fn row(name: &str, summary: &LatencySummary, headline: bool) -> Line {
    let cell = |share: f64, seconds: f64| {
        let text = words::at_least(seconds, summary.is_censored(share));
        format!("{text:>COLUMN$}")
    };
    let colour = if headline { Colour::Bold } else { Colour::Plain };
    let mut line = Line::default().then(colour, format!("{name:<FIRST_COLUMN$}"));
    for (share, seconds) in [
        (0.5, summary.p50),
        (0.9, summary.p90),
        (0.95, summary.p95),
        (0.99, summary.p99),
        (0.999, summary.p999),
        (1.0, summary.max),
        (0.0, summary.mean),
    ] {
        line = line.then(
            colour,
            if summary.count == 0 {
                format!("{:>COLUMN$}", "-")
            } else {
                cell(share, seconds)
            },
        );
    }
    line
}

fn times(result: &RunResult) -> Section {
    let mut head = format!("{:<FIRST_COLUMN$}", "");
    COLUMNS.iter().for_each(|name| {
        let _ = write!(head, "{name:>COLUMN$}");
    });
    let latency = &result.latency;
    let mut lines = vec![
        Line::default().then(Colour::Dim, head),
        row("response", &latency.response, true),
    ];
    // Without a rate the two are the same.
    if let Some(lag) = &latency.lag {
        lines.push(row("service", &latency.service, false));
        lines.push(row("sent late", lag, false));
    }
    let least = lines.len();
    if let Some(delay) = &result.generator_delay {
        lines.push(row("generator", delay, false));
    }
    // What has no room is not worth a line that says so.
    Section {
        lines,
        least,
        rest: None,
    }
}

fn errors(result: &RunResult) -> Section {
    let lines = result
        .errors
        .iter()
        .map(|error| {
            Line::default()
                .then(
                    Colour::Red,
                    format!(
                        "{:>9}  {:<15}",
                        units::grouped(error.count),
                        words::error(error.kind)
                    ),
                )
                .then(Colour::Plain, format!(" {}", error.example))
        })
        .collect();
    Section {
        lines,
        least: 2,
        rest: Some(|hidden| format!("{hidden:>9}  more kinds of errors; -o report.html shows all")),
    }
}

fn phases(result: &RunResult) -> Section {
    let phases = &result.phases;
    let parts: Vec<String> = [
        ("DNS", &phases.dns),
        ("connect", &phases.connect),
        ("TLS", &phases.tls),
        ("first byte", &phases.first_byte),
        ("body", &phases.body),
    ]
    .into_iter()
    .filter(|(_, summary)| summary.count > 0)
    .map(|(name, summary)| format!("{name} {}", units::seconds(summary.p50)))
    .collect();
    let lines = if parts.is_empty() {
        Vec::new()
    } else {
        vec![Line::plain(format!(
            "{:<FIRST_COLUMN$}{} (p50)",
            "phases",
            parts.join(", ")
        ))]
    };
    Section {
        lines,
        least: 1,
        rest: None,
    }
}

fn steps(result: &RunResult) -> Section {
    // One kind of request is what the totals are of.
    if result
        .steps
        .iter()
        .filter(|step| step.kind != StepKind::Iteration)
        .count()
        < 2
    {
        return Section {
            lines: Vec::new(),
            least: 0,
            rest: None,
        };
    }
    let longest = result
        .steps
        .iter()
        .map(|step| step.name.chars().count())
        .max()
        .unwrap_or(0);
    let width = longest.clamp(10, 30);
    let mut lines = vec![Line::default().then(
        Colour::Dim,
        format!(
            "{:<width$}{:>10}{:>10}{:>9}{:>9}{:>9}",
            "step", "rate", "errors", "p50", "p99", "max"
        ),
    )];
    lines.extend(result.steps.iter().map(|step| {
        let response = &step.latency.response;
        let name: String = if step.name.chars().count() > width {
            let cut: String = step.name.chars().take(width - 1).collect();
            format!("{cut}…")
        } else {
            step.name.clone()
        };
        let line = Line::plain(format!(
            "{name:<width$}{:>10}",
            units::per_second(step.per_second)
        ));
        let colour = if step.errors > 0 {
            Colour::Red
        } else {
            Colour::Plain
        };
        line.then(colour, format!("{:>10}", units::grouped(step.errors)))
            .then(
                Colour::Plain,
                format!(
                    "{:>9}{:>9}{:>9}",
                    words::at_least(response.p50, response.is_censored(0.5)),
                    words::at_least(response.p99, response.is_censored(0.99)),
                    words::at_least(response.max, response.is_censored(1.0))
                ),
            )
    }));
    Section {
        lines,
        least: 0,
        rest: Some(|hidden| format!("and {}", units::counted(hidden as u64, "more step"))),
    }
}

/// What is worth a word only when it happened.
fn trouble(result: &RunResult) -> Section {
    let mut lines = Vec::new();
    if let Some(tcp) = &result.tcp {
        if tcp.retransmits + tcp.connect_retransmits > 0 {
            lines.push(Line::plain(format!(
                "{:<FIRST_COLUMN$}{} retransmitted, {} had to knock twice (full backlog or loss)",
                "TCP",
                units::counted(tcp.retransmits, "segment"),
                units::counted(tcp.connect_retransmits, "connection")
            )));
        }
    }
    if let Some(udp) = &result.udp {
        lines.push(Line::plain(format!(
            "{:<FIRST_COLUMN$}{} sent, {} lost, {} out of order, {} twice, jitter {}",
            "datagrams",
            units::grouped(udp.sent),
            units::grouped(udp.lost),
            units::grouped(udp.reordered),
            units::grouped(udp.duplicates),
            units::seconds(udp.jitter_seconds)
        )));
    }
    for worker in result.workers.iter().filter(|worker| worker.restarts > 0) {
        lines.push(Line::default().then(
            Colour::Yellow,
            format!(
                "{:<FIRST_COLUMN$}{} replaced {}, the last {}; {} lost",
                format!("worker {}", worker.number),
                "was",
                if worker.restarts == 1 {
                    "once".to_owned()
                } else {
                    format!("{} times", worker.restarts)
                },
                worker.last_death.as_deref().unwrap_or("ended"),
                units::counted(worker.lost_in_flight, "request")
            ),
        ));
    }
    Section {
        lines,
        least: 1,
        rest: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn the_worst_result_fits_the_smallest_terminal_with_verdict_and_cure_first() {
        for (width, height) in [(80, 24), (40, 12), (80, 16), (200, 60), (1, 1), (0, 0)] {
            for colours in [false, true] {
                let style = TextStyle {
                    width,
                    height,
                    colours,
                };
                let text = text(&sample::bad(), &style);
                assert!(text.lines().count() < height.max(1), "{height}\n{text}");
                for line in text.lines() {
                    let mut visible = 0;
                    let mut escape = false;
                    for c in line.chars() {
                        match c {
                            '\x1b' => escape = true,
                            'm' if escape => escape = false,
                            _ if escape => {}
                            _ => visible += 1,
                        }
                    }
                    assert!(visible <= width, "{width}: {line}");
                }
                if height > 12 {
                    assert!(text.contains("INVALID") && text.contains("→ use more"), "{text}");
                }
            }
        }
    }

    #[test]
    fn figures_that_unfinished_requests_could_raise_say_so() {
        let text = text(&sample::bad(), &TextStyle::default());
        let response = text.lines().find(|line| line.starts_with("response")).unwrap();
        assert!(response.contains("≥2.") && !response.contains("≥-"), "{response}");
        assert!(
            text.contains("300 unfinished at the end, 2,880 due and never sent"),
            "{text}"
        );
    }

    #[test]
    fn the_texts_are_those_of_the_golden_files() {
        let style = TextStyle::default();
        sample::golden("summary-pass.txt", &text(&sample::good(), &style));
        sample::golden("summary-invalid.txt", &text(&sample::bad(), &style));
        let tall = TextStyle { height: 60, ..style };
        sample::golden("summary-invalid-tall.txt", &text(&sample::bad(), &tall));
        let mut closed = sample::good();
        closed.info.plan.pacing = crate::plan::Pacing::users(64);
        closed.latency.lag = None;
        closed.generator_delay = None;
        closed.totals.target_per_second = None;
        closed.verdict.outcome = Outcome::Fail;
        closed.slos[0].kept = false;
        sample::golden("summary-fail.txt", &text(&closed, &style));
    }
}
