"""Runs your function in many processes: fast, and it cannot hang.

A drop-in for `multiprocessing`:

    import procession as mp

    if __name__ == "__main__":
        with mp.Pool() as pool:
            print(pool.map(abs, [-1, -2, -3]))

Every name of `multiprocessing` is here. Pools, processes, locks and shared values are ours; what is not ours yet is the standard library's
very own object, so classes, exceptions and the start method are shared with code that imports `multiprocessing`.
"""

from multiprocessing import SUBDEBUG, SUBWARNING
from multiprocessing import __all__ as _stdlib_names

from . import context, errors, process
from .errors import (
    DeadlockError,
    MemoryLimitExceeded,
    PoisonTask,
    PoolTerminated,
    ResultDecodeError,
    TaskCancelled,
    TaskTimeout,
    WorkerDied,
    WorkerInitError,
)

# As in multiprocessing, the functions of the package are bound methods of the default context. Its list of names is
# asked for, not repeated, so that those of later Python versions are here too.
globals().update((name, getattr(context._default_context, name)) for name in _stdlib_names)

__all__ = [*_stdlib_names, *errors.__all__, "Retry", "ProcessPoolExecutor", "worker_state"]

# Imported at first use: each spawned worker imports this package again, so its import time is their start time.
_LAZY_SUBMODULES = frozenset(
    (
        "connection",
        "dummy",
        "forkserver",
        "futures",
        "joblib",
        "heap",
        "load",
        "managers",
        "pool",
        "popen_fork",
        "popen_forkserver",
        "popen_spawn_posix",
        "queues",
        "reduction",
        "resource_sharer",
        "resource_tracker",
        "shared_memory",
        "sharedctypes",
        "spawn",
        "synchronize",
        "util",
    )
)


_LAZY_NAMES = {"Retry": "_retry", "ProcessPoolExecutor": "futures", "worker_state": "_worker"}


def __getattr__(name):
    if name in _LAZY_NAMES:
        from importlib import import_module

        globals()[name] = value = getattr(import_module("." + _LAZY_NAMES[name], __name__), name)
        return value
    if name in _LAZY_SUBMODULES:
        from importlib import import_module

        return import_module("." + name, __name__)
    if name == "__version__":
        from ._native import version

        return version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_LAZY_SUBMODULES, *_LAZY_NAMES, "__version__"})
