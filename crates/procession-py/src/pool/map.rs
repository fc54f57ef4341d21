//! How maps begin, those that are read lazily too: with a job that is fed from their arguments.

use super::*;
use crate::results::ImapBase;

impl PoolBase {
    #[allow(clippy::too_many_arguments, clippy::type_complexity)]
    pub(super) fn start_map<'py>(
        slf: &Bound<'py, Self>,
        func: &Bound<'py, PyAny>,
        iterable: &Bound<'py, PyAny>,
        chunksize: Option<&Bound<'py, PyAny>>,
        callback: Option<Py<PyAny>>,
        error_callback: Option<Py<PyAny>>,
        star: bool,
        terms: Terms,
    ) -> PyResult<(Option<Arc<Job>>, Bound<'py, PyAny>)> {
        let py = slf.py();
        let core = slf.get().open_core()?;
        let (length, source) = match iterable.hasattr(intern!(py, "__len__"))? {
            true => (iterable.len()?, iterable.clone()),
            false => {
                let list = PyList::empty(py);
                list.call_method1(intern!(py, "extend"), (iterable,))?;
                (list.len(), list.into_any())
            }
        };
        let chunk = match chunksize {
            None => None,
            Some(c) if c.is_none() => None,
            Some(c) => {
                let index = c.call_method0(intern!(py, "__index__")).map_err(|_| {
                    PyTypeError::new_err(format!(
                        "chunksize must be an integer or None, not {}",
                        type_name(c)
                    ))
                })?;
                // Beyond what a machine integer holds, one chunk has all items, or none if it is negative.
                let beyond = if index.lt(0)? { i64::MIN } else { i64::MAX };
                Some(index.extract().unwrap_or(beyond))
            }
        };
        if length == 0 || matches!(chunk, Some(n) if n <= 0) {
            // multiprocessing's own way: with chunks of nothing, nothing is called, and each result is None.
            let results = PyList::new(py, (0..length).map(|_| py.None()))?;
            let result = AsyncResult::ready_list(py, slf.clone().unbind(), results)?;
            return Ok((None, result));
        }
        // SAFETY: a new list of empty places, which nobody sees before all are filled: the collector is kept away too.
        let results = unsafe {
            let list = ffi::PyList_New(length as ffi::Py_ssize_t);
            let list = Bound::from_owned_ptr_or_err(py, list)?;
            ffi::PyObject_GC_UnTrack(list.as_ptr().cast());
            list.cast_into_unchecked::<PyList>()
        };
        let sink = Sink::List {
            results: Some(results.unbind()),
            pending: Vec::new(),
            failed: None,
        };
        let calls = (callback.is_some() || error_callback.is_some()).then_some((callback, error_callback));
        let has_calls = calls.is_some();
        let kind = if star { kind::STARMAP } else { kind::MAP };
        let chunk = chunk.map(|n| n.min(i64::from(u32::MAX)) as u32);
        let total = Some(length as u64);
        let job = match Source::of(&source) {
            Ok(source) => core.new_job(py, func, kind, chunk, Some(source), total, sink, calls, terms)?,
            Err(e) => {
                let job = core.new_job(py, func, kind, chunk, None, Some(1), sink, calls, terms)?;
                job.state.with(py, |j| {
                    j.pulled = 1;
                    j.fail_item(0, e);
                });
                job
            }
        };
        let result = AsyncResult::of_job(py, slf.clone().unbind(), job.clone())?;
        core.inner.with(py, |i| {
            if has_calls {
                i.callbacks_outstanding += 1;
            }
            i.jobs.push(job.clone());
        });
        core.pump_job(py, &job);
        core.inner.with(py, |i| core.finish_job(py, i, &job));
        if has_calls {
            core.see_to_helper(py, slf);
        }
        core.refuse_if_over(py);
        Ok((Some(job), result))
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn start_imap<'py>(
        slf: &Bound<'py, Self>,
        func: &Bound<'py, PyAny>,
        iterable: &Bound<'py, PyAny>,
        chunksize: u32,
        buffersize: Option<u64>,
        ordered: bool,
        star: bool,
        terms: Terms,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let core = slf.get().open_core()?;
        let source = iterable.try_iter()?;
        let fed_by_thread = !is_quick_iterator(&source);
        let buffer = buffersize.unwrap_or_else(|| {
            (u64::from(core.workers) * 128).max(u64::from(chunksize) * u64::from(core.workers) * 4)
        });
        let sink = Sink::Stream {
            ordered,
            ready: VecDeque::new(),
            given: 0,
            buffer: buffer.max(1),
        };
        let kind = if star { kind::STARMAP } else { kind::MAP };
        let job = core.new_job(
            py,
            func,
            kind,
            (chunksize > 1).then_some(chunksize),
            Some(Source::Iterator(source.unbind())),
            None,
            sink,
            None,
            terms,
        )?;
        job.state.with(py, |j| j.fed_by_thread = fed_by_thread);
        let iterator = ImapBase::new(slf.clone().unbind(), job.clone(), fed_by_thread);
        let iterator = iterator.into_object(py, ordered)?;
        core.inner.with(py, |i| i.jobs.push(job.clone()));
        if !fed_by_thread {
            core.pump_job(py, &job);
        }
        core.refuse_if_over(py);
        Ok(iterator)
    }
}
