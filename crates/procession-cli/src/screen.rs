//! What the user sees on standard error while a run goes on: a progress bar, where there is a terminal.

use std::io::{self, IsTerminal, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// How often the bar is redrawn when nothing happens, so that its clock goes on.
const TICK: Duration = Duration::from_millis(200);

/// Standard error with a bar at its foot, or none.
#[derive(Debug, Clone)]
pub struct Screen {
    bar: Option<ProgressBar>,
    terminal_shares_output: bool,
}

/// Takes the colours away where the user asked for that (see no-color.org).
pub fn respect_no_color() {
    if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
        console::set_colors_enabled(false);
        console::set_colors_enabled_stderr(false);
    }
}

impl Screen {
    /// A screen that shows a bar if `wanted` and standard error is a terminal that can move its cursor.
    pub fn new(wanted: bool) -> Self {
        let can_draw =
            io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let bar =
            (wanted && can_draw).then(|| ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()));
        Self {
            bar,
            terminal_shares_output: io::stdout().is_terminal(),
        }
    }

    /// Whether a bar is shown.
    pub fn has_bar(&self) -> bool {
        self.bar.is_some()
    }

    /// Shows the bar, of this length if it is known.
    pub fn start(&self, total: Option<u64>) {
        let Some(bar) = &self.bar else { return };
        let template = match total {
            Some(_) => "{bar:30.cyan} {pos}/{len} {rate}, {remaining} left {wide_msg:.red}",
            None => "{spinner:.cyan} {pos} items {rate}, {elapsed} {wide_msg:.red}",
        };
        if let Some(total) = total {
            bar.set_length(total);
        }
        bar.set_style(
            ProgressStyle::with_template(template)
                .expect("the template is constant")
                .with_key("rate", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                    let _ = out.write_str(&crate::units::rate(state.per_sec()));
                })
                .with_key(
                    "remaining",
                    |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                        let _ = write!(out, "{:#}", indicatif::HumanDuration(state.eta()));
                    },
                )
                .progress_chars("━╸─"),
        );
        bar.enable_steady_tick(TICK);
    }

    /// Shows a line of text with a running clock instead of a bar.
    pub fn start_message(&self, message: String) {
        let Some(bar) = &self.bar else { return };
        bar.set_style(
            ProgressStyle::with_template("{spinner:.cyan} {wide_msg} {elapsed}")
                .expect("the template is constant"),
        );
        bar.set_message(message);
        bar.enable_steady_tick(TICK);
    }

    /// Moves the bar on.
    pub fn advance(&self, finished: u64, not_done: u64) {
        let Some(bar) = &self.bar else { return };
        bar.set_position(finished);
        if not_done > 0 {
            bar.set_message(format!("{not_done} not done"));
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Writes whole lines to standard error, above the bar.
    pub fn print_above_bar(&self, lines: &[u8]) {
        self.without_bar(|| {
            let mut standard_error = io::stderr().lock();
            // Nobody is left to tell when standard error itself is gone.
            let _ = standard_error.write_all(lines);
            if lines.last() != Some(&b'\n') {
                let _ = standard_error.write_all(b"\n");
            }
        });
    }

    /// Runs `write`, which writes to standard output, so that it does not garble a bar on the same terminal.
    pub fn around_output<R>(&self, write: impl FnOnce() -> R) -> R {
        if self.terminal_shares_output {
            self.without_bar(write)
        } else {
            write()
        }
    }

    fn without_bar<R>(&self, write: impl FnOnce() -> R) -> R {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

/// Prints an error to standard error.
pub fn print_error(error: &crate::error::CommandError) {
    let text = error.to_string();
    let rest = text.strip_prefix("error:").unwrap_or(&text);
    let mark = console::Style::new().for_stderr().red().bold().apply_to("error:");
    // Nobody is left to tell when standard error itself is gone.
    let _ = writeln!(io::stderr(), "{mark}{rest}");
}
