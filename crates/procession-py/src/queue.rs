//! Queues: the hot methods of `procession.queues`.
//!
//! What can be done at once is done with the GIL held: an item is put or taken in a tenth of a microsecond. Whatever waits
//! lets go of it. Values are encoded before a lock of the queue is taken and decoded after it is released, except for
//! those of simple types, of which decoding runs nobody's code.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use procession::queue::{Asked, ByteQueue, Item, PutError, TakeError};
use procession::shm::{AllocError, Block};
use procession::sync::waits::Deadlock;
use procession::sync::Stir;
use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::codec::{EncodeError, Encoder, Reader, Receiver};
use crate::gil::GilCell;
use crate::pool::os_error;
use crate::sync::{about_if_running, deadlock_error, stir};

/// A buffer that has grown beyond this is not kept for the next item.
const KEPT_BYTES: usize = 1 << 20;

/// What the queue classes in Python need of the engine.
#[pyclass(subclass, frozen, module = "procession._native", name = "QueueBase")]
#[derive(Debug)]
pub struct QueueBase {
    queue: OnceLock<Arc<ByteQueue>>,
    closed: AtomicBool,
    /// Whether this process has put anything.
    used: AtomicBool,
    encoders: GilCell<Vec<Encoder>>,
    scratch: GilCell<Vec<Vec<u8>>>,
}

/// Who waits is found out if a wait lasts.
const ASKED: Asked<'static> = Some(&about_if_running);

/// Why a wait without the GIL ended.
enum Stop {
    Raised(PyErr),
    Put(PutError),
    Deadlock(Deadlock),
    Garbled,
}

impl From<PutError> for Stop {
    fn from(e: PutError) -> Self {
        Stop::Put(e)
    }
}

impl From<TakeError> for Stop {
    fn from(_: TakeError) -> Self {
        Stop::Garbled
    }
}

impl From<Deadlock> for Stop {
    fn from(deadlock: Deadlock) -> Self {
        Stop::Deadlock(deadlock)
    }
}

impl From<Stop> for PyErr {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Raised(e) => e,
            Stop::Put(e) => put_error(e),
            Stop::Deadlock(deadlock) => Python::attach(|py| deadlock_error(py, &deadlock)),
            Stop::Garbled => garbled(),
        }
    }
}

fn stop_on_signals(now: Stir) -> Result<(), Stop> {
    stir(now).map_err(Stop::Raised)
}

fn garbled() -> PyErr {
    PyRuntimeError::new_err("the queue's shared memory is garbled")
}

fn put_error(e: PutError) -> PyErr {
    match e {
        PutError::Memory(AllocError::Full) => {
            PyMemoryError::new_err("the queue holds as much as a queue can hold")
        }
        PutError::Memory(e) => PyMemoryError::new_err(format!("the queue has no memory for the item: {e}")),
        PutError::TooLarge => PyValueError::new_err("the item has too many large buffers for a queue"),
        PutError::Full | PutError::Busy | PutError::Garbled => garbled(),
    }
}

/// `queue.Full` or `queue.Empty`.
#[cold]
fn standard(py: Python<'_>, name: &str) -> PyErr {
    let made = py
        .import(intern!(py, "queue"))
        .and_then(|module| module.getattr(name)?.call0());
    made.map_or_else(|e| e, PyErr::from_value)
}

/// How long a call may wait: `None` for ever.
fn limit_of(block: bool, timeout: Option<f64>) -> Option<Duration> {
    match timeout {
        _ if !block => Some(Duration::ZERO),
        None => None,
        Some(seconds) if seconds <= 0.0 => Some(Duration::ZERO),
        // What is too long for the clock is as good as for ever.
        Some(seconds) => Duration::try_from_secs_f64(seconds).ok(),
    }
}

/// An item that has been taken out of the queue.
enum Taken<'py> {
    Value(Bound<'py, PyAny>),
    /// Copied to the scratch buffer.
    Copied,
    Block(Block, usize),
}

impl QueueBase {
    fn queue(&self) -> PyResult<&Arc<ByteQueue>> {
        self.queue
            .get()
            .ok_or_else(|| PyRuntimeError::new_err("the queue was not initialised: call its __init__ first"))
    }

    fn open_queue<'a>(slf: &'a Bound<'_, Self>) -> PyResult<&'a Arc<ByteQueue>> {
        let this = slf.get();
        if this.closed.load(Ordering::Relaxed) {
            // Each class has its own words.
            slf.call_method0(intern!(slf.py(), "_refuse_closed"))?;
        }
        this.queue()
    }

    fn encoder(&self, py: Python<'_>, queue: &Arc<ByteQueue>) -> Encoder {
        let owner = ByteQueue::owner();
        match self.encoders.with(py, Vec::pop) {
            // One that a fork has copied would mark blocks as the parent's.
            Some(encoder) if encoder.owner == owner => encoder,
            _ => Encoder::new(Some(queue.arena().clone()), owner),
        }
    }

    fn keep_encoder(&self, py: Python<'_>, mut encoder: Encoder) {
        encoder.clear();
        if encoder.bytes.capacity() <= KEPT_BYTES {
            self.encoders.with(py, |idle| idle.push(encoder));
        }
    }

    fn put_within(
        slf: &Bound<'_, Self>,
        obj: &Bound<'_, PyAny>,
        limit: impl FnOnce() -> Option<Duration>,
    ) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let queue = Self::open_queue(slf)?;
        let mut encoder = this.encoder(py, queue);
        let mut encoded = encoder.put(obj);
        if matches!(encoded, Err(EncodeError::Full)) && queue.take_back_from_the_dead() {
            encoded = encoder.put(obj);
        }
        encoded.map_err(|e| match e {
            EncodeError::Full => put_error(PutError::Memory(AllocError::Full)),
            e => e.into_py(),
        })?;
        let put = match queue.try_put(&encoder.bytes, &encoder.blocks) {
            Err(PutError::Full | PutError::Busy) => Self::put_waiting(py, queue, &encoder, limit()),
            done => done.map(|()| true).map_err(put_error),
        };
        match put {
            Ok(true) => {
                this.used.store(true, Ordering::Relaxed);
                this.keep_encoder(py, encoder);
                Ok(())
            }
            failed => {
                encoder.rewind(0, 0);
                this.keep_encoder(py, encoder);
                failed?;
                Err(standard(py, "Full"))
            }
        }
    }

    #[cold]
    fn put_waiting(
        py: Python<'_>,
        queue: &ByteQueue,
        encoder: &Encoder,
        limit: Option<Duration>,
    ) -> PyResult<bool> {
        let (bytes, blocks) = (&encoder.bytes, &encoder.blocks);
        Ok(py.detach(|| queue.put(bytes, blocks, limit, &mut stop_on_signals, ASKED))?)
    }

    fn get_within<'py>(
        slf: &Bound<'py, Self>,
        limit: impl FnOnce() -> Option<Duration>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        let queue = Self::open_queue(slf)?;
        let mut scratch = this.scratch.with(py, Vec::pop).unwrap_or_default();
        let at_once = queue.try_take(|item| {
            if item.data_block.is_none() {
                if let Some(value) = Reader::over(item.data).plain(py) {
                    return Taken::Value(value);
                }
            }
            keep(item, &mut scratch)
        });
        let taken = match at_once {
            Ok(taken) => Some(taken),
            Err(TakeError::Garbled) => return Err(garbled()),
            Err(e) => {
                let limit = limit();
                if e == TakeError::Empty && limit == Some(Duration::ZERO) {
                    None
                } else {
                    Self::get_waiting(py, queue, &mut scratch, limit)?
                }
            }
        };
        let value = match taken {
            None => Err(standard(py, "Empty")),
            Some(Taken::Value(value)) => Ok(value),
            Some(Taken::Copied) => decode(py, queue, Reader::over(&scratch)),
            Some(Taken::Block(block, len)) => {
                // SAFETY: the block is ours, and the length was checked against its capacity.
                let reader = unsafe { Reader::new(queue.arena().start(block), len) };
                let value = decode(py, queue, reader);
                queue.arena().free(block, ByteQueue::owner());
                value
            }
        };
        if scratch.capacity() <= KEPT_BYTES {
            this.scratch.with(py, |idle| idle.push(scratch));
        }
        value
    }

    fn get_waiting<'py>(
        py: Python<'py>,
        queue: &ByteQueue,
        scratch: &mut Vec<u8>,
        limit: Option<Duration>,
    ) -> PyResult<Option<Taken<'py>>> {
        let taken = py.detach(|| {
            queue.take(limit, &mut stop_on_signals, ASKED, |item| {
                match keep(item, scratch) {
                    Taken::Block(block, len) => Some((block, len)),
                    _ => None,
                }
            })
        })?;
        Ok(taken.map(|block| match block {
            Some((block, len)) => Taken::Block(block, len),
            None => Taken::Copied,
        }))
    }
}

fn keep<'py>(item: Item<'_>, scratch: &mut Vec<u8>) -> Taken<'py> {
    match item.data_block {
        Some(block) => Taken::Block(block, item.data.len()),
        None => {
            scratch.clear();
            scratch.extend_from_slice(item.data);
            Taken::Copied
        }
    }
}

fn decode<'py>(py: Python<'py>, queue: &ByteQueue, mut reader: Reader) -> PyResult<Bound<'py, PyAny>> {
    let me = ByteQueue::owner();
    let mine = Receiver {
        arena: queue.arena().clone(),
        owner: me,
        from: me,
        copies: true,
    };
    reader.value(py, &mine)
}

fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: the descriptor was received for this queue, and is handed over here.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[pymethods]
impl QueueBase {
    /// The memory comes by `_create` or `_attach`.
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        QueueBase {
            queue: OnceLock::new(),
            closed: AtomicBool::new(false),
            used: AtomicBool::new(false),
            encoders: GilCell::new(Vec::new()),
            scratch: GilCell::new(Vec::new()),
        }
    }

    /// Makes the queue's memory, for `capacity` items; None for as many as there is memory for. `name` is for errors.
    fn _create(&self, capacity: Option<u32>, name: &str) -> PyResult<()> {
        let queue = ByteQueue::create(capacity).map_err(os_error)?;
        queue.set_name(name);
        // Who calls `__init__` twice has the first queue.
        let _ = self.queue.set(Arc::new(queue));
        Ok(())
    }

    /// Opens the memory of a queue that another process has made.
    fn _attach(&self, memory: RawFd, event: RawFd) -> PyResult<()> {
        let queue = ByteQueue::open(owned(memory), owned(event)).map_err(os_error)?;
        let _ = self.queue.set(Arc::new(queue));
        Ok(())
    }

    /// The descriptors for another process's `_attach`. They stay this queue's.
    fn _descriptors(&self) -> PyResult<(RawFd, RawFd)> {
        let [memory, event] = self.queue()?.fds().map(|fd| fd.as_raw_fd());
        Ok((memory, event))
    }

    /// A descriptor that is readable while there are items.
    fn _items_descriptor(&self) -> PyResult<RawFd> {
        Ok(self.queue()?.items_fd().as_raw_fd())
    }

    #[getter(_closed)]
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    #[setter(_closed)]
    fn set_closed(&self, yes: bool) {
        self.closed.store(yes, Ordering::Relaxed);
    }

    /// Whether this process has put anything.
    #[getter(_used)]
    fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Puts an item into the queue. While it is full this waits, for `timeout` seconds at most, if `block` is true; then
    /// (or at once) `queue.Full` is raised.
    #[pyo3(signature = (obj, block = true, timeout = None))]
    fn put(slf: &Bound<'_, Self>, obj: &Bound<'_, PyAny>, block: bool, timeout: Option<f64>) -> PyResult<()> {
        Self::put_within(slf, obj, || limit_of(block, timeout))
    }

    /// Puts an item into the queue; raises `queue.Full` if it is full.
    fn put_nowait(slf: &Bound<'_, Self>, obj: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::put_within(slf, obj, || Some(Duration::ZERO))
    }

    /// Takes the next item out of the queue. While there is none this waits, for `timeout` seconds at most, if `block` is
    /// true; then (or at once) `queue.Empty` is raised.
    #[pyo3(signature = (block = true, timeout = None))]
    fn get<'py>(slf: &Bound<'py, Self>, block: bool, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        Self::get_within(slf, || limit_of(block, timeout))
    }

    /// Takes the next item out of the queue; raises `queue.Empty` if there is none.
    fn get_nowait<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::get_within(slf, || Some(Duration::ZERO))
    }

    /// How many items are in the queue just now.
    fn qsize(&self) -> PyResult<usize> {
        Ok(self.queue()?.len())
    }

    /// Whether there is no item just now.
    fn empty(&self) -> PyResult<bool> {
        Ok(self.queue()?.is_empty())
    }

    /// Whether there is no room just now.
    fn full(&self) -> PyResult<bool> {
        Ok(self.queue()?.is_full())
    }

    /// Reports one item as done.
    fn _task_done(&self) -> PyResult<()> {
        if self.queue()?.task_done() {
            return Ok(());
        }
        Err(PyValueError::new_err("task_done() called too many times"))
    }

    /// Waits until all items are reported as done.
    fn _join(&self, py: Python<'_>) -> PyResult<()> {
        let queue = self.queue()?;
        py.detach(|| queue.join(None, &mut stop_on_signals, ASKED))?;
        Ok(())
    }
}
