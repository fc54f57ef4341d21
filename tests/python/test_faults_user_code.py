"""Faults of the caller's own code around its tasks: initializers, callbacks and generators that fail."""

import gc
import os
import signal
import threading
import time

import fault_tasks
import pytest
import tasks
import worker_tasks
from harness import (
    PATIENCE_SECONDS,
    assert_pool_is_whole,
    get,
    line_count,
    open_pool,
    outcome,
    pool_tests,
    promised_by_us_only,
    take,
    time_limit,
    wait_until,
    worker_pids,
)
from subject import mp

pytestmark = [*pool_tests, promised_by_us_only]


# ---------------------------------------------------------------------------------------------------------------------
# Initializers that fail.

FAILING_INITIALIZERS = {
    "raises": (
        worker_tasks.count_start_and_raise,
        (),
        ("LookupError: the initializer found nothing", "count_start_and_raise"),
    ),
    "exits": (worker_tasks.count_start_and_exit, (3,), ("exited with code 3",)),
    "is killed": (worker_tasks.count_start_and_sigkill, (), ("SIGKILL",)),
    "calls sys.exit": (worker_tasks.count_start_and_sys_exit, (), ("the initializer gave up",)),
}


@pytest.mark.parametrize("kind", FAILING_INITIALIZERS)
def test_a_failing_initializer_is_one_error_to_everybody(start_method, kind, tmp_path):
    initializer, more, words = FAILING_INITIALIZERS[kind]
    starts = tmp_path / "starts"
    with open_pool(start_method, 2, initializer, (str(starts), *more)) as pool:
        with time_limit(PATIENCE_SECONDS, "waiting for the initializer's error"):
            for way in (
                lambda: pool.apply_async(tasks.double, (1,)).get(PATIENCE_SECONDS),
                lambda: pool.map(tasks.double, range(10)),
                lambda: pool.imap(tasks.double, range(10)).next(PATIENCE_SECONDS),
                lambda: pool.imap_unordered(tasks.double, range(10)).next(PATIENCE_SECONDS),
                lambda: pool.starmap_async(tasks.add, [(1, 2)]).get(PATIENCE_SECONDS),
                lambda: pool.apply(tasks.double, (1,)),
            ):
                error = outcome(way)
                assert type(error) is mp.WorkerInitError, repr(error)
                for part in words:
                    assert part in str(error)
        # The other worker may have been on its way when the first one failed.
        time.sleep(0.2)
        seen = line_count(starts)
        # A worker that is killed may have been so from outside, so that is tried more often, but not for ever.
        most = 24 if kind == "is killed" else 4
        assert 1 <= seen <= most, f"{seen} starts of a worker that cannot start"
        time.sleep(0.3)
        assert line_count(starts) <= max(seen, 2), "workers are started again and again"


@pytest.mark.parametrize("way", ["map", "imap", "imap_unordered", "starmap_async"])
def test_a_failing_initializer_is_the_first_error_that_one_hears(start_method, way, tmp_path):
    with open_pool(start_method, 2, worker_tasks.count_start_and_raise, (str(tmp_path / "starts"),)) as pool:
        with time_limit(PATIENCE_SECONDS, "waiting for the initializer's error"):
            error = outcome(
                {
                    "map": lambda: pool.map(tasks.double, range(10)),
                    "imap": lambda: pool.imap(tasks.double, range(10)).next(PATIENCE_SECONDS),
                    "imap_unordered": lambda: pool.imap_unordered(tasks.double, range(10)).next(PATIENCE_SECONDS),
                    "starmap_async": lambda: pool.starmap_async(tasks.add, [(1, 2)]).get(PATIENCE_SECONDS),
                }[way]
            )
        assert type(error) is mp.WorkerInitError, repr(error)
        assert "LookupError: the initializer found nothing" in str(error)


def test_a_failing_initializer_wakes_all_who_wait(start_method, tmp_path):
    starts = tmp_path / "starts"
    with open_pool(start_method, 2, worker_tasks.count_start_and_raise, (str(starts), 0.4)) as pool:
        errors = []
        called_back = []
        pool.apply_async(tasks.nothing, error_callback=called_back.append)
        ways = [
            lambda: pool.apply(tasks.nothing),
            lambda: pool.map(tasks.double, range(100)),
            lambda: next(pool.imap(tasks.double, range(100))),
            lambda: list(pool.imap_unordered(tasks.double, range(100))),
            pool.apply_async(tasks.nothing).get,
        ]
        threads = [threading.Thread(target=lambda way=way: errors.append(outcome(way)), daemon=True) for way in ways]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
        assert not any(thread.is_alive() for thread in threads)
        assert [type(error) for error in errors] == [mp.WorkerInitError] * len(ways)
        assert all("the initializer found nothing" in str(error) for error in errors)
        wait_until(lambda: called_back, "the error callback is called")
        assert type(called_back[0]) is mp.WorkerInitError


@pytest.mark.parametrize("ending", ["terminate", "close", "exit", "drop"])
@pytest.mark.filterwarnings("ignore:unclosed running multiprocessing pool:ResourceWarning")
def test_a_pool_whose_initializer_fails_can_be_ended(start_method, ending, tmp_path):
    pool = mp.get_context(start_method).Pool(2, worker_tasks.count_start_and_raise, (str(tmp_path / "starts"),))
    with time_limit(PATIENCE_SECONDS, f"{ending} of a pool whose initializer fails"):
        if ending == "terminate":
            pool.terminate()
            pool.join()
        elif ending == "close":
            pool.close()
            pool.join()
        elif ending == "exit":
            with pool:
                outcome(pool.apply, tasks.nothing)
            pool.join()
        else:
            outcome(pool.apply, tasks.nothing)
            del pool
            gc.collect()


def test_an_initializer_that_fails_later_does_not_hang_the_pool(start_method, tmp_path):
    starts, condition = tmp_path / "starts", tmp_path / "from now on"
    with open_pool(start_method, 2, worker_tasks.count_start_and_raise_if, (str(starts), str(condition))) as pool:
        pids = worker_pids(pool, 2)
        condition.touch()
        os.kill(pids[0], signal.SIGKILL)
        # One worker is still good. Whether it works on or all is given up: everybody gets a result or the reason.
        results = [pool.apply_async(tasks.double, (1,)) for _ in range(10)] if _still_takes_work(pool) else []
        for result in results:
            got = get(result)
            assert got == 2 or type(got) is mp.WorkerInitError, repr(got)
        os.kill(pids[1], signal.SIGKILL)
        wait_until(
            lambda: (
                type(outcome(lambda: pool.apply_async(tasks.double, (1,)).get(PATIENCE_SECONDS))) is mp.WorkerInitError
            ),
            "a pool that has no worker left says why",
        )
        time.sleep(0.3)
        assert line_count(starts) <= 20, "workers are started again and again"


def _still_takes_work(pool):
    try:
        pool.apply_async(tasks.nothing)
    except mp.WorkerInitError:
        return False
    return True


# ---------------------------------------------------------------------------------------------------------------------
# Callbacks and generators that raise.


class CallbackFailed(Exception):
    pass


def _fail(_value):
    raise CallbackFailed("in the callback")


@pytest.mark.parametrize("kind", ["apply_async", "map_async", "starmap_async"])
def test_an_error_in_a_callback_is_raised_by_get(start_method, kind):
    with open_pool(start_method) as pool:
        submit, arguments = {
            "apply_async": (pool.apply_async, (tasks.double, (1,))),
            "map_async": (pool.map_async, (tasks.double, [1, 2])),
            "starmap_async": (pool.starmap_async, (tasks.add, [(1, 2)])),
        }[kind]
        for _ in range(3):
            result = submit(*arguments, callback=_fail)
            error = get(result)
            assert type(error) is CallbackFailed
            assert result.ready() and not result.successful()
        assert_pool_is_whole(pool)
        pool.close()
        with time_limit(PATIENCE_SECONDS, "join() after callbacks that raised"):
            pool.join()


def test_an_error_in_an_error_callback_is_raised_by_get_and_keeps_the_tasks_own(start_method):
    with open_pool(start_method) as pool:
        for submit, function, argument in (
            (pool.apply_async, tasks.raise_value_error, (1,)),
            (pool.map_async, tasks.raise_value_error, [1, 2]),
        ):
            error = get(submit(function, argument, error_callback=_fail))
            assert type(error) is CallbackFailed
            chain = error
            while chain.__context__ is not None:
                chain = chain.__context__
                if type(chain) is ValueError:
                    break
            assert "no good: " in str(chain)
        assert_pool_is_whole(pool)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, fault_tasks.Catastrophe])
def test_a_callback_that_raises_no_exception_hangs_nobody(start_method, kind):
    def fail(_value):
        raise kind("in the callback")

    with open_pool(start_method) as pool:
        assert type(get(pool.apply_async(tasks.double, (1,), callback=fail))) is kind
        assert_pool_is_whole(pool)


def test_other_callbacks_run_although_one_raises(start_method):
    called = []
    with open_pool(start_method, 1) as pool:
        for x in range(20):
            pool.apply_async(tasks.double, (x,), callback=_fail if x % 3 == 0 else called.append)
        pool.close()
        with time_limit(PATIENCE_SECONDS, "join() after callbacks that raised"):
            pool.join()
        assert called == [2 * x for x in range(20) if x % 3]


class GeneratorFailed(Exception):
    pass


def _fails_after(n, kind=GeneratorFailed):
    yield from range(n)
    raise kind("in the generator")


@pytest.mark.parametrize("n", [0, 1, 20])
@pytest.mark.parametrize("chunksize", [None, 1, 3])
def test_a_generator_that_raises_fails_map(start_method, n, chunksize):
    with open_pool(start_method) as pool:
        with pytest.raises(GeneratorFailed, match="in the generator"):
            pool.map(tasks.double, _fails_after(n), chunksize)
        assert_pool_is_whole(pool)


@pytest.mark.parametrize("n", [0, 1, 20])
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_a_generator_that_raises_fails_imap_after_the_items_before(start_method, method, n):
    with open_pool(start_method) as pool:
        iterator = getattr(pool, method)(tasks.double, _fails_after(n))
        got = take(iterator)
        errors = [item for item in got if isinstance(item, BaseException)]
        assert [type(error) for error in errors] == [GeneratorFailed]
        assert sorted(item for item in got if item not in errors) == [2 * x for x in range(n)]
        if method == "imap":
            assert got[-1] is errors[0]
        assert isinstance(outcome(iterator.next, PATIENCE_SECONDS), StopIteration)
        assert_pool_is_whole(pool)


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_a_generator_that_raises_fails_chunked_imap(start_method, method):
    with open_pool(start_method) as pool:
        with time_limit(PATIENCE_SECONDS, "reading to the generator's error"):
            with pytest.raises(GeneratorFailed, match="in the generator"):
                list(getattr(pool, method)(tasks.double, _fails_after(20), chunksize=6))
        assert_pool_is_whole(pool)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, fault_tasks.Catastrophe])
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_a_generator_that_raises_no_exception_hangs_nobody(start_method, method, kind):
    with open_pool(start_method) as pool:
        got = take(getattr(pool, method)(tasks.double, _fails_after(3, kind)))
        assert [type(item) for item in got if isinstance(item, BaseException)] == [kind]
        assert_pool_is_whole(pool)
