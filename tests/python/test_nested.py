"""Pools in tasks of other pools: they share the CPUs, get in nobody's way, and end with their worker."""

import nested_tasks
from harness import Process, get, open_pool, pool_tests, promised_by_us_only, wait_for_file, wait_until_gone

pytestmark = [*pool_tests, promised_by_us_only]


def cpus():
    with open_pool("fork", None) as pool:
        return pool._processes


def test_a_pool_in_a_task_has_its_workers_share_of_the_cpus(start_method):
    with open_pool(start_method, 2) as pool:
        assert pool.map(nested_tasks.size_of_inner_pool, [start_method] * 2) == [max(1, cpus() // 2)] * 2
    with open_pool(start_method, 1) as pool:
        assert pool.apply(nested_tasks.size_of_inner_pool, (start_method,)) == cpus()
        # A worker of a worker has a share of a share; whoever says how many gets as many.
        assert pool.apply(nested_tasks.size_of_inner_pool, (start_method, 3)) == 3


def test_pools_in_all_tasks_of_a_pool_get_their_work_done(start_method):
    with open_pool(start_method, 4) as pool:
        assert pool.map(nested_tasks.sum_of_squares_by_inner_pool, range(8), 1) == [
            sum(x * x for x in range(n)) for n in range(8)
        ]


def test_an_inner_pool_ends_with_its_worker(start_method, tmp_path):
    path = str(tmp_path / "inner")
    with open_pool(start_method, 1) as pool:
        result = pool.apply_async(nested_tasks.hold_inner_pool, (path,))
        inner = [Process(int(pid)) for pid in wait_for_file(path).split()]
        assert len(inner) == 2 and all(process.is_alive() for process in inner)
        result.cancel()
        assert isinstance(get(result), BaseException)
        wait_until_gone(inner)
