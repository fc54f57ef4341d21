"""Managers serve our pools, and everything else as multiprocessing's do, over all start methods."""

import multiprocessing
import multiprocessing.managers
import os
import signal
import threading
import time

import fault_tasks
import pytest
import tasks
from harness import PATIENCE_SECONDS, pool_tests, promised_by_us_only

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
            pool.apply(fault_tasks.sigkill_self)
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


def take_and_die(lock, taken):
    lock.acquire()
    taken.set()
    os.kill(os.getpid(), signal.SIGKILL)


def take_and_wait(lock, taken, may_go):
    lock.acquire()
    taken.set()
    may_go.wait(PATIENCE_SECONDS)
    lock.release()


def wait_for_it(lock):
    lock.acquire()


@promised_by_us_only
@pytest.mark.parametrize("kind", ["Lock", "RLock", "Condition"])
def test_a_client_that_is_killed_with_a_lock_leaves_it_to_the_next(context, kind):
    with context.Manager() as manager:
        lock, taken = getattr(manager, kind)(), manager.Event()
        for _ in range(3):
            taken.clear()
            process = context.Process(target=take_and_die, args=(lock, taken))
            process.start()
            assert taken.wait(PATIENCE_SECONDS)
            assert lock.acquire(True, PATIENCE_SECONDS)
            process.join()
            assert process.exitcode == -signal.SIGKILL
            lock.release()
        with pytest.raises((RuntimeError, ValueError)):
            lock.release()


@promised_by_us_only
def test_a_client_that_is_killed_while_it_waits_takes_nothing_along(context):
    with context.Manager() as manager:
        lock = manager.Lock()
        with lock:
            process = context.Process(target=wait_for_it, args=(lock,))
            process.start()
            time.sleep(0.2)
            process.kill()
            process.join()
        # The manager's thread may take it for the dead one first.
        for _ in range(3):
            assert lock.acquire(True, PATIENCE_SECONDS)
            lock.release()


def test_a_lock_of_a_living_client_is_never_taken_over(context):
    with context.Manager() as manager:
        lock, taken, may_go = manager.Lock(), manager.Event(), manager.Event()
        process = context.Process(target=take_and_wait, args=(lock, taken, may_go))
        process.start()
        assert taken.wait(PATIENCE_SECONDS)
        assert not lock.acquire(False)
        assert not lock.acquire(True, 0.3)
        may_go.set()
        assert lock.acquire(True, PATIENCE_SECONDS)
        process.join()
        lock.release()


def test_another_thread_may_release_a_managed_lock(context):
    with context.Manager() as manager:
        lock = manager.Lock()
        for target in (lock.acquire, lock.release):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
        assert lock.acquire(False)
        assert not lock.acquire(True, 0.2)
        lock.release()


def test_managed_locks_refuse_what_threads_locks_refuse(context):
    with context.Manager() as manager:
        for lock in (manager.Lock(), manager.RLock()):
            with pytest.raises(RuntimeError):
                lock.release()
        lock = manager.Lock()
        with pytest.raises(ValueError, match="timeout"):
            lock.acquire(False, 1)
        with pytest.raises(ValueError, match="timeout"):
            lock.acquire(True, -2)
        recursive = manager.RLock()
        assert recursive.acquire() and recursive.acquire(False)
        recursive.release()
        recursive.release()
