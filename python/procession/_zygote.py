"""Clean interpreters that become pools' supervisors: one for each pool (spawn), or one server for all (forkserver)."""

import os
import sys

__all__ = ()

# Descriptors that the kernel takes at once; what is beyond them goes ahead of an order.
_MOST_AT_ONCE = 253
_MORE = b"more"

# ---- in the clean interpreter -------------------------------------------------------------------------------------


def _become_supervisor(memory, results, line, caller, block, length, inherited=()):
    """Unpacks what the pool's caller has packed and supervises; never returns."""
    code = 1
    try:
        try:
            settings, prefix = _unpack(memory, block, length, inherited)
        except BaseException:
            import traceback

            from . import _native

            text = f"a worker process could not be prepared\n\n{traceback.format_exc()}"
            _native.report_broken(memory, results, text)
            os._exit(1)
        from ._worker import supervise

        code = supervise(memory, results, line, caller, settings, prefix)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def _unpack(memory, block, length, inherited):
    import io
    import pickle
    from multiprocessing import process, resource_tracker, spawn

    from . import _native

    buffer = io.BytesIO(_native.read_stash(memory, block, length))
    if inherited:
        from multiprocessing import forkserver

        forkserver._forkserver._inherited_fds = list(inherited)
    current = process.current_process()
    # A main module that is imported here and makes a pool, unguarded, is told so instead of making pools for ever.
    current._inheriting = True
    try:
        spawn.prepare(pickle.load(buffer))
        settings, prefix, tracker = pickle.load(buffer)
    finally:
        del current._inheriting
    if tracker is not None:
        resource_tracker._resource_tracker._fd = tracker.detach()
    return settings, prefix


def _open_standard_streams():
    # Where they are closed, what comes next would get their numbers.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def spawn_main(memory, results, line, caller, block, length):
    """The whole life of an interpreter that was executed for one pool."""
    _open_standard_streams()
    _become_supervisor(memory, results, line, caller, block, length)


def forkserver_main(line, caller, preparation):
    """The whole life of the forkserver: forks a process whenever one is asked for, until its own process is gone."""
    import select
    import signal
    import socket

    _open_standard_streams()
    _preload(preparation)
    # Ctrl-C is for the processes that it forked.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server = socket.socket(fileno=line)
    poller = select.poll()
    for descriptor in (line, caller):
        os.set_inheritable(descriptor, False)
        poller.register(descriptor, select.POLLIN)
    # For each child its pidfd, its pid, and where to tell how it ended, if anybody wants to know.
    children = {}
    # What has come ahead of an order.
    ahead, ahead_truncated = [], False
    while True:
        for descriptor, _ in poller.poll():
            if descriptor in children:
                poller.unregister(descriptor)
                _reap(descriptor, *children.pop(descriptor))
                continue
            gone = descriptor == caller
            message, descriptors, flags, _ = (None, [], 0, None) if gone else socket.recv_fds(server, 4096, 256)
            if not message:
                # Nothing of the caller's program is below this; what there is of it would only cost time.
                os._exit(0)
            total, order = message.split(b" ", 1)
            ahead += descriptors
            ahead_truncated = ahead_truncated or bool(flags & socket.MSG_CTRUNC)
            if order == _MORE:
                continue
            # An order of which only a part has come, as its sender was interrupted, is void.
            begin = max(len(ahead) - int(total), 0)
            for stale in ahead[:begin]:
                os.close(stale)
            descriptors, truncated = ahead[begin:], ahead_truncated
            ahead, ahead_truncated = [], False
            child = _fork(server, caller, children, order, descriptors, truncated)
            if child is not None:
                pidfd, *about = child
                children[pidfd] = about
                poller.register(pidfd, select.POLLIN)


def _fork(server, caller, children, message, descriptors, truncated):
    """Forks what was asked for and answers; returns (pidfd, pid, where to tell how it ended), or None if it could not."""
    import signal
    import socket

    kind, *numbers = message.split()
    is_process = kind == b"process"
    status = None
    if is_process and len(descriptors) > 1:
        # The first is the child's, the second ours: there we tell the pid, and later the exit status.
        status = descriptors.pop(1)
    pid = None
    try:
        if truncated or is_process and status is None:
            raise _too_many_descriptors()
        pid = os.fork()
        if pid == 0:
            _begin(server, caller, children, status)
            if is_process:
                _become_process(*descriptors)
            memory, results, line, pool_caller, *inherited = descriptors
            _become_supervisor(memory, results, line, pool_caller, *map(int, numbers), inherited)
        pidfd = os.pidfd_open(pid)
        if is_process:
            _tell(status, pid)
        else:
            socket.send_fds(server, [str(pid).encode()], [pidfd])
        return pidfd, pid, status
    except OSError as error:
        if pid is not None:
            # A supervisor would end by itself when the caller lets go of the other end of its line.
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        if is_process:
            if status is not None:
                _tell(status, -error.errno)
                os.close(status)
        else:
            server.send(f"-{error.errno}".encode())
        return None
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _begin(server, caller, children, status):
    """In the child: lets go of what is the server's."""
    import signal

    server.close()
    os.close(caller)
    if status is not None:
        os.close(status)
    for pidfd, (_, other) in children.items():
        os.close(pidfd)
        if other is not None:
            os.close(other)
    children.clear()
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _become_process(data, tracker, *inherited):
    """What multiprocessing's own forkserver does in a child; never returns."""
    code = 1
    try:
        from multiprocessing import forkserver, resource_tracker, spawn

        from ._worker import forget_exit_functions, run_exit_functions

        forget_exit_functions()
        forkserver._forkserver._inherited_fds = list(inherited)
        resource_tracker._resource_tracker._fd = tracker
        code = spawn._main(data, os.dup(data))
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
    finally:
        try:
            run_exit_functions("forkserver")
        finally:
            os._exit(code)


def _tell(status, number):
    from multiprocessing.forkserver import write_signed

    try:
        write_signed(status, number)
    except OSError:
        # Nobody wants to know any more.
        pass


def _reap(pidfd, pid, status):
    _, how = os.waitpid(pid, 0)
    os.close(pidfd)
    if status is not None:
        _tell(status, os.waitstatus_to_exitcode(how))
        os.close(status)


def _too_many_descriptors():
    import errno

    return OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def _preload(preparation):
    import pickle
    from multiprocessing import process, spawn

    with open(preparation, "rb") as file:
        modules, data = pickle.load(file)
    sys.path[:] = data["sys_path"]
    sys.argv = data["sys_argv"]
    if "__main__" in modules:
        current = process.current_process()
        # A main module that makes a process here, unguarded, is told so.
        current._inheriting = True
        try:
            if "init_main_from_path" in data:
                spawn.import_main_path(data["init_main_from_path"])
            elif "init_main_from_name" in data:
                spawn._fixup_main_from_name(data["init_main_from_name"])
        except BaseException:
            # Whoever needs the module will import it again, and hear then what is wrong with it.
            pass
        finally:
            del current._inheriting
    for name in modules:
        try:
            __import__(name)
        except Exception:
            pass
    # What each child would otherwise import for itself.
    import multiprocessing.connection
    import multiprocessing.forkserver
    import multiprocessing.popen_forkserver
    import multiprocessing.resource_tracker
    import multiprocessing.util  # noqa: F401

    from . import _native, _worker, context  # noqa: F401

    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass


# ---- in the caller ------------------------------------------------------------------------------------------------


class _Server:
    """This process's forkserver."""

    def __init__(self):
        self.pid = None
        self.owner = None
        self.socket = None

    def is_usable(self):
        if self.pid is None or self.owner != os.getpid():
            return False
        try:
            ended, _ = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            ended = self.pid
        if ended:
            self.socket.close()
            self.pid = None
            return False
        return True

    def start(self):
        import pickle
        import socket
        from multiprocessing import forkserver

        from ._start import command, execute
        from ._start import preparation as prepare

        data = prepare("forkserver")
        # Not for the server: each process brings its own, and this one refuses to be pickled.
        data.pop("authkey")
        ours, theirs = (_above_standard(s) for s in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        open_here = []
        try:
            open_here.append(_high(os.pidfd_open(os.getpid())))
            open_here.append(_high(os.memfd_create("procession-forkserver")))
            caller, preparation = open_here
            os.write(preparation, pickle.dumps((list(forkserver._forkserver._preload_modules), data)))
            os.lseek(preparation, 0, os.SEEK_SET)
            executable, arguments = command("forkserver_main", theirs.fileno(), caller, preparation)
            self.pid = execute(executable, arguments, [theirs.fileno(), caller, preparation])
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            for descriptor in open_here:
                os.close(descriptor)
        self.owner = os.getpid()
        self.socket = ours

    def ask_for_process(self, descriptors):
        self._order(b"process", descriptors)

    def _order(self, text, descriptors):
        import socket

        total = b"%d " % len(descriptors)
        while len(descriptors) > _MOST_AT_ONCE:
            socket.send_fds(self.socket, [total + _MORE], descriptors[:_MOST_AT_ONCE])
            descriptors = descriptors[_MOST_AT_ONCE:]
        socket.send_fds(self.socket, [total + text], descriptors)

    def ask_for_supervisor(self, descriptors, block, length, inherited):
        import socket

        # The answer brings a descriptor, which the kernel drops without a word where there is no room for it.
        room = os.dup(self.socket.fileno())
        try:
            self._order(f"supervisor {block} {length}".encode(), [*descriptors, *inherited])
        finally:
            os.close(room)
        answer, received, _, _ = socket.recv_fds(self.socket, 64, 1)
        if not answer:
            raise OSError("the forkserver ended while it was asked for a process")
        number = int(answer)
        if number < 0:
            raise OSError(-number, os.strerror(-number))
        if not received:
            # Another thread took the room. Without its pool the supervisor ends by itself.
            raise _too_many_descriptors()
        return number, received[0]

    def stop(self):
        if self.pid is not None and self.owner == os.getpid():
            self.socket.close()
            pid, self.pid = self.pid, None
            try:
                os.waitpid(pid, 0)
            except ChildProcessError:
                pass


def _high(descriptor):
    """The same file under a number that is not a standard stream's, for programs which have closed those."""
    if descriptor > 2:
        return descriptor
    import fcntl

    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(descriptor)
    return high


def _above_standard(end):
    import socket

    return socket.socket(fileno=_high(end.detach()))


_server = None
_lock = None


def own_descriptors():
    """Descriptors that no forked child of this process keeps."""
    connection = None if _server is None else _server.socket
    return [] if connection is None or connection.fileno() < 0 else [connection.fileno()]


def _forget_server():
    # A forked child has a server of its own, when it needs one; it must not wait for a thread that it does not have.
    global _server, _lock
    if _server is not None:
        _server.socket.close()
    _server = _lock = None


def _ask(question):
    """Has the server (started if need be) answer; once more with a new one, if it died since we looked."""
    global _server, _lock
    import threading

    if _lock is None:
        _lock = threading.Lock()
        os.register_at_fork(after_in_child=_forget_server)
    with _lock:
        if _server is None or not _server.is_usable():
            _start_server()
        try:
            return question(_server)
        except (BrokenPipeError, ConnectionResetError):
            _start_server()
            return question(_server)


def _start_server():
    global _server
    from multiprocessing import util

    server = _Server()
    server.start()
    _server = server
    # Last of all: before, the processes that it forked are joined, and it is the one that tells how they ended.
    util.Finalize(server, _server_stopper(server), exitpriority=-1000)


def ask_for_supervisor(descriptors, block, length, inherited):
    """Has the forkserver fork a pool's supervisor; returns its pid and pidfd."""
    return _ask(lambda server: server.ask_for_supervisor(descriptors, block, length, inherited))


def ask_for_process(data, status, inherited):
    """Has the forkserver fork a process that reads what it is from `data`; its pid and later its exit code come through
    the pipe `status`.
    """
    from ._popen import tracker

    descriptors = [data, status, tracker(), *inherited]
    _ask(lambda server: server.ask_for_process(descriptors))


def _server_stopper(server):
    # The finalizer must not keep the server alive by a bound method of it.
    import weakref

    reference = weakref.ref(server)

    def stop():
        server = reference()
        if server is not None:
            server.stop()

    return stop
