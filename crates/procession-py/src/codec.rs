//! How Python values become bytes and back.
//!
//! A value of a simple type travels tagged; every other one by pickle (protocol 5), with its large buffers out of band
//! in blocks of the arena. What lies between the tags can be walked without running anybody's code.
//!
//! | first byte | value | then |
//! | --- | --- | --- |
//! | 0–2 | `None`, `True`, `False` | |
//! | 3 | an int of 64 bits | zigzag varint |
//! | 4 | a float | 8 bytes |
//! | 5 | a str | varint length, UTF-8 |
//! | 6 | a bytes | varint length, bytes |
//! | 7 | a tuple of simple values | varint length, values |
//! | 8 | any other | u64 length, pickle, u32 number of buffers, per buffer: block u32, read-only u8, length u64 |
//! | 9 | a long bytes | block u32, length u64 |
//! | 128–255 | the ints 0–127 | |

use procession::shm::{AllocError, Arena, Block, Owner};
use pyo3::exceptions::{PyMemoryError, PyRuntimeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::os::raw::c_char;
use std::sync::Arc;

use crate::block::BlockBuffer;
use crate::pickle;

const NONE: u8 = 0;
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const INT: u8 = 3;
const FLOAT: u8 = 4;
const STR: u8 = 5;
const BYTES: u8 = 6;
const TUPLE: u8 = 7;
const PICKLE: u8 = 8;
const LONG_BYTES: u8 = 9;
const SMALL_INT: u8 = 128;
/// The bytes of a buffer from which on it travels in a block of its own.
pub const OUT_OF_BAND_BYTES: usize = 32 * 1024;
const MOST_NESTING: u32 = 16;

/// Why a value could not be encoded.
#[derive(Debug)]
pub enum EncodeError {
    /// The arena has no room now; it will have some.
    Full,
    /// Python says no.
    Python(PyErr),
}

impl From<PyErr> for EncodeError {
    fn from(e: PyErr) -> Self {
        EncodeError::Python(e)
    }
}

impl EncodeError {
    /// As a Python exception.
    pub fn into_py(self) -> PyErr {
        match self {
            EncodeError::Full => PyMemoryError::new_err("all shared memory is in use"),
            EncodeError::Python(e) => e,
        }
    }
}

impl From<AllocError> for EncodeError {
    fn from(e: AllocError) -> Self {
        match e {
            AllocError::Full => EncodeError::Full,
            e => EncodeError::Python(PyMemoryError::new_err(e.to_string())),
        }
    }
}

/// Bytes of encoded values and the blocks that belong to them.
#[derive(Debug)]
pub struct Encoder {
    /// Where large buffers go; without one they travel in band.
    pub arena: Option<Arc<Arena>>,
    pub owner: Owner,
    pub bytes: Vec<u8>,
    pub blocks: Vec<Block>,
}

impl Encoder {
    pub fn new(arena: Option<Arc<Arena>>, owner: Owner) -> Self {
        Encoder {
            arena,
            owner,
            bytes: Vec::new(),
            blocks: Vec::new(),
        }
    }

    /// Forgets what was encoded beyond these marks, freeing its blocks.
    pub fn rewind(&mut self, bytes: usize, blocks: usize) {
        self.bytes.truncate(bytes);
        for block in self.blocks.drain(blocks..) {
            if let Some(arena) = &self.arena {
                arena.free(block, self.owner);
            }
        }
    }

    /// Begins anew; the blocks so far have found their way.
    #[inline]
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.blocks.clear();
    }

    /// Copies bytes into a block of their own. Without an arena there is never room for one.
    pub fn put_block(&mut self, data: *const u8, len: usize) -> Result<Block, AllocError> {
        let arena = self.arena.as_deref().ok_or(AllocError::Full)?;
        let block = arena.alloc(len as u64, self.owner)?;
        // SAFETY: the block has at least `len` bytes and is ours alone; the caller vouches for `data`.
        unsafe { std::ptr::copy_nonoverlapping(data, arena.start(block), len) };
        self.blocks.push(block);
        Ok(block)
    }

    /// Appends one value. On failure nothing is appended.
    #[inline]
    pub fn put(&mut self, value: &Bound<'_, PyAny>) -> Result<(), EncodeError> {
        // SAFETY: the pointer is a live object's and the GIL is held.
        if unsafe { self.put_simple(value.as_ptr(), 0) } {
            return Ok(());
        }
        self.put_other(value)
    }

    /// As `put` of an int.
    pub fn put_int(&mut self, n: i64) {
        if (0..128).contains(&n) {
            self.bytes.push(SMALL_INT | n as u8);
        } else {
            self.bytes.push(INT);
            self.put_varint(((n << 1) ^ (n >> 63)) as u64);
        }
    }

    fn put_other(&mut self, value: &Bound<'_, PyAny>) -> Result<(), EncodeError> {
        if let (Ok(bytes), Some(_)) = (value.cast_exact::<PyBytes>(), &self.arena) {
            let data = bytes.as_bytes();
            let block = self.put_block(data.as_ptr(), data.len())?;
            self.bytes.push(LONG_BYTES);
            self.bytes.extend_from_slice(&block.raw().to_le_bytes());
            self.bytes.extend_from_slice(&(data.len() as u64).to_le_bytes());
            return Ok(());
        }
        let (bytes, blocks) = (self.bytes.len(), self.blocks.len());
        let done = self.put_pickle(value);
        if done.is_err() {
            self.rewind(bytes, blocks);
        }
        done
    }

    fn put_pickle(&mut self, value: &Bound<'_, PyAny>) -> Result<(), EncodeError> {
        self.bytes.push(PICKLE);
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 8]);
        let buffers = pickle::dump_into(value, self)?;
        let len = (self.bytes.len() - at - 8) as u64;
        self.bytes[at..at + 8].copy_from_slice(&len.to_le_bytes());
        self.bytes
            .extend_from_slice(&(buffers.len() as u32).to_le_bytes());
        for buffer in buffers {
            self.bytes.extend_from_slice(&buffer.block.raw().to_le_bytes());
            self.bytes.push(u8::from(buffer.read_only));
            self.bytes.extend_from_slice(&buffer.len.to_le_bytes());
        }
        Ok(())
    }

    fn put_varint(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.bytes.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.bytes.push(n as u8);
    }

    /// Appends a simple value; false (and nothing appended) if it is not one. Runs no Python code.
    ///
    /// # Safety
    /// `value` is a live object and the GIL is held.
    unsafe fn put_simple(&mut self, value: *mut ffi::PyObject, nesting: u32) -> bool {
        // SAFETY: the checks of exact types come before each use as such a type; all pointers stay alive with `value`.
        unsafe {
            if ffi::PyLong_CheckExact(value) != 0 {
                let mut overflow = 0;
                let n = ffi::PyLong_AsLongLongAndOverflow(value, &mut overflow);
                if overflow != 0 {
                    return false;
                }
                self.put_int(n);
                return true;
            }
            if value == ffi::Py_None() {
                self.bytes.push(NONE);
                return true;
            }
            if ffi::PyFloat_CheckExact(value) != 0 {
                self.bytes.push(FLOAT);
                self.bytes
                    .extend_from_slice(&ffi::PyFloat_AsDouble(value).to_le_bytes());
                return true;
            }
            if ffi::PyUnicode_CheckExact(value) != 0 {
                return self.put_str(value);
            }
            if ffi::PyTuple_CheckExact(value) != 0 {
                if nesting == MOST_NESTING {
                    return false;
                }
                let mark = self.bytes.len();
                let n = ffi::PyTuple_Size(value);
                self.bytes.push(TUPLE);
                self.put_varint(n as u64);
                for i in 0..n {
                    if !self.put_simple(ffi::PyTuple_GetItem(value, i), nesting + 1) {
                        self.bytes.truncate(mark);
                        return false;
                    }
                }
                return true;
            }
            if ffi::PyBytes_CheckExact(value) != 0 {
                let len = ffi::PyBytes_Size(value) as usize;
                if len >= OUT_OF_BAND_BYTES {
                    return false;
                }
                self.bytes.push(BYTES);
                self.put_varint(len as u64);
                self.bytes.extend_from_slice(std::slice::from_raw_parts(
                    ffi::PyBytes_AsString(value).cast(),
                    len,
                ));
                return true;
            }
            if value == ffi::Py_True() {
                self.bytes.push(TRUE);
                return true;
            }
            if value == ffi::Py_False() {
                self.bytes.push(FALSE);
                return true;
            }
            false
        }
    }

    /// # Safety
    /// `value` is a live exact str and the GIL is held.
    unsafe fn put_str(&mut self, value: *mut ffi::PyObject) -> bool {
        // SAFETY: `value` is an exact str; its UTF-8 form lives as long as it (ASCII) or as the bytes made here.
        unsafe {
            let mut len = 0;
            if ffi::PyUnicode_IS_COMPACT_ASCII(value) != 0 {
                let data = ffi::PyUnicode_AsUTF8AndSize(value, &mut len);
                self.bytes.push(STR);
                self.put_varint(len as u64);
                self.bytes
                    .extend_from_slice(std::slice::from_raw_parts(data.cast(), len as usize));
                return true;
            }
            // Not `AsUTF8AndSize`, which would keep the encoded form with the user's str for its whole life.
            let encoded = ffi::PyUnicode_AsUTF8String(value);
            if encoded.is_null() {
                // A lone surrogate: pickle knows how.
                ffi::PyErr_Clear();
                return false;
            }
            let len = ffi::PyBytes_Size(encoded) as usize;
            self.bytes.push(STR);
            self.put_varint(len as u64);
            self.bytes.extend_from_slice(std::slice::from_raw_parts(
                ffi::PyBytes_AsString(encoded).cast(),
                len,
            ));
            ffi::Py_DECREF(encoded);
            true
        }
    }
}

/// Why bytes could not be read.
fn garbled() -> PyErr {
    PyRuntimeError::new_err("a message in shared memory is garbled")
}

/// A cursor over encoded values. Each read is checked against the end: the writer may have died mid-write.
#[derive(Debug, Clone, Copy)]
pub struct Reader {
    at: *const u8,
    end: *const u8,
}

/// What a walk over encoded values finds in blocks of its own.
#[derive(Debug, Clone, Copy)]
pub struct Attached {
    pub block: u32,
    pub read_only: bool,
    pub len: u64,
}

impl Reader {
    /// Reads `len` bytes from `start`.
    ///
    /// # Safety
    /// The bytes stay mapped and are written by nobody while the reader is used.
    pub unsafe fn new(start: *const u8, len: usize) -> Self {
        Reader {
            at: start,
            // SAFETY: the caller vouches for the range.
            end: unsafe { start.add(len) },
        }
    }

    pub fn over(bytes: &[u8]) -> Self {
        // SAFETY: a slice is a valid range; who holds the reader longer than the slice must not read.
        unsafe { Reader::new(bytes.as_ptr(), bytes.len()) }
    }

    /// Bytes left.
    pub fn left(&self) -> usize {
        self.end as usize - self.at as usize
    }

    #[inline]
    pub fn take(&mut self, n: usize) -> Option<*const u8> {
        if n > self.left() {
            return None;
        }
        let at = self.at;
        // SAFETY: at most `left` bytes on.
        self.at = unsafe { at.add(n) };
        Some(at)
    }

    #[inline]
    pub fn byte(&mut self) -> Option<u8> {
        // SAFETY: one byte is there.
        self.take(1).map(|p| unsafe { *p })
    }

    fn fixed<const N: usize>(&mut self) -> Option<[u8; N]> {
        // SAFETY: N bytes are there, and arrays of bytes need no alignment.
        self.take(N).map(|p| unsafe { *p.cast::<[u8; N]>() })
    }

    fn varint(&mut self) -> Option<u64> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            n |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Some(n);
            }
        }
        None
    }

    fn attached(&mut self) -> Option<Attached> {
        let block = u32::from_le_bytes(self.fixed()?);
        let read_only = self.byte()? != 0;
        let len = u64::from_le_bytes(self.fixed()?);
        Some(Attached {
            block,
            read_only,
            len,
        })
    }

    /// Walks past one value, calling `found` for each block that belongs to it.
    pub fn skip(&mut self, found: &mut dyn FnMut(Attached)) -> Option<()> {
        match self.byte()? {
            NONE | TRUE | FALSE => {}
            INT => {
                self.varint()?;
            }
            FLOAT => {
                self.take(8)?;
            }
            STR | BYTES => {
                let n = self.varint()?;
                self.take(usize::try_from(n).ok()?)?;
            }
            TUPLE => {
                for _ in 0..self.varint()? {
                    self.skip(found)?;
                }
            }
            PICKLE => {
                let n = u64::from_le_bytes(self.fixed()?);
                self.take(usize::try_from(n).ok()?)?;
                for _ in 0..u32::from_le_bytes(self.fixed()?) {
                    found(self.attached()?);
                }
            }
            LONG_BYTES => {
                let block = u32::from_le_bytes(self.fixed()?);
                let len = u64::from_le_bytes(self.fixed()?);
                found(Attached {
                    block,
                    read_only: true,
                    len,
                });
            }
            SMALL_INT.. => {}
            _ => return None,
        }
        Some(())
    }

    /// Walks past one value if decoding it runs nobody's code.
    pub fn skip_simple(&mut self) -> bool {
        if self.left() == 0 {
            return false;
        }
        // SAFETY: at least one byte is left.
        let first = unsafe { *self.at };
        first != PICKLE && first != LONG_BYTES && self.skip(&mut |_| {}).is_some()
    }

    /// Reads a value that neither runs Python code nor is tracked by the garbage collector; `None` (and the reader
    /// unmoved) if the next one is another, or garbled.
    #[inline]
    pub fn plain<'py>(&mut self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        let mark = self.at;
        // SAFETY: new references of the right type, or null with an error set.
        let object = unsafe { self.plain_ptr() };
        if object.is_null() {
            self.at = mark;
            return None;
        }
        // SAFETY: the pointer is a new reference.
        Some(unsafe { Bound::from_owned_ptr(py, object) })
    }

    /// # Safety
    /// The GIL is held.
    unsafe fn plain_ptr(&mut self) -> *mut ffi::PyObject {
        // SAFETY: constructors get lengths that were checked against what is left.
        unsafe {
            let made = match self.byte() {
                Some(tag @ SMALL_INT..) => ffi::PyLong_FromLong(std::os::raw::c_long::from(tag & 0x7F)),
                Some(NONE) => new_reference(ffi::Py_None()),
                Some(TRUE) => new_reference(ffi::Py_True()),
                Some(FALSE) => new_reference(ffi::Py_False()),
                Some(INT) => match self.varint() {
                    Some(n) => ffi::PyLong_FromLongLong((n >> 1) as i64 ^ -((n & 1) as i64)),
                    None => std::ptr::null_mut(),
                },
                Some(FLOAT) => match self.fixed() {
                    Some(bytes) => ffi::PyFloat_FromDouble(f64::from_le_bytes(bytes)),
                    None => std::ptr::null_mut(),
                },
                Some(tag @ (STR | BYTES)) => {
                    match self.varint().and_then(|n| Some((self.take(n as usize)?, n))) {
                        Some((data, n)) => {
                            let data = data.cast::<c_char>();
                            if tag == STR {
                                ffi::PyUnicode_DecodeUTF8(data, n as ffi::Py_ssize_t, c"strict".as_ptr())
                            } else {
                                ffi::PyBytes_FromStringAndSize(data, n as ffi::Py_ssize_t)
                            }
                        }
                        None => std::ptr::null_mut(),
                    }
                }
                _ => return std::ptr::null_mut(),
            };
            if made.is_null() {
                ffi::PyErr_Clear();
            }
            made
        }
    }

    /// Reads any value; user code may run. Blocks of the value are taken over from `from` by `mine.owner`.
    pub fn value<'py>(&mut self, py: Python<'py>, mine: &Receiver) -> PyResult<Bound<'py, PyAny>> {
        if let Some(plain) = self.plain(py) {
            return Ok(plain);
        }
        match self.byte() {
            Some(TUPLE) => {
                let n = self
                    .varint()
                    .filter(|&n| n <= self.left() as u64)
                    .ok_or_else(garbled)? as usize;
                // SAFETY: a fresh tuple is filled to its length before anybody else sees it; should an element fail,
                // its empty places are what tuples' destructor expects.
                unsafe {
                    let tuple = Bound::from_owned_ptr_or_err(py, ffi::PyTuple_New(n as ffi::Py_ssize_t))?;
                    for i in 0..n {
                        let element = self.value(py, mine)?;
                        ffi::PyTuple_SetItem(tuple.as_ptr(), i as ffi::Py_ssize_t, element.into_ptr());
                    }
                    Ok(tuple)
                }
            }
            Some(PICKLE) => {
                let n = self.fixed().map(u64::from_le_bytes).ok_or_else(garbled)?;
                let data = usize::try_from(n)
                    .ok()
                    .and_then(|n| self.take(n))
                    .ok_or_else(garbled)?;
                let count = self.fixed().map(u32::from_le_bytes).ok_or_else(garbled)?;
                let mut attached = Vec::new();
                for _ in 0..count {
                    attached.push(self.attached().ok_or_else(garbled)?);
                }
                // All blocks are taken over before anybody's code runs: whatever happens, each has one owner.
                let buffers: Vec<_> = attached
                    .into_iter()
                    .map(|a| mine.adopt(py, a))
                    .collect::<PyResult<_>>()?;
                // SAFETY: the pickle's bytes were checked to lie inside the message, which outlives the call.
                unsafe { pickle::load(py, data, n as usize, buffers) }
            }
            Some(LONG_BYTES) => {
                let block = self.fixed().map(u32::from_le_bytes).ok_or_else(garbled)?;
                let len = self.fixed().map(u64::from_le_bytes).ok_or_else(garbled)?;
                let buffer = mine.take(Attached {
                    block,
                    read_only: true,
                    len,
                })?;
                // SAFETY: `take` checked the length against the block's capacity and made the block ours.
                let bytes = unsafe {
                    let data = buffer.start().cast::<c_char>();
                    Bound::from_owned_ptr_or_err(
                        py,
                        ffi::PyBytes_FromStringAndSize(data, len as ffi::Py_ssize_t),
                    )
                };
                drop(buffer);
                bytes
            }
            _ => Err(garbled()),
        }
    }
}

/// A new reference to a live object.
///
/// # Safety
/// The object is alive and the GIL is held.
unsafe fn new_reference(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the caller's contract.
    unsafe { ffi::Py_INCREF(object) };
    object
}

/// Who receives values, and whose their blocks are until then.
#[derive(Debug, Clone)]
pub struct Receiver {
    pub arena: Arc<Arena>,
    /// The receiver.
    pub owner: Owner,
    /// Who has the blocks of arriving values.
    pub from: Owner,
    /// Whether values get copies of their large buffers and the blocks go back at once.
    pub copies: bool,
}

impl Receiver {
    fn take(&self, attached: Attached) -> PyResult<BlockBuffer> {
        let arena = &self.arena;
        let block = arena
            .check(attached.block)
            .filter(|b| attached.len <= b.capacity())
            .ok_or_else(garbled)?;
        if self.from != self.owner && !arena.hand_over(block, self.from, self.owner) {
            return Err(garbled());
        }
        Ok(BlockBuffer::new(
            self.arena.clone(),
            block,
            self.owner,
            attached.len,
            attached.read_only,
        ))
    }

    fn adopt<'py>(&self, py: Python<'py>, attached: Attached) -> PyResult<Bound<'py, PyAny>> {
        let buffer = self.take(attached)?;
        if !self.copies {
            return Ok(Bound::new(py, buffer)?.into_any());
        }
        let (data, len) = (
            buffer.start().cast_const().cast::<c_char>(),
            attached.len as ffi::Py_ssize_t,
        );
        // SAFETY: `take` checked the length against the block's capacity and made the block ours; both constructors copy.
        unsafe {
            let copy = if attached.read_only {
                ffi::PyBytes_FromStringAndSize(data, len)
            } else {
                ffi::PyByteArray_FromStringAndSize(data, len)
            };
            Bound::from_owned_ptr_or_err(py, copy)
        }
    }
}
