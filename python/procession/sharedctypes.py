"""Values and arrays in shared memory.

The names, arguments and errors are those of `multiprocessing.sharedctypes`, and so are the objects: ctypes', or ours around
them with a lock. They lie in anonymous shared memory, no file is behind them.
"""

import ctypes
import weakref
from multiprocessing import context as _stdlib_context
from multiprocessing.reduction import ForkingPickler

from . import _native
from . import context as _context

__all__ = ["RawValue", "RawArray", "Value", "Array", "copy", "synchronized"]

typecode_to_type = {
    "c": ctypes.c_char,
    "u": ctypes.c_wchar,
    "b": ctypes.c_byte,
    "B": ctypes.c_ubyte,
    "h": ctypes.c_short,
    "H": ctypes.c_ushort,
    "i": ctypes.c_int,
    "I": ctypes.c_uint,
    "l": ctypes.c_long,
    "L": ctypes.c_ulong,
    "q": ctypes.c_longlong,
    "Q": ctypes.c_ulonglong,
    "f": ctypes.c_float,
    "d": ctypes.c_double,
}

# The types whose value is a plain number: it is read and written without asking ctypes. A user's subclass of one may mean
# something else by `value`, and is not among them.
_NUMBERS = frozenset(typecode_to_type.values()) - {ctypes.c_char, ctypes.c_wchar}


def _new(type_):
    return rebuild_ctype(type_, _native.SharedBuffer(ctypes.sizeof(type_)), None)


def RawValue(typecode_or_type, *args):
    """Returns a ctypes object in shared memory, without a lock."""
    value = _new(typecode_to_type.get(typecode_or_type, typecode_or_type))
    value.__init__(*args)
    return value


def RawArray(typecode_or_type, size_or_initializer):
    """Returns a ctypes array in shared memory, without a lock: so many zeros, or the elements of a sequence."""
    type_ = typecode_to_type.get(typecode_or_type, typecode_or_type)
    if isinstance(size_or_initializer, int):
        return _new(type_ * size_or_initializer)
    array = _new(type_ * len(size_or_initializer))
    array.__init__(*size_or_initializer)
    return array


def Value(typecode_or_type, *args, lock=True, ctx=None):
    """Returns a value in shared memory with a lock around it: a new RLock, or the one given; none if `lock` is False."""
    return _locked(RawValue(typecode_or_type, *args), lock, ctx)


def Array(typecode_or_type, size_or_initializer, *, lock=True, ctx=None):
    """Returns an array in shared memory with a lock around it: a new RLock, or the one given; none if `lock` is False."""
    return _locked(RawArray(typecode_or_type, size_or_initializer), lock, ctx)


def _locked(obj, lock, ctx):
    if lock is False:
        return obj
    if lock is True or lock is None:
        ctx = ctx or _context._default_context.get_context()
        lock = ctx.RLock()
    if not hasattr(lock, "acquire"):
        raise AttributeError(f"{lock!r} has no method 'acquire'")
    return synchronized(obj, lock, ctx=ctx)


def copy(obj):
    """Returns a copy of a ctypes object in shared memory."""
    new = _new(type(obj))
    ctypes.pointer(new)[0] = obj
    return new


def synchronized(obj, lock=None, ctx=None):
    """Returns an object around a ctypes object in shared memory that guards it by a lock."""
    assert not isinstance(obj, SynchronizedBase), "object already synchronized"
    if isinstance(obj, ctypes._SimpleCData):
        return Synchronized(obj, lock, ctx)
    if isinstance(obj, ctypes.Array):
        kind = SynchronizedString if obj._type_ is ctypes.c_char else SynchronizedArray
        return kind(obj, lock, ctx)
    return _class_for(type(obj))(obj, lock, ctx)


# ---- handing on ---------------------------------------------------------------------------------------------------


def reduce_ctype(obj):
    """Packs a ctypes object that lies in shared memory, for a process that is being started."""
    _stdlib_context.assert_spawning(obj)
    if isinstance(obj, ctypes.Array):
        return rebuild_ctype, (obj._type_, obj._wrapper, obj._length_)
    return rebuild_ctype, (type(obj), obj._wrapper, None)


def rebuild_ctype(type_, wrapper, length):
    """Puts a ctypes object over shared memory."""
    if length is not None:
        type_ = type_ * length
    ForkingPickler.register(type_, reduce_ctype)
    obj = type_.from_buffer(wrapper.create_memoryview())
    obj._wrapper = wrapper
    return obj


# ---- with a lock --------------------------------------------------------------------------------------------------


class SynchronizedBase(_native.SynchronizedValue):
    """A ctypes object in shared memory with a lock around it."""

    def __init__(self, obj, lock=None, ctx=None):
        if not lock:
            lock = (ctx or _context._default_context.get_context()).RLock()
        memory = getattr(obj, "_wrapper", None)
        if type(obj) in _NUMBERS and type(memory) is _native.SharedBuffer:
            self._init(obj, lock, obj._type_, ctypes.sizeof(obj), memory)
        else:
            self._init(obj, lock)

    def __reduce__(self):
        _stdlib_context.assert_spawning(self)
        return synchronized, (self._obj, self._lock)

    def __repr__(self):
        return f"<{type(self).__name__} wrapper for {self._obj}>"


def _guarded(name):
    """A property that has the lock while it reads or writes an attribute of the object."""

    def get(self):
        with self._lock:
            return getattr(self._obj, name)

    def set(self, value):
        with self._lock:
            setattr(self._obj, name, value)

    return property(get, set)


_classes = weakref.WeakKeyDictionary()


def _class_for(type_):
    if type_ not in _classes:
        fields = {field[0]: _guarded(field[0]) for field in type_._fields_}
        _classes[type_] = type("Synchronized" + type_.__name__, (SynchronizedBase,), fields)
    return _classes[type_]


class Synchronized(SynchronizedBase):
    """A value in shared memory with a lock around it."""

    value = _native.SynchronizedValue._value


class SynchronizedArray(SynchronizedBase):
    """An array in shared memory with a lock around it."""

    def __len__(self):
        return len(self._obj)

    def __getitem__(self, i):
        with self._lock:
            return self._obj[i]

    def __setitem__(self, i, value):
        with self._lock:
            self._obj[i] = value


class SynchronizedString(SynchronizedArray):
    """An array of bytes in shared memory with a lock around it."""

    value = _guarded("value")
    raw = _guarded("raw")
