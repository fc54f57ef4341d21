"""Locks, semaphores, conditions, events and barriers: what they do, and what happens when those who use them are killed."""

import contextlib
import logging
import multiprocessing
import os
import pickle
import signal
import threading
import time

import pytest
import sync_tasks
from harness import run_program

import procession as mp
from procession import synchronize

PATIENCE_SECONDS = 20

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@contextlib.contextmanager
def started(context, *targets):
    """Processes that run these (function, arguments…), killed at the end if need be."""
    processes = [context.Process(target=target, args=arguments) for target, *arguments in targets]
    try:
        for process in processes:
            process.start()
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()
            process.close()


def acquire(lock_or_semaphore):
    assert lock_or_semaphore.acquire(timeout=PATIENCE_SECONDS), "nobody released it"


# --- semantics -----------------------------------------------------------------------------------------------------


def test_lock_is_taken_once_and_released_by_anybody():
    lock = mp.Lock()
    assert lock.acquire() is True
    assert lock.acquire(False) is False
    assert lock.acquire(timeout=0.01) is False
    assert lock.acquire(True, -1) is False
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    assert not lock.locked()
    with pytest.raises(ValueError, match="^semaphore or lock released too many times$"):
        lock.release()


def test_errors_of_the_system_have_their_numbers(tmp_path):
    program = run_program(
        tmp_path,
        """
        import errno, os, resource

        import procession as mp
        from procession import sharedctypes, synchronize

        soft = len(os.listdir("/proc/self/fd")) + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        taken = [os.dup(0), os.dup(0)]
        for make in (
            mp.Lock, mp.RLock, mp.Semaphore, mp.Event, mp.Condition, lambda: mp.Barrier(2), lambda: mp.RawValue("i"),
        ):
            try:
                make()
            except OSError as error:
                assert error.errno == errno.EMFILE, error
                assert str(error) == "[Errno 24] Too many open files", error
            else:
                raise AssertionError(f"{make} needs no descriptor")
        os.close(taken.pop())
        for bad in (-1, 1 << 31):
            try:
                mp.Semaphore(bad)
            except OSError as error:
                print(error)
        """,
    )
    assert program.lines() == ["[Errno 22] Invalid argument"] * 2


def test_rlock_is_released_as_often_as_it_was_taken_by_its_owner():
    lock = mp.RLock()
    assert [lock.acquire() for _ in range(3)] == [True, True, True]
    outcomes = []

    def other():
        outcomes.append(lock.acquire(False))
        with pytest.raises(AssertionError, match="^attempt to release recursive lock not owned by thread$"):
            lock.release()

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert outcomes == [False]
    for _ in range(3):
        assert lock.locked()
        lock.release()
    with pytest.raises(AssertionError):
        lock.release()


def test_context_managers_give_what_the_standard_librarys_give():
    for made in (mp.Lock(), mp.RLock(), mp.Semaphore(), mp.BoundedSemaphore(), mp.Condition(), mp.Value("i")):
        with made as entered:
            assert entered is True


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition"])
def test_reprs_are_the_standard_librarys(kind):
    ours, theirs = getattr(mp, kind)(), getattr(multiprocessing, kind)()
    assert repr(ours) == repr(theirs)
    for depth in range(2 if "R" in kind else 1):
        ours.acquire(), theirs.acquire()
        assert repr(ours) == repr(theirs), depth
    seen = []
    thread = threading.Thread(target=lambda: seen.append((repr(ours), repr(theirs))), name="other")
    thread.start()
    thread.join()
    assert seen[0][0] == seen[0][1]


def test_semaphores_count_and_have_limits():
    semaphore = mp.Semaphore(2)
    assert (semaphore.get_value(), semaphore.acquire(), semaphore.acquire(), semaphore.acquire(False)) == (
        2,
        True,
        True,
        False,
    )
    for value in (1, 2, 3):
        semaphore.release()
        assert semaphore.get_value() == value
    bounded = mp.BoundedSemaphore(1)
    with pytest.raises(ValueError, match="^semaphore or lock released too many times$"):
        bounded.release()
    assert mp.Semaphore(0).locked() and synchronize.SEM_VALUE_MAX == multiprocessing.synchronize.SEM_VALUE_MAX
    for value in (-1, synchronize.SEM_VALUE_MAX + 1):
        with pytest.raises((OSError, OverflowError)):
            mp.Semaphore(value)


def test_condition_checks_who_has_its_lock():
    condition = mp.Condition()
    with pytest.raises(AssertionError, match=r"^must acquire\(\) condition before using wait\(\)$"):
        condition.wait()
    with pytest.raises(AssertionError, match="^lock is not owned$"):
        condition.notify()
    with condition:
        assert condition.wait(0.01) is False
        assert condition.wait_for(lambda: 5) == 5
        assert condition.wait_for(lambda: [], timeout=0.02) == []


def test_condition_takes_another_lock_theirs_too():
    for lock in (mp.Lock(), mp.RLock(), multiprocessing.Lock()):
        condition = mp.Condition(lock)
        with condition, pytest.raises(AssertionError):
            mp.Condition(mp.Lock()).wait()
        with condition:
            assert condition.wait(0.001) is False


def test_recursive_lock_is_given_away_and_taken_back_whole_by_a_wait():
    condition = mp.Condition()
    with condition, condition:
        assert condition.wait(0.001) is False
        assert condition._lock._count() == 2


def test_event_repr_and_flag():
    event = mp.Event()
    assert repr(event).endswith(" unset>") and event.wait(0.001) is False
    event.set()
    assert repr(event).endswith(" set>") and event.wait() is True and event.is_set()
    event.clear()
    assert not event.is_set()


def test_barrier_of_threads_runs_its_action_and_breaks_at_a_timeout():
    ran = []
    barrier = mp.Barrier(2, action=lambda: ran.append(1))
    numbers = []
    thread = threading.Thread(target=lambda: numbers.append(barrier.wait()))
    thread.start()
    numbers.append(barrier.wait())
    thread.join()
    assert sorted(numbers) == [0, 1] and ran == [1] and barrier.n_waiting == 0
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(0.01)
    assert barrier.broken
    barrier.reset()
    assert not barrier.broken and isinstance(barrier, threading.Barrier)


@pytest.mark.parametrize("make", [mp.Lock, mp.RLock, mp.Semaphore, mp.Condition, mp.Event, lambda: mp.Value("i")])
def test_handing_on_is_by_inheritance_alone(make):
    with pytest.raises(RuntimeError, match="should only be shared between processes through inheritance"):
        pickle.dumps(make())


def test_objects_of_one_context_may_be_handed_to_a_process_of_another():
    for maker, user in (("fork", "spawn"), ("forkserver", "fork"), ("fork", "forkserver")):
        value = mp.get_context(maker).Value("i", 0)
        process = mp.get_context(user).Process(target=sync_tasks.increment, args=(value, 5))
        process.start()
        process.join()
        assert (process.exitcode, value.value) == (0, 5)


def test_locks_reach_the_workers_of_a_pool(context):
    value = context.Value("i", 0)
    with context.Pool(2, initializer=sync_tasks.increment, initargs=(value, 100)) as pool:
        pool.map(abs, range(10))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while value.value < 200 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert value.value == 200


def test_increments_are_not_lost(context):
    value = context.Value("q", 0)
    targets = [(sync_tasks.increment, value, 2000)] * 3
    with started(context, *targets) as processes:
        for process in processes:
            process.join()
    assert value.value == 6000


def test_ctrl_c_ends_every_wait():
    lock, semaphore, condition, event = mp.Lock(), mp.Semaphore(0), mp.Condition(), mp.Event()
    lock.acquire()

    def wait_for_notification():
        with condition:
            condition.wait()

    for wait in (lock.acquire, semaphore.acquire, event.wait, wait_for_notification, mp.Barrier(2).wait):
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            wait()
        timer.join()
    # The condition's lock was taken back and released, and nobody is left in the queue.
    with condition:
        assert repr(condition).endswith(", 0)>")


def test_nothing_is_left_in_dev_shm_and_no_descriptor():
    before = set(os.listdir("/dev/shm")), len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        made = [mp.Lock(), mp.Event(), mp.Condition(), mp.Barrier(2), mp.Value("d"), mp.Array("i", 100_000)]
        del made
    assert (set(os.listdir("/dev/shm")), len(os.listdir("/proc/self/fd"))) == before


# --- death ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_lock_of_a_killed_process_goes_to_the_next_who_asks(context, kind, caplog):
    lock, held, taken = getattr(context, kind)(), context.Event(), context.Semaphore(0)
    with started(context, (sync_tasks.hold, lock, held)) as [holder]:
        assert held.wait(PATIENCE_SECONDS)
        assert lock.acquire(False) is False
        # Somebody waits already when the holder dies.
        with started(context, (sync_tasks.take, lock, taken)):
            assert not taken.acquire(timeout=0.1)
            holder.kill()
            acquire(taken)
        assert lock.owner_deaths == 1
        held.clear()
        with started(context, (sync_tasks.hold_in_with, lock, held)) as [holder]:
            assert held.wait(PATIENCE_SECONDS)
            holder.kill()
            holder.join()
            with caplog.at_level(logging.WARNING, "procession"):
                acquire(lock)
            assert f"process {holder.pid} died while it held the {kind} made at test_synchronize.py:" in caplog.text
    assert lock.owner_deaths == 2
    assert lock._is_mine() and lock._count() == 1
    lock.release()


def test_lock_of_the_dead_is_had_by_an_attempt_that_does_not_wait():
    context = mp.get_context("fork")
    lock = context.Lock()
    with started(context, (sync_tasks.take_and_die, lock)) as [holder]:
        holder.join()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not lock.acquire(False):
            assert time.monotonic() < deadline
        assert lock.acquire(timeout=0) is False


def test_condition_outlives_a_killed_waiter_whose_notification_goes_to_the_next(context):
    condition, waiting, woken = context.Condition(), context.Semaphore(0), context.Semaphore(0)
    target = (sync_tasks.wait_for_condition, condition, waiting, woken)
    with started(context, target) as [first]:
        acquire(waiting)
        with condition:
            pass  # Now it waits.
        with started(context, target):
            acquire(waiting)
            first.kill()
            first.join()
            with condition:
                condition.notify(1)
            acquire(woken)
    with condition:
        assert condition._sleeping_count.get_value() == 0


def test_condition_outlives_a_killed_notifier(context):
    condition, waiting, woken = context.Condition(), context.Semaphore(0), context.Semaphore(0)
    target = (sync_tasks.wait_for_condition, condition, waiting, woken)
    with started(context, target, target) as waiters:
        acquire(waiting), acquire(waiting)
        with condition:
            pass
        with started(context, (sync_tasks.notify_and_die, condition, 2)) as [notifier]:
            notifier.join()
            assert notifier.exitcode == -signal.SIGKILL
        acquire(woken), acquire(woken)
        for waiter in waiters:
            waiter.join()
    assert condition._lock.owner_deaths == 1


def test_event_outlives_who_set_it(context):
    event, waiting, woken = context.Event(), context.Semaphore(0), context.Semaphore(0)
    with started(context, (sync_tasks.wait_for_event, event, waiting, woken)):
        acquire(waiting)
        with started(context, (sync_tasks.set_and_die, event)):
            acquire(woken)
    assert event.wait(PATIENCE_SECONDS)


def test_barrier_breaks_if_a_party_is_killed_in_it_and_can_be_reset(context):
    barrier, waiting, outcomes = context.Barrier(3), context.Semaphore(0), context.Array("i", 2)
    target = (sync_tasks.pass_barrier, barrier, waiting, outcomes)
    with started(context, target, target) as [victim, other]:
        acquire(waiting), acquire(waiting)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while barrier.n_waiting < 2:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        victim.kill()
        other.join()
    assert outcomes[:] == [0, 1] and barrier.broken
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()
    barrier.reset()
    with started(context, target, target):
        assert barrier.wait(PATIENCE_SECONDS) in range(3)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while outcomes[:] != [2, 1]:
            assert time.monotonic() < deadline
            time.sleep(0.005)


# --- deadlock ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [("Lock", "Lock"), ("RLock", "Lock"), ("RLock", "RLock")])
def test_locks_taken_crosswise_raise_in_one_of_the_two(context, kinds):
    first, second = (getattr(context, kind)() for kind in kinds)
    one, two, answers = context.Event(), context.Event(), context.Array("i", 2)
    with started(
        context,
        (sync_tasks.wait_crosswise, first, second, one, two, answers, 0),
        (sync_tasks.wait_crosswise, second, first, two, one, answers, 1),
    ) as processes:
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(answers) == [1, 2]


def test_locks_taken_crosswise_without_with_raise_too():
    context = mp.get_context("fork")
    first, second = context.Lock(), context.Lock()
    one, two, answers = context.Event(), context.Event(), context.Array("i", 2)
    with started(
        context,
        (sync_tasks.wait_crosswise_by_acquire, first, second, one, two, answers, 0),
        (sync_tasks.wait_crosswise_by_acquire, second, first, two, one, answers, 1),
    ) as processes:
        for process in processes:
            process.join()
    assert sorted(answers) == [1, 2]


def test_joining_a_process_that_waits_for_a_lock_held_here_raises_there(context):
    lock, answers = context.Lock(), context.Array("i", 1)
    # Held before there is anybody to want it.
    with lock, started(context, (sync_tasks.want, lock, answers)) as [process]:
        process.join()
        assert (process.exitcode, answers[0]) == (0, 2)


def test_threads_deadlock_as_processes_do():
    first, second = mp.Lock(), mp.RLock()
    both = threading.Barrier(2)
    errors = []

    def crosswise(mine, other):
        with mine:
            both.wait()
            try:
                with other:
                    pass
            except mp.DeadlockError as error:
                errors.append(error)

    threads = [threading.Thread(target=crosswise, args=locks) for locks in ((first, second), (second, first))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [error] = errors
    assert isinstance(error, mp.ProcessError) and str(error).startswith("deadlock: MainProcess (pid ")
    assert [member["pid"] for member in error.cycle] == [os.getpid()] * 2
    assert {member["lock"].split()[0] for member in error.cycle} == {"Lock", "RLock"}
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.cycle) == (str(error), error.cycle)


def test_lock_that_is_waited_for_inside_its_own_with_raises():
    lock = mp.Lock()
    with lock, pytest.raises(mp.DeadlockError, match="waits for the Lock made at test_synchronize.py:"):
        lock.acquire()
    assert not lock.locked()


def test_lock_that_another_will_release_is_no_deadlock():
    lock = mp.Lock()
    lock.acquire()
    timer = threading.Timer(1.5, lock.release)
    timer.start()
    assert lock.acquire() is True
    timer.join()


def test_locks_that_serve_as_gates_are_no_deadlock():
    # Whoever holds a gate shut will not open it; somebody else does.
    context = mp.get_context("fork")
    one, two = context.Lock(), context.Lock()
    two.acquire()
    with started(context, (sync_tasks.ping, one, two, 20), (sync_tasks.ping, two, one, 20)) as processes:
        for process in reversed(processes):
            process.join()
        assert [process.exitcode for process in processes] == [0, 0]


def test_wait_with_a_time_limit_is_no_deadlock():
    lock = mp.Lock()
    with lock:
        assert lock.acquire(timeout=0.4) is False
