"""Ends a test that hangs, and shows where: the stacks of all threads of the test process and of its children.

The watchdog is a process of its own and not a thread of the test process, because a thread would be a disturbance that
users don't have: from Python 3.12 on each ``os.fork()`` of a process with a second thread warns. It is nobody's child
either, so that tests may wait for any child of theirs.

When a test's time is over, the watchdog writes the process tree, asks each process that listens for its stacks, and
has the test fail. A test that still goes on after a grace time is ended together with the whole run.

Run as a script it is the watchdog itself; imported it is the test process's side, :class:`Watchdog`.
"""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import subprocess
import sys
import time
from typing import Callable, TextIO

#: Asks a process for the stacks of all its threads. A realtime signal, as tests use the common ones themselves.
DUMP_SIGNAL = signal.SIGRTMAX - 1
#: Tells the test process that the time of the running test is over.
FAIL_SIGNAL = signal.SIGRTMAX - 2
#: How long a test may go on after it was told that its time is over.
GRACE_SECONDS = 20.0


class Watchdog:
    """The test process's side."""

    def __init__(self, report: TextIO, on_timeout: Callable[[], None]) -> None:
        """Starts the watchdog, which writes to ``report`` (and closes it in the end); ``on_timeout`` is called, in the
        main thread, when a test's time is over."""
        self._report = report
        reading, self._writing = os.pipe()
        faulthandler.register(DUMP_SIGNAL, file=report, all_threads=True)
        signal.signal(FAIL_SIGNAL, lambda signum, frame: on_timeout())
        starter = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(os.getpid())],
            stdin=reading,
            stdout=report,
            stderr=report,
            env={},
            start_new_session=True,
        )
        os.close(reading)
        starter.wait()

    def watch(self, limit_seconds: float, what: str) -> None:
        """From now on ``what`` may take ``limit_seconds``."""
        self._tell(f"{limit_seconds} {what}")

    def relax(self) -> None:
        """Nothing is to be watched until the next :meth:`watch`."""
        self._tell("0 nothing")

    def _tell(self, line: str) -> None:
        try:
            os.write(self._writing, line.replace("\n", " ").encode() + b"\n")
        except BrokenPipeError:
            pass  # Someone ended the watchdog; tests still run without.

    def stop(self) -> None:
        """Ends the watchdog."""
        os.close(self._writing)
        faulthandler.unregister(DUMP_SIGNAL)
        signal.signal(FAIL_SIGNAL, signal.SIG_IGN)
        self._report.close()


def _catches(pid: int, signum: int) -> bool:
    try:
        with open(f"/proc/{pid}/status") as status:
            for line in status:
                if line.startswith("SigCgt:"):
                    return bool(int(line.split()[1], 16) >> (signum - 1) & 1)
    except OSError:
        pass
    return False


def _send(pid: int, signum: int) -> None:
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        pass


def _stop_processes(root: int) -> None:
    from leftovers import descendants

    for info in descendants(root):
        _send(info.pid, signal.SIGKILL)
    _send(root, signal.SIGKILL)


def _report_stacks(root: int, what: str, limit_seconds: float) -> None:
    from leftovers import descendants, process_info

    print(f"\n++++ watchdog: {what} is not done after {limit_seconds:g} s ++++", flush=True)
    for info in [process_info(root), *descendants(root)]:
        if info is None:
            continue
        try:
            with open(f"/proc/{info.pid}/wchan") as file:
                waiting_in = file.read()
        except OSError:
            waiting_in = "?"
        print(f"\n-- {info}, in the kernel: {waiting_in}", flush=True)
        if _catches(info.pid, DUMP_SIGNAL):
            _send(info.pid, DUMP_SIGNAL)
            time.sleep(0.2)  # Stacks of several processes, one after the other.
    print("++++ watchdog: end of report ++++", flush=True)


def _main(watched_pid: int) -> None:
    if os.fork() != 0:
        os._exit(0)
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import leftovers

    parent = leftovers.process_info(watched_pid)
    buffered = b""
    deadline: float | None = None
    what, limit_seconds, told = "", 0.0, False
    while True:
        # Forked children of the tests hold the pipe too, so its end alone would not tell that the test process is gone.
        now = leftovers.process_info(watched_pid)
        if now is None or now.state in "ZX" or parent is None or now.started_ticks != parent.started_ticks:
            return
        timeout = 1.0 if deadline is None else max(0.0, min(1.0, deadline - time.monotonic()))
        if select.select([0], [], [], timeout)[0]:
            received = os.read(0, 65536)
            if not received:
                return
            buffered += received
            *lines, buffered = buffered.split(b"\n")
            for line in lines:
                limit, _, what = line.decode(errors="replace").partition(" ")
                limit_seconds, told = float(limit), False
                deadline = time.monotonic() + limit_seconds if limit_seconds > 0 else None
        elif deadline is not None and time.monotonic() >= deadline:
            _report_stacks(watched_pid, what, limit_seconds)
            if told:
                print(f"++++ watchdog: {what} does not give up either, so the run ends here ++++", flush=True)
                _stop_processes(watched_pid)
                return
            told = True
            deadline = time.monotonic() + GRACE_SECONDS
            _send(watched_pid, FAIL_SIGNAL)


if __name__ == "__main__":
    _main(int(sys.argv[1]))
