"""Faults of pickling: whatever fails to be pickled or unpickled, on either side, costs its own task alone."""

import pickle
import re
import signal
import sys
import threading
from multiprocessing.pool import MaybeEncodingError

import pickle_tasks
import pytest
import tasks
from harness import (
    EACH_WAY,
    PATIENCE_SECONDS,
    assert_only_thirteen_fails,
    assert_pool_is_whole,
    get,
    open_pool,
    outcome,
    pool_tests,
    promised_by_us_only,
    time_limit,
    worker_pids,
)
from subject import mp

pytestmark = [*pool_tests, promised_by_us_only]


# ---------------------------------------------------------------------------------------------------------------------
# Pickle fails, on either side, on either way.

BROKEN_TRANSPORTS = {
    "result that cannot be pickled": pickle_tasks.return_unpicklable_at_thirteen,
    "result that cannot be rebuilt": pickle_tasks.return_unrebuildable_at_thirteen,
    "exception that cannot be pickled": pickle_tasks.raise_unpicklable_error_at_thirteen,
    "exception that cannot be rebuilt": pickle_tasks.raise_unrebuildable_error_at_thirteen,
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
        error = get(pool.apply_async(pickle_tasks.return_generator))
        assert type(error) is MaybeEncodingError
        assert re.match(
            r"Error sending result: '<generator object return_generator\.<locals>\.<genexpr> at 0x\w+>'\. Reason: ",
            str(error),
        )


@pytest.mark.parametrize("travels", ["by reference", "by value"])
def test_the_error_of_a_single_call_names_its_function(start_method, travels):
    function = pickle_tasks.return_unrebuildable
    with open_pool(start_method) as pool:
        pool.apply(tasks.double, (1,))
        error = get(pool.apply_async(function if travels == "by reference" else pickle_tasks.Caller(function)))
        name = "return_unrebuildable" if travels == "by reference" else "Caller"
        assert error.task == name and f"the result of {name} could not be rebuilt" in str(error)


def test_a_result_that_is_rebuilt_only_in_the_worker_fails_its_own_task_alone(start_method):
    with open_pool(start_method) as pool:
        error = get(pool.apply_async(pickle_tasks.return_rebuildable_only_here))
        assert type(error) is mp.ResultDecodeError
        assert "refuses to be rebuilt outside of" in str(error)
        assert_pool_is_whole(pool)


def test_a_result_that_exits_while_it_is_rebuilt_ends_nobody(start_method):
    with open_pool(start_method) as pool:
        error = get(pool.apply_async(pickle_tasks.return_exits_while_unpickled))
        assert isinstance(error, (mp.ResultDecodeError, SystemExit))
        assert_pool_is_whole(pool)


def test_a_result_that_cannot_be_rebuilt_reaches_the_error_callback(start_method):
    heard = threading.Event()
    errors = []

    def hear(error):
        errors.append(error)
        heard.set()

    with open_pool(start_method) as pool:
        pool.apply_async(pickle_tasks.return_unrebuildable, callback=hear, error_callback=hear)
        assert heard.wait(PATIENCE_SECONDS)
        assert type(errors[0]) is mp.ResultDecodeError


@pytest.mark.parametrize("way", sorted(EACH_WAY))
def test_an_argument_that_cannot_be_pickled_fails_its_own_task_alone(start_method, way):
    items = [pickle_tasks.FailsToPickle() if x == 13 else x for x in range(40)]
    with open_pool(start_method) as pool:
        got = EACH_WAY[way](pool, pickle_tasks.square_of, items)
        assert_only_thirteen_fails(got, way, pickle_tasks.square_of, _refuses_to_be_pickled)
        assert_pool_is_whole(pool)


def _refuses_to_be_pickled(error, _function=None):
    assert (type(error), str(error)) == (RuntimeError, "refuses to be pickled")


@pytest.mark.parametrize("chunksize", [1, None, 7])
def test_an_argument_that_cannot_be_pickled_fails_its_map(start_method, chunksize):
    items = [pickle_tasks.FailsToPickle() if x == 13 else x for x in range(40)]
    with open_pool(start_method) as pool:
        with time_limit(PATIENCE_SECONDS, "map() of what cannot be pickled"):
            _refuses_to_be_pickled(outcome(pool.map, pickle_tasks.square_of, items, chunksize))
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
    items = [pickle_tasks.FailsToUnpickle() if x == 13 else x for x in range(40)]
    with open_pool(start_method) as pool:
        before = set(worker_pids(pool, 2))
        got = EACH_WAY[way](pool, pickle_tasks.square_of, items)
        assert_only_thirteen_fails(got, way, pickle_tasks.square_of, _refuses_to_be_rebuilt)
        assert_pool_is_whole(pool)
        assert set(worker_pids(pool, 2)) == before, "no worker had to die for this"


def _refuses_to_be_rebuilt(error, _function=None):
    assert (type(error), str(error)) == (RuntimeError, "refuses to be rebuilt")
    assert "_raise_while_rebuilding" in str(error.__cause__)


@pytest.mark.parametrize("chunksize", [1, None, 7])
def test_an_argument_that_cannot_be_rebuilt_fails_its_map(start_method, chunksize):
    items = [pickle_tasks.FailsToUnpickle() if x == 13 else x for x in range(40)]
    with open_pool(start_method) as pool:
        with time_limit(PATIENCE_SECONDS, "map() of what cannot be rebuilt"):
            _refuses_to_be_rebuilt(outcome(pool.map, pickle_tasks.square_of, items, chunksize))
        assert_pool_is_whole(pool)


def test_an_argument_that_kills_its_reader_fails_its_own_task_alone(start_method):
    items = [pickle_tasks.DiesWhileUnpickled() if x == 13 else x for x in range(40)]
    with open_pool(start_method) as pool:
        got = EACH_WAY["apply_async"](pool, pickle_tasks.square_of, items)
        assert type(got[13]) is mp.WorkerDied
        assert got[13].exitcode == -signal.SIGKILL
        assert got[:13] + got[14:] == [x * x for x in range(40) if x != 13]
        assert_pool_is_whole(pool)


def test_an_argument_that_exits_while_it_is_rebuilt_fails_its_own_task_alone(start_method):
    items = [pickle_tasks.ExitsWhileUnpickled() if x == 13 else x for x in range(40)]
    with open_pool(start_method) as pool:
        got = EACH_WAY["apply_async"](pool, pickle_tasks.square_of, items)
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
