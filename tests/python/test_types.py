"""The types that the package declares: that checkers understand them as people use them, and that they are true."""

import json
import os
import pkgutil
import re
import subprocess
import sys

import pytest

import procession

PACKAGE_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(procession.__file__)))
TESTS = os.path.dirname(os.path.abspath(__file__))
TYPING_TESTS = os.path.join(TESTS, "typing")
EXAMPLES = os.path.join(os.path.dirname(os.path.dirname(TESTS)), "examples", "python")
PATIENCE_SECONDS = 300

# Submodules whose stubs are compared with what is there, beside the package itself.
STUBBED_SUBMODULES = {"context", "errors", "managers", "pool", "process", "sharedctypes", "synchronize"}
KNOWN_DIFFERENCES = (
    # Declared as a read-only property, but a subclass may have an attribute of that name.
    "procession.process._Controllable.state",
    "procession.process._Controllable.timed_out",
    "procession.process._Controllable.timeout_error",
    # Made by `register`, so that they take whatever there is, and pass it on.
    "procession.managers.SyncManager.Lock",
    "procession.managers.SyncManager.RLock",
    # Functions that stand as classes in the standard library's stub too, as people write them in annotations.
    "procession.JoinableQueue",
    "procession.Queue",
    "procession.SimpleQueue",
)


def run(*command):
    return subprocess.run(
        command,
        env={**os.environ, "MYPYPATH": PACKAGE_ROOT, "PYTHONPATH": PACKAGE_ROOT},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_SECONDS,
    )


def test_package_says_that_it_is_typed():
    assert os.path.exists(os.path.join(PACKAGE_ROOT, "procession", "py.typed"))


@pytest.mark.parametrize("python_version", ["3.10", "3.13"])
def test_mypy_understands_how_the_package_is_used(python_version, tmp_path):
    done = run(
        *(sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(tmp_path)),
        *("--python-version", python_version, TYPING_TESTS),
    )
    assert (done.stdout, done.returncode) == ("", 0)


def test_mypy_finds_no_fault_with_the_examples(tmp_path):
    done = run(
        *(sys.executable, "-m", "mypy", "--check-untyped-defs", "--no-error-summary", "--cache-dir", str(tmp_path)),
        EXAMPLES,
    )
    assert (done.stdout, done.returncode) == ("", 0)


def test_pyright_understands_how_the_package_is_used_and_the_examples(tmp_path):
    # Its other distribution, which brings the interpreter that it needs instead of downloading it at first use.
    settings = tmp_path / "pyrightconfig.json"
    settings.write_text(
        json.dumps({"include": [TYPING_TESTS, EXAMPLES], "typeCheckingMode": "standard", "extraPaths": [PACKAGE_ROOT]})
    )
    done = run(
        *(sys.executable, "-m", "basedpyright", "--project", str(settings), "--level", "error"),
        *("--pythonpath", sys.executable),
    )
    assert done.returncode == 0, done.stdout


def test_stubs_tell_what_is_there(tmp_path):
    allowed = tmp_path / "allowed"
    allowed.write_text("".join(f"{re.escape(name)}\n" for name in KNOWN_DIFFERENCES))
    done = run(
        *(sys.executable, "-m", "mypy.stubtest", "--concise", "--ignore-disjoint-bases"),
        *("--allowlist", str(allowed), "procession"),
    )
    others = {info.name for info in pkgutil.iter_modules(procession.__path__)} | {"_native"}
    others -= STUBBED_SUBMODULES
    told = [line for line in done.stdout.splitlines() if line.startswith("procession.")]
    wrong = [line for line in told if re.split(r"[. ]", line)[1] not in others]
    # The rest of that module is the standard library's own, whose stubs are not ours to judge.
    wrong = [line for line in wrong if not re.match(r"procession\.managers\.(?!SyncManager\b)", line)]
    assert wrong == []
    assert "not checking stubs" not in done.stdout
