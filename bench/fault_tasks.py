"""What goes wrong in the fault matrix: the tasks that misbehave, and objects that cannot travel.

Imported by every worker that is spawned, so imports stay at a minimum.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Base(BaseException):
    """What no ``except Exception`` catches."""


class CannotBeUnpickled(Exception):
    """Pickles well, and fails when it is rebuilt: its constructor wants more than it has passed on."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(one)


class Unpicklable:
    """Refuses to be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("this object refuses to be pickled")


def refuse(who: str) -> Any:
    """What rebuilding a `PoisonedPickle` calls."""
    raise ValueError(f"this object refuses to be rebuilt in {who}")


class PoisonedPickle:
    """Pickles well, and fails when it is rebuilt."""

    def __init__(self, who: str) -> None:
        self.who = who

    def __reduce__(self) -> Any:
        return refuse, (self.who,)


def misbehave(task: Any) -> Any:
    """Returns the task's index after a moment, or does what its fault says."""
    fault, index = task[0], task[1]
    time.sleep(0.01)
    if fault == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    elif fault == "segfault":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(60)
    elif fault == "exit":
        os._exit(3)
    elif fault == "system-exit":
        sys.exit("bye")
    elif fault == "base-exception":
        raise Base("beyond Exception")
    elif fault == "exception-poisoned":
        raise CannotBeUnpickled("one", "other")
    elif fault == "result-unpicklable":
        return Unpicklable()
    elif fault == "result-poisoned":
        return PoisonedPickle("the caller")
    elif fault == "stuck":
        time.sleep(3600)
    elif fault == "nested":
        library = __import__(task[2])
        with library.get_context("fork").Pool(1) as pool:
            pool.map(abs, [-1])
    return index


def raise_at_start() -> None:
    """An initializer that fails."""
    raise RuntimeError("this initializer raises")


def busy(seconds: float) -> float:
    """Sleeps in pieces, as a task does that works."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)
    return seconds
