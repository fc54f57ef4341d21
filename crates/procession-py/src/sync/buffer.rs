//! Shared memory as a Python buffer: what shared values and arrays lie in.

use std::ffi::{c_int, c_void};

use procession::sync::memory::Cell;
use pyo3::exceptions::{PyBufferError, PyMemoryError, PyOverflowError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyMemoryView, PyType};

use super::handing_on::{hand_on, take_over, Handed};
use crate::pool::os_error;

/// So many bytes of shared memory, zeroed when they were made. Its buffer may be written to.
#[pyclass(frozen, weakref, module = "procession._native")]
#[derive(Debug)]
pub struct SharedBuffer {
    cell: Cell,
    len: usize,
}

impl SharedBuffer {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn start(&self) -> *mut u8 {
        self.cell.start().as_ptr()
    }
}

#[pymethods]
impl SharedBuffer {
    #[new]
    fn new(size: i64) -> PyResult<Self> {
        if size < 0 {
            return Err(PyValueError::new_err(format!("Size {size} out of range")));
        }
        if size == i64::MAX {
            return Err(PyOverflowError::new_err(format!("Size {size} too large")));
        }
        let len = size as usize;
        let cell = Cell::allocate(len).map_err(|error| match error.kind() {
            std::io::ErrorKind::OutOfMemory | std::io::ErrorKind::StorageFull => {
                PyMemoryError::new_err(format!("no room for {len} bytes of shared memory: {error}"))
            }
            _ => os_error(error),
        })?;
        Ok(SharedBuffer { cell, len })
    }

    fn __len__(&self) -> usize {
        self.len
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (Handed, usize))> {
        let make = slf.get_type().getattr("_take_over")?;
        let this = slf.get();
        Ok((make, (hand_on(slf.as_any(), &this.cell)?, this.len)))
    }

    /// A view of the bytes; the name is that of the standard library's `BufferWrapper`.
    fn create_memoryview<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyMemoryView>> {
        PyMemoryView::from(slf.as_any())
    }

    #[classmethod]
    fn _take_over(cls: &Bound<'_, PyType>, handed: Handed, len: usize) -> PyResult<Self> {
        let cell = take_over(cls.py(), handed)?;
        if len as u64 > cell.len() {
            return Err(PyValueError::new_err("the shared memory is shorter than it says"));
        }
        Ok(SharedBuffer { cell, len })
    }

    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("there is no view to fill"));
        }
        let this = slf.get();
        // SAFETY: the view is the interpreter's to be filled; the memory lives as long as the object, to which the view
        // gets a reference. Other processes may write to it meanwhile, as users of shared memory know.
        let filled = unsafe {
            ffi::PyBuffer_FillInfo(
                view,
                slf.as_ptr(),
                this.start().cast::<c_void>(),
                this.len as isize,
                0,
                flags,
            )
        };
        if filled == 0 {
            Ok(())
        } else {
            Err(PyErr::fetch(slf.py()))
        }
    }
}
