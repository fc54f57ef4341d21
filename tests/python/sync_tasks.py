"""What the processes of the lock tests do: kept in a module of its own, as spawned processes import it."""

import logging
import os
import signal
import threading
import time

import procession as mp


def die():
    """Ends this process as a machine out of memory would."""
    os.kill(os.getpid(), signal.SIGKILL)


def hold(lock, held):
    """Takes the lock and keeps it."""
    lock.acquire()
    held.set()
    time.sleep(3600)


def hold_in_with(lock, held):
    """Takes the lock as a context manager and keeps it."""
    with lock:
        held.set()
        time.sleep(3600)


def take_and_die(lock):
    """Dies with the lock."""
    lock.acquire()
    die()


def take(lock, taken):
    """Takes the lock when it may, and says so."""
    with lock:
        pass
    taken.release()


def increment(value, rounds):
    """Counts under the value's own lock."""
    for _ in range(rounds):
        with value.get_lock():
            value.value += 1


def wait_for_condition(condition, waiting, woken):
    """Waits to be notified."""
    with condition:
        waiting.release()
        condition.wait()
        woken.release()


def notify_and_die(condition, count):
    """Notifies, and dies before it can release the lock."""
    condition.acquire()
    condition.notify(count)
    die()


def wait_for_event(event, waiting, woken):
    """Waits for the flag."""
    waiting.release()
    event.wait()
    woken.release()


def set_and_die(event):
    """Sets the flag, and dies."""
    event.set()
    die()


def pass_barrier(barrier, waiting, outcomes):
    """Waits in the barrier, and tells how that went: 1 passed, 2 broken."""
    waiting.release()
    try:
        barrier.wait()
        outcome = 0
    except threading.BrokenBarrierError:
        outcome = 1
    # All of them come out of it at once.
    with outcomes.get_lock():
        outcomes[outcome] += 1


def wait_crosswise(first, second, mine_held, others_held, answers, number):
    """Takes one lock, then wants the other: tells 1 if it got it, 2 if that was a deadlock."""
    with first:
        mine_held.set()
        others_held.wait()
        try:
            with second:
                answers[number] = 1
        except mp.DeadlockError as error:
            assert {member["pid"] for member in error.cycle} >= {os.getpid()}
            assert all(member["place"].startswith("sync_tasks.py:") for member in error.cycle if member["lock"])
            answers[number] = 2


def wait_crosswise_by_acquire(first, second, mine_held, others_held, answers, number):
    """The same without `with`."""
    first.acquire()
    mine_held.set()
    others_held.wait()
    try:
        second.acquire()
    except mp.DeadlockError:
        answers[number] = 2
    else:
        answers[number] = 1
        second.release()
    first.release()


def want(lock, answers):
    """Wants a lock which the parent holds while it joins: tells 1 or 2 as above."""
    try:
        with lock:
            answers[0] = 1
    except mp.DeadlockError as error:
        assert [member["lock"] is None for member in error.cycle] == [False, True]
        answers[0] = 2


def ping(mine, other, rounds):
    """Takes turns with another process: each opens the other's gate."""
    for _ in range(rounds):
        mine.acquire()
        other.release()


def change_all(values):
    """Changes what was handed on."""
    for value, changed in values:
        value.value = changed


def run_lock_storm(lock, recursive, semaphore, condition, event, pair, counts, deadline):
    """Uses everything in turn until the time is over, or it is killed."""
    # That owners die is what this is about; nobody wants to read it.
    logging.getLogger("procession").setLevel(logging.ERROR)
    while time.monotonic() < deadline:
        with lock:
            pair[0] += 1
            # Long enough for the killer to come in between.
            time.sleep(0.001)
            pair[1] += 1
        with recursive, recursive:
            counts[0] += 1
            time.sleep(0.001)
        if semaphore.acquire(timeout=0.001):
            semaphore.release()
        with condition:
            condition.notify(2)
            condition.wait(0.002)
        event.set()
        event.wait(0.001)
        event.clear()
