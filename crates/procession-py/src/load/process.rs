//! A worker process of a load test, and what any code in it may use: named steps and pauses.

use super::engine::{refused, Inner, LoadEngine};
use super::failure_of;
use super::wait::Makes;
use crate::gil::GilCell;
use procession_load::users::{ClientOptions, Desk};
use procession_load::{now_ns, Phase};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The desk of this process, while it works.
static DESK: Mutex<Option<Arc<Desk>>> = Mutex::new(None);
/// What was promised of single steps, as the scenario ran: SLOs as the tester would write them.
static PROMISES: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

thread_local! {
    /// The engine of the users of this thread.
    static CURRENT: RefCell<Option<Arc<Inner>>> = const { RefCell::new(None) };
}

fn current() -> Option<Arc<Inner>> {
    CURRENT.with(|current| current.borrow().clone())
}

fn desk() -> Option<Arc<Desk>> {
    DESK.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Remembers what a step should keep to.
pub fn promise(slo: String) {
    PROMISES
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(slo);
}

/// A worker process of a load test.
#[pyclass(frozen, module = "procession._native")]
pub struct LoadProcess {
    desk: Arc<Desk>,
    options: ClientOptions,
    iteration: String,
    number: u32,
    workers: u32,
    wait_for_start: GilCell<Option<WaitForStart>>,
}

type WaitForStart = Box<dyn FnOnce(&Desk) + Send>;

impl LoadProcess {
    pub fn new(
        desk: Arc<Desk>,
        options: ClientOptions,
        iteration: String,
        number: u32,
        workers: u32,
    ) -> LoadProcess {
        *DESK.lock().unwrap_or_else(PoisonError::into_inner) = Some(desk.clone());
        LoadProcess {
            desk,
            options,
            iteration,
            number,
            workers,
            wait_for_start: GilCell::new(Some(Box::new(|desk: &Desk| desk.wait_for_start()))),
        }
    }
}

#[pymethods]
impl LoadProcess {
    /// Which worker this is, counting from 0.
    #[getter]
    fn number(&self) -> u32 {
        self.number
    }

    /// How many there are.
    #[getter]
    fn workers(&self) -> u32 {
        self.workers
    }

    /// Says that this process is ready, and sleeps until all begin.
    fn wait_for_start(&self, py: Python<'_>) {
        if let Some(wait) = self.wait_for_start.with(py, Option::take) {
            py.detach(|| wait(&self.desk));
        }
    }

    /// An engine for the users of the calling thread: coroutines, one plain function, or several that `set_aside` sets aside.
    #[pyo3(signature = (is_async, set_aside=None))]
    fn engine(&self, is_async: bool, set_aside: Option<Py<PyAny>>) -> PyResult<LoadEngine> {
        let options = self.options.clone();
        let engine = LoadEngine::new(self.desk.clone(), options, &self.iteration, is_async, set_aside)?;
        CURRENT.with(|current| *current.borrow_mut() = Some(engine.inner.clone()));
        Ok(engine)
    }

    /// How many users should be started now.
    fn users_to_start(&self) -> u32 {
        self.desk.users_to_start()
    }

    /// Says that a user will enter, on a thread that is being started.
    fn expect_user(&self) {
        self.desk.expect_user();
    }

    /// Sleeps a little; whether there is anything left to do.
    fn wait_for_change(&self, py: Python<'_>, seconds: f64) -> bool {
        let desk = &self.desk;
        py.detach(|| std::thread::sleep(Duration::from_secs_f64(seconds)));
        desk.is_busy() && desk.phase() < Phase::Over
    }

    /// Says that all users have ended.
    fn finish(&self) {
        self.desk.finish(&self.iteration);
    }

    /// What was promised of single steps by `expect(p99=…)`.
    fn promises(&self) -> Vec<String> {
        PROMISES
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect()
    }
}

/// Times a part of what a virtual user does, under a name of its own in the report.
#[pyclass(frozen, module = "procession.load", name = "step")]
pub struct Step {
    name: String,
    began_ns: GilCell<Vec<u64>>,
}

impl Step {
    pub fn named(name: String) -> PyResult<Step> {
        if name.is_empty() {
            return Err(PyValueError::new_err("a step needs a name"));
        }
        Ok(Step {
            name,
            began_ns: GilCell::default(),
        })
    }

    fn begin(&self, py: Python<'_>) {
        let now = now_ns();
        self.began_ns.with(py, |began| began.push(now));
    }

    fn end(&self, py: Python<'_>, error: Option<&Bound<'_, PyAny>>) {
        let Some(began_ns) = self.began_ns.with(py, Vec::pop) else {
            return;
        };
        let Some(desk) = desk() else { return };
        match error {
            None => desk.named_step(&self.name, began_ns, None),
            // The end of the run is no failure of the step that it interrupts.
            Some(error) if !error.is_instance_of::<pyo3::exceptions::PyException>() => {}
            Some(error) => {
                let (failure, _) = failure_of(py, error);
                desk.named_step(&self.name, began_ns, Some(&failure));
            }
        }
    }
}

#[pymethods]
impl Step {
    #[new]
    fn new(name: String) -> PyResult<Step> {
        Step::named(name)
    }

    fn __enter__(slf: Py<Self>, py: Python<'_>) -> Py<Self> {
        slf.get().begin(py);
        slf
    }

    #[pyo3(signature = (_kind, error, _traceback))]
    fn __exit__(
        &self,
        py: Python<'_>,
        _kind: &Bound<'_, PyAny>,
        error: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> bool {
        self.end(py, (!error.is_none()).then_some(error));
        false
    }

    fn __aenter__(slf: Py<Self>, py: Python<'_>) -> PyResult<Py<Ready>> {
        slf.get().begin(py);
        Py::new(py, Ready(GilCell::new(Some(slf.into_any()))))
    }

    #[pyo3(signature = (_kind, error, _traceback))]
    fn __aexit__(
        &self,
        py: Python<'_>,
        _kind: &Bound<'_, PyAny>,
        error: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<Py<Ready>> {
        self.end(py, (!error.is_none()).then_some(error));
        Py::new(py, Ready(GilCell::new(Some(py.None()))))
    }

    /// As a decorator, each call of the function is such a part.
    fn __call__<'py>(&self, py: Python<'py>, function: Py<PyAny>) -> PyResult<Bound<'py, PyAny>> {
        py.import("procession.load._steps")?
            .getattr("decorate")?
            .call1((self.name.clone(), function))
    }
}

/// Something to await that is there already.
#[pyclass(frozen, module = "procession._native")]
pub struct Ready(GilCell<Option<Py<PyAny>>>);

#[pymethods]
impl Ready {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let value = self.0.with(py, Option::take).unwrap_or_else(|| py.None());
        Err(pyo3::exceptions::PyStopIteration::new_err((value,)))
    }
}

/// Pauses a virtual user, as somebody who reads or thinks would: so many seconds, or a number of seconds between the two.
#[pyfunction]
#[pyo3(signature = (seconds, most=None))]
pub fn load_think(py: Python<'_>, seconds: f64, most: Option<f64>) -> PyResult<Py<PyAny>> {
    think(py, current(), seconds, most)
}

pub fn think(
    py: Python<'_>,
    inner: Option<Arc<Inner>>,
    seconds: f64,
    most: Option<f64>,
) -> PyResult<Py<PyAny>> {
    let most = most.unwrap_or(seconds);
    let possible = |seconds: f64| (0.0..1e9).contains(&seconds);
    if !possible(seconds) || !possible(most) || most < seconds {
        return Err(PyValueError::new_err(
            "think() takes a number of seconds, or the least and the most of them",
        ));
    }
    let Some(inner) = inner else {
        if desk().is_some() {
            return Err(PyRuntimeError::new_err(
                "think() is for virtual users; in a thread of your own use time.sleep()",
            ));
        }
        return Err(PyTypeError::new_err(
            "think() works in a load test only: outside there is nobody to wait for it",
        ));
    };
    let ns = inner.desk.draw((seconds * 1e9) as u64, (most * 1e9) as u64);
    inner
        .run(py, || Makes::Nothing, |crew| crew.pause(ns).ok_or(None))
        .unwrap_or_else(|failure| Err(refused(py, failure)))
}
