"""The pool behaves as ``multiprocessing.pool.Pool`` does: methods, order, callbacks, messages, values.

Whatever is not marked as our own promise has been checked against the standard library
(``PROCESSION_TEST_STDLIB=1``, see subject.py).
"""

import gc
import math
import multiprocessing
import multiprocessing.pool
import os
import re
import threading
import time

import pickle_tasks
import pytest
import tasks
from harness import (
    EACH_WAY,
    PATIENCE_SECONDS,
    get,
    open_pool,
    outcome,
    pool_tests,
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
    counter = pickle_tasks.Counter(7)
    with open_pool(start_method) as pool:
        assert pool.apply(len, ("four",)) == 4
        assert pool.map(abs, [-1, -2]) == [1, 2]
        assert pool.map(str.upper, ["a", "b"]) == ["A", "B"]
        assert pool.map("-".join, [["a", "b"]]) == ["a-b"]
        assert pool.map(pickle_tasks.add_five, [1, 2]) == [6, 7]
        assert pool.map(pickle_tasks.Counter.static, [1]) == [2]
        assert pool.map(pickle_tasks.Counter.made_by_class, [5]) == [5]
        assert pool.map(pickle_tasks.IntSubclass, ["3"]) == [3]
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


def test_a_callback_that_joins_its_own_pool_hears_that_it_cannot(start_method):
    heard = []
    done = threading.Event()
    with open_pool(start_method) as pool:

        def end(_value):
            try:
                pool.close()
                pool.join()
            except RuntimeError as error:
                heard.append(str(error))
            done.set()

        pool.apply_async(tasks.double, (1,), callback=end)
        assert done.wait(PATIENCE_SECONDS)
        assert len(heard) == 1 and heard[0].startswith("cannot join current thread")
        pool.join()


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
