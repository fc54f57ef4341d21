"""Tasks that are tried again: which failures count, how often, after which pause, and what is reported at last."""

import asyncio
import time

import control_tasks
import pytest
import tasks
from harness import assert_pool_is_whole, get, line_count, open_pool, pool_tests, promised_by_us_only, take, wait_until
from subject import mp

pytestmark = [*pool_tests, promised_by_us_only]


@pytest.mark.parametrize("how", ["exit", "kill", "sleep"])
def test_task_that_fails_from_outside_is_tried_again(start_method, how, tmp_path):
    with open_pool(start_method, retries=2, timeout=0.4 if how == "sleep" else None) as pool:
        path = str(tmp_path / "log")
        assert get(pool.apply_async(control_tasks.fail_at_first, (path, 2, how))) == 3
        assert line_count(path) == 3
        assert_pool_is_whole(pool)


def test_poison_is_given_up_and_named(start_method, tmp_path):
    with open_pool(start_method, retries=2) as pool:
        path = str(tmp_path / "log")
        innocent = [pool.apply_async(tasks.double, (i,)) for i in range(50)]
        error = get(pool.apply_async(control_tasks.fail_at_first, (path, 99, "exit")))
        assert type(error) is mp.PoisonTask and isinstance(error, mp.WorkerDied)
        assert (error.attempts, error.exitcode, line_count(path)) == (3, 7, 3)
        assert "fail_at_first" in error.task and "3 attempts" in str(error)
        assert [get(result) for result in innocent] == [2 * i for i in range(50)]
        assert_pool_is_whole(pool)


def test_exceptions_count_only_if_they_are_named(start_method, tmp_path):
    with open_pool(start_method, retries=3) as pool:
        error = get(pool.apply_async(control_tasks.fail_at_first, (str(tmp_path / "a"), 1, "raise")))
        assert type(error) is ConnectionError and line_count(tmp_path / "a") == 1
        named = mp.Retry(3, on=ConnectionError)
        assert get(pool.apply_async(control_tasks.fail_at_first, (str(tmp_path / "b"), 2, "raise"), retries=named)) == 3
        error = get(pool.apply_async(control_tasks.fail_at_first, (str(tmp_path / "c"), 1, "exit"), retries=named))
        assert type(error) is mp.WorkerDied and line_count(tmp_path / "c") == 1
        asked = mp.Retry(9, on=lambda error: "attempt 2" not in str(error))
        error = get(pool.apply_async(control_tasks.fail_at_first, (str(tmp_path / "d"), 9, "raise"), retries=asked))
        assert str(error) == "attempt 2"


def test_call_may_say_that_nothing_is_tried_again(start_method, tmp_path):
    with open_pool(start_method, retries=3) as pool:
        error = get(pool.apply_async(control_tasks.fail_at_first, (str(tmp_path / "a"), 1, "exit"), retries=0))
        assert type(error) is mp.WorkerDied and line_count(tmp_path / "a") == 1


def test_pauses_grow(tmp_path):
    with open_pool("fork") as pool:
        began = time.monotonic()
        growing = mp.Retry(3, delay=0.05, factor=2, on=ConnectionError)
        assert (
            get(pool.apply_async(control_tasks.fail_at_first, (str(tmp_path / "a"), 3, "raise"), retries=growing)) == 4
        )
        assert time.monotonic() - began >= 0.05 + 0.1 + 0.2
    assert [mp.Retry(9, delay=1, factor=10, max_delay=50).pause_seconds(n) for n in (1, 2, 3, 1000)] == [1, 10, 50, 50]


def test_each_way_to_call_tries_again(start_method, tmp_path):
    def arguments(name):
        return [(str(tmp_path / f"{name}-{i}"), i % 3, "exit") for i in range(6)]

    expected = [1, 2, 3, 1, 2, 3]
    with open_pool(start_method, retries=2) as pool:
        assert pool.starmap(control_tasks.fail_at_first, arguments("starmap")) == expected
        assert pool.map(control_tasks.fail_at_first_packed, arguments("map")) == expected
        assert get(pool.map_async(control_tasks.fail_at_first_packed, arguments("map_async"))) == expected
        assert take(pool.imap(control_tasks.fail_at_first_packed, arguments("imap"))) == expected
        unordered = pool.imap_unordered(control_tasks.fail_at_first_packed, iter(arguments("unordered")), buffersize=3)
        assert sorted(take(unordered)) == sorted(expected)
        assert pool.apply(control_tasks.fail_at_first, (str(tmp_path / "apply"), 2, "exit")) == 3
        assert pool.map(tasks.double, []) == [] == take(pool.imap(tasks.double, []))

        async def read():
            iterator = pool.imap(control_tasks.fail_at_first_packed, arguments("async"))
            return await pool.apply_async(tasks.double, (4,)), [x async for x in iterator]

        assert asyncio.run(read()) == (8, expected)


def test_iterator_of_items_that_are_tried_again_tells_of_its_source_and_stays_within_its_buffer():
    pulled = []

    def source():
        for x in range(100):
            pulled.append(x)
            yield x
            if x == 20:
                raise KeyError("source")

    with open_pool("fork", retries=1) as pool:
        iterator = pool.imap(tasks.double, source(), buffersize=4)
        assert take(iterator, 3) == [0, 2, 4]
        assert len(pulled) <= 8
        rest = take(iterator)
        assert rest[:-1] == [2 * x for x in range(3, 21)] and repr(rest[-1]) == "KeyError('source')"


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
@pytest.mark.parametrize("joined", [True, False])
def test_iterator_of_items_that_are_tried_again_is_read_to_its_end_though_the_pool_is_closed(method, joined):
    with open_pool("fork", retries=2) as pool:
        iterator = getattr(pool, method)(tasks.double, (x for x in range(30)), buffersize=4)
        first = next(iterator)
        pool.close()
        if joined:
            pool.join()
        assert sorted([first, *iterator]) == [2 * x for x in range(30)]
        with pytest.raises(ValueError, match="not running"):
            pool.imap(tasks.double, [1])


def test_cancelling_and_terminating_end_what_waits_for_its_next_attempt(start_method, tmp_path):
    patient = mp.Retry(5, delay=1000, max_delay=1000, on=ConnectionError)

    def begin(pool, name):
        result = pool.apply_async(control_tasks.fail_at_first, (str(tmp_path / name), 9, "raise"), retries=patient)
        wait_until(lambda: line_count(tmp_path / name), "the first attempt has failed")
        return result

    with open_pool(start_method) as pool:
        cancelled = begin(pool, "cancelled")
        assert cancelled.cancel() and not cancelled.cancel()
        assert type(get(cancelled)) is mp.TaskCancelled
        running = pool.map_async(tasks.sleep_forever, range(4), retries=2)
        assert running.cancel() and type(get(running)) is mp.TaskCancelled
        assert_pool_is_whole(pool)
        terminated = begin(pool, "terminated")
        pool.terminate()
        assert type(get(terminated)) is mp.PoolTerminated


def test_closed_pool_still_tries_again_before_it_ends(start_method, tmp_path):
    with open_pool(start_method) as pool:
        again = mp.Retry(2, delay=0.1, on=ConnectionError)
        result = pool.apply_async(control_tasks.fail_at_first, (str(tmp_path / "log"), 2, "raise"), retries=again)
        pool.close()
        pool.join()
        assert get(result) == 3
        with pytest.raises(ValueError, match="not running"):
            pool.apply_async(tasks.double, (1,), retries=2)


@pytest.mark.parametrize("retries", [-1, 1.5, "2", True, []])
def test_retries_that_make_no_sense_are_refused(retries):
    with pytest.raises((TypeError, ValueError), match="retries"):
        mp.Pool(1, retries=retries)


@pytest.mark.parametrize("wrong", [{"delay": -1}, {"delay": "x"}, {"factor": 0.5}, {"max_delay": -1}, {"on": 3}])
def test_retry_that_makes_no_sense_is_refused(wrong):
    with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
        mp.Retry(1, **wrong)
