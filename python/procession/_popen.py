"""How processes start: what our `Process` classes have in the place of `multiprocessing.popen_*`."""

import io
import os
import threading
from multiprocessing import forkserver, popen_forkserver, popen_spawn_posix, reduction, resource_tracker, spawn, util
from multiprocessing.context import set_spawning_popen

from ._start import preparation

__all__ = ()


def tracker():
    """The resource tracker's descriptor. It must run: what a child makes may outlive the child."""
    known = resource_tracker._resource_tracker
    pid = getattr(known, "_pid", None)
    if known._fd is not None and pid is not None:
        try:
            # Cheaper than `getfd`, which has it wake up to see whether it lives.
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return known._fd
        except ChildProcessError:
            pass
    return resource_tracker.getfd()


def _pickled(popen, process):
    data = preparation(process._name)
    buffer = io.BytesIO()
    set_spawning_popen(popen)
    try:
        reduction.dump(data, buffer)
        reduction.dump(process, buffer)
    finally:
        set_spawning_popen(None)
    return buffer.getbuffer()


class ForkServerPopen(popen_forkserver.Popen):
    """A process that our own forkserver forks: the one that pools have, which imports the main module once for all."""

    def __init__(self, process):
        self._ending = threading.RLock()
        super().__init__(process)

    def poll(self, flag=os.WNOHANG):
        """The exit code, once there is one."""
        if self.returncode is None:
            from multiprocessing.connection import wait

            if not wait([self.sentinel], 0 if flag == os.WNOHANG else None):
                return None
            # It is told once: of several threads one hears it, for all of them.
            with self._ending:
                if self.returncode is None:
                    super().poll(flag)
        return self.returncode

    def _launch(self, process):
        from . import _zygote

        data = _pickled(self, process)
        # As in multiprocessing: the child reads from one pipe what it is, and the writing end, which we keep, tells it by
        # closing that we are gone; the other one tells the pid first, and the exit code when it is over.
        child_reads, parent_writes = os.pipe()
        self.sentinel, server_writes = os.pipe()
        self.finalizer = util.Finalize(self, util.close_fds, (parent_writes, self.sentinel))
        try:
            _zygote.ask_for_process(child_reads, server_writes, self._fds)
        finally:
            os.close(child_reads)
            os.close(server_writes)
        try:
            pid = forkserver.read_signed(self.sentinel)
        except EOFError:
            raise OSError("the forkserver ended while it was asked for a process")
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid))
        self.pid = pid
        try:
            with open(parent_writes, "wb", closefd=False) as file:
                file.write(data)
        except BrokenPipeError:
            # The child ended before it read all of that, and will be found so.
            pass


class SpawnPopen(popen_spawn_posix.Popen):
    """A process in a new interpreter, or in the clone of one that nobody has used."""

    def _launch(self, process):
        from . import _template

        tracker_descriptor = tracker()
        self._fds.append(tracker_descriptor)
        data = _pickled(self, process)
        child_reads, parent_writes = os.pipe()
        self.sentinel, child_writes = os.pipe()
        self.finalizer = util.Finalize(self, util.close_fds, (self.sentinel, parent_writes))
        try:
            command = spawn.get_command_line(tracker_fd=tracker_descriptor, pipe_handle=child_reads)
            self._fds += [child_reads, child_writes]
            self.pid = _template.start(spawn.get_executable(), command, self._fds)
        finally:
            os.close(child_reads)
            os.close(child_writes)
        try:
            with open(parent_writes, "wb", closefd=False) as file:
                file.write(data)
        except BrokenPipeError:
            # The child ended before it read all of that, and will be found so.
            pass
