"""What the rows about locks and shared values do. See ``measurements.py``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from contestants import Contestant
from measurements import Record, check, median, repeated

START_DELAY_SECONDS = 0.3


def _lock_pair(lock: Any, n: int) -> None:
    acquire, release = lock.acquire, lock.release
    for _ in range(n):
        acquire()
        release()


def _lock_with(lock: Any, n: int) -> None:
    for _ in range(n):
        with lock:
            pass


def _increment(value: Any, n: int) -> None:
    for _ in range(n):
        with value.get_lock():
            value.value += 1


def _ns_each(work: Callable[[Any, int], None], shared: Any, n: int) -> Callable[[], float]:
    def once() -> float:
        began = time.perf_counter_ns()
        work(shared, n)
        return (time.perf_counter_ns() - began) / n

    return once


def _work_from(start: float, work: Callable[[Any, int], None], shared: Any, n: int, ended: Any, number: int) -> None:
    # Both begin at the same moment; that nothing is shared until then but the object itself keeps its rivals alike.
    while time.monotonic() < start:
        pass
    work(shared, n)
    ended[number] = time.monotonic()


def _rate_of_two(context: Any, work: Callable[[Any, int], None], shared: Any, n: int) -> float:
    ended = context.RawArray("d", 2)
    start = time.monotonic() + START_DELAY_SECONDS
    processes = [
        context.Process(target=_work_from, args=(start, work, shared, n, ended, number)) for number in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    check(all(process.exitcode == 0 for process in processes), "a process did not end well")
    return 2 * n / (max(ended) - start)


def lock_alone(contestant: Contestant, record: Record, n: int, budget_seconds: float) -> None:
    """One thread takes and gives back a lock that nobody else wants."""
    lock = contestant.context.Lock()
    for key, work in (("pair", _lock_pair), ("with", _lock_with)):
        record(key, median(repeated(_ns_each(work, lock, n), budget_seconds)))
    check(lock.acquire(False), "the lock was not released")


def lock_by_two(contestant: Contestant, record: Record, n: int, repetitions: int) -> None:
    """Two processes want the same lock all the time."""
    context = contestant.context
    record("with", median([_rate_of_two(context, _lock_with, context.Lock(), n) for _ in range(repetitions)]))


def value_alone(contestant: Contestant, record: Record, n: int, budget_seconds: float) -> None:
    """One thread counts in a shared value under its lock."""
    value = contestant.context.Value("i", 0)
    times = repeated(_ns_each(_increment, value, n), budget_seconds)
    check(value.value % n == 0 and value.value >= n * len(times), "increments were lost")
    record("increment", median(times))


def value_by_two(contestant: Contestant, record: Record, n: int, repetitions: int) -> None:
    """Two processes count in the same shared value under its lock."""
    context = contestant.context
    rates = []
    for _ in range(repetitions):
        value = context.Value("i", 0)
        rates.append(_rate_of_two(context, _increment, value, n))
        check(value.value == 2 * n, "increments were lost")
    record("increment", median(rates))
