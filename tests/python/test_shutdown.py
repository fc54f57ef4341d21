"""However a pool is ended, it ends soon, everybody who waits hears of it, and nothing is left."""

import os
import signal
import sys
import threading
import time

import fault_tasks
import pickle_tasks
import pytest
import tasks
import worker_tasks
from harness import (
    PATIENCE_SECONDS,
    Process,
    assert_pool_is_whole,
    get,
    open_pool,
    outcome,
    pool_tests,
    promised_by_us_only,
    running_thread,
    supervisor_of,
    take,
    time_limit,
    wait_for_file,
    wait_until,
    wait_until_gone,
    worker_pids,
)
from subject import mp

pytestmark = pool_tests


# ---------------------------------------------------------------------------------------------------------------------
# close() and join().


def test_close_and_join_let_all_work_be_done(start_method, tmp_path):
    log = tmp_path / "log"
    with open_pool(start_method, initializer=tasks.log_into, initargs=(str(log),)) as pool:
        results = [pool.apply_async(fault_tasks.catastrophe_at_thirteen, (x,)) for x in range(20, 60)]
        mapped = pool.map_async(fault_tasks.catastrophe_at_thirteen, range(60, 100))
        pool.close()
        with time_limit(PATIENCE_SECONDS, "join()"):
            pool.join()
        assert all(result.ready() for result in results) and mapped.ready()
        assert [result.get(0) for result in results] == [x * x for x in range(20, 60)]
        assert mapped.get(0) == [x * x for x in range(60, 100)]
        assert sorted(map(int, log.read_text().split())) == list(range(20, 100))


def test_the_workers_are_gone_when_join_returns(start_method):
    with open_pool(start_method) as pool:
        workers = [Process(pid) for pid in worker_pids(pool, 2)]
        pool.close()
        pool.join()
        assert not any(worker.is_alive() for worker in workers)


def test_close_join_and_terminate_can_be_repeated_in_any_order(start_method):
    with open_pool(start_method) as pool:
        assert pool.apply(tasks.double, (1,)) == 2
        with time_limit(PATIENCE_SECONDS, "ending a pool again and again"):
            for method in ("close", "close", "join", "join", "terminate", "terminate", "close", "join", "terminate"):
                assert getattr(pool, method)() is None


def test_a_pool_that_was_never_used_ends_at_once(start_method):
    for ending in ("close", "terminate"):
        with open_pool(start_method) as pool:
            with time_limit(PATIENCE_SECONDS, f"{ending}() and join()"):
                getattr(pool, ending)()
                pool.join()


def test_imap_read_after_close_and_join_gives_everything(start_method):
    # A frequent idiom: hand all in, close, join, and only then read.
    with open_pool(start_method) as pool:
        iterators = [
            pool.imap(tasks.double, range(3000)),
            pool.imap_unordered(tasks.double, range(3000)),
            pool.imap(tasks.double, range(3000), 10),
        ]
        assert next(iterators[0]) == 0
        pool.close()
        with time_limit(PATIENCE_SECONDS, "join() with iterators that nobody reads"):
            pool.join()
        assert take(iterators[0]) == [2 * x for x in range(1, 3000)]
        assert sorted(iterators[1]) == [2 * x for x in range(3000)]
        assert list(iterators[2]) == [2 * x for x in range(3000)]


@promised_by_us_only
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_join_does_not_wait_for_the_reader_of_a_bounded_imap(start_method, method):
    with open_pool(start_method) as pool:
        iterator = getattr(pool, method)(tasks.double, range(1000), buffersize=2)
        first = next(iterator)
        pool.close()
        with time_limit(PATIENCE_SECONDS, "join() with a bounded iterator that nobody reads"):
            pool.join()
        rest = take(iterator)
        errors = [item for item in rest if isinstance(item, BaseException)]
        assert len(errors) <= 1 and all(isinstance(error, (mp.ProcessError, ValueError)) for error in errors)
        given = sorted([first, *(item for item in rest if item not in errors)])
        assert given == [2 * x for x in range(len(given))]


def test_close_while_others_wait_disturbs_nobody(start_method, tmp_path):
    gate = str(tmp_path / "gate")
    with open_pool(start_method) as pool:
        got = []
        with running_thread(lambda: got.append(pool.map(tasks.wait_for_file, [gate] * 4, 1))):
            wait_until(lambda: pool.apply_async(tasks.nothing) is not None, "the pool runs")
            time.sleep(0.1)
            pool.close()
            tasks.touch(gate)
        assert got == [[gate] * 4]
        pool.join()


def test_finalizers_of_workers_run_when_the_pool_is_closed(start_method, tmp_path):
    path = tmp_path / "finalized"
    with open_pool(start_method, 2, worker_tasks.write_when_worker_exits, (str(path),)) as pool:
        pids = worker_pids(pool, 2)
        pool.close()
        pool.join()
        assert sorted(map(int, path.read_text().split())) == sorted(pids)


def test_exit_functions_of_workers_run_as_in_processes_of_their_start_method(start_method, tmp_path):
    paths = [tmp_path / "worker", tmp_path / "process"]
    with open_pool(start_method, 1, worker_tasks.touch_at_exit, (str(paths[0]),)) as pool:
        assert pool.apply(tasks.double, (1,)) == 2
        pool.close()
        pool.join()
    process = mp.get_context(start_method).Process(target=worker_tasks.touch_at_exit, args=(str(paths[1]),))
    process.start()
    process.join()
    # Before Python 3.13, forked processes end without.
    expected = start_method == "spawn" or sys.version_info >= (3, 13)
    assert [path.exists() for path in paths] == [expected, expected]
    if expected:
        assert paths[1].read_text() == f"{process.pid}\n"


# ---------------------------------------------------------------------------------------------------------------------
# terminate().


@promised_by_us_only
def test_terminate_tells_everybody_who_waits(start_method, tmp_path):
    started = str(tmp_path / "started")
    with open_pool(start_method) as pool:
        running = pool.apply_async(tasks.announce_and_sleep, (started,))
        wait_for_file(started)
        pool.apply_async(tasks.sleep_forever)
        waiting = {
            "get": running.get,
            "get of a queued task": pool.apply_async(tasks.double, (1,)).get,
            "get with a timeout": lambda: running.get(10 * PATIENCE_SECONDS),
            "apply": lambda: pool.apply(tasks.double, (1,)),
            "map": lambda: pool.map(tasks.double, range(100)),
            "map in single items": lambda: pool.map(tasks.double, range(100), 1),
            "starmap": lambda: pool.starmap(tasks.add, [(1, 2)] * 10),
            "imap": lambda: next(pool.imap(tasks.double, range(100))),
            "imap_unordered": lambda: next(pool.imap_unordered(tasks.double, range(100))),
            "imap in chunks": lambda: list(pool.imap(tasks.double, range(100), 10)),
        }
        got = {}
        threads = [
            threading.Thread(target=lambda name=name, way=way: got.update({name: outcome(way)}), daemon=True)
            for name, way in waiting.items()
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        with time_limit(PATIENCE_SECONDS, "terminate()"):
            pool.terminate()
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
        assert {name: type(error) for name, error in got.items()} == {name: mp.PoolTerminated for name in waiting}
        # Who comes later hears the same.
        assert type(get(running)) is mp.PoolTerminated
        assert running.ready() and not running.successful()
        running.wait(PATIENCE_SECONDS)


@promised_by_us_only
def test_wait_ends_when_the_pool_is_terminated(start_method):
    with open_pool(start_method) as pool:
        result = pool.apply_async(tasks.sleep_forever)
        with running_thread(result.wait) as thread:
            time.sleep(0.1)
            assert thread.is_alive()
            pool.terminate()


def test_results_that_were_there_before_terminate_stay(start_method):
    with open_pool(start_method) as pool:
        good, bad = pool.apply_async(tasks.double, (21,)), pool.apply_async(tasks.raise_value_error)
        good.wait(PATIENCE_SECONDS)
        bad.wait(PATIENCE_SECONDS)
        pool.terminate()
        assert get(good) == 42
        assert type(get(bad)) is ValueError


def test_terminate_drops_what_is_queued(start_method, tmp_path):
    log = tmp_path / "log"
    with open_pool(start_method, 1, tasks.log_into, (str(log),)) as pool:
        pool.map_async(fault_tasks.sleep_forever_at_thirteen, [13, *range(100, 200)], chunksize=1)
        wait_until(log.exists, "the initializer ran")
        wait_until(lambda: log.read_text(), "the first task runs")
        pool.terminate()
        pool.join()
        assert log.read_text() == "13\n"


@promised_by_us_only
@pytest.mark.parametrize("callback_of", ["result", "error", "map"])
def test_terminate_may_be_called_by_a_callback(start_method, callback_of):
    called = threading.Event()
    errors = []

    def end(_value):
        try:
            pool.terminate()
        except BaseException as error:
            errors.append(error)
        called.set()

    with open_pool(start_method) as pool:
        others = [pool.apply_async(tasks.sleep_forever) for _ in range(1)]
        others += [pool.apply_async(tasks.sleep_and_return, (0.05, 8), callback=end)] if callback_of == "result" else []
        others += [pool.apply_async(tasks.raise_value_error, error_callback=end)] if callback_of == "error" else []
        others += [pool.map_async(tasks.double, range(10), 1, callback=end)] if callback_of == "map" else []
        got = [get(result) for result in others]
        assert called.wait(PATIENCE_SECONDS)
        assert errors == []
        assert type(got[0]) is mp.PoolTerminated
        if callback_of == "error":
            assert type(got[1]) in (ValueError, mp.PoolTerminated)
        with time_limit(PATIENCE_SECONDS, "join() after terminate() in a callback"):
            pool.join()


@pytest.mark.parametrize("method", ["close", "terminate"])
def test_a_pool_may_be_ended_by_another_thread(start_method, method):
    with open_pool(start_method) as pool:
        assert pool.map(tasks.double, range(10)) == [2 * x for x in range(10)]
        with running_thread(getattr(pool, method)):
            pass
        with running_thread(pool.join):
            pass


@promised_by_us_only
def test_terminate_may_be_called_by_many_threads_at_once(start_method):
    for _ in range(3):
        with open_pool(start_method) as pool:
            result = pool.apply_async(tasks.sleep_forever)
            threads = [threading.Thread(target=pool.terminate, daemon=True) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE_SECONDS)
            assert not any(thread.is_alive() for thread in threads)
            assert type(get(result)) is mp.PoolTerminated


@promised_by_us_only
def test_terminate_ends_a_join_that_waits(start_method):
    with open_pool(start_method) as pool:
        pool.apply_async(tasks.sleep_forever)
        pool.close()
        with running_thread(pool.join) as thread:
            time.sleep(0.1)
            assert thread.is_alive()
            pool.terminate()


@promised_by_us_only
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_terminate_ends_an_imap_whose_generator_blocks(start_method, method):
    go_on = threading.Event()

    def blocking():
        yield 1
        go_on.wait(2 * PATIENCE_SECONDS)
        yield 2

    with open_pool(start_method) as pool:
        iterator = getattr(pool, method)(tasks.double, blocking())
        assert iterator.next(PATIENCE_SECONDS) == 2
        with time_limit(PATIENCE_SECONDS, "terminate() while a generator blocks"):
            pool.terminate()
        error = outcome(iterator.next, PATIENCE_SECONDS)
        assert isinstance(error, (mp.PoolTerminated, StopIteration)), repr(error)
        go_on.set()


@promised_by_us_only
@pytest.mark.parametrize("stopped", ["workers", "all"])
def test_terminate_ends_processes_that_are_stopped(start_method, stopped):
    with open_pool(start_method) as pool:
        pids = worker_pids(pool, 2)
        processes = [Process(pid) for pid in pids]
        supervisor = supervisor_of(pids)
        assert supervisor is not None
        result = pool.apply_async(tasks.sleep_forever)
        time.sleep(0.05)
        for process in processes if stopped == "workers" else [supervisor, *processes]:
            process.send_signal(signal.SIGSTOP)
        with time_limit(PATIENCE_SECONDS, "terminate() of stopped processes"):
            pool.terminate()
            pool.join()
        assert type(get(result)) is mp.PoolTerminated
        wait_until_gone([supervisor, *processes])


@promised_by_us_only
def test_terminate_ends_a_task_that_ignores_signals(start_method, tmp_path):
    deaf = [str(tmp_path / "first"), str(tmp_path / "second")]
    with open_pool(start_method) as pool:
        results = [pool.apply_async(tasks.sleep_stubbornly, (path,)) for path in deaf]
        wait_until(lambda: all(os.path.exists(path) and os.path.getsize(path) for path in deaf), "both tasks run")
        workers = [Process(int(wait_for_file(path))) for path in deaf]
        with time_limit(PATIENCE_SECONDS, "terminate() of deaf tasks"):
            pool.terminate()
            pool.join()
        assert not any(worker.is_alive() for worker in workers)
        assert [type(get(result)) for result in results] == [mp.PoolTerminated] * 2


@promised_by_us_only
def test_terminate_ends_workers_that_inherited_a_signal_handler(start_method):
    previous = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with open_pool(start_method) as pool:
            result = pool.apply_async(tasks.sleep_forever)
            worker_pids_seen = get(pool.apply_async(tasks.pid))
            with time_limit(PATIENCE_SECONDS, "terminate() with a handler for SIGTERM"):
                pool.terminate()
                pool.join()
            assert not Process(worker_pids_seen).is_alive()
            assert type(get(result)) is mp.PoolTerminated
    finally:
        signal.signal(signal.SIGTERM, previous)


@promised_by_us_only
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_terminate_right_after_a_worker_was_killed(start_method, busy):
    for _ in range(5):
        with open_pool(start_method) as pool:
            pids = worker_pids(pool, 2)
            if busy:
                pool.map_async(tasks.sleep_forever, range(4), 1)
            os.kill(pids[0], signal.SIGKILL)
            with time_limit(PATIENCE_SECONDS, "terminate() beside a dead worker"):
                pool.terminate()
                pool.join()


def test_leaving_the_with_block_ends_the_workers_at_once(start_method):
    with open_pool(start_method) as pool:
        with pool:
            workers = [Process(pid) for pid in worker_pids(pool, 2)]
            pool.map_async(tasks.sleep_forever, range(10), 1)
        wait_until_gone(workers)


def test_an_error_in_the_with_block_comes_through(start_method):
    with open_pool(start_method) as pool:
        with pytest.raises(KeyError, match="from the block"):
            with pool:
                pool.apply_async(tasks.sleep_forever)
                raise KeyError("from the block")


@promised_by_us_only
def test_the_pool_is_whole_after_everything(start_method):
    # What several tests do one by one, in one pool.
    with open_pool(start_method) as pool:
        for _ in range(2):
            assert type(get(pool.apply_async(fault_tasks.sigkill_self))) is mp.WorkerDied
            assert type(get(pool.apply_async(pickle_tasks.return_unrebuildable))) is mp.ResultDecodeError
            assert take(pool.imap(tasks.raise_on_odd, [2]))[0] == 2
            assert_pool_is_whole(pool)
