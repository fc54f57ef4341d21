"""The time limit of a process: what its parent and it have of it."""

import os
from multiprocessing import context as _stdlib_context

__all__ = ()


class TimeLimit:
    """How long a process may run, and the pipe on which its keeper says that the time is over.

    The keeper is a process of its own, which the limited one starts when it begins; how it works is told in the engine's
    `process/keeper.rs`.
    """

    def __init__(self, seconds):
        self.seconds = seconds
        self._reading_end = self._writing_end = -1
        self._keeper = None
        self._report = None

    # In the parent.

    def open(self):
        """Makes the pipe, for a process that is about to be started."""
        self._reading_end, self._writing_end = os.pipe()

    def close_writing_end(self):
        """Lets go of the child's end, once the child has it."""
        end, self._writing_end = self._writing_end, -1
        if end >= 0:
            os.close(end)

    def close(self):
        """Lets go of the parent's end; what was reported stays known."""
        self.report()
        end, self._reading_end = self._reading_end, -1
        if end >= 0:
            os.close(end)

    def report(self):
        """After how many seconds the time was found to be over, and the process's stack; None if it was not."""
        if self._report is None and self._reading_end >= 0:
            from . import _native

            self._report = _native.read_overtime(self._reading_end)
        return self._report

    def __reduce__(self):
        popen = _stdlib_context.get_spawning_popen()
        if popen is None:
            raise TypeError("a process object can be pickled only while its process is being spawned")
        return _received, (self.seconds, popen.DupFd(popen.duplicate_for_child(self._writing_end)))

    # In the child.

    def begin(self):
        """Limits this process from now on."""
        from . import _native, _stack

        if self._reading_end >= 0:
            # It came along by the fork.
            os.close(self._reading_end)
            self._reading_end = -1
        keeper = _native.TimeKeeper()
        try:
            stack = _stack.write_upon(keeper.signal)
        except (OSError, RuntimeError, ValueError):
            # Then the error tells less.
            stack = None
        keeper.begin(self.seconds, self._writing_end, stack)
        self._keeper = keeper
        self.close_writing_end()

    def end(self):
        """Lifts the limit."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.end()


def _received(seconds, descriptor):
    limit = TimeLimit(seconds)
    limit._writing_end = descriptor.detach()
    # It had to be inheritable to get here; programs that this process executes have no business with it.
    os.set_inheritable(limit._writing_end, False)
    return limit
