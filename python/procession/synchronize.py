"""Locks, semaphores, conditions, events and barriers between processes.

The names, arguments, errors and texts are those of `multiprocessing.synchronize`. What is different:

* They lie in anonymous shared memory: no names in `/dev/shm`, no resource tracker, nothing to be left behind.
* **A lock whose owner was killed goes to the next who asks**, within milliseconds. A warning is logged, by the logger
  "procession", and `lock.owner_deaths` counts how often it happened: what the lock guards may be half changed.
* **Deadlocks raise.** Where locks are held and waited for in a circle, `procession.DeadlockError` is raised in one of those who
  wait. It names them all.
* A process that is killed while it waits for a condition, or in a barrier, takes nobody with it.
* An object may be handed to a process of any start method, whichever context made it.
"""

import _multiprocessing
import sys
import threading
import time
from multiprocessing import context as _stdlib_context
from multiprocessing import process as _process

from . import _native

__all__ = ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition", "Event"]

RECURSIVE_MUTEX, SEMAPHORE = 0, 1
SEM_VALUE_MAX = _multiprocessing.SemLock.SEM_VALUE_MAX

# How long a member of a barrier waits before it looks whether the others are alive, at first and at last.
_BARRIER_SLICE_SECONDS = (0.01, 0.1)


def _tell_of_death(lock, pid):
    import logging

    logging.getLogger("procession").warning(
        "process %d died while it held the %s: it goes to process %d, and what it guards may be half changed",
        pid,
        lock,
        _process.os.getpid(),
    )


def _made_at():
    """Where the user's code makes a lock, as its name in errors."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(
        ("procession.", "multiprocessing.")
    ):
        frame = frame.f_back
    return f"made at {frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"


class SemLock:
    """What all locks and semaphores are. It has no constructor of its own."""

    __slots__ = ()

    @property
    def _semlock(self):
        # Libraries look here for what the standard library's wrapper wraps; here it is one object.
        return self

    name = None


def _owner_name():
    name = _process.current_process().name
    thread = threading.current_thread().name
    return name if thread == "MainThread" else f"{name}|{thread}"


class _Mutex(_native.LockBase, SemLock):
    maxvalue = 1

    def __init__(self, *, ctx):
        self._make(self._recursive, _made_at())

    def __getstate__(self):
        return self._hand_on()

    def __setstate__(self, state):
        self._take_over(self._recursive, state)

    def _owner(self):
        if self._is_mine():
            return _owner_name()
        if self._get_value():
            return "None"
        return "SomeOtherThread" if self._count() else "SomeOtherProcess"


class Lock(_Mutex):
    """A lock that one thread of one process has at a time. Anybody may release it."""

    kind = SEMAPHORE
    _recursive = False

    def __repr__(self):
        try:
            owner = self._owner()
        except Exception:
            owner = "unknown"
        return f"<{type(self).__name__}(owner={owner})>"


class RLock(_Mutex):
    """A lock that the thread which has it may take again. It alone releases it, as often as it took it."""

    kind = RECURSIVE_MUTEX
    _recursive = True

    def __repr__(self):
        try:
            owner = self._owner()
            if self._is_mine():
                count = self._count()
            else:
                count = 0 if owner == "None" else "nonzero"
        except Exception:
            owner = count = "unknown"
        return f"<{type(self).__name__}({owner}, {count})>"


class Semaphore(_native.SemaphoreBase, SemLock):
    """So many permits. Anybody may give one back, so nobody owns one, and one that a killed process had is lost."""

    kind = SEMAPHORE

    def __init__(self, value=1, *, ctx):
        self._make(value, SEM_VALUE_MAX)

    def __getstate__(self):
        return self._hand_on()

    def __setstate__(self, state):
        self._take_over(*state)

    def _value_or_unknown(self):
        try:
            return self._get_value()
        except Exception:
            return "unknown"

    def __repr__(self):
        return f"<{type(self).__name__}(value={self._value_or_unknown()})>"


class BoundedSemaphore(Semaphore):
    """A semaphore that is never released more often than it was acquired."""

    def __init__(self, value=1, *, ctx):
        self._make(value, value)

    def __repr__(self):
        return f"<{type(self).__name__}(value={self._value_or_unknown()}, maxvalue={self.maxvalue})>"


class _Count:
    """A number that code which knows the standard library's condition looks for in a semaphore."""

    def __init__(self, get_value):
        self.get_value = self._get_value = get_value
        self._semlock = self


class Condition:
    """Those who have its lock may wait for others, who have it later, to notify them."""

    def __init__(self, lock=None, *, ctx):
        self.__setstate__((lock or ctx.RLock(), _native.WaitQueue()))

    def __getstate__(self):
        _stdlib_context.assert_spawning(self)
        return self._lock, self._waiters

    def __setstate__(self, state):
        self._lock, self._waiters = state

    def acquire(self, block=True, timeout=None):
        """Acquires the condition's lock."""
        return self._lock.acquire(block, timeout)

    def release(self):
        """Releases the condition's lock."""
        self._lock.release()

    def __enter__(self):
        return self._lock.__enter__()

    def __exit__(self, *args):
        return self._lock.__exit__(*args)

    def __repr__(self):
        return f"<{type(self).__name__}({self._lock}, {self._waiters.waiting()})>"

    _sleeping_count = property(lambda self: _Count(self._waiters.taken))
    _woken_count = property(lambda self: _Count(lambda: self._waiters.taken() - self._waiters.waiting()))
    _wait_semaphore = property(lambda self: _Count(lambda: 0))

    def wait(self, timeout=None):
        """Gives the lock away, waits to be notified, and takes the lock again. False if `timeout` seconds were over first."""
        lock = self._lock
        assert lock._semlock._is_mine(), "must acquire() condition before using wait()"
        waiters = self._waiters
        place = waiters.enter()
        depth = lock._semlock._count()
        for _ in range(depth):
            lock.release()
        undisturbed = False
        try:
            waiters.wait(place, timeout)
            undisturbed = True
        finally:
            try:
                self._take_back(depth)
            finally:
                notified = waiters.leave(place)
                if notified and not undisturbed:
                    # What was meant for somebody who goes on must not end with one who does not.
                    waiters.notify(1)
        return notified

    def _take_back(self, depth):
        # Whoever handles Ctrl-C relies on having the lock, so it is taken first.
        interrupt = None
        while depth:
            try:
                self._lock.acquire()
                depth -= 1
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def wait_for(self, predicate, timeout=None):
        """Waits until `predicate()` is true, and returns what it returned; a false value if `timeout` seconds were over."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not (result := predicate()):
            left = None
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
            self.wait(left)
        return result

    def notify(self, n=1):
        """Lets up to `n` of those who wait go on, those who came first."""
        assert self._lock._semlock._is_mine(), "lock is not owned"
        self._waiters.notify(n)

    def notify_all(self):
        """Lets all go on who wait."""
        self.notify(sys.maxsize)


class Event(_native.EventBase):
    """A flag: those who wait for it go on when it is set."""

    def __init__(self, *, ctx):
        self._make()

    def __getstate__(self):
        return self._hand_on()

    def __setstate__(self, state):
        self._take_over(state)

    def __repr__(self):
        return f"<{type(self).__qualname__} at {id(self):#x} {'set' if self.is_set() else 'unset'}>"


class Barrier(threading.Barrier):
    """So many parties wait for each other, again and again. If one is killed as it waits, the barrier breaks."""

    def __init__(self, parties, action=None, timeout=None, *, ctx):
        state = _native.SharedBuffer(4)
        self.__setstate__((parties, action, timeout, ctx.Condition(), state, _native.WaitQueue()))

    def __getstate__(self):
        return self._parties, self._action, self._timeout, self._cond, self._buffer, self._entrants

    def __setstate__(self, state):
        self._parties, self._action, self._timeout, self._cond, self._buffer, self._entrants = state
        self._words = memoryview(self._buffer).cast("i")

    # 0 filling, 1 draining, -1 resetting, -2 broken: as in threading.Barrier, whose methods these attributes serve.
    @property
    def _state(self):
        return self._words[0]

    @_state.setter
    def _state(self, value):
        self._words[0] = value

    @property
    def _count(self):
        return self._entrants.taken()

    def wait(self, timeout=None):
        """Waits for the other parties; returns a number that is different in each of them, from 0 on.

        Raises:
            threading.BrokenBarrierError: `timeout` seconds were over, the barrier was aborted or reset, or a party died.
        """
        if timeout is None:
            timeout = self._timeout
        with self._cond:
            self._enter()
            index = self._count
            if index + 1 == self._parties and self._entrants.sweep():
                self._break()
                raise threading.BrokenBarrierError
            place = self._entrants.enter()
            try:
                if index + 1 == self._parties:
                    self._release()
                else:
                    self._wait(timeout)
                return index
            finally:
                self._entrants.leave(place)
                self._exit()

    def _enter(self):
        while self._state in (-1, 1):
            # Who is to leave before us may have died instead.
            if not self._cond.wait(_BARRIER_SLICE_SECONDS[1]) and self._entrants.sweep():
                self._exit()
        if self._state < 0:
            raise threading.BrokenBarrierError
        assert self._state == 0

    def _wait(self, timeout):
        deadline = None if timeout is None else time.monotonic() + timeout
        slice_seconds, longest = _BARRIER_SLICE_SECONDS
        while self._state == 0:
            left = slice_seconds if deadline is None else min(slice_seconds, deadline - time.monotonic())
            if left <= 0 or self._entrants.sweep():
                self._break()
                raise threading.BrokenBarrierError
            if not self._cond.wait_for(lambda: self._state != 0, left):
                slice_seconds = min(slice_seconds * 2, longest)
        if self._state < 0:
            raise threading.BrokenBarrierError
        assert self._state == 1

    def reset(self):
        """Empties the barrier: who waits gets BrokenBarrierError."""
        with self._cond:
            self._entrants.sweep()
        super().reset()
