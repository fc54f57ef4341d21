//! What feeds an iterator whose source may block or run the user's code.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;
use std::time::Duration;

use procession::os::futex;
use pyo3::prelude::*;
use pyo3::types::PyIterator;

use super::imap::ImapBase;
use crate::job::Job;
use crate::pool::PoolBase;

/// Pulls from a source that may block or run the user's code, in a thread of its own.
#[pyclass(frozen, module = "procession._native")]
pub struct Feeder {
    pub(super) pool: Py<PoolBase>,
    pub(super) job: Arc<Job>,
    pub(super) room: Arc<AtomicU32>,
    pub(super) iterator: Py<PyAny>,
}

#[pymethods]
impl Feeder {
    /// Where the items come from. Python code iterates over it, so that no frame of ours is below one that may block.
    #[getter]
    fn source(&self, py: Python<'_>) -> Option<Py<PyIterator>> {
        self.job
            .state
            .with(py, |j| j.source.as_ref().and_then(|s| s.iterator(py)))
    }

    /// Sends one item out and waits until there is room for another; false if nobody wants results any more.
    fn put(&self, py: Python<'_>, item: Py<PyAny>) -> PyResult<bool> {
        let pool = self.pool.bind(py);
        let core = pool.get().core()?;
        let mut item = Some(item);
        loop {
            let seen = self.room.load(Ordering::SeqCst);
            if core.is_over(py) || self.job.state.with(py, |j| j.abandoned) {
                return Ok(false);
            }
            self.job.state.with(py, |j| {
                if j.has_room() && j.held.is_none() && j.parked.is_empty() {
                    j.held = item.take();
                }
            });
            core.pump_job(py, &self.job);
            let (sent, room) = self
                .job
                .state
                .with(py, |j| (j.held.is_none() && j.parked.is_empty(), j.has_room()));
            // The source is asked for the next item only when there is a place for it.
            if sent && item.is_none() && room {
                return Ok(true);
            }
            // Nothing of the iterator is kept while this thread sleeps, as it ends when its consumer lets go of it.
            match self.iterator.call0(py)?.extract::<Py<ImapBase>>(py) {
                Ok(iterator) => iterator.get().waiting.with(py, |w| w.set(true)),
                Err(_) => return Ok(false),
            }
            // The consumer wakes this thread; the limit is for room that others' results take.
            let limit = Some(Duration::from_millis(if sent { 100 } else { 5 }));
            core.detached(py, || futex::wait(&self.room, seen, limit));
        }
    }

    /// Says that the source has ended, or raised this.
    #[pyo3(signature = (error=None))]
    fn end(&self, py: Python<'_>, error: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        let error = error.map(PyErr::from_value);
        let ended = self.job.state.with(py, |j| {
            if let Some(error) = error {
                let index = j.pulled;
                j.pulled += 1;
                j.total = Some(j.pulled);
                j.fail_item(index, error);
            }
            j.end_source()
        });
        drop(ended);
        let core = self.pool.get().core()?;
        core.source_has_ended(py, &self.job);
        Ok(())
    }
}
