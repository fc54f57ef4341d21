"""What type checkers must understand of locks and shared values."""

import ctypes
from typing import Any

from typing_extensions import assert_type

import procession as mp
from procession.sharedctypes import Synchronized, SynchronizedArray, SynchronizedString
from procession.synchronize import Barrier, Condition, Event, Lock, RLock, Semaphore


def locks() -> None:
    lock = mp.Lock()
    assert_type(lock, Lock)
    assert_type(lock.acquire(timeout=1), bool)
    assert_type(lock.owner_deaths, int)
    assert_type(mp.RLock(), RLock)
    with lock as entered:
        assert_type(entered, bool)
    condition = mp.Condition(lock)
    assert_type(condition, Condition)
    assert_type(condition.wait_for(lambda: 5, timeout=0.5), int)
    assert_type(mp.get_context("spawn").Event(), Event)
    assert_type(mp.Semaphore(3), Semaphore)
    barrier = mp.Barrier(2, action=lambda: None)
    assert_type(barrier, Barrier)
    assert_type(barrier.wait(), int)


def values() -> None:
    number = mp.Value(ctypes.c_int, 5)
    assert_type(number, Synchronized[int])
    assert_type(number.value, int)
    assert_type(mp.Value("i"), Synchronized[Any])
    assert_type(mp.Value(ctypes.c_double, 0.5, lock=False), ctypes.c_double)
    array = mp.Array(ctypes.c_double, [1.0])
    assert_type(array, SynchronizedArray[float])
    assert_type(array[0], float)
    assert_type(mp.Array("c", 10), SynchronizedString)


def deadlocks(error: mp.DeadlockError) -> None:
    assert_type(error.cycle, list[dict[str, object]])
