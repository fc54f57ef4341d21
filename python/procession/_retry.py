"""Trying again: which failures, how often, and after which pause."""

import threading
from collections import deque

from .errors import (
    MemoryLimitExceeded,
    PoolTerminated,
    TaskTimeout,
    WorkerDied,
    poison_task,
    pool_terminated,
    task_cancelled,
)

__all__ = ["Retry"]

# A timer cannot wait longer than the system's waits can.
_MOST_SECONDS = 86400.0 * 365


class Retry:
    """How often and when a task that failed is tried again.

    Args:
        times: how often at most, after the first attempt.
        delay: seconds before the second attempt.
        factor: by what the pause grows from each attempt to the next.
        max_delay: seconds that a pause has at most.
        on: the errors after which the task is tried again: a class or a tuple of classes, or a function that is given the
            error and says so. By default those that came from outside of the task: its worker died, it ran too long, or it
            took too much memory. What a task raises counts only if it is named here.

    Example:
        >>> import procession as mp
        >>> mp.Retry(3, delay=0.5, on=(mp.WorkerDied, ConnectionError))
        Retry(3, delay=0.5, factor=2.0, max_delay=60.0, on=(WorkerDied, ConnectionError))
    """

    def __init__(
        self, times, *, delay=0.0, factor=2.0, max_delay=60.0, on=(WorkerDied, TaskTimeout, MemoryLimitExceeded)
    ):
        if not isinstance(times, int) or isinstance(times, bool):
            raise TypeError(f"retries must be an int, a Retry or None, not {type(times).__name__}")
        if times < 0:
            raise ValueError(f"retries must not be negative: {times}")
        for name, value, least in (("delay", delay, 0.0), ("factor", factor, 1.0), ("max_delay", max_delay, 0.0)):
            if not isinstance(value, (int, float)):
                raise TypeError(f"{name} must be a number, not {type(value).__name__}")
            if not least <= value:
                raise ValueError(f"{name} must be at least {least:g}, not {value}")
        classes = on if isinstance(on, tuple) else (on,)
        if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in classes) and not callable(on):
            raise TypeError("on must be a class of errors, a tuple of them, or a function that is given the error")
        self.times = times
        self.delay = delay
        self.factor = factor
        self.max_delay = max_delay
        self.on = on

    def covers(self, error):
        """Whether a task is tried again that failed with this error."""
        if isinstance(self.on, (type, tuple)):
            return isinstance(error, self.on)
        return bool(self.on(error))

    def pause_seconds(self, failures):
        """How long to wait after so many failures."""
        try:
            pause = self.delay * self.factor ** (failures - 1)
        except OverflowError:
            pause = self.max_delay
        return min(pause, self.max_delay, _MOST_SECONDS)

    def __repr__(self):
        kinds = self.on if isinstance(self.on, tuple) else (self.on,)
        names = ", ".join(getattr(kind, "__qualname__", repr(kind)) for kind in kinds)
        on = f"({names},)" if isinstance(self.on, tuple) and len(kinds) == 1 else f"({names})"
        on = on if isinstance(self.on, tuple) else names
        return f"Retry({self.times}, delay={self.delay}, factor={self.factor}, max_delay={self.max_delay}, on={on})"


def retry_of(retries):
    """What a pool or a call was told, as a `Retry`."""
    if isinstance(retries, Retry):
        return retries
    return Retry(0 if retries is None else retries)


class _Attempts:
    """One call, as often as it takes; `tell` is given its value or its error, and what it had written."""

    def __init__(self, pool, call, terms, retry, tell):
        self._pool = pool
        self._call = call
        self._terms = terms
        self._retry = retry
        self._tell = tell
        self._lock = threading.Lock()
        self._failures = 0
        self._deaths = 0
        self._current = None
        self._timer = None
        self._over = False

    def begin(self):
        with self._lock:
            self._timer = None
            if self._over:
                return
        try:
            current = self._pool._attempt(*self._call, self._succeeded, self._failed, *self._terms)
        except BaseException as error:
            self._end(None, error, None)
        else:
            self._current = current
            if self._over:
                # It was ended, or is done, meanwhile.
                current.cancel()

    def _succeeded(self, value, output):
        self._end(value, None, output)

    _succeeded.takes_output = True

    def _failed(self, error):
        self._failures += 1
        self._deaths += isinstance(error, WorkerDied)
        try:
            again = not self._over and self._retry.covers(error) and not isinstance(error, PoolTerminated)
        except BaseException as raised:
            return self._end(None, raised, None)
        if not again or self._failures > self._retry.times:
            if again and self._failures > 1 and self._deaths == self._failures:
                error = poison_task(error, self._failures)
            return self._end(None, error, getattr(error, "output", None))
        function = self._call[0]
        self._pool._tell_retry(getattr(function, "__qualname__", None) or type(function).__qualname__)
        pause = self._retry.pause_seconds(self._failures)
        if pause == 0:
            return self.begin()
        timer = threading.Timer(pause, self.begin)
        timer.daemon = True
        timer.name = "procession-retry"
        with self._lock:
            if self._over:
                return
            self._timer = timer
            timer.start()

    def _end(self, value, error, output):
        with self._lock:
            if self._over:
                return False
            self._over = True
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        self._tell(value, error, output)
        self._current = None
        return True

    def end(self, error):
        """Ends it with this error, whatever is still running; false if it has ended."""
        current = self._current
        ended = self._end(None, error, None)
        if ended and current is not None:
            current.cancel()
        return ended


def _name_of(function):
    return f"{getattr(function, '__qualname__', None) or type(function).__qualname__}(...)"


def apply_async(pool, call, calls, terms, retry, begun=False):
    """Begins a call that is tried again; returns its result to come. `begun` as in `_promise`."""

    def tell(value, error, output):
        pool._promises.discard(attempts)
        result._fulfil(value, error, output)

    attempts = _Attempts(pool, call, terms, retry, tell)
    result = pool._promise(*calls, lambda: attempts.end(task_cancelled(_name_of(call[0]))), False, begun)
    pool._promises.add(attempts)
    attempts.begin()
    return result


class _Map:
    """A map whose items are tried again, each on its own."""

    def __init__(self, pool, function, items, star, calls, terms, retry):
        self._values = [None] * len(items)
        self._outputs = [""] * len(items)
        self._left = len(items)
        self._error = None
        self._pool = pool
        self._lock = threading.Lock()
        self._name = _name_of(function)
        self.result = pool._promise(*calls, self._cancel, True)
        pool._promises.add(self)
        self._attempts = []
        for index, item in enumerate(items):
            call = (function, tuple(item) if star else (item,), {})
            tell = lambda value, error, output, index=index: self._take(index, value, error, output)  # noqa: E731
            self._attempts.append(_Attempts(pool, call, terms, retry, tell))
        if not items:
            self._finish()
        for attempts in self._attempts:
            attempts.begin()

    def _take(self, index, value, error, output):
        with self._lock:
            if output:
                self._outputs[index] = output
            self._values[index] = value
            self._error = self._error or error
            self._left -= 1
            if self._left:
                return
        self._finish()

    def _finish(self):
        self._pool._promises.discard(self)
        self.result._fulfil(self._values, self._error, self._outputs)

    def end(self, error):
        """Ends it with this error, whatever is still running; false if it has ended."""
        ended = self._left > 0
        for attempts in self._attempts:
            attempts.end(error)
        return ended

    def _cancel(self):
        return self.end(task_cancelled(self._name))


def map_async(pool, function, items, star, calls, terms, retry):
    """Begins a map whose items are tried again; returns its result to come."""
    return _Map(pool, function, list(items), star, calls, terms, retry).result


def map_with_progress(pool, function, items, star, terms, retry):
    """Begins such a map; returns its result to come, and a function that tells how many items are done, and of how many."""
    work = _Map(pool, function, list(items), star, (None, None), terms, retry)
    total = len(work._values)
    return work.result, lambda: (total - work._left, total)


class RetryingIterator:
    """What `imap` returns if its items are tried again: an iterator with `next(timeout)` and `cancel`."""

    output = ""

    def __init__(self, pool, function, iterable, buffersize, ordered, terms, retry):
        self._begin = lambda item: apply_async(pool, (function, (item,), {}), (None, None), terms, retry, True)
        self._source = iter(iterable)
        self._buffersize = buffersize
        self._ordered = ordered
        self._waiting = deque()
        self._arrived = deque()
        self._news = threading.Semaphore(0)
        self._listener = None
        # A source cannot be asked by two threads at once: one that reads and one that joins.
        self._filling = threading.RLock()
        pool._retrying_iterators.add(self)
        self._fill()

    def _fill(self):
        with self._filling:
            while self._source is not None and len(self._waiting) + len(self._arrived) < self._buffersize:
                try:
                    result = self._begin(next(self._source))
                except StopIteration:
                    self._source = None
                    return
                except BaseException as error:
                    # It stands where its item would have stood.
                    self._source = None
                    result = _Raised(error)
                self._waiting.append(result)
                if not self._ordered and not result._listen(lambda result=result: self._hear(result)):
                    self._hear(result)

    def pull_all(self):
        """Reads the source to its end, whatever the buffer."""
        self._buffersize = float("inf")
        self._fill()

    def _hear(self, result):
        self._arrived.append(result)
        try:
            self._waiting.remove(result)
        except ValueError:
            pass
        self._news.release()
        listener, self._listener = self._listener, None
        if listener is not None:
            listener()

    def next(self, timeout=None):
        """Returns the next result; raises `multiprocessing.TimeoutError` if it is not there after `timeout` seconds."""
        from multiprocessing import TimeoutError

        self._fill()
        if self._ordered:
            if not self._waiting:
                raise StopIteration
            self._waiting[0].wait(timeout)
            if not self._waiting[0].ready():
                raise TimeoutError
            result = self._waiting.popleft()
        else:
            if not self._waiting and not self._arrived:
                raise StopIteration
            if not self._news.acquire(timeout=timeout):
                raise TimeoutError
            result = self._arrived.popleft()
        self._fill()
        self.output = result.output
        return result.get(0)

    def cancel(self):
        """Cancels what is not done. Returns whether anything was left to cancel."""
        self._source = None
        return any([result.cancel() for result in list(self._waiting)])

    def _listen(self, listener):
        self._fill()
        if self._ordered:
            return bool(self._waiting) and self._waiting[0]._listen(listener)
        self._listener = listener
        if self._arrived or not self._waiting:
            self._listener = None
            return False
        return True

    def __iter__(self):
        return self

    def __next__(self):
        return self.next()

    def __aiter__(self):
        return self

    def __anext__(self):
        from ._aio import next_of

        return next_of(self)


class _Raised:
    """A result that was an error from the beginning."""

    output = ""

    def __init__(self, error):
        self._error = error

    def wait(self, timeout=None):
        pass

    def ready(self):
        return True

    def cancel(self):
        return False

    def _listen(self, listener):
        return False

    def get(self, timeout=None):
        raise self._error


def pull_all(pool):
    """Has all be sent out that iterators would pull later: whoever joins wants all work done."""
    for iterator in list(pool._retrying_iterators):
        iterator.pull_all()


def end_all(pool):
    """Ends what waits for its next attempt in a pool that was terminated."""
    for promise in list(pool._promises):
        promise.end(pool_terminated())
