"""The `Process` classes: the standard library's, and a little more.

Everything of `multiprocessing.process` is here, and its state (the current process, its children, the counter that
names them) is the standard library's own: a process started by either package is seen by both. On top of that:

* `Process.suspend`, `Process.resume` and `Process.state`;
* `Process.interrupt`, which the standard library has from Python 3.14 on;
* `Process(timeout=seconds)` ends a process that runs too long, with all its descendants;
* daemonic processes, pool workers among them, may have children;
* a daemonic process, and any process started by one, ends with its parent, **however** the parent ends. The standard
  library does that only for a parent that exits in good order; a killed one leaves orphans there.

A process is in one of these states:

=========== ====================================================================================
state       meaning
=========== ====================================================================================
initial     the object exists, `start()` has not been called
starting    the process exists; a spawned one is still importing modules
running     it runs its target (or waits inside of it)
suspended   it is stopped, by `suspend()` or by anybody's SIGSTOP or Ctrl-Z, until SIGCONT
ended       it has exited or was killed; `exitcode` tells how
=========== ====================================================================================
"""

import os
import signal
import sys
from multiprocessing import context as _stdlib_context
from multiprocessing import process as _stdlib_process
from multiprocessing.process import (
    AuthenticationString,
    BaseProcess,
    active_children,
    current_process,
    parent_process,
)
from time import monotonic, sleep

__all__ = ["BaseProcess", "current_process", "active_children", "parent_process"]

# A wait for the end of a process that takes longer is entered among those in which deadlocks are looked for.
_JOIN_IN_SILENCE_SECONDS = 0.05

# A stopped process is stopped within microseconds, unless it sits in an uninterruptible system call (a dead network
# file system, say): nobody may hang on that.
_SUSPEND_PATIENCE_SECONDS = 1.0


def __getattr__(name):
    # Private state that libraries look up here (`_current_process`, `_children`, `_dangling` ...) changes over time, so
    # it is read where it lives at each access.
    return getattr(_stdlib_process, name)


class _State:
    """Where the process is in its life: "initial", "starting", "running", "suspended" or "ended"."""

    # Not a property: people's own Process classes say `self.state = ...` in their `__init__`, which must hide this one
    # and not raise.

    def __get__(self, process, owner=None):
        return self if process is None else process._current_state()


class _TimedOut:
    """Whether the process ran longer than its `timeout`, and has been ended for it or is about to be."""

    # As `_State`, no property.

    def __get__(self, process, owner=None):
        return self if process is None else process._overtime() is not None


class _TimeoutError:
    """The `TaskTimeout` that tells how long the process had run and where it was, if it timed out; else None."""

    def __get__(self, process, owner=None):
        if process is None:
            return self
        overtime = process._overtime()
        if overtime is None:
            return None
        from .errors import process_timeout

        pid = process._popen.pid if process._popen is not None else None
        return process_timeout(process.name, pid, overtime[0], process._time_limit.seconds, overtime[1])


def own_descriptors():
    """Descriptors that no forked child of this process keeps."""
    return list(_Lifeline._held)


class _Lifeline:
    """A pipe from a parent to its child: says to the parent that the child has started, and to the child that the parent is gone.

    The parent alone holds the writing end. One byte waits in the pipe until the child takes it: then the child has
    started. When the last writing end closes, the kernel sends the child SIGKILL, whatever the child is busy with: no
    thread waits for it, and no code of the child has to run.
    """

    # Writing ends that this process holds. A forked child must let go of them: a sibling that holds one would keep the
    # child on the other end of it alive.
    _held = set()
    _guards_forks = False

    __slots__ = ("_reading_end", "_writing_end")

    def __init__(self):
        if not _Lifeline._guards_forks:
            os.register_at_fork(after_in_child=_Lifeline._let_go_of_all)
            _Lifeline._guards_forks = True
        self._reading_end, self._writing_end = os.pipe()
        _Lifeline._held.add(self._writing_end)
        # Written before the child exists, so that the only thing that can ever happen to the pipe afterwards, and so
        # the only reason for its signal, is the parent's end.
        os.write(self._writing_end, b".")

    @classmethod
    def _let_go_of_all(cls):
        while cls._held:
            os.close(cls._held.pop())

    def __reduce__(self):
        popen = _stdlib_context.get_spawning_popen()
        if popen is None:
            raise TypeError("a process object can be pickled only while its process is being spawned")
        return _received_lifeline, (popen.DupFd(popen.duplicate_for_child(self._reading_end)),)

    def close_reading_end(self):
        os.close(self._reading_end)
        self._reading_end = -1

    def close(self):
        """Closes the writing end. Where the child is leashed and alive this ends it."""
        end, self._writing_end = self._writing_end, -1
        # Forgotten before it is closed: its number may belong to another file at once.
        if end in _Lifeline._held:
            _Lifeline._held.discard(end)
            os.close(end)

    def has_started(self):
        """Whether the child has taken the byte (asked by the parent)."""
        if self._writing_end < 0:
            return True
        import fcntl
        import select
        import termios

        poller = select.poll()
        poller.register(self._writing_end, 0)
        if poller.poll(0):
            # No reader is left: the child closed its end, or never knew of it (a subclass that pickles itself in its
            # own way).
            return True
        return not int.from_bytes(fcntl.ioctl(self._writing_end, termios.FIONREAD, bytes(4)), sys.byteorder)

    def take(self, leashed):
        """Says "started" (called by the child), and if `leashed` asks the kernel to end this process with its parent."""
        os.read(self._reading_end, 1)
        if not leashed:
            self.close_reading_end()
            return
        import fcntl
        import select

        fcntl.fcntl(self._reading_end, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(self._reading_end, fcntl.F_SETSIG, signal.SIGKILL)
        flags = fcntl.fcntl(self._reading_end, fcntl.F_GETFL)
        fcntl.fcntl(self._reading_end, fcntl.F_SETFL, flags | os.O_ASYNC)
        # The parent may have gone before the kernel was asked to tell.
        poller = select.poll()
        poller.register(self._reading_end, 0)
        if poller.poll(0):
            os.kill(os.getpid(), signal.SIGKILL)


def _received_lifeline(descriptor):
    lifeline = _Lifeline.__new__(_Lifeline)
    lifeline._reading_end = descriptor.detach()
    # It had to be inheritable to get here; programs that this process executes have no business with it.
    os.set_inheritable(lifeline._reading_end, False)
    lifeline._writing_end = -1
    return lifeline


class _Controllable(BaseProcess):
    """What our process classes have beyond the standard library's."""

    _lifeline = None
    _time_limit = None

    state = _State()
    timed_out = _TimedOut()
    timeout_error = _TimeoutError()

    def __init__(self, group=None, target=None, name=None, args=(), kwargs={}, *, daemon=None, timeout=None, **unknown):
        # What is unknown is refused there, in the standard library's words.
        super().__init__(group, target, name, args, kwargs, daemon=daemon, **unknown)
        if timeout is not None:
            if not isinstance(timeout, (int, float)) or isinstance(timeout, bool):
                raise TypeError(f"timeout must be a number of seconds or None, not {type(timeout).__name__}")
            if not timeout > 0:
                raise ValueError("timeout must be a positive number of seconds or None")
            from ._time_limit import TimeLimit

            self._time_limit = TimeLimit(timeout)

    def _overtime(self):
        return None if self._time_limit is None else self._time_limit.report()

    def start(self):
        """Starts the child process. Unlike the standard library's, daemonic processes may call this too."""
        self._check_closed()
        assert self._popen is None, "cannot start a process twice"
        assert self._parent_pid == os.getpid(), "can only start a process object created by current process"

        in_daemon = current_process()._config.get("daemon")
        self._leashed = bool(in_daemon or self.daemon)
        method = self._start_method or _stdlib_context._default_context.get_start_method()
        # A forked child runs at once and, if not leashed, needs nothing from us: no descriptor is spent on it.
        if self._leashed or method != "fork":
            self._lifeline = _Lifeline()
        limit = self._time_limit
        if limit is not None:
            limit.open()
        try:
            if in_daemon:
                self._start_in_daemon()
            else:
                super().start()
        except BaseException:
            if self._lifeline is not None:
                self._lifeline.close_reading_end()
                self._lifeline.close()
                self._lifeline = None
            if limit is not None:
                limit.close_writing_end()
                limit.close()
            raise
        if self._lifeline is not None:
            from multiprocessing.util import Finalize

            self._lifeline.close_reading_end()
            Finalize(self._popen, self._lifeline.close)
        if limit is not None:
            from multiprocessing.util import Finalize

            limit.close_writing_end()
            Finalize(self._popen, limit.close)

    def _start_in_daemon(self):
        # What BaseProcess.start does after the check that forbids it. The reason for that check (a daemonic process is
        # ended by a signal, so it cannot end its own children) is met by the leash.
        _stdlib_process._cleanup()
        self._popen = self._Popen(self)
        self._sentinel = self._popen.sentinel
        # The target may refer back to this object; parent and child need it no more.
        del self._target, self._args, self._kwargs
        _stdlib_process._children.add(self)

    def _bootstrap(self, parent_sentinel=None):
        if self._lifeline is not None:
            self._lifeline.take(self._leashed)
        if self._time_limit is None:
            return super()._bootstrap(parent_sentinel)
        self._time_limit.begin()
        try:
            return super()._bootstrap(parent_sentinel)
        finally:
            self._time_limit.end()

    def join(self, timeout=None):
        """Waits until the process has ended, for `timeout` seconds at most."""
        popen = self._popen
        # As long as this process has no lock of ours, nobody can wait for one that it holds.
        may_deadlock = "procession._native" in sys.modules
        if may_deadlock and timeout is None and popen is not None and self._parent_pid == os.getpid():
            if popen.wait(_JOIN_IN_SILENCE_SECONDS) is None:
                # It takes a while, so others may see that we wait: for a lock that we hold the process may wait in turn.
                from ._native import wait_for_process

                wait = wait_for_process(popen.pid)
                try:
                    super().join()
                finally:
                    if wait is not None:
                        wait.end()
                return
        super().join(timeout)

    def suspend(self):
        """Stops the process where it is (SIGSTOP) until `resume()`. It keeps its memory and its locks.

        Returns when the process has stopped. A process that has ended is left alone. When the parent exits, it resumes
        its suspended children, and terminates those that are daemonic, as it waits for them.

        Raises:
            ValueError: the process was not started, or this object is closed.
            AssertionError: the process is not a child of the calling one.
        """
        self._check_started_child("suspend")
        popen = self._popen
        self._resume_at_exit(popen)
        popen._send_signal(signal.SIGSTOP)
        deadline, pause_seconds = monotonic() + _SUSPEND_PATIENCE_SECONDS, 0.00002
        while popen.poll() is None and _kernel_state(popen.pid) not in "TtZX" and monotonic() < deadline:
            sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 2, 0.01)

    def resume(self):
        """Lets a suspended process go on (SIGCONT). A process that runs, or has ended, is left alone.

        Raises:
            ValueError: the process was not started, or this object is closed.
            AssertionError: the process is not a child of the calling one.
        """
        self._check_started_child("resume")
        self._popen._send_signal(signal.SIGCONT)

    def terminate(self):
        """Terminates the process by SIGTERM; a suspended one is resumed for that, as the signal would wait with it."""
        super().terminate()
        popen = self._popen
        if popen.returncode is None and _kernel_state(popen.pid) == "T":
            popen._send_signal(signal.SIGCONT)

    if not hasattr(BaseProcess, "interrupt"):

        def interrupt(self):
            """Interrupts the process by SIGINT, which raises KeyboardInterrupt in it."""
            self._check_closed()
            self._popen._send_signal(signal.SIGINT)

    def _check_started_child(self, verb):
        self._check_closed()
        assert self._parent_pid == os.getpid(), f"can only {verb} a child process"
        if self._popen is None:
            raise ValueError("process not started")

    def _resume_at_exit(self, popen):
        # At exit the standard library terminates daemonic children and then waits for all: without this it would wait
        # for a suspended one for ever.
        if getattr(popen, "_resumed_at_exit", False):
            return
        from multiprocessing.util import Finalize
        from weakref import ref

        Finalize(popen, _resume_child, (ref(popen), self.daemon), exitpriority=20)
        popen._resumed_at_exit = True

    def _current_state(self):
        self._check_closed()
        if self is current_process():
            return "running"
        assert self._parent_pid == os.getpid(), "can only test a child process"
        popen = self._popen
        if popen is None:
            # Another thread may be inside start().
            return "initial" if self._lifeline is None else "starting"
        if popen.poll() is not None:
            return "ended"
        letter = _kernel_state(popen.pid)
        if letter in "Tt":
            return "suspended"
        if letter in "ZX":
            return "ended"
        if self._lifeline is not None and not self._lifeline.has_started():
            return "starting"
        return "running"


def _resume_child(popen_reference, daemonic):
    popen = popen_reference()
    if popen is not None:
        if daemonic:
            popen.terminate()
        popen._send_signal(signal.SIGCONT)


def _kernel_state(pid):
    """The letter that /proc shows for a process: T stopped, t held by a debugger, Z and X ended, any other alive."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as status:
            # The name before it stands in parentheses and may hold any character.
            return chr(status.read().rpartition(b")")[2].split()[0][0])
    except (FileNotFoundError, ProcessLookupError):
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "X"
    return "R"


class Process(_Controllable, _stdlib_context.Process):
    """A child process, started by the start method that is set when it starts. See `multiprocessing.Process`."""

    @staticmethod
    def _Popen(process_obj):
        from .context import _default_context

        return _default_context.get_context().Process._Popen(process_obj)


class ForkProcess(_Controllable, _stdlib_context.ForkProcess):
    """A child process that is forked from this one."""


class SpawnProcess(_Controllable, _stdlib_context.SpawnProcess):
    """A child process in a new interpreter."""

    @staticmethod
    def _Popen(process_obj):
        from ._popen import SpawnPopen

        return SpawnPopen(process_obj)


class ForkServerProcess(_Controllable, _stdlib_context.ForkServerProcess):
    """A child process that is forked from a server which was started early and stays small."""

    @staticmethod
    def _Popen(process_obj):
        from ._popen import ForkServerPopen

        return ForkServerPopen(process_obj)
