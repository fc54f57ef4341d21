"""What the caller stops or tries again."""

import os
import signal
import time

from fault_tasks import sigkill_self
from tasks import sleep_forever, touch, write_atomically


def announce_pid_and_sleep(path):
    """Writes its process's number into the file, and sleeps."""
    write_atomically(path, str(os.getpid()))
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
