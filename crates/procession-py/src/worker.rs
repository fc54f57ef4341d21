//! The worker's loop: tasks in, results out, Python functions in between.

use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use procession::channel::{Channel, Idle, Slot, SLOT_INLINE_BYTES};
use procession::os::{process, time};
use procession::pool::worker::Worker;
use procession::shm::{Block, Owner};
use pyo3::exceptions::{PyBaseException, PyMemoryError, PyRuntimeError, PySystemExit};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use crate::codec::{EncodeError, Encoder, Reader, Receiver};
use crate::gil::GilCell;
use crate::pool::os_error;

/// How much longer than a task the first call of a function may take for what it imports.
const MOST_FOR_IMPORTS: Duration = Duration::from_secs(30);

/// What a slot's payload is, in the low bits of its kind.
pub mod kind {
    /// One call: a tuple of arguments.
    pub const CALL: u32 = 0;
    /// One call: a tuple of arguments, a dict of keyword arguments.
    pub const CALL_KEYWORDS: u32 = 1;
    /// Many items, each an argument.
    pub const MAP: u32 = 2;
    /// Many items, each all arguments.
    pub const STARMAP: u32 = 3;
    /// The bits that tell these apart.
    pub const MASK: u32 = 3;
    /// The payload begins with the function itself; else the slot names it by number.
    pub const WITH_FUNCTION: u32 = 4;
    /// The caller wants to know when the worker began, and how long it took.
    pub const TIMED: u32 = 8;
}

/// What an item's result begins with.
pub mod outcome {
    /// A value follows.
    pub const OK: u8 = 0;
    /// The traceback's text, the exception's text, and the exception (or `None`) follow.
    pub const RAISED: u8 = 1;
    /// Added to either: what the item has written follows first.
    pub const WITH_OUTPUT: u8 = 2;
}

/// A worker process's seat in its pool, as Python sees it.
#[pyclass(frozen, module = "procession._native")]
pub struct WorkerSeat {
    worker: GilCell<Option<Worker>>,
    number: u32,
    channel: Arc<Channel>,
    generation: u32,
}

impl WorkerSeat {
    pub fn new(worker: Worker) -> Self {
        let channel = worker.channel().clone();
        let number = channel.seat(worker.seat()).number.load(Ordering::Relaxed);
        WorkerSeat {
            worker: GilCell::new(Some(worker)),
            number,
            channel,
            generation: process::generation(),
        }
    }
}

#[pymethods]
impl WorkerSeat {
    /// The number in the worker's name: 1 for the pool's first.
    #[getter]
    fn number(&self) -> u32 {
        self.number
    }

    /// Whether the pool can have no workers any more, so that a new one need not begin.
    #[getter]
    fn pool_is_broken(&self) -> bool {
        self.channel.header().life.broken.load(Ordering::Relaxed) != 0
    }

    /// Finds a signal upon which the worker can write its stack down, and returns its number. Whoever installs a handler
    /// that does so calls the one before, which says that it is done.
    fn stack_signal(&self, py: Python<'_>) -> PyResult<i32> {
        let seat = self
            .worker
            .with(py, |w| w.as_ref().map(Worker::seat))
            .ok_or_else(|| PyRuntimeError::new_err("this worker has done its work"))?;
        // A signal may come at any time, until the process is gone: so its memory stays until then.
        let channel: &'static Channel = Box::leak(Box::new(self.channel.clone()));
        process::answer_signal(&channel.seat(seat).stack_done).map_err(os_error)
    }

    /// Says that the worker writes its stack into this descriptor's file when it is sent this signal.
    fn offer_stack(&self, py: Python<'_>, signal: i32, descriptor: u32) {
        self.worker.with(py, |w| {
            if let Some(worker) = w {
                worker.offer_stack(signal, descriptor);
            }
        });
    }

    /// Ends the process if the initializer has forked it, and has raised this in it.
    fn end_forked_copy(&self, py: Python<'_>, raised: Bound<'_, PyBaseException>) {
        if process::generation() != self.generation {
            end_forked_copy(py, Err(PyErr::from_value(raised.into_any())));
        }
    }

    /// Says why the pool can have no workers, such as an initializer that raised.
    fn report_broken(&self, py: Python<'_>, text: &str) {
        self.worker.with(py, |w| {
            if let Some(worker) = w {
                worker.report_broken(text);
            }
        });
    }

    /// Runs tasks until no more will come, or as many were run as one worker may. Calls `flush` after each of their items.
    #[pyo3(signature = (flush=None))]
    fn work(&self, py: Python<'_>, flush: Option<Py<PyAny>>) -> PyResult<()> {
        if process::generation() != self.generation {
            end_forked_copy(py, Ok(()));
        }
        let Some(worker) = self.worker.with(py, Option::take) else {
            return Err(PyRuntimeError::new_err("this worker has done its work"));
        };
        Loop::new(worker, flush, self.generation).run(py)
    }

    fn __repr__(&self) -> String {
        format!("<WorkerSeat number={} of {:?}>", self.number, self.channel)
    }
}

struct Loop {
    worker: Worker,
    channel: Arc<Channel>,
    me: Owner,
    generation: u32,
    functions: Vec<Option<Py<PyAny>>>,
    encoder: Encoder,
    receiver: Receiver,
    /// Empties the buffers of what prints, if output is kept or written line by line.
    flush: Option<Py<PyAny>>,
    /// What the running item has written, if that is kept and anything was.
    written: Option<Py<PyString>>,
}

impl Loop {
    fn new(worker: Worker, flush: Option<Py<PyAny>>, generation: u32) -> Self {
        let channel = worker.channel().clone();
        let me = Owner::seat(worker.seat());
        Loop {
            encoder: Encoder::new(Some(channel.shared_arena()), me),
            receiver: Receiver {
                arena: channel.shared_arena(),
                owner: me,
                from: Owner::CALLER,
                copies: false,
            },
            functions: Vec::new(),
            worker,
            channel,
            me,
            generation,
            flush,
            written: None,
        }
    }

    fn run(mut self, py: Python<'_>) -> PyResult<()> {
        self.worker.ready();
        while !self.worker.is_spent() {
            if let Some(slot) = self.worker.claim() {
                self.run_slot(py, slot);
                continue;
            }
            let worker = &mut self.worker;
            match py.detach(|| worker.idle()) {
                Idle::Work => {}
                Idle::Interrupted => py.check_signals()?,
                Idle::Finish => return Ok(()),
            }
        }
        Ok(())
    }

    fn run_slot(&mut self, py: Python<'_>, number: u32) {
        let channel = self.channel.clone();
        let slot = channel.slot(number);
        let (begin, limit) = slot.range();
        let kind = slot.kind.load(Ordering::Relaxed);
        let seat = channel.seat(self.worker.seat());
        let failed_before = seat.failed.load(Ordering::Relaxed);
        let many = matches!(kind & kind::MASK, kind::MAP | kind::STARMAP);
        if many || kind & kind::TIMED != 0 {
            let began = time::monotonic_ns();
            if limit - begin > 1 {
                self.run_batch(py, slot, kind, begin);
            } else {
                self.run_single(py, slot, kind, begin);
            }
            slot.elapsed_ns
                .store(time::monotonic_ns() - began, Ordering::Relaxed);
            if kind & kind::TIMED != 0 {
                channel.note(number).began_ns.store(began, Ordering::Relaxed);
            }
        } else {
            self.run_single(py, slot, kind, begin);
        }
        let failed = seat.failed.load(Ordering::Relaxed) - failed_before;
        if failed != 0 {
            channel
                .note(number)
                .failed
                .store(failed as u32, Ordering::Relaxed);
        }
        self.worker.complete(number);
        self.worker.forget_output();
    }

    fn payload(&self, slot: &Slot) -> Option<Reader> {
        let len = slot.payload_len.load(Ordering::Relaxed);
        let block = slot.payload_block.load(Ordering::Relaxed);
        let start = if block == Block::NONE {
            if len > SLOT_INLINE_BYTES as u64 {
                return None;
            }
            slot.inline()
        } else {
            let block = self
                .channel
                .arena()
                .check(block)
                .filter(|b| len <= b.capacity())?;
            self.channel.arena().start(block)
        };
        // SAFETY: the length was checked against the place's capacity; the slot is claimed by this worker, so nobody
        // else writes to it or its block.
        Some(unsafe { Reader::new(start, len as usize) })
    }

    /// Runs a slot's one item; its result may overwrite its arguments.
    fn run_single(&mut self, py: Python<'_>, slot: &Slot, kind: u32, begin: u32) {
        self.encoder.clear();
        let Some(item) = self.worker.begin_item(slot) else {
            // The caller took it away in the very last moment.
            slot.result_len.store(0, Ordering::Relaxed);
            return;
        };
        let outcome = self.payload(slot).ok_or_else(garbled).and_then(|mut reader| {
            let function = self.function(py, slot, kind, &mut reader)?;
            for _ in 0..begin {
                reader.skip(&mut |_| {}).ok_or_else(garbled)?;
            }
            self.call(py, &function, kind, &mut reader)
        });
        self.take_output(py);
        self.encode_outcome(py, outcome);
        self.worker.end_item(slot);
        // From here on the arguments are gone: who finds this worker dead must not read them.
        slot.finished.store(item + 1, Ordering::Release);
        self.store_result(py, slot);
    }

    fn run_batch(&mut self, py: Python<'_>, slot: &Slot, kind: u32, begin: u32) {
        let mut results = BatchResults {
            slot,
            block: None,
            len: 0,
        };
        slot.result_len.store(0, Ordering::Relaxed);
        let mut reader = self.payload(slot);
        let mut function = None;
        if let Some(r) = &mut reader {
            function = Some(self.function(py, slot, kind, r));
            for _ in 0..begin {
                if r.skip(&mut |_| {}).is_none() {
                    reader = None;
                    break;
                }
            }
        }
        while let Some(item) = self.worker.begin_item(slot) {
            self.encoder.clear();
            let outcome = match (&mut reader, &function) {
                (Some(reader), Some(Ok(function))) => {
                    // Where the next item begins must be known even if this one fails half read.
                    let mut next = *reader;
                    let walked = next.skip(&mut |_| {});
                    let outcome = self.call(py, function, kind, reader);
                    match walked {
                        Some(()) => *reader = next,
                        None => reader.take(reader.left()).map_or((), drop),
                    }
                    outcome
                }
                (Some(_), Some(Err(e))) => Err(e.clone_ref(py)),
                _ => Err(garbled()),
            };
            self.take_output(py);
            self.encode_outcome(py, outcome);
            self.worker.end_item(slot);
            if let Err(e) = results.append(&self.channel, self.me, &self.encoder.bytes) {
                // There is no memory for this result; there may be for the news.
                self.encoder.rewind(0, 0);
                self.encode_outcome(py, Err(e.into_py()));
                if results
                    .append(&self.channel, self.me, &self.encoder.bytes)
                    .is_err()
                {
                    break;
                }
            }
            // Sync point *result content*: the item's result comes before the count that shows it.
            slot.finished.store(item + 1, Ordering::Release);
            self.worker.forget_output();
        }
    }

    /// Takes what the item has written, before its result is encoded.
    #[inline]
    fn take_output(&mut self, py: Python<'_>) {
        if let Some(flush) = &self.flush {
            // What the user has put in the place of standard output may refuse; that is no reason to lose the result.
            let _ = flush.call0(py);
            let text = self.worker.output_text();
            self.written = text.map(|text| PyString::new(py, &text).unbind());
        }
    }

    fn begin_outcome(&mut self, py: Python<'_>, kind: u8) {
        match &self.written {
            None => self.encoder.bytes.push(kind),
            Some(text) => {
                self.encoder.bytes.push(kind | outcome::WITH_OUTPUT);
                if self.encoder.put(text.bind(py).as_any()).is_err() {
                    // No memory for it: the result matters more.
                    self.encoder.rewind(0, 0);
                    self.encoder.bytes.push(kind);
                }
            }
        }
    }

    fn function<'py>(
        &mut self,
        py: Python<'py>,
        slot: &Slot,
        kind: u32,
        reader: &mut Reader,
    ) -> PyResult<Bound<'py, PyAny>> {
        if kind & kind::WITH_FUNCTION != 0 {
            return reader.value(py, &self.receiver);
        }
        let number = slot.function.load(Ordering::Relaxed) as usize;
        if let Some(Some(function)) = self.functions.get(number) {
            return Ok(function.bind(py).clone());
        }
        if number >= self.channel.most_functions() as usize {
            return Err(garbled());
        }
        let entry = self.channel.function_entry(number as u32).load(Ordering::Acquire);
        let (block, len) = ((entry >> 32) as u32, entry as u32);
        let arena = self.channel.arena();
        let block = arena
            .check(block)
            .filter(|b| u64::from(len) <= b.capacity())
            .ok_or_else(garbled)?;
        // Modules are imported here, which may take longer than a task may.
        self.worker.restart_clock(slot, MOST_FOR_IMPORTS);
        // SAFETY: the length fits into the block, which stays as it is for the pool's life.
        let function = unsafe { Reader::new(arena.start(block), len as usize) }.value(py, &self.receiver)?;
        if self.functions.len() <= number {
            self.functions.resize_with(number + 1, || None);
        }
        self.functions[number] = Some(function.clone().unbind());
        self.worker.restart_clock(slot, Duration::ZERO);
        Ok(function)
    }

    #[inline]
    fn call<'py>(
        &self,
        py: Python<'py>,
        function: &Bound<'py, PyAny>,
        kind: u32,
        reader: &mut Reader,
    ) -> PyResult<Bound<'py, PyAny>> {
        let outcome = self.call_here(py, function, kind, reader);
        if process::generation() != self.generation {
            end_forked_copy(py, outcome.map(drop));
        }
        outcome
    }

    #[inline]
    fn call_here<'py>(
        &self,
        py: Python<'py>,
        function: &Bound<'py, PyAny>,
        kind: u32,
        reader: &mut Reader,
    ) -> PyResult<Bound<'py, PyAny>> {
        let arguments = reader.value(py, &self.receiver)?;
        match kind & kind::MASK {
            kind::MAP => {
                // SAFETY: both are live objects; the result is a new reference or null with an error set.
                unsafe {
                    Bound::from_owned_ptr_or_err(
                        py,
                        ffi::PyObject_CallOneArg(function.as_ptr(), arguments.as_ptr()),
                    )
                }
            }
            kind::STARMAP => match arguments.cast_into::<PyTuple>() {
                Ok(tuple) => function.call1(tuple),
                Err(e) => {
                    let tuple = PyTuple::new(py, e.into_inner().try_iter()?.collect::<PyResult<Vec<_>>>()?)?;
                    function.call1(tuple)
                }
            },
            kind::CALL_KEYWORDS => {
                let keywords = reader.value(py, &self.receiver)?.cast_into::<PyDict>()?;
                function.call(arguments.cast_into::<PyTuple>()?, Some(&keywords))
            }
            _ => function.call1(arguments.cast_into::<PyTuple>()?),
        }
    }

    fn encode_outcome(&mut self, py: Python<'_>, outcome: PyResult<Bound<'_, PyAny>>) {
        let error = match outcome {
            Ok(value) => {
                self.begin_outcome(py, outcome::OK);
                match self.encoder.put(&value) {
                    Ok(()) => return,
                    Err(e) => {
                        self.encoder.rewind(0, 0);
                        cannot_send(py, e.into_py(), &value)
                    }
                }
            }
            Err(e) => e,
        };
        self.worker.count_failure();
        self.begin_outcome(py, outcome::RAISED);
        let mark = self.encoder.bytes.len();
        if let Err(e) = self.encode_exception(py, error) {
            self.encoder.rewind(mark, 0);
            let text = format!("the task's exception could not be described: {}", e.into_py());
            for part in [text.as_str(), text.as_str()] {
                let part = PyString::new(py, part);
                let _ = self.encoder.put(part.as_any());
            }
            let _ = self.encoder.put(py.None().bind(py));
        }
    }

    fn encode_exception(&mut self, py: Python<'_>, error: PyErr) -> Result<(), EncodeError> {
        let lines = py.import(intern!(py, "traceback"))?.call_method1(
            intern!(py, "format_exception"),
            (error.get_type(py), error.value(py), error.traceback(py)),
        )?;
        let text = PyString::new(py, "").call_method1(intern!(py, "join"), (lines,))?;
        self.encoder.put(&text)?;
        let value = error.value(py).clone().into_any();
        // The frames hold the arguments, and arguments in shared memory should go back before the result is out.
        value.setattr(intern!(py, "__traceback__"), py.None())?;
        let said = value
            .repr()
            .unwrap_or_else(|_| PyString::new(py, "an exception without repr"));
        self.encoder.put(said.as_any())?;
        let mark = self.encoder.bytes.len();
        if let Err(e) = self.encoder.put(&value) {
            self.encoder.rewind(mark, 0);
            let stand_in = cannot_send(py, e.into_py(), &value);
            let put = self.encoder.put(stand_in.value(py).as_any());
            if put.is_err() {
                self.encoder.rewind(mark, 0);
                self.encoder.put(py.None().bind(py))?;
            }
        }
        Ok(())
    }

    fn store_result(&mut self, py: Python<'_>, slot: &Slot) {
        if let Err(e) = self.try_store_result(slot) {
            self.encoder.rewind(0, 0);
            self.encode_outcome(py, Err(e.into_py()));
            if self.try_store_result(slot).is_err() {
                slot.result_block.store(Block::NONE, Ordering::Relaxed);
                slot.result_len.store(0, Ordering::Relaxed);
            }
        }
    }

    fn try_store_result(&self, slot: &Slot) -> Result<(), EncodeError> {
        let bytes = &self.encoder.bytes;
        let (to, block) = if bytes.len() <= SLOT_INLINE_BYTES {
            (slot.inline(), Block::NONE)
        } else {
            let block = self.channel.arena().alloc(bytes.len() as u64, self.me)?;
            (self.channel.arena().start(block), block.raw())
        };
        // SAFETY: the place has room (checked above), and is this worker's: the slot is claimed, the block taken.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        slot.result_block.store(block, Ordering::Relaxed);
        slot.result_len.store(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// A task may fork, and come back in both processes. The copy is no worker: it ends here, as a program of its own would, before
/// it writes to memory that it shares with the worker.
#[cold]
fn end_forked_copy(py: Python<'_>, outcome: PyResult<()>) -> ! {
    let code = outcome.map_or_else(|error| exit_code_of(py, error), |()| 0);
    if let Ok(sys) = py.import(intern!(py, "sys")) {
        for stream in [intern!(py, "stdout"), intern!(py, "stderr")] {
            // What stands in a stream's place may refuse, or be nothing at all.
            let _ = sys
                .getattr(stream)
                .and_then(|s| s.call_method0(intern!(py, "flush")));
        }
    }
    process::exit_now(code)
}

/// The exit code of a process that ends by this; what is to be read about it is printed.
fn exit_code_of(py: Python<'_>, error: PyErr) -> i32 {
    if !error.is_instance_of::<PySystemExit>(py) {
        error.display(py);
        return 1;
    }
    match error.value(py).getattr(intern!(py, "code")) {
        Ok(code) if code.is_none() => 0,
        Ok(code) => code.extract().unwrap_or_else(|_| {
            // Nobody is left to tell when standard error itself is gone.
            let _ = writeln!(io::stderr(), "{code}");
            1
        }),
        Err(_) => 1,
    }
}

/// The growing block of a batch's results. At each moment the slot names a block with all results that were counted.
struct BatchResults<'a> {
    slot: &'a Slot,
    block: Option<Block>,
    len: usize,
}

impl BatchResults<'_> {
    fn append(&mut self, channel: &Channel, me: Owner, bytes: &[u8]) -> Result<(), EncodeError> {
        let arena = channel.arena();
        let needed = self.len + bytes.len();
        let block = match self.block {
            Some(block) if needed as u64 <= block.capacity() => block,
            full => {
                let (_, limit) = self.slot.range();
                let guess = if full.is_none() {
                    (limit as usize * 4).max(1024)
                } else {
                    needed * 2
                };
                let block = arena.alloc(guess.max(needed) as u64, me)?;
                if let Some(old) = full {
                    // SAFETY: both blocks are this worker's, and the new one is larger.
                    unsafe { std::ptr::copy_nonoverlapping(arena.start(old), arena.start(block), self.len) };
                }
                self.slot.result_block.store(block.raw(), Ordering::Release);
                if let Some(old) = full {
                    arena.free(old, me);
                }
                self.block = Some(block);
                block
            }
        };
        // SAFETY: the block is this worker's and has room for `needed` bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), arena.start(block).add(self.len), bytes.len())
        };
        self.len = needed;
        self.slot.result_len.store(needed as u64, Ordering::Release);
        Ok(())
    }
}

fn garbled() -> PyErr {
    PyRuntimeError::new_err("a task in the pool's shared memory is garbled")
}

/// multiprocessing's own error for a result that cannot be pickled.
fn cannot_send(py: Python<'_>, why: PyErr, value: &Bound<'_, PyAny>) -> PyErr {
    if why.is_instance_of::<PyMemoryError>(py) {
        return why;
    }
    let made = py
        .import(intern!(py, "procession._worker"))
        .and_then(|m| m.call_method1(intern!(py, "cannot_send"), (why.value(py), value)));
    match made {
        Ok(error) => PyErr::from_value(error),
        Err(e) => e,
    }
}
