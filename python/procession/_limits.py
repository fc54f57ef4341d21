"""What a worker may use: memory, CPUs, threads."""

import os
import re
import sys

from . import _native

__all__ = ()

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def bytes_of(name, amount):
    """An amount of memory as users write it, in bytes; 0 for none."""
    if amount is None:
        return 0
    if isinstance(amount, str):
        found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?)\s*([KMGT]?)(?:i?B)?\s*", amount, re.IGNORECASE)
        if found is None:
            raise ValueError(f'{name} must be a number of bytes or a text such as "500M", not {amount!r}')
        amount = float(found[1]) * _UNITS[found[2].upper()]
    elif not isinstance(amount, (int, float)) or isinstance(amount, bool):
        raise TypeError(
            f'{name} must be a number of bytes, a text such as "500M", or None, not {type(amount).__name__}'
        )
    if not 1 <= amount < 2**63:
        raise ValueError(f"{name} must be at least 1 byte, not {amount}")
    return int(amount)


# How many CPUs this process should keep busy, if it is a worker of a pool.
_share = None


def usable_cpus():
    """How many CPUs this process may use: in a worker its share of them, so that pools in tasks do not multiply."""
    usable = _native.usable_cpus()
    return usable if _share is None else min(usable, _share)


def share_of(processes):
    """How many CPUs each of so many workers of this process's should keep busy."""
    return max(1, usable_cpus() // processes)


def cpus_of(cpu_affinity):
    """The CPUs that workers are bound to in turn; none if they are not bound."""
    if cpu_affinity is None or cpu_affinity is False:
        return ()
    allowed = sorted(os.sched_getaffinity(0))
    if cpu_affinity is True:
        return tuple(allowed)
    try:
        cpus = tuple(cpu_affinity)
    except TypeError:
        raise TypeError("cpu_affinity must be True, a list of CPU numbers, or None") from None
    if not cpus:
        raise ValueError("cpu_affinity must name at least one CPU")
    for cpu in cpus:
        if cpu not in allowed:
            raise ValueError(f"cpu_affinity: this process may not use CPU {cpu!r}, but {allowed}")
    return cpus


def threads_of(threads_per_worker, processes):
    """How many threads libraries may use in a worker, and whether the user said so; None if as many as they like."""
    if threads_per_worker is None:
        return None
    if threads_per_worker == "auto":
        return share_of(processes), False
    if not isinstance(threads_per_worker, int) or isinstance(threads_per_worker, bool):
        raise TypeError(f"threads_per_worker must be an int or None, not {type(threads_per_worker).__name__}")
    if threads_per_worker < 1:
        raise ValueError(f"threads_per_worker must be at least 1, not {threads_per_worker}")
    return threads_per_worker, True


# What the usual numeric libraries look at when they are loaded.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def hold_worker(number, cpus, threads, share):
    """Holds the calling process, a worker, to what it may use."""
    global _share
    _share = share
    if cpus:
        try:
            os.sched_setaffinity(0, {cpus[(number - 1) % len(cpus)]})
        except OSError:
            # The CPU was taken away meanwhile: any other will do.
            pass
    if threads is None:
        return
    count, demanded = threads
    if demanded:
        os.environ.update((name, str(count)) for name in _THREAD_VARIABLES)
    else:
        general = os.environ.get("OMP_NUM_THREADS", str(count))
        for name in _THREAD_VARIABLES:
            os.environ.setdefault(name, general)
    # Libraries that were loaded before the fork have read their variables already. This tells them, if it is there.
    control = sys.modules.get("threadpoolctl")
    if control is not None and (demanded or "numpy" in sys.modules):
        control.threadpool_limits(count)
