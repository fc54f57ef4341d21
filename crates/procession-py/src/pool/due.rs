//! Callbacks that are due: the pool's helper thread runs them, and says how that went.

use super::*;

pub(super) type DueParts<'py> = (Option<Py<PyAny>>, Option<Py<PyAny>>, Bound<'py, DueCall>);

/// A callback that the helper thread runs; it is told how that went.
#[pyclass(frozen, module = "procession._native")]
pub struct DueCall {
    pub(super) pool: Py<PoolBase>,
    pub(super) due: Due,
    pub(super) task_error: Option<PyErr>,
}

#[pymethods]
impl DueCall {
    /// What the task has written, if that is kept and anything was.
    #[getter]
    fn output(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        match &self.due {
            Due::One(result) => result.get().written(py),
            Due::Job(_) | Due::Wake(_) => None,
        }
    }

    /// The callback has returned, or raised this.
    #[pyo3(signature = (error=None))]
    fn done(&self, py: Python<'_>, error: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        // A callback that raises is heard of: `get` raises what it raised.
        let raised = error.map(PyErr::from_value);
        if let (Some(raised), Some(task_error)) = (&raised, &self.task_error) {
            in_context_of(py, raised, task_error);
        }
        let listeners = match &self.due {
            Due::One(result) => result.get().calls_are_done(py, raised),
            Due::Job(job) => job.state.with(py, |j| {
                if let Some(raised) = raised {
                    j.fail_whole(raised);
                }
                j.calls_running = false;
                std::mem::take(&mut j.listeners)
            }),
            Due::Wake(listeners) => listeners.iter().map(|l| l.clone_ref(py)).collect(),
        };
        self.pool.get().core()?.due_is_done(py);
        for listener in listeners {
            if let Err(e) = listener.call0(py) {
                e.write_unraisable(py, Some(listener.bind(py)));
            }
        }
        Ok(())
    }
}

/// Has an error of an error callback remember the error it was called for.
fn in_context_of(py: Python<'_>, raised: &PyErr, task: &PyErr) {
    let value = raised.value(py);
    if !value.is(task.value(py)) && value.getattr("__context__").is_ok_and(|c| c.is_none()) {
        let _ = value.setattr("__context__", task.value(py));
    }
}
