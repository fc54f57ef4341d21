"""Contexts: one start method each, and everything a program needs to use it.

They are the standard library's contexts with our `Pool` and `Process`; whatever is not ours is inherited. Which start
method is the default, and whether one was set, is the standard library's own state, so `set_start_method` here and
there are one and the same, and so is what libraries find that ask `multiprocessing.get_start_method()`.
"""

from multiprocessing import context as _stdlib_context
from multiprocessing.context import (
    AuthenticationError,
    BufferTooShort,
    ProcessError,
    TimeoutError,
    assert_spawning,
    get_spawning_popen,
    set_spawning_popen,
)

from . import process
from .process import ForkProcess, ForkServerProcess, Process, SpawnProcess

__all__ = ()


def __getattr__(name):
    # `reduction`, `_tls` and whatever else is looked up here lives in the standard library's module.
    return getattr(_stdlib_context, name)


class BaseContext(_stdlib_context.BaseContext):
    """What all contexts have in common. See `multiprocessing.context.BaseContext`."""

    def Pool(
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
        """Returns a pool of worker processes. See `procession.pool.Pool`."""
        from .pool import Pool

        return Pool(
            processes,
            initializer,
            initargs,
            maxtasksperchild,
            context=self.get_context() if context is None else context,
            timeout=timeout,
            memory_limit=memory_limit,
            recycle_memory=recycle_memory,
            retries=retries,
            cpu_affinity=cpu_affinity,
            threads_per_worker=threads_per_worker,
            output=output,
            relay_logging=relay_logging,
        )

    def Lock(self):
        """Returns a lock. See `procession.synchronize`."""
        from .synchronize import Lock

        return Lock(ctx=self.get_context())

    def RLock(self):
        """Returns a lock that its owner may take again."""
        from .synchronize import RLock

        return RLock(ctx=self.get_context())

    def Condition(self, lock=None):
        """Returns a condition, with that lock or a new RLock."""
        from .synchronize import Condition

        return Condition(lock, ctx=self.get_context())

    def Semaphore(self, value=1):
        """Returns a semaphore with so many permits."""
        from .synchronize import Semaphore

        return Semaphore(value, ctx=self.get_context())

    def BoundedSemaphore(self, value=1):
        """Returns a semaphore that never has more permits than at first."""
        from .synchronize import BoundedSemaphore

        return BoundedSemaphore(value, ctx=self.get_context())

    def Event(self):
        """Returns a flag that others may wait for."""
        from .synchronize import Event

        return Event(ctx=self.get_context())

    def Barrier(self, parties, action=None, timeout=None):
        """Returns a barrier for so many parties."""
        from .synchronize import Barrier

        return Barrier(parties, action, timeout, ctx=self.get_context())

    def RawValue(self, typecode_or_type, *args):
        """Returns a ctypes object in shared memory. See `procession.sharedctypes`."""
        from .sharedctypes import RawValue

        return RawValue(typecode_or_type, *args)

    def RawArray(self, typecode_or_type, size_or_initializer):
        """Returns a ctypes array in shared memory."""
        from .sharedctypes import RawArray

        return RawArray(typecode_or_type, size_or_initializer)

    def Value(self, typecode_or_type, *args, lock=True):
        """Returns a value in shared memory with a lock around it."""
        from .sharedctypes import Value

        return Value(typecode_or_type, *args, lock=lock, ctx=self.get_context())

    def Array(self, typecode_or_type, size_or_initializer, *, lock=True):
        """Returns an array in shared memory with a lock around it."""
        from .sharedctypes import Array

        return Array(typecode_or_type, size_or_initializer, lock=lock, ctx=self.get_context())

    def Pipe(self, duplex=True):
        """Returns two connections to each other. See `procession.connection.Pipe`."""
        from .connection import Pipe

        return Pipe(duplex)

    def Queue(self, maxsize=0):
        """Returns a queue for up to `maxsize` items, or for as many as there is memory for. See `procession.queues.Queue`."""
        from .queues import Queue

        return Queue(maxsize, ctx=self.get_context())

    def JoinableQueue(self, maxsize=0):
        """Returns a queue that can be joined. See `procession.queues.JoinableQueue`."""
        from .queues import JoinableQueue

        return JoinableQueue(maxsize, ctx=self.get_context())

    def SimpleQueue(self):
        """Returns a simple queue. See `procession.queues.SimpleQueue`."""
        from .queues import SimpleQueue

        return SimpleQueue(ctx=self.get_context())

    def Manager(self):
        """Returns a started manager of shared objects. See `procession.managers.SyncManager`."""
        from .managers import SyncManager

        manager = SyncManager(ctx=self.get_context())
        manager.start()
        return manager

    def get_context(self, method=None):
        """Returns the context of that start method; without one, this context."""
        if method is None:
            return self
        return _ours(super().get_context(method))


class DefaultContext(BaseContext, _stdlib_context.DefaultContext):
    """The context behind the functions of the package: that of the start method which was set, or of the default one."""

    Process = Process

    def __init__(self, stdlib_default_context):
        self._stdlib = stdlib_default_context

    def get_context(self, method=None):
        """Returns the context of that start method; without one, of the method that was set or is the default."""
        return _ours(self._stdlib.get_context(method))

    def get_start_method(self, allow_none=False):
        """Returns the name of the start method; None if none was set yet and `allow_none` is true."""
        return self._stdlib.get_start_method(allow_none)

    def set_start_method(self, method, force=False):
        """Sets the start method, for `multiprocessing` too. May be called once, unless `force` is true."""
        self._stdlib.set_start_method(method, force)

    def get_all_start_methods(self):
        """Returns the names of the supported start methods, the default one first."""
        return self._stdlib.get_all_start_methods()

    @property
    def _default_context(self):
        return _ours(self._stdlib._default_context)

    @property
    def _actual_context(self):
        return _ours(self._stdlib._actual_context)

    @_actual_context.setter
    def _actual_context(self, context):
        name = getattr(context, "_name", None)
        self._stdlib._actual_context = _stdlib_context._concrete_contexts.get(name, context)


class ForkContext(BaseContext, _stdlib_context.ForkContext):
    """Processes are forked from this one, and see its memory as it was then."""

    Process = ForkProcess


class SpawnContext(BaseContext, _stdlib_context.SpawnContext):
    """Each process is a new interpreter."""

    Process = SpawnProcess


class ForkServerContext(BaseContext, _stdlib_context.ForkServerContext):
    """Processes are forked from a server which was started early and stays small."""

    Process = ForkServerProcess


_concrete_contexts = {"fork": ForkContext(), "spawn": SpawnContext(), "forkserver": ForkServerContext()}


def _ours(context):
    # A context that somebody else registered with the standard library stays as it is, and so does None.
    return _concrete_contexts.get(getattr(context, "_name", None), context)


_default_context = DefaultContext(_stdlib_context._default_context)
_force_start_method = _stdlib_context._force_start_method
