//! One number for all processes of a run.

use procession::os::memory::{create_sealed, Mapping, PAGE_BYTES};
use pyo3::prelude::*;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts in memory that forked processes share; pickled into a process that is being started, it is the same one there.
#[pyclass(frozen, module = "procession._native")]
pub struct SharedCounter {
    mapping: Mapping,
}

impl SharedCounter {
    fn number(&self) -> &AtomicU64 {
        // SAFETY: the mapping is a page, aligned and zeroed, of which only this word is used, by atomics alone.
        unsafe { &*self.mapping.start().as_ptr().cast::<AtomicU64>() }
    }

    fn map(fd: OwnedFd) -> PyResult<SharedCounter> {
        Ok(SharedCounter {
            mapping: Mapping::new(fd)?,
        })
    }
}

#[pymethods]
impl SharedCounter {
    #[new]
    fn new() -> PyResult<SharedCounter> {
        SharedCounter::map(create_sealed("procession-counter", PAGE_BYTES as u64)?)
    }

    /// Adds one and returns what it was before.
    fn add_one(&self) -> u64 {
        self.number().fetch_add(1, Ordering::Relaxed)
    }

    /// Sets it to nought.
    fn reset(&self) {
        self.number().store(0, Ordering::Relaxed);
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyAny>,))> {
        let py = slf.py();
        let duplicate = py
            .import("multiprocessing.reduction")?
            .getattr("DupFd")?
            .call1((slf.get().mapping.fd().as_raw_fd(),))?;
        Ok((slf.get_type().getattr("_from_duplicate")?, (duplicate,)))
    }

    #[staticmethod]
    fn _from_duplicate(duplicate: &Bound<'_, PyAny>) -> PyResult<SharedCounter> {
        let fd: i32 = duplicate.call_method0("detach")?.extract()?;
        // SAFETY: `detach` hands over a descriptor that was made for this process.
        SharedCounter::map(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}
