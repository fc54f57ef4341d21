"""Takes the pictures of the load tester for docs/pictures: a real run on a terminal that nobody sees, and its report.

make pictures        takes them anew

The server that is tested stands still for a second in the middle, so that there is something to see. Needs tmux and
chromium.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

from pictures import COLUMNS, COMMAND, PICTURES, as_svg

ROWS = 30
SECONDS = 20
TIMEOUT_SECONDS = SECONDS + 60


class StallingServer:
    """Answers every request within two milliseconds or so, but for one second in the middle."""

    def __init__(self) -> None:
        self.port = 0
        self.begun: float | None = None
        self.served = 0
        self.listening = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True).start()
        self.listening.wait()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self.listening.set()
        async with server:
            await server.serve_forever()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                now = time.monotonic()
                self.begun = self.begun or now
                stall = self.begun + SECONDS / 2 - now
                if -0.02 < stall < 0:
                    time.sleep(1)
                self.served += 1
                status = "503 Service Unavailable" if self.served % 400 == 0 else "200 OK"
                await asyncio.sleep(0.001 + 0.002 * (self.served * 7919 % 100 / 100) ** 3)
                writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\nhello".encode())
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def photograph(page: Path, picture: Path, width: int, height: int) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("chromium is not installed")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={width},{height}"]
    subprocess.run(
        [browser, *options, f"--screenshot={picture}", page.as_uri()],
        check=True,
        capture_output=True,
        timeout=TIMEOUT_SECONDS,
    )


def main() -> None:
    """Takes both pictures of one run."""
    server = StallingServer()
    session = f"procession-{uuid.uuid4().hex[:8]}"

    def tmux(*words: str) -> str:
        return subprocess.run(
            ["tmux", "-L", session, *words], capture_output=True, text=True, timeout=30, check=True
        ).stdout

    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.html"
        url = f"http://127.0.0.1:{server.port}/cart"
        options = ["-q", "300/s", "-z", f"{SECONDS}s", "-P", "1", "--slo", "p50<20ms", "p99<200ms", "errors<1%"]
        size = ["-x", str(COLUMNS), "-y", str(ROWS)]
        command = [str(COMMAND), "load", url, *options, "-o", str(report)]
        try:
            tmux("-f", "/dev/null", "new-session", "-d", "-s", "load", *size, *command)
            time.sleep(SECONDS * 0.8)
            screen = tmux("capture-pane", "-e", "-p", "-t", "load")
            until = time.monotonic() + TIMEOUT_SECONDS
            # The file is there from the beginning, and filled at the end.
            while not report.stat().st_size and time.monotonic() < until:
                time.sleep(0.2)
            time.sleep(0.5)
        finally:
            subprocess.run(["tmux", "-L", session, "kill-server"], capture_output=True, check=False)
        title = "procession load while the server has just stood still"
        (PICTURES / "load-live.svg").write_text(as_svg(screen, title), encoding="utf-8")
        photograph(report, PICTURES / "load-report.png", 1180, 1250)


if __name__ == "__main__":
    main()
