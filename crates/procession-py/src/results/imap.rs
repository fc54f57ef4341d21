//! Iterators over results, each given out as it is there.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

use procession::os::futex;
use procession::os::process::generation;
use pyo3::exceptions::PyStopIteration;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyString;
use pyo3::{PyTraverseError, PyVisit};

use super::feeder::Feeder;
use crate::gil::GilCell;
use crate::job::{Item, Job, Sink};
use crate::pool::{duration, raise_timeout, PoolBase};

/// An iterator over results, each given out as it is there.
#[pyclass(frozen, subclass, module = "procession.pool", name = "IMapIterator", weakref)]
pub struct ImapBase {
    pool: Py<PoolBase>,
    job: Arc<Job>,
    fed_by_thread: bool,
    /// Raised when the consumer has made room, for a feeding thread that sleeps.
    room: Arc<AtomicU32>,
    pub(super) waiting: GilCell<Cell<bool>>,
    /// What the item has written that was given out last, if that is kept and anything was.
    output: GilCell<Option<Py<PyAny>>>,
    generation: u32,
}

impl ImapBase {
    pub fn new(pool: Py<PoolBase>, job: Arc<Job>, fed_by_thread: bool) -> Self {
        ImapBase {
            pool,
            job,
            fed_by_thread,
            room: Arc::default(),
            waiting: GilCell::new(Cell::new(false)),
            output: GilCell::new(None),
            generation: generation(),
        }
    }

    /// The Python object, of the class that tells the order.
    pub fn into_object(self, py: Python<'_>, ordered: bool) -> PyResult<Bound<'_, PyAny>> {
        if ordered {
            return Ok(Bound::new(py, self)?.into_any());
        }
        Ok(Bound::new(py, PyClassInitializer::from(self).add_subclass(ImapUnordered {}))?.into_any())
    }

    fn make_room(&self, py: Python<'_>) {
        if self.fed_by_thread && self.waiting.with(py, |w| w.get()) {
            let (outstanding, buffer, over) = self.job.state.with(py, |j| match &j.sink {
                Sink::Stream { given, buffer, .. } => (j.pulled - *given, *buffer, j.abandoned),
                Sink::List { .. } => (0, 0, true),
            });
            // A feeder is woken once for half a buffer, not for each place.
            if outstanding <= buffer / 2 || over {
                self.room.fetch_add(1, Ordering::SeqCst);
                futex::wake(&self.room, 1);
            }
        }
    }

    fn take(&self, py: Python<'_>) -> Option<Option<Item>> {
        self.job.state.with(py, |j| {
            let complete = j.is_complete() && !j.has_more();
            match &mut j.sink {
                Sink::Stream { ready, given, .. } => match ready.front() {
                    Some(Some(_)) => {
                        *given += 1;
                        Some(ready.pop_front().flatten())
                    }
                    _ if complete || (j.abandoned && ready.is_empty()) => Some(None),
                    _ => None,
                },
                Sink::List { .. } => Some(None),
            }
        })
    }

    fn give(&self, py: Python<'_>, item: Option<Item>) -> PyResult<Py<PyAny>> {
        self.make_room(py);
        let mut output = None;
        let given = match item {
            None => Err(PyStopIteration::new_err(())),
            Some(Item::Value(value)) => Ok(value),
            Some(Item::Raw(mut raw)) => {
                let told = raw.next(py, &self.job.task);
                output = told.output.map(Bound::unbind);
                told.outcome.map(Bound::unbind)
            }
            Some(Item::Exception(e)) => {
                let text = e.value(py).getattr(intern!(py, "output"));
                output = text.ok().map(Bound::unbind);
                Err(e)
            }
        };
        let _former = self.output.with(py, |o| std::mem::replace(o, output));
        given
    }

    fn next_within(slf: &Bound<'_, Self>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let this = slf.get();
        let pool = this.pool.bind(py);
        let mut found = this.take(py);
        if found.is_none() {
            let core = pool.get().core()?;
            let timeout = duration(timeout)?;
            core.wait_until(py, pool, timeout, Some(&this.job), |py| {
                found = this.take(py);
                found.is_some()
            })?;
            if found.is_none() {
                return Err(raise_timeout(py));
            }
        } else if !this.fed_by_thread {
            // Half of the buffer is free: send out more before giving this one out.
            let refill = this.job.state.with(py, |j| match &j.sink {
                Sink::Stream { given, buffer, .. } => j.has_more() && j.pulled - *given <= *buffer / 2,
                Sink::List { .. } => false,
            });
            if refill {
                if let Ok(core) = pool.get().core() {
                    core.pump_job(py, &this.job);
                }
            }
        }
        match found {
            Some(item) => this.give(py, item),
            None => Err(PyStopIteration::new_err(())),
        }
    }
}

impl Drop for ImapBase {
    fn drop(&mut self) {
        if self.generation != generation() {
            return;
        }
        // SAFETY of the token: the interpreter drops this, with the GIL held.
        Python::attach(|py| {
            let dropped = self.job.state.with(py, |j| {
                j.abandoned = true;
                let dropped = (
                    j.source.take(),
                    j.held.take(),
                    std::mem::take(&mut j.parked),
                    match &mut j.sink {
                        Sink::Stream { ready, .. } => std::mem::take(ready),
                        Sink::List { .. } => Default::default(),
                    },
                );
                if j.total.is_none() {
                    j.total = Some(j.pulled);
                }
                dropped
            });
            drop(dropped);
            self.room.fetch_add(1, Ordering::SeqCst);
            futex::wake(&self.room, 1);
            if let Ok(core) = self.pool.get().core() {
                core.forget_job(py, &self.job);
            }
        });
    }
}

#[pymethods]
impl ImapBase {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // What belongs to the job is not only this object's, and goes when it is dropped.
        visit.call(&self.pool)
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(slf: &Bound<'_, Self>) -> PyResult<Option<Py<PyAny>>> {
        match Self::next_within(slf, None) {
            Ok(value) => Ok(Some(value)),
            Err(e) => Err(e),
        }
    }

    /// Waits for the next result and returns it, or raises what its task raised.
    ///
    /// Raises `StopIteration` at the end, and `multiprocessing.TimeoutError` if the result is not there after
    /// `timeout` seconds.
    #[pyo3(signature = (timeout=None))]
    fn next(slf: &Bound<'_, Self>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Py<PyAny>> {
        Self::next_within(slf, timeout)
    }

    /// What the item has written to its standard output and error whose result was given out last, as text; empty without
    /// the pool's `output="capture"`.
    #[getter]
    fn output(&self, py: Python<'_>) -> Py<PyAny> {
        let output = self.output.with(py, |o| o.as_ref().map(|o| o.clone_ref(py)));
        output.unwrap_or_else(|| PyString::new(py, "").into_any().unbind())
    }

    fn __aiter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __anext__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.py()
            .import("procession._aio")?
            .call_method1("next_of", (slf,))
    }

    /// Cancels what is not done: those who run it are killed. After the results that are there, `next` raises
    /// `TaskCancelled` once. Returns whether anything was left to cancel.
    fn cancel(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let this = slf.get();
        let pool = this.pool.bind(slf.py());
        let core = pool.get().core()?;
        core.collect(slf.py(), pool);
        let cancelled = core.cancel_job(slf.py(), &this.job, true);
        this.room.fetch_add(1, Ordering::SeqCst);
        futex::wake(&this.room, 1);
        Ok(cancelled)
    }

    /// Takes back what no worker has begun, and forgets the rest.
    fn _cancel_queued(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let this = slf.get();
        let core = this.pool.get().core()?;
        Ok(core.cancel_job(slf.py(), &this.job, false))
    }

    /// Has `listener` called, in the pool's helper thread, when `next` need not wait. False if it need not wait now.
    fn _listen(slf: &Bound<'_, Self>, listener: Py<PyAny>) -> PyResult<bool> {
        let py = slf.py();
        let this = slf.get();
        let pool = this.pool.bind(py);
        let core = pool.get().core()?;
        core.collect(py, pool);
        if this.job.state.with(py, |j| j.has_next()) {
            return Ok(false);
        }
        core.listen_to_job(py, pool, &this.job, listener);
        Ok(true)
    }

    /// What feeds this iterator, if its source needs a thread of its own.
    fn _feeder(slf: &Bound<'_, Self>) -> PyResult<Option<Feeder>> {
        let this = slf.get();
        let weak = slf
            .py()
            .import("weakref")?
            .getattr("ref")?
            .call1((slf,))?
            .unbind();
        Ok(this.fed_by_thread.then(|| Feeder {
            pool: this.pool.clone_ref(slf.py()),
            job: this.job.clone(),
            room: this.room.clone(),
            iterator: weak,
        }))
    }
}

/// An iterator over results in the order in which they come.
#[pyclass(frozen, extends = ImapBase, module = "procession.pool", name = "IMapUnorderedIterator")]
pub struct ImapUnordered {}
