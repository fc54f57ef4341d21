//! The methods of results to come that Python sees.

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString, PyType};
use pyo3::{PyTraverseError, PyVisit};

use super::apply::{AsyncResult, MapResult, Outcome};

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
    pub(super) fn ready(slf: &Bound<'_, Self>) -> bool {
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
