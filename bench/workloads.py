"""The functions that run inside workers.

Imports stay at a minimum: under ``spawn`` and ``forkserver`` every worker imports this module before its first task, so
whatever is imported here would be counted as start-up time of the pool.
"""

from __future__ import annotations

import os
import signal
import time

TYPE_CHECKING = False  # typing itself would cost a spawned worker a millisecond
if TYPE_CHECKING:
    from typing import Any

    from orders import Order


def nothing() -> None:
    """What a process does of which only the start and the end are timed."""


def square(x: int) -> int:
    """The tiny task of the rate rows."""
    return x * x


def field_of_dict(task: dict[str, Any]) -> Any:
    return task["quantity"] * task["price"]


def field_of_list(task: list[Any]) -> Any:
    return task[0] * task[1]


def field_of_order(task: Order) -> int:
    return task.quantity * task.price


# One element per 4 KiB page: every page of the array is read, so that an array that is mapped but never filled, or
# filled lazily, is charged for its page faults, while the reading itself stays far below the cost of one copy.
ELEMENTS_PER_PAGE = 4096 // 8


def fingerprint(array: Any) -> float:
    """The sum over one element of each page of a float64 array."""
    return float(array[::ELEMENTS_PER_PAGE].sum())


def change_one_element(array: Any) -> Any:
    """Returns the array with its first element negated.

    A library that hands the worker a read-only view pays for the copy that the user would have to make.
    """
    if not array.flags.writeable:
        array = array.copy()
    array[0] = -array[0]
    return array


def burn_cpu(seconds: float) -> float:
    """Uses this much CPU time, however often the scheduler takes the processor away, and returns the elapsed time."""
    started = time.perf_counter()
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return time.perf_counter() - started


def burn_cpu_microseconds(microseconds: int) -> int:
    if microseconds:
        burn_cpu(microseconds * 1e-6)
    return microseconds


def sleep_for(seconds: float) -> float:
    """Sleeps and returns how long the sleep really took."""
    started = time.perf_counter()
    time.sleep(seconds)
    return time.perf_counter() - started


def spin_half_a_millisecond(task: tuple[int, int]) -> tuple[int, float]:
    """Takes 0.5 ms and returns its index and how long it really took, in seconds.

    The task with the fatal index kills its worker instead.
    """
    index, fatal_index = task
    started = time.perf_counter()
    while time.perf_counter() < started + 0.0005:
        pass
    if index == fatal_index:
        os.kill(os.getpid(), signal.SIGKILL)
    return index, time.perf_counter() - started


def worker_pid(_ignored: object = None) -> int:
    return os.getpid()


def announce_and_wait(task: tuple[str, str, float]) -> int:
    """Writes this worker's pid to one file, then waits until the other exists or the limit in seconds is over."""
    announcement, release, limit_seconds = task
    with open(announcement + ".part", "w") as file:
        file.write(str(os.getpid()))
    os.rename(announcement + ".part", announcement)
    end = time.monotonic() + limit_seconds
    while not os.path.exists(release) and time.monotonic() < end:
        time.sleep(0.002)
    return os.getpid()
