"""Arrays and other large buffers: right, private, writable, and held exactly as long as somebody has them."""

import array as array_module
import gc
import os
import pickle
import signal
import sys
import threading

import pickle_tasks
import pytest
import tasks
from harness import (
    EACH_WAY,
    PATIENCE_SECONDS,
    get,
    open_pool,
    pool_tests,
    promised_by_us_only,
    running_thread,
    worker_pids,
)
from subject import ON_STDLIB, mp

np = pytest.importorskip("numpy")
array_tasks = pytest.importorskip("array_tasks")

pytestmark = pool_tests

MEGABYTE = 1_000_000


# Older protocols lose an array's byte order.
PROTOCOL = pickle.DEFAULT_PROTOCOL if ON_STDLIB else 5


def assert_same(received, sent):
    assert type(received) is type(sent)
    assert received.dtype == pickle.loads(pickle.dumps(sent[:0] if sent.ndim else sent, PROTOCOL)).dtype
    assert received.shape == sent.shape
    np.testing.assert_array_equal(received, sent)


def test_a_hundred_megabytes_there_and_back(start_method):
    sent = np.arange(100 * MEGABYTE // 8, dtype=np.int64)
    with open_pool(start_method) as pool:
        assert pool.apply(array_tasks.array_sum, (sent,)) == sent.sum()
        received = pool.apply(array_tasks.identity, (sent,))
        assert_same(received, sent)
        assert received.flags.writeable
        received[:] = 0
        assert sent[-1] == len(sent) - 1
        assert pool.apply(array_tasks.doubled, (sent,))[-1] == 2 * (len(sent) - 1)


def _shapes():
    grid = np.arange(300 * 400, dtype=np.float64).reshape(300, 400)
    small = np.arange(12, dtype=np.int32).reshape(3, 4)
    structured = np.zeros(20_000, dtype=[("name", "U8"), ("value", "<f8"), ("flags", "?", (3,))])
    structured["name"] = "somebody"
    return {
        "small": small,
        "large": grid,
        "one item": np.array([7]),
        "no dimension": np.array(7.5),
        "empty": np.empty(0),
        "empty in the middle": np.empty((1000, 0, 3), dtype=np.int16),
        "Fortran order": np.asfortranarray(grid),
        "transposed": grid.T,
        "strided": grid[::2, ::3],
        "reversed": grid[::-1],
        "part": grid[100:200],
        "one column": grid[:, 5],
        "broadcast": np.broadcast_to(np.arange(400.0), (300, 400)),
        "bool": grid > 1000,
        "complex": grid * 1j,
        "half": (grid % 1000).astype(np.float16),
        "big-endian": grid.astype(">f8"),
        "bytes": np.array([b"abc", b"de"] * 20_000),
        "strings": np.array(["abc", "日本"] * 20_000),
        "dates": np.arange(20_000).astype("datetime64[s]"),
        "structured": structured,
        "records": structured.view(np.recarray),
        "masked": np.ma.masked_array(grid, mask=grid % 2 == 0),
        "objects": np.array([None, "x", (1, 2), {"a": 1}, 10**30] * 1000, dtype=object),
        "five dimensions": np.arange(2**17).reshape(2, 4, 8, 16, 128),
        "not aligned": np.frombuffer(bytes(80_001), dtype=np.uint8)[1:].view(np.float64),
    }


@pytest.mark.parametrize("kind", _shapes())
def test_arrays_of_every_kind_survive(start_method, kind):
    sent = _shapes()[kind]
    with open_pool(start_method, 1) as pool:
        for received in (
            pool.apply(array_tasks.identity, (sent,)),
            pool.map(array_tasks.identity, [sent])[0],
            next(pool.imap(array_tasks.identity, [sent])),
        ):
            assert_same(received, sent)
        if sent.size and sent.ndim and sent.dtype != object:
            assert received.flags.f_contiguous == pickle.loads(pickle.dumps(sent, PROTOCOL)).flags.f_contiguous


def test_numpy_scalars_keep_their_type(start_method):
    values = [np.float64(1.5), np.int8(-3), np.bool_(True), np.str_("s"), np.bytes_(b"b"), np.datetime64("2026-01-01")]
    with open_pool(start_method) as pool:
        for sent, received in zip(values, pool.map(array_tasks.identity, values)):
            assert type(received) is type(sent)
            assert received == sent


@pytest.mark.parametrize("size", [8, 1000, 40_000, 80_000, MEGABYTE, 8 * MEGABYTE])
def test_what_a_worker_writes_into_its_argument_the_caller_does_not_see(start_method, size):
    sent = np.arange(size // 8, dtype=np.int64)
    with open_pool(start_method) as pool:
        results = [pool.apply_async(array_tasks.add_one_in_place, (sent,)) for _ in range(6)]
        # Each task has a copy of its own, too.
        assert [get(result) for result in results] == [True] * 6
        np.testing.assert_array_equal(sent, np.arange(size // 8))
        np.testing.assert_array_equal(pool.apply(array_tasks.add_one_and_return, (sent,)), sent + 1)
        assert pool.map(array_tasks.add_one_in_place, [sent] * 6, 3) == [True] * 6
        np.testing.assert_array_equal(sent, np.arange(size // 8))


@pytest.mark.parametrize("size", [1000, MEGABYTE])
def test_results_are_writable_and_each_callers_own(start_method, size):
    with open_pool(start_method) as pool:
        results = pool.starmap(array_tasks.filled, [(size, value) for value in range(20)], 1)
        for value, result in enumerate(results):
            assert result.flags.writeable
            assert (result == value).all()
            result += 1000
        again = pool.starmap(array_tasks.filled, [(size, value) for value in range(20)], 1)
        for value, result in enumerate(again):
            assert (result == value).all()
        for value, result in enumerate(results):
            assert (result == value + 1000).all()


@pytest.mark.parametrize("size", [1000, MEGABYTE])
def test_what_a_worker_does_later_to_an_array_it_returned_nobody_sees(start_method, size):
    with open_pool(start_method, 1) as pool:
        result = pool.apply(array_tasks.keep_and_return, ("kept", np.zeros(size // 8)))
        pool.apply(array_tasks.add_one_to_kept, ("kept",))
        assert (result == 0).all()
        result[:] = 7
        ones = array_tasks.digest(np.ones(size // 8))
        assert pool.apply(array_tasks.digest_of_kept, ("kept",)) == ones


@pytest.mark.parametrize("size", [1000, MEGABYTE])
def test_a_worker_may_keep_an_argument_as_long_as_it_likes(start_method, size):
    with open_pool(start_method, 1) as pool:
        kept = {}
        for number in range(10):
            array = np.random.default_rng(number).integers(0, 1000, size // 8)
            kept[str(number)] = pool.apply(array_tasks.keep, (str(number), array))
            del array
        # What comes and goes meanwhile must not come to lie in the same place.
        for value in range(60):
            assert (pool.apply(array_tasks.identity, (np.full(size // 8, value),)) == value).all()
        for name, expected in kept.items():
            assert pool.apply(array_tasks.digest_of_kept, (name,)) == expected


def test_results_stay_as_they_are_while_many_others_come_and_go(start_method):
    with open_pool(start_method) as pool:
        kept = [pool.apply(array_tasks.filled, (MEGABYTE, value)) for value in range(20)]
        for _ in range(10):
            for value in range(20):
                pool.apply(array_tasks.filled, (MEGABYTE, -value))
            pool.starmap(array_tasks.filled, [(MEGABYTE, -1)] * 10, 1)
        assert all((array == value).all() for value, array in enumerate(kept))


def test_results_outlive_their_pool(start_method):
    with open_pool(start_method) as pool:
        kept = [pool.apply(array_tasks.filled, (MEGABYTE, value)) for value in range(5)]
        part = pool.apply(array_tasks.filled, (MEGABYTE, 77))[10:20]
        text = pool.apply(tasks.make_bytes, (MEGABYTE, 65))
    del pool
    gc.collect()
    with open_pool(start_method) as pool:
        for value in range(20):
            pool.apply(array_tasks.filled, (MEGABYTE, -value))
    del pool
    gc.collect()
    assert all((array == value).all() for value, array in enumerate(kept))
    assert (part == 77).all()
    assert text == b"A" * MEGABYTE
    kept[0][:] = 5
    assert (kept[0] == 5).all() and (kept[1] == 1).all()


@promised_by_us_only
def test_results_outlive_the_worker_that_made_them(start_method):
    with open_pool(start_method) as pool:
        kept = [pool.apply(array_tasks.filled, (MEGABYTE, value)) for value in range(10)]
        for _ in range(5):
            for pid in worker_pids(pool, 2):
                os.kill(pid, signal.SIGKILL)
            for value in range(10):
                assert (get(pool.apply_async(array_tasks.filled, (MEGABYTE, -value))) == -value).all()
        assert all((array == value).all() for value, array in enumerate(kept))


@promised_by_us_only
def test_results_that_were_published_before_their_worker_died_are_whole(start_method):
    with open_pool(start_method, 1) as pool:
        results = [pool.apply_async(array_tasks.filled_or_deadly, (4 * MEGABYTE, value)) for value in range(10)]
        for result in results:
            result.wait(PATIENCE_SECONDS)
        for value, result in enumerate(results):
            got = get(result)
            if value == 5:
                assert type(got) is mp.WorkerDied
            else:
                assert (got == value).all()


def test_a_part_of_a_result_holds_its_memory(start_method):
    with open_pool(start_method) as pool:
        parts = []
        for value in range(50):
            result = pool.apply(array_tasks.filled, (MEGABYTE, value))
            parts.append(result[100:110].T)
            del result
        assert all((part == value).all() for value, part in enumerate(parts))
        views = [memoryview(pool.apply(array_tasks.filled, (MEGABYTE, value))) for value in range(10)]
        for _ in range(20):
            pool.apply(array_tasks.filled, (MEGABYTE, -1))
        assert all(view[5] == value for value, view in enumerate(views))


def test_a_result_can_be_sent_on(start_method):
    with open_pool(start_method) as first, open_pool(start_method) as second:
        array = np.zeros(MEGABYTE // 8)
        for _ in range(10):
            array = first.apply(array_tasks.add_one_and_return, (array,))
            array = second.apply(array_tasks.add_one_and_return, (array[:],))
        assert (array == 20).all()
        chain = second.imap(array_tasks.doubled, first.imap(array_tasks.doubled, [array] * 10))
        assert all((result == 80).all() for result in chain)


@promised_by_us_only
def test_a_read_only_array_arrives_read_only(start_method):
    sent = np.arange(MEGABYTE // 8)
    sent.flags.writeable = False
    with open_pool(start_method) as pool:
        assert pool.apply(array_tasks.describe, (sent,))["writeable"] is False
        received = pool.apply(array_tasks.identity, (sent,))
        assert not received.flags.writeable
        assert_same(received, sent)
        assert pool.apply(array_tasks.describe, (sent.copy(),))["writeable"] is True


def test_the_same_array_twice_is_one_array(start_method):
    with open_pool(start_method) as pool:
        for size in (10, MEGABYTE // 8):
            array = np.arange(size)
            assert pool.apply(array_tasks.same_object, (array, array)) is True
            assert pool.apply(array_tasks.same_object, (array, array.copy())) is False
            first, second = pool.apply(array_tasks.identity, ((array, array),))
            assert first is second


def test_arrays_deep_inside_of_other_things_survive(start_method):
    arrays = [np.full(size, number) for number, size in enumerate((1, 10, 10_000, 100_000, 1_000_000))]
    nest = {"list": arrays, "dict": {"tuple": tuple(arrays), "one": arrays[3]}, "empty": []}
    record = pickle_tasks.Record("record", arrays)
    with open_pool(start_method) as pool:
        assert pool.apply(array_tasks.sums, (nest,)) == array_tasks.sums(nest)
        received = pool.apply(array_tasks.identity, (nest,))
        assert array_tasks.sums(received) == array_tasks.sums(nest)
        assert received["list"][3] is received["dict"]["one"]
        received = pool.apply(tasks.identity, (record,))
        assert array_tasks.sums(received.values) == array_tasks.sums(arrays)


def test_many_arrays_in_one_argument_survive(start_method):
    arrays = [np.full(1 + 37 * number % 20_000, number) for number in range(500)]
    with open_pool(start_method) as pool:
        received = pool.apply(array_tasks.identity, (arrays,))
        assert all((one == other).all() and one.shape == other.shape for one, other in zip(received, arrays))


@pytest.mark.parametrize("way", sorted(EACH_WAY))
def test_arrays_keep_their_order_and_content_in_a_stream(start_method, way):
    arrays = [np.full(1 + 7919 * number % 50_000, number) for number in range(120)]
    with open_pool(start_method) as pool:
        got = EACH_WAY[way](pool, array_tasks.doubled, arrays)
    if way == "imap_unordered":
        got.sort(key=lambda array: array[0])
    assert len(got) == 120
    assert all(len(one) == len(other) and (one == 2 * other).all() for one, other in zip(got, arrays))


def test_arrays_can_be_sent_by_several_threads_at_once(start_method):
    def use(number):
        for round_number in range(25):
            value = 100 * number + round_number
            received = pool.apply(array_tasks.add_one_and_return, (np.full(50_000, value),))
            assert (received == value + 1).all()

    with open_pool(start_method) as pool:
        with running_thread(use, 1), running_thread(use, 2), running_thread(use, 3):
            use(4)


def test_results_can_be_dropped_in_any_thread(start_method):
    with open_pool(start_method) as pool:
        for _ in range(10):
            results = [pool.apply(array_tasks.filled, (MEGABYTE, value)) for value in range(8)]
            threads = [threading.Thread(target=results.pop) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert all((array == value).all() for value, array in enumerate(results))


def test_a_child_of_the_caller_that_drops_a_result_takes_nothing_from_it(start_method):
    with open_pool(start_method) as pool:
        kept = [pool.apply(array_tasks.filled, (MEGABYTE, value)) for value in range(5)]
        child = os.fork()
        if child == 0:
            try:
                kept.clear()
                gc.collect()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        for value in range(30):
            pool.apply(array_tasks.filled, (MEGABYTE, -value))
        assert all((array == value).all() for value, array in enumerate(kept))


# ---------------------------------------------------------------------------------------------------------------------
# Buffers that are not numpy's.


@pytest.mark.parametrize("size", [0, 1, 1000, 65_536, 3 * MEGABYTE])
def test_other_buffers_survive(start_method, size):
    pattern = os.urandom(size)
    with open_pool(start_method) as pool:
        assert pool.apply(tasks.identity, (pattern,)) == pattern
        received = pool.apply(tasks.identity, (bytearray(pattern),))
        assert type(received) is bytearray
        assert received == pattern
        received.extend(b"more")
        assert len(received) == size + 4
        sent = array_module.array("B", pattern)
        received = pool.apply(tasks.identity, (sent,))
        assert type(received) is array_module.array
        assert received == sent
        received.append(1)
        assert pool.apply(array_tasks.type_name_and_bytes, (bytearray(pattern),)) == ("bytearray", pattern)


def test_a_bytearray_is_the_workers_own(start_method):
    sent = bytearray(MEGABYTE)
    with open_pool(start_method) as pool:
        assert pool.apply(array_tasks.write_first_byte, (sent,)) == b"\xff\0"
        assert sent[0] == 0


@pytest.mark.skipif(
    ON_STDLIB and sys.version_info < (3, 14), reason="multiprocessing uses protocol 5 since Python 3.14"
)
@pytest.mark.parametrize("size", [10, 3 * MEGABYTE])
def test_pickle_buffers_arrive_as_buffers(start_method, size):
    pattern = os.urandom(size)
    with open_pool(start_method) as pool:
        for source in (bytearray(pattern), pattern):
            buffer = pickle.PickleBuffer(source)
            assert pool.apply(array_tasks.type_name_and_bytes, (buffer,))[1] == pattern
            received = pool.apply(tasks.identity, (buffer,))
            assert bytes(received) == pattern
            assert memoryview(received).readonly == isinstance(source, bytes)


def test_a_memoryview_cannot_be_sent_as_ever(start_method):
    with open_pool(start_method) as pool:
        assert type(get(pool.apply_async(tasks.identity, (memoryview(b"x"),)))) is TypeError
        assert pool.apply(tasks.double, (1,)) == 2


# ---------------------------------------------------------------------------------------------------------------------
# Memory. Further tests of it are in test_memory_bounds.py.


def _kib(memory):
    return memory["VmRSS"]


def test_many_arrays_in_turn_need_the_memory_of_a_few(start_method):
    with open_pool(start_method, 1) as pool:
        array = np.zeros(4 * MEGABYTE // 8)
        kept = []

        def rounds(count):
            for value in range(count):
                received = pool.apply(array_tasks.identity, (array,))
                received[0] = value
                kept.append(received)
                if len(kept) > 5:
                    kept.pop(0)

        rounds(50)
        gc.collect()
        before = _kib(tasks.memory_kib()), _kib(pool.apply(tasks.memory_kib))
        rounds(200)
        gc.collect()
        after = _kib(tasks.memory_kib()), _kib(pool.apply(tasks.memory_kib))
        # 200 arrays of 4 MB each way would be 1.6 GB.
        assert after[0] - before[0] < 100_000, (before, after)
        assert after[1] - before[1] < 100_000, (before, after)
