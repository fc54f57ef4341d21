"""Connections: `Pipe`, `Client`, `Listener`, and the `Connection` that they make.

The frame on the wire is the standard library's, so either end may be of that make: a manager's server, another program,
another version of Python. A connection is a descriptor and nothing else; nothing is read ahead, so `wait`, `selectors`
and asyncio see the truth.

What is not here is looked up in `multiprocessing.connection`.
"""

from multiprocessing import connection as _stdlib
from multiprocessing import reduction as _reduction
from multiprocessing.connection import answer_challenge, deliver_challenge, wait

from ._native import ConnectionBase, stream_pair

__all__ = ["Client", "Listener", "Pipe", "wait"]


def __getattr__(name):
    return getattr(_stdlib, name)


class Connection(ConnectionBase, _stdlib.Connection):
    """One end of a connection. See `multiprocessing.connection.Connection`, of which this is a kind."""


def Pipe(duplex=True):
    """Returns a pair of connections to each other. Not duplex, the first can only receive and the second only send."""
    one, other = stream_pair(duplex)
    return Connection(one, writable=duplex), Connection(other, readable=duplex)


def _take_over(connection):
    # The standard library has made it, and authenticated the peer.
    handle, connection._handle = connection._handle, None
    return Connection(handle, connection._readable, connection._writable)


class Listener(_stdlib.Listener):
    """Listens for connections. See `multiprocessing.connection.Listener`."""

    def accept(self):
        """Waits for the next connection and returns it."""
        return _take_over(super().accept())


def Client(address, family=None, authkey=None):
    """Connects to the listener at that address and returns the connection."""
    return _take_over(_stdlib.Client(address, family, authkey))


def _reduce_connection(connection):
    return _rebuild_connection, (
        _reduction.DupFd(connection.fileno()),
        connection.readable,
        connection.writable,
    )


def _rebuild_connection(descriptor, readable, writable):
    return Connection(descriptor.detach(), readable, writable)


_reduction.register(Connection, _reduce_connection)
