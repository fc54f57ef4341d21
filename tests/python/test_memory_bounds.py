"""Memory is bounded in items and bytes, and what was used is given back, however the work ended.

Bounds are generous, in megabytes where a leak would show in hundreds: they tell a leak from none, not good from better.
"""

import functools
import gc
import os
import random
import time

import pytest
import tasks
from harness import (
    PATIENCE_SECONDS,
    Process,
    WorkerHunter,
    assert_pool_is_whole,
    children,
    descendants,
    get,
    line_count,
    native_thread_count,
    open_pool,
    pool_tests,
    promised_by_us_only,
    wait_for_file,
    wait_until,
)
from subject import mp

pytestmark = pool_tests

MEGABYTE = 1_000_000


def resident_kib():
    gc.collect()
    return tasks.memory_kib()["VmRSS"]


def anonymous_file_bytes():
    """What all memory files that this process and its descendants have open or mapped take up, each counted once."""
    sizes = {}
    for pid in [os.getpid(), *(process.pid for process in descendants(os.getpid()))]:
        for place in ("fd", "map_files"):
            try:
                entries = os.listdir(f"/proc/{pid}/{place}")
            except OSError:
                continue
            for entry in entries:
                path = f"/proc/{pid}/{place}/{entry}"
                try:
                    if os.readlink(path).startswith("/memfd:"):
                        status = os.stat(path)
                        sizes[status.st_dev, status.st_ino] = 512 * status.st_blocks
                except OSError:
                    continue
    return sum(sizes.values())


def block_workers(pool, count, directory):
    """Has every worker wait for the file that is returned."""
    gate = os.path.join(str(directory), "gate")
    for number in range(count):
        pool.apply_async(tasks.touch_and_wait, (os.path.join(str(directory), f"blocked {number}"), gate))
    for number in range(count):
        wait_for_file(os.path.join(str(directory), f"blocked {number}"))
    return gate


@promised_by_us_only
def test_a_queued_task_takes_less_than_a_kilobyte(start_method, tmp_path):
    count = 100_000
    with open_pool(start_method, 1) as pool:
        gate = block_workers(pool, 1, tmp_path)
        before = resident_kib()
        results = [pool.apply_async(tasks.double, (x,)) for x in range(count)]
        grown = resident_kib() - before
        tasks.touch(gate)
        assert [get(result) for result in results] == [2 * x for x in range(count)]
        assert grown < count, f"{1024 * grown / count:.0f} bytes per task"


@promised_by_us_only
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_large_items_are_not_piled_up_for_a_slow_worker(start_method, method, tmp_path):
    consumed = 0

    def items():
        nonlocal consumed
        while True:
            consumed += 1
            yield bytes(MEGABYTE)

    with open_pool(start_method, 1) as pool:
        gate = block_workers(pool, 1, tmp_path)
        before = resident_kib()
        iterator = getattr(pool, method)(tasks.length_of, items())
        time.sleep(1.0)
        assert consumed <= 300
        assert resident_kib() - before < 600_000
        tasks.touch(gate)
        assert [next(iterator) for _ in range(500)] == [MEGABYTE] * 500
        assert resident_kib() - before < 600_000


@promised_by_us_only
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_large_results_are_not_piled_up_for_a_slow_reader(start_method, method, tmp_path):
    log = tmp_path / "log"
    with open_pool(start_method, 2, tasks.log_into, (str(log),)) as pool:
        before = anonymous_file_bytes()
        iterator = getattr(pool, method)(tasks.logged_megabyte, range(100_000))
        next(iterator)
        time.sleep(1.0)
        assert line_count(log) <= 300
        assert anonymous_file_bytes() - before < 600 * MEGABYTE
        for _ in range(500):
            assert len(next(iterator)) == MEGABYTE
        assert line_count(log) <= 500 + 300
        assert anonymous_file_bytes() - before < 600 * MEGABYTE


def test_a_hundred_thousand_tasks_leave_nothing(start_method):
    with open_pool(start_method, 1) as pool:

        def work(count):
            for start in range(0, count, 1000):
                results = [pool.apply_async(tasks.with_default, (x,), {"c": [x]}) for x in range(start, start + 1000)]
                assert [get(result) for result in results] == [(x, 10, [x]) for x in range(start, start + 1000)]
            assert sum(pool.imap_unordered(tasks.identity, range(count // 10))) == sum(range(count // 10))
            assert pool.map(tasks.identity, range(count // 10), 1) == list(range(count // 10))

        work(10_000)
        before = resident_kib(), pool.apply(tasks.memory_kib)["VmRSS"]
        descriptors = tasks.open_descriptors(), pool.apply(tasks.open_descriptors)
        work(50_000)
        after = resident_kib(), pool.apply(tasks.memory_kib)["VmRSS"]
        assert after[0] - before[0] < 20_000, (before, after)
        assert after[1] - before[1] < 20_000, (before, after)
        assert (tasks.open_descriptors(), pool.apply(tasks.open_descriptors)) == descriptors


def test_errors_leave_nothing(start_method):
    with open_pool(start_method, 1) as pool:

        def work(count):
            for _ in range(count):
                assert type(get(pool.apply_async(tasks.raise_custom_error, (1, "x" * 10_000)))) is tasks.CustomError

        work(300)
        before = resident_kib(), pool.apply(tasks.memory_kib)["VmRSS"]
        work(2000)
        after = resident_kib(), pool.apply(tasks.memory_kib)["VmRSS"]
        assert after[0] - before[0] < 15_000, (before, after)
        assert after[1] - before[1] < 15_000, (before, after)


def test_large_results_that_nobody_asks_for_are_given_back(start_method):
    with open_pool(start_method, 1) as pool:

        def work(count):
            for _ in range(count):
                pool.apply_async(tasks.make_bytes, (2 * MEGABYTE,))
                # Somebody has to come by for the results to be taken in at all.
                pool.apply(tasks.nothing)

        work(20)
        before = resident_kib(), anonymous_file_bytes()
        work(150)
        after = resident_kib(), anonymous_file_bytes()
        assert after[0] - before[0] < 60_000, (before, after)
        assert after[1] - before[1] < 60 * MEGABYTE, (before, after)


def test_large_results_of_an_iterator_that_is_dropped_are_given_back(start_method):
    make = functools.partial(tasks.make_bytes, MEGABYTE)
    with open_pool(start_method, 1) as pool:

        def work(count):
            for _ in range(count):
                iterator = pool.imap(make, range(10))
                next(iterator)
                del iterator
                pool.apply(tasks.nothing)

        work(10)
        before = resident_kib(), anonymous_file_bytes()
        work(50)
        after = resident_kib(), anonymous_file_bytes()
        assert after[0] - before[0] < 100_000, (before, after)
        assert after[1] - before[1] < 100 * MEGABYTE, (before, after)


@promised_by_us_only
def test_what_dead_workers_held_is_given_back(start_method):
    generator = random.Random(7)
    payload = bytes(4 * MEGABYTE)
    with open_pool(start_method) as pool:
        hunter = WorkerHunter(pool, 2)

        def work(rounds):
            for _ in range(rounds):
                results = [pool.apply_async(tasks.identity, (payload,)) for _ in range(3)]
                time.sleep(generator.uniform(0.0, 0.01))
                for worker in hunter.workers():
                    worker.kill()
                for result in results:
                    got = get(result)
                    assert type(got) is mp.WorkerDied or got == payload

        work(10)
        before = resident_kib(), anonymous_file_bytes()
        work(40)
        after = resident_kib(), anonymous_file_bytes()
        assert after[0] - before[0] < 100_000, (before, after)
        assert after[1] - before[1] < 100 * MEGABYTE, (before, after)
        assert_pool_is_whole(pool)


def test_many_functions_that_live_shortly_are_told_apart_and_leave_nothing(start_method):
    with open_pool(start_method, 1) as pool:

        def work(count):
            for number in range(count):
                # Each is a new object, most of them at an address where another was before.
                function = functools.partial(tasks.with_default, number, c=bytes(10_000))
                assert pool.apply(function)[0] == number

        work(500)
        before = resident_kib(), pool.apply(tasks.memory_kib)["VmRSS"]
        work(3000)
        after = resident_kib(), pool.apply(tasks.memory_kib)["VmRSS"]
        assert after[0] - before[0] < 15_000, (before, after)
        assert after[1] - before[1] < 15_000, (before, after)


def test_many_pools_in_turn_leave_nothing(start_method):
    def work(count):
        for number in range(count):
            with open_pool(start_method, 1) as pool:
                assert pool.apply(tasks.length_of, (bytes(MEGABYTE),)) == MEGABYTE
                if number % 3 == 0:
                    pool.close()

    count = 40 if start_method == "fork" else 10
    work(5)
    before = resident_kib(), tasks.open_descriptors(), native_thread_count()
    work(count)
    after = resident_kib(), tasks.open_descriptors(), native_thread_count()
    assert after[0] - before[0] < 15_000, (before, after)
    assert after[1:] == before[1:]


@promised_by_us_only
def test_many_replaced_workers_leave_nothing(start_method, tmp_path):
    with open_pool(start_method, 1, maxtasksperchild=1) as pool:
        # A worker lives only as long as its task here.
        gate = block_workers(pool, 1, tmp_path)
        supervisor = Process(int(wait_for_file(tmp_path / "blocked 0"))).parent_pid()
        tasks.touch(gate)

        def descriptors():
            return tasks.open_descriptors(), len(os.listdir(f"/proc/{supervisor}/fd"))

        def work(count):
            for number in range(count):
                assert get(pool.apply_async(tasks.double, (number,))) == 2 * number

        work(20)
        before = resident_kib(), descriptors()
        work(150)
        # A replacement that is just being made has a descriptor or two of its own.
        wait_until(lambda: descriptors() == before[1], f"as many descriptors as before: {before[1]}, {descriptors()}")
        assert resident_kib() - before[0] < 10_000
        assert all(process.state() != "Z" for process in children(supervisor))


def test_waiting_with_timeouts_leaves_nothing(start_method):
    with open_pool(start_method, 1) as pool:
        result = pool.apply_async(tasks.sleep_and_return, (1.0,))
        before = resident_kib(), tasks.open_descriptors()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not result.ready() and time.monotonic() < deadline:
            for _ in range(100):
                result.wait(0)
                try:
                    result.get(0.0001)
                except mp.TimeoutError:
                    pass
        after = resident_kib(), tasks.open_descriptors()
        assert after[0] - before[0] < 10_000, (before, after)
        assert after[1] == before[1]
        assert get(result) is None
