"""Wrong arguments, and surroundings in which a pool cannot be had: a clear error, no hang, nothing lost or left."""

import multiprocessing
import sys
import time

import pickle_tasks
import pytest
import tasks
import worker_tasks
from harness import (
    PATIENCE_SECONDS,
    Hang,
    Program,
    assert_pool_is_whole,
    get,
    open_pool,
    outcome,
    pool_tests,
    promised_by_us_only,
    run_program,
    time_limit,
)
from subject import ON_STDLIB, mp, pool_module

pytestmark = pool_tests


# ---------------------------------------------------------------------------------------------------------------------
# Arguments of Pool().


@pytest.mark.parametrize(
    "processes, text",
    [
        ("2", "'<' not supported between instances of 'str' and 'int'"),
        ([], "'<' not supported between instances of 'list' and 'int'"),
        (2.5, "'float' object cannot be interpreted as an integer"),
        (2.0, "'float' object cannot be interpreted as an integer"),
    ],
)
def test_a_number_of_processes_of_the_wrong_type_is_refused(start_method, processes, text):
    with pytest.raises(TypeError) as caught:
        mp.get_context(start_method).Pool(processes)
    assert str(caught.value) == text


def test_a_number_of_processes_may_be_any_kind_of_integer(start_method):
    for processes in (True, pickle_tasks.IntSubclass(2)):
        with open_pool(start_method, processes) as pool:
            assert f"pool_size={int(processes)}>" in repr(pool)
            assert pool.apply(tasks.double, (1,)) == 2


def test_unknown_arguments_are_refused(start_method):
    with pytest.raises(TypeError):
        mp.get_context(start_method).Pool(2, bogus=1)
    with open_pool(start_method, 1) as pool:
        for call in (
            lambda: pool.map(tasks.double),
            lambda: pool.apply(),
            lambda: pool.apply_async(tasks.double, (1,), bogus=1),
            lambda: pool.map(tasks.double, [1], bogus=1),
            lambda: pool.imap(tasks.double, [1], 1, 1, 1),
            lambda: pool.starmap(tasks.add),
        ):
            with pytest.raises(TypeError):
                call()
        assert pool.apply(tasks.double, (1,)) == 2


@promised_by_us_only
@pytest.mark.parametrize("initargs", [5, None, (), (1, 2, 3, 4)])
def test_initargs_that_do_not_fit_are_a_clear_error(start_method, initargs):
    error = None
    with time_limit(PATIENCE_SECONDS, "a pool whose initargs do not fit"):
        try:
            pool = mp.get_context(start_method).Pool(2, worker_tasks.count_start, initargs)
        except TypeError as refused:
            error = refused
        else:
            error = outcome(lambda: pool.apply_async(tasks.nothing).get(PATIENCE_SECONDS))
            pool.terminate()
            pool.join()
    assert isinstance(error, (TypeError, mp.WorkerInitError)), repr(error)
    assert "argument" in str(error) or "iterable" in str(error)


@promised_by_us_only
@pytest.mark.parametrize("limit", [0, -1, "1", [], float("nan")])
def test_a_time_limit_that_makes_no_sense_is_refused(limit):
    with pytest.raises((ValueError, TypeError), match="timeout"):
        mp.get_context("fork").Pool(1, timeout=limit)


@promised_by_us_only
@pytest.mark.parametrize("limit", [None, 1000, 1e9, float("inf"), True])
def test_any_time_limit_that_makes_sense_is_taken(limit):
    with open_pool("fork", 1, timeout=limit) as pool:
        assert get(pool.apply_async(tasks.double, (1,))) == 2


ABSURD = """
    import sys
    from subject import mp

    if __name__ == "__main__":
        for processes in (10**30, 2**63, 2**31, 10_000_000):
            try:
                mp.get_context(sys.argv[1]).Pool(processes)
            except (ValueError, OverflowError, OSError) as error:
                print(type(error).__name__, str(error) != "", flush=True)
"""


@promised_by_us_only
def test_an_absurd_number_of_processes_is_refused_before_it_hurts(start_method, tmp_path):
    with Program(tmp_path, ABSURD, start_method) as program:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while program.is_running():
            assert len(program.processes()) < 300, "it really starts them"
            if time.monotonic() > deadline:
                raise Hang("still refusing")
            time.sleep(0.02)
        assert program.wait() == 0
        program.assert_nothing_left()
        assert [line.split()[1] for line in program.lines()] == ["True"] * 4


# ---------------------------------------------------------------------------------------------------------------------
# Arguments of the methods.


@pytest.mark.parametrize(
    "wrong, text", [(5, "'int' object is not iterable"), (None, "'NoneType' object is not iterable")]
)
def test_what_cannot_be_iterated_is_refused(start_method, wrong, text):
    with open_pool(start_method) as pool:
        for call in (
            lambda: pool.map(tasks.double, wrong),
            lambda: pool.map_async(tasks.double, wrong),
            lambda: pool.starmap(tasks.add, wrong),
            lambda: pool.starmap_async(tasks.add, wrong),
            lambda: pool.imap(tasks.double, wrong).next(PATIENCE_SECONDS),
            lambda: pool.imap_unordered(tasks.double, wrong).next(PATIENCE_SECONDS),
        ):
            with pytest.raises(TypeError) as caught:
                call()
            assert str(caught.value) == text
        assert_pool_is_whole(pool)


@pytest.mark.parametrize("chunksize", ["2", [1], pytest.param(2.5, marks=promised_by_us_only)])
def test_a_chunksize_of_the_wrong_type_is_refused(start_method, chunksize):
    with open_pool(start_method) as pool:
        for call in (
            lambda: pool.map_async(tasks.double, [1, 2, 3], chunksize).get(PATIENCE_SECONDS),
            lambda: list(pool.imap(tasks.double, [1, 2, 3], chunksize)),
            lambda: list(pool.imap_unordered(tasks.double, [1, 2, 3], chunksize)),
        ):
            assert isinstance(outcome(call), (TypeError, ValueError))
        assert_pool_is_whole(pool)


def test_a_negative_chunksize_for_map_does_no_harm(start_method):
    with open_pool(start_method) as pool:
        # The standard library gives this strange answer; an error would be a better one.
        got = outcome(lambda: pool.map_async(tasks.double, [1, 2, 3], -1).get(PATIENCE_SECONDS))
        assert got == [None, None, None] or isinstance(got, ValueError)
        assert_pool_is_whole(pool)


def test_a_huge_chunksize_is_one_chunk(start_method):
    with open_pool(start_method) as pool:
        for chunksize in (10**6, sys.maxsize, *([] if ON_STDLIB else [10**30])):
            assert pool.map(tasks.double, range(10), chunksize) == [2 * x for x in range(10)]
            assert list(pool.imap(tasks.double, range(10), chunksize)) == [2 * x for x in range(10)]


@promised_by_us_only
def test_more_tasks_per_worker_than_anybody_can_count_are_no_limit():
    with open_pool("fork", 1, maxtasksperchild=10**20) as pool:
        assert len(set(pool.map(tasks.pid_of, range(20)))) == 1


@pytest.mark.parametrize("timeout", ["1", [], object()])
def test_a_timeout_of_the_wrong_type_is_refused(start_method, timeout, tmp_path):
    gate = str(tmp_path / "gate")
    with open_pool(start_method) as pool:
        result = pool.apply_async(tasks.wait_for_file, (gate,))
        iterator = pool.imap(tasks.wait_for_file, [gate])
        for call in (result.get, result.wait, iterator.next):
            with pytest.raises(TypeError):
                call(timeout)
        tasks.touch(gate)
        assert get(result) == gate
        assert iterator.next(PATIENCE_SECONDS) == gate


@pytest.mark.parametrize(
    "timeout", [1e300, float("inf"), sys.maxsize, 10**30, pytest.param(float("nan"), marks=promised_by_us_only)]
)
def test_an_absurd_timeout_is_refused_or_long_enough(start_method, timeout):
    with open_pool(start_method) as pool:
        got = outcome(pool.apply_async(tasks.sleep_and_return, (0.1, "slept")).get, timeout)
        assert got == "slept" or isinstance(got, (OverflowError, ValueError)), repr(got)


def test_keywords_must_be_names(start_method):
    with open_pool(start_method) as pool:
        assert type(get(pool.apply_async(tasks.all_arguments, (), {1: 2}))) is TypeError
        assert type(get(pool.apply_async(tasks.all_arguments, (), 5))) is TypeError
        assert type(get(pool.apply_async(tasks.all_arguments, None))) is TypeError
        assert_pool_is_whole(pool)


@pytest.mark.parametrize("function", [None, 5, "tasks.double", [abs]])
def test_a_function_that_is_none_is_a_clear_error(start_method, function):
    text = f"'{type(function).__name__}' object is not callable"
    with open_pool(start_method) as pool:
        for call in (
            lambda: pool.apply_async(function, (1,)).get(PATIENCE_SECONDS),
            lambda: pool.map_async(function, [1]).get(PATIENCE_SECONDS),
            lambda: pool.starmap_async(function, [(1,)]).get(PATIENCE_SECONDS),
            lambda: pool.imap(function, [1]).next(PATIENCE_SECONDS),
        ):
            error = outcome(call)
            assert (type(error), str(error)) == (TypeError, text)
        assert_pool_is_whole(pool)


@promised_by_us_only
def test_a_callback_that_cannot_be_called_is_a_clear_error(start_method):
    with open_pool(start_method) as pool:
        for call in (
            lambda: pool.apply_async(tasks.double, (1,), callback=5).get(PATIENCE_SECONDS),
            lambda: pool.map_async(tasks.double, [1], callback=5).get(PATIENCE_SECONDS),
            lambda: pool.apply_async(tasks.raise_value_error, error_callback=5).get(PATIENCE_SECONDS),
        ):
            error = outcome(call)
            assert (type(error), str(error)) == (TypeError, "'int' object is not callable")
        assert_pool_is_whole(pool)


@promised_by_us_only
@pytest.mark.parametrize("length", [0, 1, 5, 50])
def test_an_iterable_whose_length_is_wrong_hangs_nobody(start_method, length):
    class Liar(list):
        def __len__(self):
            return length

    with open_pool(start_method) as pool:
        for chunksize in (1, 3, None):
            got = outcome(_map, pool, Liar(range(10)), chunksize)
            assert isinstance(got, (list, ValueError, RuntimeError)), repr(got)
        assert_pool_is_whole(pool)


def _map(pool, items, chunksize):
    return pool.map_async(tasks.double, items, chunksize).get(PATIENCE_SECONDS)


class _RaisesInLen:
    def __len__(self):
        raise LookupError("has no length")

    def __iter__(self):
        return iter([1, 2])


class _RaisesInIter:
    def __iter__(self):
        raise LookupError("has no items")


def test_an_iterable_that_raises_when_asked_is_that_error(start_method):
    with open_pool(start_method) as pool:
        with pytest.raises(LookupError, match="has no length"):
            pool.map(tasks.double, _RaisesInLen())
        with pytest.raises(LookupError, match="has no items"):
            pool.map(tasks.double, _RaisesInIter())
        for method in (pool.imap, pool.imap_unordered):
            with pytest.raises(LookupError, match="has no items"):
                method(tasks.double, _RaisesInIter()).next(PATIENCE_SECONDS)
        assert_pool_is_whole(pool)


@promised_by_us_only
def test_a_pool_that_was_never_initialized_can_be_collected():
    # What is left when a subclass's __init__ raises before it calls ours.
    pool = pool_module.Pool.__new__(pool_module.Pool)
    outcome(repr, pool)
    del pool


def test_an_unknown_start_method_is_refused():
    with pytest.raises(ValueError, match="cannot find context for 'threads'"):
        mp.get_context("threads")


# ---------------------------------------------------------------------------------------------------------------------
# Surroundings. Out of descriptors: see test_faults_limits.py.

LIMITED = """
    import gc, os, resource, sys
    from subject import mp
    import tasks

    def descriptors():
        # Supervisors that are started again and again have a template made, which is meant to stay.
        if "procession._template" in sys.modules:
            sys.modules["procession._template"]._dismiss()
        return sorted(os.listdir("/proc/self/fd"))

    if __name__ == "__main__":
        start_method, name = sys.argv[1:]
        number = getattr(resource, name)
        with mp.get_context(start_method).Pool(1) as pool:
            pool.apply(tasks.nothing)
        pool.join()
        del pool
        gc.collect()
        before = descriptors()
        with open("/proc/self/statm") as file:
            mapped = int(file.read().split()[0]) * resource.getpagesize()
        base = mapped if name == "RLIMIT_AS" else 0
        limits = resource.getrlimit(number)
        for spare in (1 << 12, 1 << 20, 1 << 23, 1 << 26, 1 << 28):
            resource.setrlimit(number, (base + spare, limits[1]))
            pool = None
            try:
                pool = mp.get_context(start_method).Pool(2)
                assert pool.apply_async(tasks.double, (4,)).get(20) == 8
                said = "works"
            except (OSError, MemoryError, mp.ProcessError) as error:
                assert not isinstance(error, mp.TimeoutError), "nobody said that it does not work"
                said = type(error).__name__
            resource.setrlimit(number, limits)
            if pool is not None:
                pool.terminate()
                pool.join()
            pool = None
            gc.collect()
            print(spare, said, flush=True)
            assert descriptors() == before, (before, descriptors())
        with mp.get_context(start_method).Pool(2) as pool:
            print(pool.apply(tasks.double, (21,)))
"""


@promised_by_us_only
@pytest.mark.parametrize("limit", ["RLIMIT_FSIZE", "RLIMIT_AS", "RLIMIT_DATA"])
def test_a_pool_that_gets_too_little_memory_works_or_says_so(start_method, limit, tmp_path):
    program = run_program(tmp_path, LIMITED, start_method, limit)
    assert program.lines()[-1] == "42"
    assert len(program.lines()) == 6


NO_STREAMS = """
    import os, sys
    for descriptor in (0, 1, 2):
        os.close(descriptor)
    from subject import mp
    import tasks

    if __name__ == "__main__":
        start_method, path = sys.argv[1:]
        with mp.get_context(start_method).Pool(2) as pool:
            first = pool.map(tasks.double, range(5))
            pool.apply(tasks.make_bytes, (1_000_000,))
        sys.stdin = sys.stdout = sys.stderr = None
        with mp.get_context(start_method).Pool(2) as pool:
            second = pool.map(tasks.double, range(5), 1)
            pool.close()
            pool.join()
        tasks.write_atomically(path, repr((first, second)))
        os._exit(0)
"""


def test_a_program_without_standard_streams_may_have_a_pool(start_method, tmp_path):
    if ON_STDLIB and start_method != "fork":
        pytest.skip("the standard library's helpers need the standard streams")
    path = tmp_path / "result"
    run_program(tmp_path, NO_STREAMS, start_method, path)
    assert path.read_text() == repr(([0, 2, 4, 6, 8], [0, 2, 4, 6, 8]))


NO_DIRECTORY = """
    import os, sys, tempfile
    from subject import mp
    import tasks

    if __name__ == "__main__":
        place = tempfile.mkdtemp()
        os.chdir(place)
        os.rmdir(place)
        try:
            with mp.get_context(sys.argv[1]).Pool(2) as pool:
                print(pool.apply_async(tasks.double, (21,)).get(20))
        except (OSError, mp.ProcessError) as error:
            assert not isinstance(error, mp.TimeoutError)
            print("refused:", type(error).__name__)
"""


@promised_by_us_only
def test_a_program_whose_directory_is_gone_has_a_pool_or_hears_why_not(start_method, tmp_path):
    program = run_program(tmp_path, NO_DIRECTORY, start_method)
    assert program.stdout() == "42\n" or (start_method != "fork" and program.stdout().startswith("refused: "))


def test_errors_of_the_package_are_the_standard_librarys():
    for name in ("ProcessError", "BufferTooShort", "TimeoutError", "AuthenticationError"):
        assert getattr(mp, name) is getattr(multiprocessing, name)
