"""Pools as executors of `concurrent.futures`.

`ProcessPoolExecutor` has every method and argument of the standard library's, and its futures are
`concurrent.futures.Future` objects. What differs is what happens when a worker dies: only the future that it was running
fails, and the executor goes on. The error is a `WorkerDied` and a `BrokenProcessPool`, so both kinds of programs catch it.
"""

import itertools
import threading
import time
import weakref
from collections import deque
from concurrent.futures import Executor, InvalidStateError, TimeoutError, _base
from concurrent.futures import Future as _StdlibFuture
from concurrent.futures.process import BrokenProcessPool, _RemoteTraceback

from . import _limits, errors
from ._worker import initialize_executor
from .context import _default_context, _ours

__all__ = ["BrokenProcessPool", "Future", "ProcessPoolExecutor"]


class WorkerDied(errors.WorkerDied, BrokenProcessPool):
    """The worker that was running this future ended before it did. Only this future is lost."""


class PoisonTask(errors.PoisonTask, BrokenProcessPool):
    """Each attempt at this future killed its worker, so it is not tried again."""


class WorkerInitError(errors.WorkerInitError, BrokenProcessPool):
    """No worker of the executor can start."""


class ResultDecodeError(errors.ResultDecodeError, BrokenProcessPool):
    """What this future's call returned or raised arrived but could not be rebuilt. Only this future is lost."""


_BROKEN = {
    errors.WorkerDied: WorkerDied,
    errors.PoisonTask: PoisonTask,
    errors.WorkerInitError: WorkerInitError,
    errors.ResultDecodeError: ResultDecodeError,
}


def _as_futures_have_it(error):
    kind = _BROKEN.get(type(error))
    if kind is not None:
        twin = kind(*error.args)
        vars(twin).update(vars(error))
        twin.__cause__ = error.__cause__
        return twin
    from multiprocessing.pool import MaybeEncodingError, RemoteTraceback

    if type(error.__cause__) is RemoteTraceback:
        error.__cause__ = _RemoteTraceback(error.__cause__.tb)
    if type(error) is MaybeEncodingError and getattr(error, "_raised", None) is not None:
        # There it is what pickling raised; which value it was, the cause tells.
        error._raised.__cause__ = error
        return error._raised
    return error


class Future(_StdlibFuture):
    """A future of `ProcessPoolExecutor`, which can also cancel what is running."""

    def __init__(self):
        super().__init__()
        self._task = None

    def cancel(self, running=False):
        """Cancels the call if no worker has begun it; with `running=True` also if one has, which is then killed.

        Returns whether the future is cancelled.
        """
        task = self._task
        if task is not None and not self.done() and (task.cancel() if running else task._cancel_queued()):
            self._finish_cancel()
        return self.cancelled()

    def running(self):
        """Whether a worker is running the call."""
        task = self._task
        return super().running() or (not self.done() and task is not None and task._is_running())

    # Callbacks are called in here, and must find the condition free: others wait for the result meanwhile.

    def _finish_cancel(self):
        super().cancel()
        with self._condition:
            if self._state == _base.CANCELLED:
                self.set_running_or_notify_cancel()
        self._task = None

    def _succeeded(self, value):
        try:
            self.set_result(value)
        except InvalidStateError:
            # It was cancelled meanwhile.
            pass
        self._task = None

    def _failed(self, error):
        if isinstance(error, errors.TaskCancelled):
            return self._finish_cancel()
        try:
            self.set_exception(_as_futures_have_it(error))
        except InvalidStateError:
            pass
        self._task = None


# Who asks for the pids of workers right after the first call waits for their forks, as `submit` itself does there.
_MOST_SECONDS_TO_FORK = 10.0

_open_executors = weakref.WeakSet()
_is_exiting = False


def _at_exit():
    # As in the standard library, the interpreter ends when the futures are done.
    global _is_exiting
    _is_exiting = True
    for executor in list(_open_executors):
        executor.shutdown(wait=True)


threading._register_atexit(_at_exit)


class ProcessPoolExecutor(Executor):
    """An executor whose calls run in worker processes, and which survives their deaths.

    Args:
        max_workers: how many workers; as many as the CPUs this process may use if None.
        mp_context: a context of procession or multiprocessing, for its start method; the default one if None.
        initializer: called once in each worker with `initargs`. If it raises, all futures raise `BrokenProcessPool`.
        initargs: the arguments of `initializer`.
        max_tasks_per_child: calls after which a worker is replaced by a fresh one. As in the standard library this goes with
            `spawn`, which is then the default, and with `forkserver`; `options` has `recycle_memory` for any start method.
        options: what else `Pool` takes, such as `timeout`, `retries` or `memory_limit`.

    Example:
        >>> import procession as mp
        >>> if __name__ == "__main__":
        ...     with mp.ProcessPoolExecutor(2) as executor:
        ...         executor.submit(pow, 2, 10).result()
        1024
    """

    def __init__(
        self, max_workers=None, mp_context=None, initializer=None, initargs=(), *, max_tasks_per_child=None, **options
    ):
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if max_tasks_per_child is not None:
            if not isinstance(max_tasks_per_child, int):
                raise TypeError("max_tasks_per_child must be an integer")
            if max_tasks_per_child <= 0:
                raise ValueError("max_tasks_per_child must be >= 1")
        if mp_context is None:
            mp_context = _default_context.get_context(None if max_tasks_per_child is None else "spawn")
        if max_tasks_per_child is not None and mp_context.get_start_method() == "fork":
            raise ValueError(
                "max_tasks_per_child is incompatible with the 'fork' multiprocessing start method; "
                "supply a different mp_context."
            )
        self._context = _ours(mp_context)
        from .pool import Pool

        # Workers start later, but what is wrong with the arguments is told here.
        known = Pool.__init__.__kwdefaults__
        for name in options:
            if name not in known:
                raise TypeError(f"ProcessPoolExecutor.__init__() got an unexpected keyword argument {name!r}")
        checked = {name: value for name, value in options.items() if name != "relay_logging"}
        Pool.__new__(Pool)._take_arguments(
            max_workers, initializer, initargs, max_tasks_per_child, self._context, **checked
        )
        if initializer is not None:
            initializer, initargs = initialize_executor, (initializer, *initargs)
        self._arguments = (max_workers, initializer, initargs, max_tasks_per_child)
        self._options = options
        self._lock = threading.Lock()
        self._pool = None
        self._is_shut_down = False
        # The thread that waits for the workers' end, after a shutdown that did not.
        self._ending = None

    # Private in the standard library, and read by many: to cut work into as many parts as there are workers.
    @property
    def _max_workers(self):
        return self._arguments[0] or _limits.usable_cpus()

    @property
    def _mp_context(self):
        return self._context

    @property
    def _processes(self):
        # Read to watch or to stop the workers: by pid, so none is told of before it has one.
        if self._is_shut_down:
            return None
        pool = self._pool
        end = time.monotonic() + _MOST_SECONDS_TO_FORK
        while pool is not None:
            workers = pool._pool
            if None not in [worker.pid for worker in workers] or time.monotonic() > end:
                return {worker.pid: worker for worker in workers if worker.pid is not None}
            time.sleep(0.001)
        return {}

    @property
    def _broken(self):
        pool = self._pool
        error = None if pool is None else pool._breakage()
        return False if error is None else str(error)

    @property
    def _shutdown_thread(self):
        return self._is_shut_down

    def _opened(self):
        # Workers start with the first call, as in the standard library: they see what there is then.
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if _is_exiting:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        if self._pool is None:
            from .pool import Pool

            self._pool = Pool(*self._arguments, context=self._context, **self._options)
            _open_executors.add(self)
        error = self._pool._breakage()
        if error is not None:
            raise _as_futures_have_it(error)
        return self._pool

    def submit(self, fn, /, *args, **kwargs):
        """Calls `fn(*args, **kwargs)` in a worker; returns its `Future` at once."""
        future = Future()
        with self._lock:
            pool = self._opened()
            task = pool.apply_async(fn, args, kwargs, future._succeeded, future._failed)
            if not future.done():
                future._task = task
                # It may have come in between.
                if future.done():
                    future._task = None
        return future

    def map(self, fn, *iterables, timeout=None, chunksize=1, buffersize=None):
        """Returns an iterator over `fn(*items)` for the items of all iterables, in their order.

        Args:
            timeout: seconds after which, counted from now, `TimeoutError` is raised if a result is not there.
            chunksize: how many items travel together; left alone, that follows from how long they take.
            buffersize: how many items are being worked on or wait to be taken at most; if None, all are sent at once.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None:
            if not isinstance(buffersize, int):
                raise TypeError("buffersize must be an integer or None")
            if buffersize < 1:
                raise ValueError("buffersize must be None or > 0")
        end = None if timeout is None else time.monotonic() + timeout
        items = zip(*iterables)
        if buffersize is None:
            items = list(items)
            with self._lock:
                pool = self._opened()
                if pool._retry_for(None) is None:
                    most = max(1, len(items))
                    iterator = pool._imap(fn, items, chunksize, most, True, True, None, 0)
                    return _results(iterator, end)
        else:
            with self._lock:
                self._opened()
        waiting = deque(self.submit(fn, *item) for item in itertools.islice(items, buffersize))
        executor = weakref.ref(self)
        return _results_of_futures(executor, fn, items if buffersize is not None else iter(()), waiting, end)

    def shutdown(self, wait=True, *, cancel_futures=False):
        """Takes no more calls. Those that are there are done, unless they are cancelled.

        Args:
            wait: returns only when all futures are done and all workers have ended.
            cancel_futures: cancels the calls that no worker has begun.
        """
        with self._lock:
            self._is_shut_down = True
            pool = self._pool
        if pool is None:
            if wait and self._ending is not None:
                self._ending.join()
            return
        if cancel_futures:
            pool._cancel_queued()
        pool.close()
        # Shared memory and descriptors go with the last of its calls, not with this object.
        self._pool = None
        if wait and not pool._is_in_callback():
            pool.join()
            return
        # The interpreter waits for it at its end, and so for the futures, as in the standard library.
        thread = threading.Thread(target=pool.join, name="procession-executor-shutdown", daemon=False)
        thread.start()
        self._ending = thread
        if wait:
            raise RuntimeError(
                "cannot join current thread: a callback cannot wait for its own end; "
                "the executor takes no more calls, and ends with its last future"
            )

    def __del__(self):
        if self.__dict__.get("_pool") is not None and not self._is_shut_down:
            self.shutdown(wait=False)


class _Exhausted(Exception):
    """There are no more results."""


def _results(iterator, end):
    # Items that no worker has begun are taken back when nobody wants them any more.
    try:
        while True:
            # No variable may hold a result while its reader has it, who may want to be rid of it.
            yield _next_of(iterator, end)
    except _Exhausted:
        pass
    finally:
        iterator._cancel_queued()


def _next_of(iterator, end):
    try:
        return iterator.next(None if end is None else end - time.monotonic())
    except StopIteration:
        raise _Exhausted from None
    except BaseException as error:
        from multiprocessing import TimeoutError as _WaitedTooLong

        if type(error) is _WaitedTooLong and end is not None and time.monotonic() >= end:
            raise TimeoutError from None
        twin = _as_futures_have_it(error)
        if twin is error:
            raise
        raise twin from twin.__cause__


def _results_of_futures(executor, fn, items, waiting, end):
    try:
        while waiting:
            alive = executor()
            for item in itertools.islice(items, 1) if alive is not None else ():
                waiting.append(alive.submit(fn, *item))
            del alive
            future = waiting.popleft()
            try:
                yield future.result(None if end is None else end - time.monotonic())
            finally:
                del future
    finally:
        for future in waiting:
            future.cancel()
