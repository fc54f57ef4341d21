"""Runs of the command that end as nobody wanted: interrupted, killed, stopped, with nobody to write to."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from command_harness import COMMAND, LIMIT_SECONDS, MARK, host_pid, marked_processes, nobody_left, start, wait_for


def test_a_closed_pipe_ends_an_endless_run_quietly(folder: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", 'yes | "$0" map work.py:upper - | head -1; echo "${PIPESTATUS[1]}"', COMMAND],
        capture_output=True,
        timeout=LIMIT_SECONDS,
    )
    assert (done.stdout, done.stderr) == (b"Y\n141\n", b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_says_what_was_done_and_leaves_nobody(folder: Path, number: signal.Signals) -> None:
    command = start("map", "work.py:sleeper", "0", "1000", "0", "1000", "1000", "--processes", "4")
    assert command.stdout is not None
    assert command.stdout.readline() == b"0\n" and command.stdout.readline() == b"0\n"
    command.send_signal(number)
    _, text = command.communicate(timeout=LIMIT_SECONDS)
    assert command.returncode == 128 + number
    assert text.decode().startswith(f"interrupted by {number.name}\n2 of 5 items done in ")
    assert "3 not finished" in text.decode()
    assert "Traceback" not in text.decode()
    nobody_left(os.environ[MARK], seconds=2)


def test_an_interruption_ends_what_the_function_had_started(folder: Path) -> None:
    command = start("map", "work.py:with_child", "a", "b", "--processes", "2")
    mark = os.environ[MARK]
    wait_for(lambda: sum("sleep" in line for _, line in marked_processes(mark)) == 2)
    command.send_signal(signal.SIGINT)
    command.communicate(timeout=LIMIT_SECONDS)
    assert command.returncode == 130
    nobody_left(mark, seconds=2)


def test_an_interruption_is_answered_while_standard_input_is_waited_for(folder: Path) -> None:
    command = start("map", "work.py:upper", "-")
    assert command.stdin is not None and command.stdout is not None
    command.stdin.write(b"a\n")
    command.stdin.flush()
    assert command.stdout.readline() == b"A\n"
    command.send_signal(signal.SIGINT)
    assert command.wait(LIMIT_SECONDS) == 130
    command.communicate(timeout=LIMIT_SECONDS)


def test_an_interruption_is_answered_while_nobody_reads_the_output(folder: Path) -> None:
    command = start("map", "work.py:big", "-", "--processes", "1", "--quiet")
    assert command.stdin is not None
    command.stdin.write(b"x\n" * 100)
    command.stdin.flush()
    time.sleep(1.5)
    command.send_signal(signal.SIGINT)
    assert command.wait(LIMIT_SECONDS) == 130
    command.communicate(timeout=LIMIT_SECONDS)


def test_an_interruption_during_import_ends_at_once(folder: Path) -> None:
    (folder / "slow.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(1000)\n")
    command = start("map", "slow.py:f", "a")
    assert command.stderr is not None
    assert command.stderr.readline() == b"importing\n"
    command.send_signal(signal.SIGINT)
    command.communicate(timeout=LIMIT_SECONDS)
    assert command.returncode == 130


@pytest.mark.parametrize("function", ["sleeper", "with_child"])
def test_when_the_command_is_killed_nobody_is_left(folder: Path, function: str) -> None:
    command = start("map", f"work.py:{function}", "1000", "1000", "1000", "--processes", "2")
    mark = os.environ[MARK]
    wait_for(lambda: len(marked_processes(mark)) >= 4)
    time.sleep(0.3)
    command.kill()
    command.communicate(timeout=LIMIT_SECONDS)
    nobody_left(mark, seconds=3)


def test_when_the_command_is_killed_during_import_nobody_is_left(folder: Path) -> None:
    (folder / "slow.py").write_text("print('importing', flush=True)\nwhile True: pass\n")
    command = start("map", "slow.py:f", "a")
    assert command.stderr is not None
    assert command.stderr.readline() == b"importing\n"
    command.kill()
    nobody_left(os.environ[MARK], seconds=3)
    command.communicate(timeout=LIMIT_SECONDS)


def test_when_the_host_is_killed_the_command_says_so(folder: Path) -> None:
    command = start("map", "work.py:sleeper", "0", "1000", "--processes", "2")
    assert command.stdout is not None
    assert command.stdout.readline() == b"0\n"
    os.kill(host_pid(os.environ[MARK]), signal.SIGKILL)
    _, text = command.communicate(timeout=LIMIT_SECONDS)
    assert command.returncode == 4
    assert b"error: the Python host process, which keeps the pool, was killed by SIGKILL" in text
    assert b"1 of 2 items done" in text
    nobody_left(os.environ[MARK], seconds=3)


def test_a_stopped_command_stops_its_workers_and_goes_on_with_them(folder: Path) -> None:
    command = start("map", "work.py:sleeper", *["0.05"] * 40, "--processes", "1")
    assert command.stdout is not None
    assert command.stdout.readline() == b"0.05\n"
    mark = os.environ[MARK]

    def states() -> set[str]:
        return {
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid, _ in marked_processes(mark)
        }

    command.send_signal(signal.SIGTSTP)
    wait_for(lambda: states() == {"T"})
    command.send_signal(signal.SIGCONT)
    out, _ = command.communicate(timeout=LIMIT_SECONDS)
    assert (command.returncode, out.count(b"0.05")) == (0, 39)


def test_a_full_disk_is_one_clear_error(folder: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [COMMAND, "map", "work.py:upper", "a"], stdout=full, stderr=subprocess.PIPE, timeout=LIMIT_SECONDS
        )
    assert done.returncode == 4
    assert b"error: cannot write results to standard output: No space left on device" in done.stderr
