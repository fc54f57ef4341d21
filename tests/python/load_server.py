"""A server to be tested, in a process of its own: well-behaved at some paths, in every way misbehaved at others."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

REPLIES = {
    "/": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "/json": b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n{"token": "hugo"}',
    "/login": b"HTTP/1.1 200 OK\r\nSet-Cookie: who=me; Path=/\r\nContent-Length: 0\r\n\r\n",
    "/chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    "/empty": b"HTTP/1.1 204 No Content\r\n\r\n",
    "/404": b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    "/500": b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
    "/malformed": b"HTTP/1.1 banana\r\n\r\n",
}


class Server:
    """Where a running server is."""

    def __init__(self, port: int, udp_port: int, tcp_port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.udp = f"127.0.0.1:{udp_port}"
        self.tcp = f"127.0.0.1:{tcp_port}"


@contextlib.contextmanager
def serving(freeze_at_seconds: float = 0, freeze_seconds: float = 0) -> Iterator[Server]:
    """Runs a server. With numbers, it does nothing for a while, so long after its first request."""
    arguments = [str(freeze_at_seconds), str(freeze_seconds)]
    with subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Server(*map(int, process.stdout.readline().split()))
        finally:
            process.kill()


def main() -> None:
    import asyncio
    import socket
    import struct
    import time

    freeze_at_seconds, freeze_seconds = map(float, sys.argv[1:])

    frozen_seconds = 0.0

    def freeze(seconds):
        nonlocal frozen_seconds
        began = time.monotonic()
        time.sleep(seconds)
        # On a busy machine it takes longer to wake up.
        frozen_seconds = time.monotonic() - began

    class Http(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport, self.received = transport, b""

        def data_received(self, data):
            nonlocal freeze_seconds
            if freeze_seconds:
                asyncio.get_running_loop().call_later(freeze_at_seconds, freeze, freeze_seconds)
                freeze_seconds = 0
            self.received += data
            while b"\r\n\r\n" in self.received:
                head, _, rest = self.received.partition(b"\r\n\r\n")
                length = 0
                for line in head.split(b"\r\n"):
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                if len(rest) < length:
                    return
                self.received = rest[length:]
                self.answer(head.decode(), rest[:length])

        def answer(self, head, body):
            method, path, _ = head.split("\r\n")[0].split(" ")
            path = path.partition("?")[0]
            if path == "/reset":
                linger = struct.pack("ii", 1, 0)
                self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.transport.abort()
            elif path == "/half":
                self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
                self.transport.close()
            elif path == "/close":
                self.transport.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
                self.transport.close()
            elif path == "/bye":
                self.transport.write(REPLIES["/"])
                asyncio.get_running_loop().call_later(0.005, self.transport.close)
            elif path.startswith("/redirect/"):
                # /redirect/STATUS/URL, where a URL of this server begins with a slash of its own.
                _, _, status, to = path.split("/", 3)
                head = f"HTTP/1.1 {status} Elsewhere\r\nLocation: {to}\r\nSet-Cookie: via={status}\r\nContent-Length: 0\r\n\r\n"
                self.transport.write(head.encode())
            elif path == "/loop":
                self.transport.write(b"HTTP/1.1 302 Found\r\nLocation: loop\r\nContent-Length: 0\r\n\r\n")
            elif path == "/never":
                pass
            elif path == "/slow":
                asyncio.get_running_loop().call_later(0.05, self.transport.write, REPLIES["/"])
            elif path in ("/echo", "/frozen"):
                text = body or head.encode() if path == "/echo" else str(frozen_seconds).encode()
                self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))
            elif method == "HEAD":
                self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
            else:
                self.transport.write(REPLIES[path])

    class Udp(asyncio.DatagramProtocol):
        def connection_made(self, transport):
            self.transport = transport

        def datagram_received(self, data, address):
            if data != b"lose me":
                self.transport.sendto(data, address)

    class Lines(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            self.transport.write(data.replace(b"PING", b"PONG"))

    async def serve():
        loop = asyncio.get_running_loop()
        http = await loop.create_server(Http, "127.0.0.1", 0, backlog=1024)
        lines = await loop.create_server(Lines, "127.0.0.1", 0)
        udp, _ = await loop.create_datagram_endpoint(Udp, ("127.0.0.1", 0))
        ports = [
            sockets.getsockname()[1] for sockets in (http.sockets[0], udp.get_extra_info("socket"), lines.sockets[0])
        ]
        print(*ports, flush=True)
        parent = os.getppid()
        while os.getppid() == parent:
            await asyncio.sleep(0.2)

    asyncio.run(serve())


if __name__ == "__main__":
    main()
