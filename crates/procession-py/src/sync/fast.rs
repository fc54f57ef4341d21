//! The hottest methods of locks and shared values, without what makes a method of the binding comfortable.
//!
//! Taking a free lock is one compare-and-swap, some 8 ns. The binding's own way into a method (counting the nesting of
//! the interpreter, checking the type again, parsing arguments, catching panics) costs twice that. So these few get
//! methods made by hand, put in the place of the comfortable ones when the module is made. They serve the common case
//! and leave all others to the methods whose places they took.

use std::ffi::CStr;
use std::ptr::{null_mut, NonNull};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;
use pyo3::{PyClass, PyTypeInfo};

use super::lock::LockBase;
use super::semaphore::SemaphoreBase;
use super::value::SynchronizedValue;

/// The methods whose places were taken.
struct Comfortable {
    lock: [NonNull<ffi::PyObject>; 3],
    semaphore: [NonNull<ffi::PyObject>; 3],
}

// SAFETY: the objects are method descriptors that are never freed, and are only used with the GIL held.
unsafe impl Send for Comfortable {}
// SAFETY: as above.
unsafe impl Sync for Comfortable {}

static COMFORTABLE: std::sync::OnceLock<Comfortable> = std::sync::OnceLock::new();

const ACQUIRE: usize = 0;
const RELEASE: usize = 1;
const ENTER: usize = 2;

/// A class whose lock or semaphore can be taken and given back in an instant, or not.
trait Instant: PyTypeInfo {
    fn take(&self, scoped: bool) -> bool;
    fn give(&self) -> bool;
    fn comfortable() -> Option<&'static [NonNull<ffi::PyObject>; 3]>;
}

impl Instant for LockBase {
    #[inline]
    fn take(&self, scoped: bool) -> bool {
        self.made().is_some_and(|lock| lock.try_acquire(scoped))
    }

    #[inline]
    fn give(&self) -> bool {
        self.made().is_some_and(|lock| lock.release().is_ok())
    }

    fn comfortable() -> Option<&'static [NonNull<ffi::PyObject>; 3]> {
        COMFORTABLE.get().map(|methods| &methods.lock)
    }
}

impl Instant for SemaphoreBase {
    #[inline]
    fn take(&self, _scoped: bool) -> bool {
        self.take_now()
    }

    #[inline]
    fn give(&self) -> bool {
        self.give_now()
    }

    fn comfortable() -> Option<&'static [NonNull<ffi::PyObject>; 3]> {
        COMFORTABLE.get().map(|methods| &methods.semaphore)
    }
}

/// The object behind `slf`.
///
/// # Safety
///
/// The GIL is held, and `slf` is an instance of `T`, as the interpreter has checked for a method of `T`.
#[inline]
unsafe fn inside<'a, T: PyClass<Frozen = pyo3::pyclass::boolean_struct::True> + Sync>(
    slf: *mut ffi::PyObject,
) -> &'a T {
    // SAFETY: the caller vouches for both; the caller of the method holds a reference to the object for the call.
    unsafe {
        let py = Python::assume_attached();
        let object: Borrowed<'a, '_, PyAny> = Borrowed::from_ptr(py, slf);
        let object: Borrowed<'a, '_, T> = object.cast_unchecked();
        &*std::ptr::from_ref(object.get())
    }
}

/// As `Py_NewRef`, which Python 3.9 does not have yet.
///
/// # Safety
///
/// The object is alive, and the GIL is held.
unsafe fn new_ref(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the caller vouches for it.
    unsafe { ffi::Py_INCREF(object) };
    object
}

fn truth(value: bool) -> *mut ffi::PyObject {
    // SAFETY: the two are immortal or counted up here; the GIL is held in all callers.
    unsafe {
        let object = if value { ffi::Py_True() } else { ffi::Py_False() };
        new_ref(object)
    }
}

/// Has the method do it whose place was taken.
///
/// # Safety
///
/// As for [`inside`]; `arguments` are those of a vectorcall without the object itself.
#[cold]
unsafe fn comfortably<T: Instant>(
    which: usize,
    slf: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    positional: isize,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let Some(methods) = T::comfortable() else {
        return null_mut();
    };
    let named = if keywords.is_null() {
        0
    } else {
        // SAFETY: keywords of a vectorcall are a tuple.
        unsafe { ffi::PyTuple_GET_SIZE(keywords) }
    };
    let count = (positional + named) as usize;
    let mut all = Vec::with_capacity(count + 1);
    all.push(slf);
    if count > 0 {
        // SAFETY: a vectorcall brings this many arguments.
        all.extend_from_slice(unsafe { std::slice::from_raw_parts(arguments, count) });
    }
    // SAFETY: the descriptor lives for ever, and the arguments for the call.
    unsafe {
        ffi::PyObject_Vectorcall(
            methods[which].as_ptr(),
            all.as_ptr(),
            (positional + 1) as usize,
            keywords,
        )
    }
}

unsafe extern "C" fn acquire<T>(
    slf: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    positional: isize,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject
where
    T: Instant + PyClass<Frozen = pyo3::pyclass::boolean_struct::True> + Sync,
{
    // SAFETY: the interpreter calls this as a method of `T`, with the GIL held.
    unsafe {
        // Whatever the arguments say, a free lock is taken at once; wrong arguments are found by the other method.
        if positional == 0 && keywords.is_null() && inside::<T>(slf).take(false) {
            return truth(true);
        }
        comfortably::<T>(ACQUIRE, slf, arguments, positional, keywords)
    }
}

unsafe extern "C" fn release<T>(slf: *mut ffi::PyObject, _none: *mut ffi::PyObject) -> *mut ffi::PyObject
where
    T: Instant + PyClass<Frozen = pyo3::pyclass::boolean_struct::True> + Sync,
{
    // SAFETY: as in `acquire`.
    unsafe {
        if inside::<T>(slf).give() {
            return new_ref(ffi::Py_None());
        }
        comfortably::<T>(RELEASE, slf, std::ptr::null(), 0, null_mut())
    }
}

unsafe extern "C" fn enter<T>(slf: *mut ffi::PyObject, _none: *mut ffi::PyObject) -> *mut ffi::PyObject
where
    T: Instant + PyClass<Frozen = pyo3::pyclass::boolean_struct::True> + Sync,
{
    // SAFETY: as in `acquire`.
    unsafe {
        if inside::<T>(slf).take(true) {
            return truth(true);
        }
        comfortably::<T>(ENTER, slf, std::ptr::null(), 0, null_mut())
    }
}

unsafe extern "C" fn exit<T>(
    slf: *mut ffi::PyObject,
    _arguments: *mut *mut ffi::PyObject,
    _positional: isize,
) -> *mut ffi::PyObject
where
    T: Instant + PyClass<Frozen = pyo3::pyclass::boolean_struct::True> + Sync,
{
    // SAFETY: as in `acquire`.
    unsafe { release::<T>(slf, null_mut()) }
}

unsafe extern "C" fn get_lock(slf: *mut ffi::PyObject, _none: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: as in `acquire`.
    unsafe {
        match inside::<SynchronizedValue>(slf).lock_object() {
            Some(lock) => new_ref(lock.as_ptr()),
            None => {
                super::lock::not_made().restore(Python::assume_attached());
                null_mut()
            }
        }
    }
}

fn put(
    class: &Bound<'_, PyType>,
    name: &'static CStr,
    method: ffi::PyMethodDefPointer,
    flags: i32,
    doc: &'static CStr,
) -> PyResult<()> {
    // A method's definition must live as long as the method, which is as long as the module: for ever.
    let definition = Box::leak(Box::new(ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: method,
        ml_flags: flags,
        ml_doc: doc.as_ptr(),
    }));
    // SAFETY: the class is a type, the definition lives for ever and fits its flags.
    let descriptor = unsafe {
        Bound::from_owned_ptr_or_err(
            class.py(),
            ffi::PyDescr_NewMethod(class.as_ptr().cast(), definition),
        )?
    };
    class.setattr(name.to_string_lossy().as_ref(), descriptor)
}

fn put_all<T>(py: Python<'_>) -> PyResult<[NonNull<ffi::PyObject>; 3]>
where
    T: Instant + PyClass<Frozen = pyo3::pyclass::boolean_struct::True> + Sync,
{
    let class = T::type_object(py);
    let former = |name: &str| -> PyResult<NonNull<ffi::PyObject>> {
        let method = class.getattr("__dict__")?.get_item(name)?;
        NonNull::new(method.into_ptr()).ok_or_else(super::lock::not_made)
    };
    let comfortable = [former("acquire")?, former("release")?, former("__enter__")?];
    put(
        &class,
        c"acquire",
        ffi::PyMethodDefPointer {
            PyCFunctionFastWithKeywords: acquire::<T>,
        },
        ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
        c"acquire($self, block=True, timeout=None)\n--\n\nAcquires; False if that took longer than `timeout` seconds, or would have to wait and `block` is false.",
    )?;
    put(
        &class,
        c"release",
        ffi::PyMethodDefPointer {
            PyCFunction: release::<T>,
        },
        ffi::METH_NOARGS,
        c"release($self)\n--\n\nReleases.",
    )?;
    put(
        &class,
        c"__enter__",
        ffi::PyMethodDefPointer {
            PyCFunction: enter::<T>,
        },
        ffi::METH_NOARGS,
        c"__enter__($self)\n--\n\n",
    )?;
    put(
        &class,
        c"__exit__",
        ffi::PyMethodDefPointer {
            PyCFunctionFast: exit::<T>,
        },
        ffi::METH_FASTCALL,
        c"__exit__($self, _type=None, _value=None, _traceback=None)\n--\n\n",
    )?;
    Ok(comfortable)
}

/// Puts the methods in their places.
pub fn install(py: Python<'_>) -> PyResult<()> {
    let comfortable = Comfortable {
        lock: put_all::<LockBase>(py)?,
        semaphore: put_all::<SemaphoreBase>(py)?,
    };
    let _ = COMFORTABLE.set(comfortable);
    put(
        &SynchronizedValue::type_object(py),
        c"get_lock",
        ffi::PyMethodDefPointer {
            PyCFunction: get_lock,
        },
        ffi::METH_NOARGS,
        c"get_lock($self)\n--\n\nThe lock that guards it.",
    )
}
