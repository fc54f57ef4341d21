//! `Lock` and `RLock`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::OnceLock;
use std::time::Duration;

use procession::os::time::monotonic_ns;
use procession::sync::{Acquired, Ended, NotReleased, SharedLock};
use pyo3::exceptions::{PyAssertionError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::handing_on::{hand_on, take_over, Handed};
use super::waiting::{about, deadlock_error, limit, stir, tell_of_death};
use crate::pool::os_error;

/// A failed attempt that does not wait asks no more often than this whether the owner lives.
const ASK_EVERY_NS: u64 = 1_000_000;

/// The native half of `Lock` and `RLock`.
#[pyclass(frozen, subclass, weakref, module = "procession._native")]
#[derive(Debug)]
pub struct LockBase {
    lock: OnceLock<SharedLock>,
    asked_ns: AtomicU64,
}

impl LockBase {
    #[inline]
    pub fn made(&self) -> Option<&SharedLock> {
        self.lock.get()
    }

    #[inline]
    pub fn lock(&self) -> PyResult<&SharedLock> {
        self.lock.get().ok_or_else(not_made)
    }

    #[inline]
    pub fn take(
        &self,
        py: Python<'_>,
        scoped: bool,
        block: bool,
        timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        let lock = self.lock()?;
        if lock.try_acquire(scoped) {
            return Ok(true);
        }
        self.take_slowly(py, lock, scoped, block, timeout)
    }

    #[cold]
    fn take_slowly(
        &self,
        py: Python<'_>,
        lock: &SharedLock,
        scoped: bool,
        block: bool,
        timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        let limit = if block {
            limit(timeout)?
        } else {
            Some(Duration::ZERO)
        };
        let acquired = if limit == Some(Duration::ZERO) {
            let now = monotonic_ns();
            if now.saturating_sub(self.asked_ns.load(Ordering::Relaxed)) < ASK_EVERY_NS {
                return Ok(false);
            }
            self.asked_ns.store(now, Ordering::Relaxed);
            py.detach(|| lock.try_acquire_or_recover(scoped))
        } else {
            match py.detach(|| lock.acquire(scoped, limit, &mut stir, &mut about)) {
                Ok(acquired) => acquired,
                Err(Ended::Stopped(error)) => return Err(error),
                Err(Ended::Deadlock(deadlock)) => return Err(deadlock_error(py, &deadlock)),
            }
        };
        if let Some(Acquired::FromTheDead(owner)) = acquired {
            tell_of_death(py, lock.to_string(), owner);
        }
        Ok(acquired.is_some())
    }

    #[inline]
    pub fn give(&self) -> PyResult<()> {
        self.lock()?.release().map_err(|reason| match reason {
            NotReleased::NotLocked => PyValueError::new_err(reason.to_string()),
            NotReleased::NotOwner => PyAssertionError::new_err(reason.to_string()),
        })
    }
}

#[cold]
pub fn not_made() -> PyErr {
    PyRuntimeError::new_err("its __init__ was not called")
}

#[pymethods]
impl LockBase {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        LockBase {
            lock: OnceLock::new(),
            asked_ns: AtomicU64::new(0),
        }
    }

    fn _make(&self, recursive: bool, name: &str) -> PyResult<()> {
        let _ = self.lock.set(SharedLock::new(recursive, name).map_err(os_error)?);
        Ok(())
    }

    fn _hand_on(slf: &Bound<'_, Self>) -> PyResult<Handed> {
        hand_on(slf.as_any(), slf.get().lock()?.cell())
    }

    fn _take_over(&self, py: Python<'_>, recursive: bool, handed: Handed) -> PyResult<()> {
        let lock = SharedLock::attach(take_over(py, handed)?, recursive).map_err(os_error)?;
        let _ = self.lock.set(lock);
        Ok(())
    }

    /// Acquires the lock; False if that took longer than `timeout` seconds, or if `block` is false and it is not free.
    #[pyo3(signature = (block=true, timeout=None))]
    fn acquire(slf: &Bound<'_, Self>, block: bool, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        slf.get().take(slf.py(), false, block, timeout)
    }

    /// Releases the lock.
    fn release(&self) -> PyResult<()> {
        self.give()
    }

    fn __enter__(slf: &Bound<'_, Self>) -> PyResult<bool> {
        slf.get().take(slf.py(), true, true, None)
    }

    #[pyo3(signature = (_type=None, _value=None, _traceback=None))]
    fn __exit__(
        &self,
        _type: Option<&Bound<'_, PyAny>>,
        _value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        self.give()
    }

    /// Whether somebody has it.
    fn locked(&self) -> PyResult<bool> {
        Ok(self.lock()?.raw().is_locked())
    }

    /// How many of its owners have died with it: each time it went to the next who asked.
    #[getter]
    fn owner_deaths(&self) -> PyResult<u32> {
        Ok(self.lock()?.raw().owner_deaths())
    }

    fn _is_mine(&self) -> PyResult<bool> {
        Ok(self.lock()?.is_mine())
    }

    fn _count(&self) -> PyResult<u32> {
        Ok(self.lock()?.depth())
    }

    fn _is_zero(&self) -> PyResult<bool> {
        self.locked()
    }

    fn _get_value(&self) -> PyResult<u32> {
        Ok(u32::from(!self.lock()?.raw().is_locked()))
    }
}
