"""Things that pickle badly, each in its own way, and values with a will of their own about how they are pickled."""

import collections
import copyreg
import functools
import os
import sys
import threading
from dataclasses import dataclass

from fault_tasks import sigkill_self
from tasks import add

# ---------------------------------------------------------------------------------------------------------------------
# Things that pickle badly.


class FailsToPickle:
    def __reduce__(self):
        raise RuntimeError("refuses to be pickled")


class FailsToUnpickle:
    """Can be pickled, but raises wherever it is rebuilt."""

    def __reduce__(self):
        return _raise_while_rebuilding, ()


def _raise_while_rebuilding():
    raise RuntimeError("refuses to be rebuilt")


class DiesWhileUnpickled:
    def __reduce__(self):
        return sigkill_self, ()


class UnpicklesOnlyIn:
    """Can be rebuilt in the process with this pid alone."""

    def __init__(self, pid):
        self.pid = pid

    def __reduce__(self):
        return _rebuild_only_in, (self.pid,)


def _rebuild_only_in(pid):
    if os.getpid() != pid:
        raise RuntimeError(f"refuses to be rebuilt outside of {pid}")
    return UnpicklesOnlyIn(pid)


class ExitsWhileUnpickled:
    """Raises SystemExit while it is rebuilt: user code that the machinery must survive."""

    def __reduce__(self):
        return sys.exit, (5,)


class UnpicklableError(Exception):
    """Cannot be sent: it carries a lock."""

    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()


class UnrebuildableError(Exception):
    """Pickles well, but cannot be rebuilt from what pickle kept: the classic mistake."""

    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")


def return_unpicklable(_item=None):
    return FailsToPickle()


class Caller:
    """Calls a function; has state, so that it travels with each task."""

    def __init__(self, function):
        self.function = function

    def __call__(self):
        return self.function()


def return_unrebuildable(_item=None):
    return FailsToUnpickle()


def return_rebuildable_only_here(_item=None):
    return UnpicklesOnlyIn(os.getpid())


def return_exits_while_unpickled(_item=None):
    return ExitsWhileUnpickled()


def return_generator(_item=None):
    return (number for number in ())


def raise_unpicklable_error(_item=None):
    raise UnpicklableError("carries a lock")


def raise_unrebuildable_error(_item=None):
    raise UnrebuildableError(7, "cannot come back")


def return_unpicklable_at_thirteen(x):
    return FailsToPickle() if x == 13 else x * x


def return_unrebuildable_at_thirteen(x):
    return FailsToUnpickle() if x == 13 else x * x


def raise_unpicklable_error_at_thirteen(x):
    return raise_unpicklable_error() if x == 13 else x * x


def raise_unrebuildable_error_at_thirteen(x):
    return raise_unrebuildable_error() if x == 13 else x * x


def square_of(value):
    """Squares a number; takes whatever else arrives for the poison that should not have arrived."""
    if not isinstance(value, int):
        raise AssertionError(f"{value!r} was rebuilt in the worker")
    return value * value


# ---------------------------------------------------------------------------------------------------------------------
# Values with a will of their own about how they are pickled.


class IntSubclass(int):
    pass


class BytesSubclass(bytes):
    pass


class StrSubclass(str):
    pass


class TupleSubclass(tuple):
    pass


class FloatSubclass(float):
    pass


Point = collections.namedtuple("Point", "x y")


@dataclass
class Record:
    name: str
    values: list
    parent: object = None


class ReducedByCopyreg:
    def __init__(self, value):
        self.value = value


class ReducedByForkingPickler:
    def __init__(self, value):
        self.value = value


class Opaque:
    """Cannot be pickled at all until somebody registers a reducer for it."""

    def __init__(self, value):
        self.value = value
        self.lock = threading.Lock()


def _rebuild_by_copyreg(value):
    return ReducedByCopyreg(f"{value}, by copyreg")


def _reduce_by_copyreg(instance):
    return _rebuild_by_copyreg, (instance.value,)


def _rebuild_by_forking_pickler(value):
    return ReducedByForkingPickler(f"{value}, by ForkingPickler")


def _reduce_by_forking_pickler(instance):
    return _rebuild_by_forking_pickler, (instance.value,)


def _reduce_opaque(instance):
    return Opaque, (instance.value,)


def register_reducers():
    """Registers both kinds of reducers, in the caller and (as initializer) in the workers."""
    from multiprocessing.reduction import ForkingPickler

    copyreg.pickle(ReducedByCopyreg, _reduce_by_copyreg)
    ForkingPickler.register(ReducedByForkingPickler, _reduce_by_forking_pickler)
    ForkingPickler.register(Opaque, _reduce_opaque)


def value_of(instance):
    return instance.value


def opaque(value):
    return Opaque(value)


class Counter:
    """State that must travel as it is at each call."""

    def __init__(self, start):
        self.value = start

    def plus(self, n):
        return self.value + n

    def __call__(self, n):
        return self.value * n

    @classmethod
    def made_by_class(cls, n):
        return cls(n).value

    @staticmethod
    def static(n):
        return n + 1


add_five = functools.partial(add, 5)


def same_object(a, b):
    return a is b


def shares_element(pair):
    return pair[0] is pair[1]


def append_to_both(pair):
    pair[0].append("new")
    return pair


def type_and_repr(value):
    return type(value).__name__, repr(value)


def repr_of_all(*values):
    return [(type(value).__name__, repr(value)) for value in values]
