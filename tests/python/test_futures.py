"""Our executor, where it promises more than the standard library's; what is the same is tested by CPython's own tests."""

import asyncio
import concurrent.futures
import os
import threading
import time
import weakref

import control_tasks
import logging_tasks
import pickle_tasks
import pytest
import tasks
import worker_tasks
from harness import PATIENCE_SECONDS, Process, pool_tests, promised_by_us_only, wait_for_file, wait_until
from subject import mp

pytestmark = [*pool_tests, promised_by_us_only]


@pytest.fixture
def executor(start_method):
    executor = mp.ProcessPoolExecutor(2, mp.get_context(start_method))
    yield executor
    if executor._pool is not None:
        executor._pool.cancel()
    executor.shutdown()


def test_dead_worker_fails_only_its_own_future(executor):
    before = [executor.submit(tasks.double, i) for i in range(20)]
    victim = executor.submit(os._exit, 3)
    after = [executor.submit(tasks.double, i) for i in range(20)]
    error = victim.exception(PATIENCE_SECONDS)
    assert isinstance(error, mp.WorkerDied) and isinstance(error, concurrent.futures.process.BrokenProcessPool)
    assert error.exitcode == 3 and "_exit" in error.task
    assert [future.result(PATIENCE_SECONDS) for future in before + after] == [2 * i for i in range(20)] * 2
    assert list(executor.map(tasks.double, range(100))) == [2 * i for i in range(100)]


def test_running_call_can_be_cancelled_if_that_is_meant(executor, tmp_path):
    future = executor.submit(control_tasks.announce_pid_and_sleep, str(tmp_path / "pid"))
    process = Process(int(wait_for_file(tmp_path / "pid")))
    assert future.running() and not future.cancel()
    assert future.cancel(running=True) and future.cancelled() and future.done()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result()
    wait_until(lambda: not process.is_alive(), "its process has ended")
    assert executor.submit(tasks.double, 4).result(PATIENCE_SECONDS) == 8


def test_waiting_call_is_cancelled_and_waiters_hear_of_it(executor):
    blocking = [executor.submit(tasks.sleep_forever) for _ in range(2)]
    waiting = executor.submit(tasks.double, 1)
    heard = []
    waiting.add_done_callback(heard.append)
    assert waiting.cancel()
    done, not_done = concurrent.futures.wait([waiting, *blocking], return_when="FIRST_COMPLETED")
    assert done == {waiting} and not_done == set(blocking) and heard == [waiting]
    assert all(future.cancel(running=True) for future in blocking)


def test_shutdown_that_cancels_leaves_the_running_ones(start_method):
    with mp.ProcessPoolExecutor(1, mp.get_context(start_method)) as executor:
        first = executor.submit(tasks.sleep_and_return, 0.3, "first")
        wait_until(first.running, "the first call runs")
        others = [executor.submit(tasks.double, i) for i in range(10)]
        executor.shutdown(cancel_futures=True)
        assert first.result() == "first" and all(future.cancelled() for future in others)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(tasks.double, 1)


def test_callback_that_takes_its_time_keeps_nobody_from_the_result(executor):
    goes_on = threading.Event()
    futures = [executor.submit(tasks.sleep_and_return, 0.1, 1), executor.submit(tasks.sleep_forever)]
    for future in futures:
        future.add_done_callback(lambda _: goes_on.wait(2 * PATIENCE_SECONDS))
    canceller = threading.Thread(target=futures[1].cancel, args=(True,))
    try:
        assert futures[0].result(PATIENCE_SECONDS) == 1 and futures[0].done()
        canceller.start()
        with pytest.raises(concurrent.futures.CancelledError):
            futures[1].result(PATIENCE_SECONDS)
    finally:
        goes_on.set()
        canceller.join()


def test_shutdown_in_a_callback_that_would_wait_for_itself_is_refused_and_the_executor_ends(start_method):
    executor = mp.ProcessPoolExecutor(1, mp.get_context(start_method))
    heard = []

    def shut_down(_future):
        try:
            executor.shutdown()
        except RuntimeError as error:
            heard.append(str(error))

    executor.submit(tasks.sleep_and_return, 0.1, 1).add_done_callback(shut_down)
    later = executor.submit(tasks.double, 2)
    assert later.result(PATIENCE_SECONDS) == 4
    executor.shutdown()
    assert len(heard) == 1 and heard[0].startswith("cannot join current thread")


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"nonsense": 1}, "unexpected keyword argument 'nonsense'"),
        ({"max_workers": 2.5}, "interpreted as an integer"),
        ({"output": "nowhere"}, "output must be one of"),
        ({"timeout": -1}, "timeout must be a positive number"),
        ({"retries": -1}, "retries must not be negative"),
        ({"memory_limit": "much"}, "memory_limit must be a number of bytes"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_before_the_first_call(wrong, words):
    with pytest.raises((TypeError, ValueError), match=words):
        mp.ProcessPoolExecutor(**{"max_workers": 1, **wrong})


def test_calls_run_from_an_event_loop(executor):
    async def main():
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(executor, tasks.double, i) for i in range(20)]
        assert await asyncio.gather(*calls) == [2 * i for i in range(20)]
        with pytest.raises(mp.WorkerDied):
            await loop.run_in_executor(executor, os._exit, 3)

    asyncio.run(main())


def test_map_reads_as_far_as_its_buffer_and_takes_back_what_nobody_wants(executor):
    pulled = []
    results = executor.map(tasks.double, (pulled.append(x) or x for x in range(10**9)), buffersize=3)
    assert next(results) == 0 and len(pulled) == 4
    results.close()
    with pytest.raises(concurrent.futures.TimeoutError):
        list(executor.map(time.sleep, [0.4] * 9, timeout=0.1))
    with pytest.raises(ValueError):
        list(executor.map(tasks.raise_value_error, [1, 2]))
    assert list(executor.map(pow, [2, 3], [3, 2], chunksize=2)) == [8, 9]


def test_results_of_map_belong_to_their_reader(executor):
    results = executor.map(pickle_tasks.Counter, range(10))
    for result in results:
        seen = weakref.ref(result)
        del result
        assert seen() is None


def test_initializer_that_raises_breaks_the_executor(start_method):
    with mp.ProcessPoolExecutor(1, mp.get_context(start_method), initializer=tasks.raise_value_error) as executor:
        assert executor._broken is False
        error = executor.submit(tasks.double, 1).exception(PATIENCE_SECONDS)
        assert isinstance(error, concurrent.futures.BrokenExecutor) and isinstance(error, mp.WorkerInitError)
        assert "ValueError" in executor._broken
        with pytest.raises(concurrent.futures.process.BrokenProcessPool, match="ValueError"):
            executor.submit(tasks.double, 1)
        with pytest.raises(concurrent.futures.process.BrokenProcessPool, match="ValueError"):
            executor.map(tasks.double, [1])


def test_what_an_initializer_raises_is_logged_as_in_the_standard_library(start_method, tmp_path):
    path = tmp_path / "log"
    context = mp.get_context(start_method)
    with mp.ProcessPoolExecutor(1, context, logging_tasks.log_executors_into_and_raise, (str(path),)) as executor:
        assert executor.submit(tasks.double, 1).exception(PATIENCE_SECONDS)
    assert path.read_text().startswith("CRITICAL Exception in initializer:\nTraceback")


@pytest.mark.parametrize(
    ("task", "kind", "words"),
    [
        (pickle_tasks.return_generator, TypeError, "generator"),
        (pickle_tasks.return_unpicklable, RuntimeError, "refuses to be pickled"),
    ],
)
def test_result_that_cannot_be_sent_raises_what_pickling_raised(executor, task, kind, words):
    error = executor.submit(task).exception(PATIENCE_SECONDS)
    assert type(error) is kind and words in str(error)
    assert isinstance(error.__cause__, mp.pool.MaybeEncodingError) and words in error.__cause__.exc
    with pytest.raises(kind, match=words):
        list(executor.map(task, [1]))


def test_result_that_cannot_be_rebuilt_is_a_broken_pool_to_those_who_expect_one(executor):
    error = executor.submit(pickle_tasks.return_unrebuildable).exception(PATIENCE_SECONDS)
    assert isinstance(error, mp.ResultDecodeError) and isinstance(error, concurrent.futures.process.BrokenProcessPool)
    assert executor.submit(tasks.double, 4).result(PATIENCE_SECONDS) == 8


def test_argument_that_cannot_be_rebuilt_fails_its_own_future(executor):
    error = executor.submit(tasks.identity, pickle_tasks.FailsToUnpickle()).exception(PATIENCE_SECONDS)
    assert not isinstance(error, concurrent.futures.BrokenExecutor)
    assert executor.submit(tasks.double, 4).result(PATIENCE_SECONDS) == 8


def test_error_tells_its_traceback_as_in_the_standard_library(executor):
    for error in (
        executor.submit(tasks.raise_value_error).exception(PATIENCE_SECONDS),
        pytest.raises(ValueError, list, executor.map(tasks.raise_value_error, [1])).value,
    ):
        assert type(error.__cause__) is concurrent.futures.process._RemoteTraceback
        assert "raise_value_error" in error.__cause__.tb


def test_workers_are_replaced_after_so_many_calls_except_with_fork(start_method):
    context = mp.get_context(start_method)
    if start_method == "fork":
        with pytest.raises(ValueError, match="incompatible with the 'fork'"):
            mp.ProcessPoolExecutor(1, context, max_tasks_per_child=2)
        executor = mp.ProcessPoolExecutor(1, max_tasks_per_child=2)
        assert executor._mp_context.get_start_method() == "spawn"
        return
    with mp.ProcessPoolExecutor(1, context, max_tasks_per_child=2) as executor:
        pids = [executor.submit(os.getpid).result(PATIENCE_SECONDS) for _ in range(4)]
        assert pids[0] == pids[1] != pids[2] == pids[3]


def test_workers_can_be_looked_at_and_stopped(executor):
    assert executor._processes == {}
    executor.submit(tasks.double, 1)
    processes = executor._processes
    # All start with the first call.
    assert len(processes) == executor._max_workers == 2
    assert all(pid == process.pid and process.is_alive() for pid, process in processes.items())
    first, second = processes.values()
    first.kill()
    second.terminate()
    for process in processes.values():
        process.join(PATIENCE_SECONDS)
        assert not Process(process.pid).is_alive()
        # Whoever is gone is gone.
        process.join()
        process.kill()
    assert executor.submit(tasks.double, 4).result(PATIENCE_SECONDS) == 8
    assert len(executor._processes) == 2 and not set(executor._processes) & set(processes)
    assert executor._broken is False and not executor._shutdown_thread
    executor.shutdown()
    assert executor._processes is None and executor._shutdown_thread


def test_options_of_pools_hold_for_executors(start_method, tmp_path):
    context = mp.get_context(start_method)
    with mp.ProcessPoolExecutor(1, context, timeout=0.3, retries=mp.Retry(2, on=mp.WorkerDied)) as executor:
        assert isinstance(executor.submit(tasks.sleep_forever).exception(PATIENCE_SECONDS), mp.TaskTimeout)
        calls = [(str(tmp_path / f"{i}"), i, "exit") for i in range(3)]
        assert list(executor.map(control_tasks.fail_at_first_packed, calls)) == [1, 2, 3]


@pytest.mark.parametrize("goodbye", ["kept = executor", "executor.shutdown(wait=False)", "pass"])
def test_program_that_ends_waits_for_its_futures(run_python, goodbye):
    done = run_python(
        source=f"""
import procession as mp, time
def work(x):
    time.sleep(0.2)
    print("done", x, flush=True)
def begin():
    global kept
    executor = mp.ProcessPoolExecutor(1, mp.get_context("fork"))
    for x in range(3):
        executor.submit(work, x)
    {goodbye}
if __name__ == "__main__":
    begin()
"""
    )
    assert done.stdout.split("\n")[:3] == ["done 0", "done 1", "done 2"] and done.stderr == ""


# ---------------------------------------------------------------------------------------------------------------------
# What workers have of their own.


def test_tasks_get_what_the_initializer_returned(start_method):
    with mp.get_context(start_method).Pool(2, worker_tasks.two_numbers, (20, 22)) as pool:
        assert pool.map(worker_tasks.add_to_state, range(3)) == [42, 43, 44]
    with pytest.raises(RuntimeError, match="initializer"):
        mp.worker_state()


def test_workers_are_bound_to_their_cpus(start_method):
    cpus = sorted(os.sched_getaffinity(0))
    with mp.get_context(start_method).Pool(2, cpu_affinity=cpus[:1]) as pool:
        assert pool.apply(os.sched_getaffinity, (0,)) == {cpus[0]}
    with pytest.raises(ValueError, match="may not use CPU"):
        mp.Pool(1, cpu_affinity=[10**6])


def test_numeric_libraries_of_workers_share_the_cpus(start_method, monkeypatch):
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    context = mp.get_context(start_method)

    def told(**options):
        with context.Pool(1, **options) as pool:
            return pool.map(os.getenv, ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"])

    assert told(threads_per_worker=3) == ["3", "3"]
    assert told(threads_per_worker=None) == [None, None]
    with context.Pool(1) as pool:
        assert int(pool.apply(os.getenv, ("OMP_NUM_THREADS",))) >= 1


def test_what_libraries_look_at_is_there():
    with mp.ProcessPoolExecutor(3, mp.get_context("fork")) as executor:
        assert executor._max_workers == 3
        assert executor._mp_context.get_start_method() == "fork"
        assert executor.submit(pow, 2, 3).result() == 8
    with mp.ProcessPoolExecutor() as executor:
        before = executor._max_workers
        executor.submit(pow, 2, 3).result()
        assert executor._max_workers == before == executor._pool._processes
