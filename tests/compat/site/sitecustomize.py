"""Gives CPython's tests `procession` where they say `multiprocessing`, in every interpreter below the compatibility run.

The directory of this file is in PYTHONPATH, so each interpreter imports it as it starts: those of tests, of spawned
processes, of the programs that tests write. Only the import statements of the tests and of main modules are redirected;
the rest of the standard library, and procession itself, go on importing what they name.
"""

import builtins
import sys

_SUBJECTS = frozenset(
    (
        "__main__",
        "__mp_main__",
        "test._test_multiprocessing",
        "test.mp_fork_bomb",
        "test.mp_preload",
    )
)
_SUBJECT_PACKAGES = ("test.test_concurrent_futures", "test.test_multiprocessing")
_import = builtins.__import__


def _import_redirected(name, globals=None, locals=None, fromlist=(), level=0):
    if name.startswith("multiprocessing") and level == 0 and globals is not None:
        importer = globals.get("__name__") or ""
        if importer in _SUBJECTS or importer.startswith(_SUBJECT_PACKAGES):
            if name == "multiprocessing" or name[15] == ".":
                name = "procession" + name[15:]
    return _import(name, globals, locals, fromlist, level)


builtins.__import__ = _import_redirected

# CPython's tests expect that some things cannot be pickled, which is so without the extra.
sys.modules["cloudpickle"] = None
