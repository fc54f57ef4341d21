"""The fault table: what dies or misbehaves, where, and what everybody else then sees.

In each row exactly the victim fails, with an error that names what happened; all other tasks give their results; the
pool has all its workers again; and nothing is left (the last is checked after every test by ``no_leftovers``).

The standard library's pool promises none of this: most rows hang there.
"""

import collections
import functools
import gc
import itertools
import os
import pickle
import random
import re
import signal
import sys
import threading
import time
from multiprocessing.pool import MaybeEncodingError

import pytest
import tasks
from harness import (
    EACH_WAY,
    PATIENCE_SECONDS,
    Hang,
    Process,
    WorkerHunter,
    assert_pool_is_whole,
    children,
    get,
    line_count,
    native_thread_count,
    open_pool,
    outcome,
    pool_tests,
    promised_by_us_only,
    run_program,
    supervisor_of,
    take,
    time_limit,
    wait_for_file,
    wait_until,
    wait_until_gone,
    worker_pids,
)
from soak import storm
from subject import mp

pytestmark = [*pool_tests, promised_by_us_only]


# ---------------------------------------------------------------------------------------------------------------------
# A task dies, or raises what is not an Exception.


def died(exitcode, words):
    """The check for an error that says: the worker died so."""

    def check(error, function):
        assert type(error) is mp.WorkerDied, repr(error)
        assert isinstance(error, mp.ProcessError)
        assert error.exitcode == exitcode
        assert isinstance(error.pid, int) and error.pid != os.getpid()
        assert not Process(error.pid).is_alive()
        assert function.__name__ in error.task and "13" in error.task
        for part in (words, f"pid {error.pid}", error.task, "PoolWorker-"):
            assert part in str(error), f"{part!r} is missing in {error}"

    return check


def raised(kind, arguments):
    """The check for an error that is the very one which the task raised."""

    def check(error, function):
        assert type(error) is kind, repr(error)
        assert error.args == arguments
        cause = str(error.__cause__)
        assert cause.startswith('\n"""\nTraceback (most recent call last):\n')
        assert function.__name__ in cause

    return check


FAULTS = {
    "SIGKILL": (tasks.sigkill_at_thirteen, died(-signal.SIGKILL, "was killed by SIGKILL")),
    "SIGSEGV": (tasks.segfault_at_thirteen, died(-signal.SIGSEGV, "was killed by SIGSEGV")),
    "os._exit": (tasks.os_exit_at_thirteen, died(3, "exited with code 3")),
    "os._exit(0)": (tasks.os_exit_zero_at_thirteen, died(0, "exited with code 0")),
    "sys.exit": (tasks.sys_exit_at_thirteen, raised(SystemExit, (3,))),
    "BaseException": (tasks.catastrophe_at_thirteen, raised(tasks.Catastrophe, ("thirteen",))),
    "KeyboardInterrupt": (tasks.keyboard_interrupt_at_thirteen, raised(KeyboardInterrupt, ())),
}


def assert_only_thirteen_fails(got, way, function, check, n=40):
    """Exactly item 13 failed, as expected; the others have their results."""
    errors = [item for item in got if isinstance(item, BaseException)]
    results = [item for item in got if not isinstance(item, BaseException)]
    assert len(errors) == 1, errors
    check(errors[0], function)
    if way == "imap_unordered":
        results.sort()
    else:
        assert got[13] is errors[0]
    assert results == [x * x for x in range(n) if x != 13]


@pytest.mark.parametrize("way", sorted(EACH_WAY))
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_task_fails_that_task_alone(start_method, fault, way):
    function, check = FAULTS[fault]
    with open_pool(start_method) as pool:
        got = EACH_WAY[way](pool, function, range(40))
        assert_only_thirteen_fails(got, way, function, check)
        assert_pool_is_whole(pool)


@pytest.mark.parametrize("chunksize", [1, None, 7])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_map_is_raised_after_all_others_ran_once(start_method, fault, chunksize, tmp_path):
    function, check = FAULTS[fault]
    log = tmp_path / "log"
    with open_pool(start_method, initializer=tasks.log_into, initargs=(str(log),)) as pool:
        with time_limit(PATIENCE_SECONDS, "map() with a fault"):
            error = outcome(pool.map, function, range(40), chunksize)
        check(error, function)
        # Blame is for the item, not for its chunk: neighbours in the chunk ran, before and after, and none ran twice.
        assert sorted(map(int, log.read_text().split())) == list(range(40))
        assert_pool_is_whole(pool)


@pytest.mark.parametrize("fault", ["SIGKILL", "os._exit", "sys.exit", "BaseException"])
def test_a_fault_in_starmap_async_reaches_the_error_callback(start_method, fault):
    function, check = FAULTS[fault]
    errors = []
    with open_pool(start_method) as pool:
        result = pool.starmap_async(
            function, [(x,) for x in range(40)], chunksize=4, callback=errors.append, error_callback=errors.append
        )
        error = get(result)
        assert errors == [error]
        check(error, function)
        assert result.ready() and not result.successful()


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_a_death_in_chunked_imap_is_raised_and_ends_nothing_else(start_method, method):
    with open_pool(start_method) as pool:
        iterator = getattr(pool, method)(tasks.sigkill_at_thirteen, range(40), chunksize=5)
        with time_limit(PATIENCE_SECONDS, "iterating over what is left"):
            error = outcome(list, iterator)
        FAULTS["SIGKILL"][1](error, tasks.sigkill_at_thirteen)
        assert_pool_is_whole(pool)


def test_an_error_callback_hears_of_a_death_without_anybody_waiting(start_method):
    errors = []
    heard = threading.Event()

    def hear(error):
        errors.append(error)
        heard.set()

    with open_pool(start_method) as pool:
        pool.apply_async(tasks.sigkill_at_thirteen, (13,), error_callback=hear)
        assert heard.wait(PATIENCE_SECONDS)
        FAULTS["SIGKILL"][1](errors[0], tasks.sigkill_at_thirteen)


def test_every_task_may_be_a_deadly_one(start_method):
    with open_pool(start_method) as pool:
        errors = [get(result) for result in [pool.apply_async(tasks.sigkill_self) for _ in range(30)]]
        assert [type(error) for error in errors] == [mp.WorkerDied] * 30
        assert len({error.pid for error in errors}) == 30
        assert_pool_is_whole(pool)


def test_the_only_worker_of_a_pool_is_replaced(start_method):
    with open_pool(start_method, 1) as pool:
        results = [pool.apply_async(tasks.sigkill_at_thirteen, (x,)) for x in (12, 13, 14, 13, 15)]
        got = [get(result) for result in results]
        assert [got[0], got[2], got[4]] == [144, 196, 225]
        assert [got[1].exitcode, got[3].exitcode] == [-signal.SIGKILL] * 2
        assert_pool_is_whole(pool, 1)


def test_a_replacement_has_run_the_initializer(start_method):
    with open_pool(start_method, 1, tasks.remember, ("set up", 7)) as pool:
        assert get(pool.apply_async(tasks.recall)) == ("set up", 7)
        assert type(get(pool.apply_async(tasks.sigkill_self))) is mp.WorkerDied
        assert get(pool.apply_async(tasks.recall)) == ("set up", 7)


def test_the_message_says_worker_pid_signal_and_task(start_method):
    with open_pool(start_method) as pool:
        error = get(pool.apply_async(tasks.sigkill_at_thirteen, (13,)))
        prefix = {"fork": "Fork", "spawn": "Spawn", "forkserver": "ForkServer"}[start_method]
        assert re.fullmatch(
            rf"worker {prefix}PoolWorker-\d+ \(pid {error.pid}\) was killed by SIGKILL "
            rf"while running (tasks\.)?sigkill_at_thirteen\(13\)",
            str(error),
        )
        error = get(pool.apply_async(tasks.os_exit_at_thirteen, (13,)))
        assert re.fullmatch(
            rf"worker {prefix}PoolWorker-\d+ \(pid {error.pid}\) exited with code 3 "
            rf"while running (tasks\.)?os_exit_at_thirteen\(13\)",
            str(error),
        )


def test_a_huge_argument_does_not_make_a_huge_message(start_method):
    with open_pool(start_method) as pool:
        error = get(pool.apply_async(tasks.die_with, ("x" * 1_000_000,), {"key": "y" * 1_000_000}))
        assert error.exitcode == -signal.SIGKILL
        assert "die_with(" in error.task
        assert len(str(error)) < 5000


def test_an_argument_whose_repr_raises_does_not_spoil_the_message(start_method):
    with open_pool(start_method) as pool:
        error = get(pool.apply_async(tasks.die_with, (tasks.RaisesInRepr(),)))
        assert type(error) is mp.WorkerDied
        assert "die_with(" in str(error)
        assert_pool_is_whole(pool)


@pytest.mark.parametrize(
    "name", ["WorkerDied", "TaskTimeout", "WorkerInitError", "ResultDecodeError", "PoolTerminated"]
)
def test_our_errors_survive_pickle(name, start_method, tmp_path):
    # They may have to travel themselves: a task with a pool of its own raises them.
    error = _make_error(name, start_method, tmp_path)
    assert type(error) is getattr(mp, name)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.__dict__ == error.__dict__
    for attribute in ("pid", "exitcode", "task", "elapsed_seconds", "limit_seconds"):
        assert getattr(copy, attribute, None) == getattr(error, attribute, None)


def _make_error(name, start_method, tmp_path):
    if name == "WorkerInitError":
        with open_pool(start_method, 1, tasks.count_start_and_raise, (str(tmp_path / "starts"),)) as pool:
            return outcome(lambda: pool.apply_async(tasks.nothing).get(PATIENCE_SECONDS))
    with open_pool(start_method, 1, **({"timeout": 0.2} if name == "TaskTimeout" else {})) as pool:
        if name == "PoolTerminated":
            result = pool.apply_async(tasks.sleep_forever)
            pool.terminate()
            return get(result)
        function = {
            "WorkerDied": tasks.sigkill_self,
            "TaskTimeout": tasks.sleep_forever,
            "ResultDecodeError": tasks.return_unrebuildable,
        }[name]
        return get(pool.apply_async(function))


def test_a_stack_overflow_is_a_death_by_signal(start_method):
    with open_pool(start_method) as pool:
        error = get(pool.apply_async(tasks.overflow_the_stack))
        assert type(error) is mp.WorkerDied
        assert error.exitcode in (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS)
        assert_pool_is_whole(pool)


def test_deep_recursion_is_an_error_like_others(start_method):
    with open_pool(start_method) as pool:
        assert type(get(pool.apply_async(tasks.recurse))) is RecursionError
        # Nested too deep to be pickled in the worker, and perhaps too deep to be shown in an error about that.
        error = get(pool.apply_async(tasks.nested_list, (100_000,)))
        assert type(error) in (MaybeEncodingError, RecursionError)
        # And too deep to be pickled here.
        assert type(get(pool.apply_async(tasks.identity, (tasks.nested_list(100_000),)))) is RecursionError
        assert_pool_is_whole(pool)


def test_running_out_of_memory_in_a_task_is_an_error_like_others(start_method):
    with open_pool(start_method) as pool:
        assert type(get(pool.apply_async(tasks.limit_memory_and_allocate, (1 << 30,)))) is MemoryError
        assert_pool_is_whole(pool)


# ---------------------------------------------------------------------------------------------------------------------
# A worker dies between tasks, while it takes one, or while it publishes a result.


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV], ids=lambda number: number.name)
def test_the_death_of_an_idle_worker_costs_nothing(start_method, number):
    with open_pool(start_method) as pool:
        for _ in range(10):
            victim, _ = worker_pids(pool, 2)
            time.sleep(0.02)  # It goes to sleep.
            os.kill(victim, number)
            assert get(pool.apply_async(tasks.double, (4,))) == 8
            with time_limit(PATIENCE_SECONDS, "map() after an idle worker's death"):
                assert pool.map(tasks.double, range(20), 1) == [2 * x for x in range(20)]
        assert_pool_is_whole(pool)


def test_the_death_of_all_idle_workers_costs_nothing(start_method):
    with open_pool(start_method) as pool:
        for _ in range(5):
            for pid in worker_pids(pool, 2):
                os.kill(pid, signal.SIGKILL)
            assert_pool_is_whole(pool)


def test_an_idle_worker_is_replaced_without_anybody_asking(start_method):
    with open_pool(start_method) as pool:
        hunter = WorkerHunter(pool, 2)
        victims = hunter.workers()
        assert len(victims) == 2
        for victim in victims:
            victim.kill()
        wait_until_gone(victims)
        wait_until(lambda: len([w for w in hunter.workers() if w.is_alive()]) == 2, "two workers are there again")


def test_random_kills_of_workers_lose_no_task_but_the_running_one(start_method):
    storm(start_method, seconds=1.5, seed=1, tasks_per_round=500).check()


def test_random_kills_while_large_data_is_copied_lose_no_task_but_the_running_one(start_method):
    storm(start_method, seconds=1.5, seed=2, tasks_per_round=60, payload_size=300_000).check()


def test_random_kills_of_workers_that_are_recycled_all_the_time_lose_nothing_more(start_method):
    storm(start_method, seconds=1.5, seed=3, tasks_per_round=200, maxtasksperchild=3).check()


# In builds with the feature `crash-points`, `PROCESSION_CRASH_AT=<point>:<n>` in a worker's environment has it send
# itself SIGKILL in about one of n passes through the named point of the ring protocol.
CRASH_POINTS = {
    # point: whether the task that the worker owned there may be lost with it
    "claim-before": False,
    "claim-after": True,
    "publish-before": True,
    "publish-between": False,
    "publish-after": False,
}


# In a program of its own, as a forkserver hands down the environment in which it was started.
DIE_AT_POINTS = """
    import os, sys
    from harness import get, line_count, open_pool
    from subject import mp
    import tasks

    if __name__ == "__main__":
        _, start_method, starts, may_lose = sys.argv
        with open_pool(start_method, initializer=tasks.count_start, initargs=(starts,)) as pool:
            results = [pool.apply_async(tasks.double, (x,)) for x in range(100)]
            got = [get(result) for result in results]
            deaths = line_count(starts) - 2
            errors = {x: item for x, item in enumerate(got) if isinstance(item, BaseException)}
            for error in errors.values():
                assert type(error) is mp.WorkerDied and error.exitcode == -9, repr(error)
            assert all(got[x] == 2 * x for x in range(100) if x not in errors)
            assert len(errors) <= (deaths + 2 if may_lose == "True" else 0), errors
            print(max(0, deaths))
"""


@pytest.mark.parametrize("point", CRASH_POINTS)
def test_a_death_at_a_point_of_the_protocol_costs_at_most_the_task_it_owned(start_method, point, tmp_path):
    environment = {"PROCESSION_CRASH_AT": f"{point}:5"}
    program = run_program(
        tmp_path, DIE_AT_POINTS, start_method, tmp_path / "starts", CRASH_POINTS[point], environment=environment
    )
    if program.stdout() == "0\n":
        assert "PROCESSION_CRASH_POINTS_EXPECTED" not in os.environ, "nobody died"
        pytest.skip("this build has no crash points: make test-build")


def test_a_thousand_tasks_with_one_death_give_999_results(start_method):
    with open_pool(start_method) as pool:
        results = [pool.apply_async(tasks.sigkill_at_thirteen, (x,)) for x in range(1000)]
        got = [get(result) for result in results]
    assert_only_thirteen_fails(got, "apply_async", tasks.sigkill_at_thirteen, FAULTS["SIGKILL"][1], 1000)


def test_a_stopped_worker_does_not_hold_up_the_others(start_method):
    with open_pool(start_method) as pool:
        stopped, _ = worker_pids(pool, 2)
        os.kill(stopped, signal.SIGSTOP)
        try:
            # One task may be in the stopped worker's hands; nobody can know whether it will go on.
            results = [pool.apply_async(tasks.double, (x,)) for x in range(50)]
            wait_until(lambda: sum(result.ready() for result in results) >= 49, "49 of 50 results are there")
        finally:
            os.kill(stopped, signal.SIGCONT)
        assert [get(result) for result in results] == [2 * x for x in range(50)]


# ---------------------------------------------------------------------------------------------------------------------
# Pickle fails, on either side, on either way.

BROKEN_TRANSPORTS = {
    "result that cannot be pickled": tasks.return_unpicklable_at_thirteen,
    "result that cannot be rebuilt": tasks.return_unrebuildable_at_thirteen,
    "exception that cannot be pickled": tasks.raise_unpicklable_error_at_thirteen,
    "exception that cannot be rebuilt": tasks.raise_unrebuildable_error_at_thirteen,
}


def check_broken_transport(kind, error, function):
    if "rebuilt" in kind:
        assert type(error) is mp.ResultDecodeError, repr(error)
        assert isinstance(error, mp.ProcessError)
        expected = "refuses to be rebuilt" if "result" in kind else "UnrebuildableError: 7: cannot come back"
        assert expected in str(error)
    else:
        assert type(error) is MaybeEncodingError, repr(error)
        assert str(error).startswith("Error sending result: ")
        assert ("refuses to be pickled" if "result" in kind else "carries a lock") in str(error)


@pytest.mark.parametrize("way", sorted(EACH_WAY))
@pytest.mark.parametrize("kind", BROKEN_TRANSPORTS)
def test_what_cannot_come_back_fails_its_own_task_alone(start_method, kind, way):
    function = BROKEN_TRANSPORTS[kind]
    with open_pool(start_method) as pool:
        before = set(worker_pids(pool, 2))
        got = EACH_WAY[way](pool, function, range(40))
        assert_only_thirteen_fails(got, way, function, lambda error, _: check_broken_transport(kind, error, function))
        assert_pool_is_whole(pool)
        assert set(worker_pids(pool, 2)) == before, "no worker had to die for this"


@pytest.mark.parametrize("kind", BROKEN_TRANSPORTS)
@pytest.mark.parametrize("chunksize", [1, None])
def test_what_cannot_come_back_fails_its_map(start_method, kind, chunksize):
    function = BROKEN_TRANSPORTS[kind]
    with open_pool(start_method) as pool:
        with time_limit(PATIENCE_SECONDS, "map() with what cannot come back"):
            error = outcome(pool.map, function, range(40), chunksize)
        check_broken_transport(kind, error, function)
        assert_pool_is_whole(pool)


def test_a_generator_as_result_is_named_in_the_error(start_method):
    with open_pool(start_method) as pool:
        error = get(pool.apply_async(tasks.return_generator))
        assert type(error) is MaybeEncodingError
        assert re.match(
            r"Error sending result: '<generator object return_generator\.<locals>\.<genexpr> at 0x\w+>'\. Reason: ",
            str(error),
        )


def test_a_result_that_is_rebuilt_only_in_the_worker_fails_its_own_task_alone(start_method):
    with open_pool(start_method) as pool:
        error = get(pool.apply_async(tasks.return_rebuildable_only_here))
        assert type(error) is mp.ResultDecodeError
        assert "refuses to be rebuilt outside of" in str(error)
        assert_pool_is_whole(pool)


def test_a_result_that_exits_while_it_is_rebuilt_ends_nobody(start_method):
    with open_pool(start_method) as pool:
        error = get(pool.apply_async(tasks.return_exits_while_unpickled))
        assert isinstance(error, (mp.ResultDecodeError, SystemExit))
        assert_pool_is_whole(pool)


def test_a_result_that_cannot_be_rebuilt_reaches_the_error_callback(start_method):
    heard = threading.Event()
    errors = []

    def hear(error):
        errors.append(error)
        heard.set()

    with open_pool(start_method) as pool:
        pool.apply_async(tasks.return_unrebuildable, callback=hear, error_callback=hear)
        assert heard.wait(PATIENCE_SECONDS)
        assert type(errors[0]) is mp.ResultDecodeError


@pytest.mark.parametrize("way", sorted(EACH_WAY))
def test_an_argument_that_cannot_be_pickled_fails_its_own_task_alone(start_method, way):
    items = [tasks.FailsToPickle() if x == 13 else x for x in range(40)]
    with open_pool(start_method) as pool:
        got = EACH_WAY[way](pool, tasks.square_of, items)
        assert_only_thirteen_fails(got, way, tasks.square_of, _refuses_to_be_pickled)
        assert_pool_is_whole(pool)


def _refuses_to_be_pickled(error, _function=None):
    assert (type(error), str(error)) == (RuntimeError, "refuses to be pickled")


@pytest.mark.parametrize("chunksize", [1, None, 7])
def test_an_argument_that_cannot_be_pickled_fails_its_map(start_method, chunksize):
    items = [tasks.FailsToPickle() if x == 13 else x for x in range(40)]
    with open_pool(start_method) as pool:
        with time_limit(PATIENCE_SECONDS, "map() of what cannot be pickled"):
            _refuses_to_be_pickled(outcome(pool.map, tasks.square_of, items, chunksize))
            _refuses_to_be_pickled(outcome(pool.starmap, tasks.add, [(1, item) for item in items[13:]], chunksize))
        assert_pool_is_whole(pool)


def test_a_function_that_cannot_be_pickled_fails_its_own_task_alone(start_method):
    lock = threading.Lock()

    def holding_a_lock(_item=None):
        return lock

    with open_pool(start_method) as pool:
        for error in (
            get(pool.apply_async(holding_a_lock)),
            outcome(pool.map, holding_a_lock, [1, 2]),
            outcome(pool.imap(holding_a_lock, [1]).next, PATIENCE_SECONDS),
        ):
            # AttributeError for local objects in older Pythons, PicklingError in newer ones and for others.
            assert isinstance(error, (AttributeError, pickle.PicklingError)), repr(error)
            assert "holding_a_lock" in str(error)
        assert type(get(pool.apply_async(tasks.identity, (threading.Lock(),)))) is TypeError
        assert_pool_is_whole(pool)


@pytest.mark.parametrize("way", sorted(EACH_WAY))
def test_an_argument_that_cannot_be_rebuilt_fails_its_own_task_alone(start_method, way):
    items = [tasks.FailsToUnpickle() if x == 13 else x for x in range(40)]
    with open_pool(start_method) as pool:
        before = set(worker_pids(pool, 2))
        got = EACH_WAY[way](pool, tasks.square_of, items)
        assert_only_thirteen_fails(got, way, tasks.square_of, _refuses_to_be_rebuilt)
        assert_pool_is_whole(pool)
        assert set(worker_pids(pool, 2)) == before, "no worker had to die for this"


def _refuses_to_be_rebuilt(error, _function=None):
    assert (type(error), str(error)) == (RuntimeError, "refuses to be rebuilt")
    assert "_raise_while_rebuilding" in str(error.__cause__)


@pytest.mark.parametrize("chunksize", [1, None, 7])
def test_an_argument_that_cannot_be_rebuilt_fails_its_map(start_method, chunksize):
    items = [tasks.FailsToUnpickle() if x == 13 else x for x in range(40)]
    with open_pool(start_method) as pool:
        with time_limit(PATIENCE_SECONDS, "map() of what cannot be rebuilt"):
            _refuses_to_be_rebuilt(outcome(pool.map, tasks.square_of, items, chunksize))
        assert_pool_is_whole(pool)


def test_an_argument_that_kills_its_reader_fails_its_own_task_alone(start_method):
    items = [tasks.DiesWhileUnpickled() if x == 13 else x for x in range(40)]
    with open_pool(start_method) as pool:
        got = EACH_WAY["apply_async"](pool, tasks.square_of, items)
        assert type(got[13]) is mp.WorkerDied
        assert got[13].exitcode == -signal.SIGKILL
        assert got[:13] + got[14:] == [x * x for x in range(40) if x != 13]
        assert_pool_is_whole(pool)


def test_an_argument_that_exits_while_it_is_rebuilt_fails_its_own_task_alone(start_method):
    items = [tasks.ExitsWhileUnpickled() if x == 13 else x for x in range(40)]
    with open_pool(start_method) as pool:
        got = EACH_WAY["apply_async"](pool, tasks.square_of, items)
        assert type(got[13]) is SystemExit and got[13].code == 5
        assert got[:13] + got[14:] == [x * x for x in range(40) if x != 13]
        assert_pool_is_whole(pool)


def test_a_function_that_the_workers_cannot_find_fails_its_own_task_alone(start_method, tmp_path):
    # Found by the caller only: what it stands for is gone when the worker looks.
    function = _made_up_function()
    with open_pool(start_method) as pool:
        sys.modules["made_up_module"] = function.module
        try:
            errors = [get(pool.apply_async(function.function, (1,))) for _ in range(4)]
            errors.append(outcome(pool.map, function.function, [1, 2]))
        finally:
            del sys.modules["made_up_module"]
        for error in errors:
            assert isinstance(error, (ImportError, AttributeError)), repr(error)
            assert "made_up_module" in str(error)
        assert_pool_is_whole(pool)


def _made_up_function():
    import types

    module = types.ModuleType("made_up_module")
    exec("def function(x): return x", module.__dict__)
    return types.SimpleNamespace(module=module, function=module.function)


# ---------------------------------------------------------------------------------------------------------------------
# Initializers that fail.

FAILING_INITIALIZERS = {
    "raises": (
        tasks.count_start_and_raise,
        (),
        ("LookupError: the initializer found nothing", "count_start_and_raise"),
    ),
    "exits": (tasks.count_start_and_exit, (3,), ("exited with code 3",)),
    "is killed": (tasks.count_start_and_sigkill, (), ("SIGKILL",)),
    "calls sys.exit": (tasks.count_start_and_sys_exit, (), ("the initializer gave up",)),
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
    with open_pool(start_method, 2, tasks.count_start_and_raise, (str(tmp_path / "starts"),)) as pool:
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
    with open_pool(start_method, 2, tasks.count_start_and_raise, (str(starts), 0.4)) as pool:
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
    pool = mp.get_context(start_method).Pool(2, tasks.count_start_and_raise, (str(tmp_path / "starts"),))
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
    with open_pool(start_method, 2, tasks.count_start_and_raise_if, (str(starts), str(condition))) as pool:
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


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, tasks.Catastrophe])
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


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, tasks.Catastrophe])
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_a_generator_that_raises_no_exception_hangs_nobody(start_method, method, kind):
    with open_pool(start_method) as pool:
        got = take(getattr(pool, method)(tasks.double, _fails_after(3, kind)))
        assert [type(item) for item in got if isinstance(item, BaseException)] == [kind]
        assert_pool_is_whole(pool)


# ---------------------------------------------------------------------------------------------------------------------
# The supervisor dies.


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_the_death_of_the_supervisor_hangs_nobody(start_method, busy, tmp_path):
    started = str(tmp_path / "started")
    with open_pool(start_method) as pool:
        pids = worker_pids(pool, 2)
        supervisor = supervisor_of(pids)
        assert supervisor is not None, "the workers are this process's own children"
        workers = [Process(pid) for pid in pids]
        result = pool.apply_async(tasks.announce_and_sleep, (started,)) if busy else None
        if busy:
            wait_for_file(started)
        queued = [pool.apply_async(tasks.double, (x,)) for x in range(5)]
        supervisor.kill()
        wait_until_gone(workers)
        if busy:
            assert isinstance(get(result), mp.ProcessError)
        for x, result in enumerate(queued):
            got = get(result)
            assert got == 2 * x or isinstance(got, mp.ProcessError), repr(got)
        # From here on it either works, with all its workers, or says in a word why not.
        got = outcome(lambda: pool.apply_async(tasks.double, (21,)).get(PATIENCE_SECONDS))
        if got == 42:
            assert_pool_is_whole(pool)
        else:
            assert isinstance(got, mp.ProcessError), repr(got)


def test_the_death_of_supervisor_and_workers_together_hangs_nobody(start_method):
    with open_pool(start_method) as pool:
        pids = worker_pids(pool, 2)
        supervisor = supervisor_of(pids)
        waiting = [pool.apply_async(tasks.sleep_forever) for _ in range(2)]
        time.sleep(0.05)
        for process in (supervisor, *map(Process, pids)):
            process.kill()
        for result in waiting:
            assert isinstance(get(result), mp.ProcessError)
        got = outcome(lambda: pool.apply_async(tasks.double, (21,)).get(PATIENCE_SECONDS))
        assert got == 42 or isinstance(got, mp.ProcessError), repr(got)


# ---------------------------------------------------------------------------------------------------------------------
# Tasks that take too long.

# Long beside what a task takes that is not meant to be ended, even on a busy machine.
TASK_LIMIT_SECONDS = 0.7


@pytest.mark.parametrize(
    "function, way",
    [
        (tasks.sleep_forever_at_thirteen, "apply_async"),
        (tasks.sleep_forever_at_thirteen, "imap"),
        (tasks.sleep_forever_at_thirteen, "imap_unordered"),
        (tasks.spin_forever_at_thirteen, "apply_async"),
        (tasks.stubborn_at_thirteen, "apply_async"),
    ],
)
def test_a_task_that_takes_too_long_is_ended_and_the_others_go_on(start_method, function, way):
    with open_pool(start_method, timeout=TASK_LIMIT_SECONDS) as pool:
        got = EACH_WAY[way](pool, function, range(40))
        assert_only_thirteen_fails(got, way, function, _check_task_timeout)
        assert_pool_is_whole(pool)


def _check_task_timeout(error, function):
    assert type(error) is mp.TaskTimeout, repr(error)
    assert isinstance(error, mp.ProcessError)
    assert not isinstance(error, mp.TimeoutError)
    assert error.limit_seconds == TASK_LIMIT_SECONDS
    assert TASK_LIMIT_SECONDS <= error.elapsed_seconds < TASK_LIMIT_SECONDS + PATIENCE_SECONDS
    assert isinstance(error.pid, int) and not Process(error.pid).is_alive()
    assert function.__name__ in error.task and "13" in error.task
    assert error.task in str(error) and f"pid {error.pid}" in str(error)


@pytest.mark.parametrize("chunksize", [1, None])
def test_a_task_that_takes_too_long_fails_its_map(start_method, chunksize, tmp_path):
    log = tmp_path / "log"
    with open_pool(start_method, 2, tasks.log_into, (str(log),), timeout=TASK_LIMIT_SECONDS) as pool:
        with time_limit(PATIENCE_SECONDS, "map() with a task that takes too long"):
            error = outcome(pool.map, tasks.sleep_forever_at_thirteen, range(40), chunksize)
        _check_task_timeout(error, tasks.sleep_forever_at_thirteen)
        assert sorted(map(int, log.read_text().split())) == list(range(40))
        assert_pool_is_whole(pool)


def test_the_time_limit_is_for_running_not_for_waiting_in_the_queue(start_method):
    with open_pool(start_method, 1, timeout=TASK_LIMIT_SECONDS) as pool:
        # Together they take longer than the limit, each alone does not; in chunks they are still each alone.
        results = [pool.apply_async(tasks.sleep_and_return, (0.25, x)) for x in range(4)]
        assert [get(result) for result in results] == list(range(4))
        with time_limit(PATIENCE_SECONDS, "map() of short tasks"):
            assert pool.starmap(tasks.sleep_and_return, [(0.25, x) for x in range(4)], 4) == list(range(4))
        time.sleep(TASK_LIMIT_SECONDS + 0.1)
        assert get(pool.apply_async(tasks.double, (1,))) == 2


def test_an_initializer_may_take_longer_than_the_task_limit(start_method):
    with open_pool(start_method, 1, time.sleep, (0.6,), timeout=0.3) as pool:
        assert get(pool.apply_async(tasks.double, (1,))) == 2


# ---------------------------------------------------------------------------------------------------------------------
# Recycled workers.


@pytest.mark.parametrize("limit", [1, 3])
def test_workers_are_replaced_after_so_many_tasks(start_method, limit):
    with open_pool(start_method, maxtasksperchild=limit) as pool:
        pids = [get(result) for result in [pool.apply_async(tasks.pid) for _ in range(12)]]
        counts = collections.Counter(pids)
        assert max(counts.values()) <= limit
        assert len(counts) >= 12 // limit
        # In map, chunks count.
        counts = collections.Counter(pool.map(tasks.pid_of, range(24), 4))
        assert max(counts.values()) <= 4 * limit


def test_no_task_is_lost_while_workers_are_recycled_under_load(start_method):
    rounds = 300 if start_method != "spawn" else 100
    with open_pool(start_method, maxtasksperchild=5) as pool:
        results = [pool.apply_async(tasks.double, (x,)) for x in range(rounds)]
        assert [get(result) for result in results] == [2 * x for x in range(rounds)]
        assert take(pool.imap(tasks.double, range(rounds))) == [2 * x for x in range(rounds)]


def test_recycled_workers_run_the_initializer_again(start_method, tmp_path):
    starts = tmp_path / "starts"
    with open_pool(start_method, 1, tasks.count_start, (str(starts),), maxtasksperchild=2) as pool:
        for x in range(8):
            assert get(pool.apply_async(tasks.double, (x,))) == 2 * x
        assert line_count(starts) >= 4


# ---------------------------------------------------------------------------------------------------------------------
# Processes below the workers.


def test_a_task_may_open_a_pool_of_its_own(start_method):
    expected = [sum(x * x for x in range(n)) for n in (5, 10, 12)]
    with open_pool(start_method) as pool:
        with time_limit(2 * PATIENCE_SECONDS, "pools inside tasks"):
            assert (
                pool.starmap(tasks.sum_of_squares_by_inner_pool, [(n, start_method) for n in (5, 10, 12)], 1)
                == expected
            )
            # What the inner pool's task raises comes all the way.
            with pytest.raises(ValueError, match="thirteen"):
                pool.apply(tasks.sum_of_squares_by_inner_pool, (20, start_method))
        assert_pool_is_whole(pool)


def test_a_pool_inside_a_task_ends_with_its_worker(start_method, tmp_path):
    path = str(tmp_path / "inner pids")
    with open_pool(start_method) as pool:
        result = pool.apply_async(tasks.inner_pool_then_sleep, (path, start_method))
        inner = [Process(int(pid)) for pid in wait_for_file(path).split()]
        middle = _worker_running(pool, result)
        os.kill(middle, signal.SIGKILL)
        assert type(get(result)) is mp.WorkerDied
        wait_until_gone(inner)
        assert_pool_is_whole(pool)


def _worker_running(pool, _result):
    """The pid of the worker that is not free: with one task running in a pool of two, who else comes when called?"""
    free = get(pool.apply_async(tasks.pid))
    busy = [process.pid for process in children(Process(free).parent_pid()) if process.pid != free]
    assert len(busy) == 1, busy
    return busy[0]


@pytest.mark.parametrize("start", [tasks.start_program_then_sleep, tasks.fork_child_then_sleep])
@pytest.mark.parametrize("ending", ["kill", "timeout", "terminate"])
def test_what_a_task_started_ends_with_its_worker(start_method, start, ending, tmp_path):
    path = str(tmp_path / "grandchild")
    with open_pool(start_method, **({"timeout": TASK_LIMIT_SECONDS} if ending == "timeout" else {})) as pool:
        result = pool.apply_async(start, (path,))
        grandchild = Process(int(wait_for_file(path)))
        assert grandchild.is_alive()
        if ending == "kill":
            os.kill(grandchild.parent_pid(), signal.SIGKILL)
            assert type(get(result)) is mp.WorkerDied
        elif ending == "timeout":
            assert type(get(result)) is mp.TaskTimeout
        else:
            pool.terminate()
            assert type(get(result)) is mp.PoolTerminated
        wait_until_gone([grandchild])
        if ending != "terminate":
            assert_pool_is_whole(pool)


def test_a_task_may_run_programs_and_reap_them(start_method):
    with open_pool(start_method) as pool:
        assert pool.map(tasks.run_program, range(6), 1) == [42] * 6


# ---------------------------------------------------------------------------------------------------------------------
# The caller forks, ignores SIGCHLD, or reaps whatever there is to reap.

FORK_WHILE_OPEN = """
    import os, sys
    from subject import mp
    import tasks

    if __name__ == "__main__":
        start_method, child_does = sys.argv[1:]
        pool = mp.get_context(start_method).Pool(2)
        assert pool.map(tasks.double, range(10)) == [2 * x for x in range(10)]
        child = os.fork()
        if child == 0:
            if child_does == "calls the pool":
                for call in (
                    lambda: pool.apply(tasks.double, (1,)),
                    lambda: pool.map(tasks.double, [1, 2]),
                    lambda: next(pool.imap(tasks.double, [1])),
                    lambda: pool.apply_async(tasks.double, (1,)).get(5),
                ):
                    try:
                        call()
                    except (ValueError, RuntimeError, mp.ProcessError) as error:
                        assert not isinstance(error, mp.TimeoutError), "the child waited for nothing"
                        assert "process" in str(error) or "fork" in str(error), error
                    else:
                        raise AssertionError("the child got a result from its parent's pool")
            if child_does == "ends the pool":
                # Refused or without effect: it is not the child's.
                for method in (pool.close, pool.terminate, pool.join):
                    try:
                        method()
                    except RuntimeError as error:
                        assert "process" in str(error), error
            if child_does == "drops the pool":
                import gc
                del pool
                gc.collect()
            if child_does == "opens its own":
                with mp.get_context(start_method).Pool(2) as own:
                    assert own.map(tasks.double, range(10)) == [2 * x for x in range(10)]
            sys.exit(7)
        _, status = os.waitpid(child, 0)
        assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 7, status
        assert pool.map(tasks.double, range(10), 1) == [2 * x for x in range(10)]
        results = [pool.apply_async(tasks.sigkill_at_thirteen, (x,)) for x in range(20)]
        failed = 0
        for x, result in enumerate(results):
            try:
                assert result.get(20) == x * x
            except mp.WorkerDied:
                failed += 1
        assert failed == 1
        pool.terminate()
        pool.join()
        print("all well")
"""


@pytest.mark.parametrize(
    "child_does", ["nothing", "calls the pool", "ends the pool", "drops the pool", "opens its own"]
)
def test_a_fork_of_the_caller_leaves_the_pool_to_its_parent(start_method, child_does, tmp_path):
    program = run_program(
        tmp_path, FORK_WHILE_OPEN, start_method, child_does, flags=["-W", "error::DeprecationWarning"]
    )
    assert program.stdout() == "all well\n"
    assert program.stderr() == ""


FORK_WHILE_BUSY = """
    import os, sys, threading, time
    from subject import mp
    import tasks

    if __name__ == "__main__":
        # While a map runs in another thread: the child inherits whatever state that thread had just then.
        with mp.get_context(sys.argv[1]).Pool(2) as pool:
            done = []
            def work():
                for _ in range(30):
                    done.append(pool.map(tasks.double, range(200), 1) == [2 * x for x in range(200)])
            thread = threading.Thread(target=work)
            thread.start()
            while thread.is_alive():
                child = os.fork()
                if child == 0:
                    os._exit(7)
                _, status = os.waitpid(child, 0)
                assert os.WEXITSTATUS(status) == 7
                time.sleep(0.002)
            assert done == [True] * 30
        print("all well")
"""


def test_forks_beside_a_running_map_disturb_nobody(start_method, tmp_path):
    # That Python warns of a fork beside a thread of the caller's own is right.
    program = run_program(tmp_path, FORK_WHILE_BUSY, start_method, flags=["-W", "ignore::DeprecationWarning"])
    assert program.stdout() == "all well\n"


def test_an_idle_pool_keeps_no_thread(start_method):
    before = native_thread_count()
    with open_pool(start_method) as pool:
        assert native_thread_count() == before
        assert pool.map(tasks.double, range(100), 1) == [2 * x for x in range(100)]
        assert list(pool.imap(tasks.double, range(10))) == [2 * x for x in range(10)]
        called = []
        get(pool.apply_async(tasks.double, (1,), callback=called.append))
        assert called == [2]
        wait_until(lambda: native_thread_count() == before, "threads of ours go when nobody needs them")


SIGCHLD_TAKEN = """
    import os, signal, sys, threading, time
    from subject import mp
    import tasks

    def reap(_number, _frame):
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

    if __name__ == "__main__":
        handler = {"ignored": signal.SIG_IGN, "reaped": reap}[sys.argv[2]]
        signal.signal(signal.SIGCHLD, handler)
        with mp.get_context(sys.argv[1]).Pool(2) as pool:
            assert pool.map(tasks.double, range(100), 1) == [2 * x for x in range(100)]
            results = [pool.apply_async(tasks.sigkill_at_thirteen, (x,)) for x in range(30)]
            failed = []
            for x, result in enumerate(results):
                try:
                    assert result.get(20) == x * x
                except mp.WorkerDied as error:
                    failed.append(x)
            assert failed == [13], failed
        pool.join()
        with mp.get_context(sys.argv[1]).Pool(2) as pool:
            assert pool.apply(tasks.double, (1,)) == 2
            pool.close()
            pool.join()
        assert signal.getsignal(signal.SIGCHLD) is handler
        print("all well")
"""


@pytest.mark.parametrize("how", ["ignored", "reaped"])
def test_a_caller_that_takes_sigchld_for_itself_disturbs_nobody(start_method, how, tmp_path):
    assert run_program(tmp_path, SIGCHLD_TAKEN, start_method, how).stdout() == "all well\n"


def test_a_pool_leaves_signal_handlers_alone(start_method):
    numbers = [number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)]
    before = {number: signal.getsignal(number) for number in numbers}
    with open_pool(start_method) as pool:
        pool.map(tasks.double, range(10))
        get(pool.apply_async(tasks.sigkill_self))
        assert {number: signal.getsignal(number) for number in numbers} == before


# ---------------------------------------------------------------------------------------------------------------------
# Too few descriptors.

FEW_DESCRIPTORS = """
    import errno, gc, os, resource, sys
    from subject import mp
    import tasks

    def descriptors():
        return sorted(os.listdir("/proc/self/fd"))

    def children():
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return file.read().split()

    if __name__ == "__main__":
        context = mp.get_context(sys.argv[1])
        # What a first pool leaves running for later ones (a fork server, say) is not what is tested.
        with context.Pool(1) as pool:
            assert pool.apply(tasks.double, (1,)) == 2
        pool.join()
        del pool
        gc.collect()
        before, children_before = descriptors(), children()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        refused = worked = 0
        for spare in range(0, 60):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, before)) + spare, limits[1]))
            pool = None
            try:
                pool = context.Pool(2)
                assert pool.apply(tasks.double, (4,)) == 8
                worked += 1
            except OSError as error:
                assert error.errno == errno.EMFILE, error
                refused += 1
            except mp.ProcessError as error:
                # The pool came about, but its workers did not.
                assert "descriptor" in str(error) or "Too many open files" in str(error), error
                refused += 1
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            if pool is not None:
                pool.terminate()
                pool.join()
            del pool
            gc.collect()
            assert descriptors() == before, (spare, before, descriptors())
            assert children() == children_before, (spare, children())
        assert refused and worked, (refused, worked)
        print("all well")
"""


def test_too_few_descriptors_are_a_clear_error_and_leave_nothing(start_method, tmp_path):
    program = run_program(tmp_path, FEW_DESCRIPTORS, start_method)
    assert program.stdout() == "all well\n"
    assert program.stderr() == ""


# ---------------------------------------------------------------------------------------------------------------------
# Large results.


def test_many_huge_results_come_back_whole(start_method):
    size = 20_000_000
    with open_pool(start_method) as pool:
        iterator = pool.imap(functools.partial(tasks.make_bytes, size), range(8))
        for number in range(8):
            result = iterator.next(PATIENCE_SECONDS)
            assert len(result) == size
            assert result.count(number) == size
        results = [pool.apply_async(tasks.make_bytes, (size, number)) for number in range(4)]
        assert [set(get(result)[::1_000_003]) for result in results] == [{number} for number in range(4)]


def test_a_death_among_huge_results_costs_one(start_method):
    with open_pool(start_method) as pool:
        results = [pool.apply_async(tasks.huge_or_deadly_at_five, (x,)) for x in range(12)]
        got = [get(result) for result in results]
        assert [x for x, item in enumerate(got) if isinstance(item, mp.WorkerDied)] == [5]
        assert all(len(item) == 5_000_000 and item[-1] == x for x, item in enumerate(got) if x != 5)
        assert_pool_is_whole(pool)


def test_a_worker_killed_while_it_publishes_a_huge_result_fails_only_its_own_task(start_method):
    generator = random.Random(5)
    with open_pool(start_method) as pool:
        hunter = WorkerHunter(pool, 2)
        failed = 0
        for round_number in itertools.count():
            results = [pool.apply_async(tasks.make_bytes, (4_000_000, x)) for x in range(6)]
            time.sleep(generator.uniform(0.0, 0.02))
            victims = hunter.workers()
            if victims:
                generator.choice(victims).kill()
            got = [get(result) for result in results]
            errors = [item for item in got if isinstance(item, BaseException)]
            assert len(errors) <= 1, errors
            assert all(type(error) is mp.WorkerDied for error in errors), errors
            failed += len(errors)
            assert all(item in errors or item == tasks.make_bytes(4_000_000, x) for x, item in enumerate(got))
            if round_number >= 15:
                break
        assert_pool_is_whole(pool)


def test_hang_is_not_what_the_tests_call_a_result():
    # A guard for the guards: a timeout of the test's own must not be taken for an outcome.
    with pytest.raises(Hang):
        outcome(lambda: (_ for _ in ()).throw(mp.TimeoutError()))
