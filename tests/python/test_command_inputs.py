"""What the command takes as inputs: arguments, lines of standard input, files that match; and that it reads no further ahead."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from pathlib import Path

from command_harness import COMMAND, LIMIT_SECONDS, json_lines, run, start


def test_json_inputs_become_values_and_star_makes_them_arguments(folder: Path) -> None:
    assert run("map", "work.py:power", "--json", "-5", "2.5", "--ordered", "-q").stdout == "-5\n2.5\n"
    done = run("map", "work.py:power", "-", "--json", "--star", "--ordered", "-q", input="[2, 10]\n\n[3]\n")
    assert done.stdout == "1024\n3\n"


def test_an_input_that_is_not_json_fails_alone(folder: Path) -> None:
    done = run("map", "work.py:power", "-", "--json", "--jsonl", input="1\n{oops\n3\n")
    one, oops, three = json_lines(done)
    assert (one["input"], one["result"], three["result"]) == (1, 1, 3)
    assert oops["error"]["message"].startswith("line 2 of standard input is not JSON: ")
    assert done.returncode == 1


def test_a_line_that_is_not_utf8_is_one_clear_error_and_the_others_are_done(folder: Path) -> None:
    done = run("map", "work.py:upper", "-", "--ordered", input=b"a\nb\xff\nc")
    assert (done.returncode, done.stdout) == (1, "A\nC\n")
    assert "2 of 3 items done" in done.stderr and "1 unreadable" in done.stderr
    assert "line 2 of standard input is not UTF-8: byte 0xff at position 2" in done.stderr


def test_globs_match_files_in_all_folders_below(folder: Path) -> None:
    for name in ["a.txt", "sub/b.txt", "sub/deep/c.txt", "sub/d.md", ".hidden/e.txt"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "folder.txt").mkdir()
    done = run("map", "work.py:upper", "--glob", "**/*.txt", "--glob", "sub/*", "--ordered", "-q")
    assert done.stdout.split() == ["A.TXT", "SUB/B.TXT", "SUB/DEEP/C.TXT", "SUB/D.MD"]


def test_names_that_are_not_utf8_reach_the_function_as_python_writes_them(folder: Path) -> None:
    name = b"caf\xe9.bin"
    Path(os.fsdecode(name)).write_bytes(b"12345")
    assert run("map", "work.py:sizes", "--glob", "*.bin", "-q").stdout == "5\n"
    assert run("map", "work.py:sizes", os.fsdecode(name), "-q").stdout == "5\n"


def test_no_input_at_all_is_no_failure(folder: Path) -> None:
    done = run("map", "work.py:upper", "-")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("0 items done")


def test_standard_input_is_not_read_ahead_of_the_work(folder: Path) -> None:
    gate = folder / "gate"
    line = str(gate).ljust(4095).encode() + b"\n"
    command = start("map", "work.py:at_gate", "-", "--processes", "1", "--quiet")
    assert command.stdin is not None and command.stdout is not None
    os.set_blocking(command.stdin.fileno(), False)
    sent = 0
    last_taken = time.monotonic()
    while time.monotonic() - last_taken < 2:
        _, writable, _ = select.select([], [command.stdin], [], 0.1)
        if writable:
            with contextlib.suppress(BlockingIOError):
                assert os.write(command.stdin.fileno(), line) == len(line)
                sent += 1
                last_taken = time.monotonic()
        assert sent < 2000, "it reads on and on although nothing is done"
    gate.touch()
    out, _ = command.communicate(timeout=LIMIT_SECONDS)
    assert out.count(b"1\n") == sent
    assert command.returncode == 0


def test_results_come_while_standard_input_is_still_open(folder: Path) -> None:
    command = start("map", "work.py:upper", "-", "--ordered", "--quiet")
    assert command.stdin is not None and command.stdout is not None
    for text in (b"one", b"two", b"three"):
        command.stdin.write(text + b"\n")
        command.stdin.flush()
        assert select.select([command.stdout], [], [], LIMIT_SECONDS)[0], "no result for " + text.decode()
        assert os.read(command.stdout.fileno(), 100) == text.upper() + b"\n"
    command.communicate(timeout=LIMIT_SECONDS)
    assert command.returncode == 0


def test_a_missing_standard_input_is_an_empty_one(folder: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", '"$0" map work.py:upper - <&-', COMMAND], capture_output=True, timeout=LIMIT_SECONDS
    )
    assert (done.returncode, done.stdout) == (0, b""), done.stderr


def test_standard_input_that_cannot_be_read_is_one_clear_error(folder: Path) -> None:
    # Nothing is mapped at address 0, so the first read fails.
    with open("/proc/self/mem", "rb") as unreadable:
        done = subprocess.run(
            [COMMAND, "map", "work.py:upper", "-"], stdin=unreadable, capture_output=True, timeout=LIMIT_SECONDS
        )
    assert done.returncode == 4
    assert b"error: cannot read standard input: Input/output error" in done.stderr
