"""Mistakes that the command finds at the start: one clear error, with what to do, and nothing is touched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_harness import COMMAND, LIMIT_SECONDS, run


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
        ("raise ValueError('the first line\\nand the second')\n", "ValueError: the first line"),
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
