"""For annotations: the clients as coroutines see them. They are the same objects, whose calls are awaited."""

from __future__ import annotations

from typing import Any, Awaitable, Iterable, Mapping, Protocol

from .._native import HttpResponse, step

__all__ = ["AsyncHttp", "AsyncTcp", "AsyncTcpConnection", "AsyncUdp", "AsyncUdpSocket"]


class AsyncHttp(Protocol):
    """A virtual user's client for HTTP, in an `async def` function."""

    def get(
        self,
        url: str,
        *,
        name: str | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        expect: int | Iterable[int] | None = None,
        redirects: int | None = None,
    ) -> Awaitable[HttpResponse]:
        """Sends a GET request."""
        raise NotImplementedError

    def head(
        self,
        url: str,
        *,
        name: str | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        expect: int | Iterable[int] | None = None,
        redirects: int | None = None,
    ) -> Awaitable[HttpResponse]:
        """Sends a HEAD request."""
        raise NotImplementedError

    def delete(
        self,
        url: str,
        *,
        name: str | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        data: bytes | bytearray | str | Mapping[str, Any] | None = None,
        timeout: float | None = None,
        expect: int | Iterable[int] | None = None,
        redirects: int | None = None,
    ) -> Awaitable[HttpResponse]:
        """Sends a DELETE request."""
        raise NotImplementedError

    def post(
        self,
        url: str,
        *,
        name: str | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        data: bytes | bytearray | str | Mapping[str, Any] | None = None,
        timeout: float | None = None,
        expect: int | Iterable[int] | None = None,
        redirects: int | None = None,
    ) -> Awaitable[HttpResponse]:
        """Sends a POST request."""
        raise NotImplementedError

    def put(
        self,
        url: str,
        *,
        name: str | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        data: bytes | bytearray | str | Mapping[str, Any] | None = None,
        timeout: float | None = None,
        expect: int | Iterable[int] | None = None,
        redirects: int | None = None,
    ) -> Awaitable[HttpResponse]:
        """Sends a PUT request."""
        raise NotImplementedError

    def patch(
        self,
        url: str,
        *,
        name: str | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        data: bytes | bytearray | str | Mapping[str, Any] | None = None,
        timeout: float | None = None,
        expect: int | Iterable[int] | None = None,
        redirects: int | None = None,
    ) -> Awaitable[HttpResponse]:
        """Sends a PATCH request."""
        raise NotImplementedError

    def request(
        self,
        method: str,
        url: str,
        *,
        name: str | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        data: bytes | bytearray | str | Mapping[str, Any] | None = None,
        timeout: float | None = None,
        expect: int | Iterable[int] | None = None,
        redirects: int | None = None,
    ) -> Awaitable[HttpResponse]:
        """Sends a request of any method."""
        raise NotImplementedError

    def step(self, name: str) -> step:
        """Times what stands in the `with` block, under this name."""
        raise NotImplementedError

    def think(self, seconds: float, most: float | None = None) -> Awaitable[None]:
        """Pauses this user: so many seconds, or a number of seconds between the two."""
        raise NotImplementedError

    def clear_cookies(self) -> None:
        """Forgets this user's cookies."""


class AsyncTcpConnection(Protocol):
    """A connection over TCP, in an `async def` function."""

    def send(self, data: bytes, *, timeout: float | None = None) -> Awaitable[None]:
        """Sends all of these bytes."""
        raise NotImplementedError

    def recv(self, size: int = 65536, *, name: str | None = None, timeout: float | None = None) -> Awaitable[bytes]:
        """Receives what there is, at most `size` bytes; nothing if the other side has closed the connection."""
        raise NotImplementedError

    def recv_exactly(self, size: int, *, name: str | None = None, timeout: float | None = None) -> Awaitable[bytes]:
        """Receives exactly so many bytes."""
        raise NotImplementedError

    def recv_until(self, end: bytes, *, name: str | None = None, timeout: float | None = None) -> Awaitable[bytes]:
        """Receives all up to and with `end`."""
        raise NotImplementedError

    def close(self) -> None:
        """Closes it."""


class AsyncTcp(Protocol):
    """Makes connections over TCP, in an `async def` function."""

    def connect(self, address: str, *, timeout: float | None = None) -> Awaitable[AsyncTcpConnection]:
        """Connects to `HOST:PORT`. How long it takes is a step of its own in the report."""
        raise NotImplementedError


class AsyncUdpSocket(Protocol):
    """A socket for datagrams, in an `async def` function."""

    def send(self, data: bytes) -> Awaitable[None]:
        """Sends a datagram."""
        raise NotImplementedError

    def recv(self, *, name: str | None = None, timeout: float | None = None) -> Awaitable[bytes]:
        """Receives a datagram; fails as lost if none comes in time."""
        raise NotImplementedError

    def close(self) -> None:
        """Closes it."""


class AsyncUdp(Protocol):
    """Makes sockets for datagrams, in an `async def` function."""

    def connect(self, address: str) -> Awaitable[AsyncUdpSocket]:
        """A socket for datagrams to `HOST:PORT`."""
        raise NotImplementedError
