"""What the command shows on a terminal while it runs."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
from pathlib import Path
from typing import Any

from command_harness import COMMAND, LIMIT_SECONDS, run


def on_a_terminal(*arguments: Any, **environment: str) -> str:
    """What a user sees on a terminal that is standard error; standard output goes elsewhere."""
    ours, theirs = pty.openpty()
    command = subprocess.Popen(
        [COMMAND, *map(os.fspath, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", **environment},
    )
    os.close(theirs)
    seen = b""
    # The terminal's end is an error to whoever still reads.
    with contextlib.suppress(OSError):
        while chunk := os.read(ours, 65536):
            seen += chunk
    os.close(ours)
    command.wait(LIMIT_SECONDS)
    return seen.decode()


def test_a_terminal_gets_a_bar_with_rate_and_time_left(folder: Path) -> None:
    seen = on_a_terminal("map", "work.py:sleeper", *["0.1"] * 20, "--processes", "2")
    assert re.search(r"\d+/20 .*items/s, .* left", seen), seen
    assert "20 items done" in seen


def test_no_bar_without_a_terminal_or_when_not_wanted(folder: Path) -> None:
    arguments = ["map", "work.py:sleeper", *["0.1"] * 10]
    assert "/10" not in run(*arguments).stderr
    assert "/10" not in on_a_terminal(*arguments, "--no-progress")
    assert on_a_terminal(*arguments, "--quiet") == ""
    assert "/10" not in on_a_terminal(*arguments, TERM="dumb")


def test_no_color_is_respected(folder: Path) -> None:
    arguments = ["map", "work.py:no_threes", "3"]
    colour = re.compile(r"\x1b\[[0-9;]*m")
    assert colour.search(on_a_terminal(*arguments))
    without = on_a_terminal(*arguments, NO_COLOR="1")
    assert not [code for code in colour.findall(without) if code != "\x1b[0m"], without


def test_prints_stand_in_whole_lines_above_the_bar(folder: Path) -> None:
    seen = on_a_terminal("map", "work.py:prints", *map(str, range(50)))
    lines = [re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line).rpartition("\r")[2] for line in seen.split("\r\n")]
    assert {f"printed {number}" for number in range(50)} <= set(lines), seen
