//! The process that controls a load test whose users are Python functions.

use super::process::LoadProcess;
use procession_load::plan::{Pacing, Plan, Target};
use procession_load::quantity::{self, Stages};
use procession_load::report::{self, TextStyle};
use procession_load::result::RunResult;
use procession_load::users::{ClientOptions, Desk};
use procession_load::{ForkHooks, Run, Slo, SloError, Worker, Workload};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use std::sync::Arc;
use std::time::Duration;

/// So many names of requests and steps are told apart.
const MOST_STEPS: u32 = 256;

struct PythonUsers {
    work: Py<PyAny>,
    options: ClientOptions,
    iteration: String,
}

impl Workload for PythonUsers {
    fn run(&self, worker: &mut Worker) -> Result<(), String> {
        let (number, workers) = (worker.number(), worker.workers());
        let desk = Arc::new(Desk::new());
        let _opened = desk.open(worker);
        Python::attach(|py| {
            let process = LoadProcess::new(
                desk.clone(),
                self.options.clone(),
                self.iteration.clone(),
                number,
                workers,
            );
            self.work.call1(py, (process,)).map(drop).map_err(|error| {
                let text = error.value(py).to_string();
                error.print(py);
                text
            })
        })?;
        desk.refusal().map_or(Ok(()), Err)
    }

    fn most_steps(&self) -> u32 {
        MOST_STEPS
    }
}

fn before_fork() {
    // SAFETY: only `LoadRun`'s methods fork, with the GIL held.
    unsafe { ffi::PyOS_BeforeFork() }
}

fn after_fork_in_parent() {
    // SAFETY: as above.
    unsafe { ffi::PyOS_AfterFork_Parent() }
}

fn after_fork_in_child() {
    // SAFETY: as above; in the child it is the only thread.
    unsafe { ffi::PyOS_AfterFork_Child() }
}

fn load_error(error: procession_load::Error) -> PyErr {
    if error.is_plan() {
        PyValueError::new_err(error.to_string())
    } else {
        PyRuntimeError::new_err(error.to_string())
    }
}

fn json(value: &impl serde::Serialize) -> PyResult<String> {
    serde_json::to_string(value).map_err(|error| PyRuntimeError::new_err(error.to_string()))
}

/// A plan for users that are functions, with all defaults, as JSON.
#[pyfunction]
pub fn plan_defaults(name: String, users: u32) -> PyResult<String> {
    json(&Plan::new(Target::Custom { name }, Pacing::users(users)))
}

/// A result, in JSON, as a report of this form.
#[pyfunction]
pub fn load_report(result: &str, form: &str) -> PyResult<String> {
    let result: RunResult =
        serde_json::from_str(result).map_err(|error| PyValueError::new_err(error.to_string()))?;
    Ok(match form {
        "html" | "htm" => report::html(&result),
        "json" => report::json(&result),
        "csv" => report::csv(&result),
        "xml" => report::junit(&result),
        "prom" => report::prometheus(&result),
        "txt" => {
            let style = TextStyle {
                height: usize::MAX,
                ..TextStyle::default()
            };
            report::text(&result, &style)
        }
        _ => {
            return Err(PyValueError::new_err(format!(
            "there are no reports of the form {form:?}: use .html, .json, .csv, .xml (JUnit), .prom or .txt"
        )))
        }
    })
}

/// A duration in words, such as `1m30s`, in seconds.
#[pyfunction]
pub fn parse_duration(text: &str) -> PyResult<f64> {
    quantity::duration(text)
        .map(|duration| duration.as_secs_f64())
        .map_err(PyValueError::new_err)
}

/// A rate in words, such as `6k/m`, per second.
#[pyfunction]
pub fn parse_rate(text: &str) -> PyResult<f64> {
    quantity::rate(text).map_err(PyValueError::new_err)
}

/// A condition in words, such as `p99<500ms`: says what is wrong with it, where, and what to write instead.
#[pyfunction]
pub fn check_slo(text: &str) -> PyResult<()> {
    text.parse::<Slo>().map(drop).map_err(|error| {
        let help = error.help().map_or_else(String::new, |help| format!(": {help}"));
        PyValueError::new_err(format!("{text:?}: {error}{help}"))
    })
}

/// Stages in words, such as `30s:100,2m:500` or `30s:100/s`: whether they are of a rate, and seconds and goal of each.
#[pyfunction]
pub fn parse_stages(text: &str) -> PyResult<(bool, Vec<(f64, f64)>)> {
    let stages = quantity::stages(text).map_err(PyValueError::new_err)?;
    Ok(match stages {
        Stages::Users(stages) => {
            let pairs = stages
                .iter()
                .map(|stage| (stage.duration.as_secs_f64(), f64::from(stage.users)));
            (false, pairs.collect())
        }
        Stages::Rate(stages) => {
            let pairs = stages
                .iter()
                .map(|stage| (stage.duration.as_secs_f64(), stage.per_second));
            (true, pairs.collect())
        }
    })
}

/// A load test that is going on.
///
/// Its methods keep the GIL: they fork, and the process that has it is there for nothing else.
#[pyclass(unsendable, module = "procession._native")]
pub struct LoadRun {
    run: Option<Run>,
}

impl LoadRun {
    fn run(&mut self) -> PyResult<&mut Run> {
        self.run
            .as_mut()
            .ok_or_else(|| PyRuntimeError::new_err("the load test is over"))
    }
}

#[pymethods]
impl LoadRun {
    /// Begins a plan, in JSON: `work(process)` is called in each worker process.
    #[new]
    fn new(plan: &str, client: &str, iteration: String, work: Py<PyAny>) -> PyResult<LoadRun> {
        let wrong = |error: serde_json::Error| PyValueError::new_err(error.to_string());
        let plan: Plan = serde_json::from_str(plan).map_err(wrong)?;
        let options: ClientOptions = serde_json::from_str(client).map_err(wrong)?;
        options.check(&plan).map_err(PyValueError::new_err)?;
        let hooks = ForkHooks {
            before: Some(before_fork),
            after_in_parent: Some(after_fork_in_parent),
            after_in_child: Some(after_fork_in_child),
            // Libraries that the user's file has loaded may keep threads; it is theirs to see to forks, as with `os.fork`.
            threads_allowed: true,
        };
        let users = Arc::new(PythonUsers {
            work,
            options,
            iteration,
        });
        let run = Run::start_workload(plan, users, hooks).map_err(load_error)?;
        Ok(LoadRun { run: Some(run) })
    }

    /// Waits so many seconds at most; whether the test is over.
    fn wait(&mut self, seconds: f64) -> PyResult<bool> {
        self.run()?
            .wait(Duration::from_secs_f64(seconds))
            .map_err(load_error)
    }

    /// What it has come to so far, as JSON.
    fn snapshot(&mut self) -> PyResult<String> {
        let result = self.run()?.snapshot().map_err(load_error)?;
        json(&result)
    }

    /// Ends it early; called again, at once.
    fn stop(&mut self) -> PyResult<()> {
        self.run()?.stop();
        Ok(())
    }

    /// Ends it, if it is not over, and forgets it.
    fn close(&mut self) {
        self.run = None;
    }

    /// Promises one thing more.
    fn add_slo(&mut self, slo: &str) -> PyResult<()> {
        let slo: Slo = slo
            .parse()
            .map_err(|error: SloError| PyValueError::new_err(format!("{slo:?}: {error}")))?;
        self.run()?.add_slo(slo);
        Ok(())
    }

    /// Process numbers of the workers.
    fn worker_pids(&mut self) -> PyResult<Vec<u32>> {
        Ok(self.run()?.worker_pids())
    }
}
