"""The pool behaves as ``multiprocessing.pool.Pool`` does: methods, order, callbacks, messages, values.

Whatever is not marked as our own promise has been checked against the standard library
(``PROCESSION_TEST_STDLIB=1``, see subject.py).
"""

import collections
import gc
import inspect
import math
import multiprocessing
import multiprocessing.pool
import os
import pickle
import re
import sys
import threading
import time
import warnings

import pytest
import tasks
from harness import (
    EACH_WAY,
    PATIENCE_SECONDS,
    get,
    open_pool,
    outcome,
    pool_tests,
    promised_by_us_only,
    take,
    time_limit,
    worker_pids,
)
from subject import ON_STDLIB, mp, pool_module

pytestmark = pool_tests


# ---------------------------------------------------------------------------------------------------------------------
# The methods and their results.


def test_apply_returns_the_result(start_method):
    with open_pool(start_method) as pool:
        assert pool.apply(tasks.double, (21,)) == 42
        assert pool.apply(tasks.nothing) is None
        assert pool.apply(tasks.with_default, (1,), {"c": 3}) == (1, 10, 3)
        assert pool.apply(tasks.all_arguments, args=[1, 2], kwds={"k": "v"}) == ((1, 2), {"k": "v"})


def test_apply_takes_any_iterable_of_arguments(start_method):
    with open_pool(start_method) as pool:
        assert pool.apply(tasks.all_arguments, range(3)) == ((0, 1, 2), {})
        assert pool.apply(tasks.all_arguments, "ab") == (("a", "b"), {})
        assert pool.apply(tasks.all_arguments, (), {"only": "keywords"}) == ((), {"only": "keywords"})


def test_apply_async_takes_keywords(start_method):
    with open_pool(start_method) as pool:
        result = pool.apply_async(tasks.with_default, (1,), kwds={"b": 2, "c": 3})
        assert get(result) == (1, 2, 3)


def test_map_keeps_the_order(start_method):
    with open_pool(start_method) as pool:
        for chunksize in (None, 1, 2, 3, 7, 100, 1000):
            assert pool.map(tasks.double, range(100), chunksize) == [2 * x for x in range(100)]
        assert pool.map(tasks.uneven, range(20), 1) == list(range(20))


def test_map_takes_sequences_generators_sets_and_strings(start_method):
    with open_pool(start_method) as pool:
        assert pool.map(tasks.double, (x for x in range(10))) == [2 * x for x in range(10)]
        assert sorted(pool.map(tasks.double, {1, 2, 3})) == [2, 4, 6]
        assert pool.map(tasks.double, "abc") == ["aa", "bb", "cc"]
        assert pool.map(tasks.double, {"a": 1, "b": 2}) == ["aa", "bb"]
        assert pool.map(tasks.identity, iter([None, False, 0])) == [None, False, 0]


@pytest.mark.parametrize(
    "numbers",
    [
        range(1),
        range(10, -10, -3),
        range(5, 50_000, 7),
        range(-(2**63), -(2**63) + 3),
        range(2**63 - 5, 2**63 - 1),
        range(2**63 - 2, 2**63 + 4),
        range(-(2**70), 2**70, 2**68),
    ],
    ids=str,
)
def test_map_takes_ranges_of_any_numbers(numbers):
    with open_pool("fork", 2) as pool:
        for chunksize in (None, 1, 3):
            assert pool.map(tasks.identity, numbers, chunksize) == list(numbers)


def test_map_of_a_range_tells_of_a_function_that_does_not_pickle():
    with open_pool("fork", 2) as pool, pytest.raises(TypeError, match="pickle"):
        pool.map(threading.Lock().acquire, range(3))


def test_map_asks_for_the_length_at_most_and_never_for_an_index():
    class Countable:
        """Has a length, and is iterated; indexing it would be wrong."""

        def __len__(self):
            return 5

        def __iter__(self):
            return iter([5, 4, 3, 2, 1])

    with open_pool("fork") as pool:
        assert pool.map(tasks.double, Countable()) == [10, 8, 6, 4, 2]


@pytest.mark.parametrize("chunksize", [None, 1, 5])
def test_map_of_nothing_is_empty(start_method, chunksize):
    with open_pool(start_method) as pool:
        assert pool.map(tasks.double, [], chunksize) == []
        assert pool.map(tasks.double, iter(()), chunksize) == []
        assert pool.starmap(tasks.add, [], chunksize) == []
        assert list(pool.imap(tasks.double, [])) == []
        assert list(pool.imap_unordered(tasks.double, [])) == []


def test_starmap_spreads_each_item(start_method):
    with open_pool(start_method) as pool:
        pairs = [(x, 10 * x) for x in range(30)]
        for chunksize in (None, 1, 4):
            assert pool.starmap(tasks.add, pairs, chunksize) == [11 * x for x in range(30)]
        assert pool.starmap(tasks.all_arguments, [[], (1,), "ab"]) == [((), {}), ((1,), {}), (("a", "b"), {})]
        assert get(pool.starmap_async(tasks.add, zip(range(5), range(5)))) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("chunksize", [1, 3, 50])
def test_imap_keeps_the_order(start_method, chunksize):
    with open_pool(start_method) as pool:
        assert list(pool.imap(tasks.uneven, range(40), chunksize)) == list(range(40))


@pytest.mark.parametrize("chunksize", [1, 3, 50])
def test_imap_unordered_gives_each_result_once(start_method, chunksize):
    with open_pool(start_method) as pool:
        assert sorted(pool.imap_unordered(tasks.uneven, range(40), chunksize)) == list(range(40))


def test_imap_unordered_gives_what_is_ready_first(start_method, tmp_path):
    gate = str(tmp_path / "gate")
    with open_pool(start_method) as pool:
        # Item 0 waits until the consumer has seen all others.
        iterator = pool.imap_unordered(tasks.wait_if_zero, [(gate, x) for x in range(10)])
        assert sorted(iterator.next(PATIENCE_SECONDS) for _ in range(9)) == list(range(1, 10))
        tasks.touch(gate)
        assert iterator.next(PATIENCE_SECONDS) == 0
        with pytest.raises(StopIteration):
            iterator.next(PATIENCE_SECONDS)


def test_results_are_computed_in_the_workers(start_method):
    with open_pool(start_method) as pool:
        pids = set(worker_pids(pool, 2))
        assert os.getpid() not in pids
        assert set(pool.map(tasks.pid_of, range(100), 1)) <= pids
        assert pool.apply(tasks.pid) in pids


def test_functions_of_every_kind_that_pickles_can_be_tasks(start_method):
    counter = tasks.Counter(7)
    with open_pool(start_method) as pool:
        assert pool.apply(len, ("four",)) == 4
        assert pool.map(abs, [-1, -2]) == [1, 2]
        assert pool.map(str.upper, ["a", "b"]) == ["A", "B"]
        assert pool.map("-".join, [["a", "b"]]) == ["a-b"]
        assert pool.map(tasks.add_five, [1, 2]) == [6, 7]
        assert pool.map(tasks.Counter.static, [1]) == [2]
        assert pool.map(tasks.Counter.made_by_class, [5]) == [5]
        assert pool.map(tasks.IntSubclass, ["3"]) == [3]
        assert pool.map(counter, [1, 2]) == [7, 14]
        assert pool.map(counter.plus, [1, 2]) == [8, 9]
        # State travels as it is at the call, however often the same object was sent before.
        counter.value = 100
        assert pool.map(counter.plus, [1, 2]) == [101, 102]
        assert pool.apply(counter, (2,)) == 200


def test_many_different_functions_can_be_tasks(start_method):
    functions = [getattr(math, name) for name in ("sqrt", "sin", "cos", "tan", "exp", "floor", "ceil", "degrees")]
    functions += [tasks.double, tasks.identity, abs, hex, float, complex, repr, str]
    with open_pool(start_method) as pool:
        results = [pool.apply_async(function, (4,)) for _ in range(20) for function in functions]
        assert [get(result) for result in results] == [function(4) for _ in range(20) for function in functions]


# ---------------------------------------------------------------------------------------------------------------------
# AsyncResult and MapResult.


def test_async_result_tells_when_it_is_ready(start_method, tmp_path):
    gate = str(tmp_path / "gate")
    with open_pool(start_method) as pool:
        result = pool.apply_async(tasks.wait_for_file, (gate,))
        assert result.ready() is False
        assert result.wait(0.05) is None
        assert result.ready() is False
        tasks.touch(gate)
        result.wait(PATIENCE_SECONDS)
        assert result.ready() is True
        assert result.successful() is True
        assert result.get() == gate
        assert result.get(timeout=0) == gate
        assert result.get() is result.get()


def test_successful_before_the_end_is_an_error(start_method, tmp_path):
    gate = str(tmp_path / "gate")
    with open_pool(start_method) as pool:
        for result, kind in (
            (pool.apply_async(tasks.wait_for_file, (gate,)), "ApplyResult"),
            (pool.map_async(tasks.wait_for_file, [gate]), "MapResult"),
        ):
            with pytest.raises(ValueError) as caught:
                result.successful()
            assert re.fullmatch(rf"<\S+\.{kind} object at 0x[0-9a-f]+> not ready", str(caught.value))
        tasks.touch(gate)


def test_successful_is_false_after_an_error(start_method):
    with open_pool(start_method) as pool:
        for result in (
            pool.apply_async(tasks.raise_value_error),
            pool.map_async(tasks.raise_value_error, [1, 2]),
        ):
            result.wait(PATIENCE_SECONDS)
            assert result.ready()
            assert result.successful() is False
            with pytest.raises(ValueError, match="no good"):
                result.get()
            # An error can be asked for as often as a result.
            with pytest.raises(ValueError, match="no good"):
                result.get(0)


def test_get_with_a_timeout_raises_multiprocessings_own_timeout_error(start_method, tmp_path):
    gate = str(tmp_path / "gate")
    with open_pool(start_method) as pool:
        result = pool.apply_async(tasks.wait_for_file, (gate,))
        for seconds in (0, 0.05, 0.0):
            started = time.monotonic()
            with pytest.raises(multiprocessing.TimeoutError) as caught:
                result.get(timeout=seconds)
            assert time.monotonic() - started >= seconds
            assert isinstance(caught.value, multiprocessing.ProcessError)
            assert not isinstance(caught.value, TimeoutError)
            assert caught.value.args == ()
        tasks.touch(gate)
        assert get(result) == gate


def test_a_negative_timeout_has_passed_already(start_method, tmp_path):
    gate = str(tmp_path / "gate")
    with open_pool(start_method) as pool:
        result = pool.apply_async(tasks.wait_for_file, (gate,))
        with pytest.raises(multiprocessing.TimeoutError):
            result.get(-1)
        result.wait(-1)
        tasks.touch(gate)
        assert get(result) == gate


def test_map_async_of_nothing_is_ready_at_once_and_calls_nobody(start_method):
    called = []
    with open_pool(start_method) as pool:
        result = pool.map_async(tasks.double, [], callback=called.append, error_callback=called.append)
        assert result.ready() and result.successful()
        assert result.get(0) == []
        pool.close()
        pool.join()
    assert called == []


def test_map_async_with_chunks_of_nothing_is_ready_at_once(start_method):
    with open_pool(start_method) as pool:
        result = pool.map_async(tasks.double, [1, 2, 3], chunksize=0)
        assert result.ready() and result.successful()
        assert result.get(0) == [None, None, None]
        assert pool.map(tasks.double, [1, 2, 3], 0) == [None, None, None]
        assert get(pool.apply_async(tasks.double, (1,))) == 2


def test_map_result_is_an_apply_result(start_method):
    assert issubclass(pool_module.MapResult, pool_module.ApplyResult)
    assert pool_module.AsyncResult is pool_module.ApplyResult
    with open_pool(start_method) as pool:
        assert type(pool.apply_async(tasks.nothing)) is pool_module.ApplyResult
        assert type(pool.map_async(tasks.double, [1])) is pool_module.MapResult
        assert type(pool.starmap_async(tasks.add, [(1, 2)])) is pool_module.MapResult


def test_map_result_counts_the_chunks_that_are_left(start_method, tmp_path):
    gate = str(tmp_path / "gate")
    with open_pool(start_method) as pool:
        # Progress bars in the wild read this private number.
        result = pool.map_async(tasks.wait_for_file, [gate] * 7, chunksize=2)
        assert result._number_left == 4
        tasks.touch(gate)
        assert get(result) == [gate] * 7
        assert result._number_left == 0


def test_a_result_outlives_its_pool(start_method):
    with open_pool(start_method) as pool:
        results = [pool.apply_async(tasks.double, (x,)) for x in range(5)]
        mapped = pool.map_async(tasks.double, range(5))
        for result in (*results, mapped):
            result.wait(PATIENCE_SECONDS)
    del pool
    gc.collect()
    assert [result.get(0) for result in results] == mapped.get(0) == [0, 2, 4, 6, 8]


def test_results_can_be_asked_for_in_any_order_and_from_any_thread(start_method):
    with open_pool(start_method) as pool:
        results = [pool.apply_async(tasks.double, (x,)) for x in range(200)]
        seen = {}

        def ask(numbers):
            for number in numbers:
                seen[number] = results[number].get(PATIENCE_SECONDS)

        threads = [
            threading.Thread(target=ask, args=(numbers,))
            for numbers in (range(199, -1, -3), range(0, 200, 3), [*range(1, 200, 3), *range(198, 0, -2)])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
        for number in range(200):
            assert results[number].get(0) == 2 * number
        assert all(seen[number] == 2 * number for number in seen)


def test_several_threads_may_wait_for_one_result(start_method, tmp_path):
    gate = str(tmp_path / "gate")
    with open_pool(start_method) as pool:
        result = pool.apply_async(tasks.wait_for_file, (gate,))
        seen = []
        threads = [threading.Thread(target=lambda: seen.append(get(result))) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.05)
        tasks.touch(gate)
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
        assert seen == [gate] * 4


# ---------------------------------------------------------------------------------------------------------------------
# Errors in tasks.


def test_an_error_in_a_task_is_raised_where_its_result_is_asked_for(start_method):
    with open_pool(start_method) as pool:
        with pytest.raises(ValueError, match="^no good: 5$"):
            pool.apply(tasks.raise_value_error, (5,))
        with pytest.raises(ValueError, match="^thirteen$"):
            pool.map(tasks.raise_at_thirteen, range(40))
        with pytest.raises(ValueError, match="^thirteen$"):
            pool.map(tasks.raise_at_thirteen, range(40), 1)
        assert pool.map(tasks.raise_at_thirteen, range(10)) == [x * x for x in range(10)]


def test_the_cause_of_an_error_shows_the_workers_traceback(start_method):
    with open_pool(start_method) as pool:
        error = get(pool.apply_async(tasks.raise_value_error, (5,)))
    assert type(error) is ValueError
    cause = error.__cause__
    assert type(cause) is multiprocessing.pool.RemoteTraceback
    assert pool_module.RemoteTraceback is multiprocessing.pool.RemoteTraceback
    text = str(cause)
    assert text.startswith('\n"""\nTraceback (most recent call last):\n')
    assert text.endswith('ValueError: no good: 5\n"""')
    assert "in raise_value_error" in text
    assert "tasks.py" in text


def test_the_workers_traceback_shows_the_errors_own_cause(start_method):
    with open_pool(start_method) as pool:
        error = get(pool.apply_async(tasks.raise_with_cause))
    assert type(error) is RuntimeError
    text = str(error.__cause__)
    assert "KeyError: 'missing'" in text
    assert "direct cause" in text


def test_an_errors_type_arguments_and_attributes_survive(start_method):
    with open_pool(start_method) as pool:
        error = get(pool.apply_async(tasks.raise_custom_error, (7, "seven")))
        assert type(error) is tasks.CustomError
        assert (error.code, error.text, error.args) == (7, "seven", (7, "seven"))
        error = get(pool.apply_async(open, ("/no/such/file",)))
        assert type(error) is FileNotFoundError
        assert error.filename == "/no/such/file"


@pytest.mark.parametrize("way", sorted(EACH_WAY))
def test_an_error_in_one_item_leaves_the_others_alone(start_method, way):
    with open_pool(start_method) as pool:
        got = EACH_WAY[way](pool, tasks.raise_at_thirteen, range(40))
    errors = [item for item in got if isinstance(item, Exception)]
    results = [item for item in got if not isinstance(item, Exception)]
    assert [str(error) for error in errors] == ["thirteen"]
    if way == "imap_unordered":
        results.sort()
    else:
        assert got[13] is errors[0]
    assert results == [x * x for x in range(40) if x != 13]


def test_map_fails_only_when_all_items_are_through(start_method, tmp_path):
    gate = str(tmp_path / "gate")
    with open_pool(start_method) as pool:
        result = pool.map_async(tasks.wait_unless_zero, [(gate, x) for x in range(4)], chunksize=1)
        assert result.wait(0.2) is None
        assert not result.ready()
        tasks.touch(gate)
        assert str(get(result)) == "zero"


def test_map_raises_the_error_that_came_first(start_method, tmp_path):
    gate = str(tmp_path / "gate")
    with open_pool(start_method) as pool:
        # Item 0 fails last, as it waits for item 1 to fail first.
        result = pool.map_async(tasks.fail_in_turn, [(gate, 0), (gate, 1)], chunksize=1)
        assert str(get(result)) == "item 1"


def test_stop_iteration_from_a_task_is_an_error_like_others(start_method):
    with open_pool(start_method) as pool:
        assert type(get(pool.apply_async(next, (iter(()),)))) is StopIteration
        assert get(pool.apply_async(next, (iter([5]),))) == 5


def test_a_task_that_is_not_callable_is_that_tasks_error(start_method):
    with open_pool(start_method) as pool:
        error = outcome(pool.apply, 5)
        assert type(error) is TypeError
        assert str(error) == "'int' object is not callable"
        assert isinstance(error.__cause__, multiprocessing.pool.RemoteTraceback)
        error = outcome(pool.map, 5, [1])
        assert (type(error), str(error)) == (TypeError, "'int' object is not callable")


def test_wrong_arguments_are_that_tasks_error(start_method):
    with open_pool(start_method) as pool:
        assert type(get(pool.apply_async(tasks.double, (1, 2)))) is TypeError
        assert type(get(pool.apply_async(tasks.double, (), {"y": 1}))) is TypeError
        assert type(get(pool.apply_async(tasks.double, 5))) is TypeError
        assert type(get(pool.apply_async(tasks.double, (5,), 7))) is TypeError
        assert type(get(pool.starmap_async(tasks.add, [(1,)]))) is TypeError
        assert type(get(pool.starmap_async(tasks.add, [1]))) is TypeError
        assert get(pool.apply_async(tasks.double, (5,))) == 10


# ---------------------------------------------------------------------------------------------------------------------
# Callbacks.


def test_callbacks_run_before_get_returns_and_never_in_a_worker(start_method):
    calls = []

    def note(value):
        calls.append((value, os.getpid()))

    with open_pool(start_method) as pool:
        assert get(pool.apply_async(tasks.double, (4,), callback=note)) == 8
        assert calls == [(8, os.getpid())]
        assert get(pool.map_async(tasks.double, range(5), callback=note)) == [0, 2, 4, 6, 8]
        assert calls[1:] == [([0, 2, 4, 6, 8], os.getpid())]
        assert get(pool.starmap_async(tasks.add, [(1, 2)], callback=note)) == [3]
        assert calls[2:] == [([3], os.getpid())]


def test_the_result_is_not_ready_while_its_callback_runs(start_method):
    seen = []
    holder = []
    with open_pool(start_method) as pool:
        submitted = threading.Event()

        def look(_value):
            submitted.wait(PATIENCE_SECONDS)
            seen.append(holder[0].ready())

        holder.append(pool.apply_async(tasks.double, (4,), callback=look))
        submitted.set()
        assert get(holder[0]) == 8
    assert seen == [False]


def test_error_callbacks_get_the_exception(start_method):
    results, errors = [], []
    with open_pool(start_method) as pool:
        for submit, function, items in (
            (pool.apply_async, tasks.raise_value_error, (1,)),
            (pool.map_async, tasks.raise_at_thirteen, range(20)),
            (pool.starmap_async, tasks.raise_custom_error, [(1, "x")]),
        ):
            raised = get(submit(function, items, callback=results.append, error_callback=errors.append))
            assert errors[-1] is raised
    assert [type(error) for error in errors] == [ValueError, ValueError, tasks.CustomError]
    assert results == []


def test_callbacks_come_without_anybody_waiting(start_method):
    calls = []
    done = threading.Event()
    with open_pool(start_method) as pool:
        for x in range(20):
            pool.apply_async(tasks.double, (x,), callback=calls.append)
        pool.apply_async(tasks.sleep_and_return, (0.1, "last"), callback=lambda _: done.set())
        assert done.wait(PATIENCE_SECONDS)
        pool.close()
        pool.join()
    assert sorted(calls) == [2 * x for x in range(20)]


def test_callbacks_run_in_one_thread_in_the_order_of_completion(start_method):
    threads, order = [], []

    def note(value):
        threads.append(threading.current_thread())
        order.append(value)

    with open_pool(start_method, 1) as pool:
        # One worker, so tasks complete in the order in which they were given.
        results = [pool.apply_async(tasks.double, (x,), callback=note) for x in range(100)]
        for result in reversed(results):
            get(result)
    assert order == [2 * x for x in range(100)]
    assert len(set(threads)) == 1
    assert threads[0] is not threading.main_thread()


def test_all_callbacks_have_run_when_join_returns(start_method):
    calls = []
    with open_pool(start_method) as pool:
        for x in range(200):
            pool.apply_async(tasks.double, (x,), callback=calls.append)
        pool.close()
        pool.join()
        assert len(calls) == 200


def test_a_callback_may_submit_more_work(start_method):
    done = threading.Event()
    results = []
    with open_pool(start_method) as pool:

        def go_on(value):
            results.append(value)
            if value < 100:
                pool.apply_async(tasks.double, (value,), callback=go_on)
            else:
                done.set()

        pool.apply_async(tasks.double, (1,), callback=go_on)
        assert done.wait(PATIENCE_SECONDS)
    assert results == [2, 4, 8, 16, 32, 64, 128]


# ---------------------------------------------------------------------------------------------------------------------
# Iterators.


def test_imap_returns_its_own_iterator_type(start_method):
    with open_pool(start_method) as pool:
        ordered = pool.imap(tasks.double, range(3))
        unordered = pool.imap_unordered(tasks.double, range(3))
        assert type(ordered) is pool_module.IMapIterator
        assert type(unordered) is pool_module.IMapUnorderedIterator
        assert issubclass(pool_module.IMapUnorderedIterator, pool_module.IMapIterator)
        assert iter(ordered) is ordered
        assert iter(unordered) is unordered
        assert (next(ordered), ordered.next(), ordered.__next__()) == (0, 2, 4)
        for _ in range(2):
            with pytest.raises(StopIteration):
                ordered.next(PATIENCE_SECONDS)
        assert sorted(unordered) == [0, 2, 4]


def test_imap_in_chunks_returns_a_generator(start_method):
    with open_pool(start_method) as pool:
        for method in (pool.imap, pool.imap_unordered):
            iterator = method(tasks.double, range(10), chunksize=3)
            assert inspect.isgenerator(iterator)
            assert sorted(iterator) == [2 * x for x in range(10)]


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_next_with_a_timeout_can_be_tried_again(start_method, method, tmp_path):
    gate = str(tmp_path / "gate")
    with open_pool(start_method) as pool:
        iterator = getattr(pool, method)(tasks.wait_for_file, [gate])
        for seconds in (0, 0.05):
            with pytest.raises(multiprocessing.TimeoutError):
                iterator.next(seconds)
        with pytest.raises(multiprocessing.TimeoutError):
            iterator.next(timeout=0)
        tasks.touch(gate)
        assert iterator.next(timeout=PATIENCE_SECONDS) == gate
        with pytest.raises(StopIteration):
            iterator.next(timeout=PATIENCE_SECONDS)


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_imap_goes_on_after_an_error(start_method, method):
    with open_pool(start_method) as pool:
        got = take(getattr(pool, method)(tasks.raise_on_odd, range(10)))
    assert sorted(item for item in got if isinstance(item, int)) == [0, 2, 4, 6, 8]
    assert sorted(item.args[0] for item in got if isinstance(item, ValueError)) == [1, 3, 5, 7, 9]


def test_imap_in_chunks_ends_at_the_first_error(start_method):
    with open_pool(start_method) as pool:
        iterator = pool.imap(tasks.raise_at_thirteen, range(40), chunksize=5)
        got = []
        with pytest.raises(ValueError, match="thirteen"):
            for item in iterator:
                got.append(item)
        assert got[:10] == [x * x for x in range(10)]
        assert next(iterator, "the end") == "the end"


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_imap_works_on_before_anybody_asks(start_method, method, tmp_path):
    with open_pool(start_method) as pool:
        iterator = getattr(pool, method)(tasks.touch, [str(tmp_path / "first")])
        tasks.wait_for_file(str(tmp_path / "first"))
        assert iterator.next(PATIENCE_SECONDS) is None


def test_two_imaps_can_be_read_in_turns(start_method):
    with open_pool(start_method) as pool:
        pairs = zip(pool.imap(tasks.double, range(500)), pool.imap(tasks.uneven, range(50)), pool.imap(abs, range(70)))
        assert list(pairs) == [(2 * x, x, x) for x in range(50)]


def test_an_imap_can_feed_another(start_method):
    with open_pool(start_method) as pool:
        doubled = pool.imap(tasks.double, range(300))
        squared = pool.imap(tasks.square_of, doubled)
        assert list(squared) == [4 * x * x for x in range(300)]


@promised_by_us_only
def test_imap_results_can_be_taken_by_several_threads(start_method):
    with open_pool(start_method) as pool:
        iterator = pool.imap_unordered(tasks.double, range(400))
        taken = []
        threads = [threading.Thread(target=lambda: taken.extend(take(iterator))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
        assert sorted(taken) == [2 * x for x in range(400)]


class Feed:
    """An iterator that tells how far it was read."""

    def __init__(self, items):
        self._items = iter(items)
        self.consumed = 0

    def __iter__(self):
        return self

    def __next__(self):
        item = next(self._items)
        self.consumed += 1
        return item


# What imap may read ahead when nobody says otherwise. Enough to keep any number of workers busy, little beside a
# million.
READ_AHEAD_LIMIT = 20_000


@promised_by_us_only
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
@pytest.mark.parametrize("chunksize", [1, 10])
def test_imap_does_not_swallow_a_million_items(start_method, method, chunksize):
    feed = Feed(range(1_000_000))
    with open_pool(start_method) as pool:
        iterator = getattr(pool, method)(tasks.double, feed, chunksize)
        next(iterator)
        time.sleep(0.5)
        assert feed.consumed <= READ_AHEAD_LIMIT
        before = feed.consumed
        for _ in range(1000):
            next(iterator)
        time.sleep(0.1)
        assert feed.consumed <= before + 1000 + 2 * chunksize


@promised_by_us_only
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
@pytest.mark.parametrize("buffersize", [1, 2, 10])
def test_buffersize_is_how_far_imap_reads_ahead_of_its_reader(start_method, method, buffersize):
    feed = Feed(range(1000))
    with open_pool(start_method) as pool:
        iterator = getattr(pool, method)(tasks.double, feed, buffersize=buffersize)
        taken = []
        for _ in range(20):
            time.sleep(0.01)
            assert feed.consumed <= len(taken) + buffersize
            taken.append(next(iterator))
        taken.extend(iterator)
        assert sorted(taken) == [2 * x for x in range(1000)]
        assert feed.consumed == 1000


@promised_by_us_only
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_buffersize_and_chunksize_work_together(start_method, method):
    feed = Feed(range(1000))
    with open_pool(start_method) as pool:
        iterator = getattr(pool, method)(tasks.double, feed, chunksize=7, buffersize=3)
        taken = [next(iterator)]
        time.sleep(0.1)
        # Counted in items or in chunks, it is little.
        assert feed.consumed <= 7 * (3 + 2)
        taken.extend(iterator)
        assert sorted(taken) == [2 * x for x in range(1000)]


@promised_by_us_only
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_a_buffersize_that_makes_no_sense_is_refused(method):
    with open_pool("fork") as pool:
        for wrong in (0, -1):
            with pytest.raises(ValueError, match="buffersize"):
                getattr(pool, method)(tasks.double, [1], buffersize=wrong)
        for wrong in ("2", 1.5):
            with pytest.raises(TypeError, match="buffersize"):
                getattr(pool, method)(tasks.double, [1], buffersize=wrong)
        assert list(getattr(pool, method)(tasks.double, [1], buffersize=None)) == [2]


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
@pytest.mark.parametrize("permits", [1, 2, 5])
def test_a_generator_that_waits_for_its_consumer_does_not_deadlock(start_method, method, permits):
    # The recipe by which people bound imap: the generator takes a permit for each item, the consumer gives it back.
    semaphore = threading.Semaphore(permits)

    def guarded():
        for x in range(200):
            assert semaphore.acquire(timeout=PATIENCE_SECONDS)
            yield x

    with open_pool(start_method) as pool:
        taken = []
        for value in getattr(pool, method)(tasks.double, guarded()):
            taken.append(value)
            semaphore.release()
    assert sorted(taken) == [2 * x for x in range(200)]


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_a_slow_generator_does_not_hold_back_results_that_are_ready(start_method, method):
    go_on = threading.Event()

    def slow():
        yield 1
        yield 2
        assert go_on.wait(PATIENCE_SECONDS)
        yield 3

    with open_pool(start_method) as pool:
        iterator = getattr(pool, method)(tasks.double, slow())
        assert sorted([iterator.next(PATIENCE_SECONDS), iterator.next(PATIENCE_SECONDS)]) == [2, 4]
        # Whoever waits for the third has the timeout respected although the generator is what it waits for.
        with pytest.raises(multiprocessing.TimeoutError):
            iterator.next(0.05)
        go_on.set()
        assert iterator.next(PATIENCE_SECONDS) == 6


@promised_by_us_only
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_an_endless_generator_can_be_read_and_left(start_method, method):
    def endless():
        x = 0
        while True:
            yield x
            x += 1

    with open_pool(start_method) as pool:
        iterator = getattr(pool, method)(tasks.double, endless())
        taken = [next(iterator) for _ in range(3000)]
        assert len(set(taken)) == 3000
        del iterator
        assert pool.apply(tasks.double, (2,)) == 4


def test_other_tasks_run_beside_a_long_imap(start_method):
    with open_pool(start_method) as pool:
        iterator = pool.imap(tasks.double, range(5000))
        next(iterator)
        assert get(pool.apply_async(tasks.double, (21,))) == 42
        assert pool.map(tasks.double, range(10)) == [2 * x for x in range(10)]
        assert sum(1 for _ in iterator) == 4999


# ---------------------------------------------------------------------------------------------------------------------
# Signatures, messages, reprs.


def _public(cls):
    return sorted(name for name in vars(cls) if not name.startswith("_"))


@pytest.mark.parametrize(
    "class_name", ["Pool", "AsyncResult", "ApplyResult", "MapResult", "IMapIterator", "IMapUnorderedIterator"]
)
def test_classes_offer_what_multiprocessings_offer_with_the_same_signatures(class_name):
    ours, theirs = getattr(pool_module, class_name), getattr(multiprocessing.pool, class_name)
    for name in [*_public(theirs), *(["__init__"] if class_name == "Pool" else [])]:
        assert hasattr(ours, name), f"{class_name}.{name} is missing"
        expected = list(inspect.signature(getattr(theirs, name)).parameters.values())
        if name == "Process":
            continue  # A hook for subclasses: it is passed what the pool passes.
        actual = list(inspect.signature(getattr(ours, name)).parameters.values())
        strip = [(parameter.name, parameter.default) for parameter in actual]
        assert strip[: len(expected)] == [(parameter.name, parameter.default) for parameter in expected], name
        for extra in actual[len(expected) :]:
            assert extra.kind is inspect.Parameter.KEYWORD_ONLY, f"{class_name}.{name}: {extra} must be keyword-only"
            assert extra.default is not inspect.Parameter.empty
    for name in ("__enter__", "__exit__", "__repr__", "__reduce__") if class_name == "Pool" else ():
        assert hasattr(ours, name)


def test_the_pool_function_of_a_context_takes_the_same_arguments(start_method):
    expected = inspect.signature(multiprocessing.get_context(start_method).Pool).parameters
    for function in (mp.get_context(start_method).Pool, mp.Pool):
        actual = inspect.signature(function).parameters
        for name, parameter in expected.items():
            assert actual[name].default == parameter.default


def test_pool_module_has_the_names_of_multiprocessings():
    for name in (
        "Pool ThreadPool ApplyResult AsyncResult MapResult IMapIterator IMapUnorderedIterator RemoteTraceback "
        "MaybeEncodingError"
    ).split():
        assert hasattr(pool_module, name), name
    # Users' except clauses name the standard library's classes.
    assert pool_module.MaybeEncodingError is multiprocessing.pool.MaybeEncodingError
    assert mp.TimeoutError is multiprocessing.TimeoutError
    assert mp.ProcessError is multiprocessing.ProcessError


def test_async_results_are_generic_for_annotations():
    assert pool_module.AsyncResult[int].__origin__ is pool_module.ApplyResult


@pytest.mark.parametrize("processes", [0, -1, -100])
def test_fewer_than_one_process_is_refused(start_method, processes):
    with pytest.raises(ValueError) as caught:
        mp.get_context(start_method).Pool(processes)
    assert str(caught.value) == "Number of processes must be at least 1"


@pytest.mark.skipif(ON_STDLIB and sys.version_info < (3, 10), reason="multiprocessing checks it since Python 3.10")
@pytest.mark.parametrize("limit", [0, -1, 1.5, "3"])
def test_a_task_limit_that_makes_no_sense_is_refused(limit):
    with pytest.raises(ValueError) as caught:
        mp.get_context("fork").Pool(1, maxtasksperchild=limit)
    assert str(caught.value) == "maxtasksperchild must be a positive int or None"


def test_an_initializer_that_is_not_callable_is_refused(start_method):
    with pytest.raises(TypeError) as caught:
        mp.get_context(start_method).Pool(1, initializer=5)
    assert str(caught.value) == "initializer must be a callable"


def test_chunks_of_less_than_one_are_refused_by_imap(start_method):
    with open_pool(start_method) as pool:
        for method in (pool.imap, pool.imap_unordered):
            for chunksize in (0, -3):
                with pytest.raises(ValueError) as caught:
                    method(tasks.double, [1, 2], chunksize=chunksize)
                assert str(caught.value) == f"Chunksize must be 1+, not {chunksize}"


def test_nothing_can_be_submitted_to_a_closed_pool(start_method):
    with open_pool(start_method) as pool:
        pool.close()
        _assert_refuses_work(pool)


def test_nothing_can_be_submitted_to_a_terminated_pool(start_method):
    with open_pool(start_method) as pool:
        pool.terminate()
        _assert_refuses_work(pool)


def _assert_refuses_work(pool):
    for submit in (
        lambda: pool.apply(tasks.double, (1,)),
        lambda: pool.apply_async(tasks.double, (1,)),
        lambda: pool.map(tasks.double, [1]),
        lambda: pool.map(tasks.double, []),
        lambda: pool.map_async(tasks.double, [1]),
        lambda: pool.starmap(tasks.add, [(1, 2)]),
        lambda: pool.starmap_async(tasks.add, [(1, 2)]),
        lambda: pool.imap(tasks.double, [1]),
        lambda: pool.imap(tasks.double, [1], 2),
        lambda: pool.imap(tasks.double, [1], 0),
        lambda: pool.imap_unordered(tasks.double, [1]),
        lambda: pool.__enter__(),
    ):
        with pytest.raises(ValueError) as caught:
            submit()
        assert str(caught.value) == "Pool not running"


def test_join_needs_close_or_terminate_first(start_method):
    with open_pool(start_method) as pool:
        with pytest.raises(ValueError) as caught:
            pool.join()
        assert str(caught.value) == "Pool is still running"
        assert pool.apply(tasks.double, (1,)) == 2


def test_repr_tells_state_and_size(start_method):
    with open_pool(start_method) as pool:
        # The words are multiprocessing's, whoever made the pool.
        kind = "multiprocessing.pool.Pool"
        assert repr(pool) == f"<{kind} state=RUN pool_size=2>"
        pool.close()
        assert repr(pool) == f"<{kind} state=CLOSE pool_size=2>"
        pool.terminate()
        assert re.fullmatch(rf"<{re.escape(kind)} state=TERMINATE pool_size=\d>", repr(pool))


def test_a_pool_cannot_be_pickled(start_method):
    with open_pool(start_method) as pool:
        for attempt in (lambda: pickle.dumps(pool), lambda: pool.apply(tasks.identity, (pool,))):
            with pytest.raises(NotImplementedError) as caught:
                attempt()
            assert str(caught.value) == "pool objects cannot be passed between processes or pickled"
        assert pool.apply(tasks.double, (1,)) == 2


def test_entering_a_pool_gives_the_pool(start_method):
    with open_pool(start_method) as pool:
        with pool as entered:
            assert entered is pool
            assert pool.map(tasks.double, [1]) == [2]
        with pytest.raises(ValueError):
            pool.map(tasks.double, [1])


def test_the_default_number_of_processes_is_that_of_the_standard_library(start_method):
    expected = getattr(os, "process_cpu_count", os.cpu_count)() or 1
    with open_pool(start_method, None) as pool:
        assert f"pool_size={expected}>" in repr(pool)
        worker_pids(pool, expected)


def test_a_pool_can_be_subclassed(start_method):
    class Named(pool_module.Pool):
        def double_all(self, items):
            return self.map(tasks.double, items)

    pool = Named(2, context=mp.get_context(start_method))
    try:
        with time_limit(PATIENCE_SECONDS, "the subclass's map"):
            assert pool.double_all([1, 2]) == [2, 4]
        assert f"{Named.__qualname__} state=RUN" in repr(pool)
    finally:
        pool.terminate()
        pool.join()


def test_an_unclosed_pool_warns_when_it_is_collected_and_ends_its_workers(start_method):
    pool = mp.get_context(start_method).Pool(1)
    assert pool.apply(tasks.double, (1,)) == 2
    text = f"unclosed running multiprocessing pool {pool!r}"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        del pool
        gc.collect()
    # That the workers end is seen by the guard against leftovers.
    assert [str(warning.message) for warning in caught if warning.category is ResourceWarning] == [text]


# ---------------------------------------------------------------------------------------------------------------------
# Values: what arrives is equal to what was sent, and of the very same type.

PLAIN_VALUES = [
    None,
    True,
    False,
    0,
    1,
    -1,
    255,
    256,
    -257,
    2**31 - 1,
    2**31,
    -(2**31) - 1,
    2**63 - 1,
    -(2**63),
    2**63,
    2**64 - 1,
    2**64,
    -(2**64),
    10**30,
    -(10**300),
    1 << 100_000,
    0.0,
    -0.0,
    1.5,
    1e308,
    5e-324,
    float("inf"),
    float("-inf"),
    float("nan"),
    1j,
    complex(-0.0, float("inf")),
    "",
    "a",
    "\x00",
    "é",
    "日本語",
    "🦀" * 10,
    "\ud800",
    "lone \udcff surrogate \ud83d",
    "x" * 70_000,
    "日" * 70_000,
    b"",
    b"\x00",
    b"bytes",
    bytes(range(256)) * 300,
    bytearray(b""),
    bytearray(b"mutable"),
    bytearray(100_000),
    (),
    (1,),
    (None,),
    (1, (2, (3, (4, ())))),
    ((), ((),), (((),),)),
    tuple(range(1000)),
    (True, 1, 1.0),
    [],
    [1, [2, [3]]],
    {},
    {"a": 1, 2: "b", None: (), (1, 2): [3]},
    {1, 2, 3},
    frozenset({"x"}),
    range(5),
    slice(1, 2, 3),
    Ellipsis,
    NotImplemented,
    int,
    len,
    tasks.double,
    tasks.Record,
    tasks.IntSubclass(5),
    tasks.BytesSubclass(b"sub"),
    tasks.StrSubclass("sub"),
    tasks.TupleSubclass((1, 2)),
    tasks.FloatSubclass(2.5),
    tasks.Point(1, "y"),
    tasks.Record("r", [1, 2]),
    collections.OrderedDict([("b", 1), ("a", 2)]),
    collections.Counter("hello"),
    collections.deque([1, 2], maxlen=5),
    ValueError("as a value"),
]


def typed(value):
    """A picture of the value that tells apart what ``==`` does not: 1 and True, 0.0 and -0.0, subclasses; and in which
    NaN equals itself."""
    if isinstance(value, (tuple, list, collections.deque)):
        return type(value), tuple(typed(item) for item in value)
    if isinstance(value, (set, frozenset)):
        return type(value), frozenset(typed(item) for item in value)
    if isinstance(value, dict):
        return type(value), tuple((typed(key), typed(item)) for key, item in value.items())
    if isinstance(value, float):
        return type(value), value.hex() if not math.isnan(value) else "nan"
    if isinstance(value, complex):
        return type(value), typed(value.real), typed(value.imag)
    if isinstance(value, BaseException):
        return type(value), typed(value.args)
    if isinstance(value, tasks.Record):
        return type(value), value.name, typed(value.values)
    if isinstance(value, int) and not isinstance(value, bool):
        # The repr of a huge int is refused by newer Pythons.
        return type(value), int(value)
    return type(value), value if isinstance(value, (str, bytes, bytearray)) else repr(value)


def same(a, b):
    return typed(a) == typed(b)


def test_values_keep_their_value_and_exact_type(start_method):
    with open_pool(start_method) as pool:
        results = [pool.apply_async(tasks.identity, (value,)) for value in PLAIN_VALUES]
        for sent, result in zip(PLAIN_VALUES, results):
            assert same(sent, get(result)), f"{type(sent)} {str(sent)[:50]!r}"
        for sent, received in zip(PLAIN_VALUES, pool.map(tasks.identity, PLAIN_VALUES)):
            assert same(sent, received)
        for sent, received in zip(PLAIN_VALUES, pool.map(tasks.identity, PLAIN_VALUES, 1)):
            assert same(sent, received)
        for sent, received in zip(PLAIN_VALUES, pool.imap(tasks.identity, PLAIN_VALUES)):
            assert same(sent, received)
        for sent, received in zip(PLAIN_VALUES, pool.starmap(tasks.identity, [(value,) for value in PLAIN_VALUES])):
            assert same(sent, received)


def test_workers_see_values_with_their_exact_type(start_method):
    telling = [value for value in PLAIN_VALUES if not (isinstance(value, int) and abs(value) > 10**400)]
    with open_pool(start_method) as pool:
        seen = pool.map(tasks.type_and_repr, telling, 1)
        # Sets and functions tell their addresses or their order.
        for value, (type_name, text) in zip(telling, seen):
            assert type_name == type(value).__name__
            if not isinstance(value, (set, frozenset)) and "at 0x" not in repr(value):
                assert text == repr(value)
        mixed = (1, True, 1.0, "1", b"1", None, -0.0, 2**70, tasks.IntSubclass(1), (1, True))
        expected = [(type(value).__name__, repr(value)) for value in mixed]
        assert pool.apply(tasks.repr_of_all, mixed) == expected


def _argument_lists(st):
    """A hypothesis strategy: lists of values of all simple types, nested in one another."""
    scalars = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(min_value=-(2**70), max_value=2**70),
        st.floats(),
        st.complex_numbers(),
        st.text(st.characters(blacklist_categories=())),
        st.binary(max_size=300),
        st.binary(max_size=300).map(bytearray),
        st.integers().map(tasks.IntSubclass),
        st.binary(max_size=30).map(tasks.BytesSubclass),
    )
    hashable = st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.binary(max_size=30))
    values = st.recursive(
        scalars,
        lambda inner: st.one_of(
            st.lists(inner, max_size=5),
            st.lists(inner, max_size=5).map(tuple),
            st.dictionaries(hashable, inner, max_size=5),
            st.frozensets(hashable, max_size=5),
            st.sets(hashable, max_size=5),
            st.tuples(inner, inner).map(lambda pair: tasks.Point(*pair)),
        ),
        max_leaves=20,
    )
    return st.lists(values, max_size=4)


def test_any_value_built_of_simple_types_survives_the_round_trip(start_method):
    hypothesis = pytest.importorskip("hypothesis")
    with open_pool(start_method) as pool:

        @hypothesis.settings(
            max_examples=150, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
        )
        @hypothesis.given(_argument_lists(hypothesis.strategies))
        def check(arguments):
            received = pool.apply(tasks.all_arguments, arguments)
            assert same(received, (tuple(arguments), {}))
            assert same(pool.map(tasks.identity, arguments), arguments)

        check()


def test_values_do_not_alias_the_callers(start_method):
    sent = [[1], {"a": [2]}, bytearray(b"x")]
    with open_pool(start_method) as pool:
        received = pool.map(tasks.identity, sent)
        received[0].append(5)
        received[1]["a"].append(5)
        received[2].extend(b"y")
        assert sent == [[1], {"a": [2]}, bytearray(b"x")]


def test_arguments_are_taken_as_they_are_at_the_call(start_method):
    # The standard library pickles in a thread, some time later; whoever changes an argument after the call gambles there.
    if ON_STDLIB:
        pytest.skip("the standard library pickles arguments at a time of its own")
    with open_pool(start_method) as pool:
        changing = []
        results = []
        for x in range(100):
            changing.append(x)
            results.append(pool.apply_async(tasks.length_of, (changing,)))
        assert [get(result) for result in results] == list(range(1, 101))


def test_identity_within_one_argument_tuple_is_kept(start_method):
    shared = ["shared"]
    with open_pool(start_method) as pool:
        assert pool.apply(tasks.same_object, (shared, shared)) is True
        assert pool.apply(tasks.same_object, (shared, list(shared))) is False
        assert pool.map(tasks.shares_element, [(shared, shared), (shared, ["shared"])], 1) == [True, False]
        first, second = pool.apply(tasks.append_to_both, ((shared, shared),))
        assert first is second
        assert first == ["shared", "new"]
        big = bytearray(200_000)
        assert pool.apply(tasks.same_object, (big, big)) is True


def test_cycles_survive(start_method):
    cycle = [1]
    cycle.append(cycle)
    record = tasks.Record("self", [])
    record.parent = record
    with open_pool(start_method) as pool:
        received = pool.apply(tasks.identity, (cycle,))
        assert received[1] is received
        received = pool.apply(tasks.identity, (record,))
        assert received.parent is received


@pytest.fixture
def reducers_restored():
    """What a test registers with pickle is forgotten afterwards. The tables stay the same objects: others know them."""
    import copyreg
    from multiprocessing.reduction import ForkingPickler

    tables = (ForkingPickler._extra_reducers, copyreg.dispatch_table)
    before = [dict(table) for table in tables]
    yield
    for table, entries in zip(tables, before):
        table.clear()
        table.update(entries)


def test_registered_reducers_are_honoured(start_method, reducers_restored):
    tasks.register_reducers()
    with open_pool(start_method, initializer=tasks.register_reducers) as pool:
        assert pool.apply(tasks.value_of, (tasks.ReducedByForkingPickler("arg"),)) == "arg, by ForkingPickler"
        received = pool.apply(tasks.identity, (tasks.ReducedByForkingPickler("x"),))
        assert received.value == "x, by ForkingPickler, by ForkingPickler"
        assert pool.apply(tasks.value_of, (tasks.ReducedByCopyreg("v"),)) == "v, by copyreg"
        assert pool.map(tasks.value_of, [tasks.ReducedByCopyreg("v")]) == ["v, by copyreg"]
        # Types that only a registered reducer can pickle, alone and within others.
        assert pool.apply(tasks.value_of, (tasks.Opaque(5),)) == 5
        assert pool.apply(tasks.opaque, (6,)).value == 6
        assert [item.value for item in pool.map(tasks.identity, [tasks.Opaque(x) for x in range(5)])] == list(range(5))


def test_reducers_registered_while_the_pool_runs_are_honoured(start_method, reducers_restored):
    from multiprocessing.reduction import ForkingPickler

    with open_pool(start_method) as pool:
        assert isinstance(outcome(pool.apply, tasks.value_of, (tasks.Opaque(5),)), TypeError)
        ForkingPickler.register(tasks.Opaque, tasks._reduce_opaque)
        assert pool.apply(tasks.value_of, (tasks.Opaque(5),)) == 5


def test_large_arguments_and_results_survive(start_method):
    with open_pool(start_method) as pool:
        for size in (0, 1, 200, 1000, 4095, 4096, 4097, 65_535, 65_536, 65_537, 1_000_000, 5_000_000):
            sent = os.urandom(size)
            assert pool.apply(tasks.identity, (sent,)) == sent
            assert pool.apply(tasks.identity, (sent.hex(),)) == sent.hex()
        blocks = [os.urandom(size) for size in range(0, 300_000, 9_973)]
        assert pool.map(tasks.identity, blocks, 1) == blocks
        assert pool.map(tasks.identity, blocks) == blocks


# ---------------------------------------------------------------------------------------------------------------------
# Many of everything.


def test_a_backlog_of_200_000_tasks_is_worked_off(start_method):
    with open_pool(start_method) as pool:
        results = [pool.apply_async(tasks.double, (x,)) for x in range(200_000)]
        for x, result in enumerate(results):
            assert result.get(PATIENCE_SECONDS) == 2 * x


def test_a_million_items_can_be_mapped(start_method):
    with open_pool(start_method) as pool:
        assert pool.map(abs, range(0, -1_000_000, -1)) == list(range(1_000_000))


def test_a_pool_of_70_workers_has_70_workers(start_method):
    with open_pool(start_method, 70) as pool:
        assert "pool_size=70>" in repr(pool)
        worker_pids(pool, 70)
        assert pool.map(tasks.double, range(1000), 1) == [2 * x for x in range(1000)]
        worker_pids(pool, 70)


def test_several_pools_work_side_by_side(start_method):
    with open_pool(start_method) as first, open_pool(start_method, 1) as second, open_pool("fork", 3) as third:
        pids = [set(worker_pids(pool, size)) for pool, size in ((first, 2), (second, 1), (third, 3))]
        assert len(set.union(*pids)) == 6
        results = [(pool.apply_async(tasks.double, (x,)), x) for x in range(300) for pool in (first, second, third)]
        assert all(get(result) == 2 * x for result, x in results)
        second.terminate()
        assert first.map(tasks.double, [1]) == third.map(tasks.double, [1]) == [2]


def test_pools_can_follow_one_another(start_method):
    for round_number in range(8):
        with open_pool(start_method, 1) as pool:
            assert pool.apply(tasks.double, (round_number,)) == 2 * round_number


def test_a_pool_can_be_used_by_several_threads_at_once(start_method):
    failures = []

    def use(pool, number):
        try:
            for round_number in range(20):
                base = 1000 * number + round_number
                assert pool.map(tasks.double, range(base, base + 50), 1 + number) == [
                    2 * x for x in range(base, base + 50)
                ]
                assert pool.apply(tasks.double, (base,)) == 2 * base
                assert list(pool.imap(tasks.double, range(base, base + 20))) == [2 * x for x in range(base, base + 20)]
                results = [pool.apply_async(tasks.add, (base, x)) for x in range(20)]
                assert [result.get(PATIENCE_SECONDS) for result in results] == [base + x for x in range(20)]
        except BaseException as error:
            failures.append(error)

    with open_pool(start_method) as pool:
        threads = [threading.Thread(target=use, args=(pool, number)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * PATIENCE_SECONDS)
        assert not any(thread.is_alive() for thread in threads)
    assert failures == []


def test_a_pool_can_be_made_in_a_thread_that_ends(start_method):
    # Linux can tie a child's life to the very thread that started it; a pool's life is tied to the process.
    made = []
    thread = threading.Thread(target=lambda: made.append(mp.get_context(start_method).Pool(2)))
    thread.start()
    thread.join()
    pool = made[0]
    try:
        time.sleep(0.2)
        assert pool.map(tasks.double, range(10)) == [2 * x for x in range(10)]
        worker_pids(pool, 2)
    finally:
        pool.terminate()
        pool.join()


def test_the_package_exports_its_errors():
    if ON_STDLIB:
        pytest.skip("the standard library has no such errors")
    import procession.errors

    for name in ("WorkerDied", "TaskTimeout", "WorkerInitError", "ResultDecodeError", "PoolTerminated"):
        assert getattr(mp, name) is getattr(procession.errors, name)
        assert issubclass(getattr(mp, name), multiprocessing.ProcessError)
    assert not issubclass(mp.TaskTimeout, multiprocessing.TimeoutError)
