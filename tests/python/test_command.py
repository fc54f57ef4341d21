"""The ``procession`` command as a user meets it: its results, and the ways to call it.

These are real runs of the installed script, with real processes. Every run has a time limit and leaves nothing behind.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_harness import LIMIT_SECONDS, REPOSITORY, json_lines, run

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
    assert run("map", "work.py:yields_and_waits", "ab", "-q").stdout == '["a", "b"]\n'


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_every_start_method_gives_the_same(folder: Path, start_method: str) -> None:
    done = run("map", "work.py:upper", "a", "b", "--start-method", start_method, "--ordered")
    assert (done.returncode, done.stdout) == (0, "A\nB\n"), done.stderr


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_a_module_that_goes_to_another_folder_is_loaded_by_every_start_method(folder: Path, start_method: str) -> None:
    (folder / "below").mkdir()
    (folder / "goes.py").write_text("import os\nos.chdir('below')\n\ndef where(text):\n    return os.getcwd()\n")
    for named in ("goes.py:where", "goes:where"):
        done = run("map", named, "a", "--start-method", start_method, "-q")
        assert (done.returncode, done.stdout) == (0, f"{os.path.realpath(folder / 'below')}\n"), done.stderr


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_a_file_beside_the_functions_hides_none_of_pythons_own_from_the_workers(
    folder: Path, start_method: str
) -> None:
    for name in ("json", "queue", "traceback"):
        (folder / f"{name}.py").write_text("")
    done = run("map", "work.py:no_threes", "1", "3", "--start-method", start_method, "--jsonl", "--ordered")
    assert [record["status"] for record in json_lines(done)] == ["ok", "error"], done.stderr


def test_a_module_that_forks_and_comes_back_in_both_processes_is_run_once(folder: Path) -> None:
    (folder / "twins.py").write_text("import os\nos.fork()\n\ndef f(text):\n    return text\n")
    done = run("map", "twins.py:f", "-", "-q", "--ordered", input="".join(f"{n}\n" for n in range(500)))
    assert (done.returncode, done.stdout) == (0, "".join(f"{n}\n" for n in range(500))), done.stderr


def test_results_go_to_the_output_file(folder: Path) -> None:
    (folder / "out.txt").write_text("what was there before, and is longer")
    done = run("map", "work.py:upper", "a", "--output", "out.txt")
    assert (done.stdout, (folder / "out.txt").read_text()) == ("", "A\n")


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
