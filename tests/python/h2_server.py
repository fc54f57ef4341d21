"""A server that speaks HTTP/2, in a process of its own: well-behaved at some paths, misbehaved at others.

It takes ten streams of a connection at a time, and 64 KiB of bodies that it has not read: who sends more is told so.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

BIG = 3_000_000
MOST_STREAMS = 10
WINDOW_BYTES = 65_535
CERTIFICATES = os.path.join(os.path.dirname(__file__), "../../crates/procession-load/tests/fixtures")

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
NO_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, REFUSED_STREAM, ENHANCE_YOUR_CALM = 0, 2, 3, 7, 11
# Of the static table, what the client makes use of.
KNOWN = {
    2: (":method", "GET"),
    3: (":method", "POST"),
    4: (":path", "/"),
    6: (":scheme", "http"),
    7: (":scheme", "https"),
}
NAMES = {1: ":authority", 2: ":method", 4: ":path"}


@contextlib.contextmanager
def serving(*protocols: str) -> Iterator[str]:
    """Runs a server; over TLS if there are protocols (or an empty text) that it offers."""
    program = [sys.executable, __file__, *protocols]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            scheme = "https" if protocols else "http"
            yield f"{scheme}://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def read_integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    most = (1 << bits) - 1
    value, at = block[at] & most, at + 1
    if value < most:
        return value, at
    shift = 0
    while True:
        value, at, more = value + ((block[at] & 127) << shift), at + 1, block[at] & 128
        shift += 7
        if not more:
            return value, at


def read_fields(block: bytes) -> list[tuple[str, str]]:
    """The fields of a block as the client makes them: nothing is compressed, nothing enters a table."""
    at, fields = 0, []

    def text() -> str:
        nonlocal at
        length, at = read_integer(block, at, 7)
        at += length
        return block[at - length : at].decode()

    while at < len(block):
        if block[at] & 128:
            number, at = read_integer(block, at, 7)
            fields.append(KNOWN[number])
        else:
            assert block[at] < 16, "a literal that enters no table"
            number, at = read_integer(block, at, 4)
            name = NAMES[number] if number else text()
            fields.append((name, text()))
    return fields


def field(name: str, value: str) -> bytes:
    def text(value: str) -> bytes:
        length = len(value)
        return (bytes([length]) if length < 127 else bytes([127, length - 127])) + value.encode()

    return b"\0" + text(name) + text(value)


def main() -> None:
    import asyncio
    import ssl

    counts: Counter[str] = Counter()
    seen: set[str] = set()

    class Connection(asyncio.Protocol):
        def connection_made(self, transport):
            counts["connections"] += 1
            self.number = counts["connections"]
            self.transport, self.received, self.is_begun = transport, b"", False
            self.streams: dict[int, tuple[dict[str, str], bytearray]] = {}
            self.together: dict[str, list[int]] = {}
            self.block = b""
            self.room = WINDOW_BYTES
            self.last = 1 << 31

        def data_received(self, data):
            self.received += data
            if not self.is_begun:
                if len(self.received) < 24:
                    return
                if not self.received.startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
                    self.transport.close()
                    return
                self.is_begun, self.received = True, self.received[24:]
                self.send(SETTINGS, 0, 0, (3).to_bytes(2, "big") + MOST_STREAMS.to_bytes(4, "big"))
            at = 0
            while len(self.received) >= at + 9:
                length = int.from_bytes(self.received[at : at + 3], "big")
                if len(self.received) < at + 9 + length:
                    break
                kind, flags = self.received[at + 3], self.received[at + 4]
                stream = int.from_bytes(self.received[at + 5 : at + 9], "big")
                self.frame(kind, flags, stream, self.received[at + 9 : at + 9 + length])
                at += 9 + length
            self.received = self.received[at:]

        def send(self, kind, flags, stream, payload=b""):
            if not self.transport.is_closing():
                head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
                self.transport.write(head + payload)

        def reset(self, stream, code):
            self.streams.pop(stream, None)
            self.send(RST_STREAM, 0, stream, code.to_bytes(4, "big"))

        def go_away(self, last, code=NO_ERROR):
            self.last = last
            self.send(GOAWAY, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big"))

        def frame(self, kind, flags, stream, payload):
            if kind == SETTINGS and not flags & ACK:
                self.send(SETTINGS, ACK, 0)
            elif kind == RST_STREAM:
                counts[f"reset {int.from_bytes(payload, 'big')}"] += 1
                self.streams.pop(stream, None)
            elif kind in (HEADERS, CONTINUATION):
                self.block += payload
                if kind == HEADERS:
                    self.ends_with_head = flags & END_STREAM
                if not flags & END_HEADERS:
                    return
                fields, self.block = read_fields(self.block), b""
                if stream > self.last:
                    return
                counts["requests"] += 1
                if len(self.streams) >= MOST_STREAMS:
                    self.reset(stream, REFUSED_STREAM)
                    return
                self.streams[stream] = (dict(fields), bytearray())
                counts["most streams"] = max(counts["most streams"], len(self.streams))
                if self.ends_with_head:
                    self.answer(stream)
            elif kind == DATA and payload:
                self.room -= len(payload)
                if self.room < 0:
                    self.go_away(stream, FLOW_CONTROL_ERROR)
                    return
                # Read a little later, so that there is something to wait for.
                asyncio.get_running_loop().call_soon(self.take, stream, payload, flags)
            elif kind == DATA and flags & END_STREAM:
                self.answer(stream)

        def take(self, stream, payload, flags):
            self.room += len(payload)
            room = len(payload).to_bytes(4, "big")
            self.send(WINDOW_UPDATE, 0, 0, room)
            if stream in self.streams:
                self.send(WINDOW_UPDATE, 0, stream, room)
                self.streams[stream][1].extend(payload)
                if flags & END_STREAM:
                    self.answer(stream)

        def reply(self, stream, body=b"", status=200, headers=()):
            if self.streams.pop(stream, None) is None:
                return
            block = b"\x08\x03%d" % status + b"".join(field(name, value) for name, value in headers)
            self.send(HEADERS, END_HEADERS | (0 if body else END_STREAM), stream, block)
            for at in range(0, len(body), 16384):
                part = body[at : at + 16384]
                self.send(DATA, END_STREAM if at + len(part) == len(body) else 0, stream, part)

        def answer(self, stream):
            fields, body = self.streams[stream]
            path = fields[":path"].partition("?")[0]
            if path == "/":
                self.reply(stream, b"ok", headers=[("content-length", "2")])
            elif fields[":method"] == "HEAD":
                self.reply(stream, headers=[("content-length", "1234"), ("x-method", "HEAD")])
            elif path == "/json":
                self.reply(stream, b'{"token": "hugo"}', headers=[("content-type", "application/json")])
            elif path == "/echo":
                self.reply(stream, bytes(body) or "".join(f"{k}: {v}\n" for k, v in fields.items()).encode())
            elif path == "/size":
                self.reply(stream, b"%d" % len(body))
            elif path == "/big":
                self.reply(stream, b"x" * BIG, headers=[("content-length", str(BIG))])
            elif path.startswith("/status/"):
                self.reply(stream, status=int(path[8:]))
            elif path == "/login":
                self.reply(stream, headers=[("set-cookie", "who=me; Path=/"), ("set-cookie", "a=b")])
            elif path.startswith("/redirect/"):
                # /redirect/STATUS/URL, where a URL of this server begins with a slash of its own.
                _, _, status, to = path.split("/", 3)
                self.reply(stream, status=int(status), headers=[("location", to), ("set-cookie", f"via={status}")])
            elif path == "/slow":
                asyncio.get_running_loop().call_later(0.05, self.reply, stream, b"slow")
            elif path == "/never":
                pass
            elif path.startswith("/together/"):
                # When so many are there, all of them are told which connection it is.
                waiting = self.together.setdefault(path, [])
                waiting.append(stream)
                if len(waiting) == int(path[10:]):
                    for one in self.together.pop(path):
                        self.reply(one, b"%d" % self.number)
            elif path == "/connection":
                self.reply(stream, b"%d" % self.number)
            elif path == "/reset":
                self.reset(stream, INTERNAL_ERROR)
            elif path == "/half":
                self.send(HEADERS, END_HEADERS, stream, b"\x88")
                self.send(DATA, 0, stream, b"half")
                self.reset(stream, INTERNAL_ERROR)
            elif path == "/die":
                self.transport.abort()
            elif path.startswith("/moved/"):
                # Not looked at the first time, nor is what came after it; answered on another connection.
                if path in seen:
                    self.reply(stream, b"%d" % self.number)
                else:
                    seen.add(path)
                    self.go_away(max(stream - 2, 0))
            elif path == "/unwanted":
                self.go_away(max(stream - 2, 0))
            elif path == "/angry":
                self.go_away(stream, ENHANCE_YOUR_CALM)
            elif path == "/malformed":
                self.send(HEADERS, END_HEADERS | END_STREAM, stream, b"\x88" + field("Upper", "case"))
                self.streams.pop(stream)
            elif path == "/short":
                self.reply(stream, b"short", headers=[("content-length", "10")])
            elif path == "/interim":
                self.send(HEADERS, END_HEADERS, stream, b"\x08\x03103" + field("link", "early"))
                self.send(PING, 0, 0, b"12345678")
                self.send(HEADERS, END_HEADERS, stream, b"\x88" + field("x-which", "final"))
                self.send(DATA, 0, stream, b"body")
                self.send(HEADERS, END_HEADERS | END_STREAM, stream, field("x-trailer", "1"))
                self.streams.pop(stream)
            elif path == "/counts":
                self.reply(stream, json.dumps(counts).encode())
            else:
                self.reply(stream, b"nobody knows this path", status=404)

    async def serve():
        context = None
        if len(sys.argv) > 1:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(f"{CERTIFICATES}/server.pem", f"{CERTIFICATES}/server.key")
            if sys.argv[1]:
                context.set_alpn_protocols(sys.argv[1:])
        server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0, ssl=context, backlog=1024)
        print(server.sockets[0].getsockname()[1], flush=True)
        parent = os.getppid()
        while os.getppid() == parent:
            await asyncio.sleep(0.2)

    asyncio.run(serve())


if __name__ == "__main__":
    main()
