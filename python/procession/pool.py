"""Pools of worker processes that cannot hang.

`Pool` has every method of `multiprocessing.pool.Pool`, with its signatures and its words. What differs is what happens
when something goes wrong: a worker that dies costs exactly the task it was running, whose result raises `WorkerDied`.
How it works is told in the project's ARCHITECTURE.md.
"""

import operator
import os
import signal
import threading
import warnings
import weakref
from multiprocessing import pool as _stdlib_pool
from multiprocessing import process as _process
from multiprocessing import util as _util
from multiprocessing.pool import (
    CLOSE,
    INIT,
    RUN,
    TERMINATE,
    ExceptionWithTraceback,
    MaybeEncodingError,
    RemoteTraceback,
    ThreadPool,
    mapstar,
    starmapstar,
)

from . import _by_value, _limits, _native, _output, _retry, _start
from ._native import ApplyResult, IMapIterator, IMapUnorderedIterator, MapResult
from ._retry import retry_of

__all__ = ["Pool", "ThreadPool"]

AsyncResult = ApplyResult

_MOST_SECONDS = (2**32 - 1) // 1000
_MOST_PROCESSES = 2040
_MOST_ITEMS = 2**31 - 1


class Pool(_native.PoolBase, _stdlib_pool.Pool):
    """A pool of worker processes.

    Args:
        processes: how many workers; as many as the CPUs this process may use if None. In a task of another pool that is the
            share of its worker, so that pools in pools do not multiply.
        initializer: called once in each worker before its first task, with `initargs`. If it raises, the pool is broken:
            everyone who waits for a result, now or later, gets `WorkerInitError` with the traceback.
        initargs: the arguments of `initializer`.
        maxtasksperchild: tasks after which a worker is replaced by a fresh one; never if None.
        context: a context whose start method is used; the default one if None.
        timeout: seconds that one task may run, counted from its beginning. Then its worker is killed, its result raises
            `TaskTimeout`, and all others go on. None for no limit. Each call may have a `timeout` of its own.
        memory_limit: bytes of memory of its own that a worker may have, also in the midst of a task: as an int, or a text
            such as `"500M"` or `"1.5G"`. Then the worker is killed, and its task's result raises `MemoryLimitExceeded`.
            What it inherited by a fork, and shared memory, do not count. None for no limit.
        retries: how often a task is tried again whose worker died, that ran too long or took too much memory; or a `Retry`,
            which also says after which pause and which other errors count. Each call may have `retries` of its own. A task
            that kills its worker each time raises `PoisonTask` at last.
        cpu_affinity: the numbers of the CPUs on which workers run, one for each in turn; True for all that this process
            may use. None lets the system choose.
        threads_per_worker: how many threads numeric libraries (OpenMP, OpenBLAS, MKL, …) may use in each worker. By
            default the CPUs are divided among the workers, unless the environment says otherwise. None for no limit.
        recycle_memory: bytes of memory of its own with which a worker is replaced after its task, for tasks that leak.
        output: what becomes of what tasks write to their standard output and error. `"inherit"`: it goes where this process
            writes. `"lines"`: the same in whole lines, each labelled with its worker's name. `"capture"`: it is kept, also
            what C code and started programs write; results and errors have it in their attribute `output`.
        relay_logging: whether the records that tasks log by `logging` are handled in the process that made the pool, by its
            handlers, instead of in the workers. A thread does that, and ends with the pool.

    Raises:
        ValueError, TypeError: an argument is not what it should be.
        OSError: the system has no descriptor, memory or process left.

    Example:
        >>> import procession as mp
        >>> with mp.Pool(2) as pool:
        ...     pool.map(abs, [-1, -2])
        [1, 2]
    """

    # For objects that were never initialized, which have a `__del__` all the same.
    _state = INIT
    _relay = None
    # The thread that calls callbacks.
    _helper = None

    @staticmethod
    def Process(ctx, *args, **kwds):
        """Returns a process of that context, as multiprocessing's `Pool` does; our workers are not made of it."""
        return ctx.Process(*args, **kwds)

    def __init__(
        self,
        processes=None,
        initializer=None,
        initargs=(),
        maxtasksperchild=None,
        context=None,
        *,
        timeout=None,
        memory_limit=None,
        recycle_memory=None,
        retries=None,
        cpu_affinity=None,
        threads_per_worker="auto",
        output="inherit",
        relay_logging=False,
    ):
        # What `__del__` and `__repr__` look at exists from the beginning, whatever fails below.
        self._state = INIT
        self._processes = 0
        timeout_ms, memory_limit, recycle_memory = self._take_arguments(
            processes,
            initializer,
            initargs,
            maxtasksperchild,
            context,
            timeout=timeout,
            memory_limit=memory_limit,
            recycle_memory=recycle_memory,
            retries=retries,
            cpu_affinity=cpu_affinity,
            threads_per_worker=threads_per_worker,
            output=output,
        )
        processes, context = self._processes, self._ctx
        self._promises = set()
        self._retrying_iterators = weakref.WeakSet()
        method = context.get_start_method()
        first_number = next(_process._process_counter)
        for _ in range(processes - 1):
            next(_process._process_counter)
        self._open(
            processes,
            self._maxtasksperchild or 0,
            timeout_ms,
            memory_limit,
            recycle_memory,
            output == "capture",
            _start.WORKER_PREFIXES[method],
            first_number,
            method,
        )
        self._set_retrying(self._retry.times > 0)
        self._start_method = method
        self._first_number = first_number
        if relay_logging:
            from ._logging import Relay

            self._relay = Relay(context)
        self._lines_lock = context.Lock() if output == "lines" else None
        _by_value.note_pool(self)
        self._launch()
        if self._relay is not None:
            self._relay.start()
        # At exit pools end before the processes that other modules join.
        self._finalizer = _util.Finalize(self, _terminate_at_exit, args=(weakref.ref(self),), exitpriority=15)
        self._owner_pid = os.getpid()
        self._state = RUN

    def _take_arguments(
        self,
        processes,
        initializer,
        initargs,
        maxtasksperchild,
        context,
        *,
        timeout=None,
        memory_limit=None,
        recycle_memory=None,
        retries=None,
        cpu_affinity=None,
        threads_per_worker="auto",
        output="inherit",
    ):
        """Notes how the pool is to be, and refuses what makes no sense; nothing is opened or started yet."""
        if context is None:
            from .context import _default_context

            context = _default_context.get_context()
        self._ctx = context
        if processes is None:
            processes = _limits.usable_cpus()
        if processes < 1:
            raise ValueError("Number of processes must be at least 1")
        if maxtasksperchild is not None:
            if not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0:
                raise ValueError("maxtasksperchild must be a positive int or None")
            # Beyond what the books can count it is no limit.
            maxtasksperchild = maxtasksperchild if maxtasksperchild < 2**63 else None
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        timeout_ms = 0
        if timeout is not None:
            if not isinstance(timeout, (int, float)):
                raise TypeError(f"timeout must be a number of seconds or None, not {type(timeout).__name__}")
            if not timeout > 0:
                raise ValueError("timeout must be a positive number of seconds or None")
            # Beyond some weeks it is no limit.
            timeout_ms = max(1, round(timeout * 1000)) if timeout < _MOST_SECONDS else 0

        self._retry = retry_of(retries)
        self._cpus = _limits.cpus_of(cpu_affinity)
        self._threads_per_worker = _limits.threads_of(threads_per_worker, processes)
        if output not in _output.MODES:
            raise ValueError(f"output must be one of {', '.join(map(repr, _output.MODES))}, not {output!r}")
        self._output = output
        memory_limit = _limits.bytes_of("memory_limit", memory_limit)
        recycle_memory = _limits.bytes_of("recycle_memory", recycle_memory)
        processes = operator.index(processes)
        if processes > _MOST_PROCESSES:
            raise ValueError(f"Number of processes must be at most {_MOST_PROCESSES}, not {processes}")
        self._processes = processes
        self._maxtasksperchild = maxtasksperchild
        self._initializer = initializer
        self._initargs = initargs
        self._timeout_seconds = timeout
        return timeout_ms, memory_limit, recycle_memory

    def _launch(self):
        _start.LAUNCHERS[self._start_method](self)

    def _start_helper(self):
        # Known before it runs, as its first callback may ask for it.
        self._helper = threading.Thread(target=_attend, args=(self,), name="procession-pool-helper", daemon=True)
        try:
            self._helper.start()
        except BaseException:
            self._helper = None
            raise

    def _is_in_callback(self):
        return self._helper is threading.current_thread()

    def _check_running(self):
        if self._state != RUN:
            raise ValueError("Pool not running")

    def __repr__(self):
        return (
            f"<multiprocessing.pool.{type(self).__qualname__} state={self._state} pool_size={len(self._pool)}>"
            if type(self) is Pool
            else f"<{type(self).__module__}.{type(self).__qualname__} state={self._state} pool_size={len(self._pool)}>"
        )

    def __reduce__(self):
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def __enter__(self):
        self._check_running()
        return self

    def __exit__(self, exc_type, exc_val, exc_tb):
        self.terminate()

    def __del__(self, _warn=warnings.warn, _run=RUN, _getpid=os.getpid):
        # A forked child's copy is nobody's.
        if self._state == _run and self._owner_pid == _getpid():
            _warn(f"unclosed running multiprocessing pool {self!r}", ResourceWarning, source=self)
            self.terminate()

    @property
    def _pool(self):
        # Private in multiprocessing, and read by many: the workers, each with a pid, a name, an exit code.
        if self._state == INIT:
            return []
        if self._is_over():
            return []
        # A worker that is just being forked has a seat and no pid yet; to the kernel, 0 would mean our own process group.
        seats = {number: (pid or None, stage) for number, pid, stage in self._seats()}
        missing = max(0, self._processes - len(seats))
        workers = [_Worker(self, number, *seats[number]) for number in sorted(seats)]
        # A worker that is being started counts, as a process object does in multiprocessing.
        return workers + [_Worker(self, None, None, "starting") for _ in range(missing)]

    def _retrying(self, func, args, kwds, calls, timeout, priority, retries):
        retry = self._retry if retries is None else retry_of(retries)
        if retry.times == 0:
            return self._attempt(func, args, kwds, *calls, timeout, priority)
        return _retry.apply_async(self, (func, args, kwds), calls, (timeout, priority), retry)

    def _retry_for(self, retries):
        # None if nothing is tried again, which is the fast way.
        retry = self._retry if retries is None else retry_of(retries)
        return retry if retry.times else None

    def map(self, func, iterable, chunksize=None, *, timeout=None, priority=0, retries=None, progress=None):
        """Calls `func` on each item in the workers; returns the list of results in the order of the items.

        Without `chunksize`, items are sent in batches whose size follows from how long they take. If a call raises, so
        does this, when all others are done. `timeout`, `priority` and `retries` (all for each item) are as in
        `apply_async`; items that may be tried again are sent singly.

        `progress=True` shows how far it is, by tqdm if that is installed; a function is called instead with the number of
        items done and their total.
        """
        if progress:
            return self._follow(func, iterable, chunksize, False, timeout, priority, retries, progress)
        if self._retry_for(retries) is not None:
            return self._begin_map(func, iterable, chunksize, None, None, False, timeout, priority, retries).get()
        return self._map(func, iterable, chunksize, False, timeout, priority)

    def starmap(self, func, iterable, chunksize=None, *, timeout=None, priority=0, retries=None, progress=None):
        """Like `map`, but each item is a sequence of arguments: `[(1, 2), (3, 4)]` gives `[func(1, 2), func(3, 4)]`."""
        if progress:
            return self._follow(func, iterable, chunksize, True, timeout, priority, retries, progress)
        if self._retry_for(retries) is not None:
            return self._begin_map(func, iterable, chunksize, None, None, True, timeout, priority, retries).get()
        return self._map(func, iterable, chunksize, True, timeout, priority)

    def map_async(
        self,
        func,
        iterable,
        chunksize=None,
        callback=None,
        error_callback=None,
        *,
        timeout=None,
        priority=0,
        retries=None,
    ):
        """Like `map`, but returns a `MapResult` at once."""
        return self._begin_map(func, iterable, chunksize, callback, error_callback, False, timeout, priority, retries)

    def starmap_async(
        self,
        func,
        iterable,
        chunksize=None,
        callback=None,
        error_callback=None,
        *,
        timeout=None,
        priority=0,
        retries=None,
    ):
        """Like `starmap`, but returns a `MapResult` at once."""
        return self._begin_map(func, iterable, chunksize, callback, error_callback, True, timeout, priority, retries)

    def _begin_map(self, func, iterable, chunksize, callback, error_callback, star, timeout, priority, retries):
        retry = self._retry_for(retries)
        if retry is None:
            return self._map_async(func, iterable, chunksize, callback, error_callback, star, timeout, priority)
        self._check_running()
        calls = (callback, error_callback)
        return _retry.map_async(self, func, iterable, star, calls, (timeout, priority), retry)

    def _follow(self, func, iterable, chunksize, star, timeout, priority, retries, progress):
        from ._insight import follow

        retry = self._retry_for(retries)
        if retry is None:
            result = self._map_async(func, iterable, chunksize, None, None, star, timeout, priority)
            state = result._progress
        else:
            self._check_running()
            result, state = _retry.map_with_progress(self, func, iterable, star, (timeout, priority), retry)
        return follow(result, state, progress, getattr(func, "__name__", None))

    def imap(
        self,
        func,
        iterable,
        chunksize=1,
        *,
        buffersize=None,
        timeout=None,
        priority=0,
        retries=None,
        progress=None,
    ):
        """Returns an iterator over the results, in the order of the items, each as soon as it is there.

        Items are pulled from `iterable` as they are needed: at most `buffersize` are being worked on or wait to be
        taken, 128 for each worker if it is None. A source that is not one of Python's own containers is pulled in a
        thread of its own, so it may block. `timeout`, `priority`, `retries` and `progress` are as in `map`; if items may be
        tried again, they are pulled when a result is asked for.
        """
        return self._lazily(func, iterable, chunksize, buffersize, True, timeout, priority, retries, progress)

    def imap_unordered(
        self,
        func,
        iterable,
        chunksize=1,
        *,
        buffersize=None,
        timeout=None,
        priority=0,
        retries=None,
        progress=None,
    ):
        """Like `imap`, but gives results out in the order in which they arrive."""
        return self._lazily(func, iterable, chunksize, buffersize, False, timeout, priority, retries, progress)

    def _lazily(self, func, iterable, chunksize, buffersize, ordered, timeout, priority, retries, progress):
        self._check_running()
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize:n}")
        if buffersize is not None:
            if not isinstance(buffersize, int):
                raise TypeError("buffersize must be an integer or None")
            if buffersize < 1:
                raise ValueError("buffersize must be None or > 0")
            buffersize = min(buffersize, _MOST_ITEMS)
        chunksize = min(operator.index(chunksize), _MOST_ITEMS)
        retry = self._retry_for(retries)
        if retry is not None:
            buffersize = buffersize or 128 * self._processes
            terms = (timeout, priority)
            iterator = _retry.RetryingIterator(self, func, iterable, buffersize, ordered, terms, retry)
            return _with_progress(iterator, progress, func, iterable)
        iterator = self._imap(func, iterable, chunksize, buffersize, ordered, False, timeout, priority)
        feeder = iterator._feeder()
        if feeder is not None:
            threading.Thread(target=_feed, args=(feeder,), name="procession-imap-feeder", daemon=True).start()
        iterator = _with_progress(iterator, progress, func, iterable)
        # As in multiprocessing, results of chunks come from a generator, which an error ends.
        return iterator if chunksize == 1 else (result for result in iterator)

    def stats(self):
        """Returns a `PoolStats`: where the pool's time has gone, function by function, with hints what could be done better.

        Costs nothing worth mentioning, before or now: counts are kept in any case, and only some tasks are timed.
        """
        from ._insight import stats_of

        return stats_of(self)

    def events(self):
        """Returns `Events`: an iterator over what happens in the pool from now on, tasks begun and done, workers come and gone.

        Read it in a thread of its own, or by its `next(timeout)`. The pool never waits for a reader.
        """
        from ._insight import Events

        return Events(self._events())

    def close(self):
        """Takes no more work; workers end when all is done and `join` is called."""
        if self._state == RUN:
            self._state = CLOSE
            self._close()

    def terminate(self):
        """Ends all workers at once. Results that are not there yet raise `PoolTerminated`.

        May be called at any time from any thread, a callback included, and again.
        """
        self._state = TERMINATE
        self._terminate()
        _retry.end_all(self)
        self._end_relay(in_full=False)

    def join(self):
        """Waits until all work is done and all workers have ended. Call `close` or `terminate` first."""
        if self._state == RUN:
            raise ValueError("Pool is still running")
        if self._state not in (CLOSE, TERMINATE):
            raise ValueError("In unknown state")
        if self._state == CLOSE:
            if self._is_in_callback():
                raise RuntimeError("cannot join current thread: a callback cannot wait for its own end; join elsewhere")
            _retry.pull_all(self)
        self._join()
        self._end_relay(in_full=self._state == CLOSE)

    def _end_relay(self, in_full):
        if self._relay is not None:
            self._relay.end(in_full)


class _Worker:
    """A worker as the caller sees it, for those who look into `Pool._pool`."""

    __slots__ = ("_pool_reference", "_number", "pid", "_stage")

    daemon = True

    def __init__(self, pool, number, pid, stage):
        self._pool_reference = weakref.ref(pool)
        self._number = number
        self.pid = pid
        self._stage = stage

    @property
    def ident(self):
        return self.pid

    @property
    def name(self):
        pool = self._pool_reference()
        if pool is None or self._number is None:
            return "PoolWorker"
        return f"{_start.WORKER_PREFIXES[pool._start_method]}PoolWorker-{pool._first_number + self._number - 1}"

    @property
    def exitcode(self):
        return None if self.is_alive() else 0

    def is_alive(self):
        if self.pid is None:
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def join(self, timeout=None):
        if self.pid is None:
            return
        from multiprocessing.connection import wait

        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            wait([descriptor], timeout)
        finally:
            os.close(descriptor)

    def terminate(self):
        self._signal(signal.SIGTERM)

    def kill(self):
        self._signal(signal.SIGKILL)

    def _signal(self, number):
        if self.pid is not None:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass

    def __repr__(self):
        return f"<{self.name} pid={self.pid} {self._stage} daemon>"


def _with_progress(iterator, progress, func, iterable):
    if not progress:
        return iterator
    from ._insight import ProgressIterator

    total = operator.length_hint(iterable, 0) or None
    return ProgressIterator(iterator, progress, total, getattr(func, "__name__", None))


def _attend(pool):
    # Callbacks are called from here and not from the native module, so that none of its frames is on the stack of a
    # thread that the interpreter's end may find inside a callback.
    while True:
        due = pool._next_due()
        if due is None:
            return
        callback, argument, call = due
        error = None
        if callback is not None:
            try:
                if getattr(callback, "takes_output", False):
                    callback(argument, call.output)
                else:
                    callback(argument)
            except BaseException as raised:
                error = raised
        call.done(error)
        del due, callback, argument, call, error


def _feed(feeder):
    try:
        for item in feeder.source:
            if not feeder.put(item):
                return
    except BaseException as error:
        feeder.end(error)
    else:
        feeder.end()


def _terminate_at_exit(reference):
    pool = reference()
    if pool is not None:
        pool._state = TERMINATE
        pool._terminate(at_exit=True)
        pool._end_relay(in_full=False)
