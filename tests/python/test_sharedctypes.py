"""Values and arrays in shared memory: the objects that the standard library gives, in our memory."""

import ctypes
import multiprocessing
import multiprocessing.sharedctypes

import pytest
import sync_tasks
from harness import run_program

import procession as mp
from procession import sharedctypes


class Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_int), ("y", ctypes.c_double)]


class Doubled(ctypes.c_int):
    """A subclass for which `value` means something else."""

    @property
    def value(self):
        return ctypes.c_int.value.__get__(self) * 2


def outcome(function):
    try:
        return function()
    except Exception as error:
        return type(error), str(error)


@pytest.mark.parametrize("code", [code for code in sharedctypes.typecode_to_type if code not in "cu"])
@pytest.mark.parametrize("value", [0, 1, -1, 255, 2**15, -(2**31), 2**40, 2**63, 2**64 + 3, 1.5, True, "1", None])
def test_values_take_and_give_what_the_standard_librarys_do(code, value):
    ours, theirs = mp.Value(code), multiprocessing.Value(code)

    def assign(shared):
        shared.value = value
        return shared.value

    assert outcome(lambda: assign(ours)) == outcome(lambda: assign(theirs))
    assert type(ours.value) is type(theirs.value)


def test_value_of_a_subclass_is_what_the_subclass_says():
    assert mp.Value(Doubled, 4).value == 8


def test_value_with_a_lock_of_another_kind():
    for lock in (mp.Lock(), multiprocessing.RLock()):
        value = mp.Value("i", 1, lock=lock)
        value.value += 1
        assert value.value == 2 and value.get_lock() is lock
        with value:
            assert lock.acquire(False) is ("RLock" in repr(lock))
    with pytest.raises(AttributeError, match="'navalue' has no method 'acquire'"):
        mp.Value("i", 1, lock="navalue")
    assert not hasattr(mp.Value("i", lock=False), "get_lock")


def test_arrays_are_guarded_and_sliced():
    array = mp.Array("i", [1, 2, 3])
    assert len(array) == 3 and array[1] == 2 and array[:] == [1, 2, 3] and list(array) == [1, 2, 3]
    array[1:] = [5, 6]
    assert array.get_obj()[:] == [1, 5, 6]
    assert mp.Array("d", 4)[:] == [0.0] * 4 and len(mp.Array("i", 0)) == 0
    with pytest.raises(IndexError):
        array[3]
    text = mp.Array("c", 10)
    text.value = b"hello"
    assert text.value == b"hello" and text.raw == b"hello" + bytes(5) and text[0] == b"h"
    assert not hasattr(array, "value")


def test_structures_are_guarded_field_by_field():
    point = mp.Value(Point, 3, 0.5)
    point.x += 1
    assert (point.x, point.y, type(point).__name__) == (4, 0.5, "SynchronizedPoint")
    copied = sharedctypes.copy(point.get_obj())
    point.x = 0
    assert copied.x == 4


def test_reprs_and_guards():
    assert repr(mp.Value("i", 3)) == "<Synchronized wrapper for c_int(3)>"
    with pytest.raises(AssertionError, match="object already synchronized"):
        sharedctypes.synchronized(mp.Value("i"))
    with pytest.raises(ValueError):
        mp.RawArray("i", -1)
    with pytest.raises((MemoryError, OverflowError, OSError, ValueError)):
        mp.RawArray("b", 2**60)


def test_an_array_beyond_all_memory_is_an_error_and_nobody_is_killed_for_it(tmp_path):
    program = run_program(
        tmp_path,
        """
        # Should the system look for somebody to kill after all, it is this program.
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")

        import procession as mp

        try:
            mp.Array("b", 1 << 45)
        except MemoryError as error:
            print(error)
        print(len(mp.Array("b", 1 << 20)))
        """,
    )
    assert program.lines() == [f"no room for {1 << 45} bytes of shared memory: out of memory", str(1 << 20)]


def test_values_and_arrays_are_changed_by_a_child(context):
    raw, plain, text = context.RawValue("d", 1.5), context.Value("h", 3), context.Array("c", 8)
    process = context.Process(target=sync_tasks.change_all, args=([(raw, 2.5), (plain, -7), (text, b"changed")],))
    process.start()
    process.join()
    assert (process.exitcode, raw.value, plain.value, text.value) == (0, 2.5, -7, b"changed")


def test_objects_of_the_standard_librarys_module_are_still_handed_on(context):
    # Both modules tell the pickler how a c_int travels, and whoever did last must know the other's, too.
    theirs, ours = multiprocessing.sharedctypes.RawValue("i", 1), context.RawValue("i", 1)
    theirs_again = multiprocessing.sharedctypes.RawValue("i", 1)
    values = [(theirs, 2), (ours, 3), (theirs_again, 4)]
    process = context.Process(target=sync_tasks.change_all, args=(values,))
    process.start()
    process.join()
    assert (process.exitcode, [value.value for value, _ in values]) == (0, [2, 3, 4])
