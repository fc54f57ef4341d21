"""A slice of the compatibility run: the classes of CPython's own tests that tell most, over all start methods.

The whole of it, over several versions of Python, is `make compat`; see tests/compat/README.md.
"""

import os
import subprocess
import sys

import pytest

COMPAT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "compat")
SECONDS = 240

TELLING = {
    "fork": "WithProcessesTestPool,WithProcessesTestPoolWorkerErrors,WithProcessesTestProcess,WithProcessesTestQueue,"
    "WithProcessesTestLock,WithProcessesTestConnection,WithProcessesTestSharedCTypes,WithManagerTestPool",
    "spawn": "WithProcessesTestPool.test_[ai]*,WithProcessesTestQueue,TestStartMethod,WithProcessesTestSharedMemory",
    "forkserver": "WithProcessesTestPool.test_[am]*,WithProcessesTestProcess.test_[a-l]*,TestStartMethod,TestNoForkBomb",
}


def run(*arguments):
    return subprocess.run(
        [sys.executable, os.path.join(COMPAT, "run.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )


@pytest.mark.timeout(SECONDS + 30)
@pytest.mark.parametrize("method", sorted(TELLING))
def test_cpythons_own_tests_pass(method):
    done = run("--start-methods", method, "--classes", TELLING[method], "--suites", "multiprocessing", "--quiet")
    assert done.returncode == 0, done.stdout


def test_each_expected_difference_has_a_reason_and_is_about_tests():
    sys.path.insert(0, COMPAT)
    try:
        import run as compat
    finally:
        sys.path.remove(COMPAT)
    differences = compat.read_expected()
    assert differences
    page = compat.page([], differences)
    assert all(difference.reason in page for difference in differences)
