//! What the live view shows: a pure function of the result so far and of what the viewer has asked for.

use procession_load::report::{units, words};
use procession_load::result::{LatencySummary, Outcome, RunResult, RunState, Second};
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{
    Axis, Block, Borders, Cell, Chart, Clear, Dataset, GraphType, LineGauge, Paragraph, Row, Table,
};
use ratatui::Frame;

/// What the viewer has asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wishes {
    /// The picture stands still; the run goes on.
    pub paused: bool,
    /// The keys are explained.
    pub help: bool,
    /// The run is being ended.
    pub stopping: bool,
    /// Colours are wanted.
    pub colours: bool,
}

/// The narrowest and lowest terminal on which there is anything to see.
const SMALLEST: (u16, u16) = (40, 10);

const RATE: Color = Color::Blue;
const P50: Color = Color::Green;
const P99: Color = Color::Yellow;
const LONGEST: Color = Color::Red;

/// Draws one picture.
pub fn draw(frame: &mut Frame<'_>, result: &RunResult, wishes: Wishes) {
    let area = frame.area();
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        let text = format!("{}  {}", words::outcome(result.verdict.outcome), one_line(result));
        frame.render_widget(Paragraph::new(text), area);
        return;
    }
    let errors = result.errors.len().clamp(1, 4) as u16;
    let workers = result.workers.len().clamp(1, 4) as u16;
    let [head, gauge, charts, times, lists, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(5),
        Constraint::Length(if result.latency.lag.is_some() { 4 } else { 2 }),
        Constraint::Length(errors.max(workers) + 2),
        Constraint::Length(1),
    ])
    .areas(area);
    heading(frame, head, result, wishes);
    progress(frame, gauge, result, wishes);
    let [left, right] = Layout::horizontal([Constraint::Percentage(42), Constraint::Percentage(58)])
        .spacing(1)
        .areas(charts);
    rates(frame, left, result, wishes);
    latencies(frame, right, result, wishes);
    percentiles(frame, times, result, wishes);
    let [left, right] = Layout::horizontal([Constraint::Fill(1), Constraint::Length(36)])
        .spacing(2)
        .areas(lists);
    failures(frame, left, result, wishes);
    seats(frame, right, result, wishes);
    keys(frame, foot, wishes);
    if wishes.help {
        help(frame, area);
    }
}

/// The run so far in a line, as it is also printed where there is no terminal.
pub fn one_line(result: &RunResult) -> String {
    let totals = &result.totals;
    // What ended in the last whole second is news; the average since the start is not.
    let last = result.seconds.last();
    let rate = last.map_or(0.0, |second| {
        second.requests as f64 / f64::from(second.span.max(1))
    });
    let at = |share| {
        last.and_then(|second| second.quantile(share))
            .map_or_else(|| "-".to_owned(), units::seconds)
    };
    let mut line = format!(
        "{:>4.0} s  {:>9}  p50 {:>7}  p99 {:>7}  in flight {:>4}  {}",
        result.info.elapsed_seconds,
        units::per_second(rate),
        at(0.5),
        at(0.99),
        last.map_or(0, |second| second.in_flight),
        match totals.errors {
            0 => "no errors".to_owned(),
            errors => units::counted(errors, "error"),
        }
    );
    match result.state {
        RunState::WarmingUp => line.push_str("  warming up"),
        RunState::Draining => line.push_str("  waiting for the last requests"),
        RunState::Starting | RunState::Running | RunState::Finished | RunState::Stopped => {}
    }
    line
}

fn coloured(wishes: Wishes, colour: Color) -> Style {
    if wishes.colours {
        Style::new().fg(colour)
    } else {
        Style::new()
    }
}

fn dim(wishes: Wishes) -> Style {
    if wishes.colours {
        Style::new().add_modifier(Modifier::DIM)
    } else {
        Style::new()
    }
}

fn framed(title: &str, wishes: Wishes) -> Block<'_> {
    Block::new()
        .borders(Borders::TOP)
        .border_style(dim(wishes))
        .title(Span::styled(
            format!(" {title} "),
            Style::new().add_modifier(Modifier::BOLD),
        ))
}

fn heading(frame: &mut Frame<'_>, area: Rect, result: &RunResult, wishes: Wishes) {
    let outcome = result.verdict.outcome;
    let colour = match outcome {
        Outcome::Pass => Color::Green,
        Outcome::Fail => Color::Red,
        Outcome::Invalid => Color::Yellow,
    };
    let plan = &result.info.plan;
    let verdict = match result.verdict.reasons.first() {
        Some(reason) => format!("{} {}", reason.what, reason.figure),
        None if outcome == Outcome::Fail => words::meaning(result),
        None => "so far".to_owned(),
    };
    let line = Line::from(vec![
        Span::styled(
            words::outcome(outcome),
            coloured(wishes, colour).add_modifier(Modifier::BOLD),
        ),
        Span::raw(format!(" {verdict}  ")),
        Span::styled(
            format!("{}, {}", words::target(plan), words::pacing(plan)),
            dim(wishes),
        ),
    ]);
    frame.render_widget(Paragraph::new(line), area);
}

/// How much of the run is over, 0 to 1.
fn share_done(result: &RunResult) -> f64 {
    let plan = &result.info.plan;
    let by_time = plan
        .load_duration()
        .map(|all| result.info.elapsed_seconds / all.as_secs_f64());
    let through = result.totals.iterations.max(result.totals.requests) + result.totals.warmup_requests;
    let by_number = plan.iterations.map(|all| through as f64 / all as f64);
    by_time
        .into_iter()
        .chain(by_number)
        .fold(0.0, f64::max)
        .clamp(0.0, 1.0)
}

fn progress(frame: &mut Frame<'_>, area: Rect, result: &RunResult, wishes: Wishes) {
    let state = if wishes.stopping {
        "ending"
    } else {
        words::state(result.state)
    };
    let label = format!(
        "{} {}",
        units::seconds(result.info.elapsed_seconds.floor()),
        state
    );
    let label = label.replace("0.00 µs", "0 s");
    let gauge = LineGauge::default()
        .ratio(share_done(result))
        .label(format!("{label:<24}"))
        .filled_symbol("━")
        .unfilled_symbol("─")
        .filled_style(coloured(wishes, RATE))
        .unfilled_style(dim(wishes));
    frame.render_widget(gauge, area);
}

/// The latest seconds that fit, as points over time.
fn points(result: &RunResult, figure: impl Fn(&Second) -> Option<f64>) -> Vec<(f64, f64)> {
    result
        .seconds
        .iter()
        .filter_map(|second| {
            Some((
                f64::from(second.start) + f64::from(second.span) / 2.0,
                figure(second)?,
            ))
        })
        .collect()
}

fn time_axis(result: &RunResult, wishes: Wishes) -> Axis<'static> {
    let end = result
        .seconds
        .last()
        .map_or(1, |second| second.start + second.span)
        .max(1);
    Axis::default()
        .bounds([0.0, f64::from(end)])
        .labels([
            "0 s".to_owned(),
            units::seconds(f64::from(end))
                .replace(".0 s", " s")
                .replace(".00 s", " s"),
        ])
        .style(dim(wishes))
}

fn rates(frame: &mut Frame<'_>, area: Rect, result: &RunResult, wishes: Wishes) {
    let good = points(result, |second| {
        Some(second.requests as f64 / f64::from(second.span.max(1)))
    });
    let asked = points(result, |second| second.target_per_second);
    let bad = points(result, |second| {
        (second.errors > 0).then(|| second.errors as f64 / f64::from(second.span.max(1)))
    });
    let top = good.iter().chain(&asked).map(|point| point.1).fold(1.0, f64::max) * 1.1;
    let mut sets = vec![
        line_of(&asked, coloured(wishes, Color::Magenta)),
        line_of(&good, coloured(wishes, RATE)),
    ];
    if !bad.is_empty() {
        sets.push(
            Dataset::default()
                .marker(Marker::Dot)
                .graph_type(GraphType::Scatter)
                .style(coloured(wishes, Color::Red))
                .data(&bad),
        );
    }
    let now = good.last().map_or(0.0, |point| point.1);
    let title = match result.totals.target_per_second {
        Some(target) => format!("rate {} of {}", units::per_second(now), units::per_second(target)),
        None => format!("rate {}", units::per_second(now)),
    };
    let chart = Chart::new(sets)
        .block(framed(&title, wishes))
        .x_axis(time_axis(result, wishes))
        .y_axis(
            Axis::default()
                .bounds([0.0, top])
                .labels(["0".to_owned(), units::per_second(top)])
                .style(dim(wishes)),
        )
        .legend_position(None);
    frame.render_widget(chart, area);
}

fn line_of<'a>(data: &'a [(f64, f64)], style: Style) -> Dataset<'a> {
    Dataset::default()
        .marker(Marker::Braille)
        .graph_type(GraphType::Line)
        .style(style)
        .data(data)
}

fn latencies(frame: &mut Frame<'_>, area: Rect, result: &RunResult, wishes: Wishes) {
    // Times differ by powers of ten, so their logarithms are drawn.
    let of = |share| {
        points(result, move |second| {
            second.quantile(share).map(|time| time.max(1e-9).log10())
        })
    };
    let (p50, p99, longest) = (of(0.5), of(0.99), of(1.0));
    let all = || p50.iter().chain(&longest).map(|point| point.1);
    let low = all().fold(f64::INFINITY, f64::min);
    let high = all().fold(f64::NEG_INFINITY, f64::max);
    let (low, high) = if low.is_finite() {
        (low - 0.1, (high + 0.1).max(low + 0.3))
    } else {
        (-3.0, 0.0)
    };
    let label = |power: f64| units::seconds(10_f64.powf(power));
    let title = Line::from(vec![
        Span::styled(" response time ", Style::new().add_modifier(Modifier::BOLD)),
        Span::styled("p50 ", coloured(wishes, P50)),
        Span::styled("p99 ", coloured(wishes, P99)),
        Span::styled("max ", coloured(wishes, LONGEST)),
    ]);
    let chart = Chart::new(vec![
        line_of(&longest, coloured(wishes, LONGEST)),
        line_of(&p99, coloured(wishes, P99)),
        line_of(&p50, coloured(wishes, P50)),
    ])
    .block(
        Block::new()
            .borders(Borders::TOP)
            .border_style(dim(wishes))
            .title(title),
    )
    .x_axis(time_axis(result, wishes))
    .y_axis(
        Axis::default()
            .bounds([low, high])
            .labels([label(low), label(f64::midpoint(low, high)), label(high)])
            .style(dim(wishes)),
    )
    .legend_position(None);
    frame.render_widget(chart, area);
}

fn percentiles(frame: &mut Frame<'_>, area: Rect, result: &RunResult, wishes: Wishes) {
    let latency = &result.latency;
    let mut rows = vec![summary_row("response", &latency.response)];
    if let Some(lag) = &latency.lag {
        rows.push(summary_row("service", &latency.service));
        rows.push(summary_row("sent late", lag));
    }
    let head = ["all so far", "p50", "p90", "p95", "p99", "p99.9", "max", "mean"];
    let head = head
        .iter()
        .enumerate()
        .map(|(column, name)| aligned(column, (*name).to_owned()));
    let widths = [Constraint::Length(10)]
        .into_iter()
        .chain([Constraint::Fill(1); 7]);
    let table = Table::new(rows, widths)
        .header(Row::new(head).style(dim(wishes)))
        .column_spacing(1);
    frame.render_widget(table, area);
}

fn aligned(column: usize, text: String) -> Cell<'static> {
    let alignment = if column == 0 {
        Alignment::Left
    } else {
        Alignment::Right
    };
    Cell::from(Line::from(text).alignment(alignment))
}

fn summary_row(name: &str, summary: &LatencySummary) -> Row<'static> {
    let figures = [
        (0.5, summary.p50),
        (0.9, summary.p90),
        (0.95, summary.p95),
        (0.99, summary.p99),
        (0.999, summary.p999),
        (1.0, summary.max),
        (0.0, summary.mean),
    ];
    let cells = figures.map(|(share, seconds)| match summary.count {
        0 => "-".to_owned(),
        _ => words::at_least(seconds, summary.is_censored(share)),
    });
    Row::new(
        std::iter::once(name.to_owned())
            .chain(cells)
            .enumerate()
            .map(|(column, text)| aligned(column, text)),
    )
}

fn failures(frame: &mut Frame<'_>, area: Rect, result: &RunResult, wishes: Wishes) {
    let totals = &result.totals;
    let title = match totals.errors {
        0 => "no errors".to_owned(),
        errors => format!(
            "{} ({})",
            units::counted(errors, "error"),
            units::percent(totals.error_share)
        ),
    };
    let lines: Vec<Line<'_>> = result
        .errors
        .iter()
        .map(|error| {
            Line::from(vec![
                Span::styled(
                    format!("{:>7} ", units::grouped(error.count)),
                    coloured(wishes, Color::Red),
                ),
                Span::raw(format!("{}: {}", words::error(error.kind), error.example)),
            ])
        })
        .collect();
    frame.render_widget(Paragraph::new(lines).block(framed(&title, wishes)), area);
}

fn seats(frame: &mut Frame<'_>, area: Rect, result: &RunResult, wishes: Wishes) {
    let last = result.seconds.last();
    let title = format!(
        "{} in flight, {}",
        last.map_or(0, |second| second.in_flight),
        words::users(&result.info.plan, last.map_or(0, |second| second.users))
    );
    let rows = result.workers.iter().map(|worker| {
        let died = match worker.restarts {
            0 => String::new(),
            restarts => format!("died {restarts}×"),
        };
        let busy = worker.cpu_share > 0.85 || worker.restarts > 0;
        let style = if busy {
            coloured(wishes, Color::Yellow)
        } else {
            Style::new()
        };
        Row::new([
            worker.number.to_string(),
            units::grouped(worker.requests),
            format!("CPU {:.0} %", worker.cpu_share * 100.0),
            format!("wait {:.0} %", worker.cpu_wait_share * 100.0),
            died,
        ])
        .style(style)
    });
    let widths = [
        Constraint::Length(4),
        Constraint::Length(10),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Fill(1),
    ];
    frame.render_widget(Table::new(rows, widths).block(framed(&title, wishes)), area);
}

fn keys(frame: &mut Frame<'_>, area: Rect, wishes: Wishes) {
    let text = if wishes.stopping {
        "q again: quit at once"
    } else if wishes.paused {
        "p go on looking (the run goes on)  q end the run"
    } else {
        "q end the run and report  p pause the picture  ? help"
    };
    frame.render_widget(Paragraph::new(Span::styled(text, dim(wishes))), area);
}

const HELP: &str = "\
q, Ctrl-C   end the run: nothing new begins,
            what is under way has a second,
            then the summary. Again: quit at once.
p           hold the picture; the run goes on
?           this help

response    from the moment a request was due
service     from the moment it was sent
sent late   from due to sent
wait        of a worker: ready to run and without
            a core; above 5 % the run is INVALID";

fn help(frame: &mut Frame<'_>, area: Rect) {
    let (width, height) = (
        52.min(area.width),
        (HELP.lines().count() as u16 + 2).min(area.height),
    );
    let place = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    frame.render_widget(Clear, place);
    frame.render_widget(
        Paragraph::new(HELP).block(Block::bordered().title(" help ")),
        place,
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::backend::TestBackend;
    use ratatui::Terminal;
    use std::path::Path;

    /// A result that the load crate's tests have written.
    fn sample(name: &str) -> RunResult {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../procession-load/tests/golden")
            .join(name);
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    fn picture(result: &RunResult, wishes: Wishes, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, result, wishes)).unwrap();
        let buffer = terminal.backend().buffer();
        (0..height)
            .map(|y| {
                let row: String = (0..width).map(|x| buffer[(x, y)].symbol()).collect();
                format!("{}\n", row.trim_end())
            })
            .collect()
    }

    fn golden(name: &str, actual: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden")
            .join(name);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, actual).unwrap();
            return;
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(
            actual, expected,
            "\n{name} differs; UPDATE_GOLDEN=1 writes it anew"
        );
    }

    fn running(name: &str) -> RunResult {
        let mut result = sample(name);
        result.state = RunState::Running;
        result.info.elapsed_seconds = 7.4;
        result.seconds.truncate(7);
        result
    }

    #[test]
    fn the_pictures_are_those_of_the_golden_files() {
        let wishes = Wishes::default();
        golden(
            "live-80x24.txt",
            &picture(&running("result-good.json"), wishes, 80, 24),
        );
        golden(
            "live-invalid-120x30.txt",
            &picture(&running("result-bad.json"), wishes, 120, 30),
        );
        let help = Wishes { help: true, ..wishes };
        golden(
            "live-help-80x24.txt",
            &picture(&running("result-good.json"), help, 80, 24),
        );
    }

    #[test]
    fn every_size_of_terminal_gets_a_picture_also_before_anything_was_measured() {
        let mut empty = running("result-good.json");
        empty.seconds.clear();
        empty.errors.clear();
        empty.state = RunState::Starting;
        empty.latency.response = LatencySummary::default();
        for result in [&empty, &running("result-bad.json")] {
            for (width, height) in [(1, 1), (20, 5), (40, 10), (80, 24), (300, 100)] {
                for colours in [false, true] {
                    let wishes = Wishes {
                        help: true,
                        colours,
                        ..Wishes::default()
                    };
                    picture(result, wishes, width, height);
                }
            }
        }
    }

    #[test]
    fn a_line_tells_of_the_last_second() {
        assert_eq!(
            one_line(&running("result-good.json")),
            "   7 s    1,000/s  p50 2.04 ms  p99 27.3 ms  in flight    2  12 errors"
        );
    }
}
