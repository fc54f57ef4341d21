"""Signatures, messages and reprs of a pool are those of ``multiprocessing.pool``.

Whatever is not marked as our own promise has been checked against the standard library
(``PROCESSION_TEST_STDLIB=1``, see subject.py).
"""

import gc
import inspect
import multiprocessing
import multiprocessing.pool
import os
import pickle
import re
import sys
import warnings

import pytest
import tasks
from harness import (
    PATIENCE_SECONDS,
    open_pool,
    pool_tests,
    promised_by_us_only,
    time_limit,
    worker_pids,
)
from subject import ON_STDLIB, mp, pool_module

pytestmark = pool_tests


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


@promised_by_us_only
def test_an_unclosed_pool_that_is_broken_warns_too_but_not_a_forked_copy(start_method):
    pool = mp.get_context(start_method).Pool(1, tasks.raise_value_error)
    with pytest.raises(mp.WorkerInitError):
        pool.apply(tasks.double, (1,))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        child = os.fork()
        del pool
        gc.collect()
        warned = [str(warning.message) for warning in caught if warning.category is ResourceWarning]
        if child == 0:
            os._exit(len(warned))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(warned) == 1 and warned[0].startswith("unclosed running multiprocessing pool")


@promised_by_us_only
def test_a_worker_that_is_just_being_forked_has_no_pid_and_is_spared(monkeypatch):
    with open_pool("fork", 1) as pool:
        monkeypatch.setattr(type(pool), "_seats", lambda self: [(1, 0, "starting")])
        [worker] = pool._pool
        assert worker.pid is None and worker.is_alive() and worker.exitcode is None
        # Signal 15 to process 0 would go to this whole process group.
        worker.terminate()
        monkeypatch.undo()
