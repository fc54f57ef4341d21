//! What the caller is told of its pool: statistics and events.

use procession::channel::Record;
use procession::pool::events::{Events, PoolEvent};
use procession::pool::stats::{hints, FunctionStats};
use procession::What;

use super::*;

/// The figures of one function, in the order of `procession.FunctionStats`.
pub(super) type Figures = (
    String,
    (u64, u64, u64, u64, u64),
    (f64, f64, f64, f64, f64),
    (u64, u64),
);

fn figures(f: &FunctionStats) -> Figures {
    (
        f.function.clone(),
        (f.items, f.failed, f.lost, f.batches, f.largest_batch),
        (
            f.encode_seconds,
            f.queue_seconds,
            f.run_seconds,
            f.return_seconds,
            f.longest_seconds,
        ),
        (f.argument_bytes, f.result_bytes),
    )
}

impl Core {
    pub(super) fn stats(&self, py: Python<'_>) -> (Vec<Figures>, Vec<String>) {
        let tallies: Vec<(u32, FunctionTally)> = self.inner.with(py, |i| {
            let used = i.known.iter().enumerate().filter(|(_, k)| !k.tally.is_empty());
            used.map(|(n, k)| (n as u32, k.tally.clone())).collect()
        });
        let functions: Vec<FunctionStats> = tallies
            .into_iter()
            .map(|(number, tally)| tally.stats(self.function_name(py, number)))
            .collect();
        let cpus = crate::fork::usable_cpus();
        let hints = hints(&functions, self.workers as usize, cpus);
        (
            functions.iter().map(figures).collect(),
            hints.iter().map(ToString::to_string).collect(),
        )
    }

    pub(super) fn tell_retry(&self, py: Python<'_>, function: &str) {
        if !self.channel.has_event_readers() {
            return;
        }
        self.channel.tell_event(&Record {
            what: What::Retried,
            time_ns: time::monotonic_ns(),
            worker: 0,
            pid: 0,
            function: self.name_number(py, function),
            item: Note::NO_ITEM,
            value: 0,
        });
    }

    pub(super) fn events(&self) -> EventReader {
        EventReader {
            events: Mutex::new(Events::of(self.channel.clone())),
            generation: generation(),
        }
    }
}

/// Reads the events of a pool; `procession.Events` is built on it.
#[pyclass(frozen, module = "procession._native")]
pub struct EventReader {
    events: Mutex<Events>,
    generation: u32,
}

/// An event, in the order of `procession.Event`.
type Fields = (
    &'static str,
    f64,
    String,
    u32,
    String,
    Option<u64>,
    Option<f64>,
    Option<i32>,
);

fn fields(event: PoolEvent) -> Fields {
    let what = match event.what {
        What::Started => "started",
        What::Finished => "finished",
        What::Failed => "failed",
        What::Lost => "lost",
        What::Retried => "retried",
        What::WorkerReady => "worker ready",
        What::WorkerEnded => "worker ended",
        _ => "unknown",
    };
    (
        what,
        event.at_seconds,
        event.worker,
        event.pid,
        event.function,
        event.item,
        event.ran.map(|ran| ran.as_secs_f64()),
        event.exit_code,
    )
}

/// How long the GIL is let go at a time, so that Ctrl-C is answered soon.
const NAP: Duration = Duration::from_millis(200);

#[pymethods]
impl EventReader {
    /// The next event, waited for at most this many seconds; `None` if there is none.
    fn next(&self, py: Python<'_>, seconds: f64) -> PyResult<Option<Fields>> {
        // A forked child's copy belongs to its parent.
        if self.generation != generation() {
            return Ok(None);
        }
        let patience = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX);
        let end = Instant::now().checked_add(patience);
        loop {
            let left = end.map_or(NAP, |end| end.saturating_duration_since(Instant::now()));
            let (event, over) = py.detach(|| {
                let mut events = self.events.lock().unwrap_or_else(|e| e.into_inner());
                let event = events.next_within(left.min(NAP));
                let over = event.is_none() && events.is_over();
                (event, over)
            });
            if let Some(event) = event {
                return Ok(Some(fields(event)));
            }
            py.check_signals()?;
            if over || end.is_some_and(|end| Instant::now() >= end) {
                return Ok(None);
            }
        }
    }

    /// Whether nothing more will happen.
    fn is_over(&self, py: Python<'_>) -> bool {
        py.detach(|| self.events.lock().unwrap_or_else(|e| e.into_inner()).is_over())
    }

    /// How many events were missed.
    #[getter]
    fn missed(&self, py: Python<'_>) -> u64 {
        py.detach(|| self.events.lock().unwrap_or_else(|e| e.into_inner()).missed())
    }
}

impl Drop for EventReader {
    fn drop(&mut self) {
        // Nor is the count of readers in the shared memory the child's to lower.
        if self.generation != generation() {
            if let Ok(events) = self.events.get_mut() {
                events.disown();
            }
        }
    }
}
