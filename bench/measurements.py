"""What each row does to a contestant. Runs in a fresh process per measurement (see ``measure.py``).

Every measurement checks the answers it gets; a wrong one raises ``WrongAnswer`` and the row reports WRONG instead of a
time. Imports are kept light because the start-up rows time a process that should hold little else than the library.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import workloads
from contestants import Contestant, Unsupported

PROCESSES = 2

Record = Callable[..., None]
"""``record(key, value, **details)``: one figure, written down at once so that a later hang does not lose it."""


class WrongAnswer(Exception):
    """The pool returned something other than what the function computes."""


def check(is_right: bool, what: str) -> None:
    if not is_right:
        raise WrongAnswer(what)


def median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def percentile(values: Sequence[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


@contextmanager
def opened(contestant: Contestant) -> Iterator[Contestant]:
    """A pool for measurements in which nothing goes wrong: closed in order at the end, abandoned upon an error."""
    contestant.open(PROCESSES)
    try:
        yield contestant
    except BaseException:
        # The error is the news; how the pool takes being given up is not.
        try:
            contestant.abandon()
        except Exception:
            pass
        raise
    contestant.close()


def repeated(once: Callable[[], float], budget_seconds: float, most: int = 5) -> list[float]:
    """Calls ``once`` until the budget is spent, at least once and at most ``most`` times; returns what it returned."""
    deadline = time.monotonic() + budget_seconds
    values = [once()]
    while len(values) < most and time.monotonic() < deadline:
        values.append(once())
    return values


# ---- rates -------------------------------------------------------------------------------------------------------


def _record_rate(
    record: Record,
    key: str,
    run: Callable[[Sequence[Any]], list[Any]],
    items: Sequence[Any],
    expected: list[Any],
    budget_seconds: float,
    ordered: bool = True,
) -> None:
    warm_up = items[: max(20, min(500, len(items) // 10))]
    run(warm_up)

    def once() -> float:
        gc.collect()
        started = time.perf_counter()
        values = run(items)
        elapsed = time.perf_counter() - started
        check((values if ordered else sorted(values)) == expected, f"{key}: results differ from the function's")
        return len(items) / elapsed

    rates = repeated(once, budget_seconds)
    record(key, median(rates), first=rates[0], repetitions=len(rates), items=len(items))


def _tiny(n: int) -> tuple[range, list[int]]:
    return range(n), [x * x for x in range(n)]


def apply_async(contestant: Contestant, record: Record, n: int, budget_seconds: float) -> None:
    items, expected = _tiny(n)
    with opened(contestant) as pool:
        run = partial(pool.submit_all_then_collect, workloads.square)
        _record_rate(record, "rate", run, items, expected, budget_seconds)


def apply_async_pickled(contestant: Contestant, record: Record, n: int, budget_seconds: float) -> None:
    from orders import Order

    expected = [x * 7 for x in range(n)]
    kinds: tuple[tuple[str, Callable[[Any], int], list[Any]], ...] = (
        ("dict", workloads.field_of_dict, [{"name": "item", "quantity": x, "price": 7} for x in range(n)]),
        ("list", workloads.field_of_list, [[x, 7, 2.5, "item"] for x in range(n)]),
        ("dataclass", workloads.field_of_order, [Order("item", x, 7) for x in range(n)]),
    )
    with opened(contestant) as pool:
        for key, function, items in kinds:
            run = partial(pool.submit_all_then_collect, function)
            _record_rate(record, key, run, items, expected, budget_seconds)


def map_one_by_one(contestant: Contestant, record: Record, n: int, budget_seconds: float) -> None:
    items, expected = _tiny(n)
    with opened(contestant) as pool:
        _record_rate(record, "rate", lambda part: pool.map(workloads.square, part, 1), items, expected, budget_seconds)


def map_default(contestant: Contestant, record: Record, n: int, budget_seconds: float) -> None:
    items, expected = _tiny(n)
    with opened(contestant) as pool:
        _record_rate(record, "rate", lambda part: pool.map(workloads.square, part), items, expected, budget_seconds)


def imap_unordered(contestant: Contestant, record: Record, n: int, budget_seconds: float) -> None:
    items, expected = _tiny(n)
    with opened(contestant) as pool:
        run = partial(pool.unordered, workloads.square)
        _record_rate(record, "rate", run, items, expected, budget_seconds, ordered=False)


# ---- latency -----------------------------------------------------------------------------------------------------


def _round_trips_us(call: Callable[[Any], Any], n: int, gap_seconds: float, budget_seconds: float) -> list[float]:
    clock = time.perf_counter_ns
    deadline = time.monotonic() + budget_seconds
    elapsed_us: list[float] = []
    for x in range(n):
        if gap_seconds:
            time.sleep(gap_seconds)
        started = clock()
        value = call(x)
        ended = clock()
        check(value == x * x, f"apply({x}) returned {value!r}")
        elapsed_us.append((ended - started) / 1000)
        if time.monotonic() > deadline and len(elapsed_us) >= 20:
            break
    return elapsed_us


def round_trip(contestant: Contestant, record: Record, n: int, n_apart: int, budget_seconds: float) -> None:
    with opened(contestant) as pool:
        call = pool.caller(workloads.square)
        for x in range(20):
            call(x)
        for key, count, gap_seconds in (("tight", n, 0.0), ("apart", n_apart, 0.001)):
            us = _round_trips_us(call, count, gap_seconds, budget_seconds)
            record(
                key,
                median(us),
                p90=percentile(us, 90),
                p99=percentile(us, 99),
                mean=sum(us) / len(us),
                calls=len(us),
            )


# ---- arrays ------------------------------------------------------------------------------------------------------


def _array(megabytes: int, seed: int) -> Any:
    import numpy

    # Each page differs, so that a block that is missing, stale or out of place changes the fingerprint.
    array = numpy.arange(megabytes * 1_000_000 // 8, dtype=numpy.float64)
    array += 1 + seed * 1e9
    return array


def array_argument(contestant: Contestant, record: Record, megabytes: int, calls: int, budget_seconds: float) -> None:
    def once(seed: int, call: Callable[[Any], Any]) -> float:
        array = _array(megabytes, seed)
        expected = workloads.fingerprint(array)
        started = time.perf_counter()
        value = call(array)
        elapsed = time.perf_counter() - started
        check(value == expected, f"the worker saw {value!r} where the array says {expected!r}")
        return elapsed * 1000

    _record_array_calls(contestant, record, workloads.fingerprint, once, megabytes, calls, budget_seconds)


def array_argument_and_result(
    contestant: Contestant, record: Record, megabytes: int, calls: int, budget_seconds: float
) -> None:
    def once(seed: int, call: Callable[[Any], Any]) -> float:
        array = _array(megabytes, seed)
        first = float(array[0])
        expected = workloads.fingerprint(array) - 2 * first
        started = time.perf_counter()
        result = call(array)
        # Reading the pages of the result belongs to receiving it.
        value = workloads.fingerprint(result)
        elapsed = time.perf_counter() - started
        check(float(result[0]) == -first and _close(value, expected), f"result has {value!r}, not {expected!r}")
        check(result.shape == array.shape, f"result has the shape {result.shape}")
        check(float(array[0]) == first, "the worker's change reached the caller's own array")
        return elapsed * 1000

    _record_array_calls(contestant, record, workloads.change_one_element, once, megabytes, calls, budget_seconds)


def _close(value: float, expected: float) -> bool:
    return abs(value - expected) <= 1e-9 * abs(expected)


def _memcpy_ms(megabytes: int) -> float:
    """One copy between two arrays whose pages are there already: the least of five."""
    import numpy

    source, target = numpy.ones(megabytes * 1_000_000 // 8), numpy.ones(megabytes * 1_000_000 // 8)
    least = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        numpy.copyto(target, source)
        least = min(least, time.perf_counter() - started)
    return least * 1000


def _record_array_calls(
    contestant: Contestant,
    record: Record,
    function: Callable[[Any], Any],
    once: Callable[[int, Callable[[Any], Any]], float],
    megabytes: int,
    calls: int,
    budget_seconds: float,
) -> None:
    import numpy  # noqa: F401  # before the pool, so that forked workers need not import it within the first call

    record("memcpy", _memcpy_ms(megabytes))
    with opened(contestant) as pool:
        pool.map(workloads.square, range(50), 1)
        call = pool.caller(function)
        record("first", once(0, call))
        seeds = iter(range(1, calls + 1))
        times_ms = repeated(lambda: once(next(seeds), call), budget_seconds, most=calls)
        record("steady", median(times_ms), calls=len(times_ms), fastest=min(times_ms), slowest=max(times_ms))


def small_arrays(contestant: Contestant, record: Record, arrays: int, budget_seconds: float) -> None:
    with opened(contestant) as pool:
        pool.map(workloads.square, range(50), 1)
        batch = [_array(1, seed) for seed in range(arrays)]
        expected = [workloads.fingerprint(array) - 2 * float(array[0]) for array in batch]
        gigabytes_both_ways = 2 * sum(array.nbytes for array in batch) / 1e9

        def once() -> float:
            gc.collect()
            started = time.perf_counter()
            results = pool.map(workloads.change_one_element, batch, 1)
            values = [workloads.fingerprint(result) for result in results]
            elapsed = time.perf_counter() - started
            check(all(map(_close, values, expected)), "an array came back with other contents")
            return float(gigabytes_both_ways / elapsed)

        record("first", once())
        rates = repeated(once, budget_seconds)
        record("steady", median(rates), repetitions=len(rates))


# ---- starting ----------------------------------------------------------------------------------------------------


def start(contestant: Contestant, record: Record, repetitions: int, with_pandas: bool, budget_seconds: float) -> None:
    if with_pandas:
        import numpy  # noqa: F401
        import pandas  # noqa: F401

    def once() -> float:
        gc.collect()
        started = time.perf_counter()
        contestant.open(PROCESSES)
        value = contestant.caller(workloads.square)(3)
        elapsed_ms = (time.perf_counter() - started) * 1000
        check(value == 9, f"apply(3) returned {value!r}")
        ended = time.perf_counter()
        contestant.close()
        closing_ms.append((time.perf_counter() - ended) * 1000)
        return elapsed_ms

    closing_ms: list[float] = []
    record("first", once())
    times_ms = repeated(once, budget_seconds, most=repetitions)
    record("again", median(times_ms), repetitions=len(times_ms), closing_ms=median(closing_ms))


def process(contestant: Contestant, record: Record, repetitions: int, budget_seconds: float) -> None:
    """One process that does nothing, started and joined."""

    def once() -> float:
        started = time.perf_counter()
        exit_code = contestant.run_process(workloads.nothing)
        elapsed_ms = (time.perf_counter() - started) * 1000
        check(exit_code == 0, f"the process ended with {exit_code}")
        return elapsed_ms

    record("first", once())
    once()
    times_ms = repeated(once, budget_seconds, most=repetitions)
    record("again", median(times_ms), repetitions=len(times_ms))


# ---- killed workers ----------------------------------------------------------------------------------------------


class NeverStarted(Exception):
    """A task that should have been running at once did not begin."""


def _wait_for_pid(announcement: str, limit_seconds: float) -> int:
    deadline = time.monotonic() + limit_seconds
    while time.monotonic() < deadline:
        try:
            with open(announcement) as file:
                return int(file.read())
        except FileNotFoundError:
            time.sleep(0.001)
    raise NeverStarted


class _Rendezvous:
    """Names of files by which tasks tell their pid and are let go."""

    def __init__(self) -> None:
        self._directory = tempfile.mkdtemp(prefix="bench-")
        self._count = 0

    def task(self, limit_seconds: float) -> tuple[str, str, float]:
        self._count += 1
        name = os.path.join(self._directory, str(self._count))
        return name, name + ".release", limit_seconds

    @staticmethod
    def release(task: tuple[str, str, float]) -> None:
        with open(task[1], "w"):
            pass


def _open_warm(contestant: Contestant) -> None:
    contestant.open(PROCESSES)
    contestant.map(workloads.square, range(50), 1)


def _text(error: BaseException) -> str:
    """The error in one line: of a message that carries a traceback, its last line."""
    lines = [line for line in str(error).splitlines() if line.strip(' "')] or [""]
    return f"{type(error).__name__}: {lines['Traceback' in str(error) and -1 or 0].strip()}"[:200]


def killed_worker(contestant: Contestant, record: Record, trials: int, limit_seconds: float) -> None:
    if _record_time_to_error(contestant, record, trials, limit_seconds):
        _record_time_to_replacement(contestant, record, trials, limit_seconds)


# Trials end early for a library that needs ten seconds for each.
_TRIALS_SECONDS = 10.0


def _record_time_to_error(contestant: Contestant, record: Record, trials: int, limit_seconds: float) -> bool:
    """Returns whether the pool could be used afterwards."""
    rendezvous = _Rendezvous()
    error_ms: list[float] = []
    error_text = ""
    broken = ""
    deadline = time.monotonic() + _TRIALS_SECONDS
    _open_warm(contestant)
    while len(error_ms) < trials and not broken and (not error_ms or time.monotonic() < deadline):
        task = rendezvous.task(limit_seconds + 60)
        handle = contestant.submit(workloads.announce_and_wait, task)
        try:
            victim = _wait_for_pid(task[0], limit_seconds)
        except NeverStarted:
            if not error_ms:
                raise Unsupported(f"a task given to an idle pool did not start within {limit_seconds:.0f} s") from None
            broken = "a later task never started"
            break
        time.sleep(0.05)
        started = time.perf_counter()
        os.kill(victim, signal.SIGKILL)
        try:
            contestant.collect(handle, limit_seconds)
        except contestant.timeout_errors:
            record("error", None, status="never", detail=f"nothing was raised in {limit_seconds:.0f} s")
            _abandon_quietly(contestant)
            return True
        except Exception as error:
            error_ms.append((time.perf_counter() - started) * 1000)
            error_text = _text(error)
        else:
            raise WrongAnswer("the killed task returned a result")
        try:
            value = contestant.collect(contestant.submit(workloads.square, 3), limit_seconds)
        except Exception as error:
            broken = f"{type(error).__name__} for the next task"
        else:
            check(value == 9, f"apply(3) returned {value!r} after a worker was killed")
    record("error", median(error_ms), error=error_text, trials=len(error_ms), slowest=max(error_ms))
    if broken:
        record("replacement", None, status="pool broken", detail=broken)
    _abandon_quietly(contestant)
    return not broken


def _record_time_to_replacement(contestant: Contestant, record: Record, trials: int, limit_seconds: float) -> None:
    # The other worker is held by a task, so that only the replacement can answer.
    rendezvous = _Rendezvous()
    replacement_ms: list[float] = []
    deadline = time.monotonic() + _TRIALS_SECONDS

    def failed(status: str, detail: str) -> None:
        record("replacement", None, status=status, detail=detail)
        _abandon_quietly(contestant)

    _open_warm(contestant)
    while len(replacement_ms) < trials and (not replacement_ms or time.monotonic() < deadline):
        held_task, victim_task = rendezvous.task(limit_seconds + 60), rendezvous.task(limit_seconds + 60)
        held = contestant.submit(workloads.announce_and_wait, held_task)
        contestant.submit(workloads.announce_and_wait, victim_task)
        try:
            victim = _wait_for_pid(victim_task[0], limit_seconds)
            known = {_wait_for_pid(held_task[0], limit_seconds), victim}
        except NeverStarted:
            return failed("not replaced", f"two tasks did not both start within {limit_seconds:.0f} s")
        time.sleep(0.05)
        started = time.perf_counter()
        os.kill(victim, signal.SIGKILL)
        try:
            pid = contestant.collect(contestant.submit(workloads.worker_pid, None), limit_seconds)
        except contestant.timeout_errors:
            return failed("never", f"no answer from a replacement in {limit_seconds:.0f} s")
        except Exception as error:
            return failed("pool broken", _text(error))
        replacement_ms.append((time.perf_counter() - started) * 1000)
        check(pid not in known, "a task was answered by a worker that was dead or busy")
        rendezvous.release(held_task)
        try:
            value = contestant.collect(held, limit_seconds)
        except contestant.timeout_errors:
            return failed("innocent task lost", "the other worker's task never ended")
        except Exception as error:
            return failed("innocent task lost", f"the other worker's task got {type(error).__name__}")
        check(value in known, "the other worker's task returned something else")
    record("replacement", median(replacement_ms), trials=len(replacement_ms), slowest=max(replacement_ms))
    _abandon_quietly(contestant)


def _abandon_quietly(contestant: Contestant) -> None:
    # A pool that hangs here, after all was measured, must not cost the figures: the process is left by os._exit.
    import threading

    def abandon() -> None:
        try:
            contestant.abandon()
        except BaseException:
            pass

    thread = threading.Thread(target=abandon, daemon=True)
    thread.start()
    thread.join(5)


def one_kill_among_many(contestant: Contestant, record: Record, n: int, limit_seconds: float) -> None:
    fatal = n // 2
    _open_warm(contestant)
    items = [(index, fatal) for index in range(n)]
    gc.collect()
    started = time.perf_counter()
    results, errors, never = contestant.outcomes(workloads.spin_half_a_millisecond, items, limit_seconds)
    elapsed = time.perf_counter() - started
    came = {index for index, _ in results}
    check(
        len(came) == len(results) and came <= set(range(n)) - {fatal},
        "a result came twice, or the killed task returned one",
    )
    text = f"{len(results)} results, {len(errors)} error{'' if len(errors) == 1 else 's'}"
    error = _text(errors[0]) if errors else ""
    if never:
        record("makespan", None, status="hangs", detail=f"{text}, {never} never came", error=error)
    elif (len(results), len(errors)) == (n - 1, 1):
        # A machine with other things to do stretches the tasks themselves; what the pool adds to that is the figure.
        ideal = (sum(seconds for _, seconds in results) + 0.0005) / PROCESSES
        record("makespan", elapsed / ideal, detail=text, error=error, seconds=elapsed, nominal_seconds=n * 0.0005 / 2)
    else:
        record("makespan", None, status=text, detail=f"{text} after {elapsed:.2f} s", error=error)
    _abandon_quietly(contestant)


# ---- scheduling --------------------------------------------------------------------------------------------------


def heavy_tailed_seconds(n: int, total_seconds: float) -> list[float]:
    """Durations of tasks: Pareto with exponent 1.2, cut at 60 times the least, scaled to the total.

    With 400 tasks of this seed two workers that each take the next task from one queue need 1.0003 of the ideal, and
    with the standard library's default chunks of 50 tasks 1.108: what a row reports above that is the pool's own.
    """
    import random

    source = random.Random(17)
    lengths = [min(source.paretovariate(1.2), 60.0) for _ in range(n)]
    scale = total_seconds / sum(lengths)
    return [length * scale for length in lengths]


def heavy_tail(contestant: Contestant, record: Record, kind: str, n: int, total_seconds: float) -> None:
    function = {"sleep": workloads.sleep_for, "cpu": workloads.burn_cpu}[kind]
    durations = heavy_tailed_seconds(n, total_seconds)
    with opened(contestant) as pool:
        runs: tuple[tuple[str, Callable[[], list[float]]], ...] = (
            ("default", lambda: pool.map(function, durations)),
            ("one", lambda: pool.map(function, durations, 1)),
            ("unordered", lambda: pool.unordered(function, durations)),
        )
        for key, run in runs:
            try:
                pool.map(workloads.square, range(50), 1)
                started = time.perf_counter()
                elapsed_in_tasks = run()
                elapsed = time.perf_counter() - started
            except Unsupported as error:
                record(key, None, status="unsupported", detail=str(error))
                continue
            check(len(elapsed_in_tasks) == n, f"{len(elapsed_in_tasks)} results of {n}")
            check(sum(elapsed_in_tasks) > 0.99 * total_seconds, "the tasks took less time than they were asked to")
            # That the operating system lets a task sleep too long is not the pool's doing; that the pool's own work
            # takes the processor away from the tasks is.
            lengths = elapsed_in_tasks if kind == "sleep" else durations
            ideal = max(sum(lengths) / PROCESSES, max(lengths))
            record(key, elapsed / ideal, seconds=elapsed, nominal_seconds=sum(durations) / PROCESSES)


# ---- memory and CPU ----------------------------------------------------------------------------------------------


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def queued_memory(contestant: Contestant, record: Record, n: int, limit_seconds: float) -> None:
    rendezvous = _Rendezvous()
    _open_warm(contestant)
    holders = [rendezvous.task(limit_seconds) for _ in range(PROCESSES)]
    held = [contestant.submit(workloads.announce_and_wait, task) for task in holders]
    for task in holders:
        try:
            _wait_for_pid(task[0], 10)
        except NeverStarted:
            raise Unsupported("two tasks given to two idle workers did not both start within 10 s") from None
    gc.collect()
    time.sleep(0.2)
    before = _resident_bytes()
    handles = [contestant.submit(workloads.square, x) for x in range(n)]
    # A feeding thread may still be moving tasks into a pipe; what it has taken out of the queue counts all the same.
    time.sleep(0.5)
    after = _resident_bytes()
    # The caller's own list of handles and the integers in it are the measurement's, not the pool's.
    own = sys.getsizeof(handles) + n * sys.getsizeof(n)
    record("bytes_per_task", max(0, after - before - own) / n, tasks=n, list_bytes=own)
    for task in holders:
        rendezvous.release(task)
    for handle in held:
        contestant.collect(handle, limit_seconds)
    deadline = time.monotonic() + limit_seconds
    for x, handle in enumerate(handles):
        value = contestant.collect(handle, max(0.1, deadline - time.monotonic()))
        check(value == x * x, f"queued task {x} returned {value!r}")
    contestant.close()


def _process_tree() -> list[int]:
    """The pids of this process, of everything below it, and of the daemons that it let go.

    ``run.py`` adopts whatever leaves its parent, so the tree is looked for from there.
    """
    root = os.getppid()
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    tree = [root]
    for pid in tree:
        tree.extend(child for child, parent in parents.items() if parent == pid and child not in tree)
    return tree[1:]


def _cpu_and_wakeups() -> tuple[float, int]:
    """CPU seconds used, and times gone to sleep, of all threads of the tree but this one."""
    cpu_ns = sleeps = 0
    for pid in _process_tree():
        try:
            threads = os.listdir(f"/proc/{pid}/task")
        except FileNotFoundError:
            continue
        for thread in threads:
            if int(thread) == os.getpid():
                continue
            try:
                with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
                    cpu_ns += int(file.read().split()[0])
                with open(f"/proc/{pid}/task/{thread}/status") as file:
                    for line in file:
                        if line.startswith("voluntary_ctxt_switches:"):
                            sleeps += int(line.split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    return cpu_ns / 1e9, sleeps


def idle(contestant: Contestant, record: Record, seconds: float) -> None:
    with opened(contestant) as pool:
        pool.map(workloads.square, range(2000), 1)
        time.sleep(1.5)
        cpu_before, wakeups_before = _cpu_and_wakeups()
        started = time.perf_counter()
        time.sleep(seconds)
        elapsed = time.perf_counter() - started
        cpu_after, wakeups_after = _cpu_and_wakeups()
        record("cpu", (cpu_after - cpu_before) * 1000 / elapsed)
        record("wakeups", (wakeups_after - wakeups_before) / elapsed)
        check(pool.caller(workloads.square)(3) == 9, "the pool forgot how to work while it was idle")


_HOG = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    for _ in range(100000): pass\n"


@contextmanager
def busy_cores(hogs: int) -> Iterator[None]:
    """As many processes that never sleep as there are cores to keep busy."""
    import subprocess

    processes = [subprocess.Popen([sys.executable, "-S", "-c", _HOG]) for _ in range(hogs)]
    time.sleep(0.2)
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def busy(contestant: Contestant, record: Record, n: int, n_map: int, budget_seconds: float) -> None:
    # Two pools, because mpire's takes calls of one kind only.
    with opened(contestant) as pool, busy_cores(2):
        call = pool.caller(workloads.burn_cpu_microseconds)
        for microseconds in (0, 20, 200):
            for _ in range(10):
                call(microseconds)
            deadline = time.monotonic() + budget_seconds
            calls = 0
            started = time.perf_counter()
            while calls < n and (calls < 20 or time.monotonic() < deadline):
                check(call(microseconds) == microseconds, "apply returned something else")
                calls += 1
            record(f"apply_{microseconds}", (time.perf_counter() - started) * 1e6 / calls, calls=calls)
    with opened(contestant) as pool, busy_cores(2):
        for microseconds in (0, 20, 200):
            items = [microseconds] * n_map
            pool.map(workloads.burn_cpu_microseconds, items[:50], 1)

            def once(items: list[int] = items) -> float:
                started = time.perf_counter()
                values = pool.map(workloads.burn_cpu_microseconds, items, 1)
                elapsed = time.perf_counter() - started
                check(values == items, "map returned something else")
                return elapsed * 1e6 / n_map

            times_us = repeated(once, budget_seconds)
            record(f"map_{microseconds}", median(times_us), repetitions=len(times_us))
