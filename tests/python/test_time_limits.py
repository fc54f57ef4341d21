"""A process that runs longer than it may is ended with its descendants, whatever it does."""

import os
import signal
import subprocess
import sys
import time

import pytest
from harness import wait_until

import procession as mp
from procession import TaskTimeout


def is_gone(pid):
    try:
        with open(f"/proc/{pid}/stat", "rb") as status:
            return status.read().rpartition(b")")[2].split()[0] in b"ZX"
    except FileNotFoundError:
        return True


def sleep_for_ever():
    time.sleep(1000)


def ignore_everything(pids):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    pids.put(child.pid)
    child.wait()


def hold_the_gil():
    # A pattern that backtracks for longer than anybody waits, in one call of C.
    import re

    re.match(r"(a+)+$", "a" * 64 + "b")


def stand_still():
    os.kill(os.getpid(), signal.SIGSTOP)


def look_around(found):
    children = mp.active_children()
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        found.put((children, "no child"))
    else:
        found.put((children, "some child"))


def exit_with(code):
    sys.exit(code)


def test_a_stuck_process_is_ended_and_says_where_it_was(context):
    process = context.Process(target=sleep_for_ever, timeout=0.3)
    assert not process.timed_out
    assert process.timeout_error is None
    process.start()
    assert not process.timed_out
    process.join()
    assert process.exitcode == -signal.SIGTERM
    assert process.timed_out
    error = process.timeout_error
    assert isinstance(error, TaskTimeout)
    assert (error.pid, error.task, error.limit_seconds) == (process.pid, process.name, 0.3)
    assert error.elapsed_seconds >= 0.3
    assert "in sleep_for_ever" in error.stack
    assert str(error).startswith(f"process {process.name} (pid {process.pid}) ran for ")
    process.close()


def test_descendants_and_what_ignores_signals_end_too(context):
    pids = context.SimpleQueue()
    process = context.Process(target=ignore_everything, args=(pids,), timeout=0.5)
    process.start()
    child = pids.get()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert process.timed_out
    wait_until(lambda: is_gone(child), "the descendant has ended")
    pids.close()


@pytest.mark.parametrize("target", [hold_the_gil, stand_still])
def test_neither_the_gil_nor_standing_still_is_an_escape(context, target):
    process = context.Process(target=target, timeout=0.3)
    process.start()
    process.join()
    assert process.timed_out
    assert process.exitcode in (-signal.SIGTERM, -signal.SIGKILL)


def test_a_process_within_its_time_notices_nothing(context):
    found = context.SimpleQueue()
    process = context.Process(target=look_around, args=(found,), timeout=60)
    process.start()
    assert found.get() == ([], "no child")
    process.join()
    assert process.exitcode == 0
    assert not process.timed_out
    assert process.timeout_error is None
    found.close()


@pytest.mark.parametrize("code", [0, 3])
def test_how_it_ends_by_itself_is_its_own_affair(context, code):
    process = context.Process(target=exit_with, args=(code,), timeout=60)
    process.start()
    process.join()
    assert (process.exitcode, process.timed_out) == (code, False)


@pytest.mark.parametrize("daemon", [False, True])
def test_a_limited_process_that_is_killed_takes_its_keeper_along(context, daemon):
    process = context.Process(target=sleep_for_ever, timeout=60, daemon=daemon)
    process.start()
    wait_until(lambda: keepers_of(process.pid), "there is a keeper")
    [keeper] = keepers_of(process.pid)
    process.kill()
    process.join()
    assert not process.timed_out
    wait_until(lambda: is_gone(keeper), "the keeper has ended")


def keepers_of(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            children = file.read().split()
    except FileNotFoundError:
        return []
    names = {}
    for child in children:
        with open(f"/proc/{child}/comm") as file:
            names[int(child)] = file.read().strip()
    return [child for child, name in names.items() if name == "procession-time"]


def test_a_process_that_cannot_start_leaves_nothing(context):
    class Unpicklable:
        def __reduce__(self):
            raise RuntimeError("not this one")

    process = context.Process(target=print, args=(Unpicklable(),), timeout=1)
    if context.get_start_method() != "fork":
        with pytest.raises(RuntimeError, match="not this one"):
            process.start()


@pytest.mark.parametrize(
    ("timeout", "error"),
    [(0, ValueError), (-1, ValueError), (float("nan"), ValueError), ("1", TypeError), (True, TypeError)],
)
def test_a_limit_that_is_none_is_refused(timeout, error):
    with pytest.raises(error, match="timeout must be a"):
        mp.Process(target=print, timeout=timeout)
