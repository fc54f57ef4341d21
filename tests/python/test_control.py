"""What the caller decides about what runs: limits of one call, cancelling, waiting in an event loop, priorities, memory.

As in the fault table, only the task fails that is meant, and the pool goes on.
"""

import asyncio
import os
import time

import control_tasks
import fault_tasks
import pytest
import tasks
from harness import (
    Process,
    assert_pool_is_whole,
    get,
    open_pool,
    pool_tests,
    promised_by_us_only,
    take,
    wait_for_file,
    wait_until,
)
from subject import mp

pytestmark = [*pool_tests, promised_by_us_only]


# ---------------------------------------------------------------------------------------------------------------------
# Time limits.


def each_call_with_a_limit(pool, function, items, seconds):
    """The outcomes of a call with this limit, made in each way."""
    yield [get(pool.apply_async(function, (item,), timeout=seconds)) for item in items]
    yield take(pool.imap(function, items, timeout=seconds))
    yield take(pool.imap_unordered(function, items, timeout=seconds))


def test_limit_of_one_call_ends_only_that_call(start_method):
    with open_pool(start_method) as pool:
        unlimited = pool.apply_async(tasks.sleep_and_return, (1.0, "done"))
        for outcomes in each_call_with_a_limit(pool, fault_tasks.sleep_forever_at_thirteen, [12, 13, 14], 0.1):
            assert sum(type(outcome) is mp.TaskTimeout for outcome in outcomes) == 1, outcomes
            assert len(outcomes) == 3
        with pytest.raises(mp.TaskTimeout):
            pool.map(fault_tasks.sleep_forever_at_thirteen, range(20), timeout=0.1)
        with pytest.raises(mp.TaskTimeout):
            pool.apply(tasks.sleep_forever, timeout=0.1)
        assert get(unlimited) == "done"
        assert_pool_is_whole(pool)


def test_limit_of_a_call_takes_the_place_of_the_pools(start_method):
    with open_pool(start_method, timeout=0.2) as pool:
        assert get(pool.apply_async(tasks.sleep_and_return, (0.6, "patient"), timeout=float("inf"))) == "patient"
        error = get(pool.apply_async(tasks.sleep_forever, timeout=0.05))
        assert error.limit_seconds == 0.05 <= error.elapsed_seconds


@pytest.mark.parametrize("function", [tasks.sleep_forever, tasks.spin_forever, control_tasks.recurse_and_sleep])
def test_timeout_tells_where_the_task_was(start_method, function):
    with open_pool(start_method) as pool:
        error = get(pool.apply_async(function, timeout=0.1))
        assert type(error) is mp.TaskTimeout
        assert f"in {function.__name__}" in error.stack and "tasks.py" in error.stack
        assert error.stack.rstrip() in str(error)


def test_task_that_hears_of_its_end_may_clean_up(start_method, tmp_path):
    with open_pool(start_method) as pool:
        error = get(pool.apply_async(control_tasks.clean_up_at_sigterm, (str(tmp_path / "cleaned"),), timeout=0.3))
        assert type(error) is mp.TaskTimeout
        assert wait_for_file(tmp_path / "cleaned") == "cleaned"
        assert_pool_is_whole(pool)


@pytest.mark.parametrize("limit", [0, -1, float("nan"), "1", b"", [], object()])
def test_limit_of_a_call_that_makes_no_sense_is_refused(limit):
    with open_pool("fork", 1) as pool:
        for call in (
            lambda: pool.apply_async(tasks.nothing, timeout=limit),
            lambda: pool.map(tasks.double, [1], timeout=limit),
            lambda: pool.imap(tasks.double, [1], timeout=limit),
        ):
            with pytest.raises((TypeError, ValueError), match="timeout must be"):
                call()


# ---------------------------------------------------------------------------------------------------------------------
# Cancelling.


def busy(pool, tmp_path, count=2):
    """Occupies all workers; returns their results and processes."""
    results = [
        pool.apply_async(control_tasks.announce_pid_and_sleep, (str(tmp_path / f"busy-{i}"),)) for i in range(count)
    ]
    return results, [Process(int(wait_for_file(tmp_path / f"busy-{i}"))) for i in range(count)]


def test_cancelled_running_task_ends_and_others_go_on(start_method, tmp_path):
    with open_pool(start_method) as pool:
        (first, second), (process, other) = busy(pool, tmp_path)
        queued = pool.apply_async(tasks.double, (4,))
        assert first.cancel() is True
        assert first.cancel() is False
        error = get(first)
        assert type(error) is mp.TaskCancelled and "announce_pid_and_sleep" in error.task
        assert get(queued) == 8
        wait_until(lambda: not process.is_alive(), "the cancelled task's process has ended")
        assert other.is_alive() and not second.ready()
        assert second.cancel()
        assert_pool_is_whole(pool)


def test_cancelled_queued_task_never_begins(start_method, tmp_path):
    with open_pool(start_method) as pool:
        running, processes = busy(pool, tmp_path)
        queued = [pool.apply_async(tasks.touch, (str(tmp_path / f"touched-{i}"),)) for i in range(5)]
        large = pool.apply_async(len, (bytearray(1 << 20),))
        assert all(result.cancel() for result in [*queued[1:], large])
        assert all(type(get(result)) is mp.TaskCancelled for result in queued[1:])
        assert all(process.is_alive() for process in processes)
        assert all(result.cancel() for result in running)
        get(queued[0])
        assert_pool_is_whole(pool)
        assert sorted(path.name for path in tmp_path.glob("touched-*")) == ["touched-0"]


def test_result_that_is_there_cannot_be_cancelled(start_method):
    with open_pool(start_method) as pool:
        result = pool.apply_async(tasks.double, (2,))
        result.wait()
        assert result.cancel() is False and get(result) == 4
        results = pool.map_async(tasks.double, [1, 2])
        results.wait()
        assert results.cancel() is False and get(results) == [2, 4]


def test_cancelled_map_ends_as_a_whole(start_method, tmp_path):
    with open_pool(start_method) as pool:
        heard = []
        paths = [str(tmp_path / f"busy-{i}") for i in range(1000)]
        result = pool.map_async(control_tasks.announce_pid_and_sleep, paths, error_callback=heard.append)
        processes = [Process(int(wait_for_file(path))) for path in (tmp_path / "busy-0", tmp_path / "busy-1")]
        innocent = pool.apply_async(tasks.double, (3,))
        assert result.cancel()
        assert type(get(result)) is mp.TaskCancelled and heard == [get(result)]
        assert get(innocent) == 6
        iterator = pool.imap(fault_tasks.sleep_forever_at_thirteen, [1, 2, 13, 3])
        assert [next(iterator), next(iterator)] == [1, 4]
        assert iterator.cancel() is True
        assert [type(item) for item in take(iterator)] == [mp.TaskCancelled]
        assert iterator.cancel() is False
        assert_pool_is_whole(pool)
        wait_until(lambda: not any(process.is_alive() for process in processes), "those who ran it have ended")


def test_cancelling_everything_leaves_a_pool_that_works(start_method):
    with open_pool(start_method) as pool:
        results = [pool.apply_async(tasks.sleep_forever) for _ in range(10)]
        mapped = pool.map_async(tasks.sleep_forever, range(10))
        assert pool.cancel() == 11
        assert pool.cancel() == 0
        assert all(type(get(result)) is mp.TaskCancelled for result in [*results, mapped])
        assert_pool_is_whole(pool)


def test_cancelling_while_results_arrive_gives_each_task_one_end():
    with open_pool("fork") as pool:
        ends = {True: 0, False: 0}
        for round_ in range(150):
            results = [pool.apply_async(tasks.double, (i,)) for i in range(8)]
            for i, result in enumerate(results):
                cancelled = (i + round_) % 3 == 0 and result.cancel()
                end = get(result)
                assert type(end) is mp.TaskCancelled if cancelled else end == 2 * i
                ends[bool(cancelled)] += 1
        assert min(ends.values()) > 0
        assert_pool_is_whole(pool)


# ---------------------------------------------------------------------------------------------------------------------
# In an event loop.


def test_results_can_be_awaited(start_method):
    async def main(pool):
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.ensure_future(tick())
        assert await pool.apply_async(tasks.sleep_and_return, (0.3, "slept")) == "slept"
        assert ticks > 3
        assert await pool.map_async(tasks.double, range(5)) == [0, 2, 4, 6, 8]
        many = [pool.apply_async(tasks.double, (i,)) for i in range(100)]
        assert await asyncio.gather(*many) == [2 * i for i in range(100)]
        with pytest.raises(ValueError):
            await pool.apply_async(tasks.raise_value_error)
        with pytest.raises(mp.WorkerDied):
            await pool.apply_async(os._exit, (3,))
        endless = pool.apply_async(tasks.sleep_forever)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.ensure_future(awaiting(endless)), 0.05)
        assert endless.cancel()
        with pytest.raises(mp.TaskCancelled):
            await endless
        ticking.cancel()

    async def awaiting(result):
        return await result

    with open_pool(start_method) as pool:
        asyncio.run(main(pool))
        assert_pool_is_whole(pool)


def test_iterators_can_be_read_in_an_event_loop(start_method):
    async def main(pool):
        assert [x async for x in pool.imap(tasks.double, range(200))] == [2 * x for x in range(200)]
        from_generator = pool.imap_unordered(tasks.double, (x for x in range(200)), buffersize=8)
        assert sorted([x async for x in from_generator]) == [2 * x for x in range(200)]
        got = []
        with pytest.raises(mp.WorkerDied):
            async for x in pool.imap(fault_tasks.os_exit_at_thirteen, [1, 13, 2]):
                got.append(x)
        assert got == [1]
        assert [x async for x in pool.imap(tasks.double, [])] == []

    with open_pool(start_method) as pool:
        asyncio.run(main(pool))


def test_those_who_await_hear_of_the_pools_end(start_method):
    async def main(pool):
        waiting = asyncio.ensure_future(awaiting(pool.apply_async(tasks.sleep_forever)))
        reading = asyncio.ensure_future(reading_one(pool.imap(tasks.sleep_forever, range(5))))
        await asyncio.sleep(0.05)
        await asyncio.get_running_loop().run_in_executor(None, pool.terminate)
        assert [type(e) for e in await asyncio.gather(waiting, reading, return_exceptions=True)] == [
            mp.PoolTerminated
        ] * 2

    async def awaiting(result):
        return await result

    async def reading_one(iterator):
        async for _ in iterator:
            pass

    with open_pool(start_method) as pool:
        asyncio.run(main(pool))


# ---------------------------------------------------------------------------------------------------------------------
# Priorities.


def test_higher_priorities_go_first_and_equals_in_order(start_method, tmp_path):
    log = tmp_path / "log"
    with open_pool(start_method, 1, tasks.log_into, (str(log),)) as pool:
        results, _ = busy(pool, tmp_path, 1)
        for priority, names in [(0, "ab"), (-5, "yz"), (7, "AB"), (0, "cd"), (9, "!"), (-5, "x")]:
            results += [pool.apply_async(tasks.note_text, (name,), priority=priority) for name in names]
        taken_back = results.pop(4)
        assert taken_back.cancel()
        results += [pool.map_async(tasks.note_text, "MN", priority=8)]
        assert results[0].cancel()
        assert [get(result) for result in results[1:4]] == [None] * 3
        for result in results[1:]:
            get(result)
        assert "".join(log.read_text().split()) == "!MNABabcdyx"


def test_many_priorities_lose_nothing():
    with open_pool("fork") as pool:
        results = [pool.apply_async(tasks.double, (i,), priority=i % 7 - 3) for i in range(3000)]
        mapped = [pool.map_async(tasks.double, range(500), priority=p) for p in (-2, 0, 2)]
        victim = pool.apply_async(os._exit, (3,), priority=5)
        assert [get(result) for result in results] == [2 * i for i in range(3000)]
        assert all(get(result) == [2 * i for i in range(500)] for result in mapped)
        assert type(get(victim)) is mp.WorkerDied
        assert_pool_is_whole(pool)


# ---------------------------------------------------------------------------------------------------------------------
# Memory.


def test_task_that_takes_too_much_memory_fails_alone(start_method):
    with open_pool(start_method, memory_limit="64M") as pool:
        results = [pool.apply_async(control_tasks.hoard_at_thirteen, (i,)) for i in (11, 12, 13, 14)]
        error = get(results.pop(2))
        assert type(error) is mp.MemoryLimitExceeded
        assert error.limit_bytes == 64 << 20 < error.peak_bytes
        assert "hoard_at_thirteen(13)" in error.task and "in hoard" in error.stack
        assert [get(result) for result in results] == [11, 12, 14]
        with pytest.raises(mp.MemoryLimitExceeded):
            pool.map(control_tasks.hoard_at_thirteen, range(20))
        assert_pool_is_whole(pool)


def test_worker_that_has_grown_is_replaced_after_its_task(start_method):
    with open_pool(start_method, 1, recycle_memory="32M") as pool:
        first = pool.apply(tasks.pid)
        assert pool.apply(tasks.pid) == first
        assert pool.apply(control_tasks.leak, (64 << 20,)) == first
        wait_until(lambda: pool.apply(tasks.pid) != first, "a fresh worker is there")


@pytest.mark.parametrize("amount", [0, -1, "", "x", "5X", "-3M", 2**63, True, [], float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["memory_limit", "recycle_memory"])
def test_amount_of_memory_that_makes_no_sense_is_refused(name, amount):
    with pytest.raises((TypeError, ValueError), match=name):
        mp.Pool(1, **{name: amount})


def test_idle_worker_with_too_much_memory_is_replaced_unseen(start_method):
    with open_pool(start_method, 1, memory_limit="64M") as pool:
        first = pool.apply(tasks.pid)
        # It may be seen in the midst of its task, too.
        get(pool.apply_async(control_tasks.leak, (96 << 20,)))
        wait_until(lambda: not Process(first).is_alive(), "the heavy worker has ended")
        time.sleep(0.01)
        assert_pool_is_whole(pool, 1)
