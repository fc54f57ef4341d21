//! A bench as a table and a plot for the terminal, and as an SVG chart.

use std::fmt::Write as _;

use crate::measure::Bench;
use crate::units;

/// Width of the bars of the plot, in characters.
const BAR_WIDTH: usize = 40;

/// The table: one row for each number of processes.
pub fn table(bench: &Bench) -> String {
    let rounds = bench.rows.iter().map(|row| row.seconds.len()).max().unwrap_or(0);
    let mut text = format!(
        "{} of {} on {}, Python {}",
        units::counted(bench.items, "item"),
        bench.function,
        units::counted(bench.cores as u64, "core"),
        bench.python
    );
    if let Some(method) = bench.start_method {
        let _ = write!(text, ", {method}");
    }
    if rounds > 1 {
        let _ = write!(text, ", median of {rounds} rounds");
    }
    text.push_str("\n\n");
    let mut rows =
        vec![["processes", "time", "spread", "items/s", "speed-up", "efficiency"].map(str::to_owned)];
    rows.extend(bench.rows.iter().map(|row| {
        [
            row.name(),
            units::seconds(row.median_seconds),
            if row.seconds.len() > 1 {
                format!("±{:.0} %", row.spread * 100.0)
            } else {
                "-".to_owned()
            },
            units::rate(row.items_per_second).replace(" items/s", ""),
            units::factor(row.speed_up),
            row.efficiency
                .map_or_else(|| "-".to_owned(), |share| format!("{:.0} %", share * 100.0)),
        ]
    }));
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: [usize; 6] = std::array::from_fn(width);
    for row in &rows {
        let _ = write!(text, "{:<1$}", row[0], widths[0]);
        for (cell, width) in row.iter().zip(widths).skip(1) {
            let _ = write!(text, "  {cell:>width$}");
        }
        text.push('\n');
    }
    text
}

/// The plot: speed-ups as bars, with what the number of processes could bring behind them.
pub fn plot(bench: &Bench) -> String {
    let possible = |processes: Option<usize>| processes.unwrap_or(1).min(bench.cores.max(1)) as f64;
    let scale = bench
        .rows
        .iter()
        .map(|row| row.speed_up.max(possible(row.processes)))
        .fold(1.0, f64::max);
    let label_width = bench.rows.iter().map(|row| row.name().len()).max().unwrap_or(0);
    let mut text = String::from("speed-up\n");
    for row in &bench.rows {
        let bar = bar(row.speed_up / scale, possible(row.processes) / scale);
        let _ = writeln!(
            text,
            "{:<label_width$} {bar} {}",
            row.name(),
            units::factor(row.speed_up)
        );
    }
    let _ = writeln!(
        text,
        "{:label_width$} ░ is what that many processes could bring on {}",
        "",
        units::counted(bench.cores as u64, "core")
    );
    text
}

/// A bar of blocks for `share`, shaded up to `possible`, padded with blanks.
fn bar(share: f64, possible: f64) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (share * (BAR_WIDTH * 8) as f64).round() as usize;
    let mut text = "█".repeat(eighths / 8);
    text.push_str(EIGHTHS[eighths % 8]);
    let used = eighths.div_ceil(8);
    let shaded = ((possible * BAR_WIDTH as f64).round() as usize).max(used);
    text.push_str(&"░".repeat(shaded - used));
    text.push_str(&" ".repeat(BAR_WIDTH.saturating_sub(shaded)));
    text
}

/// The chart: speed-up over the number of processes, with the ideal line.
pub fn svg(bench: &Bench) -> String {
    const WIDTH: f64 = 640.0;
    const HEIGHT: f64 = 420.0;
    const LEFT: f64 = 56.0;
    const RIGHT: f64 = 32.0;
    const TOP: f64 = 88.0;
    const BOTTOM: f64 = 56.0;
    let most_processes = bench.pools().map(|(processes, _)| processes).max().unwrap_or(1) as f64;
    let best = bench.rows.iter().map(|row| row.speed_up).fold(1.0, f64::max);
    let ideal_end = most_processes.min(bench.cores as f64).max(1.0);
    let step = tick_step(best.max(ideal_end));
    let top_value = (best.max(ideal_end) / step).ceil() * step;
    let x_step = tick_step(most_processes).max(1.0);
    let x = |processes: f64| LEFT + processes / most_processes * (WIDTH - LEFT - RIGHT);
    let y = |speed_up: f64| HEIGHT - BOTTOM - speed_up / top_value * (HEIGHT - TOP - BOTTOM);

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" font-family=\"system-ui, sans-serif\" font-size=\"13\" role=\"img\">\n"
    );
    let title = format!("Speed-up of {} over a plain loop", bench.function);
    let rounds = bench.rows.iter().map(|row| row.seconds.len()).max().unwrap_or(0);
    let under_title = format!(
        "{}, {}, Python {}, median of {}",
        units::counted(bench.items, "item"),
        units::counted(bench.cores as u64, "core"),
        bench.python,
        units::counted(rounds as u64, "round")
    );
    let _ = writeln!(svg, "<title>{}</title>", escaped(&title));
    let _ = writeln!(svg, "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>");
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"26\" font-size=\"16\" font-weight=\"600\" fill=\"#1f2328\">{}</text>\n\
         <text x=\"{LEFT}\" y=\"46\" fill=\"#59636e\">{}</text>",
        escaped(&title),
        escaped(&under_title)
    );
    let mut value = 0.0;
    while value <= top_value + step / 2.0 {
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#d1d9e0\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#59636e\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            y(value) + 4.5,
            tick_label(value, step),
            y = y(value)
        );
        value += step;
    }
    let mut value = 0.0;
    while value <= most_processes + x_step / 2.0 {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#59636e\">{value:.0}</text>",
            x(value),
            HEIGHT - BOTTOM + 20.0
        );
        value += x_step;
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#59636e\">processes</text>",
        f64::midpoint(LEFT, WIDTH - RIGHT),
        HEIGHT - 14.0
    );
    let _ = writeln!(
        svg,
        "<polyline points=\"{:.1},{:.1} {:.1},{:.1} {:.1},{:.1}\" fill=\"none\" stroke=\"#818b98\" \
         stroke-dasharray=\"5 4\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#818b98\">what the cores allow a function that computes</text>",
        x(0.0),
        y(0.0),
        x(ideal_end),
        y(ideal_end),
        x(most_processes),
        y(ideal_end),
        x(most_processes) - 4.0,
        y(ideal_end) - 7.0
    );
    let mut pools: Vec<_> = bench.pools().collect();
    pools.sort_by_key(|(processes, _)| *processes);
    let points: Vec<String> = pools
        .iter()
        .map(|(processes, row)| format!("{:.1},{:.1}", x(*processes as f64), y(row.speed_up)))
        .collect();
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#0969da\" stroke-width=\"2.5\" stroke-linejoin=\"round\"/>",
        points.join(" ")
    );
    for (processes, row) in &pools {
        let _ = writeln!(
            svg,
            "<circle cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"4\" fill=\"#0969da\">\
             <title>{}: {}, speed-up {}</title></circle>\
             <text x=\"{cx:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#0969da\">{}</text>",
            units::counted(*processes as u64, "process"),
            units::seconds(row.median_seconds),
            units::factor(row.speed_up),
            y(row.speed_up) + 20.0,
            units::factor(row.speed_up),
            cx = x(*processes as f64),
            cy = y(row.speed_up)
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// A round step that gives about five ticks up to this value.
fn tick_step(value: f64) -> f64 {
    let rough = value / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    [1.0, 2.0, 2.5, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|&step| step >= rough)
        .unwrap_or(value)
}

fn tick_label(value: f64, step: f64) -> String {
    if step.fract() == 0.0 {
        format!("{value:.0}")
    } else if (step * 10.0).fract() == 0.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::tests::bench;

    #[test]
    fn bars_have_one_width_and_show_what_is_missing() {
        for (share, possible) in [(0.0, 0.0), (0.5, 1.0), (1.0, 1.0), (0.333, 0.1), (0.999, 1.0)] {
            assert_eq!(
                bar(share, possible).chars().count(),
                BAR_WIDTH,
                "{share} {possible}"
            );
        }
        assert_eq!(bar(0.5, 1.0), format!("{}{}", "█".repeat(20), "░".repeat(20)));
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(
            (tick_step(2.0), tick_step(8.0), tick_step(64.0)),
            (0.5, 2.0, 20.0)
        );
    }

    #[test]
    fn names_cannot_break_the_svg() {
        let mut bench = bench(3, 2, 1.0, 2.0, &[(1, 2.0), (2, 1.0)]);
        bench.function = "<a&b>.py:f".into();
        let svg = svg(&bench);
        assert!(svg.contains("&lt;a&amp;b&gt;.py:f") && !svg.contains("<a&b>"));
        assert_eq!(svg.matches("<circle").count(), 2);
    }

    #[test]
    fn the_table_has_units_and_a_column_for_each_figure() {
        let bench = bench(1000, 4, 1.0, 8.0, &[(1, 8.1), (4, 2.5)]);
        assert_eq!(
            table(&bench),
            "1,000 items of count.py:words on 4 cores, Python 3.13.0\n\
             \n\
             processes     time  spread  items/s  speed-up  efficiency\n\
             plain loop  8.00 s       -      125      1.00           -\n\
             1           8.10 s       -      123      0.99        99 %\n\
             4           2.50 s       -      400      3.20        80 %\n"
        );
    }

    #[test]
    fn the_plot_shows_what_was_reached_and_what_was_possible() {
        let bench = bench(1000, 4, 1.0, 8.0, &[(1, 8.0), (4, 2.5)]);
        assert_eq!(
            plot(&bench),
            "speed-up\n\
             plain loop ██████████                               1.00\n\
             1          ██████████                               1.00\n\
             4          ████████████████████████████████░░░░░░░░ 3.20\n           \
             ░ is what that many processes could bring on 4 cores\n"
        );
    }

    #[test]
    fn a_chart_of_many_processes_stays_within_its_frame() {
        let pools: Vec<(usize, f64)> = [1, 2, 4, 8, 16, 32, 64].map(|n| (n, 64.0 / n as f64)).into();
        let svg = svg(&bench(1000, 64, 1.0, 64.0, &pools));
        for x in svg
            .split(" cx=\"")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap())
        {
            let x: f64 = x.parse().unwrap();
            assert!((0.0..=640.0).contains(&x), "{x}");
        }
    }
}
