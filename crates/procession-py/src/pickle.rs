//! Pickling with the C pickler, reused, and with the reducers that multiprocessing's users register.

use std::sync::Arc;

use procession::shm::{AllocError, Arena, Block, Owner};
use pyo3::exceptions::PyException;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList, PyModule, PyString};

use crate::codec::{EncodeError, Encoder, OUT_OF_BAND_BYTES};
use crate::gil::GilCell;

/// A buffer that travels in a block of its own.
#[derive(Debug, Clone, Copy)]
pub struct OutOfBand {
    pub block: Block,
    pub read_only: bool,
    pub len: u64,
}

#[derive(Debug)]
struct SinkState {
    bytes: Vec<u8>,
    blocks: Vec<Block>,
    buffers: Vec<OutOfBand>,
    arena: Option<Arc<Arena>>,
    owner: Owner,
    full: bool,
    /// Large pieces that are not copied but kept, each with the number of bytes before it; `None` if all are to be copied.
    kept: Option<Vec<(usize, View)>>,
}

impl SinkState {
    fn new() -> Self {
        SinkState {
            bytes: Vec::new(),
            blocks: Vec::new(),
            buffers: Vec::new(),
            arena: None,
            owner: Owner::CALLER,
            full: false,
            kept: None,
        }
    }
}

/// The bytes of a piece from which on copying it costs more than keeping it.
const KEEP_BYTES: usize = 32 * 1024;

/// What the C pickler writes to.
#[pyclass(frozen, module = "procession._native")]
struct Sink(GilCell<SinkState>);

/// Somebody's buffer, which stays in place while the view exists. Dropped with the GIL held only.
pub struct View(ffi::Py_buffer);

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "View({} bytes)", self.len())
    }
}

// SAFETY: a view is plain data about memory that its exporter keeps in place; whoever drops it has attached to the
// interpreter, as every owner of one here does.
unsafe impl Send for View {}

impl View {
    /// The buffer of an object, as these flags of the C interface want it.
    pub fn of(object: &Bound<'_, PyAny>, flags: i32) -> PyResult<View> {
        let mut view = View(ffi::Py_buffer::new());
        // SAFETY: the view is zeroed and released in `drop` if this succeeds.
        if unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &mut view.0, flags) } != 0 {
            std::mem::forget(view);
            return Err(PyErr::fetch(object.py()));
        }
        Ok(view)
    }

    /// Where the bytes begin.
    pub fn start(&self) -> *mut u8 {
        self.0.buf.cast()
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.0.len as usize
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: `of` filled the view.
        unsafe { ffi::PyBuffer_Release(&mut self.0) };
    }
}

#[pymethods]
impl Sink {
    fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<usize> {
        let view = View::of(data, ffi::PyBUF_SIMPLE)?;
        let len = view.len();
        self.0.with(data.py(), |state| {
            if let Some(kept) = state.kept.as_mut().filter(|_| len >= KEEP_BYTES) {
                kept.push((state.bytes.len(), view));
                return;
            }
            // SAFETY: the view keeps the bytes in place; they are copied as raw memory, no reference to them is made
            // beyond this line, in which no other thread can run.
            state
                .bytes
                .extend_from_slice(unsafe { std::slice::from_raw_parts(view.start(), len) });
        });
        Ok(len)
    }

    /// The pickler asks what to do with a buffer: true means that it travels within the pickle.
    fn out_of_band(&self, buffer: &Bound<'_, PyAny>) -> PyResult<bool> {
        let view = View::of(buffer, ffi::PyBUF_FULL_RO)?;
        let len = view.0.len as usize;
        // SAFETY: the view is a live one.
        let contiguous = unsafe { ffi::PyBuffer_IsContiguous(&view.0, b'A' as _) } != 0;
        if len < OUT_OF_BAND_BYTES || !contiguous {
            return Ok(true);
        }
        let py = buffer.py();
        let (arena, owner) = self.0.with(py, |s| (s.arena.clone(), s.owner));
        let Some(arena) = arena else { return Ok(true) };
        let block = match arena.alloc(len as u64, owner) {
            Ok(block) => block,
            Err(e) => {
                self.0.with(py, |s| s.full = matches!(e, AllocError::Full));
                return Err(EncodeError::from(e).into_py());
            }
        };
        let (from, to) = (view.0.buf as usize, arena.start(block) as usize);
        // SAFETY: the view keeps the source in place, the block is ours alone and has `len` bytes. Another thread may
        // write to the source meanwhile; then it gets what it asked for, as with any copy of a shared buffer.
        let copy = move || unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, len) };
        // Other threads may run during a long copy.
        if len > 1 << 20 {
            py.detach(copy);
        } else {
            copy();
        }
        self.0.with(py, |s| {
            s.blocks.push(block);
            s.buffers.push(OutOfBand {
                block,
                read_only: view.0.readonly != 0,
                len: len as u64,
            });
        });
        Ok(false)
    }
}

/// The reducers that the C pickler asks for types it does not know: those registered with multiprocessing's
/// `ForkingPickler` before copyreg's, in one dict. Both tables may change at any time, so before each use the dict is
/// held against them, entry by entry and by address, which costs less than a single look-up through Python.
struct Reducers {
    forking_pickler: Py<PyAny>,
    copyreg: Py<PyAny>,
    seen: Vec<(usize, usize)>,
}

impl Reducers {
    fn new(py: Python<'_>) -> PyResult<Self> {
        let forking_pickler = py
            .import("multiprocessing.reduction")?
            .getattr("ForkingPickler")?
            .unbind();
        let copyreg = py.import("copyreg")?.into_any().unbind();
        Ok(Reducers {
            forking_pickler,
            copyreg,
            seen: Vec::new(),
        })
    }

    /// A new dict if the tables are not what they were.
    fn refresh<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let copyreg = self
            .copyreg
            .bind(py)
            .getattr(intern!(py, "dispatch_table"))?
            .cast_into::<PyDict>()?;
        let forking = self
            .forking_pickler
            .bind(py)
            .getattr(intern!(py, "_extra_reducers"))?
            .cast_into::<PyDict>()?;
        let tables = [&copyreg, &forking];
        let mut place = 0;
        let mut same = true;
        for table in tables {
            let mut position = 0;
            let (mut key, mut value) = (std::ptr::null_mut(), std::ptr::null_mut());
            // SAFETY: the dict is alive, and nothing in the loop can change it; the borrowed pointers are only compared.
            while unsafe { ffi::PyDict_Next(table.as_ptr(), &mut position, &mut key, &mut value) } != 0 {
                same &= self.seen.get(place) == Some(&(key as usize, value as usize));
                place += 1;
            }
        }
        if same && place == self.seen.len() {
            return Ok(None);
        }
        let merged = PyDict::new(py);
        self.seen.clear();
        for table in tables {
            merged.update(table.as_mapping())?;
            self.seen.extend(
                table
                    .iter()
                    .map(|(key, value)| (key.as_ptr() as usize, value.as_ptr() as usize)),
            );
        }
        Ok(Some(merged))
    }
}

struct Machine {
    sink: Py<Sink>,
    pickler: Py<PyAny>,
    reducers: Reducers,
}

static IDLE: GilCell<Vec<Machine>> = GilCell::new(Vec::new());
static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

fn build(py: Python<'_>) -> PyResult<Machine> {
    let sink = Py::new(py, Sink(GilCell::new(SinkState::new())))?;
    let options = PyDict::new(py);
    options.set_item("buffer_callback", sink.bind(py).getattr("out_of_band")?)?;
    let pickler = py
        .import("_pickle")?
        .getattr("Pickler")?
        .call((sink.bind(py), 5), Some(&options))?;
    Ok(Machine {
        sink,
        pickler: pickler.unbind(),
        reducers: Reducers::new(py)?,
    })
}

/// Whether functions and classes of the main module go by value, as workers cannot look them up there.
static MAIN_BY_VALUE: GilCell<bool> = GilCell::new(false);

/// Has functions and classes of the main module go by value, or by name again.
#[pyfunction]
pub fn pickle_main_by_value(py: Python<'_>, by_value: bool) {
    MAIN_BY_VALUE.with(py, |m| *m = by_value);
}

fn by_value_module(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    py.import(intern!(py, "procession._by_value"))
}

/// Whether a function or class can only travel by value: it has no name to look it up by, or not where it would be
/// looked up.
pub fn travels_by_value(function: &Bound<'_, PyAny>) -> bool {
    let py = function.py();
    // SAFETY: type checks on a live object.
    let is_function =
        unsafe { ffi::PyFunction_Check(function.as_ptr()) != 0 || ffi::PyType_Check(function.as_ptr()) != 0 };
    if !is_function {
        return false;
    }
    let is_local = || -> PyResult<bool> {
        let name = function.getattr(intern!(py, "__qualname__"))?;
        Ok(name.cast::<PyString>()?.to_str()?.contains('<'))
    };
    let is_in_main = || -> PyResult<bool> {
        let module = function.getattr(intern!(py, "__module__"))?;
        Ok(module.cast::<PyString>().is_ok_and(|m| m == "__main__")
            && by_value_module(py)?
                .call_method1(intern!(py, "main_lacks"), (function,))?
                .is_truthy()?)
    };
    is_local().unwrap_or(false) || MAIN_BY_VALUE.with(py, |m| *m) && is_in_main().unwrap_or(false)
}

/// What to send in the place of a function that has no number: itself, or something that unpickles to it.
pub fn carried<'py>(function: &Bound<'py, PyAny>) -> Bound<'py, PyAny> {
    if !travels_by_value(function) {
        return function.clone();
    }
    by_value_module(function.py())
        .and_then(|m| m.call_method1(intern!(function.py(), "carry"), (function,)))
        .unwrap_or_else(|_| function.clone())
}

/// Pickles `value` behind the encoder's bytes; its large buffers go to blocks of their own, whose list is returned.
///
/// On failure the encoder may hold bytes and blocks of the attempt; rewind it.
pub fn dump_into(value: &Bound<'_, PyAny>, encoder: &mut Encoder) -> Result<Vec<OutOfBand>, EncodeError> {
    if MAIN_BY_VALUE.with(value.py(), |m| *m) {
        if let Some(done) = dump_by_value(value, encoder, None) {
            return done;
        }
    }
    let (bytes, blocks) = (encoder.bytes.len(), encoder.blocks.len());
    match dump_by_name(value, encoder, false).map(|(buffers, _)| buffers) {
        Err(EncodeError::Python(e)) => {
            encoder.rewind(bytes, blocks);
            let done = dump_by_value(value, encoder, Some(&e));
            done.unwrap_or_else(|| Err(EncodeError::Python(explained(value.py(), e))))
        }
        done => done,
    }
}

fn explained(py: Python<'_>, error: PyErr) -> PyErr {
    by_value_module(py)
        .and_then(|m| m.call_method1(intern!(py, "explain"), (error.value(py),)))
        .map_or(error, PyErr::from_value)
}

/// Pickles what pickle itself could not for this reason, if there is something that can.
#[cold]
fn dump_by_value(
    value: &Bound<'_, PyAny>,
    encoder: &mut Encoder,
    error: Option<&PyErr>,
) -> Option<Result<Vec<OutOfBand>, EncodeError>> {
    let py = value.py();
    let sink = Py::new(py, Sink(GilCell::new(SinkState::new()))).ok()?;
    let callback = sink.bind(py).getattr(intern!(py, "out_of_band")).ok()?;
    let error = error.map(|e| e.value(py));
    let pickler = by_value_module(py)
        .and_then(|m| m.call_method1(intern!(py, "pickler"), (sink.bind(py), callback, error)))
        .ok()
        .filter(|p| !p.is_none())?;
    let (dumped, (buffers, _), full) = dump_with(sink.get(), &pickler, value, encoder, false);
    match dumped {
        Ok(_) => Some(Ok(buffers)),
        Err(_) if full => Some(Err(EncodeError::Full)),
        // What pickle said of it says more, unless the user wants to stop.
        Err(e) if error.is_some() && e.is_instance_of::<PyException>(py) => None,
        Err(e) => Some(Err(EncodeError::Python(e))),
    }
}

/// Pickles `value` behind the encoder's bytes, all in band; large pieces are not copied but returned, each with the number
/// of the encoder's bytes that come before it.
pub fn dump_keeping(
    value: &Bound<'_, PyAny>,
    encoder: &mut Encoder,
) -> Result<Vec<(usize, View)>, EncodeError> {
    dump_by_name(value, encoder, true).map(|(_, kept)| kept)
}

type Dumped = (Vec<OutOfBand>, Vec<(usize, View)>);

fn dump_with<'py>(
    sink: &Sink,
    pickler: &Bound<'py, PyAny>,
    value: &Bound<'py, PyAny>,
    encoder: &mut Encoder,
    keeping: bool,
) -> (PyResult<Bound<'py, PyAny>>, Dumped, bool) {
    let py = value.py();
    sink.0.with(py, |s| {
        std::mem::swap(&mut s.bytes, &mut encoder.bytes);
        std::mem::swap(&mut s.blocks, &mut encoder.blocks);
        s.arena.clone_from(&encoder.arena);
        s.owner = encoder.owner;
        s.full = false;
        s.kept = keeping.then(Vec::new);
    });
    let dumped = pickler.call_method1(intern!(py, "dump"), (value,));
    let (buffers, kept, full) = sink.0.with(py, |s| {
        std::mem::swap(&mut s.bytes, &mut encoder.bytes);
        std::mem::swap(&mut s.blocks, &mut encoder.blocks);
        s.arena = None;
        (
            std::mem::take(&mut s.buffers),
            s.kept.take().unwrap_or_default(),
            s.full,
        )
    });
    (dumped, (buffers, kept), full)
}

fn dump_by_name(
    value: &Bound<'_, PyAny>,
    encoder: &mut Encoder,
    keeping: bool,
) -> Result<Dumped, EncodeError> {
    let py = value.py();
    // Pickling runs user code, which may come back here: the machine is nobody else's meanwhile.
    let mut machine = match IDLE.with(py, Vec::pop) {
        Some(machine) => machine,
        None => build(py)?,
    };
    if let Some(table) = machine.reducers.refresh(py)? {
        machine
            .pickler
            .bind(py)
            .setattr(intern!(py, "dispatch_table"), table)?;
    }
    let pickler = machine.pickler.bind(py);
    let (dumped, (buffers, kept), full) = dump_with(machine.sink.get(), pickler, value, encoder, keeping);
    match dumped {
        Ok(_) => {
            pickler.call_method0(intern!(py, "clear_memo"))?;
            IDLE.with(py, |idle| idle.push(machine));
            Ok((buffers, kept))
        }
        // After a failure the pickler may hold a half written frame; it is not used again.
        Err(_) if full => Err(EncodeError::Full),
        Err(e) => Err(EncodeError::Python(e)),
    }
}

/// Unpickles `len` bytes at `data`.
///
/// # Safety
/// The bytes stay in place and unchanged during the call.
pub unsafe fn load<'py>(
    py: Python<'py>,
    data: *const u8,
    len: usize,
    buffers: Vec<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let loads = LOADS
        .get_or_try_init(py, || py.import("_pickle")?.getattr("loads").map(Bound::unbind))?
        .bind(py);
    // SAFETY: the caller vouches for the bytes. A memoryview over them is gone when `loads` returns: unpicklers copy
    // what they keep.
    let bytes = unsafe {
        if len < 4096 {
            PyBytes::new(py, std::slice::from_raw_parts(data, len)).into_any()
        } else {
            let view = ffi::PyMemoryView_FromMemory(data as *mut _, len as ffi::Py_ssize_t, ffi::PyBUF_READ);
            Bound::from_owned_ptr_or_err(py, view)?
        }
    };
    if buffers.is_empty() {
        return loads.call1((bytes,));
    }
    let options = PyDict::new(py);
    options.set_item(intern!(py, "buffers"), PyList::new(py, buffers)?)?;
    loads.call((bytes,), Some(&options))
}
