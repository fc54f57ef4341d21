"""The iterators of ``imap`` and ``imap_unordered`` behave as ``multiprocessing.pool``'s, and read no further than they say.

Whatever is not marked as our own promise has been checked against the standard library
(``PROCESSION_TEST_STDLIB=1``, see subject.py).
"""

import inspect
import multiprocessing
import multiprocessing.pool
import threading
import time

import pickle_tasks
import pytest
import tasks
from harness import (
    PATIENCE_SECONDS,
    get,
    open_pool,
    pool_tests,
    promised_by_us_only,
    take,
    time_limit,
)
from subject import pool_module

pytestmark = pool_tests


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
        squared = pool.imap(pickle_tasks.square_of, doubled)
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


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
@pytest.mark.parametrize("chunksize", [1, 10])
def test_an_iterator_that_is_given_up_does_not_keep_join_waiting(start_method, method, chunksize):
    with open_pool(start_method) as pool:
        iterator = getattr(pool, method)(tasks.double, (x for x in range(10_000)), chunksize)
        next(iterator)
        del iterator
        pool.close()
        with time_limit(PATIENCE_SECONDS, "join()"):
            pool.join()


def test_other_tasks_run_beside_a_long_imap(start_method):
    with open_pool(start_method) as pool:
        iterator = pool.imap(tasks.double, range(5000))
        next(iterator)
        assert get(pool.apply_async(tasks.double, (21,))) == 42
        assert pool.map(tasks.double, range(10)) == [2 * x for x in range(10)]
        assert sum(1 for _ in iterator) == 4999
