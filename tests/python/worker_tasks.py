"""What a worker is given at its start, and what it sees of its surroundings."""

import atexit
import os
import random
import signal
import sys
import threading
import time

from fault_tasks import sigkill_self
from tasks import meet, touch

# ---------------------------------------------------------------------------------------------------------------------
# Initializers.


_initialized_with = None


def remember(*values):
    global _initialized_with
    _initialized_with = values


def recall(_item=None):
    return _initialized_with


def use_remembered_lock(_item=None):
    (lock,) = _initialized_with
    with lock:
        return "held"


def count_start_and_raise(path, delay_seconds=0.0):
    touch(path)
    time.sleep(delay_seconds)
    raise LookupError("the initializer found nothing")


def count_start_and_exit(path, code):
    touch(path)
    os._exit(code)


def count_start_and_sigkill(path):
    touch(path)
    sigkill_self()


def count_start_and_sys_exit(path):
    touch(path)
    sys.exit("the initializer gave up")


def count_start(path):
    touch(path)


def count_start_and_raise_if(path, condition_path):
    touch(path)
    if os.path.exists(condition_path):
        raise LookupError("the initializer found nothing")


def use_callable(function, lock):
    """Initializer whose arguments only fork can hand over."""
    with lock:
        remember(function())


def two_numbers(a, b):
    return {"sum": a + b}


def add_to_state(x):
    import procession

    return procession.worker_state()["sum"] + x


# ---------------------------------------------------------------------------------------------------------------------
# What a worker sees of its surroundings.


inherited_setting = "as imported"


def read_inherited_setting(_item=None):
    return inherited_setting


def describe_process(_item=None):
    import multiprocessing

    from subject import mp

    stdlib, ours = multiprocessing.current_process(), mp.current_process()
    return {
        "name": stdlib.name,
        "daemon": stdlib.daemon,
        "pid": stdlib.pid,
        "os_pid": os.getpid(),
        "parent_name": multiprocessing.parent_process().name,
        "parent_pid": multiprocessing.parent_process().pid,
        "parent_alive": multiprocessing.parent_process().is_alive(),
        "our_name": ours.name,
        "our_daemon": ours.daemon,
        "our_pid": ours.pid,
        "our_parent_pid": mp.parent_process().pid,
        "children": [child.name for child in multiprocessing.active_children()],
        "authkey": bytes(stdlib.authkey),
    }


def describe_interpreter(_item=None):
    return {
        "argv": list(sys.argv),
        "path": list(sys.path),
        "cwd": os.getcwd(),
        "dev_mode": sys.flags.dev_mode,
        "optimize": sys.flags.optimize,
        "warnoptions": list(sys.warnoptions),
        "executable": sys.executable,
        "stdin": sys.stdin.read() if sys.stdin is not None else "",
    }


def describe_threads(_item=None):
    return {
        "in_main_thread": threading.current_thread() is threading.main_thread(),
        "names": [thread.name for thread in threading.enumerate()],
        "identity": threading.get_ident() == threading.main_thread().ident,
        "native": threading.get_native_id() == os.getpid(),
    }


def log_record_process_name(_item=None):
    import logging

    return logging.makeLogRecord({}).processName, logging.LogRecord("n", 20, "p", 1, "m", None, None).processName


def random_numbers(directory, count):
    """Meets the other workers, so that each is asked, and returns what its generator gives first."""
    number = random.random()
    return meet(directory, count), number, tuple(random.choices(range(1000), k=4))


def set_signal_handler(_item=None):
    previous = signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    signal.signal(signal.SIGUSR1, previous)
    return "possible"


def write_when_worker_exits(path):
    """Initializer: registers a clean-up as coverage tools and many libraries do."""
    from multiprocessing import util

    util.Finalize(None, touch, args=(path,), exitpriority=10)


def touch_at_exit(path):
    """Initializer, or a process: registers something for the interpreter's exit."""
    atexit.register(touch, path)


class AfterForkWitness:
    """Registered with ``register_after_fork`` by a test; forked workers must run it."""

    ran = False

    @staticmethod
    def mark(_witness):
        AfterForkWitness.ran = True


def after_fork_ran(_item=None):
    return AfterForkWitness.ran
