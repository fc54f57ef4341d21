"""Tasks beyond their limits: of time, of a worker's tasks, of descriptors; and large results when somebody dies."""

import collections
import functools
import itertools
import random
import time

import fault_tasks
import pytest
import tasks
import worker_tasks
from harness import (
    EACH_WAY,
    PATIENCE_SECONDS,
    TASK_LIMIT_SECONDS,
    Hang,
    Process,
    WorkerHunter,
    assert_only_thirteen_fails,
    assert_pool_is_whole,
    get,
    line_count,
    open_pool,
    outcome,
    pool_tests,
    promised_by_us_only,
    run_program,
    take,
    time_limit,
)
from subject import mp

pytestmark = [*pool_tests, promised_by_us_only]


# ---------------------------------------------------------------------------------------------------------------------
# Tasks that take too long.


@pytest.mark.parametrize(
    "function, way",
    [
        (fault_tasks.sleep_forever_at_thirteen, "apply_async"),
        (fault_tasks.sleep_forever_at_thirteen, "imap"),
        (fault_tasks.sleep_forever_at_thirteen, "imap_unordered"),
        (fault_tasks.spin_forever_at_thirteen, "apply_async"),
        (fault_tasks.stubborn_at_thirteen, "apply_async"),
    ],
)
def test_a_task_that_takes_too_long_is_ended_and_the_others_go_on(start_method, function, way):
    with open_pool(start_method, timeout=TASK_LIMIT_SECONDS) as pool:
        got = EACH_WAY[way](pool, function, range(40))
        assert_only_thirteen_fails(got, way, function, _check_task_timeout)
        assert_pool_is_whole(pool)


def _check_task_timeout(error, function):
    assert type(error) is mp.TaskTimeout, repr(error)
    assert isinstance(error, mp.ProcessError)
    assert not isinstance(error, mp.TimeoutError)
    assert error.limit_seconds == TASK_LIMIT_SECONDS
    assert TASK_LIMIT_SECONDS <= error.elapsed_seconds < TASK_LIMIT_SECONDS + PATIENCE_SECONDS
    assert isinstance(error.pid, int) and not Process(error.pid).is_alive()
    assert function.__name__ in error.task and "13" in error.task
    assert error.task in str(error) and f"pid {error.pid}" in str(error)


@pytest.mark.parametrize("chunksize", [1, None])
def test_a_task_that_takes_too_long_fails_its_map(start_method, chunksize, tmp_path):
    log = tmp_path / "log"
    with open_pool(start_method, 2, tasks.log_into, (str(log),), timeout=TASK_LIMIT_SECONDS) as pool:
        with time_limit(PATIENCE_SECONDS, "map() with a task that takes too long"):
            error = outcome(pool.map, fault_tasks.sleep_forever_at_thirteen, range(40), chunksize)
        _check_task_timeout(error, fault_tasks.sleep_forever_at_thirteen)
        assert sorted(map(int, log.read_text().split())) == list(range(40))
        assert_pool_is_whole(pool)


def test_the_time_limit_is_for_running_not_for_waiting_in_the_queue(start_method):
    with open_pool(start_method, 1, timeout=TASK_LIMIT_SECONDS) as pool:
        # Together they take longer than the limit, each alone does not; in chunks they are still each alone.
        results = [pool.apply_async(tasks.sleep_and_return, (0.25, x)) for x in range(4)]
        assert [get(result) for result in results] == list(range(4))
        with time_limit(PATIENCE_SECONDS, "map() of short tasks"):
            assert pool.starmap(tasks.sleep_and_return, [(0.25, x) for x in range(4)], 4) == list(range(4))
        time.sleep(TASK_LIMIT_SECONDS + 0.1)
        assert get(pool.apply_async(tasks.double, (1,))) == 2


def test_an_initializer_may_take_longer_than_the_task_limit(start_method):
    with open_pool(start_method, 1, time.sleep, (0.6,), timeout=0.3) as pool:
        assert get(pool.apply_async(tasks.double, (1,))) == 2


# ---------------------------------------------------------------------------------------------------------------------
# Recycled workers.


@pytest.mark.parametrize("limit", [1, 3])
def test_workers_are_replaced_after_so_many_tasks(start_method, limit):
    with open_pool(start_method, maxtasksperchild=limit) as pool:
        pids = [get(result) for result in [pool.apply_async(tasks.pid) for _ in range(12)]]
        counts = collections.Counter(pids)
        assert max(counts.values()) <= limit
        assert len(counts) >= 12 // limit
        # In map, chunks count.
        counts = collections.Counter(pool.map(tasks.pid_of, range(24), 4))
        assert max(counts.values()) <= 4 * limit


def test_no_task_is_lost_while_workers_are_recycled_under_load(start_method):
    rounds = 300 if start_method != "spawn" else 100
    with open_pool(start_method, maxtasksperchild=5) as pool:
        results = [pool.apply_async(tasks.double, (x,)) for x in range(rounds)]
        assert [get(result) for result in results] == [2 * x for x in range(rounds)]
        assert take(pool.imap(tasks.double, range(rounds))) == [2 * x for x in range(rounds)]


def test_recycled_workers_run_the_initializer_again(start_method, tmp_path):
    starts = tmp_path / "starts"
    with open_pool(start_method, 1, worker_tasks.count_start, (str(starts),), maxtasksperchild=2) as pool:
        for x in range(8):
            assert get(pool.apply_async(tasks.double, (x,))) == 2 * x
        assert line_count(starts) >= 4


# ---------------------------------------------------------------------------------------------------------------------
# Too few descriptors.

FEW_DESCRIPTORS = """
    import errno, gc, os, resource, sys
    from subject import mp
    import tasks

    def descriptors():
        return sorted(os.listdir("/proc/self/fd"))

    def children():
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return file.read().split()

    if __name__ == "__main__":
        context = mp.get_context(sys.argv[1])
        # What a first pool leaves running for later ones (a fork server, say) is not what is tested.
        with context.Pool(1) as pool:
            assert pool.apply(tasks.double, (1,)) == 2
        pool.join()
        del pool
        gc.collect()
        before, children_before = descriptors(), children()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        refused = worked = 0
        for spare in range(0, 60):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, before)) + spare, limits[1]))
            pool = None
            try:
                pool = context.Pool(2)
                assert pool.apply(tasks.double, (4,)) == 8
                worked += 1
            except OSError as error:
                assert error.errno == errno.EMFILE, error
                refused += 1
            except mp.ProcessError as error:
                # The pool came about, but its workers did not.
                assert "descriptor" in str(error) or "Too many open files" in str(error), error
                refused += 1
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            if pool is not None:
                pool.terminate()
                pool.join()
            del pool
            gc.collect()
            assert descriptors() == before, (spare, before, descriptors())
            assert children() == children_before, (spare, children())
        assert refused and worked, (refused, worked)
        print("all well")
"""


def test_too_few_descriptors_are_a_clear_error_and_leave_nothing(start_method, tmp_path):
    program = run_program(tmp_path, FEW_DESCRIPTORS, start_method)
    assert program.stdout() == "all well\n"
    assert program.stderr() == ""


# ---------------------------------------------------------------------------------------------------------------------
# Large results.


def test_many_huge_results_come_back_whole(start_method):
    size = 20_000_000
    with open_pool(start_method) as pool:
        iterator = pool.imap(functools.partial(tasks.make_bytes, size), range(8))
        for number in range(8):
            result = iterator.next(PATIENCE_SECONDS)
            assert len(result) == size
            assert result.count(number) == size
        results = [pool.apply_async(tasks.make_bytes, (size, number)) for number in range(4)]
        assert [set(get(result)[::1_000_003]) for result in results] == [{number} for number in range(4)]


def test_a_death_among_huge_results_costs_one(start_method):
    with open_pool(start_method) as pool:
        results = [pool.apply_async(fault_tasks.huge_or_deadly_at_five, (x,)) for x in range(12)]
        got = [get(result) for result in results]
        assert [x for x, item in enumerate(got) if isinstance(item, mp.WorkerDied)] == [5]
        assert all(len(item) == 5_000_000 and item[-1] == x for x, item in enumerate(got) if x != 5)
        assert_pool_is_whole(pool)


def test_a_worker_killed_while_it_publishes_a_huge_result_fails_only_its_own_task(start_method):
    generator = random.Random(5)
    with open_pool(start_method) as pool:
        hunter = WorkerHunter(pool, 2)
        failed = 0
        for round_number in itertools.count():
            results = [pool.apply_async(tasks.make_bytes, (4_000_000, x)) for x in range(6)]
            time.sleep(generator.uniform(0.0, 0.02))
            victims = hunter.workers()
            if victims:
                generator.choice(victims).kill()
            got = [get(result) for result in results]
            errors = [item for item in got if isinstance(item, BaseException)]
            assert len(errors) <= 1, errors
            assert all(type(error) is mp.WorkerDied for error in errors), errors
            failed += len(errors)
            assert all(item in errors or item == tasks.make_bytes(4_000_000, x) for x, item in enumerate(got))
            if round_number >= 15:
                break
        assert_pool_is_whole(pool)


def test_hang_is_not_what_the_tests_call_a_result():
    # A guard for the guards: a timeout of the test's own must not be taken for an outcome.
    with pytest.raises(Hang):
        outcome(lambda: (_ for _ in ()).throw(mp.TimeoutError()))
