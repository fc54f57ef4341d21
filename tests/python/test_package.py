"""The package as `import procession as mp` finds it: every name of multiprocessing, its signatures, its state, its weight."""

import faulthandler
import importlib
import inspect
import json
import multiprocessing
import multiprocessing.pool
import os
import pickle
import pkgutil
import statistics
import subprocess
import sys
import threading
import types

import pytest

import procession as mp
from procession import errors

PACKAGE_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(mp.__file__)))
PATIENCE_SECONDS = 60

# Ours; every other submodule is the standard library's own object.
OUR_SUBMODULES = {"connection", "context", "managers", "pool", "process", "queues", "sharedctypes", "synchronize"}
# How the standard library's pool runs its workers; not documented, and of no use with another pool.
STDLIB_POOL_MACHINERY = {"ExceptionWithTraceback", "mapstar", "rebuild_exc", "starmapstar", "worker"}
# How the standard library's shared values make their properties.
STDLIB_VALUE_MACHINERY = {"make_property"}
WINDOWS_SUBMODULES = {"popen_spawn_win32"}


@pytest.fixture(autouse=True)
def _cannot_hang():
    faulthandler.dump_traceback_later(PATIENCE_SECONDS * 2, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def run_python(code, *options):
    """Runs code in a new interpreter that treats warnings as errors, and returns what it printed."""
    path = os.pathsep.join(filter(None, [PACKAGE_ROOT, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-W", "error", *options, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def stdlib_submodules():
    return [info.name for info in pkgutil.iter_modules(multiprocessing.__path__) if info.name not in WINDOWS_SUBMODULES]


def parameters(function):
    return list(inspect.signature(function).parameters.values())


# --- names ---------------------------------------------------------------------------------------------------------


def test_every_public_name_of_multiprocessing_is_exported():
    assert set(multiprocessing.__all__) <= set(mp.__all__)
    others = {"sys"}  # its own import
    public = {name for name in vars(multiprocessing) if not name.startswith("_")} - others
    assert [name for name in public if not hasattr(mp, name)] == []


def test_our_own_names_are_exported_beside_them():
    others = {"ProcessPoolExecutor", "Retry", "worker_state"}
    assert set(mp.__all__) - set(multiprocessing.__all__) == set(errors.__all__) | others
    for name in errors.__all__:
        assert getattr(mp, name) is getattr(errors, name)


def test_star_import_brings_every_name():
    printed = run_python("from procession import *; import json; print(json.dumps(sorted(globals())))")
    assert set(mp.__all__) <= set(json.loads(printed))


def test_dir_lists_lazy_submodules():
    listed = run_python("import procession, json; print(json.dumps(dir(procession)))")
    assert {"pool", "queues", "Pool", "__version__"} <= set(json.loads(listed))


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'procession' has no attribute 'Pol'"):
        mp.Pol


def test_version_is_the_extension_modules():
    native = pytest.importorskip("procession._native")
    assert mp.__version__ == native.version()


@pytest.mark.parametrize("name", [name for name in multiprocessing.__all__ if name != "reducer"])
def test_signature_begins_with_that_of_multiprocessing(name):
    ours, theirs = getattr(mp, name), getattr(multiprocessing, name)
    if inspect.isclass(theirs) and issubclass(theirs, Exception):
        assert ours is theirs
        return
    expected = parameters(theirs)
    assert [p.replace(annotation=p.empty) for p in parameters(ours)[: len(expected)]] == expected
    for additional in parameters(ours)[len(expected) :]:
        assert additional.default is not additional.empty or additional.kind is additional.VAR_KEYWORD


@pytest.mark.parametrize(
    "class_name", ["BaseContext", "DefaultContext", "ForkContext", "SpawnContext", "ForkServerContext"]
)
def test_context_classes_have_every_method_of_the_stdlibs(class_name):
    ours, theirs = getattr(mp.context, class_name), getattr(multiprocessing.context, class_name)
    assert issubclass(ours, theirs)
    for name, method in inspect.getmembers(theirs, inspect.isfunction):
        expected = parameters(method)
        if name == "__init__":
            continue
        assert parameters(getattr(ours, name))[: len(expected)] == expected, name


@pytest.mark.parametrize("class_name", ["Process", "ForkProcess", "SpawnProcess", "ForkServerProcess"])
def test_process_classes_have_every_method_of_the_stdlibs(class_name):
    ours, theirs = getattr(mp.process, class_name), getattr(multiprocessing.context, class_name)
    assert ours is getattr(mp.context, class_name)
    assert issubclass(ours, theirs)
    for name, method in inspect.getmembers(theirs, inspect.isfunction):
        # What is our own is given by name, and so stands behind what is theirs.
        own = [p.name for p in parameters(getattr(ours, name))][len(parameters(method)) :]
        assert own == (["timeout", "unknown"] if name == "__init__" else [])
        assert parameters(getattr(ours, name))[: len(parameters(method))] == parameters(method), name


def test_pool_has_every_method_and_parameter_of_the_stdlibs():
    for name, method in inspect.getmembers(multiprocessing.pool.Pool, inspect.isfunction):
        if name.startswith("_") and name != "__init__":
            continue
        ours = {p.name: p for p in parameters(getattr(mp.pool.Pool, name))}
        for position, expected in enumerate(parameters(method)):
            assert list(ours)[position] == expected.name, name
            assert ours[expected.name].default == expected.default, name
    own = [p.name for p in parameters(mp.pool.Pool.__init__) if p.kind is p.KEYWORD_ONLY]
    assert own[0] == "timeout"
    assert own == [p.name for p in parameters(mp.Pool) if p.kind is p.KEYWORD_ONLY]


def test_pool_is_a_bound_method_of_the_default_context():
    assert isinstance(mp.Pool, types.MethodType)
    assert mp.Pool.__self__ is mp.context._default_context
    with mp.Pool(1) as pool:
        assert isinstance(pool, mp.pool.Pool)
        assert pool.apply(abs, (-1,)) == 1


def test_pool_takes_another_context():
    printed = run_python(
        "import procession as mp\n"
        "with mp.Pool(1, context=mp.get_context('spawn')) as pool:\n"
        "    print(pool.apply(abs, (-7,)))\n"
    )
    assert printed == "7\n"


# --- submodules ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", stdlib_submodules())
def test_submodule_is_the_stdlibs_own_object_unless_it_is_ours(name):
    ours = importlib.import_module(f"procession.{name}")
    theirs = importlib.import_module(f"multiprocessing.{name}")
    if name in OUR_SUBMODULES:
        assert ours is not theirs
        public = [n for n in vars(theirs) if not n.startswith("_") and inspect.getmodule(vars(theirs)[n]) is theirs]
        assert [
            n for n in public if not hasattr(ours, n) and n not in STDLIB_POOL_MACHINERY | STDLIB_VALUE_MACHINERY
        ] == []
    else:
        assert ours is theirs
        assert getattr(mp, name) is theirs
        assert sys.modules[f"procession.{name}"] is theirs
        assert theirs.__name__ == f"multiprocessing.{name}"


@pytest.mark.parametrize(
    "statement", ["import procession.heap as q", "from procession import heap as q", "q = procession.heap"]
)
def test_every_way_of_importing_a_submodule_gives_the_same_object(statement):
    printed = run_python(
        f"import procession\n{statement}\nimport multiprocessing.heap\n"
        "print(q is multiprocessing.heap, procession.heap is q, multiprocessing.heap.__spec__.name)"
    )
    assert printed == "True True multiprocessing.heap\n"


def test_submodule_of_dummy_is_not_loaded_twice():
    printed = run_python(
        "import procession.dummy.connection as ours, multiprocessing.dummy.connection as theirs, multiprocessing\n"
        "print(ours is theirs, multiprocessing.dummy.connection is theirs)"
    )
    assert printed == "True True\n"


def test_submodules_are_attributes_without_being_imported_first():
    printed = run_python("import procession as mp; print(mp.pool.Pool.__name__, mp.util.Finalize.__name__)")
    assert printed == "Pool Finalize\n"


def test_private_state_is_read_where_it_lives():
    assert mp.process._children is multiprocessing.process._children
    assert mp.process._current_process is multiprocessing.process._current_process
    assert mp.context._tls is multiprocessing.context._tls
    assert mp.context.reduction is multiprocessing.reduction
    with pytest.raises(AttributeError):
        mp.process.no_such_thing
    with pytest.raises(AttributeError):
        mp.context.no_such_thing


# --- identity ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ProcessError", "TimeoutError", "BufferTooShort", "AuthenticationError"])
def test_exception_classes_are_the_stdlibs(name):
    theirs = getattr(multiprocessing, name)
    assert getattr(mp, name) is theirs
    assert getattr(mp.context, name) is theirs
    for method in mp.get_all_start_methods():
        assert getattr(mp.get_context(method), name) is theirs


def test_functions_that_hold_state_are_the_stdlibs():
    for name in ("current_process", "parent_process", "active_children"):
        assert getattr(mp, name) is getattr(multiprocessing, name)
        assert getattr(mp.process, name) is getattr(multiprocessing, name)
    assert mp.process.BaseProcess is multiprocessing.process.BaseProcess
    assert mp.reducer is multiprocessing.reducer
    assert mp.get_logger() is multiprocessing.get_logger()


def test_remote_traceback_and_encoding_error_are_the_stdlibs():
    assert mp.pool.RemoteTraceback is multiprocessing.pool.RemoteTraceback
    assert mp.pool.MaybeEncodingError is multiprocessing.pool.MaybeEncodingError
    assert mp.pool.ThreadPool is multiprocessing.pool.ThreadPool


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_context_is_one_of_the_stdlibs_and_makes_our_classes(method):
    context = mp.get_context(method)
    assert type(context.Lock()) is mp.synchronize.Lock
    assert context.Value("i", 3).value == 3
    assert isinstance(context, type(multiprocessing.get_context(method)))
    assert context.get_context() is context
    assert context.Process.__module__ == "procession.process"


# --- the start method ----------------------------------------------------------------------------------------------


def test_default_start_method_is_the_running_pythons():
    assert mp.get_all_start_methods() == multiprocessing.get_all_start_methods()
    printed = run_python(
        "import procession, multiprocessing\n"
        "print(procession.get_start_method(allow_none=True), multiprocessing.get_start_method(allow_none=True))\n"
        "print(procession.get_start_method() == multiprocessing.get_start_method() == multiprocessing.get_all_start_methods()[0])\n"
    )
    assert printed == "None None\nTrue\n"


@pytest.mark.parametrize("setter, other", [("procession", "multiprocessing"), ("multiprocessing", "procession")])
def test_start_method_set_in_one_is_seen_in_the_other(setter, other):
    printed = run_python(
        f"import {setter} as setter, {other} as other\n"
        "for method in setter.get_all_start_methods():\n"
        "    setter.set_start_method(method, force=True)\n"
        "    assert other.get_start_method() == method == setter.get_start_method()\n"
        "    assert other.get_context()._name == method\n"
        "    assert other.get_context() is other.get_context(method)\n"
        "try:\n"
        "    other.set_start_method('fork')\n"
        "except RuntimeError as error:\n"
        "    print(error)\n"
        "setter.set_start_method(None, force=True)\n"
        "print(other.get_start_method(allow_none=True))\n"
    )
    assert printed == "context has already been set\nNone\n"


def test_context_that_was_set_is_ours():
    printed = run_python(
        "import procession as mp, multiprocessing\n"
        "multiprocessing.set_start_method('spawn')\n"
        "context = mp.get_context()\n"
        "print(context is mp.get_context('spawn'), context is mp.context._default_context._actual_context)\n"
        "mp.context._default_context._actual_context = mp.get_context('fork')\n"
        "print(multiprocessing.get_context() is multiprocessing.get_context('fork'))\n"
        "mp.context._force_start_method('spawn')\n"
        "print(multiprocessing.get_start_method())\n"
    )
    assert printed == "True True\nTrue\nspawn\n"


@pytest.mark.parametrize(
    "call",
    [
        lambda mp: mp.get_context("x"),
        lambda mp: mp.get_context("fork").get_context("x"),
        lambda mp: mp.set_start_method("x", force=True),
        lambda mp: mp.get_context("fork").set_start_method("spawn"),
    ],
)
def test_wrong_start_methods_are_refused_in_the_stdlibs_words(call):
    said = []
    for package in (multiprocessing, mp):
        with pytest.raises(Exception) as caught:
            call(package)
        said.append((type(caught.value), str(caught.value)))
    assert said[0] == said[1]


def test_forkserver_preload_is_the_stdlibs():
    printed = run_python(
        "import procession as mp\n"
        "mp.set_forkserver_preload(['json'])\n"
        "import multiprocessing.forkserver\n"
        "print(multiprocessing.forkserver._forkserver._preload_modules)\n"
    )
    assert printed == "['json']\n"


def test_context_registered_by_somebody_else_is_left_as_it_is():
    printed = run_python(
        "import multiprocessing.context as stdlib, procession as mp\n"
        "class Other(stdlib.ForkContext):\n"
        "    _name = 'other'\n"
        "stdlib._concrete_contexts['other'] = other = Other()\n"
        "mp.set_start_method('other')\n"
        "print(mp.get_context() is other, mp.get_context('other') is other, mp.get_start_method())\n"
    )
    assert printed == "True True other\n"


# --- weight --------------------------------------------------------------------------------------------------------


def test_import_starts_nothing():
    printed = run_python(
        "import os, threading, sys\n"
        "def census():\n"
        "    with open(f'/proc/self/task/{os.getpid()}/children') as children:\n"
        "        return sorted(os.listdir('/proc/self/fd')), os.listdir('/proc/self/task'), children.read()\n"
        "before = census()\n"
        "import procession\n"
        "from procession import *\n"
        "print(census() == before, threading.active_count())\n"
    )
    assert printed == "True 1\n"


def test_import_loads_none_of_what_a_program_may_never_use():
    printed = run_python(
        "import multiprocessing, sys\n"
        "before = set(sys.modules)\n"
        "import procession\n"
        "print(sorted(set(sys.modules) - before))\n"
    )
    expected = ["procession", "procession.context", "procession.errors", "procession.process"]
    # The one thing beside our own files is a compiler directive that is a module.
    assert [name for name in json.loads(printed.replace("'", '"')) if name != "__future__"] == expected


def test_import_time_is_that_of_multiprocessing(capsys):
    code = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"
    milliseconds = {}
    for name in ("multiprocessing", "procession"):
        milliseconds[name] = statistics.median(float(run_python(code.format(name))) for _ in range(5)) * 1000
    with capsys.disabled():
        print("\nimport, median of 5:", ", ".join(f"{name} {took:.1f} ms" for name, took in milliseconds.items()))


# --- errors --------------------------------------------------------------------------------------------------------

ERROR_EXAMPLES = [
    (
        errors.worker_died("ForkPoolWorker-2", 4711, -9, "f(3)"),
        "worker ForkPoolWorker-2 (pid 4711) was killed by SIGKILL while running f(3)",
        {"pid": 4711, "exitcode": -9, "task": "f(3)"},
    ),
    (
        errors.worker_died("ForkPoolWorker-2", 4711, 3, "f(3)"),
        "worker ForkPoolWorker-2 (pid 4711) exited with code 3 while running f(3)",
        {"pid": 4711, "exitcode": 3, "task": "f(3)"},
    ),
    (
        errors.worker_died("SpawnPoolWorker-1", None, None, ""),
        "worker SpawnPoolWorker-1 was lost",
        {"pid": None, "exitcode": None, "task": ""},
    ),
    (
        errors.worker_died("W", 1, -40, "f()"),
        "worker W (pid 1) was killed by SIGRTMIN+6 while running f()",
        {"pid": 1, "exitcode": -40, "task": "f()"},
    ),
    (
        errors.worker_died("W", 1, -99, "f()"),
        "worker W (pid 1) was killed by signal 99 while running f()",
        {"pid": 1, "exitcode": -99, "task": "f()"},
    ),
    (
        errors.task_timeout("ForkPoolWorker-2", 4711, "f(3)", 1.2345678, 1),
        "f(3) ran for 1.235 s, its limit was 1 s; worker ForkPoolWorker-2 (pid 4711) was killed",
        {"pid": 4711, "task": "f(3)", "elapsed_seconds": 1.2345678, "limit_seconds": 1, "stack": ""},
    ),
    (
        errors.task_timeout("W", 1, "f(3)", 2, 1, "Thread 0x1:\n  in f\n"),
        "f(3) ran for 2 s, its limit was 1 s; worker W (pid 1) was killed; it was here:"
        '\n\n"""\nThread 0x1:\n  in f\n"""',
        {"pid": 1, "task": "f(3)", "elapsed_seconds": 2, "limit_seconds": 1, "stack": "Thread 0x1:\n  in f\n"},
    ),
    (
        errors.memory_limit_exceeded("W", 1, "f(3)", 3 << 29, 1 << 30, ""),
        "f(3) took 1.5 GiB of memory, its limit was 1 GiB; worker W (pid 1) was killed",
        {"pid": 1, "task": "f(3)", "peak_bytes": 3 << 29, "limit_bytes": 1 << 30, "stack": ""},
    ),
    (
        errors.task_cancelled("f(...)"),
        "f(...) was cancelled",
        {"task": "f(...)"},
    ),
    (
        errors.poison_task(errors.worker_died("W", 1, -9, "f(3)"), 3),
        "f(3) killed its worker in each of 3 attempts, and is not tried again; the last: worker W (pid 1) was killed by "
        "SIGKILL while running f(3)",
        {"pid": 1, "exitcode": -9, "task": "f(3)", "attempts": 3},
    ),
    (
        errors.worker_init_error("ForkPoolWorker-1", 7, None, "Traceback (most recent call last):\nKeyError: 1\n"),
        'worker ForkPoolWorker-1 (pid 7) could not start\n\n"""\nTraceback (most recent call last):\nKeyError: 1\n"""',
        {"pid": 7, "exitcode": None, "traceback_text": "Traceback (most recent call last):\nKeyError: 1\n"},
    ),
    (
        errors.worker_init_error(None, None, None, "the initializer raised in ForkPoolWorker-1\n"),
        'the pool\'s workers cannot start\n\n"""\nthe initializer raised in ForkPoolWorker-1\n"""',
        {"pid": None, "exitcode": None, "traceback_text": "the initializer raised in ForkPoolWorker-1\n"},
    ),
    (
        errors.worker_init_error("ForkPoolWorker-1", 7, -11, None),
        "worker ForkPoolWorker-1 (pid 7) could not start: it was killed by SIGSEGV before its first task",
        {"pid": 7, "exitcode": -11, "traceback_text": ""},
    ),
    (
        errors.result_decode_error("f(3)", None, TypeError("missing argument")),
        "the result of f(3) could not be rebuilt in this process: TypeError: missing argument",
        {"task": "f(3)", "traceback_text": ""},
    ),
    (
        errors.result_decode_error("f(3)", "Traceback\nValueError: no", TypeError("missing argument")),
        "the exception of f(3) could not be rebuilt in this process: TypeError: missing argument; "
        'the worker had said:\n\n"""\nTraceback\nValueError: no\n"""',
        {"task": "f(3)", "traceback_text": "Traceback\nValueError: no"},
    ),
    (errors.pool_terminated(), "the pool was terminated before the task finished", {}),
]


@pytest.mark.parametrize("error, message, attributes", ERROR_EXAMPLES, ids=lambda value: type(value).__name__)
def test_error_tells_what_happened_and_survives_pickling(error, message, attributes):
    assert str(error) == message
    assert isinstance(error, multiprocessing.ProcessError)
    assert repr(error) == f"{type(error).__name__}({message!r})"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(error, protocol))
        assert type(again) is type(error)
        assert (str(again), vars(again), again.args) == (message, attributes, error.args)


def test_result_decode_error_keeps_its_cause():
    cause = TypeError("missing argument")
    assert errors.result_decode_error("f()", None, cause).__cause__ is cause
    assert errors.result_decode_error("f()", None, None).__cause__ is None


def test_result_decode_error_bears_a_cause_without_text():
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError

    assert "Mute: (its text cannot be shown)" in str(errors.result_decode_error("f()", None, Mute()))


def test_task_timeout_is_not_the_timeout_of_waiting():
    assert not issubclass(mp.TaskTimeout, mp.TimeoutError)


def test_main_thread_is_alone_after_these_tests():
    assert [thread for thread in threading.enumerate() if thread is not threading.main_thread()] == []
