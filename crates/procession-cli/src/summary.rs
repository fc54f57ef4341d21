//! What a map came to: the counts while it runs, and the text at its end.

use std::fmt::Write as _;
use std::time::Duration;

use console::Style;

use crate::host::protocol::{ItemError, Status};
use crate::units;

/// Counts of a map.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Items whose function returned.
    pub done: u64,
    /// Items whose function raised in the last attempt.
    pub failed: u64,
    /// Items whose process died in the last attempt.
    pub died: u64,
    /// Items that ran over the limit in the last attempt.
    pub timed_out: u64,
    /// Items that could not be read.
    pub bad_input: u64,
    /// Items that a former run had done; they count as done.
    pub resumed: u64,
    /// Attempts beyond the first.
    pub retries: u64,
    /// Sum over all attempts whose time is known.
    pub task_seconds: f64,
    /// The first failures, as many as are to be shown.
    pub failures: Vec<Failure>,
}

/// A failure for the summary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The item's index.
    pub index: u64,
    /// Its input, quoted.
    pub input: String,
    /// What went wrong.
    pub error: String,
    /// The last lines of what the function had printed, where that is kept.
    pub last_words: Vec<String>,
}

/// Of what a failed item had printed, what the summary shows.
pub fn last_words(output: Option<&str>) -> Vec<String> {
    const MOST_LINES: usize = 3;
    const MOST_CHARACTERS: usize = 160;
    let lines: Vec<_> = output.unwrap_or_default().lines().collect();
    let cut = |line: &&str| {
        line.chars()
            .take(MOST_CHARACTERS)
            .filter(|c| !c.is_control())
            .collect()
    };
    lines[lines.len().saturating_sub(MOST_LINES)..]
        .iter()
        .map(cut)
        .collect()
}

impl Tally {
    /// Counts an item that is over.
    pub fn count(&mut self, status: Status) {
        *match status {
            Status::Ok => &mut self.done,
            Status::Error => &mut self.failed,
            Status::Died => &mut self.died,
            Status::TimedOut => &mut self.timed_out,
            Status::BadInput => &mut self.bad_input,
        } += 1;
    }

    /// Items that are over but not done.
    pub fn not_done(&self) -> u64 {
        self.failed + self.died + self.timed_out + self.bad_input
    }

    /// Items that are over.
    pub fn finished(&self) -> u64 {
        self.done + self.not_done()
    }
}

/// Everything the text at the end is made of.
#[derive(Debug)]
pub struct Summary<'a> {
    /// The counts.
    pub tally: &'a Tally,
    /// Time from the start of the run, Python's own start included.
    pub wall: Duration,
    /// Size of the pool.
    pub processes: usize,
    /// Why the run ended before all was done, such as `interrupted by SIGINT`.
    pub cut_short: Option<String>,
    /// Items that never got a result; where nobody knows how many there are, those that were read.
    pub unfinished: u64,
}

impl Summary<'_> {
    /// The text, with its line end.
    pub fn render(&self) -> String {
        let tally = self.tally;
        let wall = self.wall.as_secs_f64();
        let (red, bold) = (Style::new().for_stderr().red(), Style::new().for_stderr().bold());
        let mut text = String::new();
        if let Some(reason) = &self.cut_short {
            let _ = writeln!(text, "{}", red.apply_to(reason));
        }
        let total = tally.finished() + self.unfinished;
        let done = if tally.done == total {
            units::counted(total, "item")
        } else {
            format!(
                "{} of {}",
                units::grouped(tally.done),
                units::counted(total, "item")
            )
        };
        let _ = writeln!(
            text,
            "{} in {} by {}: {}",
            bold.apply_to(format!("{done} done")),
            units::duration(self.wall),
            units::counted(self.processes as u64, "process"),
            units::rate(tally.finished() as f64 / wall),
        );
        let parts: Vec<String> = [
            (tally.failed, "failed"),
            (tally.died, "died"),
            (tally.timed_out, "timed out"),
            (tally.bad_input, "unreadable"),
            (self.unfinished, "not finished"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| {
            red.apply_to(format!("{} {what}", units::grouped(count)))
                .to_string()
        })
        .chain((tally.resumed > 0).then(|| format!("{} done before", units::grouped(tally.resumed))))
        .chain((tally.retries > 0).then(|| units::counted(tally.retries, "retry")))
        .collect();
        if !parts.is_empty() {
            let _ = writeln!(text, "{}", parts.join(", "));
        }
        if tally.task_seconds > 0.0 {
            let _ = writeln!(
                text,
                "tasks took {} in sum: speed-up {}",
                units::seconds(tally.task_seconds),
                units::factor(tally.task_seconds / wall),
            );
        }
        self.render_failures(&mut text);
        text
    }

    fn render_failures(&self, text: &mut String) {
        let mut failures: Vec<_> = self.tally.failures.iter().collect();
        failures.sort_by_key(|failure| failure.index);
        for (place, failure) in failures.iter().enumerate() {
            let Failure {
                index, input, error, ..
            } = failure;
            let _ = write!(
                text,
                "{}item {index} {input}\n  {error}\n",
                if place == 0 { "\n" } else { "" }
            );
            for line in &failure.last_words {
                let _ = writeln!(text, "  | {line}");
            }
        }
        let hidden = self.tally.not_done() - failures.len() as u64;
        if hidden > 0 && !failures.is_empty() {
            let _ = writeln!(
                text,
                "and {} more: --show-failures N lists more, --jsonl writes all",
                units::grouped(hidden)
            );
        }
    }
}

/// An error in one line: its class and text, and where in the user's code it was raised.
pub fn error_line(error: &ItemError, attempts: u32) -> String {
    let first_line = error.message.lines().next().unwrap_or_default();
    // What follows on further lines is not shown here.
    let announced = [
        "; it was here:",
        "; it had printed:",
        "; the end of what it had printed:",
    ];
    let first_line = announced
        .iter()
        .find_map(|end| first_line.strip_suffix(end))
        .unwrap_or(first_line);
    let shown: String = if first_line.chars().count() > 300 {
        first_line.chars().take(300).chain(['…']).collect()
    } else {
        first_line.to_owned()
    };
    let mut line = match shown.as_str() {
        "" => error.kind.clone(),
        _ => format!("{}: {shown}", error.kind),
    };
    if let Some(place) = error.traceback.as_deref().and_then(innermost_frame) {
        let _ = write!(line, " ({place})");
    }
    if attempts > 1 {
        let _ = write!(line, " [{attempts} attempts]");
    }
    line
}

/// The last frame of a Python traceback, as `count.py:12 in words`.
fn innermost_frame(traceback: &str) -> Option<String> {
    let frame = traceback
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("  File \""))?;
    let (file, rest) = frame.split_once("\", line ")?;
    let (line, function) = rest.split_once(", in ").unwrap_or((rest, ""));
    let name = file.rsplit('/').next().unwrap_or(file);
    Some(if function.is_empty() {
        format!("{name}:{line}")
    } else {
        format!("{name}:{line} in {function}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_line_says_where_it_was_raised() {
        let error = ItemError {
            kind: "ValueError".into(),
            message: "no such word\nsecond line".into(),
            traceback: Some(
                "Traceback (most recent call last):\n  File \"/a/count.py\", line 12, in words\n    deeper()\n  \
                 File \"/a/deep.py\", line 3, in deeper\n    raise ValueError\nValueError: no such word\n"
                    .into(),
            ),
            exitcode: None,
            signal: None,
            limit_seconds: None,
        };
        assert_eq!(
            error_line(&error, 3),
            "ValueError: no such word (deep.py:3 in deeper) [3 attempts]"
        );
        let bare = ItemError {
            message: String::new(),
            traceback: None,
            ..error
        };
        assert_eq!(error_line(&bare, 1), "ValueError");
    }

    fn rendered(summary: &Summary<'_>) -> String {
        console::set_colors_enabled_stderr(false);
        summary.render()
    }

    #[test]
    fn a_run_without_trouble_needs_two_lines() {
        let tally = Tally {
            done: 1000,
            task_seconds: 24.2,
            ..Tally::default()
        };
        let wall = Duration::from_millis(12_300);
        let summary = Summary {
            tally: &tally,
            wall,
            processes: 2,
            cut_short: None,
            unfinished: 0,
        };
        assert_eq!(
            rendered(&summary),
            "1,000 items done in 12.3 s by 2 processes: 81.3 items/s\n\
             tasks took 24.2 s in sum: speed-up 1.97\n"
        );
    }

    #[test]
    fn failures_are_counted_by_kind_and_listed_in_order_of_the_inputs() {
        let failure = |index: u64, error: &str| Failure {
            index,
            input: format!("\"{index}.txt\""),
            error: error.to_owned(),
            last_words: Vec::new(),
        };
        let tally = Tally {
            done: 95,
            failed: 2,
            died: 1,
            timed_out: 1,
            bad_input: 1,
            resumed: 0,
            retries: 1,
            task_seconds: 3.0,
            failures: vec![
                failure(40, "WorkerDied: killed by SIGKILL"),
                failure(7, "ValueError: no words (count.py:3 in words)"),
            ],
        };
        let wall = Duration::from_secs(2);
        let summary = Summary {
            tally: &tally,
            wall,
            processes: 1,
            cut_short: None,
            unfinished: 0,
        };
        assert_eq!(
            rendered(&summary),
            "95 of 100 items done in 2.00 s by 1 process: 50.0 items/s\n\
             2 failed, 1 died, 1 timed out, 1 unreadable, 1 retry\n\
             tasks took 3.00 s in sum: speed-up 1.50\n\
             \n\
             item 7 \"7.txt\"\n  ValueError: no words (count.py:3 in words)\n\
             item 40 \"40.txt\"\n  WorkerDied: killed by SIGKILL\n\
             and 3 more: --show-failures N lists more, --jsonl writes all\n"
        );
    }

    #[test]
    fn an_interrupted_run_says_so_and_what_was_not_finished() {
        let tally = Tally {
            done: 57,
            task_seconds: 6.0,
            ..Tally::default()
        };
        let summary = Summary {
            tally: &tally,
            wall: Duration::from_secs(3),
            processes: 2,
            cut_short: Some("interrupted by SIGINT".into()),
            unfinished: 12,
        };
        assert_eq!(
            rendered(&summary),
            "interrupted by SIGINT\n\
             57 of 69 items done in 3.00 s by 2 processes: 19.0 items/s\n\
             12 not finished\n\
             tasks took 6.00 s in sum: speed-up 2.00\n"
        );
    }

    #[test]
    fn of_what_a_failed_item_had_printed_the_end_is_shown() {
        assert_eq!(last_words(None), Vec::<String>::new());
        assert_eq!(
            last_words(Some("one\ntwo\n\x1b[31mthree\nfour\n")),
            ["two", "[31mthree", "four"]
        );
        let failure = Failure {
            index: 3,
            input: "\"x\"".into(),
            error: "ValueError: no".into(),
            last_words: last_words(Some("about to fail\n")),
        };
        let tally = Tally {
            failed: 1,
            failures: vec![failure],
            ..Tally::default()
        };
        let summary = Summary {
            tally: &tally,
            wall: Duration::from_secs(1),
            processes: 1,
            cut_short: None,
            unfinished: 0,
        };
        let text = rendered(&summary);
        assert!(
            text.ends_with("item 3 \"x\"\n  ValueError: no\n  | about to fail\n"),
            "{text}"
        );
    }
}
