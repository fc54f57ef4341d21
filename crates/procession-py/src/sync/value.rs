//! What stands around a shared value or array: its lock.

use std::sync::OnceLock;

use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat, PyTuple};

use super::buffer::SharedBuffer;
use super::lock::{not_made, LockBase};

/// The native half of `SynchronizedBase` and `Synchronized`: an object in shared memory and the lock that guards it.
#[pyclass(frozen, subclass, weakref, module = "procession._native")]
#[derive(Debug)]
pub struct SynchronizedValue {
    parts: OnceLock<Parts>,
}

#[derive(Debug)]
struct Parts {
    object: Py<PyAny>,
    lock: Py<PyAny>,
    /// The same lock, if it is one of ours.
    native: Option<Py<LockBase>>,
    number: Option<Number>,
}

/// A plain number in shared memory, which can be read and written without asking ctypes.
#[derive(Debug)]
struct Number {
    memory: Py<SharedBuffer>,
    code: Code,
}

#[derive(Debug, Clone, Copy)]
enum Code {
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
    F32,
    F64,
}

impl Code {
    /// By the letter of a ctypes type, and its size in bytes.
    fn of(letter: &str, size: usize) -> Option<Code> {
        Some(match (letter, size) {
            ("f", 4) => Code::F32,
            ("d", 8) => Code::F64,
            ("b", 1) => Code::I8,
            ("B", 1) => Code::U8,
            ("h", 2) => Code::I16,
            ("H", 2) => Code::U16,
            ("i" | "l" | "q", 4) => Code::I32,
            ("I" | "L" | "Q", 4) => Code::U32,
            ("l" | "q", 8) => Code::I64,
            ("L" | "Q", 8) => Code::U64,
            _ => return None,
        })
    }
}

impl Number {
    fn get<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let at = self.memory.get().start();
        macro_rules! read {
            ($type:ty) => {
                // SAFETY: `_init` has checked that the number lies in the memory, which begins at a multiple of 64 bytes.
                // Another process may write to it at the same time, so it is read once and as a whole.
                unsafe { at.cast::<$type>().read_volatile() }
            };
        }
        Ok(match self.code {
            Code::I8 => read!(i8).into_pyobject(py)?.into_any(),
            Code::U8 => read!(u8).into_pyobject(py)?.into_any(),
            Code::I16 => read!(i16).into_pyobject(py)?.into_any(),
            Code::U16 => read!(u16).into_pyobject(py)?.into_any(),
            Code::I32 => read!(i32).into_pyobject(py)?.into_any(),
            Code::U32 => read!(u32).into_pyobject(py)?.into_any(),
            Code::I64 => read!(i64).into_pyobject(py)?.into_any(),
            Code::U64 => read!(u64).into_pyobject(py)?.into_any(),
            Code::F32 => f64::from(read!(f32)).into_pyobject(py)?.into_any(),
            Code::F64 => read!(f64).into_pyobject(py)?.into_any(),
        })
    }

    /// False if ctypes must see to it.
    fn set(&self, value: &Bound<'_, PyAny>) -> bool {
        let at = self.memory.get().start();
        fn write<T>(at: *mut u8, value: T) {
            // SAFETY: as in `get`.
            unsafe { at.cast::<T>().write_volatile(value) }
        }
        if let Code::F32 | Code::F64 = self.code {
            let Ok(float) = value.cast_exact::<PyFloat>() else {
                return false;
            };
            match self.code {
                Code::F32 => write(at, float.value() as f32),
                _ => write(at, float.value()),
            }
            return true;
        }
        // SAFETY: the object is alive; only an exact int is asked for its value.
        let (number, overflow) = unsafe {
            if ffi::PyLong_CheckExact(value.as_ptr()) == 0 {
                return false;
            }
            let mut overflow = 0;
            let number = ffi::PyLong_AsLongLongAndOverflow(value.as_ptr(), &mut overflow);
            (number, overflow)
        };
        if overflow != 0 {
            return false;
        }
        // What does not fit is cut, as ctypes does.
        match self.code {
            Code::I8 => write(at, number as i8),
            Code::U8 => write(at, number as u8),
            Code::I16 => write(at, number as i16),
            Code::U16 => write(at, number as u16),
            Code::I32 => write(at, number as i32),
            Code::U32 => write(at, number as u32),
            Code::I64 => write(at, number),
            Code::U64 => write(at, number as u64),
            Code::F32 | Code::F64 => return false,
        }
        true
    }
}

impl Parts {
    #[inline]
    fn take(&self, py: Python<'_>) -> PyResult<()> {
        match &self.native {
            Some(lock) => lock.get().take(py, true, true, None).map(drop),
            None => self.lock.call_method0(py, intern!(py, "acquire")).map(drop),
        }
    }

    #[inline]
    fn give(&self, py: Python<'_>) -> PyResult<()> {
        match &self.native {
            Some(lock) => lock.get().give(),
            None => self.lock.call_method0(py, intern!(py, "release")).map(drop),
        }
    }
}

impl SynchronizedValue {
    #[inline]
    pub fn lock_object(&self) -> Option<&Py<PyAny>> {
        self.parts.get().map(|parts| &parts.lock)
    }

    #[inline]
    fn parts(&self) -> PyResult<&Parts> {
        self.parts.get().ok_or_else(not_made)
    }
}

#[pymethods]
impl SynchronizedValue {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        SynchronizedValue {
            parts: OnceLock::new(),
        }
    }

    /// Brings object and lock together. `letter` is that of the object's ctypes type, if it is a plain number in `memory`.
    #[pyo3(signature = (object, lock, letter=None, size=0, memory=None))]
    fn _init(
        &self,
        object: Bound<'_, PyAny>,
        lock: Bound<'_, PyAny>,
        letter: Option<&str>,
        size: usize,
        memory: Option<Bound<'_, SharedBuffer>>,
    ) {
        let number = match (letter.and_then(|letter| Code::of(letter, size)), memory) {
            (Some(code), Some(memory)) if memory.get().len() >= size => Some(Number {
                memory: memory.unbind(),
                code,
            }),
            _ => None,
        };
        let _ = self.parts.set(Parts {
            object: object.unbind(),
            native: lock.cast::<LockBase>().ok().map(|lock| lock.clone().unbind()),
            lock: lock.unbind(),
            number,
        });
    }

    /// The object itself, without its lock.
    fn get_obj(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.parts()?.object.clone_ref(py))
    }

    /// The lock that guards it.
    fn get_lock(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.parts()?.lock.clone_ref(py))
    }

    #[getter]
    fn _obj(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.get_obj(py)
    }

    #[getter]
    fn _lock(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.get_lock(py)
    }

    #[getter]
    fn acquire(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.parts()?.lock.getattr(py, intern!(py, "acquire"))
    }

    #[getter]
    fn release(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.parts()?.lock.getattr(py, intern!(py, "release"))
    }

    fn __enter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let parts = self.parts()?;
        if parts.native.is_some() {
            parts.take(py)?;
            return Ok(pyo3::types::PyBool::new(py, true).to_owned().into_any());
        }
        parts.lock.bind(py).call_method0(intern!(py, "__enter__"))
    }

    #[pyo3(signature = (*args))]
    fn __exit__<'py>(&self, py: Python<'py>, args: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        let parts = self.parts()?;
        if parts.native.is_some() {
            parts.give(py)?;
            return Ok(py.None().into_bound(py));
        }
        parts.lock.bind(py).call_method1(intern!(py, "__exit__"), args)
    }

    #[getter(_value)]
    fn value<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let parts = self.parts()?;
        parts.take(py)?;
        let value = match &parts.number {
            Some(number) => number.get(py),
            None => parts.object.bind(py).getattr(intern!(py, "value")),
        };
        parts.give(py)?;
        value
    }

    #[setter(_value)]
    fn set_value(slf: &Bound<'_, Self>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let parts = slf.get().parts()?;
        parts.take(py)?;
        let set = match &parts.number {
            Some(number) if number.set(value) => Ok(()),
            _ => parts.object.bind(py).setattr(intern!(py, "value"), value),
        };
        parts.give(py)?;
        set
    }
}
