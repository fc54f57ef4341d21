"""What the processes of the tests of processes run."""

import logging
import multiprocessing
import os
import signal
import sys
import time

from tasks import wait_for_file

import procession as mp
from procession import util

# Longer than any test takes.
LONG_SECONDS = 60


def nothing():
    pass


def sleeps():
    # In short naps: Python acts on a signal that arrives just before a nap begins only when that nap ends.
    deadline = time.monotonic() + LONG_SECONDS
    while time.monotonic() < deadline:
        time.sleep(0.02)


def fails():
    raise KeyError("a message")


def kills_itself():
    os.kill(os.getpid(), signal.SIGKILL)


def complains_to(path, target, args):
    # A server forks with the stderr that it once got, which is not this test's.
    sys.stderr = open(path, "w")
    target(*args)


def receives_sigterm_late(connection):
    signal.signal(signal.SIGTERM, lambda *_: os._exit(9))
    connection.send("ready")
    sleeps()


def counts_up(counter):
    while True:
        counter.value += 1
        time.sleep(0.0005)


def says_when_interrupted(connection):
    try:
        connection.send("ready")
        sleeps()
    except KeyboardInterrupt:
        sys.exit(7)


def tells_who_it_is(connection):
    this, parent = mp.current_process(), mp.parent_process()
    connection.send(
        {
            "name": this.name,
            "class": type(this).__name__,
            "module": type(this).__module__,
            "pid": (this.pid, os.getpid()),
            "daemon": this.daemon,
            "state": getattr(this, "state", None),
            "repr": repr(this),
            "same as the stdlib's": this is multiprocessing.current_process(),
            "children": mp.active_children(),
            "parent": (parent.name, parent.pid, parent.is_alive()),
            "start method": (mp.get_start_method(), multiprocessing.get_start_method()),
            "logging": logging.LogRecord("l", logging.INFO, "p", 1, "m", (), None).processName,
        }
    )


def starts_a_child(connection, method, daemonic):
    process = mp.get_context(method).Process(target=tells_who_it_is, args=(connection,), daemon=daemonic)
    process.start()
    process.join()
    connection.send((process.exitcode, process.name, process.daemon))


def suspends_its_parent(connection, parent):
    for call in ("suspend", "resume"):
        try:
            getattr(parent, call)()
        except AssertionError as error:
            connection.send(str(error))


def finalizes(connection):
    util.Finalize(None, connection.send, ("finalized",), exitpriority=1)


class Gate:
    """Unpickled in the child, it holds up the child's start until the file is there."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return wait_for_file, (self.path,)


def ignores(argument):
    sleeps()


class WithOwnState(mp.Process):
    def __init__(self):
        super().__init__()
        self.state = "mine"

    def run(self):
        sys.exit(5 if self.state == "mine" else 6)


class PicklesItself(mp.context.SpawnProcess):
    """Leaves out what it does not know, as some people's classes do."""

    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name not in ("_lifeline", "_leashed")}
