//! How what lies in shared memory gets to a process that is being started.
//!
//! A cell travels as (chunk's id, the chunk's descriptor, offset, length). The descriptor travels once for each process and
//! chunk, however many cells of it are handed on, and the receiver maps each chunk once.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use procession::os::process::close_on_exec;
use procession::sync::memory::{find_chunk, Cell, Chunk};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::pool::os_error;

/// A cell on its way.
pub type Handed = (u64, u64, Py<PyAny>, u64, u64);

/// Packs a cell for the process that is being started.
///
/// # Errors
///
/// `RuntimeError`, as the standard library's, if none is: `object` may be passed by inheritance alone.
pub fn hand_on(object: &Bound<'_, PyAny>, cell: &Cell) -> PyResult<Handed> {
    let py = object.py();
    let context = py.import(intern!(py, "multiprocessing.context"))?;
    context
        .getattr(intern!(py, "assert_spawning"))?
        .call1((object,))?;
    let popen = context.getattr(intern!(py, "get_spawning_popen"))?.call0()?;
    let handed = match popen.getattr_opt(intern!(py, "_procession_chunks"))? {
        Some(handed) => handed.cast_into::<PyDict>()?,
        None => {
            let handed = PyDict::new(py);
            popen.setattr(intern!(py, "_procession_chunks"), &handed)?;
            handed
        }
    };
    cell.mark_shared();
    let [high, low] = cell.chunk().id();
    let descriptor = match handed.get_item((high, low))? {
        Some(descriptor) => descriptor,
        None => {
            let fd = cell.chunk().fd().as_raw_fd();
            let number = popen.getattr(intern!(py, "duplicate_for_child"))?.call1((fd,))?;
            let descriptor = popen.getattr(intern!(py, "DupFd"))?.call1((number,))?;
            handed.set_item((high, low), &descriptor)?;
            descriptor
        }
    };
    Ok((high, low, descriptor.unbind(), cell.offset(), cell.len()))
}

/// Unpacks a cell in the process that was started.
///
/// # Errors
///
/// If the descriptor is none of a chunk, or the cell does not lie in it.
pub fn take_over(py: Python<'_>, (high, low, descriptor, offset, len): Handed) -> PyResult<Cell> {
    let chunk = match find_chunk([high, low]) {
        Some(chunk) => chunk,
        None => open(
            descriptor
                .bind(py)
                .call_method0(intern!(py, "detach"))?
                .extract()?,
        )?,
    };
    Cell::attach(chunk, offset, len).map_err(os_error)
}

fn open(fd: RawFd) -> PyResult<Arc<Chunk>> {
    // SAFETY: the descriptor was inherited or received for this very purpose, and is handed over here.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    close_on_exec(&fd).map_err(os_error)?;
    Chunk::open(fd).map_err(os_error)
}
