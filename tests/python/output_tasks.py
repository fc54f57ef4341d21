"""Tasks that print, for test_output.py."""

import ctypes
import os
import signal
import subprocess
import sys
import time


def say(n):
    print("item", n)
    return n


def say_odd(n):
    if n % 2:
        print("item", n)
    return n


def say_everywhere(n):
    print("from print")
    print("from stderr", file=sys.stderr)
    ctypes.CDLL(None).puts(b"from C")
    subprocess.run([sys.executable, "-c", "print('from a program')"], check=True)
    os.write(1, b"from a descriptor\n")
    return n


def say_and_raise(n):
    print("about to fail", n)
    raise ValueError(n)


class Slotted(Exception):
    """Takes no attributes by `__setattr__`."""

    def __setattr__(self, name, value):
        if not name.startswith("__"):
            raise AttributeError(name)
        super().__setattr__(name, value)


def say_and_raise_slotted(n):
    print("about to fail", n)
    raise Slotted(n)


def say_and_die(n):
    print("about to die", n)
    ctypes.CDLL(None).puts(b"so says C")
    print("the end has no line", end="")
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def say_and_sleep(n):
    print("about to sleep", n)
    time.sleep(60)


def say_and_die_once(flag):
    print("here")
    if not os.path.exists(flag):
        open(flag, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.path.basename(flag)


def say_much(megabytes):
    for _ in range(megabytes):
        os.write(1, b"x" * (1 << 20))
    time.sleep(0.3)
    os.write(1, b"\nthe last line\n")
    return os.getpid()


def say_parts(n):
    """One line in many pieces, and one without an end."""
    for _ in range(20):
        print(n, end=" ", flush=True)
    print()
    print("left", n, end="")


def say_long(n):
    print(str(n) * 20_000)


def close_streams(n):
    sys.stdout.close()
    sys.stderr = None
    return n


def say_at_start():
    print("from the initializer", flush=True)
