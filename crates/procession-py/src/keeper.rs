//! The time limit of a process, for `procession._time_limit`.

use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

use procession::process::keeper::{Keeper, Overtime, StackOffer};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::gil::GilCell;
use crate::pool::os_error;

/// Ends the calling process when its time is over.
#[pyclass(frozen, module = "procession._native")]
pub struct TimeKeeper {
    offer: StackOffer,
    keeper: GilCell<Option<Keeper>>,
}

#[pymethods]
impl TimeKeeper {
    #[new]
    fn new() -> PyResult<Self> {
        Ok(TimeKeeper {
            offer: StackOffer::new().map_err(os_error)?,
            keeper: GilCell::new(None),
        })
    }

    /// The signal upon which this process is to write its stack down. Who installs a handler for it calls the one before.
    #[getter]
    fn signal(&self) -> i32 {
        self.offer.signal()
    }

    /// Limits this process to so many seconds from now on. `report` is the writing end of a pipe to the parent, `stack` the
    /// descriptor of the file that the stack is written to, if it can be.
    #[pyo3(signature = (seconds, report, stack=None))]
    fn begin(&self, py: Python<'_>, seconds: f64, report: RawFd, stack: Option<u32>) -> PyResult<()> {
        // Beyond thirty years it is for ever.
        let limit = Duration::from_secs_f64(seconds.clamp(0.0, 1e9));
        // SAFETY: the descriptor is the caller's, and stays open for the call.
        let report = unsafe { BorrowedFd::borrow_raw(report) };
        let stack = stack.map(|descriptor| (&self.offer, descriptor));
        // SAFETY: called when the process has just begun. Other threads there may be are those of modules that its main
        // module imports; should one of them be allocating now, the keeper ends instead of the process.
        let keeper = unsafe { Keeper::begin(limit, report, stack) }.map_err(os_error)?;
        let former = self.keeper.with(py, |k| k.replace(keeper));
        if former.is_some() {
            return Err(PyRuntimeError::new_err("this process is limited already"));
        }
        Ok(())
    }

    /// Lifts the limit.
    fn end(&self, py: Python<'_>) {
        drop(self.keeper.with(py, Option::take));
    }
}

/// What a keeper has reported on the other end of this pipe: after how many seconds the time was found to be over, and the
/// stack. `None` if it has not.
#[pyfunction]
pub fn read_overtime(report: RawFd) -> Option<(f64, String)> {
    // SAFETY: the descriptor is the caller's, and stays open for the call.
    let report = unsafe { BorrowedFd::borrow_raw(report) };
    Overtime::read(report).map(|overtime| (overtime.elapsed.as_secs_f64(), overtime.stack))
}
