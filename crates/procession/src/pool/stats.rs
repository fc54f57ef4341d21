//! Where a pool's time goes, function by function, and what to do about it.
//!
//! Counts are exact. Times are those of the tasks that were timed: each batch of several items, and one of sixteen single
//! tasks, so that the stamps cost little against what they measure.

use std::fmt;

/// One of so many single tasks is timed.
pub const TIMED_ONE_OF: u32 = 16;

/// What a pool has seen of one function. Seconds are means over what was timed.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct FunctionStats {
    /// The function's name.
    pub function: String,
    /// Items whose results have come back, errors included.
    pub items: u64,
    /// Those of them that raised or panicked.
    pub failed: u64,
    /// Items that were lost with their workers.
    pub lost: u64,
    /// Tasks that these items travelled in.
    pub batches: u64,
    /// Items in the largest of them.
    pub largest_batch: u64,
    /// Seconds to encode the arguments of an item, in the caller.
    pub encode_seconds: f64,
    /// Seconds from the moment that a task was on its way until a worker began with it.
    pub queue_seconds: f64,
    /// Seconds that an item ran, decoding and encoding in the worker included.
    pub run_seconds: f64,
    /// Seconds from its end until the caller had its result.
    pub return_seconds: f64,
    /// Seconds of the longest task, per item.
    pub longest_seconds: f64,
    /// Bytes of an item's arguments.
    pub argument_bytes: u64,
    /// Bytes of an item's result.
    pub result_bytes: u64,
}

/// What becomes of [`FunctionStats`].
#[derive(Debug, Clone, Default)]
pub struct FunctionTally {
    items: u64,
    failed: u64,
    lost: u64,
    batches: u64,
    largest_batch: u64,
    argument_bytes: u64,
    sent_items: u64,
    result_bytes: u64,
    encoded_items: u64,
    encode_ns: u64,
    timed_batches: u64,
    timed_items: u64,
    queue_ns: u64,
    run_ns: u64,
    return_ns: u64,
    longest_ns: u64,
}

/// A task that has come back.
#[derive(Debug, Clone, Copy)]
pub struct Came {
    /// Items that it carried.
    pub items: u32,
    /// Those that raised or panicked.
    pub failed: u32,
    /// Bytes of their results.
    pub result_bytes: u64,
    /// If it was timed: when it was on its way, when a worker began, how long that took, and when it came back, in
    /// nanoseconds.
    pub times: Option<[u64; 4]>,
}

impl FunctionTally {
    /// Counts a task that is sent: its items, the bytes of their arguments, and how long encoding took if that was timed.
    #[inline]
    pub fn sent(&mut self, items: u32, argument_bytes: u64, encode_ns: Option<u64>) {
        self.sent_items += u64::from(items);
        self.argument_bytes += argument_bytes;
        if let Some(ns) = encode_ns {
            self.encoded_items += u64::from(items);
            self.encode_ns += ns;
        }
    }

    /// Counts a task that has come back.
    #[inline]
    pub fn came(&mut self, task: Came) {
        let items = u64::from(task.items);
        self.items += items;
        self.failed += u64::from(task.failed);
        self.batches += 1;
        self.largest_batch = self.largest_batch.max(items);
        self.result_bytes += task.result_bytes;
        if let Some([sent, began, ran, now]) = task.times {
            self.timed_batches += 1;
            self.timed_items += items;
            self.queue_ns += began.saturating_sub(sent);
            self.run_ns += ran;
            self.return_ns += now.saturating_sub(began.saturating_add(ran));
            self.longest_ns = self.longest_ns.max(ran / items.max(1));
        }
    }

    /// Counts an item that was lost with its worker.
    pub fn lost(&mut self) {
        self.lost += 1;
    }

    /// Whether there is anything to tell.
    pub fn is_empty(&self) -> bool {
        self.sent_items == 0
    }

    /// The figures as people want them.
    pub fn stats(&self, function: String) -> FunctionStats {
        let seconds = |ns: u64, over: u64| {
            if over == 0 {
                0.0
            } else {
                ns as f64 / over as f64 / 1e9
            }
        };
        FunctionStats {
            function,
            items: self.items,
            failed: self.failed,
            lost: self.lost,
            batches: self.batches,
            largest_batch: self.largest_batch,
            encode_seconds: seconds(self.encode_ns, self.encoded_items),
            queue_seconds: seconds(self.queue_ns, self.timed_batches),
            run_seconds: seconds(self.run_ns, self.timed_items),
            return_seconds: seconds(self.return_ns, self.timed_batches),
            longest_seconds: self.longest_ns as f64 / 1e9,
            argument_bytes: self.argument_bytes / self.sent_items.max(1),
            result_bytes: self.result_bytes / self.items.max(1),
        }
    }
}

/// What costs the user time, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint(String);

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Below this, sending a task by itself costs more than running it.
const TINY_SECONDS: f64 = 20e-6;
/// As many items must have come back before anything is said of them.
const ENOUGH_ITEMS: u64 = 100;
/// Arguments of this size take longer to copy than a worker to wake.
const LARGE_BYTES: u64 = 1 << 20;

/// What could be done better, judged by the figures; `workers` on a machine where this process may use `cpus`.
pub fn hints(functions: &[FunctionStats], workers: usize, cpus: usize) -> Vec<Hint> {
    let mut hints = Vec::new();
    let mut say = |text: String| hints.push(Hint(text));
    for f in functions {
        let name = &f.function;
        let per_batch = f.items as f64 / f.batches.max(1) as f64;
        if f.items >= ENOUGH_ITEMS && per_batch < 2.0 && f.run_seconds > 0.0 && f.run_seconds < TINY_SECONDS {
            say(format!(
                "{name} takes {:.1} µs a call, less than it costs to send a call by itself: give many of them to one map(), \
                 or a larger chunksize to imap()",
                f.run_seconds * 1e6
            ));
        }
        if f.argument_bytes >= LARGE_BYTES && f.encode_seconds > f.run_seconds / 4.0 {
            say(format!(
                "the arguments of {name} are {} MiB each, and encoding them takes {:.1} ms of the caller's time against \
                 {:.1} ms of work: have the workers load the data (an initializer), or send names and places instead",
                f.argument_bytes >> 20,
                f.encode_seconds * 1e3,
                f.run_seconds * 1e3
            ));
        } else if f.items >= ENOUGH_ITEMS
            && f.encode_seconds * workers as f64 > f.run_seconds
            && f.run_seconds > TINY_SECONDS
        {
            say(format!(
                "encoding the arguments of {name} takes {:.0} µs and running it {:.0} µs: one caller cannot keep {workers} \
                 workers busy; send less with each item",
                f.encode_seconds * 1e6,
                f.run_seconds * 1e6
            ));
        }
        if f.items >= 2 * workers as u64
            && f.longest_seconds > 0.1
            && f.longest_seconds > 20.0 * f.run_seconds
        {
            say(format!(
                "one call of {name} took {:.1} s, the mean is {:.3} s: start such stragglers first, so that the others run \
                 beside them",
                f.longest_seconds, f.run_seconds
            ));
        }
        if f.failed + f.lost > f.items / 2 && f.items >= 4 {
            say(format!(
                "most calls of {name} fail ({} of {})",
                f.failed + f.lost,
                f.items + f.lost
            ));
        }
    }
    if workers > cpus {
        say(format!(
            "there are {workers} workers for {cpus} CPUs: good for work that waits, a loss for work that computes"
        ));
    }
    hints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn came(items: u32, ran: u64) -> Came {
        Came {
            items,
            failed: 0,
            result_bytes: 8,
            times: Some([100, 1100, ran, 1100 + ran + 500]),
        }
    }

    #[test]
    fn means_are_over_what_was_timed_and_counts_over_all() {
        let mut tally = FunctionTally::default();
        assert!(tally.is_empty());
        tally.sent(4, 40, Some(8000));
        tally.sent(1, 10, None);
        tally.came(came(4, 4000));
        tally.came(Came {
            times: None,
            failed: 1,
            ..came(1, 0)
        });
        tally.lost();
        let stats = tally.stats("f".into());
        assert_eq!((stats.items, stats.failed, stats.lost), (5, 1, 1));
        assert_eq!((stats.batches, stats.largest_batch), (2, 4));
        assert_eq!((stats.argument_bytes, stats.result_bytes), (10, 3));
        let close = |a: f64, ns: f64| (a - ns / 1e9).abs() < 1e-12;
        assert!(close(stats.encode_seconds, 2000.0) && close(stats.run_seconds, 1000.0));
        assert!(close(stats.queue_seconds, 1000.0) && close(stats.return_seconds, 500.0));
    }

    #[test]
    fn hints_name_the_function_and_the_cure() {
        let base = FunctionStats {
            function: "f".into(),
            items: 1000,
            batches: 1000,
            run_seconds: 1e-3,
            ..FunctionStats::default()
        };
        let texts = |f: FunctionStats, workers| -> Vec<String> {
            hints(&[f], workers, 2).iter().map(Hint::to_string).collect()
        };
        assert!(texts(base.clone(), 2).is_empty());
        let tiny = FunctionStats {
            run_seconds: 2e-6,
            ..base.clone()
        };
        assert!(texts(tiny, 2)[0].contains("one map()"));
        let large = FunctionStats {
            argument_bytes: 32 << 20,
            encode_seconds: 5e-3,
            ..base.clone()
        };
        assert!(texts(large, 2)[0].contains("32 MiB each"));
        let straggler = FunctionStats {
            longest_seconds: 3.0,
            ..base.clone()
        };
        assert!(texts(straggler, 2)[0].contains("stragglers first"));
        assert!(texts(base, 8)[0].contains("8 workers for 2 CPUs"));
    }
}
