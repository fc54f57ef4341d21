"""Queues between processes: `Queue`, `JoinableQueue` and `SimpleQueue`.

A queue lies in shared memory of its own, which has no name and goes with its last user. An item is pickled and in that
memory when `put()` returns: what cannot be pickled is an error there, an item survives its sender, and a process may end
(or be joined) whether its items have been fetched or not. There is no thread that feeds the queue.

A queue without a `maxsize` takes items as long as there is memory. One that is killed while it puts or gets leaves the queue
as it was before or after; of a process that is killed when it has just got an item, that one item is lost with it.

Who waits for a queue which nobody can serve any more, because all who have it wait for each other or have ended, gets
`procession.DeadlockError`.

Queues are passed to processes as arguments, to pools by `initargs`, or by inheritance, not through other queues.
"""

import _multiprocessing
import sys
from multiprocessing import context as _context
from multiprocessing import queues as _stdlib
from multiprocessing import reduction as _reduction
from queue import Empty, Full

from ._native import QueueBase

__all__ = ["Queue", "SimpleQueue", "JoinableQueue"]


def __getattr__(name):
    return getattr(_stdlib, name)


_OURS = ("procession.", "multiprocessing.")

# What stands for "no limit", as in the standard library: as many as its counter can count.
_UNLIMITED = _multiprocessing.SemLock.SEM_VALUE_MAX


class _ReadingEnd:
    """What `queue._reader` is where the standard library has a connection: good for waiting, alone or with others."""

    def __init__(self, queue):
        self._queue = queue

    def fileno(self):
        if self._queue._closed:
            raise OSError("handle is closed")
        return self._queue._items_descriptor()

    def poll(self, timeout=0.0):
        self.fileno()
        if not self._queue.empty():
            return True
        from multiprocessing.connection import wait

        return bool(wait([self], timeout))

    def recv(self):
        return self._queue.get()

    @property
    def closed(self):
        return self._queue._closed

    def close(self):
        self._queue.close()


class _WritingEnd:
    """What `queue._writer` is where the standard library has a connection."""

    def __init__(self, queue):
        self._queue = queue

    def send(self, obj):
        self._queue.put(obj)

    @property
    def closed(self):
        return self._queue._closed

    def close(self):
        self._queue.close()


class _Passing:
    """How queues get into processes that are being started, and nowhere else."""

    def __reduce__(self):
        _context.assert_spawning(self)
        return _rebuild, (type(self), self._maxsize, *map(_reduction.DupFd, self._descriptors()))

    def _named(self):
        """What it is called in errors: by where the user's code makes it."""
        frame = sys._getframe(2)
        while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_OURS):
            frame = frame.f_back
        return f"{type(self).__name__} made at {frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"

    @property
    def _reader(self):
        return _ReadingEnd(self)

    @property
    def _writer(self):
        return _WritingEnd(self)


def _rebuild(cls, maxsize, memory, event):
    queue = cls.__new__(cls)
    queue._maxsize = maxsize
    queue._attach(memory.detach(), event.detach())
    return queue


class Queue(_Passing, QueueBase, _stdlib.Queue):
    """A queue for any number of senders and receivers, in whichever processes. See `multiprocessing.Queue`."""

    def __init__(self, maxsize=0, *, ctx):
        self._maxsize = maxsize if maxsize > 0 else _UNLIMITED
        self._create(maxsize if 0 < maxsize < _UNLIMITED else None, self._named())

    def _refuse_closed(self):
        raise ValueError(f"Queue {self!r} is closed")

    def close(self):
        """Says that this process puts and gets nothing more."""
        self._closed = True

    def empty(self):
        """Whether there is no item just now."""
        # As the standard library's own, which lets nobody look into a closed one after putting something.
        if self._closed and self._used:
            raise OSError("handle is closed")
        return super().empty()

    def join_thread(self):
        """Returns at once: whatever was put is in shared memory already. May be called after `close()`."""
        assert self._closed, f"Queue {self!r} not closed"

    def cancel_join_thread(self):
        """Does nothing: no process waits for its items to be fetched when it ends, and none of them is lost."""


class JoinableQueue(Queue, _stdlib.JoinableQueue):
    """A queue that knows of which items the receivers have said that they are done with them."""

    def task_done(self):
        """Says that an item which this process got is dealt with."""
        self._task_done()

    def join(self):
        """Waits until that was said of every item."""
        self._join()


class SimpleQueue(_Passing, QueueBase, _stdlib.SimpleQueue):
    """A queue with little more than `put` and `get`, which both may wait. See `multiprocessing.SimpleQueue`."""

    _maxsize = None

    def __init__(self, *, ctx):
        self._create(None, self._named())

    def _refuse_closed(self):
        raise OSError("handle is closed")

    def empty(self):
        """Whether there is no item just now."""
        if self._closed:
            self._refuse_closed()
        return super().empty()

    def put(self, obj):
        """Puts an item into the queue, which takes as many as there is memory for."""
        QueueBase.put(self, obj)

    def get(self):
        """Takes the next item out of the queue; waits for one."""
        return QueueBase.get(self)

    def close(self):
        """Says that this process puts and gets nothing more."""
        self._closed = True
