"""Functions and classes that the tests send to workers.

They live in a module of their own because spawn and forkserver workers import what they run. The module must stay light:
every such worker imports it.
"""

import atexit
import collections
import copyreg
import functools
import mmap
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

# ---------------------------------------------------------------------------------------------------------------------
# Well-behaved tasks.


def identity(value):
    return value


def double(x):
    return x * 2


def add(a, b):
    return a + b


def all_arguments(*args, **kwds):
    return args, kwds


def with_default(a, b=10, *, c=100):
    return a, b, c


def nothing():
    return None


def pid():
    return os.getpid()


def pid_of(_item):
    return os.getpid()


def sleep_and_return(seconds, value=None):
    time.sleep(seconds)
    return value


def sleep_forever(_item=None):
    while True:
        time.sleep(60)


def spin_forever(_item=None):
    while True:
        pass


def sleep_stubbornly(path=None):
    """Sleeps for ever, deaf to every signal that can be ignored; creates the file when it is deaf."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    if path is not None:
        touch(path)
    sleep_forever()


def announce_and_sleep(path, seconds=3600.0):
    """Creates the file, so that the test knows that the task runs, and sleeps."""
    touch(path)
    time.sleep(seconds)
    return os.getpid()


def wait_for_file(path, limit_seconds=30.0):
    """Returns once somebody has created the file."""
    deadline = time.monotonic() + limit_seconds
    while not os.path.exists(path):
        if time.monotonic() > deadline:
            raise RuntimeError(f"nobody created {path}")
        time.sleep(0.005)
    return path


def wait_if_zero(pair):
    """Item 0 waits for the file, the others are done at once."""
    path, x = pair
    if x == 0:
        wait_for_file(path)
    return x


def wait_unless_zero(pair):
    """Item 0 fails at once, the others wait for the file."""
    path, x = pair
    if x == 0:
        raise ValueError("zero")
    return wait_for_file(path)


def fail_in_turn(pair):
    """Item 1 fails first, and item 0 only after it."""
    path, x = pair
    if x == 0:
        wait_for_file(path)
        time.sleep(0.1)
        raise ValueError("item 0")
    touch(path)
    raise ValueError("item 1")


def uneven(x):
    """Takes longer for smaller arguments, so that results come in another order than the tasks were given."""
    time.sleep(0.002 * ((7 * x) % 5))
    return x


def touch_and_wait(touched_path, awaited_path):
    touch(touched_path)
    return wait_for_file(awaited_path)


def touch(path):
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\n")


def meet(directory, count, limit_seconds=20.0):
    """Returns this worker's pid once ``count`` processes are in here at the same time.

    As many such tasks as the pool has workers can only all return if each worker is alive and takes one.
    """
    touch(os.path.join(directory, str(os.getpid())))
    deadline = time.monotonic() + limit_seconds
    while len(os.listdir(directory)) < count:
        if time.monotonic() > deadline:
            raise RuntimeError(f"only {len(os.listdir(directory))} of {count} workers came")
        time.sleep(0.002)
    return os.getpid()


# ---------------------------------------------------------------------------------------------------------------------
# Errors of the ordinary kind.


class CustomError(Exception):
    """Needs two arguments, so that a careless rebuild from ``args`` would show."""

    def __init__(self, code, text):
        super().__init__(code, text)
        self.code = code
        self.text = text


def raise_value_error(value=None):
    raise ValueError(f"no good: {value!r}")


def raise_custom_error(code, text):
    raise CustomError(code, text)


def raise_with_cause():
    try:
        {}["missing"]
    except KeyError as error:
        raise RuntimeError("outer") from error


def raise_at_thirteen(x):
    if x == 13:
        raise ValueError("thirteen")
    return x * x


def raise_on_odd(x):
    if x % 2:
        raise ValueError(x)
    return x


def recurse(depth=0):
    return recurse(depth + 1)


def nested_list(depth):
    nest = []
    for _ in range(depth):
        nest = [nest]
    return nest


# ---------------------------------------------------------------------------------------------------------------------
# Faults. Each strikes at item 13 and is the square otherwise; each notes that it ran, if a log is set up.

_log_descriptor = None


def log_into(path):
    """Initializer: from now on every fault task appends its item to this file, one line each."""
    global _log_descriptor
    _log_descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def _note(x):
    if _log_descriptor is not None:
        os.write(_log_descriptor, b"%d\n" % x)


class Catastrophe(BaseException):
    """Not an Exception, so that ``except Exception`` lets it through."""


def no_core_dump():
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def sigkill_self():
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def read_address_zero():
    import ctypes

    no_core_dump()
    ctypes.string_at(0)


def overflow_the_stack():
    import faulthandler

    no_core_dump()
    # The traceback that a parent's faulthandler would print is not what is tested.
    faulthandler.disable()
    faulthandler._stack_overflow()


def sigkill_at_thirteen(x):
    _note(x)
    if x == 13:
        sigkill_self()
    return x * x


def segfault_at_thirteen(x):
    _note(x)
    if x == 13:
        import faulthandler

        faulthandler.disable()
        read_address_zero()
    return x * x


def os_exit_at_thirteen(x):
    _note(x)
    if x == 13:
        os._exit(3)
    return x * x


def os_exit_zero_at_thirteen(x):
    _note(x)
    if x == 13:
        os._exit(0)
    return x * x


def sys_exit_at_thirteen(x):
    _note(x)
    if x == 13:
        sys.exit(3)
    return x * x


def catastrophe_at_thirteen(x):
    _note(x)
    if x == 13:
        raise Catastrophe("thirteen")
    return x * x


def keyboard_interrupt_at_thirteen(x):
    _note(x)
    if x == 13:
        raise KeyboardInterrupt
    return x * x


def sleep_forever_at_thirteen(x):
    _note(x)
    if x == 13:
        sleep_forever()
    return x * x


def spin_forever_at_thirteen(x):
    _note(x)
    if x == 13:
        spin_forever()
    return x * x


def stubborn_at_thirteen(x):
    _note(x)
    if x == 13:
        sleep_stubbornly()
    return x * x


def die_with(*_arguments, **_keywords):
    sigkill_self()


class RaisesInRepr:
    def __repr__(self):
        raise RuntimeError("has no repr")


def huge_or_deadly_at_five(x):
    if x == 5:
        sigkill_self()
    return make_bytes(5_000_000, x)


# ---------------------------------------------------------------------------------------------------------------------
# Things that pickle badly, each in its own way.


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


def print_line(text):
    print(text)


class AfterForkWitness:
    """Registered with ``register_after_fork`` by a test; forked workers must run it."""

    ran = False

    @staticmethod
    def mark(_witness):
        AfterForkWitness.ran = True


def after_fork_ran(_item=None):
    return AfterForkWitness.ran


# ---------------------------------------------------------------------------------------------------------------------
# Pools, forks and programs inside a task.


def sum_of_squares_by_inner_pool(n, start_method=None):
    from subject import mp

    with mp.get_context(start_method).Pool(2) as pool:
        return sum(pool.map(raise_at_thirteen, range(n)))


def inner_pool_then_sleep(path, start_method=None):
    """Opens a pool, writes its workers' pids into the file and sleeps, so that the test can kill the middle."""
    from subject import mp

    with mp.get_context(start_method).Pool(2) as pool:
        pids = sorted(set(pool.map(pid_of, range(16), chunksize=1)))
        write_atomically(path, " ".join(map(str, pids)))
        sleep_forever()


def start_program_then_sleep(path):
    """Starts a long-running program and writes its pid into the file."""
    program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    write_atomically(path, str(program.pid))
    sleep_forever()


def fork_child_then_sleep(path):
    """Forks a long-running child and writes its pid into the file."""
    child = os.fork()
    if child == 0:
        try:
            time.sleep(3600)
        finally:
            os._exit(0)
    write_atomically(path, str(child))
    sleep_forever()


def run_program(_item=None):
    """A task that starts a program and reaps it, as any task may."""
    done = subprocess.run([sys.executable, "-S", "-c", "print(6 * 7)"], stdout=subprocess.PIPE, check=True)
    return int(done.stdout)


def write_atomically(path, text):
    with open(f"{path}.part", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(f"{path}.part", path)


# ---------------------------------------------------------------------------------------------------------------------
# Accounting: a byte per task in a file that all workers map, so that a task run twice is seen.

_ledger = None


def open_ledger(path):
    global _ledger
    with open(path, "r+b") as file:
        _ledger = mmap.mmap(file.fileno(), 0)


def book(number):
    _ledger[number] += 1
    return number


def book_bytes(number, payload):
    """The same with a payload on the way in and out, so that kills also hit long copies."""
    _ledger[number] += 1
    return number, payload


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


# ---------------------------------------------------------------------------------------------------------------------
# Large data and memory.


def make_bytes(size, fill=0):
    return bytes([fill % 256]) * size


def logged_megabyte(x):
    _note(x)
    return make_bytes(1_000_000, x)


def length_of(value):
    return len(value)


def checksum(value):
    import zlib

    return zlib.crc32(value)


def memory_kib(_item=None):
    """Resident kilobytes of this process by kind, as the kernel counts them."""
    kinds = {}
    with open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith(("VmRSS:", "RssAnon:", "RssShmem:", "RssFile:", "VmHWM:")):
                name, value = line.split(":")
                kinds[name] = int(value.split()[0])
    return kinds


def open_descriptors(_item=None):
    return len(os.listdir("/proc/self/fd"))


def limit_memory_and_allocate(size):
    """Meets MemoryError in an orderly way: an exception like any other."""
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (64 << 20, resource.RLIM_INFINITY))
    try:
        return len(bytearray(size))
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


# ---------------------------------------------------------------------------------------------------------------------
# What the caller stops.


def announce_pid_and_sleep(path):
    """Writes its process's number into the file, and sleeps."""
    with open(path + ".new", "w", encoding="utf-8") as file:
        file.write(str(os.getpid()))
    os.rename(path + ".new", path)
    sleep_forever()


def recurse_and_sleep(depth=5):
    if depth:
        return recurse_and_sleep(depth - 1)
    return sleep_forever()


def clean_up_at_sigterm(path):
    """Sleeps; when it is asked to end, notes that it has cleaned up."""

    def clean_up(_number, _frame):
        with open(path, "w", encoding="utf-8") as file:
            file.write("cleaned")
        os._exit(0)

    signal.signal(signal.SIGTERM, clean_up)
    sleep_forever()


def note_text(text):
    os.write(_log_descriptor, text.encode() + b"\n")


def hoard():
    """Takes memory until somebody stops it."""
    kept = []
    while True:
        kept.append(b"x" * (1 << 20))
        time.sleep(0.001)


def hoard_at_thirteen(x):
    if x == 13:
        hoard()
    return x


_leaked = []


def leak(length_bytes):
    _leaked.append(b"x" * length_bytes)
    return os.getpid()


def fail_at_first(path, failures, how):
    """Fails so often, in this way; then returns how often it was called."""
    touch(path)
    with open(path, encoding="utf-8") as file:
        attempt = len(file.readlines())
    if attempt <= failures:
        if how == "exit":
            os._exit(7)
        if how == "kill":
            sigkill_self()
        if how == "sleep":
            sleep_forever()
        raise ConnectionError(f"attempt {attempt}")
    return attempt


def fail_at_first_packed(arguments):
    return fail_at_first(*arguments)


def two_numbers(a, b):
    return {"sum": a + b}


def add_to_state(x):
    import procession

    return procession.worker_state()["sum"] + x
