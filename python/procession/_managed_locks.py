"""The locks that a manager lends out: whose holder is killed, that lock goes to the next who asks.

They live in the manager's process, which serves each thread of each client in a thread of its own. Who is behind such a
thread the kernel tells: the process at the other end of its socket. Only a process that is gone loses its lock: another thread of a
living one may still release it.
"""

import socket
import struct
import threading
import time
from multiprocessing import managers as _stdlib

__all__ = ()

# How long a waiter waits before it looks whether the holder is gone: an eighth of the time it has waited so far, within these.
_LEAST_LOOK_SECONDS = 0.005
_MOST_LOOK_SECONDS = 0.1

# In a thread that serves a client: whom.
_serving = threading.local()


class _Client:
    """A process that uses the manager, told from a later one with the same number by when it began."""

    __slots__ = ("pid", "_began")

    def __init__(self, pid):
        self.pid = pid
        self._began = _state_of(pid)[1]

    def is_gone(self):
        state, began = _state_of(self.pid)
        return state in "ZX" or began != self._began

    def is_same(self, other):
        return other is not None and (self.pid, self._began) == (other.pid, other._began)


def _state_of(pid):
    try:
        with open(f"/proc/{pid}/stat", "rb") as status:
            # The name before it stands in parentheses and may hold any character.
            fields = status.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "X", None
    return chr(fields[0][0]), fields[19]


def _client_behind(connection):
    # Over a network the kernel does not tell, and such clients keep their locks.
    try:
        with socket.socket(fileno=socket.dup(connection.fileno())) as peer:
            if peer.family != socket.AF_UNIX:
                return None
            pid, _, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return _Client(pid) if pid > 0 else None
    except OSError:
        return None


class Server(_stdlib.Server):
    """The standard library's server, whose threads know whom they serve."""

    def serve_client(self, conn):
        """Serves the requests of one thread of a client."""
        _serving.client = _client_behind(conn)
        super().serve_client(conn)


class Lock:
    """What `manager.Lock()` lends out: `threading.Lock`, except that it survives its holder."""

    def __init__(self):
        self._lock = threading.Lock()
        # Guards what follows: who has the lock, if that is known.
        self._guard = threading.Lock()
        self._holder = None
        self._owner_deaths = 0

    def acquire(self, blocking=True, timeout=-1):
        """Takes the lock; see `threading.Lock.acquire`."""
        client = getattr(_serving, "client", None)
        if not blocking or not timeout:
            # Arguments that make no sense together are refused in the words of the real one.
            return self._noted(client, self._lock.acquire(blocking, timeout)) or self._take_over(client)
        if timeout is not None and timeout != -1 and timeout < 0:
            self._lock.acquire(blocking, timeout)
        began = time.monotonic()
        end = None if timeout is None or timeout == -1 else began + timeout
        while True:
            now = time.monotonic()
            look = min(max((now - began) / 8, _LEAST_LOOK_SECONDS), _MOST_LOOK_SECONDS)
            if end is not None:
                look = max(0.0, min(look, end - now))
            if self._noted(client, self._lock.acquire(True, look)) or self._take_over(client):
                return True
            if end is not None and time.monotonic() >= end:
                return False

    def _noted(self, client, acquired):
        if acquired:
            with self._guard:
                self._holder = client
        return acquired

    def _take_over(self, client):
        with self._guard:
            if self._holder is None or not self._holder.is_gone():
                return False
            self._holder = client
            self._owner_deaths += 1
            return True

    def release(self):
        """Releases the lock; see `threading.Lock.release`."""
        client = getattr(_serving, "client", None)
        with self._guard:
            # The last words of one whose lock was taken over meanwhile.
            if client is not None and client.is_gone() and not client.is_same(self._holder):
                return
            self._holder = None
            self._lock.release()

    def locked(self):
        """Whether somebody has the lock."""
        return self._lock.locked()

    __enter__ = acquire

    def __exit__(self, *_):
        self.release()


class RLock:
    """What `manager.RLock()` lends out: `threading.RLock`, except that it survives its holder."""

    def __init__(self):
        self._lock = Lock()
        self._owner = None
        self._count = 0

    def acquire(self, blocking=True, timeout=-1):
        """Takes the lock once more, or for the first time; see `threading.RLock.acquire`."""
        me = threading.get_ident()
        if self._owner == me:
            self._count += 1
            return True
        acquired = self._lock.acquire(blocking, timeout)
        if acquired:
            self._owner, self._count = me, 1
        return acquired

    def release(self):
        """Gives it back once; see `threading.RLock.release`."""
        if self._owner != threading.get_ident():
            raise RuntimeError("cannot release un-acquired lock")
        self._count -= 1
        if not self._count:
            self._owner = None
            self._lock.release()

    __enter__ = acquire

    def __exit__(self, *_):
        self.release()

    # What `threading.Condition` needs of a recursive lock.

    def _is_owned(self):
        return self._owner == threading.get_ident()

    def _release_save(self):
        count, self._owner, self._count = self._count, None, 0
        self._lock.release()
        return count

    def _acquire_restore(self, count):
        self._lock.acquire()
        self._owner, self._count = threading.get_ident(), count


def condition(lock=None):
    """What `manager.Condition()` lends out."""
    return threading.Condition(RLock() if lock is None else lock)
