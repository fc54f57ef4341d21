"""Items that fail under the command: each fails alone, is named with its reason, is tried again, or is done at the next run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path

from command_harness import json_lines, run, start, wait_for


def test_failures_are_listed_with_input_error_and_place(folder: Path) -> None:
    done = run("map", "work.py:no_threes", *map(str, range(40)), "--show-failures", "2")
    assert done.returncode == 1
    assert "27 of 40 items done" in done.stderr and "13 failed" in done.stderr
    assert (
        len(re.findall(r'item \d+ "\d+"\n  ValueError: no threes: \d+ \(work\.py:\d+ in no_threes\)', done.stderr)) == 2
    )
    assert "and 11 more" in done.stderr


def test_sys_exit_and_custom_base_exceptions_cost_one_item(folder: Path) -> None:
    done = run("map", "work.py:ends", "a", "exit", "base", "b", "--jsonl")
    a, exits, base, b = json_lines(done)
    assert (a["status"], b["status"]) == ("ok", "ok")
    assert (exits["error"]["type"], exits["error"]["message"]) == ("SystemExit", "bye")
    assert (base["error"]["type"], base["error"]["message"]) == ("BaseException", "the very base")


def test_a_killed_worker_costs_one_item_and_is_named(folder: Path) -> None:
    done = run("map", "work.py:ends", "a", "kill", "b", "code", "c", "--jsonl", "--processes", "2")
    a, killed, b, code, c = json_lines(done)
    assert [record["status"] for record in (a, b, c)] == ["ok"] * 3
    assert (killed["status"], killed["error"]["signal"], killed["error"]["exitcode"]) == ("died", "SIGKILL", -9)
    assert (code["status"], code["error"]["exitcode"], code["error"]["type"]) == ("died", 7, "WorkerDied")
    assert "exited with code 7 while running ends('code')" in code["error"]["message"]
    assert done.returncode == 1
    assert "2 died" in done.stderr


def test_a_task_over_the_limit_is_killed_and_the_others_are_done(folder: Path) -> None:
    done = run("map", "work.py:stuck", "a", "stuck", "b", "--timeout", "0.5", "--jsonl", "--processes", "2")
    a, stuck, b = json_lines(done)
    assert (a["status"], b["status"]) == ("ok", "ok")
    assert (stuck["status"], stuck["error"]["type"], stuck["error"]["limit_seconds"]) == (
        "timed_out",
        "TaskTimeout",
        0.5,
    )
    assert stuck["seconds"] >= 0.5
    assert done.returncode == 1
    assert "1 timed out" in done.stderr


def test_a_task_that_timed_out_is_retried(folder: Path) -> None:
    done = run("map", "work.py:stuck", "stuck", "--timeout", "0.2", "--retries", "1", "--jsonl")
    (record,) = json_lines(done)
    assert (record["status"], record["attempts"]) == ("timed_out", 2)


def test_retries_give_a_failed_item_another_chance(folder: Path) -> None:
    once = run("map", "work.py:second_time", folder / "first", "--jsonl")
    assert json_lines(once)[0]["status"] == "error"
    again = run("map", "work.py:second_time", folder / "second", "--retries", "2", "--jsonl")
    (record,) = json_lines(again)
    assert (record["status"], record["result"], record["attempts"]) == ("ok", "now", 2)
    assert again.returncode == 0 and "1 retry" in again.stderr


def test_retries_wait_longer_each_time(folder: Path) -> None:
    started = time.monotonic()
    done = run("map", "work.py:no_threes", "3", "4", "--retries", "2", "--retry-delay", "0.2", "--jsonl")
    assert time.monotonic() - started >= 0.2 + 0.4
    assert {record["input"]: record["attempts"] for record in json_lines(done)} == {"3": 3, "4": 1}


def test_a_task_that_takes_too_much_memory_is_the_only_one_that_dies(folder: Path) -> None:
    done = run("map", "work.py:hoards", "a", "hoard", "b", "--memory-limit", "100M", "--jsonl")
    records = {record["input"]: record for record in json_lines(done)}
    assert (records["a"]["result"], records["b"]["result"]) == ("a", "b")
    assert records["hoard"]["status"] == "died"
    assert records["hoard"]["error"]["type"] == "MemoryLimitExceeded"
    assert "100 MiB" in records["hoard"]["error"]["message"] and "hoards('hoard')" in done.stderr
    wrong = run("map", "work.py:hoards", "a", "--memory-limit", "lots")
    assert wrong.returncode == 2 and "such as 500M" in wrong.stderr


def test_an_interrupted_run_is_resumed(folder: Path) -> None:
    report = folder / "report.jsonl"
    gate = folder / "gate"
    inputs = "".join(f"{i}\n" for i in range(40))
    command = ("map", "work.py:until_gate", "-", "--resume", report, "-p", "2")
    process = start(*command, stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(inputs.encode())
    process.stdin.close()
    wait_for(lambda: report.exists() and report.read_text().count("\n") >= 20)
    process.kill()
    process.stdin = None
    process.communicate()
    # A run that is killed may leave half a line.
    with report.open("a") as file:
        file.write('{"index":39,"inp')
    first = [line for line in report.read_text().splitlines() if line.endswith("}")]
    other = run(*command, input=inputs.replace("3\n", "x\n"))
    assert other.returncode == 4 and "was another one then" in other.stderr
    gate.touch()
    again = run(*command, input=inputs)
    assert again.returncode == 0, again.stderr
    assert f"{len(first)} done before" in again.stderr and "40 items done" in again.stderr
    records = [json.loads(line) for line in report.read_text().splitlines()]
    assert sorted(record["index"] for record in records if record["status"] == "ok") == list(range(40))
    assert len(records) == 40
    once_more = run(*command, input=inputs)
    assert once_more.returncode == 0 and report.read_text().count("\n") == 40
    spoilt = folder / "spoilt"
    spoilt.write_text("no report\n")
    assert "line 1 is not one that --jsonl writes" in run("map", "work.py:upper", "a", "--resume", spoilt).stderr


def test_a_former_run_is_read_from_plain_files_only(folder: Path) -> None:
    os.mkfifo("pipe")
    for place in ("pipe", "/dev/zero", "."):
        done = run("map", "work.py:upper", "a", "--resume", place)
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr.startswith(f"error: cannot resume from {place}: it is not a plain file\n help: ")
