"""Two test runs that share the tests run each of them once, in whichever order they meet."""

import os
import subprocess
import sys
import textwrap

THIS_DIRECTORY = os.path.dirname(os.path.abspath(__file__))

MODULE = """
    import os, time, pytest

    @pytest.fixture(scope="module")
    def begun():
        time.sleep(0.05)
        return os.getpid()

    @pytest.mark.parametrize("number", range(4))
    def test_it(begun, number):
        assert begun == os.getpid()
        with open("ran", "a") as file:
            file.write(f"{__name__} {number} {os.getpid()}\\n")

    def test_fails():
        assert __name__ != "test_c"
"""


def test_each_test_runs_once_and_each_module_in_one_run(tmp_path):
    tests, claims = tmp_path / "tests", tmp_path / "claims"
    tests.mkdir()
    claims.mkdir()
    (tests / "conftest.py").write_text(
        "from lanes import pytest_addoption, pytest_collection_modifyitems, pytest_runtestloop  # noqa: F401\n"
    )
    names = [f"test_{letter}" for letter in "abcdef"]
    for name in names:
        (tests / f"{name}.py").write_text(textwrap.dedent(MODULE))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir=.", f"--claims={claims}", "."]
    runs = [
        subprocess.Popen(
            [*command, *more],
            cwd=tests,
            env={**os.environ, "PYTHONPATH": THIS_DIRECTORY},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for more in ([], ["--backwards"])
    ]
    outputs = [run.communicate(timeout=40)[0] for run in runs]
    assert sorted(run.returncode for run in runs) == [0, 1], outputs
    lines = [line.split() for line in (tests / "ran").read_text().splitlines()]
    assert sorted((name, int(number)) for name, number, _ in lines) == [(name, n) for name in names for n in range(4)]
    runs_of = {name: {pid for module, _, pid in lines if module == name} for name in names}
    assert all(len(pids) == 1 for pids in runs_of.values()), runs_of
    assert sum(output.count("1 failed") for output in outputs) == 1, outputs
