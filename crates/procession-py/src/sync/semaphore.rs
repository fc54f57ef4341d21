//! `Semaphore` and `BoundedSemaphore`.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::OnceLock;
use std::time::Duration;

use procession::os::process::generation;
use procession::sync::memory::Cell;
use procession::sync::{Identity, RawSemaphore};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::handing_on::{hand_on, take_over, Handed};
use super::lock::not_made;
use super::waiting::{limit, stir};
use crate::pool::os_error;

/// The native half of `Semaphore` and `BoundedSemaphore`.
#[pyclass(frozen, subclass, weakref, module = "procession._native")]
#[derive(Debug)]
pub struct SemaphoreBase {
    made: OnceLock<Made>,
    /// Acquired less released by this process, and by which thread last; for `_count` and `_is_mine` alone.
    balance: AtomicI64,
    last: AtomicU64,
    balance_of: AtomicU32,
}

#[derive(Debug)]
struct Made {
    cell: Cell,
    max: u32,
}

impl Made {
    #[inline]
    fn raw(&self) -> &RawSemaphore {
        // SAFETY: every cell is at least 64 bytes long and aligned to that, and a semaphore may have any bits.
        unsafe { self.cell.start().cast::<RawSemaphore>().as_ref() }
    }
}

impl SemaphoreBase {
    #[inline]
    fn made(&self) -> PyResult<&Made> {
        self.made.get().ok_or_else(not_made)
    }

    #[inline]
    fn raw(&self) -> PyResult<&RawSemaphore> {
        Ok(self.made()?.raw())
    }

    /// Takes a permit if there is one.
    #[inline]
    pub fn take_now(&self) -> bool {
        let taken = self.made.get().is_some_and(|made| made.raw().try_acquire());
        if taken {
            self.count(1);
        }
        taken
    }

    /// Gives a permit back if the semaphore is not at its limit.
    #[inline]
    pub fn give_now(&self) -> bool {
        let given = self
            .made
            .get()
            .is_some_and(|made| made.raw().release(made.max).is_ok());
        if given {
            self.count(-1);
        }
        given
    }

    #[inline]
    fn count(&self, by: i64) {
        if self.balance_of.load(Ordering::Relaxed) != generation() {
            self.balance_of.store(generation(), Ordering::Relaxed);
            self.balance.store(0, Ordering::Relaxed);
        }
        // The GIL is held, so nobody comes between.
        let balance = self.balance.load(Ordering::Relaxed);
        self.balance.store(balance + by, Ordering::Relaxed);
        if by > 0 {
            self.last.store(identity_key(), Ordering::Relaxed);
        }
    }

    #[inline]
    fn take(&self, py: Python<'_>, block: bool, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let raw = self.raw()?;
        let taken = raw.try_acquire() || {
            let limit = if block {
                limit(timeout)?
            } else {
                Some(Duration::ZERO)
            };
            limit != Some(Duration::ZERO) && py.detach(|| raw.acquire(limit, &mut stir))?
        };
        if taken {
            self.count(1);
        }
        Ok(taken)
    }
}

#[inline]
fn identity_key() -> u64 {
    let me = Identity::current();
    u64::from(me.pid()) << 32 | u64::from(me.thread())
}

#[pymethods]
impl SemaphoreBase {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        SemaphoreBase {
            made: OnceLock::new(),
            balance: AtomicI64::new(0),
            last: AtomicU64::new(0),
            balance_of: AtomicU32::new(0),
        }
    }

    fn _make(&self, value: i64, max: i64) -> PyResult<()> {
        let valid = |number: i64| {
            u32::try_from(number)
                .ok()
                .filter(|&number| number <= RawSemaphore::MAX)
        };
        let (Some(value), Some(max)) = (valid(value), valid(max)) else {
            // As the standard library says it, whose kernel call refuses the number.
            return Err(os_error(std::io::Error::from_raw_os_error(libc::EINVAL)));
        };
        let made = Made {
            cell: Cell::allocate(size_of::<RawSemaphore>()).map_err(os_error)?,
            max,
        };
        made.raw().set(value);
        let _ = self.made.set(made);
        Ok(())
    }

    fn _hand_on(slf: &Bound<'_, Self>) -> PyResult<(u32, Handed)> {
        let made = slf.get().made()?;
        Ok((made.max, hand_on(slf.as_any(), &made.cell)?))
    }

    fn _take_over(&self, py: Python<'_>, max: u32, handed: Handed) -> PyResult<()> {
        let _ = self.made.set(Made {
            cell: take_over(py, handed)?,
            max,
        });
        Ok(())
    }

    /// Takes a permit; False if that took longer than `timeout` seconds, or if `block` is false and there is none.
    #[pyo3(signature = (block=true, timeout=None))]
    fn acquire(slf: &Bound<'_, Self>, block: bool, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        slf.get().take(slf.py(), block, timeout)
    }

    /// Gives a permit back.
    fn release(&self) -> PyResult<()> {
        let made = self.made()?;
        made.raw()
            .release(made.max)
            .map_err(|_| PyValueError::new_err("semaphore or lock released too many times"))?;
        self.count(-1);
        Ok(())
    }

    fn __enter__(slf: &Bound<'_, Self>) -> PyResult<bool> {
        slf.get().take(slf.py(), true, None)
    }

    #[pyo3(signature = (_type=None, _value=None, _traceback=None))]
    fn __exit__(
        &self,
        _type: Option<&Bound<'_, PyAny>>,
        _value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        self.release()
    }

    /// Whether no permit is left.
    fn locked(&self) -> PyResult<bool> {
        self._is_zero()
    }

    /// How many permits there are.
    fn get_value(&self) -> PyResult<u32> {
        Ok(self.raw()?.value())
    }

    fn _get_value(&self) -> PyResult<u32> {
        self.get_value()
    }

    fn _is_zero(&self) -> PyResult<bool> {
        Ok(self.raw()?.value() == 0)
    }

    fn _count(&self) -> i64 {
        if self.balance_of.load(Ordering::Relaxed) == generation() {
            self.balance.load(Ordering::Relaxed)
        } else {
            0
        }
    }

    fn _is_mine(&self) -> bool {
        self._count() > 0 && self.last.load(Ordering::Relaxed) == identity_key()
    }

    #[getter]
    fn maxvalue(&self) -> PyResult<u32> {
        Ok(self.made()?.max)
    }
}
