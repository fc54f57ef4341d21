//! How a single call begins: with a slot, or in the backlog if there is none.

use super::*;

impl PoolBase {
    #[allow(clippy::too_many_arguments)]
    pub(super) fn submit_call<'py>(
        slf: &Bound<'py, Self>,
        core: &Core,
        func: &Bound<'py, PyAny>,
        args: Given<'py>,
        kwds: Given<'py>,
        callback: Option<Py<PyAny>>,
        error_callback: Option<Py<PyAny>>,
        timeout: Option<&Bound<'py, PyAny>>,
        priority: i32,
    ) -> PyResult<Bound<'py, AsyncResult>> {
        let py = slf.py();
        let terms = core.terms(timeout, priority)?;
        let calls = (callback.is_some() || error_callback.is_some()).then(|| {
            Box::new(Calls {
                callback,
                error_callback,
                listeners: Vec::new(),
            })
        });
        let has_calls = calls.is_some();
        let result = Bound::new(py, AsyncResult::pending(slf.clone().unbind(), calls))?;
        if has_calls {
            core.inner.with(py, |i| i.callbacks_outstanding += 1);
        }
        let prepared = (|| -> PyResult<(Bound<'py, PyTuple>, Option<Bound<'py, PyDict>>)> {
            let arguments = match args {
                Given::Nothing => PyTuple::empty(py),
                Given::Value(a) => match a.cast_into_exact::<PyTuple>() {
                    Ok(tuple) => tuple,
                    Err(e) => spread(py, func, &e.into_inner())?,
                },
            };
            let keywords = match kwds {
                Given::Nothing => None,
                Given::Value(k) => match k.cast_exact::<PyDict>() {
                    Ok(dict) if dict.is_empty() => None,
                    Ok(dict) => Some(dict.clone()),
                    Err(_) => {
                        let dict = PyDict::new(py);
                        dict.update(
                            k.cast::<pyo3::types::PyMapping>()
                                .map_err(|_| not_a_mapping(func, &k))?,
                        )?;
                        Some(dict)
                    }
                },
            };
            Ok((arguments, keywords))
        })();
        let (arguments, keywords) = match prepared {
            Ok(prepared) => prepared,
            Err(e) => {
                core.fail_one(py, result.clone().unbind(), e);
                core.see_to_helper(py, slf);
                return Ok(result);
            }
        };
        let queue_first = core.inner.with(py, |i| !i.backlog.is_empty());
        let submitted = if queue_first {
            Err(EncodeError::Full)
        } else {
            core.submit(py, func, &arguments, keywords.as_ref(), &result, terms)
        };
        match submitted {
            Ok(()) => {}
            Err(EncodeError::Full) => {
                let queued = Queued {
                    terms,
                    result: result.clone().unbind(),
                    function: func.clone().unbind(),
                    arguments: arguments.unbind(),
                    keywords: keywords.map(Bound::unbind),
                };
                core.inner.with(py, |i| {
                    let place = i.backlog.partition_point(|q| q.terms.priority >= priority);
                    i.backlog.insert(place, queued);
                });
                core.collect(py, slf);
            }
            Err(EncodeError::Python(e)) => core.fail_one(py, result.clone().unbind(), e),
        }
        if has_calls || core.inner.with(py, |i| i.dispatcher.has_queue()) {
            core.see_to_helper(py, slf);
        } else if core
            .inner
            .with(py, |i| i.submissions % 32 == 0 && i.dispatcher.has_arrivals())
        {
            core.collect(py, slf);
        }
        if core.channel.header().life.broken.load(Ordering::Relaxed) != 0
            || core.over.with(py, |o| !matches!(o, Over::No))
        {
            core.look_for_breakage(py);
            core.fail_everything(py);
        }
        Ok(result)
    }
}
