//! `Event`.

use std::sync::OnceLock;

use procession::sync::memory::Cell;
use procession::sync::RawEvent;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::handing_on::{hand_on, take_over, Handed};
use super::lock::not_made;
use super::waiting::{limit, stir};
use crate::pool::os_error;

/// The native half of `Event`.
#[pyclass(frozen, subclass, weakref, module = "procession._native")]
#[derive(Debug)]
pub struct EventBase {
    cell: OnceLock<Cell>,
}

impl EventBase {
    fn raw(&self) -> PyResult<&RawEvent> {
        let cell = self.cell.get().ok_or_else(not_made)?;
        // SAFETY: every cell is at least 64 bytes long and aligned to that, and an event may have any bits.
        Ok(unsafe { cell.at(0) })
    }
}

#[pymethods]
impl EventBase {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        EventBase {
            cell: OnceLock::new(),
        }
    }

    fn _make(&self) -> PyResult<()> {
        let _ = self
            .cell
            .set(Cell::allocate(size_of::<RawEvent>()).map_err(os_error)?);
        Ok(())
    }

    fn _hand_on(slf: &Bound<'_, Self>) -> PyResult<Handed> {
        hand_on(slf.as_any(), slf.get().cell.get().ok_or_else(not_made)?)
    }

    fn _take_over(&self, py: Python<'_>, handed: Handed) -> PyResult<()> {
        let _ = self.cell.set(take_over(py, handed)?);
        Ok(())
    }

    /// Whether the flag is set.
    fn is_set(&self) -> PyResult<bool> {
        Ok(self.raw()?.is_set())
    }

    /// Sets the flag: all who wait for it go on.
    fn set(&self) -> PyResult<()> {
        self.raw()?.set();
        Ok(())
    }

    /// Takes the flag back.
    fn clear(&self) -> PyResult<()> {
        self.raw()?.clear();
        Ok(())
    }

    /// Waits until the flag is set; False if that took longer than `timeout` seconds.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let raw = self.raw()?;
        if raw.is_set() {
            return Ok(true);
        }
        let limit = limit(timeout)?;
        py.detach(|| raw.wait(limit, &mut stir))
    }
}
