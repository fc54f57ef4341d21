"""Managers serve our pools, and everything else as multiprocessing's do, over all start methods."""

import multiprocessing
import multiprocessing.managers

import pytest
import tasks
from harness import PATIENCE_SECONDS, pool_tests

import procession as mp
import procession.managers

pytestmark = pool_tests


def fill(shared, queue, lock, number):
    with lock:
        shared[number] = shared.get(number, 0) + 1
        shared["sum"] = shared.get("sum", 0) + number
    queue.put(number)


def test_processes_share_what_a_manager_lends_out(context):
    with context.Manager() as manager:
        shared, queue, lock = manager.dict(), manager.Queue(), manager.Lock()
        processes = [context.Process(target=fill, args=(shared, queue, lock, number)) for number in (1, 2, 3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(PATIENCE_SECONDS)
        assert dict(shared) == {1: 1, 2: 1, 3: 1, "sum": 6}
        assert sorted(queue.get(timeout=PATIENCE_SECONDS) for _ in range(3)) == [1, 2, 3]


def test_proxies_can_be_sent_to_the_tasks_of_a_pool(context):
    with context.Manager() as manager:
        shared, queue, lock = manager.dict(), manager.Queue(), manager.Lock()
        with context.Pool(2) as pool:
            pool.starmap(fill, [(shared, queue, lock, number) for number in range(6)])
        assert shared["sum"] == 15


def test_a_managers_pool_is_ours(context):
    with context.Manager() as manager:
        pool = manager.Pool(2)
        assert pool.map(tasks.double, [1, 2, 3]) == [2, 4, 6]
        assert list(pool.imap(tasks.double, [4, 5])) == [8, 10]
        assert pool.apply_async(tasks.double, (6,)).get(PATIENCE_SECONDS) == 12
        # A dead worker costs the task that it ran; multiprocessing's pool would wait for ever.
        with pytest.raises(mp.WorkerDied):
            pool.apply(tasks.sigkill_self)
        assert pool.apply(tasks.double, (7,)) == 14
        pool.terminate()
        pool.join()


def test_manager_classes_are_the_standard_librarys_or_derived_from_them(context):
    with context.Manager() as manager:
        assert issubclass(mp.managers.SyncManager, multiprocessing.managers.SyncManager)
        assert mp.managers.BaseManager is multiprocessing.managers.BaseManager
        assert mp.managers.DictProxy is multiprocessing.managers.DictProxy
        assert type(manager) is mp.managers.SyncManager
        assert type(manager.dict()) is multiprocessing.managers.DictProxy
        # What is registered with ours is not registered with theirs.
        assert multiprocessing.managers.SyncManager._registry["Pool"] != mp.managers.SyncManager._registry["Pool"]
