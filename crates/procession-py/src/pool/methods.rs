//! The methods that Python sees.

use super::*;

#[pymethods]
impl PoolBase {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        PoolBase {
            core: OnceLock::new(),
        }
    }

    /// Makes the shared memory of a pool of this many workers. Times are in milliseconds, 0 is no limit.
    /// Memory is in bytes, 0 is no limit.
    #[pyo3(signature = (workers, tasks_per_worker, timeout_ms, memory_limit, recycle_memory, capture, name_prefix, first_number, start_method))]
    #[allow(clippy::too_many_arguments)]
    fn _open(
        &self,
        workers: u32,
        tasks_per_worker: u64,
        timeout_ms: u32,
        memory_limit: u64,
        recycle_memory: u64,
        capture: bool,
        name_prefix: String,
        first_number: u64,
        start_method: &str,
    ) -> PyResult<()> {
        if workers > 2040 {
            return Err(PyValueError::new_err(format!(
                "a pool has at most 2040 workers, not {workers}"
            )));
        }
        let channel =
            Arc::new(Channel::create(Geometry::for_workers(workers), IDLE_CAP_BYTES).map_err(os_error)?);
        let life = &channel.header().life;
        life.workers.store(workers, Ordering::Relaxed);
        life.tasks_per_worker.store(tasks_per_worker, Ordering::Relaxed);
        life.shortest_timeout_ms.store(timeout_ms, Ordering::Relaxed);
        life.memory_limit.store(memory_limit, Ordering::Relaxed);
        life.recycle_memory.store(recycle_memory, Ordering::Relaxed);
        life.capture.store(capture.into(), Ordering::Relaxed);
        let prefix = format!("{name_prefix}PoolWorker-");
        channel
            .header()
            .watch
            .describe(&prefix, first_number, start_method);
        let dispatcher = Dispatcher::new(channel.clone());
        let results = Event::new().map_err(os_error)?;
        let caller = process::pidfd_open(std::process::id())
            .and_then(socket::above_standard)
            .map_err(os_error)?;
        let waiter = Waiter::new(channel.clone(), dispatcher.taken(), results);
        let inner = Inner {
            dispatcher,
            entries: Vec::new(),
            numbers: HashMap::new(),
            names: HashMap::new(),
            known: Vec::new(),
            last_function: (0, 0),
            arrivals: Vec::new(),
            spare: Vec::new(),
            backlog: VecDeque::new(),
            jobs: Vec::new(),
            due: VecDeque::new(),
            callbacks_outstanding: 0,
            helper_runs: false,
            large_bytes: 0,
            submissions: 0,
            singles: 0,
            restarts: VecDeque::new(),
            graveyard: Vec::new(),
            stalled_since: None,
        };
        let core = Core {
            generation: generation(),
            channel,
            waiter,
            inner: GilCell::new(inner),
            over: GilCell::new(Over::No),
            accepting: AtomicBool::new(true),
            exiting: AtomicBool::new(false),
            waiting: AtomicU32::new(0),
            workers,
            timeout_ms,
            memory_limit,
            retries: AtomicBool::new(false),
            names: (name_prefix, first_number),
            caller,
            child_end: Mutex::new(None),
            parent_end: Mutex::new(None),
            supervisor_pid: AtomicU32::new(0),
            supervisor_is_child: AtomicBool::new(false),
        };
        self.core
            .set(core)
            .map_err(|_| PyRuntimeError::new_err("the pool is open already"))
    }

    /// Makes a line to a new supervisor; returns the descriptors it needs: memory, results, line, caller.
    fn _line(&self) -> PyResult<(RawFd, RawFd, RawFd, RawFd)> {
        let core = self.core()?;
        let (ours, theirs) = socket::pair().map_err(os_error)?;
        let line = theirs.as_raw_fd();
        *core.parent_end.lock().unwrap_or_else(|e| e.into_inner()) = Some(ours);
        *core.child_end.lock().unwrap_or_else(|e| e.into_inner()) = Some(theirs);
        Ok((
            core.channel.fd().as_raw_fd(),
            core.waiter.results().as_fd().as_raw_fd(),
            line,
            core.caller.as_raw_fd(),
        ))
    }

    /// Tells that the supervisor runs in the process `pid`, which is a child of this one, or else whose pidfd is given.
    #[pyo3(signature = (pid, pidfd=None))]
    fn _launched(&self, pid: u32, pidfd: Option<RawFd>) -> PyResult<()> {
        let core = self.core()?;
        let supervisor = match pidfd {
            // SAFETY: the descriptor was received for this purpose and is handed over.
            Some(fd) => unsafe { OwnedFd::from_raw_fd(fd) },
            None => process::pidfd_open(pid).map_err(os_error)?,
        };
        core.supervisor_pid.store(pid, Ordering::Relaxed);
        core.supervisor_is_child.store(pidfd.is_none(), Ordering::Relaxed);
        core.child_end.lock().unwrap_or_else(|e| e.into_inner()).take();
        let control = core.parent_end.lock().unwrap_or_else(|e| e.into_inner()).take();
        let control =
            control.ok_or_else(|| PyRuntimeError::new_err("the pool has no line to its supervisor"))?;
        core.waiter
            .set_lines(Some(Arc::new(Lines { control, supervisor })));
        Ok(())
    }

    /// In a forked child that will be the supervisor: the pool is the parent's, leave it alone.
    fn _disown(&self) {
        // The generation differs already. Only the caller's end of the line must not stay open in the supervisor: it
        // would never hear that the caller has closed it.
        if let Some(core) = self.core.get() {
            core.parent_end.lock().unwrap_or_else(|e| e.into_inner()).take();
        }
    }

    /// The supervisor's process id.
    #[getter]
    fn _supervisor_pid(&self) -> PyResult<u32> {
        Ok(self.core()?.supervisor_pid.load(Ordering::Relaxed))
    }

    /// The figures of each function, and hints.
    fn _stats(&self, py: Python<'_>) -> PyResult<(Vec<super::insight::Figures>, Vec<String>)> {
        Ok(self.core()?.stats(py))
    }

    /// Tells whoever reads events that a call of this function is tried again.
    fn _tell_retry(&self, py: Python<'_>, function: &str) -> PyResult<()> {
        self.core()?.tell_retry(py, function);
        Ok(())
    }

    /// Begins to read events.
    fn _events(&self) -> PyResult<EventReader> {
        Ok(self.core()?.events())
    }

    /// Live workers: (number, pid, exit code or None, stage) each.
    fn _seats(&self) -> PyResult<Vec<(u32, u32, &'static str)>> {
        let core = self.core()?;
        let mut seats = Vec::new();
        for seat in core.channel.live_seats() {
            let s = core.channel.seat(seat);
            let stage = match s.stage.load(Ordering::Acquire) {
                Seat::STARTING => "starting",
                Seat::READY => "ready",
                _ => continue,
            };
            seats.push((
                s.number.load(Ordering::Relaxed),
                s.pid.load(Ordering::Relaxed),
                stage,
            ));
        }
        seats.sort_unstable();
        Ok(seats)
    }

    /// Tasks sent to workers and not yet collected, calls waiting for room.
    fn _load(&self, py: Python<'_>) -> PyResult<(usize, usize)> {
        Ok(self
            .core()?
            .inner
            .with(py, |i| (i.dispatcher.in_flight(), i.backlog.len())))
    }

    /// Calls `func(*args, **kwds)` in a worker; returns an `AsyncResult` at once.
    ///
    /// `timeout` is how many seconds the call may run; None is the pool's limit. Calls with a higher `priority` go first.
    /// `retries` says how often and when the call is tried again if it fails: see `Retry`.
    #[pyo3(signature = (func, args=Given::Nothing, kwds=Given::Nothing, callback=None, error_callback=None, *, timeout=None, priority=0, retries=None))]
    #[pyo3(
        text_signature = "($self, func, args=(), kwds={}, callback=None, error_callback=None, *, timeout=None, priority=0, retries=None)"
    )]
    #[allow(clippy::too_many_arguments)]
    fn apply_async<'py>(
        slf: &Bound<'py, Self>,
        func: &Bound<'py, PyAny>,
        args: Given<'py>,
        kwds: Given<'py>,
        callback: Option<Py<PyAny>>,
        error_callback: Option<Py<PyAny>>,
        timeout: Option<&Bound<'py, PyAny>>,
        priority: i32,
        retries: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, AsyncResult>> {
        let core = slf.get().open_core()?;
        if retries.is_some() || core.retries.load(Ordering::Relaxed) {
            let py = slf.py();
            let args = match args {
                Given::Nothing => PyTuple::empty(py).into_any(),
                Given::Value(args) => args,
            };
            let kwds = match kwds {
                Given::Nothing => PyDict::new(py).into_any(),
                Given::Value(kwds) => kwds,
            };
            let calls = (callback, error_callback);
            let result = slf.call_method1(
                intern!(py, "_retrying"),
                (func, args, kwds, calls, timeout, priority, retries),
            )?;
            return Ok(result.cast_into::<AsyncResult>()?);
        }
        Self::submit_call(
            slf,
            core,
            func,
            args,
            kwds,
            callback,
            error_callback,
            timeout,
            priority,
        )
    }

    /// One attempt at a call, also while the pool takes no new ones.
    #[pyo3(signature = (func, args, kwds, callback, error_callback, timeout, priority))]
    #[allow(clippy::too_many_arguments)]
    fn _attempt<'py>(
        slf: &Bound<'py, Self>,
        func: &Bound<'py, PyAny>,
        args: Given<'py>,
        kwds: Given<'py>,
        callback: Option<Py<PyAny>>,
        error_callback: Option<Py<PyAny>>,
        timeout: Option<&Bound<'py, PyAny>>,
        priority: i32,
    ) -> PyResult<Bound<'py, AsyncResult>> {
        let core = slf.get().core()?;
        Self::submit_call(
            slf,
            core,
            func,
            args,
            kwds,
            callback,
            error_callback,
            timeout,
            priority,
        )
    }

    /// Says whether calls are tried again that do not say so themselves.
    fn _set_retrying(&self, on: bool) -> PyResult<()> {
        self.core()?.retries.store(on, Ordering::Relaxed);
        Ok(())
    }

    /// Calls `func(*args, **kwds)` in a worker and returns its result.
    #[pyo3(signature = (func, args=Given::Nothing, kwds=Given::Nothing, *, timeout=None, priority=0, retries=None))]
    #[pyo3(text_signature = "($self, func, args=(), kwds={}, *, timeout=None, priority=0, retries=None)")]
    fn apply<'py>(
        slf: &Bound<'py, Self>,
        func: &Bound<'py, PyAny>,
        args: Given<'py>,
        kwds: Given<'py>,
        timeout: Option<&Bound<'py, PyAny>>,
        priority: i32,
        retries: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let result = Self::apply_async(slf, func, args, kwds, None, None, timeout, priority, retries)?;
        AsyncResult::get_value(&result, None)
    }

    #[pyo3(signature = (func, iterable, chunksize, callback, error_callback, star, timeout, priority))]
    #[allow(clippy::too_many_arguments)]
    fn _map_async<'py>(
        slf: &Bound<'py, Self>,
        func: &Bound<'py, PyAny>,
        iterable: &Bound<'py, PyAny>,
        chunksize: Option<&Bound<'py, PyAny>>,
        callback: Option<Py<PyAny>>,
        error_callback: Option<Py<PyAny>>,
        star: bool,
        timeout: Option<&Bound<'py, PyAny>>,
        priority: i32,
    ) -> PyResult<Bound<'py, PyAny>> {
        let terms = slf.get().core()?.terms(timeout, priority)?;
        let (job, result) = Self::start_map(
            slf,
            func,
            iterable,
            chunksize,
            callback,
            error_callback,
            star,
            terms,
        )?;
        let core = slf.get().core()?;
        if let Some(job) = job {
            core.leave_unattended(slf.py(), slf, &job);
        }
        Ok(result)
    }

    #[pyo3(signature = (func, iterable, chunksize, star, timeout, priority))]
    fn _map<'py>(
        slf: &Bound<'py, Self>,
        func: &Bound<'py, PyAny>,
        iterable: &Bound<'py, PyAny>,
        chunksize: Option<&Bound<'py, PyAny>>,
        star: bool,
        timeout: Option<&Bound<'py, PyAny>>,
        priority: i32,
    ) -> PyResult<Py<PyAny>> {
        let terms = slf.get().core()?.terms(timeout, priority)?;
        let (_, result) = Self::start_map(slf, func, iterable, chunksize, None, None, star, terms)?;
        let result = result.cast_into::<AsyncResult>()?;
        AsyncResult::get_value(&result, None)
    }

    /// Begins a lazy map; returns the iterator over its results.
    #[pyo3(signature = (func, iterable, chunksize, buffersize, ordered, star, timeout, priority))]
    #[allow(clippy::too_many_arguments)]
    fn _imap<'py>(
        slf: &Bound<'py, Self>,
        func: &Bound<'py, PyAny>,
        iterable: &Bound<'py, PyAny>,
        chunksize: u32,
        buffersize: Option<u64>,
        ordered: bool,
        star: bool,
        timeout: Option<&Bound<'py, PyAny>>,
        priority: i32,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let core = slf.get().open_core()?;
        let terms = core.terms(timeout, priority)?;
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
        let iterator = crate::results::ImapBase::new(slf.clone().unbind(), job.clone(), fed_by_thread);
        let iterator = iterator.into_object(py, ordered)?;
        core.inner.with(py, |i| i.jobs.push(job.clone()));
        if !fed_by_thread {
            core.pump_job(py, &job);
        }
        core.refuse_if_over(py);
        Ok(iterator)
    }

    /// Cancels all that is queued or running; returns how many calls that were (a map counts as one). The pool goes on.
    fn cancel(slf: &Bound<'_, Self>) -> PyResult<usize> {
        let core = slf.get().core()?;
        Ok(core.cancel_all(slf.py(), slf, true))
    }

    /// Cancels all that no worker has begun; returns how many calls that were.
    fn _cancel_queued(slf: &Bound<'_, Self>) -> PyResult<usize> {
        let core = slf.get().core()?;
        Ok(core.cancel_all(slf.py(), slf, false))
    }

    /// A result that Python code will give: see `ApplyResult._fulfil`. `canceller` is called to cancel it. `many` if it is
    /// that of a map.
    #[pyo3(signature = (callback, error_callback, canceller, many))]
    fn _promise<'py>(
        slf: &Bound<'py, Self>,
        callback: Option<Py<PyAny>>,
        error_callback: Option<Py<PyAny>>,
        canceller: Py<PyAny>,
        many: bool,
    ) -> PyResult<Bound<'py, AsyncResult>> {
        let py = slf.py();
        let core = slf.get().open_core()?;
        let calls = Some(Box::new(Calls {
            callback,
            error_callback,
            listeners: Vec::new(),
        }));
        let result = AsyncResult::promised(py, slf.clone().unbind(), calls, many)?;
        result.get().set_canceller(py, canceller);
        core.inner.with(py, |i| i.callbacks_outstanding += 1);
        core.see_to_helper(py, slf);
        Ok(result)
    }

    /// Takes no more work.
    fn _close(&self) -> PyResult<()> {
        if let Some(core) = self.core.get() {
            core.accepting.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Ends everything at once: results that are not there yet fail. At the interpreter's end nobody is told, for
    /// nobody is left but daemon threads, whose errors would be noise.
    #[pyo3(signature = (at_exit=false))]
    fn _terminate(slf: &Bound<'_, Self>, at_exit: bool) -> PyResult<()> {
        let py = slf.py();
        let Some(core) = slf.get().core.get() else {
            return Ok(());
        };
        if core.generation != generation() {
            return Ok(());
        }
        core.accepting.store(false, Ordering::Relaxed);
        core.exiting.fetch_or(at_exit, Ordering::Relaxed);
        let first = core.over.with(py, |o| {
            if matches!(o, Over::No) {
                *o = Over::Terminated;
                return true;
            }
            false
        });
        core.inner
            .with(py, |i| i.dispatcher.set_stage(Stage::Terminating));
        core.tell(order::TERMINATE);
        if first && !at_exit {
            core.fail_everything(py);
            // The helper may have ended when it saw that the pool is over, before all of this was due.
            core.see_to_helper(py, slf);
        }
        core.wait_for_supervisor(py, Some(Duration::from_secs(5)))?;
        core.waiter.wake_all();
        if at_exit {
            core.park_waiters(py);
        }
        Ok(())
    }

    /// Waits until all work is done and all processes have ended. The pool must be closed or terminated.
    fn _join(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let Some(core) = slf.get().core.get() else {
            return Ok(());
        };
        if core.generation != generation() {
            // A forked child: there is nothing of its own to wait for.
            return Ok(());
        }
        let over = |py: Python<'_>| core.over.with(py, |o| !matches!(o, Over::No));
        // Whoever joins wants all work done; bounds on iterators that nobody reads meanwhile would prevent that.
        core.lift_bounds(py);
        core.wait_until(py, slf, None, None, |py| over(py) || core.is_drained(py))?;
        if !over(py) {
            core.inner.with(py, |i| i.dispatcher.set_stage(Stage::Finishing));
            core.channel.wake_all_workers();
            core.tell(order::LOOK);
        }
        core.wait_for_supervisor(py, None)?;
        // Those who wait for the helper's work have had it; it goes by itself.
        core.waiter.wake_all();
        Ok(())
    }

    /// The error of a pool that can have no workers, or `None`.
    fn _breakage(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let text = self.core()?.inner.with(py, |i| i.dispatcher.broken());
        let error = |text| errors(py, "worker_init_error", (py.None(), py.None(), py.None(), text));
        Ok(text.map(|text| error(text).into_value(py).into_any()))
    }

    /// Whether the pool's processes are gone.
    fn _is_over(&self) -> bool {
        self.core
            .get()
            .is_none_or(|c| c.generation != generation() || c.waiter.lines().is_none())
    }

    /// Waits for the next callback that is due: what to call, with what, and whom to tell. `None` when the helper
    /// thread, which asks, is not needed any more.
    fn _next_due<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<DueParts<'py>>> {
        let py = slf.py();
        let core = slf.get().core()?;
        let Some(due) = core.next_due(py, slf) else {
            return Ok(None);
        };
        let (callback, argument, task_error) = match &due {
            Due::One(result) => result.get().due_call(py),
            Due::Job(job) => due_job_call(py, core, job),
            Due::Wake(_) => (None, None, None),
        };
        let token = DueCall {
            pool: slf.clone().unbind(),
            due,
            task_error,
        };
        Ok(Some((callback, argument, Bound::new(py, token)?)))
    }

    /// Puts bytes into the pool's shared memory, for its supervisor to read; returns (block, length).
    fn _stash(&self, data: &[u8]) -> PyResult<(u32, usize)> {
        let core = self.core()?;
        match core.place_always(data) {
            Ok(block) => Ok((block.raw(), data.len())),
            Err(e) => Err(e.into_py()),
        }
    }
}

type DueParts<'py> = (Option<Py<PyAny>>, Option<Py<PyAny>>, Bound<'py, DueCall>);

/// A callback that the helper thread runs; it is told how that went.
#[pyclass(frozen, module = "procession._native")]
pub struct DueCall {
    pool: Py<PoolBase>,
    due: Due,
    task_error: Option<PyErr>,
}

#[pymethods]
impl DueCall {
    /// What the task has written, if that is kept and anything was.
    #[getter]
    fn output(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        match &self.due {
            Due::One(result) => result.get().written(py),
            Due::Job(_) | Due::Wake(_) => None,
        }
    }

    /// The callback has returned, or raised this.
    #[pyo3(signature = (error=None))]
    fn done(&self, py: Python<'_>, error: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        // A callback that raises is heard of: `get` raises what it raised.
        let raised = error.map(PyErr::from_value);
        if let (Some(raised), Some(task_error)) = (&raised, &self.task_error) {
            crate::results::in_context_of(py, raised, task_error);
        }
        let listeners = match &self.due {
            Due::One(result) => result.get().calls_are_done(py, raised),
            Due::Job(job) => job.state.with(py, |j| {
                if let Some(raised) = raised {
                    j.fail_whole(raised);
                }
                j.calls_running = false;
                std::mem::take(&mut j.listeners)
            }),
            Due::Wake(listeners) => listeners.iter().map(|l| l.clone_ref(py)).collect(),
        };
        self.pool.get().core()?.due_is_done(py);
        for listener in listeners {
            if let Err(e) = listener.call0(py) {
                e.write_unraisable(py, Some(listener.bind(py)));
            }
        }
        Ok(())
    }
}

impl PoolBase {
    #[allow(clippy::too_many_arguments)]
    fn submit_call<'py>(
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

    #[allow(clippy::too_many_arguments, clippy::type_complexity)]
    fn start_map<'py>(
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
                let n: i64 = c.extract().map_err(|_| {
                    PyTypeError::new_err(format!(
                        "chunksize must be an integer or None, not {}",
                        type_name(c)
                    ))
                })?;
                Some(n)
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
}
