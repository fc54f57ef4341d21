"""``procession load`` as a user meets it: real runs of the installed script. Whole runs of each option are in the crate's
tests; here is what needs the installed package, a terminal, or the schema."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
import xml.etree.ElementTree
from fcntl import ioctl
from pathlib import Path

from command_harness import (
    LIMIT_SECONDS,
    REPOSITORY,
    marked_processes,
    nobody_left,
    run,
    start,
    violations,
    wait_for,
)

SCHEMA = REPOSITORY / "crates" / "procession-load" / "schema" / "result.schema.json"


def test_the_result_is_as_its_schema_says_and_the_files_can_be_read(mark: str) -> None:
    done = run(
        "load", "-z", "1s", "-q", "100/s", "-P", "2", "--slo", "errors<1%", "-o", "a.json", "-o", "a.xml", "-o", "a.csv"
    )
    assert re.match(r"(PASS|INVALID)  ", done.stdout)
    result = json.loads(Path("a.json").read_text())
    assert list(violations(result, json.loads(SCHEMA.read_text()))) == []
    assert result["totals"]["requests"] + result["totals"]["unfinished"] + result["totals"]["unsent"] == 100
    assert len(result["workers"]) == 2
    cases = xml.etree.ElementTree.parse("a.xml").getroot().findall("testsuite/testcase")
    assert [case.get("name") for case in cases] == ["the run is valid", "errors<1%"]
    assert Path("a.csv").read_text().startswith("start_seconds,")
    # The verdict and the exit code are the same thing.
    assert done.returncode == {"pass": 0, "fail": 99, "invalid": 98}[result["verdict"]["outcome"]]


def test_a_killed_command_takes_workers_and_server_along(mark: str) -> None:
    process = start(
        "load", "-z", "60s", "-q", "50/s", "-P", "2", "--quiet", stdin=subprocess.DEVNULL, stdout=None, stderr=None
    )
    # The command, the server and two workers.
    wait_for(lambda: len(marked_processes(mark)) == 4)
    process.send_signal(signal.SIGKILL)
    process.wait()
    nobody_left(mark)


def test_a_killed_worker_is_replaced_and_the_run_goes_on(mark: str) -> None:
    process = start(
        "load",
        "-z",
        "3s",
        "-q",
        "100/s",
        "-P",
        "1",
        "-o",
        "a.json",
        "--quiet",
        stdin=subprocess.DEVNULL,
        stdout=None,
        stderr=None,
    )
    wait_for(lambda: len(marked_processes(mark)) == 3)
    time.sleep(0.7)
    # The server is forked before the worker.
    os.kill(max(pid for pid, _ in marked_processes(mark)), signal.SIGKILL)
    process.wait(LIMIT_SECONDS)
    result = json.loads(Path("a.json").read_text())
    (worker,) = result["workers"]
    assert worker["restarts"] == 1 and "SIGKILL" in worker["last_death"]
    # What was counted before is kept, and the schedule goes on where it was.
    assert result["totals"]["requests"] > 200


class Terminal:
    """A terminal with the command in it."""

    def __init__(self, *arguments: str) -> None:
        self.master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.settings = termios.tcgetattr(slave)
        self.process = start("load", *arguments, stdin=slave, stdout=slave, stderr=slave)
        self.slave = slave
        self.shown = b""

    def read_until(self, what: bytes) -> None:
        until = time.monotonic() + LIMIT_SECONDS
        while what not in self.shown:
            assert time.monotonic() < until, self.shown[-2000:].decode(errors="replace")
            if select.select([self.master], [], [], 0.2)[0]:
                self.shown += os.read(self.master, 65536)

    def press(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def close(self) -> None:
        os.close(self.master)
        os.close(self.slave)


def test_the_live_view_ends_the_run_on_q_and_gives_the_terminal_back(mark: str) -> None:
    terminal = Terminal("-z", "60s", "-q", "50/s", "-P", "1")
    try:
        terminal.read_until(b"response time")
        terminal.press(b"?")
        # Only letters that differ are sent, so of the help its frame is looked for.
        terminal.read_until("┌".encode())
        terminal.press(b"?pq")
        terminal.read_until(b"stopped after")
        assert terminal.process.wait(LIMIT_SECONDS) in (0, 98)
        # The alternate screen is left before the summary is printed.
        entered, _, rest = terminal.shown.partition(b"\x1b[?1049h")
        assert entered == b""
        assert b"\x1b[?1049l" in rest.partition(b"stopped after")[0]
        assert termios.tcgetattr(terminal.slave) == terminal.settings
    finally:
        terminal.close()


def test_ctrl_c_in_the_live_view_reports_too(mark: str) -> None:
    terminal = Terminal("-z", "60s", "-q", "50/s", "-P", "1")
    try:
        terminal.read_until(b"response time")
        terminal.press(b"\x03")
        terminal.read_until(b"stopped after")
        assert terminal.process.wait(LIMIT_SECONDS) == 130
    finally:
        terminal.close()
