"""The ``procession`` command as a user meets it: real runs of the installed script, with real processes.

Every run has a time limit and leaves nothing behind; :func:`nobody_left` looks for whatever carries the test's mark in
its environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
import uuid
import xml.etree.ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_harness import (
    COMMAND,
    LIMIT_SECONDS,
    MARK,
    REPOSITORY,
    marked_processes,
    nobody_left,
    run,
    start,
    violations,
    wait_for,
)

SCHEMAS = REPOSITORY / "crates" / "procession-cli" / "schema"

FUNCTIONS = '''
import asyncio, os, pathlib, signal, subprocess, sys, time

def upper(text):
    return text.upper()

def describe(text):
    return {"text": text, "length": len(text)}

def nothing(text):
    return None

def a_set(text):
    return {text}

def not_a_number(text):
    return float("nan")

def surrogate(text):
    return "\\udcff"

def bad_repr(text):
    class Bad:
        def __repr__(self):
            raise RuntimeError("no repr")
    return Bad()

def no_threes(text):
    if "3" in text:
        raise ValueError("no threes: " + text)
    return text

def ends(text):
    if text == "exit":
        sys.exit("bye")
    if text == "base":
        raise BaseException("the very base")
    if text == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if text == "code":
        os._exit(7)
    return text

def stuck(text):
    if text == "stuck":
        while True:
            time.sleep(0.01)
    return text

def sleeper(text):
    time.sleep(float(text))
    return text

def at_gate(gate):
    gate = gate.strip()
    while not os.path.exists(gate):
        time.sleep(0.01)
    return 1

def later_first(text):
    time.sleep(0.3 if text == "0" else 0)
    return text

def hoards(text):
    kept = []
    while text == "hoard":
        kept.append(b"x" * (1 << 20))
        time.sleep(0.001)
    return text

def until_gate(text):
    while int(text) >= 20 and not os.path.exists("gate"):
        time.sleep(0.01)
    return text

def second_time(path):
    """Fails until it was called twice with this path."""
    with open(path, "a") as file:
        file.write("x")
    if os.path.getsize(path) < 2:
        raise RuntimeError("not yet")
    return "now"

def prints(text):
    print("printed", text)
    return text

def prints_and_dies(text):
    print("printed", text)
    print("the last words")
    os.kill(os.getpid(), signal.SIGKILL)

def big(text):
    return text * 1_000_000

def with_child(text):
    subprocess.run(["sleep", "1000"])

def power(base, exponent=1):
    return base ** exponent

def sizes(path):
    return os.path.getsize(path)

async def waits(text):
    await asyncio.sleep(0.001)
    return text

def yields(text):
    yield from text

class Shouter:
    @staticmethod
    def shout(text):
        return text + "!"

_cache = {}

def remembers(number):
    if number not in _cache:
        time.sleep(0.02)
    _cache[number] = True

NUMBER = 42
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder but for work.py; afterwards no process that came from the test may be left."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    (tmp_path / "work.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    nobody_left(mark)


def json_lines(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    records = sorted((json.loads(line) for line in done.stdout.splitlines()), key=lambda record: record["index"])
    for record in records:
        assert_matches("map-line", record)
    return records


def host_pid(mark: str) -> int:
    for pid, _ in marked_processes(mark):
        with contextlib.suppress(OSError):
            if "_command_host" in Path(f"/proc/{pid}/cmdline").read_text() and os.getpgid(pid) == pid:
                return pid
    raise LookupError("no host process")


def assert_matches(name: str, value: Any) -> None:
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    assert list(violations(value, schema)) == []
    if name == "map-line":
        assert ("result" in value) == (value["status"] == "ok")
        assert ("error" in value) == (value["status"] != "ok")


# --- results -----------------------------------------------------------------------------------------------------


def test_every_input_gives_one_line(folder: Path) -> None:
    done = run("map", "work.py:upper", "a", "b", "c")
    assert sorted(done.stdout.split()) == ["A", "B", "C"]
    assert done.returncode == 0
    assert re.match(r"3 items done in .* by \d+ process(es)?: .* items/s\ntasks took .*: speed-up ", done.stderr)


def test_ordered_results_keep_the_order_of_the_inputs(folder: Path) -> None:
    inputs = [str(number) for number in range(100)]
    ordered = run("map", "work.py:later_first", "-", "--ordered", "--processes", "2", input="\n".join(inputs))
    assert ordered.stdout.split() == inputs
    unordered = run("map", "work.py:later_first", "-", "--processes", "2", input="\n".join(inputs))
    assert sorted(unordered.stdout.split(), key=int) == inputs
    assert unordered.stdout.split()[-1] == "0", "a slow item must not hold up the others"


def test_strings_are_written_as_they_are_other_values_as_json_and_none_not_at_all(folder: Path) -> None:
    assert run("map", "work.py:upper", "é\t'", "-q").stdout == "É\t'\n"
    assert run("map", "work.py:describe", "é", "-q").stdout == '{"text": "é", "length": 1}\n'
    assert run("map", "work.py:nothing", "a", "b", "-q").stdout == ""
    assert run("map", "work.py:a_set", "a", "-q").stdout == "{'a'}\n"


def test_json_lines_match_the_schema_for_every_way_to_end(folder: Path) -> None:
    done = run("map", "work.py:no_threes", "-", "--jsonl", input=b"1\n3\n\xff\n")
    one, three, unreadable = json_lines(done)
    assert (one["status"], one["result"], one["attempts"], one["input"]) == ("ok", "1", 1, "1")
    assert (three["status"], three["error"]["type"]) == ("error", "ValueError")
    assert "no_threes" in three["error"]["traceback"] and "_command_host" not in three["error"]["traceback"]
    assert (unreadable["status"], unreadable["attempts"]) == ("bad_input", 0)
    assert done.returncode == 1


@pytest.mark.parametrize("function", ["a_set", "not_a_number", "surrogate"])
def test_a_result_that_json_cannot_say_is_given_as_repr(folder: Path, function: str) -> None:
    (record,) = json_lines(run("map", f"work.py:{function}", "a", "--jsonl"))
    assert record["result_is_repr"] is True
    assert record["result"] == {"a_set": "{'a'}", "not_a_number": "nan", "surrogate": r"'\udcff'"}[function]


def test_a_result_that_cannot_even_be_shown_fails_alone(folder: Path) -> None:
    (record,) = json_lines(run("map", "work.py:bad_repr", "a", "--jsonl"))
    assert (record["status"], record["error"]["message"]) == ("error", "no repr")


def test_large_results_arrive_whole(folder: Path) -> None:
    done = run("map", "work.py:big", "a", "b", "c", "d", "--ordered", "-q")
    assert done.stdout == "".join(letter * 1_000_000 + "\n" for letter in "abcd")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_the_function_prints_goes_to_standard_error_in_whole_lines(folder: Path, unbuffered: str) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = run("map", "work.py:prints", "a", "b", "--ordered", "-q", env=environment)
    assert done.stdout == "a\nb\n"
    assert sorted(done.stderr.splitlines()) == ["printed a", "printed b"]


def test_what_an_item_has_printed_is_kept_for_its_line(folder: Path) -> None:
    done = run("map", "work.py:prints", "a", "b", "--ordered", "--jsonl", "--task-output", "capture")
    assert [record["output"] for record in json_lines(done)] == ["printed a\n", "printed b\n"]
    assert "printed" not in done.stderr
    (record,) = json_lines(run("map", "work.py:upper", "a", "--jsonl", "--task-output", "capture"))
    assert "output" not in record


def test_the_summary_has_the_last_words_of_what_died(folder: Path) -> None:
    done = run("map", "work.py:prints_and_dies", "a", "--task-output", "capture", "--jsonl")
    (record,) = json_lines(done)
    assert (record["status"], record["output"]) == ("died", "printed a\nthe last words\n")
    assert "  | printed a\n  | the last words\n" in done.stderr
    assert "was killed by SIGKILL while running prints_and_dies('a')\n" in done.stderr


def test_printed_lines_are_labelled_when_asked_for(folder: Path) -> None:
    done = run("map", "work.py:prints", "a", "b", "--ordered", "-q", "--task-output", "lines")
    assert done.stdout == "a\nb\n"
    assert sorted(re.sub(r"^\[\w*PoolWorker-\d+\] ", "", line) for line in done.stderr.splitlines()) == [
        "printed a",
        "printed b",
    ]
    assert all(line.startswith("[") for line in done.stderr.splitlines())


def test_coroutines_and_generators_are_run_to_their_end(folder: Path) -> None:
    assert run("map", "work.py:waits", "a", "-q").stdout == "a\n"
    assert run("map", "work.py:yields", "ab", "-q").stdout == '["a", "b"]\n'


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_every_start_method_gives_the_same(folder: Path, start_method: str) -> None:
    done = run("map", "work.py:upper", "a", "b", "--start-method", start_method, "--ordered")
    assert (done.returncode, done.stdout) == (0, "A\nB\n"), done.stderr


def test_results_go_to_the_output_file(folder: Path) -> None:
    (folder / "out.txt").write_text("what was there before, and is longer")
    done = run("map", "work.py:upper", "a", "--output", "out.txt")
    assert (done.stdout, (folder / "out.txt").read_text()) == ("", "A\n")


# --- inputs ------------------------------------------------------------------------------------------------------


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


# --- failures of items -------------------------------------------------------------------------------------------


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


# --- ends that nobody wanted -------------------------------------------------------------------------------------


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


# --- mistakes at the start ---------------------------------------------------------------------------------------


def test_a_missing_file_is_one_clear_error(folder: Path) -> None:
    done = run("map", "no_such.py:f", "a")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("error: no such file: no_such.py\n help: the path is taken from the current folder")


def test_a_missing_function_is_answered_with_near_matches(folder: Path) -> None:
    done = run("map", "work.py:uper", "a")
    assert done.returncode == 3
    assert done.stderr.startswith("error: work.py has no function 'uper'\n help: did you mean 'upper'")
    far = run("map", "work.py:zzzzzz", "a")
    assert "functions there: upper, describe, nothing" in far.stderr


def test_methods_and_modules_can_be_named(folder: Path) -> None:
    assert run("map", "work.py:Shouter.shout", "a", "-q").stdout == "a!\n"
    assert run("map", "work:upper", "a", "-q").stdout == "A\n"
    done = run("map", "work.py:Shouter.shot", "a")
    assert done.stderr == "error: work.py:Shouter has no function 'shot'\n help: did you mean 'shout'?\n"


def test_what_cannot_be_called_is_refused(folder: Path) -> None:
    done = run("map", "work.py:NUMBER", "a")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("error: work.py:NUMBER is not a function but of type int\n")


def test_a_module_that_raises_on_import_shows_its_own_traceback_only(folder: Path) -> None:
    (folder / "broken.py").write_text("def helper():\n    return 1 / 0\n\nhelper()\n")
    done = run("map", "broken.py:helper", "a")
    assert done.returncode == 3
    assert done.stderr.startswith("error: importing broken.py raised ZeroDivisionError: division by zero\n")
    assert 'broken.py", line 2, in helper' in done.stderr
    assert "_command_host" not in done.stderr and "importlib" not in done.stderr


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f(:\n", "SyntaxError"),
        ("import sys; sys.exit(3)\n", "SystemExit: 3"),
        ("import no_such_library\n", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("from . import sibling\n", "ImportError: attempted relative import"),
        ("raise KeyboardInterrupt\n", "KeyboardInterrupt"),
    ],
)
def test_other_ways_to_fail_on_import_are_named_too(folder: Path, source: str, message: str) -> None:
    (folder / "broken.py").write_text(source)
    done = run("map", "broken.py:f", "a")
    assert done.returncode == 3
    assert f"error: importing broken.py raised {message}" in done.stderr
    assert "\n help: " in done.stderr


def test_a_module_that_ends_its_process_on_import_is_named(folder: Path) -> None:
    (folder / "broken.py").write_text("import os; os._exit(5)\n")
    done = run("map", "broken.py:f", "a")
    assert done.returncode == 3
    assert "exited with code 5 before it had loaded the function" in done.stderr


def test_a_missing_module_is_one_clear_error(folder: Path) -> None:
    done = run("map", "no_such.module:f", "a")
    assert done.returncode == 3
    assert "error: no module named 'no_such'" in done.stderr


def test_a_python_without_procession_says_how_to_install_it(folder: Path) -> None:
    bare = folder / "bare-python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    bare.chmod(0o755)
    done = run("map", "work.py:upper", "a", "--python", bare)
    assert done.returncode == 3
    assert f"error: Python at {bare} cannot import procession: ModuleNotFoundError" in done.stderr
    assert f"{bare} -m pip install procession==" in done.stderr


@pytest.mark.parametrize("descriptors", [10, 12, 14, 16, 20])
def test_too_few_descriptors_are_one_clear_error_or_enough(folder: Path, descriptors: int) -> None:
    shell = f'ulimit -n {descriptors}; exec "$0" map work.py:upper a b'
    done = subprocess.run(["sh", "-c", shell, COMMAND], capture_output=True, text=True, timeout=LIMIT_SECONDS)
    if done.returncode == 0:
        assert sorted(done.stdout.split()) == ["A", "B"]
    else:
        assert done.returncode == 3, done.stderr
        assert "Too many open files" in done.stderr or "Permission denied" in done.stderr
        assert "ulimit" in done.stderr or "--processes" in done.stderr


def test_a_mistake_leaves_the_output_file_as_it_was(folder: Path) -> None:
    (folder / "out.txt").write_text("kept")
    run("map", "work.py:no_such_function", "a", "--output", "out.txt")
    assert (folder / "out.txt").read_text() == "kept"


def test_a_mistake_leaves_standard_input_to_others(folder: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", '"$0" map work.py:no_such_function - 2>/dev/null; cat', COMMAND],
        input=b"for others\n",
        capture_output=True,
        timeout=LIMIT_SECONDS,
    )
    assert done.stdout == b"for others\n"


def test_neighbours_named_like_the_standard_library_do_no_harm(folder: Path) -> None:
    for name in ["queue", "random", "struct", "procession"]:
        (folder / f"{name}.py").write_text("raise RuntimeError('the wrong one')\n")
    (folder / "json.py").write_text("def f(text):\n    return 'mine ' + text\n")
    os.chdir(folder.parent)
    done = run("map", folder / "json.py:f", "a")
    assert (done.returncode, done.stdout) == (0, "mine a\n"), done.stderr


# --- the terminal ------------------------------------------------------------------------------------------------


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


# --- bench -------------------------------------------------------------------------------------------------------


def test_bench_compares_a_plain_loop_with_pools(folder: Path) -> None:
    done = run(
        *("bench", "work.py:sleeper", "--processes", "1,4", "--rounds", "2"),
        *("--export-json", "bench.json", "--export-svg", "bench.svg"),
        *["0.05"] * 12,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^plain loop +\d", done.stdout, re.MULTILINE)
    assert "████" in done.stdout and "more processes than cores help" in done.stdout
    bench = json.loads((folder / "bench.json").read_text())
    assert_matches("bench", bench)
    assert [row["processes"] for row in bench["rows"]] == [None, 1, 4]
    assert [len(row["seconds"]) for row in bench["rows"]] == [2, 2, 2]
    plain_loop, _, four = bench["rows"]
    assert plain_loop["median_seconds"] >= 12 * 0.05
    assert plain_loop["busy_share"] < 0.5
    assert four["speed_up"] > 1.5
    assert bench["advice"] in done.stdout
    svg = xml.etree.ElementTree.parse(folder / "bench.svg").getroot()
    assert svg.tag.endswith("svg")


def test_bench_starts_each_measurement_with_an_empty_memory(folder: Path) -> None:
    done = run("bench", "work.py:remembers", "--range", "10", "--rounds", "2", "-p", "1", "--export-json", "bench.json")
    assert done.returncode == 0, done.stderr
    for row in json.loads((folder / "bench.json").read_text())["rows"]:
        assert min(row["seconds"]) >= 10 * 0.02


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_bench_works_with_other_start_methods(folder: Path, start_method: str) -> None:
    done = run("bench", "work.py:power", "--range", "20", "--rounds", "1", "-p", "2", "--start-method", start_method)
    assert done.returncode == 0, done.stderr
    assert f", {start_method}\n" in done.stdout


def test_bench_refuses_to_measure_a_function_that_fails(folder: Path) -> None:
    done = run("bench", "work.py:upper", "--range", "3")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: a call raised AttributeError: 'int' object has no attribute 'upper'\n")


def test_an_interrupted_bench_shows_what_it_has(folder: Path) -> None:
    command = start("bench", "work.py:sleeper", "--rounds", "1", "-p", "1,2", *["0.5"] * 6, "--quiet")
    mark = os.environ[MARK]
    first = wait_for(lambda: host_pid(mark))
    wait_for(lambda: host_pid(mark) != first)
    time.sleep(0.5)
    command.send_signal(signal.SIGINT)
    out, text = command.communicate(timeout=LIMIT_SECONDS)
    assert command.returncode == 130
    assert b"plain loop" in out and text == b"interrupted by SIGINT; so far:\n"


# --- the same command by other ways ------------------------------------------------------------------------------


def test_the_module_is_the_command(folder: Path) -> None:
    def module(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "procession", *arguments], capture_output=True, text=True, timeout=LIMIT_SECONDS
        )

    assert module("--version").stdout == run("--version").stdout
    assert re.fullmatch(r"procession \d+\.\d+\.\d+\n", module("--version").stdout)
    assert module("help", "map").stdout == run("help", "map").stdout
    assert module("map", "work.py:upper", "a", "-q").stdout == "A\n"


def test_cargos_binary_is_the_same_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binaries = [REPOSITORY / "target" / profile / "procession" for profile in ("debug", "release")]
    built = sorted((path for path in binaries if path.exists()), key=lambda path: path.stat().st_mtime)
    if not built:
        pytest.skip("there is no binary: cargo build -p procession-cli")

    def cargos(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([built[-1], *arguments], capture_output=True, text=True, timeout=LIMIT_SECONDS)

    assert cargos("--version").stdout == run("--version").stdout
    assert cargos("map", "work.py:upper", "a", "-q", "--python", sys.executable).stdout == "A\n"
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    if sys.prefix != sys.base_prefix:
        assert cargos("map", "work.py:upper", "a", "-q").stdout == "A\n"


def test_the_function_runs_in_the_python_that_the_command_belongs_to(folder: Path) -> None:
    (folder / "which.py").write_text("import sys\ndef python(_):\n    return sys.executable\n")
    assert run("map", "which.py:python", "a", "-q").stdout.strip() == sys.executable
