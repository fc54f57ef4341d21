//! What the methods of a pool return: results to come, and iterators over them.

use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use procession::channel::Channel;
use procession::os::futex;
use procession::os::process::generation;
use procession::shm::{Block, Owner};
use pyo3::exceptions::{PyBaseException, PyStopIteration, PyValueError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyList, PyString, PyType};
use pyo3::{PyTraverseError, PyVisit};

use crate::codec::Reader;
use crate::gil::GilCell;
use crate::job::{Item, Job, Sink};
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
    pool: Py<PoolBase>,
    outcome: GilCell<Outcome>,
    calls: GilCell<Option<Box<Calls>>>,
    job: Option<Arc<Job>>,
    /// The slot whose entry points here, plus one.
    slot: GilCell<u32>,
    /// What cancels it, if its value comes from Python code.
    canceller: GilCell<Option<Py<PyAny>>>,
    /// What the task has written, if that is kept and anything was; of a map of Python code, a list of that.
    output: GilCell<Option<Py<PyAny>>>,
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
    fn listen(slf: &Bound<'_, Self>, listener: Py<PyAny>) -> PyResult<bool> {
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

    pub fn set_slot(&self, slot: u32) {
        Python::attach(|py| self.slot.with(py, |s| *s = slot + 1));
    }

    pub fn forget_slot(&self) {
        Python::attach(|py| self.slot.with(py, |s| *s = 0));
    }

    /// What to call the task in an error's text.
    pub fn task(&self) -> String {
        self.job
            .as_ref()
            .map_or_else(|| "task".into(), |j| j.task.clone())
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
            let told = raw.next(py, &self.task());
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
    fn settle(&self, py: Python<'_>) {
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
    fn texts(slf: &Bound<'_, Self>) -> PyResult<Vec<Py<PyAny>>> {
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

    fn result(&self, py: Python<'_>) -> Option<PyResult<Py<PyAny>>> {
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

    fn is_ready(&self, py: Python<'_>) -> bool {
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

    fn wait_ready(slf: &Bound<'_, Self>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
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

#[pymethods]
impl AsyncResult {
    /// Waits for the result and returns it, or raises what the task raised.
    ///
    /// Raises `multiprocessing.TimeoutError` if it is not there after `timeout` seconds; the task goes on.
    #[pyo3(signature = (timeout=None))]
    fn get(slf: &Bound<'_, Self>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Py<PyAny>> {
        Self::get_value(slf, timeout)
    }

    /// Waits until the result is there, or `timeout` seconds.
    #[pyo3(signature = (timeout=None))]
    fn wait(slf: &Bound<'_, Self>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        Self::wait_ready(slf, timeout).map(drop)
    }

    /// Whether the result is there.
    fn ready(slf: &Bound<'_, Self>) -> bool {
        let py = slf.py();
        let this = slf.get();
        if !this.is_ready(py) {
            let pool = this.pool.bind(py);
            if let Ok(core) = pool.get().core() {
                core.collect(py, pool);
            }
        }
        this.is_ready(py)
    }

    /// Whether the task ended without raising. Raises `ValueError` if it has not ended.
    fn successful(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let py = slf.py();
        let this = slf.get();
        if !Self::ready(slf) {
            return Err(PyValueError::new_err(format!("{} not ready", slf.repr()?)));
        }
        this.settle(py);
        Ok(matches!(this.result(py), Some(Ok(_))))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.pool)?;
        // SAFETY: the collector runs with the GIL held and while nobody is inside `with`, since no Python code and no
        // allocation that the collector tracks happens there.
        unsafe {
            match self.outcome.peek() {
                Outcome::Value(value) => visit.call(value)?,
                Outcome::Error(e) => visit.call(e)?,
                _ => {}
            }
            if let Some(calls) = self.calls.peek() {
                visit.call(&calls.callback)?;
                visit.call(&calls.error_callback)?;
                for listener in &calls.listeners {
                    visit.call(listener)?;
                }
            }
            visit.call(self.canceller.peek())?;
            visit.call(self.output.peek())?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        // SAFETY of the token: the collector holds the GIL.
        Python::attach(|py| {
            let former = self.outcome.with(py, |o| match o {
                Outcome::Value(_) | Outcome::Error(_) => Some(std::mem::replace(o, Outcome::Pending)),
                _ => None,
            });
            let canceller = self.canceller.with(py, Option::take);
            let output = self.output.with(py, Option::take);
            drop((former, canceller, output));
        });
    }

    /// What the task has written to its standard output and error, as text; of a map, of all items in their order.
    ///
    /// Empty before the task has ended, and without the pool's `output="capture"`.
    #[getter]
    fn output(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let texts = Self::texts(slf)?;
        let texts = PyList::new(py, texts)?;
        Ok(PyString::new(py, "")
            .call_method1(intern!(py, "join"), (texts,))?
            .unbind())
    }

    /// Cancels the task: takes it back if no worker has begun it, else kills its worker. Then `get` raises `TaskCancelled`.
    ///
    /// Returns whether it was cancelled; false if its result was there already. Of a map, all that is not done is
    /// cancelled, and the whole of it raises.
    fn cancel(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let py = slf.py();
        let this = slf.get();
        let pool = this.pool.bind(py);
        let core = pool.get().core()?;
        if Self::ready(slf) {
            return Ok(false);
        }
        if let Some(canceller) = this.canceller.with(py, |c| c.as_ref().map(|c| c.clone_ref(py))) {
            return canceller.call0(py)?.extract(py);
        }
        match &this.job {
            Some(job) => Ok(core.cancel_job(py, job, true)),
            None => Ok(core.cancel_one(py, slf, true)),
        }
    }

    /// Cancels the task only if no worker has begun it.
    fn _cancel_queued(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let py = slf.py();
        let core = slf.get().pool.get().core()?;
        Ok(!Self::ready(slf) && core.cancel_one(py, slf, false))
    }

    /// Whether a worker has the task now.
    fn _is_running(&self, py: Python<'_>) -> PyResult<bool> {
        let core = self.pool.get().core()?;
        Ok(self.slot(py).is_some_and(|slot| core.is_claimed(slot)))
    }

    /// Has `listener` called, in the pool's helper thread, when the result is there. False if it is there already.
    fn _listen(slf: &Bound<'_, Self>, listener: Py<PyAny>) -> PyResult<bool> {
        Self::listen(slf, listener)
    }

    /// Gives a promised result: a value, or the error that the task raised. False if it has one already.
    #[pyo3(signature = (value, error=None, output=None))]
    fn _fulfil(
        slf: &Bound<'_, Self>,
        value: Py<PyAny>,
        error: Option<Bound<'_, PyAny>>,
        output: Option<Py<PyAny>>,
    ) -> PyResult<bool> {
        let py = slf.py();
        let this = slf.get();
        if !this.outcome.with(py, |o| matches!(o, Outcome::Pending)) {
            return Ok(false);
        }
        drop(this.canceller.with(py, Option::take));
        drop(this.output.with(py, |o| std::mem::replace(o, output)));
        match error {
            Some(error) => this.fail(py, PyErr::from_value(error)),
            None => {
                let _former = this
                    .outcome
                    .with(py, |o| std::mem::replace(o, Outcome::Value(value)));
            }
        }
        let pool = this.pool.bind(py);
        pool.get().core()?.is_fulfilled(py, pool, slf);
        Ok(true)
    }

    fn __await__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        py.import("procession._aio")?
            .call_method1("result_of", (slf,))?
            .call_method0("__await__")
    }

    /// How many items are done, and how many there are; only for results of `map_async`.
    fn _progress(slf: &Bound<'_, Self>) -> (u64, u64) {
        let py = slf.py();
        let _ = Self::ready(slf);
        match &slf.get().job {
            Some(job) => job
                .state
                .with(py, |j| (j.delivered, j.total.unwrap_or(j.delivered))),
            None => (u64::from(slf.get().is_ready(py)), 1),
        }
    }

    /// Items not yet done; only for results of `map_async`.
    #[getter]
    fn _number_left(&self, py: Python<'_>) -> u64 {
        match &self.job {
            // multiprocessing counts chunks, of the size it would have chosen if the user did not.
            Some(job) => job.state.with(py, |j| {
                let left = j.total.unwrap_or(0).saturating_sub(j.delivered);
                left.div_ceil(u64::from(job.chunk.unwrap_or(job.usual_chunk).max(1)))
            }),
            None => u64::from(self.outcome.with(py, |o| matches!(o, Outcome::Pending))),
        }
    }

    #[classmethod]
    fn __class_getitem__(cls: &Bound<'_, PyType>, item: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let py = cls.py();
        Ok(py
            .import("types")?
            .getattr("GenericAlias")?
            .call1((cls, item))?
            .unbind())
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let name = slf.get_type().name()?.to_string();
        Ok(format!(
            "<multiprocessing.pool.{name} object at {:#x}>",
            slf.as_ptr() as usize
        ))
    }
}

#[pymethods]
impl MapResult {
    /// What each item has written to its standard output and error, as a list of texts; see `output`.
    #[getter]
    fn outputs(slf: &Bound<'_, Self>) -> PyResult<Vec<Py<PyAny>>> {
        let base = slf.as_super();
        let mut texts = AsyncResult::texts(base)?;
        if base.get().job.is_none() && base.get().output.with(slf.py(), |o| o.is_none()) {
            texts.clear();
        }
        Ok(texts)
    }
}

/// An iterator over results, each given out as it is there.
#[pyclass(frozen, subclass, module = "procession.pool", name = "IMapIterator", weakref)]
pub struct ImapBase {
    pool: Py<PoolBase>,
    job: Arc<Job>,
    fed_by_thread: bool,
    /// Raised when the consumer has made room, for a feeding thread that sleeps.
    room: Arc<std::sync::atomic::AtomicU32>,
    waiting: GilCell<Cell<bool>>,
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
                self.room.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
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
            self.room.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            futex::wake(&self.room, 1);
            if let Ok(core) = self.pool.get().core() {
                core.forget_job(py, &self.job);
            }
        });
    }
}

#[pymethods]
impl ImapBase {
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
        this.room.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
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

/// Pulls from a source that may block or run the user's code, in a thread of its own.
#[pyclass(frozen, module = "procession._native")]
pub struct Feeder {
    pool: Py<PoolBase>,
    job: Arc<Job>,
    room: Arc<std::sync::atomic::AtomicU32>,
    iterator: Py<PyAny>,
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
            let iterator = self.iterator.call0(py)?;
            let Ok(iterator) = iterator.extract::<Py<ImapBase>>(py) else {
                return Ok(false);
            };
            iterator.get().waiting.with(py, |w| w.set(true));
            drop(iterator);
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

/// Iterator over results in the order of their arguments.
#[pyclass(frozen, extends = ImapBase, module = "procession.pool", name = "IMapUnorderedIterator")]
pub struct ImapUnordered {}
