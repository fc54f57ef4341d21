//! Blocks of shared memory as Python buffers.

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use procession::os::process::generation;
use procession::shm::{Arena, Block, Owner};
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;

/// A block of shared memory that arrived out of band: whoever made an array of it owns its bytes alone.
///
/// The block goes back to the arena when the last view of it is gone.
#[pyclass(frozen, module = "procession._native", name = "Block")]
#[derive(Debug)]
pub struct BlockBuffer {
    arena: Arc<Arena>,
    block: Block,
    owner: Owner,
    len: u64,
    read_only: bool,
    generation: u32,
}

impl BlockBuffer {
    pub fn new(arena: Arc<Arena>, block: Block, owner: Owner, len: u64, read_only: bool) -> Self {
        BlockBuffer {
            arena,
            block,
            owner,
            len,
            read_only,
            generation: generation(),
        }
    }

    pub fn start(&self) -> *mut u8 {
        self.arena.start(self.block)
    }
}

impl Drop for BlockBuffer {
    fn drop(&mut self) {
        // A forked child has a copy of this object, but the block is still its parent's.
        if self.generation == generation() {
            self.arena.free(self.block, self.owner);
        }
    }
}

#[pymethods]
impl BlockBuffer {
    /// The number of bytes.
    fn __len__(&self) -> usize {
        self.len as usize
    }

    /// Sent on, the bytes travel as a buffer once more and arrive as `bytes` or `bytearray`.
    fn __reduce_ex__<'py>(slf: &Bound<'py, Self>, protocol: i32) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let kind = if slf.get().read_only { "bytes" } else { "bytearray" };
        let class = py.import("builtins")?.getattr(kind)?;
        let content = if protocol >= 5 {
            py.import("pickle")?.getattr("PickleBuffer")?.call1((slf,))?
        } else {
            py.import("builtins")?.getattr("bytes")?.call1((slf,))?
        };
        Ok((class, (content,)).into_pyobject(py)?.into_any())
    }

    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let this = slf.get();
        if this.read_only && flags & ffi::PyBUF_WRITABLE == ffi::PyBUF_WRITABLE {
            return Err(PyBufferError::new_err(
                "the buffer was read-only where it came from",
            ));
        }
        // SAFETY: the block's bytes stay mapped and ours as long as this object lives, which the view keeps alive.
        let filled = unsafe {
            ffi::PyBuffer_FillInfo(
                view,
                slf.as_ptr(),
                this.start().cast::<c_void>(),
                this.len as ffi::Py_ssize_t,
                c_int::from(this.read_only),
                flags,
            )
        };
        if filled != 0 {
            return Err(PyErr::fetch(slf.py()));
        }
        Ok(())
    }
}
