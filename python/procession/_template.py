"""Spawned interpreters without the wait for them.

A new interpreter takes some 25 ms to import what every spawned process imports first. A process that spawns again under
the same circumstances keeps an interpreter that has come so far, the **template**: it has one thread, knows nothing of the
user's program, and waits. What is spawned from then on is cloned from it, not as its own child but as a child of the process
that asked, with the descriptors that it would have inherited, under the same numbers, and runs the program that it would
have been executed with. All else that a program inherits (environment, directories, identity, limits, signals, and more)
are the *circumstances*: they are compared each time, and where they are not the template's the new process is executed as
ever. So a cloned process begins as an executed one does.

========================== ============================= ==========================================================
dies                       seen by                       consequence
========================== ============================= ==========================================================
the template               who asks: its line has ended  the process is executed; a later one has a new template
who asks                   the template: the line's end  it ends; what was cloned ends as any spawned process does
a clone, before it begins  who asks: the template has    it is a spawned process that was killed
                           told its number as well
========================== ============================= ==========================================================

A template that stands still (somebody stops it) is killed after some seconds, and what it was asked for is executed.
"""

import os
import sys
import threading

__all__ = ()

# How long who asks is held up by a template that has just been started.
_PATIENCE_WHILE_IT_STARTS_SECONDS = 0.25
# One that is ready answers within a millisecond, if the machine has time for it.
_PATIENCE_SECONDS = 5.0
# As many as the kernel takes at once, less the standard streams.
_MOST_DESCRIPTORS = 197

_NAME = "mp-template"


# ---- in the caller ------------------------------------------------------------------------------------------------


class _Template:
    """The template of this process. It inherits that SIGINT is blocked, as it must be while it is started."""

    def __init__(self, executable, options, circumstances, is_interrupt_blocked):
        import socket

        from ._start import execute, program_of
        from ._zygote import _above_standard, _high

        self.circumstances = circumstances
        self.is_ready = False
        self.pid = None
        self._orders = 0
        # Its number alone would do as long as nobody else waits for any child of this process.
        self._pidfd = None
        self._line, theirs = (_above_standard(s) for s in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        caller = None
        try:
            caller = _high(os.pidfd_open(os.getpid()))
            call = f"exec(wait({theirs.fileno()}, {caller}, {os.getpid()}, {is_interrupt_blocked}))"
            arguments = [*options, "-c", program_of("_template", "wait", call), "--multiprocessing-fork"]
            self.pid = execute(executable, arguments, [theirs.fileno(), caller])
            self._pidfd = _high(os.pidfd_open(self.pid))
        except BaseException:
            if self._pidfd is None and self.pid is not None:
                # It ends by the end of its line.
                self._line.close()
                os.waitpid(self.pid, 0)
            self.dismiss()
            raise
        finally:
            theirs.close()
            if caller is not None:
                os.close(caller)

    def is_running(self):
        import select

        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        return not poller.poll(0)

    def becomes_ready(self):
        """Whether it is ready, or is so soon; None if it never will be."""
        if not self.is_ready:
            import select

            poller = select.poll()
            poller.register(self._line, select.POLLIN)
            if not poller.poll(_PATIENCE_WHILE_IT_STARTS_SECONDS * 1000):
                return False
            try:
                if not self._line.recv(16):
                    return None
            except ConnectionResetError:
                return None
            self.is_ready = True
        return True

    def clone(self, program, descriptors):
        """Has it cloned; returns the new process's pid, or None if that cannot be."""
        from . import _native

        descriptors = sorted({0, 1, 2, *descriptors})
        self._orders += 1
        text = f"{' '.join(map(str, descriptors))}\n{program}".encode("utf-8", "surrogateescape")
        line = self._line.fileno()
        answer = _native.order(line, self._orders, text, descriptors, _PATIENCE_SECONDS)
        if answer is None:
            # When nobody has the other end of the line any more, there is no clone either.
            self._kill()
            answer = _native.late_answer(line, self._orders, _PATIENCE_SECONDS)
        return answer if answer is not None and answer > 0 else None

    def _kill(self):
        """Returns whether it is as good as ended."""
        import signal

        try:
            # It has nothing to lose.
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass
        except PermissionError:
            # This process has given up the rights under which it started it.
            return False
        return True

    def dismiss(self):
        if self._pidfd is not None:
            ended = self._kill()
            if not ended:
                import select

                # It ends by the end of its line, unless it stands still.
                self._line.close()
                poller = select.poll()
                poller.register(self._pidfd, select.POLLIN)
                poller.poll(_PATIENCE_SECONDS * 1000)
            try:
                os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | (0 if ended else os.WNOHANG))
            except ChildProcessError:
                # Somebody who waits for any child was quicker.
                pass
        self.forget()

    def descriptors(self):
        """What it is reached by."""
        return [d for d in (self._line.fileno(), self._pidfd) if d is not None and d >= 0]

    def forget(self):
        """Lets go of it. In a forked child that is all: it is the parent's."""
        self._line.close()
        pidfd, self._pidfd = self._pidfd, None
        if pidfd is not None:
            os.close(pidfd)


_template = None
# Those of the last interpreter that was asked for.
_last_circumstances = None
# Those in which a template cannot be, as it has found out itself.
_unfit_circumstances = None
_lock = threading.Lock()
# The process at whose exit the template is dismissed.
_owner = None


def own_descriptors():
    """Descriptors that no forked child of this process keeps."""
    return [] if _template is None else _template.descriptors()


def _forget():
    # A forked child has a template of its own, when it needs one; it must not wait for a thread that it does not have.
    global _template, _lock
    if _template is not None:
        _template.forget()
    _template, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)


def _dismiss():
    global _template
    template, _template = _template, None
    if template is not None:
        template.dismiss()


def start(executable, arguments, descriptors):
    """Starts an interpreter that runs the program which these arguments give by `-c`, with these descriptors; returns its
    pid.
    """
    pid = _clone(executable, arguments, descriptors)
    if pid is None:
        from ._start import execute

        pid = execute(executable, arguments, descriptors)
    return pid


def _clone(executable, arguments, descriptors):
    global _last_circumstances, _unfit_circumstances
    from . import _native

    inherited = _native.circumstances()
    if inherited is None or "-c" not in arguments or not _can_be_placed(descriptors):
        return None
    at = arguments.index("-c")
    options, program = [os.fsencode(argument) for argument in arguments[:at]], arguments[at + 1]
    circumstances = (os.fsencode(executable), options, inherited)
    with _lock:
        come_to_stay, _last_circumstances = circumstances == _last_circumstances, circumstances
        if _template is not None and not _template.is_running():
            if not _template.is_ready:
                _unfit_circumstances = _template.circumstances
            _dismiss()
        if _template is None or _template.circumstances != circumstances:
            if come_to_stay and circumstances != _unfit_circumstances:
                _dismiss()
                _begin(executable, options, circumstances)
            return None
        ready = _template.becomes_ready()
        if ready is None:
            _unfit_circumstances = circumstances
            _dismiss()
        if not ready:
            return None
        pid = _template.clone(program, descriptors)
        if pid is None:
            _dismiss()
        return pid


def _can_be_placed(descriptors):
    """Whether a clone could get these, which an executed program finds at their numbers whatever its limit is."""
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        limit = 1 << 30
    # While it puts them in their places it has each of them up to three times.
    room = 3 * (len(descriptors) + 3) + 16
    return len(descriptors) <= _MOST_DESCRIPTORS and room <= limit and max(descriptors, default=0) < limit


def _begin(executable, options, circumstances):
    global _template, _owner
    import signal

    # Ctrl-C is for the processes that are cloned from it; and none comes here before it is known that there is a template.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        _template = _Template(executable, options, circumstances, signal.SIGINT in mask)
    except OSError:
        # Then there is hardly room for a process.
        return
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if _owner != os.getpid():
        from multiprocessing import util

        # Last of all: what ends before may spawn still.
        util.Finalize(None, _dismiss, exitpriority=-1000)
        _owner = os.getpid()


# ---- in the template ----------------------------------------------------------------------------------------------


def wait(line, caller, caller_pid, is_interrupt_blocked):
    """In the template, which does not return from here; in each of its clones, returns the program that it is to run."""
    import gc
    import select
    import signal
    import socket

    try:
        _preload()
        from . import _native, _zygote
    except BaseException:
        # What is wrong is said by the processes that are executed in the place of clones.
        os._exit(1)
    for descriptor in (line, caller):
        os.set_inheritable(descriptor, False)
    # Its clones are its parent's children, and it tells their numbers: it must be the caller's own child (which it is not if
    # a program in between has started it), and both must number processes alike (which namespaces do not).
    if os.getppid() != caller_pid or not _native.can_clone_sibling() or _is_traced():
        os._exit(0)
    name = _rename(_NAME)
    server = socket.socket(fileno=line)
    poller = select.poll()
    for descriptor in (line, caller):
        poller.register(descriptor, select.POLLIN)
    gc.collect()
    # A clone that collects garbage has no need to look at what it will never let go of, and would copy the memory.
    gc.freeze()
    _tell(server, "ready")
    while True:
        if any(descriptor == caller for descriptor, _ in poller.poll()):
            os._exit(0)
        try:
            message, received, flags, _ = socket.recv_fds(server, 1 << 16, 256)
        except (ConnectionResetError, MemoryError):
            # Gone, with an answer unread; or there is no room for an order, let alone for a process.
            message = b""
        if not message:
            os._exit(0)
        number, targets, program = message.decode("utf-8", "surrogateescape").split("\n", 2)
        targets = [int(target) for target in targets.split()]
        try:
            if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC) or len(targets) != len(received):
                raise _zygote._too_many_descriptors()
            pid = _native.clone_sibling()
        except OSError as error:
            _tell(server, f"{number} {-(error.errno or 1)}")
        else:
            _tell(server, f"{number} {pid or os.getpid()}")
            if pid == 0:
                break
        for descriptor in received:
            os.close(descriptor)
    server.close()
    os.close(caller)
    _rename(name)
    _place(received, targets)
    if not is_interrupt_blocked:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    return program


def _preload():
    # What spawned processes import before they know what they are for.
    import multiprocessing.connection
    import multiprocessing.popen_spawn_posix
    import multiprocessing.resource_tracker
    import multiprocessing.spawn
    import multiprocessing.util
    import pkgutil  # noqa: F401

    from . import _worker, _zygote, context  # noqa: F401


def _is_traced():
    """Whether somebody watches this interpreter, who expects each process to begin by itself."""
    if sys.gettrace() is not None or sys.getprofile() is not None:
        return True
    monitoring = getattr(sys, "monitoring", None)
    return monitoring is not None and any(monitoring.get_tool(number) is not None for number in range(6))


def _rename(name):
    """Names this process for those who look at it; returns the name that it had."""
    try:
        with open("/proc/self/comm", "r+") as file:
            former = file.read().strip()
            file.seek(0)
            file.write(name)
            return former
    except OSError:
        return name


def _tell(server, text):
    try:
        server.send(text.encode())
    except OSError:
        # Nobody wants to know any more.
        pass


def _place(received, targets):
    """Moves descriptors to their numbers, as they would have been inherited."""
    taken = set(targets)
    moved = []
    for descriptor in received:
        # One that is in the way of another goes where nobody is; what it leaves is a target, which is overwritten.
        while descriptor in taken:
            descriptor = os.dup(descriptor)
        moved.append(descriptor)
    for descriptor, target in zip(moved, targets):
        os.dup2(descriptor, target, inheritable=True)
    for descriptor in moved:
        os.close(descriptor)
