//! Values of complete jobs, names for errors, arguments as Python has them.

use super::*;

/// What is to be called for a complete job, with what, and its error if it has one.
pub fn due_job_call(
    py: Python<'_>,
    core: &Core,
    job: &Arc<Job>,
) -> (Option<Py<PyAny>>, Option<Py<PyAny>>, Option<PyErr>) {
    let Some((callback, error_callback)) = job.state.with(py, |j| j.calls.take()) else {
        return (None, None, None);
    };
    match take_job_value(py, Some(core), job) {
        Ok(value) => (callback, Some(value), None),
        Err(e) => {
            let value = e.value(py).clone().into_any().unbind();
            let kept = e.clone_ref(py);
            job.state.with(py, |j| j.fail_whole(kept));
            (error_callback, Some(value), Some(e))
        }
    }
}

/// The list of a complete job, or the error that came first, which is taken out.
pub fn take_job_value(py: Python<'_>, core: Option<&Core>, job: &Arc<Job>) -> PyResult<Py<PyAny>> {
    decode_pending(py, core, job);
    let (failed, list) = job.state.with(py, |j| match &mut j.sink {
        Sink::List { failed, results, .. } => (failed.take(), results.as_ref().map(|r| r.clone_ref(py))),
        Sink::Stream { .. } => (None, None),
    });
    if let Some(list) = &list {
        // It may also have given fewer: then the last places are empty.
        let given = job.state.with(py, |j| j.total.unwrap_or(0)) as ffi::Py_ssize_t;
        // SAFETY: the list is ours alone; its places from `given` on were never filled, which deletion allows.
        unsafe {
            let len = ffi::PyList_Size(list.as_ptr());
            if given < len && failed.is_none() {
                ffi::PyList_SetSlice(list.as_ptr(), given, len, std::ptr::null_mut());
            }
        }
    }
    match failed {
        Some((_, e)) => Err(e),
        None => list
            .map(Py::into_any)
            .ok_or_else(|| PyRuntimeError::new_err("this job has no list of results")),
    }
}

/// Decodes what has arrived of a job; user code may run, and with it other threads, for which the job is not ready
/// meanwhile.
pub fn decode_pending(py: Python<'_>, core: Option<&Core>, job: &Arc<Job>) {
    loop {
        let next = job.state.with(py, |j| match &mut j.sink {
            Sink::List { pending, results, .. } => pending.pop().map(|p| {
                j.decoding += 1;
                (p, results.as_ref().map(|r| r.clone_ref(py)))
            }),
            Sink::Stream { .. } => None,
        });
        let Some(((mut index, arrival, mut raw), list)) = next else {
            return;
        };
        while raw.items() > 0 {
            let told = raw.next(py, &job.task);
            if let Some(text) = told.output {
                job.state.with(py, |j| j.outputs.push((index, text.unbind())));
            }
            match told.outcome {
                Ok(value) => {
                    if let Some(list) = &list {
                        // SAFETY: the place is inside the list and empty: each index arrives once.
                        unsafe {
                            if index < ffi::PyList_GET_SIZE(list.as_ptr()) as u64 {
                                ffi::PyList_SET_ITEM(
                                    list.as_ptr(),
                                    index as ffi::Py_ssize_t,
                                    value.into_ptr(),
                                );
                            }
                        }
                    }
                }
                Err(e) => job.state.with(py, |j| {
                    j.fail_arrived(arrival, e);
                }),
            }
            index += 1;
        }
        job.state.with(py, |j| j.decoding -= 1);
        if let Some(core) = core {
            core.waiter.announce();
        }
    }
}

pub(super) fn name_of(function: &Bound<'_, PyAny>) -> String {
    let py = function.py();
    let named = function
        .getattr(intern!(py, "__qualname__"))
        .or_else(|_| function.getattr(intern!(py, "__name__")))
        .or_else(|_| {
            function
                .getattr(intern!(py, "func"))?
                .getattr(intern!(py, "__qualname__"))
        });
    match named.and_then(|n| n.extract::<String>()) {
        Ok(name) => name,
        Err(_) => function
            .get_type()
            .name()
            .map_or_else(|_| "task".into(), |n| n.to_string()),
    }
}

/// Seconds as multiprocessing takes them: `None` for ever, negative as zero.
pub fn duration(timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Duration>> {
    match timeout {
        None => Ok(None),
        Some(t) if t.is_none() => Ok(None),
        Some(t) => {
            let seconds: f64 = t.extract()?;
            if seconds.is_nan() {
                return Err(PyValueError::new_err("Invalid value NaN (not a number)"));
            }
            // Beyond thirty years it is for ever.
            Ok((seconds < 1e9).then(|| Duration::from_secs_f64(seconds.max(0.0))))
        }
    }
}

/// A limit on how long a task may run, in milliseconds: at least one, 0 for none.
pub(super) fn limit_ms(timeout: &Bound<'_, PyAny>) -> PyResult<u32> {
    let seconds: f64 = timeout.extract().map_err(|_| {
        PyTypeError::new_err(format!(
            "timeout must be a number of seconds or None, not {}",
            type_name(timeout)
        ))
    })?;
    if seconds.is_nan() || seconds <= 0.0 {
        return Err(PyValueError::new_err(
            "timeout must be a positive number of seconds or None",
        ));
    }
    // Beyond some weeks it is no limit.
    let ms = (seconds * 1e3).round();
    Ok(if ms >= f64::from(u32::MAX) {
        0
    } else {
        ms.max(1.0) as u32
    })
}

pub(super) fn timeout_error(py: Python<'_>) -> PyErr {
    match py
        .import("multiprocessing")
        .and_then(|m| m.getattr("TimeoutError")?.call0())
    {
        Ok(error) => PyErr::from_value(error),
        Err(e) => e,
    }
}

/// Raises multiprocessing's `TimeoutError`.
pub fn raise_timeout(py: Python<'_>) -> PyErr {
    timeout_error(py)
}

/// Whether an iterator's `next` is C code that neither blocks nor runs the user's.
pub(super) fn is_quick_iterator(source: &Bound<'_, PyIterator>) -> bool {
    let name = source.get_type();
    let module_is_builtin = name.module().is_ok_and(|m| m == "builtins");
    module_is_builtin
        && name.name().is_ok_and(|n| {
            matches!(
                n.to_str().unwrap_or(""),
                "list_iterator"
                    | "tuple_iterator"
                    | "range_iterator"
                    | "longrange_iterator"
                    | "str_iterator"
                    | "str_ascii_iterator"
                    | "bytes_iterator"
                    | "bytearray_iterator"
                    | "set_iterator"
                    | "dict_keyiterator"
                    | "dict_valueiterator"
                    | "dict_itemiterator"
                    | "list_reverseiterator"
            )
        })
}

pub(super) fn type_name(object: &Bound<'_, PyAny>) -> String {
    object
        .get_type()
        .name()
        .map_or_else(|_| "object".into(), |n| n.to_string())
}

/// The arguments that a call `func(*args)` would pass.
pub(super) fn spread<'py>(
    py: Python<'py>,
    func: &Bound<'py, PyAny>,
    args: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyTuple>> {
    let Ok(iterator) = args.try_iter() else {
        return Err(PyTypeError::new_err(format!(
            "{} argument after * must be an iterable, not {}",
            full_name(func),
            type_name(args)
        )));
    };
    PyTuple::new(py, iterator.collect::<PyResult<Vec<_>>>()?)
}

pub(super) fn not_a_mapping(func: &Bound<'_, PyAny>, kwds: &Bound<'_, PyAny>) -> PyErr {
    PyTypeError::new_err(format!(
        "{} argument after ** must be a mapping, not {}",
        full_name(func),
        type_name(kwds)
    ))
}

pub(super) fn full_name(function: &Bound<'_, PyAny>) -> String {
    let py = function.py();
    let module = function
        .getattr(intern!(py, "__module__"))
        .and_then(|m| m.extract::<String>());
    match module {
        Ok(module) if module != "builtins" => format!("{module}.{}()", name_of(function)),
        _ => format!("{}()", name_of(function)),
    }
}

/// An error of the system as Python has it, with its number.
pub fn os_error(e: std::io::Error) -> PyErr {
    match e.raw_os_error() {
        Some(number) => {
            let text = e.to_string();
            let text = text.split(" (os error").next().unwrap_or(&text).to_string();
            PyOSError::new_err((number, text))
        }
        None if e.kind() == std::io::ErrorKind::OutOfMemory => {
            PyMemoryError::new_err("there is not enough memory")
        }
        None => PyOSError::new_err(e.to_string()),
    }
}
