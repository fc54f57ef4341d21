"""Clean interpreters that become pools' supervisors: one for each pool (spawn), or one server for all (forkserver)."""

import os
import sys

__all__ = ()

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


def forkserver_main(line, caller, modules, main_path, sys_path):
    """The whole life of the forkserver: forks a supervisor whenever one is asked for, until its process is gone."""
    import select
    import signal
    import socket

    _open_standard_streams()
    if sys_path is not None:
        sys.path[:] = sys_path
    _preload(modules, main_path)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The kernel reaps for us: nobody asks this process how supervisors ended.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    server = socket.socket(fileno=line)
    poller = select.poll()
    for descriptor in (line, caller):
        os.set_inheritable(descriptor, False)
        poller.register(descriptor, select.POLLIN)
    while True:
        gone = any(descriptor == caller for descriptor, _ in poller.poll())
        message, descriptors, flags, _ = (None, [], 0, None) if gone else socket.recv_fds(server, 4096, 250)
        if not message:
            server.close()
            return
        block, length = map(int, message.split())
        try:
            if flags & socket.MSG_CTRUNC:
                raise _too_many_descriptors()
            pid = os.fork()
        except OSError as error:
            server.send(f"-{error.errno}".encode())
            for descriptor in descriptors:
                os.close(descriptor)
            continue
        if pid == 0:
            server.close()
            os.close(caller)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            memory, results, pool_line, pool_caller, *inherited = descriptors
            _become_supervisor(memory, results, pool_line, pool_caller, block, length, inherited)
        for descriptor in descriptors:
            os.close(descriptor)
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            # The supervisor ends by itself when the caller lets go of the other end of its line.
            server.send(f"-{error.errno}".encode())
            continue
        socket.send_fds(server, [str(pid).encode()], [pidfd])
        os.close(pidfd)


def _too_many_descriptors():
    import errno

    return OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def _preload(modules, main_path):
    from multiprocessing import process, spawn

    current = process.current_process()
    if "__main__" in modules and main_path is not None:
        current._inheriting = True
        try:
            spawn.import_main_path(main_path)
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
    # What each supervisor would otherwise import for itself.
    from . import _native, _worker  # noqa: F401


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
        import socket
        from multiprocessing import forkserver, spawn

        from ._start import command, execute

        ours, theirs = (_above_standard(s) for s in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        caller = os.pidfd_open(os.getpid())
        if caller < 3:
            import fcntl

            low, caller = caller, fcntl.fcntl(caller, fcntl.F_DUPFD_CLOEXEC, 3)
            os.close(low)
        try:
            modules = list(forkserver._forkserver._preload_modules)
            data = spawn.get_preparation_data("ignore")
            executable, arguments = command(
                "forkserver_main",
                theirs.fileno(),
                caller,
                modules,
                data.get("init_main_from_path"),
                data.get("sys_path"),
            )
            self.pid = execute(executable, arguments, [theirs.fileno(), caller])
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(caller)
        self.owner = os.getpid()
        self.socket = ours

    def ask(self, descriptors, block, length, inherited):
        import socket

        # The answer brings a descriptor, which the kernel drops without a word where there is no room for it.
        room = os.dup(self.socket.fileno())
        try:
            socket.send_fds(self.socket, [f"{block} {length}".encode()], [*descriptors, *inherited])
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


def _above_standard(end):
    import fcntl
    import socket

    if end.fileno() > 2:
        return end
    with end:
        return socket.socket(fileno=fcntl.fcntl(end.fileno(), fcntl.F_DUPFD_CLOEXEC, 3))


_server = None
_lock = None


def ask_for_supervisor(descriptors, block, length, inherited):
    """Has the forkserver (started if need be) fork a supervisor; returns its pid and pidfd."""
    global _server, _lock
    import threading

    if _lock is None:
        _lock = threading.Lock()
    with _lock:
        if _server is None or not _server.is_usable():
            from multiprocessing import util

            _server = _Server()
            _server.start()
            # After the pools (priority 15): they still talk to supervisors, never to the server.
            util.Finalize(_server, _server_stopper(_server), exitpriority=0)
        try:
            return _server.ask(descriptors, block, length, inherited)
        except (BrokenPipeError, ConnectionResetError):
            # It died since we looked; once more with a new one.
            _server = _Server()
            _server.start()
            return _server.ask(descriptors, block, length, inherited)


def _server_stopper(server):
    # The finalizer must not keep the server alive by a bound method of it.
    import weakref

    reference = weakref.ref(server)

    def stop():
        server = reference()
        if server is not None:
            server.stop()

    return stop
