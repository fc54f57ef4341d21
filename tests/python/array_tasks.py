"""Tasks on numpy arrays, apart from the others so that only workers who need numpy import it."""

import hashlib

import numpy as np

_kept = {}


def array_sum(array):
    return array.sum()


def identity(array):
    return array


def doubled(array):
    return array * 2


def add_one_in_place(array):
    """Writes into its argument, and tells what it looked like before and after."""
    before = array.copy()
    array += 1
    return bool((array == before + 1).all())


def add_one_and_return(array):
    array += 1
    return array


def filled(size_bytes, value):
    return np.full(size_bytes // 8, value, dtype=np.int64)


def filled_or_deadly(size_bytes, value):
    if value == 5:
        import fault_tasks

        fault_tasks.sigkill_self()
    return filled(size_bytes, value)


def describe(array):
    """What a receiver can see of an array apart from its type."""
    return {
        "dtype": array.dtype.str,
        "shape": array.shape,
        "c_contiguous": array.flags.c_contiguous,
        "f_contiguous": array.flags.f_contiguous,
        "writeable": array.flags.writeable,
        "digest": digest(array),
    }


def digest(array):
    return hashlib.blake2b(np.ascontiguousarray(array).view(np.uint8).tobytes()).hexdigest()


def keep(name, array):
    """Holds on to the array after the task's end."""
    _kept[name] = array
    return digest(array)


def digest_of_kept(name):
    return digest(_kept[name])


def keep_and_return(name, array):
    _kept[name] = array
    return array


def add_one_to_kept(name):
    _kept[name] += 1
    return digest(_kept[name])


def same_object(a, b):
    return a is b


def type_name_and_bytes(value):
    return type(value).__name__, bytes(value)


def write_first_byte(buffer):
    memoryview(buffer).cast("B")[0] = 255
    return bytes(memoryview(buffer).cast("B")[:2])


def sums(container):
    """Of all arrays in a nest of containers."""
    if isinstance(container, np.ndarray):
        return [int(container.sum())]
    values = container.values() if isinstance(container, dict) else container
    return [total for value in values for total in sums(value)]
