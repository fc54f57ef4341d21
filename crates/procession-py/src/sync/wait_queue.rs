//! Those who wait for a condition.

use procession::sync;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::handing_on::{hand_on, take_over, Handed};
use super::waiting::{limit, stir};
use crate::pool::os_error;

/// Those who wait for a condition, in the order of their coming. All but `wait` is called under the condition's lock.
#[pyclass(frozen, module = "procession._native")]
#[derive(Debug)]
pub struct WaitQueue {
    queue: sync::WaitQueue,
}

#[pymethods]
impl WaitQueue {
    #[new]
    fn new() -> PyResult<Self> {
        Ok(WaitQueue {
            queue: sync::WaitQueue::new().map_err(os_error)?,
        })
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (Handed,))> {
        let make = slf.get_type().getattr("_take_over")?;
        Ok((make, (hand_on(slf.as_any(), slf.get().queue.cell())?,)))
    }

    #[classmethod]
    fn _take_over(cls: &Bound<'_, PyType>, handed: Handed) -> PyResult<Self> {
        Ok(WaitQueue {
            queue: sync::WaitQueue::attach(take_over(cls.py(), handed)?).map_err(os_error)?,
        })
    }

    /// Takes a place, and returns its number.
    fn enter(&self) -> PyResult<usize> {
        self.queue
            .enter()
            .map_err(|full| PyRuntimeError::new_err(full.to_string()))
    }

    /// Waits in this place; False if that took longer than `timeout` seconds.
    #[pyo3(signature = (place, timeout=None))]
    fn wait(&self, py: Python<'_>, place: usize, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let limit = limit(timeout)?;
        py.detach(|| self.queue.wait(place, limit, &mut stir))
    }

    /// Gives the place back; True if it had been notified.
    fn leave(&self, place: usize) -> bool {
        self.queue.leave(place)
    }

    /// Notifies up to so many, and returns how many it were.
    fn notify(&self, py: Python<'_>, count: i64) -> usize {
        let count = usize::try_from(count).unwrap_or(0);
        py.detach(|| self.queue.notify(count))
    }

    /// How many wait who have not been notified.
    fn waiting(&self) -> usize {
        self.queue.waiting()
    }

    /// How many have a place.
    fn taken(&self) -> usize {
        self.queue.taken()
    }

    /// Gives back the places of the dead, and returns how many they were.
    fn sweep(&self, py: Python<'_>) -> usize {
        py.detach(|| self.queue.sweep())
    }
}
