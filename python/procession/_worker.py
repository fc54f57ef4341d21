"""What runs in a pool's supervisor and in its workers."""

import os
import sys
from multiprocessing import process as _process

from . import _limits, _native, _output, _stack

__all__ = ()


# What the initializer returned, in a worker that has one.
_state = []


def worker_state():
    """What the pool's `initializer` returned in this worker: a connection, a model, whatever its tasks share.

    Raises:
        RuntimeError: outside of a pool's worker, or if the pool has no initializer.

    Example:
        >>> import procession as mp
        >>> def load():
        ...     return {"factor": 3}
        >>> def scale(x):
        ...     return mp.worker_state()["factor"] * x
        >>> if __name__ == "__main__":
        ...     with mp.Pool(2, initializer=load) as pool:
        ...         pool.map(scale, [1, 2])
    """
    if not _state:
        raise RuntimeError("worker_state() is for tasks of a pool that has an initializer")
    return _state[-1]


class Settings:
    """What the workers of a pool need to know."""

    def __init__(self, pool):
        self.initializer = pool._initializer
        self.initargs = pool._initargs
        self.cpus = pool._cpus
        self.threads = pool._threads_per_worker
        self.cpu_share = _limits.share_of(pool._processes)
        self.start_method = pool._start_method
        self.first_number = pool._first_number
        self.output, self.lines_lock = pool._output, pool._lines_lock
        self.log_queue = self.log_level = None
        if pool._relay is not None:
            import logging

            self.log_queue, self.log_level = pool._relay.queue, logging.getLogger().level
        caller = _process.current_process()
        self.caller_pid = os.getpid()
        self.caller_name = caller.name
        self.caller_identity = caller._identity
        self.config = {k: v for k, v in caller._config.items() if k != "authkey"}


class PoolWorker(_process.BaseProcess):
    """The current process of a worker, as `current_process()` shows it."""

    def __init__(self, seat, settings, prefix):
        number = settings.first_number + seat.number - 1
        super().__init__(name=f"{prefix}PoolWorker-{number}", daemon=True)
        self._identity = settings.caller_identity + (number,)
        self._parent_pid = settings.caller_pid
        self._parent_name = settings.caller_name
        self._start_method = settings.start_method
        self._seat = seat
        self._settings = settings

    def run(self):
        """Initializes the worker, then runs tasks until there are no more."""
        seat, settings = self._seat, self._settings
        if settings.start_method != "fork":
            _seed_numpy()
        _offer_stack(seat)
        _limits.hold_worker(seat.number, settings.cpus, settings.threads, settings.cpu_share)
        if settings.log_queue is not None:
            from ._logging import send_to

            send_to(settings.log_queue, settings.log_level)
        if settings.initializer is not None:
            if seat.pool_is_broken:
                sys.exit(1)
            try:
                _state.append(settings.initializer(*settings.initargs))
            except BaseException as error:
                seat.end_forked_copy(error)
                import traceback

                seat.report_broken(f"the initializer raised in {self.name}\n\n{traceback.format_exc()}")
                sys.exit(1)
        seat.work(_output.begin(settings.output, self.name, settings.lines_lock))


def initialize_executor(initializer, *initargs):
    """Initializes a worker of an executor; what it raises is logged as the standard library's executor does."""
    try:
        return initializer(*initargs)
    except BaseException:
        import logging

        logging.getLogger("concurrent.futures").critical("Exception in initializer:", exc_info=True)
        raise


def cannot_send(why, value):
    """Returns multiprocessing's own error for a result that cannot be pickled, which remembers what pickling raised."""
    from multiprocessing.pool import MaybeEncodingError

    try:
        error = MaybeEncodingError(why, value)
    except Exception:
        # Even the value's `repr` may fail: then its type must do.
        error = MaybeEncodingError(why, type(value))
    # What it raised may be impossible to pickle as well, unless it is as plain as this.
    if type(why).__module__ in ("builtins", "pickle", "_pickle") and {type(x) for x in why.args} <= {str, int}:
        error._raised = type(why)(*why.args)
    return error


def _offer_stack(seat):
    # Who is killed for its task is asked first where it is.
    try:
        signal = seat.stack_signal()
        seat.offer_stack(signal, _stack.write_upon(signal))
    except (OSError, RuntimeError, ValueError):
        # Without descriptors or signals left, errors only tell less.
        pass


def _seed_numpy():
    # Workers are forked from one clean interpreter. Had numpy been imported there, all of them would draw the same
    # numbers, where real spawned processes draw different ones. (Python's own `random` sees to itself.)
    random = sys.modules.get("numpy.random")
    if random is not None:
        random.seed()


# Before, forked processes end without what was registered with `atexit`, and `_bootstrap` itself runs multiprocessing's part.
_ATEXIT_IS_FOR_ALL = sys.version_info >= (3, 13)


def forget_exit_functions():
    """In a forked process: forgets what the process that forked it would do at its exit."""
    if _ATEXIT_IS_FOR_ALL:
        import atexit
        from multiprocessing import util

        atexit._clear()
        atexit.register(util._exit_function)


def run_exit_functions(start_method):
    """Does what was registered with `atexit`, if a process of that start method does so at its end."""
    if _ATEXIT_IS_FOR_ALL or start_method == "spawn":
        import atexit

        atexit._run_exitfuncs()


def supervise(memory, results, line, caller, settings, prefix):
    """Supervises a pool; returns an exit code, in the supervisor as in the workers forked from it."""
    sentinel = os.dup(caller)
    seat = _native.supervise(memory, results, line, caller)
    return 0 if seat is None else work(seat, sentinel, settings, prefix)


def work(seat, sentinel, settings, prefix):
    """Lives the life of a worker; returns an exit code. The sentinel is readable when the pool's caller has ended."""
    if settings.start_method != "spawn":
        forget_exit_functions()
    try:
        return PoolWorker(seat, settings, prefix)._bootstrap(parent_sentinel=sentinel)
    finally:
        run_exit_functions(settings.start_method)
