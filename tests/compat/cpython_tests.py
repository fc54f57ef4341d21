"""CPython's own tests of multiprocessing, as the installed interpreter has them, for one start method.

They are imported, never copied. `PROCESSION_COMPAT_SUITE` says which:

* `multiprocessing`: `test._test_multiprocessing`, whose classes it makes for the start method in
  `PROCESSION_COMPAT_START_METHOD`, just as CPython's `test_multiprocessing_fork` and its sisters do;
* `main`: `test.test_multiprocessing_main_handling`, the programs run as scripts, packages, by `-m` and from archives;
* `futures`: the process tests of `test.test_concurrent_futures`, over our executor.

That what they import as `multiprocessing` is procession is the doing of `site/sitecustomize.py`.
"""

import importlib
import importlib.util
import os
import pkgutil
import unittest

SUITE = os.environ["PROCESSION_COMPAT_SUITE"]
START_METHOD = os.environ["PROCESSION_COMPAT_START_METHOD"]

if SUITE == "multiprocessing":
    import test._test_multiprocessing

    test._test_multiprocessing.install_tests_in_module_dict(globals(), START_METHOD)


def _main_handling_classes():
    module = importlib.import_module("test.test_multiprocessing_main_handling")
    name = {"fork": "ForkCmdLineTest", "spawn": "SpawnCmdLineTest", "forkserver": "ForkServerCmdLineTest"}[START_METHOD]
    return {name: getattr(module, name)}


def _futures_classes():
    import procession

    # Some versions of CPython forgot to install these.
    if importlib.util.find_spec("test.test_concurrent_futures") is None:
        return {}
    package = importlib.import_module("test.test_concurrent_futures")
    modules = [package]
    for info in pkgutil.iter_modules(getattr(package, "__path__", ())):
        if info.name.startswith("test_"):
            modules.append(importlib.import_module(f"{package.__name__}.{info.name}"))
    prefix = {"fork": "ProcessPoolFork", "spawn": "ProcessPoolSpawn", "forkserver": "ProcessPoolForkserver"}
    found = {}
    for module in modules:
        for name, item in vars(module).items():
            if not (isinstance(item, type) and issubclass(item, unittest.TestCase)):
                continue
            if not name.startswith(prefix[START_METHOD]) or name.startswith(prefix["fork"] + "server") != (
                START_METHOD == "forkserver"
            ):
                continue
            item.executor_type = procession.ProcessPoolExecutor
            found[name] = item
    return found


def classes():
    """The test classes by name."""
    if SUITE == "main":
        return _main_handling_classes()
    if SUITE == "futures":
        return _futures_classes()
    return {
        name: item
        for name, item in globals().items()
        if isinstance(item, type) and issubclass(item, unittest.TestCase) and item.__module__ == __name__
    }
