"""Functions and classes that pickle can only name, sent as they are: by cloudpickle, if that is installed.

Pickle sends a function as the name of its module and its own, which the worker looks up. That fails for lambdas, for
functions and classes made inside of functions, and for those of a main module that workers cannot import: one that was
typed at a prompt, in a notebook, or given by `-c`. Only where pickle has failed, or is known to fail later in the worker,
cloudpickle steps in. It is not imported before, and nothing here is asked on the way of a value that pickle can send.
"""

import sys
import types
import weakref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ()

# The pools of this process whose workers cannot import its main module, with what their workers know of it.
_pools: "weakref.WeakKeyDictionary[Any, Any]" = weakref.WeakKeyDictionary()


def _main_is_importable():
    main = sys.modules.get("__main__")
    if main is None or sys.flags.interactive or hasattr(sys, "ps1"):
        return False
    spec = getattr(main, "__spec__", None)
    if getattr(spec, "name", None) is not None:
        return True
    return getattr(main, "__file__", None) not in (None, "<stdin>")


def note_pool(pool):
    """Says that a pool is being made: from then on what its workers cannot look up in the main module goes by value."""
    if _main_is_importable():
        return
    from . import _native

    known = {}
    if pool._start_method == "fork":
        # Its workers have the main module as it is now.
        for name, item in vars(sys.modules["__main__"]).items():
            if isinstance(item, (types.FunctionType, type)):
                known[name] = item
    _pools[pool] = known
    _native.pickle_main_by_value(True)


def _workers_know(item):
    name = item.__qualname__
    return all(known.get(name) is item for known in list(_pools.values()))


def main_lacks(function):
    """Whether workers would not find this function or class of the main module by its name."""
    return not _workers_know(function)


def pickler(sink, buffer_callback, error):
    """A pickler that sends by value what `error` says pickle cannot send; None if there is none that could."""
    import pickle

    # What somebody's own method raised while pickling, nobody else can do better.
    if error is not None and not isinstance(error, (pickle.PicklingError, AttributeError, TypeError)):
        return None
    try:
        import cloudpickle  # type: ignore[import-untyped]
    except ImportError:
        return None
    global _pickler_class
    if _pickler_class is None:
        _pickler_class = _make_pickler_class(cloudpickle)
    return _pickler_class(sink, protocol=5, buffer_callback=buffer_callback)


_pickler_class = None


def _make_pickler_class(cloudpickle):
    import copyreg
    import io
    from collections import ChainMap
    from multiprocessing.reduction import ForkingPickler

    # A copy of a buffer or a file is another thing than the one that pickle rightly refused.
    refused = (memoryview, io.TextIOWrapper)
    theirs = {t: how for t, how in cloudpickle.Pickler.dispatch_table.items() if t not in refused}

    class Pickler(cloudpickle.Pickler):
        dispatch_table = ChainMap(ForkingPickler._extra_reducers, copyreg.dispatch_table, theirs)

        def reducer_override(self, obj):
            if isinstance(obj, (types.FunctionType, type)) and obj.__module__ == "__main__":
                if _pools and _workers_know(obj):
                    return NotImplemented
            return super().reducer_override(obj)

    return Pickler


def explain(error):
    """Adds to pickle's error what would help."""
    import pickle

    if isinstance(error, (pickle.PicklingError, AttributeError)) and len(error.args) == 1:
        try:
            import cloudpickle  # noqa: F401
        except ImportError:
            hint = (
                "procession sends it all the same where cloudpickle is installed: pip install 'procession[cloudpickle]'"
            )
            if isinstance(error.args[0], str) and hint not in error.args[0]:
                error.args = (f"{error.args[0]} ({hint})",)
    return error


def dump(value, buffer):
    """Pickles into a buffer as `multiprocessing.reduction.dump` does, by value what cannot be named."""
    from multiprocessing import reduction

    mark = buffer.tell()
    try:
        if _main_is_importable():
            return reduction.dump(value, buffer)
        machine, error = pickler(buffer, None, None), None
        if machine is None:
            return reduction.dump(value, buffer)
    except Exception as raised:
        buffer.seek(mark)
        buffer.truncate()
        machine, error = pickler(buffer, None, raised), raised
        if machine is None:
            raise explain(raised)
    try:
        machine.dump(value)
    except Exception:
        # What pickle said of it says more.
        if error is not None:
            raise error
        raise


class Carried:
    """A function that was pickled by value, once, for many tasks."""

    __slots__ = ("_data",)

    def __init__(self, data):
        self._data = data

    def __reduce__(self):
        return _unpacked, (self._data,)


def carry(function):
    """What to send in the place of a function that goes by value; the function itself if that cannot be."""
    try:
        import io

        buffer = io.BytesIO()
        machine = pickler(buffer, None, None)
        if machine is None:
            return function
        machine.dump(function)
    except Exception:
        # Whoever sends the function itself will hear what is wrong with it.
        return function
    return Carried(buffer.getvalue())


# The functions that came last, so that the batches of one call have the same function object.
_unpacked_lately: "dict[bytes, Any]" = {}


def _unpacked(data):
    function = _unpacked_lately.get(data)
    if function is None:
        import pickle

        function = pickle.loads(data)
        while len(_unpacked_lately) >= 8:
            del _unpacked_lately[next(iter(_unpacked_lately))]
        _unpacked_lately[data] = function
    return function
