//! The methods that Python sees.

use pyo3::{PyTraverseError, PyVisit};

use super::due::{DueCall, DueParts};
use super::*;
use crate::fork::{fork_supervisor, AfterFork, Line};
use crate::worker::WorkerSeat;

#[pymethods]
impl PoolBase {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        PoolBase {
            core: OnceLock::new(),
        }
    }

    /// The functions that it knows lead to the variables of their modules, of which the pool itself may be one.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(core) = self.core.get() {
            // SAFETY: the collector runs with the GIL held and while nobody is inside `with`, since no Python code and no
            // allocation that the collector tracks happens there.
            for known in unsafe { &core.inner.peek().known } {
                visit.call(&known.function)?;
            }
        }
        Ok(())
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
        let dispatcher = Dispatcher::new(channel.clone()).map_err(os_error)?;
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
        *core.parent_end() = Some(ours);
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
        let control = core.parent_end().take();
        let control =
            control.ok_or_else(|| PyRuntimeError::new_err("the pool has no line to its supervisor"))?;
        core.waiter
            .set_lines(Some(Arc::new(Lines { control, supervisor })));
        Ok(())
    }

    /// Forks the supervisor, in which these descriptors are not the caller's any more. Returns `None` in the caller, and in
    /// each worker its seat and a descriptor of the caller's pidfd.
    fn _fork_supervisor(
        &self,
        py: Python<'_>,
        mut callers_own: Vec<RawFd>,
    ) -> PyResult<Option<(WorkerSeat, RawFd)>> {
        let core = self.core()?;
        let (memory, results, control, caller) = self._line()?;
        // A supervisor that held the caller's end of its line would never hear that the caller has closed it.
        callers_own.extend(core.parent_end().as_ref().map(AsRawFd::as_raw_fd));
        let line = Line {
            memory,
            results,
            control,
            caller,
        };
        match fork_supervisor(py, line, &callers_own)? {
            AfterFork::Caller(pid) => self._launched(pid, None).map(|()| None),
            AfterFork::Worker(seat, sentinel) => {
                // The pool is the caller's: the generation says so.
                core.parent_end().take();
                Ok(Some((seat, sentinel)))
            }
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
        let terms = slf.get().open_core()?.terms(timeout, priority)?;
        Self::start_imap(slf, func, iterable, chunksize, buffersize, ordered, star, terms)
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
    /// that of a map. `begun` if it belongs to what was begun before the pool was closed.
    #[pyo3(signature = (callback, error_callback, canceller, many, begun=false))]
    fn _promise<'py>(
        slf: &Bound<'py, Self>,
        callback: Option<Py<PyAny>>,
        error_callback: Option<Py<PyAny>>,
        canceller: Py<PyAny>,
        many: bool,
        begun: bool,
    ) -> PyResult<Bound<'py, AsyncResult>> {
        let py = slf.py();
        let core = if begun {
            slf.get().core()?
        } else {
            slf.get().open_core()?
        };
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
        match slf.get().core.get() {
            Some(core) if core.generation == generation() => core.terminate(slf.py(), slf, at_exit),
            _ => Ok(()),
        }
    }

    /// Waits until all work is done and all processes have ended. The pool must be closed or terminated.
    fn _join(slf: &Bound<'_, Self>) -> PyResult<()> {
        match slf.get().core.get() {
            Some(core) if core.generation == generation() => core.join(slf.py(), slf),
            // In a forked child there is nothing of its own to wait for.
            _ => Ok(()),
        }
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
