"""Well-behaved functions that the tests send to workers, ordinary errors, and data of any size.

They live in a module of their own because spawn and forkserver workers import what they run. The module must stay light:
every such worker imports it. Beside it lie those of one theme each, such as :mod:`fault_tasks`.
"""

import os
import signal
import time


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


def print_line(text):
    print(text)


def write_atomically(path, text):
    with open(f"{path}.part", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(f"{path}.part", path)


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
# Notes: what has run is seen in a file.


_log_descriptor = None


def log_into(path):
    """Initializer: from now on every fault task appends its item to this file, one line each."""
    global _log_descriptor
    _log_descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def note(x):
    if _log_descriptor is not None:
        os.write(_log_descriptor, b"%d\n" % x)


def note_text(text):
    os.write(_log_descriptor, text.encode() + b"\n")


# ---------------------------------------------------------------------------------------------------------------------
# Large data and memory.


def make_bytes(size, fill=0):
    return bytes([fill % 256]) * size


def logged_megabyte(x):
    note(x)
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
