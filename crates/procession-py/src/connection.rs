//! Connections: the hot methods of `procession.connection.Connection`.
//!
//! A call first tries without letting go of the GIL, which is right while both ends keep up: a system call takes a third of
//! a microsecond, and getting the GIL back beside a busy thread may take milliseconds. What has to wait, and what is long,
//! goes on without it.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

use procession::connection::{Body, Header, Outgoing, Progress, Spin};
use procession::os::event;
use procession::os::stream::{self, Kind, Span};
use procession::shm::Owner;
use pyo3::exceptions::{PyEOFError, PyOSError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::codec::Encoder;
use crate::gil::GilCell;
use crate::pickle::{self, View};
use crate::pool::os_error;

/// Up to so many bytes are copied in or out with the GIL held.
const SHORT_BYTES: usize = 64 * 1024;
/// A buffer that has grown beyond this is not kept for the next message.
const KEPT_BYTES: usize = 4 << 20;

/// What a connection keeps for the next message, so that its pages are there already.
static ENCODERS: GilCell<Vec<Encoder>> = GilCell::new(Vec::new());
static SCRATCH: GilCell<Vec<Vec<u8>>> = GilCell::new(Vec::new());

/// One end of a connection. The Python class adds the standard library's as a base, for `isinstance`.
#[pyclass(subclass, frozen, module = "procession._native", name = "ConnectionBase")]
#[derive(Debug)]
pub struct ConnectionBase {
    /// The descriptor; −1 when closed.
    handle: AtomicI32,
    is_socket: AtomicBool,
    readable: AtomicBool,
    writable: AtomicBool,
    spin: Spin,
}

fn error(e: io::Error) -> PyErr {
    match e.kind() {
        ErrorKind::UnexpectedEof => PyEOFError::new_err(()),
        _ => os_error(e),
    }
}

/// Repeats what a signal has interrupted, once its handler has been heard.
fn again<T: Send>(py: Python<'_>, mut attempt: impl FnMut() -> io::Result<T> + Send) -> PyResult<T> {
    loop {
        match py.detach(&mut attempt) {
            Ok(done) => return Ok(done),
            Err(e) if e.kind() == ErrorKind::Interrupted => py.check_signals()?,
            Err(e) => return Err(error(e)),
        }
    }
}

impl ConnectionBase {
    fn descriptor(&self) -> PyResult<BorrowedFd<'static>> {
        let handle = self.handle.load(Ordering::Relaxed);
        if handle < 0 {
            return Err(PyOSError::new_err("handle is closed"));
        }
        // SAFETY: the descriptor is this object's. Should another thread close it during a call, the call gets an error or
        // another file, as with every descriptor in Python; no memory depends on it.
        Ok(unsafe { BorrowedFd::borrow_raw(handle) })
    }

    fn source(&self) -> PyResult<(BorrowedFd<'static>, Kind)> {
        let fd = self.descriptor()?;
        if !self.readable.load(Ordering::Relaxed) {
            return Err(PyOSError::new_err("connection is write-only"));
        }
        Ok((fd, self.kind()))
    }

    fn target(&self) -> PyResult<(BorrowedFd<'static>, Kind)> {
        let fd = self.descriptor()?;
        if !self.writable.load(Ordering::Relaxed) {
            return Err(PyOSError::new_err("connection is read-only"));
        }
        Ok((fd, self.kind()))
    }

    fn kind(&self) -> Kind {
        if self.is_socket.load(Ordering::Relaxed) {
            Kind::Socket
        } else {
            Kind::Other
        }
    }

    /// Sends one message.
    ///
    /// # Safety
    /// The spans can be read until this returns.
    unsafe fn send_spans(&self, py: Python<'_>, spans: &mut [Span]) -> PyResult<()> {
        let (fd, kind) = self.target()?;
        let short = spans.iter().map(|s| s.1).sum::<usize>() <= SHORT_BYTES;
        let mut outgoing = Outgoing::new(spans);
        // SAFETY: the caller vouches for the spans.
        if short && unsafe { outgoing.proceed(fd, kind, false) }.map_err(error)? == Progress::Done {
            return Ok(());
        }
        struct Travelling<'a>(Outgoing<'a>);
        // SAFETY: spans are addresses, plain data; the memory behind them stays in place, by the caller's word.
        unsafe impl Send for Travelling<'_> {}
        let mut travelling = Travelling(outgoing);
        again(py, || {
            let travelling = &mut travelling;
            // SAFETY: the caller vouches for the spans.
            unsafe { travelling.0.proceed(fd, kind, true) }.map(|_| ())
        })
    }

    /// Waits for the next message; its length in bytes.
    fn receive_len(&self, py: Python<'_>) -> PyResult<usize> {
        let (fd, kind) = self.source()?;
        let mut header = Header::default();
        if let Some(len) = header.proceed(fd, kind, false).map_err(error)? {
            return Ok(len);
        }
        again(py, || header.wait(fd, kind, &self.spin))
    }

    /// Receives `len` bytes of a message.
    ///
    /// # Safety
    /// They can be written at `to` until this returns, and nobody else uses them.
    unsafe fn receive_body(&self, py: Python<'_>, to: *mut u8, len: usize) -> PyResult<()> {
        let (fd, kind) = self.source()?;
        let mut body = Body::new(len);
        if len <= SHORT_BYTES {
            // SAFETY: the caller vouches for the destination.
            let received = unsafe { body.proceed(fd, kind, to, false) };
            if received.map_err(error)? == Progress::Done {
                return Ok(());
            }
        }
        let to = to as usize;
        again(py, || {
            // SAFETY: the caller vouches for the destination.
            unsafe { body.proceed(fd, kind, to as *mut u8, true) }.map(|_| ())
        })
    }

    fn receive_bytes<'py>(&self, py: Python<'py>, len: usize) -> PyResult<Bound<'py, PyAny>> {
        // SAFETY: a fresh bytes object without content, which nobody else has until its content is there.
        unsafe {
            let bytes = Bound::from_owned_ptr_or_err(
                py,
                ffi::PyBytes_FromStringAndSize(std::ptr::null(), len as ffi::Py_ssize_t),
            )?;
            self.receive_body(py, ffi::PyBytes_AsString(bytes.as_ptr()).cast(), len)?;
            Ok(bytes)
        }
    }
}

#[pymethods]
impl ConnectionBase {
    /// The descriptor is set by the standard library's `__init__`.
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        ConnectionBase {
            handle: AtomicI32::new(-1),
            is_socket: AtomicBool::new(false),
            readable: AtomicBool::new(true),
            writable: AtomicBool::new(true),
            spin: Spin::new(),
        }
    }

    #[getter(_handle)]
    fn open_handle(&self) -> Option<RawFd> {
        Some(self.handle.load(Ordering::Relaxed)).filter(|&handle| handle >= 0)
    }

    #[setter(_handle)]
    fn set_handle(&self, handle: Option<RawFd>) {
        if let Some(fd) = handle.filter(|&fd| fd >= 0) {
            // SAFETY: it is only asked what it is; if it is none, it is no socket.
            let kind = stream::kind(unsafe { BorrowedFd::borrow_raw(fd) });
            self.is_socket.store(kind == Kind::Socket, Ordering::Relaxed);
        }
        self.handle.store(handle.unwrap_or(-1), Ordering::Relaxed);
    }

    #[getter(_readable)]
    fn is_readable(&self) -> bool {
        self.readable.load(Ordering::Relaxed)
    }

    #[setter(_readable)]
    fn set_readable(&self, yes: &Bound<'_, PyAny>) -> PyResult<()> {
        self.readable.store(yes.is_truthy()?, Ordering::Relaxed);
        Ok(())
    }

    #[getter(_writable)]
    fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Relaxed)
    }

    #[setter(_writable)]
    fn set_writable(&self, yes: &Bound<'_, PyAny>) -> PyResult<()> {
        self.writable.store(yes.is_truthy()?, Ordering::Relaxed);
        Ok(())
    }

    /// Whether the connection is closed.
    #[getter]
    fn closed(&self) -> bool {
        self.open_handle().is_none()
    }

    /// Whether one can receive.
    #[getter]
    fn readable(&self) -> bool {
        self.is_readable()
    }

    /// Whether one can send.
    #[getter]
    fn writable(&self) -> bool {
        self.is_writable()
    }

    /// The descriptor: readable when there is a message, or the other end is gone.
    fn fileno(&self) -> PyResult<RawFd> {
        self.descriptor()?;
        Ok(self.handle.load(Ordering::Relaxed))
    }

    /// Closes the connection; the other end gets an EOFError after the last message.
    fn close(&self) -> PyResult<()> {
        self._close()
    }

    fn _close(&self) -> PyResult<()> {
        let handle = self.handle.swap(-1, Ordering::Relaxed);
        if handle >= 0 {
            // SAFETY: the number is forgotten here by the swap. As it came from a user, it may be open no longer, which is
            // an error to tell: hence no owning type.
            if unsafe { libc::close(handle) } != 0 {
                return Err(os_error(io::Error::last_os_error()));
            }
        }
        Ok(())
    }

    /// Sends an object.
    fn send(&self, obj: &Bound<'_, PyAny>) -> PyResult<()> {
        self.target()?;
        let py = obj.py();
        let mut encoder = ENCODERS
            .with(py, Vec::pop)
            .unwrap_or_else(|| Encoder::new(None, Owner::CALLER));
        let kept = pickle::dump_keeping(obj, &mut encoder).map_err(|e| e.into_py())?;
        let mut spans = Vec::with_capacity(kept.len() * 2 + 1);
        let mut from = 0;
        for (before, view) in &kept {
            spans.push((encoder.bytes[from..].as_ptr(), before - from));
            spans.push((view.start().cast_const(), view.len()));
            from = *before;
        }
        spans.push((encoder.bytes[from..].as_ptr(), encoder.bytes.len() - from));
        // SAFETY: the encoder's bytes and the views outlive the call.
        let sent = unsafe { self.send_spans(py, &mut spans) };
        if encoder.bytes.capacity() <= KEPT_BYTES {
            encoder.clear();
            ENCODERS.with(py, |idle| idle.push(encoder));
        }
        sent
    }

    /// Sends the bytes of a bytes-like object, or `size` of them from `offset` on.
    #[pyo3(signature = (buf, offset = 0, size = None))]
    fn send_bytes(&self, buf: &Bound<'_, PyAny>, offset: isize, size: Option<isize>) -> PyResult<()> {
        self.target()?;
        let view = View::of(buf, ffi::PyBUF_SIMPLE).map_err(|e| {
            // The standard library asks for a memoryview first, whose words are a little different.
            pyo3::types::PyMemoryView::from(buf).err().unwrap_or(e)
        })?;
        let len = view.len() as isize;
        let refuse = |why: &'static str| Err(PyValueError::new_err(why));
        if offset < 0 {
            return refuse("offset is negative");
        }
        if len < offset {
            return refuse("buffer length < offset");
        }
        let size = match size {
            None => len - offset,
            Some(size) if size < 0 => return refuse("size is negative"),
            Some(size) if size > len - offset => return refuse("buffer length < offset + size"),
            Some(size) => size,
        };
        let start = view.start().wrapping_offset(offset).cast_const();
        // SAFETY: the view keeps the bytes in place until the end of this function.
        unsafe { self.send_spans(buf.py(), &mut [(start, size as usize)]) }
    }

    /// Receives an object; waits for it.
    fn recv<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let len = self.receive_len(py)?;
        let mut scratch = SCRATCH.with(py, Vec::pop).unwrap_or_default();
        scratch
            .try_reserve(len)
            .map_err(|_| pyo3::exceptions::PyMemoryError::new_err(format!("no memory for {len} bytes")))?;
        // SAFETY: the reserved bytes are ours alone, and filled before they are read; user code that comes back here
        // finds another buffer.
        let object = unsafe {
            self.receive_body(py, scratch.as_mut_ptr(), len)?;
            pickle::load(py, scratch.as_ptr(), len, Vec::new())
        };
        if scratch.capacity() <= KEPT_BYTES {
            SCRATCH.with(py, |idle| idle.push(scratch));
        }
        object
    }

    /// Receives the bytes of one message; waits for it. More than `maxlength` are an OSError.
    #[pyo3(signature = (maxlength = None))]
    fn recv_bytes<'py>(&self, py: Python<'py>, maxlength: Option<isize>) -> PyResult<Bound<'py, PyAny>> {
        self.source()?;
        if maxlength.is_some_and(|most| most < 0) {
            return Err(PyValueError::new_err("negative maxlength"));
        }
        let len = self.receive_len(py)?;
        if maxlength.is_some_and(|most| len > most as usize) {
            // Nothing after this header makes sense any more.
            if self.is_writable() {
                self.readable.store(false, Ordering::Relaxed);
            } else {
                self._close()?;
            }
            return Err(PyOSError::new_err("bad message length"));
        }
        self.receive_bytes(py, len)
    }

    /// Receives the bytes of one message into a buffer, from `offset` bytes on; returns how many there were.
    #[pyo3(signature = (buf, offset = 0))]
    fn recv_bytes_into(&self, buf: &Bound<'_, PyAny>, offset: isize) -> PyResult<usize> {
        self.source()?;
        let py = buf.py();
        let view = View::of(buf, ffi::PyBUF_WRITABLE).map_err(|e| {
            if e.is_instance_of::<PyTypeError>(py) {
                return e;
            }
            PyTypeError::new_err("recv_bytes_into() needs a read-write bytes-like object")
        })?;
        if offset < 0 {
            return Err(PyValueError::new_err("negative offset"));
        }
        let room = (view.len() as isize)
            .checked_sub(offset)
            .filter(|&room| room >= 0)
            .ok_or_else(|| PyValueError::new_err("offset too large"))?;
        let len = self.receive_len(py)?;
        if len > room as usize {
            let message = self.receive_bytes(py, len)?;
            let too_short = py
                .import(intern!(py, "multiprocessing.context"))?
                .getattr(intern!(py, "BufferTooShort"))?;
            return Err(PyErr::from_value(too_short.call1((message,))?));
        }
        // SAFETY: the view keeps the buffer in place, and the message fits behind the offset.
        unsafe { self.receive_body(py, view.start().offset(offset), len)? };
        Ok(len)
    }

    /// Whether there is a message (or the end) to be received; waits for that `timeout` seconds at most, for ever if None.
    #[pyo3(signature = (timeout = Some(0.0)), text_signature = "($self, timeout=0.0)")]
    fn poll(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let (fd, _) = self.source()?;
        if stream::is_readable(fd).map_err(error)? {
            return Ok(true);
        }
        let limit = match timeout {
            Some(seconds) if seconds <= 0.0 => return Ok(false),
            // What is too long for the clock is as good as for ever.
            Some(seconds) => Duration::try_from_secs_f64(seconds).ok(),
            None => None,
        };
        let began = Instant::now();
        let ready = again(py, || {
            event::wait_readable(&[fd], limit.map(|l| l.saturating_sub(began.elapsed())))
        })?;
        Ok(ready != 0)
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        self._close()
    }
}

/// Makes two connected streams and returns their descriptors. One-way, the first can only be read from.
#[pyfunction]
pub fn stream_pair(duplex: bool) -> PyResult<(RawFd, RawFd)> {
    let (one, other) = stream::pair().map_err(os_error)?;
    if !duplex {
        stream::make_simplex(one.as_fd(), other.as_fd()).map_err(os_error)?;
    }
    Ok((one.into_raw_fd(), other.into_raw_fd()))
}
