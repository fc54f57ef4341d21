"""What a pool tells of itself: statistics and hints, events, progress."""

import asyncio
import io
import os
import sys
import threading
import time

import fault_tasks
import pytest
import tasks
from harness import get, open_pool, pool_tests, promised_by_us_only, wait_until, worker_pids
from subject import mp

pytestmark = [*pool_tests, promised_by_us_only]


def fails_for_threes(number):
    if number % 3 == 0:
        raise ValueError(number)
    return number


def test_stats_count_calls_failures_and_losses_and_time_them(start_method):
    with open_pool(start_method, 2) as pool:
        assert pool.stats().functions == []
        pool.map(tasks.double, range(5000))
        for number in range(32):
            pool.apply(tasks.sleep_and_return, (0.002, number))
        with pytest.raises(ValueError):
            pool.map(fails_for_threes, range(30))
        with pytest.raises(mp.WorkerDied):
            pool.apply(fault_tasks.sigkill_self)
        stats = {f.function: f for f in pool.stats().functions}
        double, sleep = stats["double"], stats["sleep_and_return"]
        assert (double.items, double.failed, double.lost) == (5000, 0, 0)
        assert 1 <= double.batches < 5000 and double.largest_batch > 1
        assert double.run_seconds > 0 and double.encode_seconds > 0
        assert (sleep.items, sleep.batches, sleep.largest_batch) == (32, 32, 1)
        assert sleep.run_seconds >= 0.002 and sleep.longest_seconds >= 0.002
        assert sleep.queue_seconds > 0 and sleep.return_seconds > 0 and sleep.argument_bytes > 0
        assert (stats["fails_for_threes"].items, stats["fails_for_threes"].failed) == (30, 10)
        assert (stats["sigkill_self"].items, stats["sigkill_self"].lost) == (0, 1)
        text = str(pool.stats())
        assert "sleep_and_return" in text and "per batch" in text


def test_hints_name_what_costs_time():
    with open_pool("fork", 2) as pool:
        for number in range(400):
            pool.apply(abs, (number,))
        hints = pool.stats().hints
        assert any("abs" in hint and "map()" in hint for hint in hints), hints


def test_events_tell_of_tasks_and_workers(start_method):
    with open_pool(start_method, 2) as pool:
        worker_pids(pool, 2)
        with pool.events() as events:
            with pytest.raises(ValueError):
                pool.map(fails_for_threes, [1, 2, 3], chunksize=1)
            pool.apply(tasks.sleep_and_return, (0.01,))
            with pytest.raises(mp.WorkerDied):
                pool.apply(fault_tasks.sigkill_self)
            seen = []

            def all_told():
                while True:
                    event = events.next()
                    if event is None:
                        break
                    seen.append(event)
                return [e.what for e in seen].count("worker ready") == 1

            wait_until(all_told, "a replacement is told of")
            assert events.missed == 0
        names = {worker.name for worker in pool._pool}
        of_map = {(e.what, e.item) for e in seen if e.function == "fails_for_threes"}
        assert of_map == {
            ("started", 0),
            ("finished", 0),
            ("started", 1),
            ("finished", 1),
            ("started", 2),
            ("failed", 2),
        }
        slept = [e for e in seen if e.function == "sleep_and_return"]
        assert [e.what for e in slept] == ["started", "finished"]
        assert (
            slept[1].seconds >= 0.01
            and slept[1].item is None
            and slept[1].worker.startswith(next(iter(names)).rstrip("0123456789"))
        )
        (lost,) = [e for e in seen if e.what == "lost"]
        assert (lost.function, lost.exitcode) == ("sigkill_self", -9)
        (ended,) = [e for e in seen if e.what == "worker ended"]
        assert (ended.pid, ended.exitcode) == (lost.pid, -9)
        assert [e.at_seconds >= 0 for e in seen] == [True] * len(seen)


def test_iterating_over_events_ends_with_the_pool():
    with open_pool("fork", 1) as pool:
        events = pool.events()
        seen = []
        thread = threading.Thread(target=lambda: seen.extend(events))
        thread.start()
        pool.map(tasks.double, range(10))
        pool.close()
        pool.join()
        thread.join(20)
        assert not thread.is_alive()
    assert [e.item for e in seen if e.what == "finished"] == list(range(10))


def test_a_reader_that_is_too_slow_misses_some_and_the_pool_does_not_wait():
    with open_pool("fork", 2) as pool:
        events = pool.events()
        assert pool.map(tasks.double, range(20_000)) == [2 * n for n in range(20_000)]
        count = 0
        while events.next() is not None:
            count += 1
        assert events.missed > 0 and count + events.missed >= 40_000


def test_progress_calls_a_function_with_the_count_and_the_total(start_method):
    calls = []

    def note(done, total):
        calls.append((done, total))

    with open_pool(start_method, 2) as pool:
        assert pool.map(tasks.double, range(100), progress=note) == [2 * n for n in range(100)]
        assert calls[0] == (0, 100) and calls[-1] == (100, 100)
        assert calls == sorted(calls)
        del calls[:]
        assert pool.starmap(tasks.add, [(1, 2), (3, 4)], progress=note) == [3, 7]
        assert calls[-1] == (2, 2)
        del calls[:]
        iterator = pool.imap(tasks.double, range(10), progress=note)
        assert iterator.next(10) == 0 and list(iterator) == [2 * n for n in range(1, 10)]
        assert calls == [(n, 10) for n in range(11)]
        del calls[:]
        generated = (n for n in range(10))
        assert sorted(pool.imap_unordered(tasks.double, generated, progress=note)) == [2 * n for n in range(10)]
        assert calls[-1] == (10, None)
        del calls[:]
        with pytest.raises(ValueError):
            pool.map(fails_for_threes, range(9), progress=note)
        assert calls[-1] == (9, 9)


@pytest.mark.parametrize("total", [10, None])
def test_progress_without_tqdm_is_one_line_on_standard_error(monkeypatch, total):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with open_pool("fork", 1) as pool:
        items = range(10) if total else (n for n in range(10))
        list(pool.imap(tasks.double, items, progress=True))
    assert stream.getvalue().count("\n") == 1
    assert ("10/10" if total else "10 ") in stream.getvalue() and "items/s" in stream.getvalue()


def test_iterators_that_show_their_progress_are_read_in_an_event_loop():
    counts = []

    async def read(iterator):
        results = []
        while True:
            try:
                async for result in iterator:
                    results.append(result)
                return results
            except ValueError as error:
                results.append(error.args[0])

    with open_pool("fork", 2) as pool:
        for retries in (0, 1):
            counts.clear()
            iterator = pool.imap(
                fails_for_threes, range(5), retries=retries, progress=lambda *state: counts.append(state)
            )
            assert asyncio.run(read(iterator)) == [0, 1, 2, 3, 4]
            assert counts == [(done, 5) for done in range(6)]


def test_progress_by_tqdm_where_it_is_installed(monkeypatch):
    bars = []

    class Bar:
        def __init__(self, **options):
            self.options, self.count, self.closed = options, 0, False
            bars.append(self)

        def update(self, more):
            self.count += more

        def close(self):
            self.closed = True

    module = type(sys)("tqdm.auto")
    module.tqdm = Bar
    monkeypatch.setitem(sys.modules, "tqdm.auto", module)
    with open_pool("fork", 2) as pool:
        pool.map(tasks.double, range(50), progress=True)
    (bar,) = bars
    assert (bar.options["total"], bar.options["desc"], bar.count, bar.closed) == (50, "double", 50, True)


def test_watching_by_events_survives_a_fork_of_the_reader(tmp_path):
    with open_pool("fork", 1) as pool:
        events = pool.events()
        pid = os.fork()
        if pid == 0:
            assert events.next() is None
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        pool.apply(tasks.double, (1,))
        assert events.next(10).what in ("worker ready", "started")
        time.sleep(0)
        get(pool.apply_async(tasks.double, (1,)))


def test_tries_are_told_and_counted_as_progress(tmp_path):
    calls = []
    with open_pool("fork", 1) as pool, pool.events() as events:
        with pytest.raises(ValueError):
            pool.map(
                fails_for_threes,
                [1, 3],
                retries=mp.Retry(2, on=ValueError),
                progress=lambda *state: calls.append(state),
            )
        assert calls[0] == (0, 2) and calls[-1] == (2, 2)
        told = [e for e in iter(events.next, None) if e.what == "retried"]
        assert [(e.function, e.worker) for e in told] == [("fails_for_threes", "")] * 2
        iterator = pool.imap(tasks.double, [1, 2], retries=1, progress=lambda *state: calls.append(state))
        assert list(iterator) == [2, 4] and calls[-1] == (2, 2)
