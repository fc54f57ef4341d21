"""joblib and dask run their tasks in our workers, which may die."""

import os
import signal
import time

import pytest
from harness import promised_by_us_only
from subject import mp

joblib = pytest.importorskip("joblib")

import procession.joblib  # noqa: E402

pytestmark = promised_by_us_only

procession.joblib.register()


def square(n):
    return n * n


def die_at(n, victim):
    if n == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    return n


def fail_at(n, victim):
    if n == victim:
        raise LookupError(n)
    return n


def sleep_at(n, victim):
    if n == victim:
        time.sleep(60)
    return n


def inner_pid(n):
    return os.getpid(), joblib.Parallel(n_jobs=2)(joblib.delayed(os.getpid)() for _ in range(2))


def run(function, items, *arguments, n_jobs=2, returns="list", **options):
    with joblib.parallel_config("procession", n_jobs=n_jobs, **options):
        return joblib.Parallel(return_as=returns)(joblib.delayed(function)(item, *arguments) for item in items)


def test_results_come_in_order():
    assert run(square, range(500)) == [n * n for n in range(500)]


def test_lambdas_and_closures_travel():
    base = 10
    assert run(lambda n: n + base, range(20)) == [n + 10 for n in range(20)]


def test_tasks_run_in_workers_and_one_job_runs_here():
    assert os.getpid() not in run(lambda _: os.getpid(), range(20))
    assert set(run(lambda _: os.getpid(), range(3), n_jobs=1)) == {os.getpid()}
    assert len(set(run(lambda _: os.getpid(), range(100), n_jobs=-1))) >= 1


def test_results_are_given_out_as_they_come():
    assert list(run(square, range(50), returns="generator")) == [n * n for n in range(50)]
    assert sorted(run(square, range(50), returns="generator_unordered")) == [n * n for n in range(50)]


def test_what_a_task_raises_is_raised_here():
    with pytest.raises(LookupError, match="7"):
        run(fail_at, range(20), 7)


def test_a_killed_worker_is_an_error_and_no_hang():
    with pytest.raises(mp.WorkerDied, match="SIGKILL"):
        run(die_at, range(20), 7)
    assert run(square, range(20)) == [n * n for n in range(20)]


def test_a_task_that_takes_too_long_is_killed():
    with pytest.raises(mp.TaskTimeout):
        run(sleep_at, range(4), 2, timeout=0.5)


def test_parallel_in_parallel_runs_in_its_worker():
    for pid, inner in run(inner_pid, range(4)):
        assert inner == [pid, pid]


def test_zero_jobs_are_refused():
    with pytest.raises(ValueError, match="n_jobs == 0"):
        run(square, range(3), n_jobs=0)


def test_dask_computes_in_our_executor(start_method):
    dask = pytest.importorskip("dask")
    with mp.ProcessPoolExecutor(2, mp.get_context(start_method)) as executor:
        parts = [dask.delayed(square)(n) for n in range(40)]
        pids = [dask.delayed(os.getpid)() for _ in range(4)]
        total, workers = dask.compute(dask.delayed(sum)(parts), pids, scheduler=executor)
        assert total == sum(n * n for n in range(40))
        assert os.getpid() not in workers
        with pytest.raises(mp.WorkerDied):
            dask.compute(dask.delayed(die_at)(1, 1), scheduler=executor)
        assert dask.compute(dask.delayed(square)(3), scheduler=executor) == (9,)
