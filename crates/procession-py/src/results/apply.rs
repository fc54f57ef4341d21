//! A result to come: it takes in what the worker has sent, decodes it when somebody asks, and is waited for.

use std::sync::Arc;

use procession::channel::Channel;
use procession::shm::{Block, Owner};
use pyo3::exceptions::{PyBaseException, PyValueError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};

use crate::codec::Reader;
use crate::gil::GilCell;
use crate::job::Job;
use crate::pool::{decode_pending, duration, raise_timeout, take_job_value, PoolBase};
use crate::raw::Raw;
use crate::worker::outcome;

/// What is to be called when a result is there.
#[derive(Debug)]
pub struct Calls {
    pub callback: Option<Py<PyAny>>,
    pub error_callback: Option<Py<PyAny>>,
    /// Called without arguments when all that is over.
    pub listeners: Vec<Py<PyAny>>,
}

/// How a call ended, as far as is known.
#[derive(Debug)]
pub enum Outcome {
    Pending,
    Raw(Raw),
    Value(Py<PyAny>),
    Error(Py<PyBaseException>),
}

/// The result of `apply_async` and `map_async`, to come or there.
#[pyclass(frozen, subclass, module = "procession.pool", name = "ApplyResult", weakref)]
pub struct AsyncResult {
    pub(super) pool: Py<PoolBase>,
    pub(super) outcome: GilCell<Outcome>,
    pub(super) calls: GilCell<Option<Box<Calls>>>,
    pub(super) job: Option<Arc<Job>>,
    /// The slot whose entry points here, plus one.
    slot: GilCell<u32>,
    /// The number under which the pool knows the name of its function, plus one.
    named: GilCell<u32>,
    /// What cancels it, if its value comes from Python code.
    pub(super) canceller: GilCell<Option<Py<PyAny>>>,
    /// What the task has written, if that is kept and anything was; of a map of Python code, a list of that.
    pub(super) output: GilCell<Option<Py<PyAny>>>,
}

/// The result of `map_async` and `starmap_async`.
#[pyclass(frozen, extends = AsyncResult, module = "procession.pool", name = "MapResult")]
pub struct MapResult {}

impl AsyncResult {
    fn with(pool: Py<PoolBase>, outcome: Outcome, calls: Option<Box<Calls>>, job: Option<Arc<Job>>) -> Self {
        AsyncResult {
            pool,
            outcome: GilCell::new(outcome),
            calls: GilCell::new(calls),
            job,
            slot: GilCell::new(0),
            named: GilCell::new(0),
            canceller: GilCell::new(None),
            output: GilCell::new(None),
        }
    }

    pub fn set_canceller(&self, py: Python<'_>, canceller: Py<PyAny>) {
        self.canceller.with(py, |c| *c = Some(canceller));
    }

    /// The slot that carries the task, if it has one.
    pub fn slot(&self, py: Python<'_>) -> Option<u32> {
        self.slot.with(py, |s| s.checked_sub(1))
    }

    /// Has this called when the result is there. False if it is.
    pub(super) fn listen(slf: &Bound<'_, Self>, listener: Py<PyAny>) -> PyResult<bool> {
        let py = slf.py();
        let this = slf.get();
        if Self::ready(slf) {
            return Ok(false);
        }
        let pool = this.pool.bind(py);
        let core = pool.get().core()?;
        if let Some(job) = &this.job {
            core.listen_to_job(py, pool, job, listener);
            return Ok(true);
        }
        let first = this.calls.with(py, |c| {
            let first = c.is_none();
            let calls = c.get_or_insert_with(|| {
                Box::new(Calls {
                    callback: None,
                    error_callback: None,
                    listeners: Vec::new(),
                })
            });
            calls.listeners.push(listener);
            first
        });
        if first {
            core.hold(py, pool, slf);
        }
        Ok(true)
    }

    pub fn pending(pool: Py<PoolBase>, calls: Option<Box<Calls>>) -> Self {
        Self::with(pool, Outcome::Pending, calls, None)
    }

    pub fn promised(
        py: Python<'_>,
        pool: Py<PoolBase>,
        calls: Option<Box<Calls>>,
        many: bool,
    ) -> PyResult<Bound<'_, AsyncResult>> {
        let base = Self::pending(pool, calls);
        if many {
            let result = Bound::new(py, PyClassInitializer::from(base).add_subclass(MapResult {}))?;
            return Ok(result.into_super());
        }
        Bound::new(py, base)
    }

    pub fn of_job(py: Python<'_>, pool: Py<PoolBase>, job: Arc<Job>) -> PyResult<Bound<'_, PyAny>> {
        let base = Self::with(pool, Outcome::Pending, None, Some(job));
        Ok(Bound::new(py, PyClassInitializer::from(base).add_subclass(MapResult {}))?.into_any())
    }

    pub fn ready_list<'py>(
        py: Python<'py>,
        pool: Py<PoolBase>,
        list: Bound<'py, PyList>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let base = Self::with(pool, Outcome::Value(list.into_any().unbind()), None, None);
        Ok(Bound::new(py, PyClassInitializer::from(base).add_subclass(MapResult {}))?.into_any())
    }

    pub fn has_calls(&self) -> bool {
        // SAFETY of the token: every caller holds the GIL.
        Python::attach(|py| self.calls.with(py, |c| c.is_some()))
    }

    pub fn set_slot(&self, slot: u32, named: Option<u32>) {
        Python::attach(|py| {
            self.slot.with(py, |s| *s = slot + 1);
            self.named.with(py, |n| *n = named.map_or(0, |n| n + 1));
        });
    }

    pub fn forget_slot(&self) {
        Python::attach(|py| self.slot.with(py, |s| *s = 0));
    }

    /// What to call the task in an error's text.
    pub fn task(&self, py: Python<'_>) -> String {
        if let Some(job) = &self.job {
            return job.task.clone();
        }
        let named = self.named.with(py, |n| n.checked_sub(1));
        match (named, self.pool.get().core()) {
            (Some(number), Ok(core)) => core.function_name(py, number),
            _ => "task".into(),
        }
    }

    /// Takes in the message of the worker. Runs no Python code.
    pub fn arrive(
        &self,
        py: Python<'_>,
        channel: &Arc<Channel>,
        seat: Owner,
        block: Option<Block>,
        bytes: &[u8],
    ) {
        self.slot.with(py, |s| *s = 0);
        let mut reader = Reader::over(bytes);
        let plain = if reader.byte() == Some(outcome::OK) {
            reader.plain(py)
        } else {
            None
        };
        let outcome = match plain {
            Some(value) => {
                if let Some(block) = block {
                    channel.arena().free(block, seat);
                }
                Outcome::Value(value.unbind())
            }
            None => Outcome::Raw(Raw::adopt(channel, seat, block, bytes, 0, 1)),
        };
        let _former = self.outcome.with(py, |o| std::mem::replace(o, outcome));
    }

    pub fn fail(&self, py: Python<'_>, error: PyErr) {
        let error = error.into_value(py);
        self.slot.with(py, |s| *s = 0);
        let _former = self
            .outcome
            .with(py, |o| std::mem::replace(o, Outcome::Error(error)));
    }

    /// Decodes what has arrived; user code may run.
    fn decode(&self, py: Python<'_>) {
        let raw = self.outcome.with(py, |o| match o {
            Outcome::Raw(_) => match std::mem::replace(o, Outcome::Pending) {
                Outcome::Raw(raw) => Some(raw),
                _ => None,
            },
            _ => None,
        });
        if let Some(mut raw) = raw {
            let told = raw.next(py, &self.task(py));
            if let Some(text) = told.output {
                self.output.with(py, |o| *o = Some(text.unbind()));
            }
            let outcome = match told.outcome {
                Ok(value) => Outcome::Value(value.unbind()),
                Err(e) => Outcome::Error(e.into_value(py)),
            };
            self.outcome.with(py, |o| *o = outcome);
        }
    }

    /// Turns what has arrived into a value or an error; user code may run.
    pub(super) fn settle(&self, py: Python<'_>) {
        let Some(job) = &self.job else {
            return self.decode(py);
        };
        if !self.outcome.with(py, |o| matches!(o, Outcome::Pending)) {
            return;
        }
        let core = self.pool.get().core().ok();
        let outcome = match take_job_value(py, core, job) {
            Ok(list) => {
                // SAFETY: the list is whole now; the collector may know it again.
                unsafe {
                    if ffi::PyObject_GC_IsTracked(list.as_ptr()) == 0 {
                        ffi::PyObject_GC_Track(list.as_ptr().cast());
                    }
                }
                Outcome::Value(list)
            }
            Err(e) => Outcome::Error(e.into_value(py)),
        };
        let _former = self.outcome.with(py, |o| std::mem::replace(o, outcome));
    }

    /// What was written: by each item of a map, in their order, or by the one task. Nothing before that has ended.
    pub(super) fn texts(slf: &Bound<'_, Self>) -> PyResult<Vec<Py<PyAny>>> {
        let py = slf.py();
        let this = slf.get();
        if !Self::ready(slf) {
            return Ok(Vec::new());
        }
        this.settle(py);
        let nothing = || PyString::new(py, "").into_any().unbind();
        if let Some(job) = &this.job {
            return Ok(job.state.with(py, |j| {
                let mut texts: Vec<_> = (0..j.total.unwrap_or(0)).map(|_| nothing()).collect();
                for (index, text) in &j.outputs {
                    if let Some(place) = texts.get_mut(*index as usize) {
                        *place = text.clone_ref(py);
                    }
                }
                texts
            }));
        }
        match this.written(py) {
            Some(texts) if texts.bind(py).is_instance_of::<PyList>() => texts.extract(py),
            Some(text) => Ok(vec![text]),
            // Those of the dead came with their error.
            None => Ok(vec![match this.result(py) {
                Some(Err(e)) => e
                    .value(py)
                    .getattr(intern!(py, "output"))
                    .map_or_else(|_| nothing(), Bound::unbind),
                _ => nothing(),
            }]),
        }
    }

    /// What the task has written, as far as its result was decoded.
    pub fn written(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.output.with(py, |o| o.as_ref().map(|o| o.clone_ref(py)))
    }

    pub(super) fn result(&self, py: Python<'_>) -> Option<PyResult<Py<PyAny>>> {
        self.outcome.with(py, |o| match o {
            Outcome::Value(value) => Some(Ok(value.clone_ref(py))),
            Outcome::Error(e) => Some(Err(PyErr::from_value(e.bind(py).clone().into_any()))),
            _ => None,
        })
    }

    /// What is to be called, with what, and the task's error if it has one.
    pub fn due_call(&self, py: Python<'_>) -> (Option<Py<PyAny>>, Option<Py<PyAny>>, Option<PyErr>) {
        self.decode(py);
        let calls = self.calls.with(py, |c| {
            c.as_ref().map(|c| {
                let clone = |f: &Option<Py<PyAny>>| f.as_ref().map(|f| f.clone_ref(py));
                (clone(&c.callback), clone(&c.error_callback))
            })
        });
        match (calls, self.result(py)) {
            (Some((callback, _)), Some(Ok(value))) => (callback, Some(value), None),
            (Some((_, callback)), Some(Err(e))) => {
                (callback, Some(e.value(py).clone().into_any().unbind()), Some(e))
            }
            _ => (None, None, None),
        }
    }

    /// The callback has run; what it raised takes the place of the result.
    pub fn calls_are_done(&self, py: Python<'_>, raised: Option<PyErr>) -> Vec<Py<PyAny>> {
        if let Some(e) = raised {
            self.fail(py, e);
        }
        let calls = self.calls.with(py, Option::take);
        calls.map(|c| c.listeners).unwrap_or_default()
    }

    pub(super) fn is_ready(&self, py: Python<'_>) -> bool {
        if let Some(job) = &self.job {
            return job.state.with(py, |j| j.is_ready());
        }
        let arrived = self.outcome.with(py, |o| !matches!(o, Outcome::Pending));
        arrived && !self.calls.with(py, |c| c.is_some())
    }

    /// Waits and returns the value, or raises what the task raised.
    pub fn get_value(slf: &Bound<'_, Self>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let this = slf.get();
        if !Self::wait_ready(slf, timeout)? {
            return Err(raise_timeout(py));
        }
        this.settle(py);
        this.result(py)
            .unwrap_or_else(|| Err(PyValueError::new_err("the result was taken by another thread")))
    }

    pub(super) fn wait_ready(slf: &Bound<'_, Self>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let py = slf.py();
        let this = slf.get();
        if this.is_ready(py) {
            return Ok(true);
        }
        let timeout = duration(timeout)?;
        let pool = this.pool.bind(py);
        let core = pool.get().core()?;
        core.wait_until(py, pool, timeout, this.job.as_ref(), |py| {
            if let Some(job) = &this.job {
                // Decoding meanwhile leaves less to do when the last one is there. With callbacks it is the helper's work,
                // which hands the value to them before this thread may have it.
                if !job.state.with(py, |j| j.calls_running) {
                    decode_pending(py, Some(core), job);
                }
            }
            this.is_ready(py)
        })
    }
}

impl Drop for AsyncResult {
    fn drop(&mut self) {
        // SAFETY of the token: objects of this class are dropped by the interpreter, with the GIL held.
        Python::attach(|py| {
            let slot = self.slot.with(py, |s| *s);
            if slot == 0 {
                return;
            }
            if let Ok(core) = self.pool.get().core() {
                core.abandon(py, slot - 1);
            }
        });
    }
}
