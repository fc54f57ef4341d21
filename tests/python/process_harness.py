"""What the tests of processes share: looks into /proc, and programs whose main module can be imported again."""

import itertools
import os
import subprocess
import sys
import textwrap
import time

import pytest

PATIENCE_SECONDS = 60


def wait_until(condition, what="the condition"):
    deadline = time.monotonic() + PATIENCE_SECONDS / 2
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true"
        time.sleep(0.002)


def open_descriptors():
    return set(os.listdir("/proc/self/fd"))


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as status:
            return status.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def run_script(path):
    """Starts the program in a new interpreter."""
    # The tests of other things need not import it before they run.
    import procession

    package_root = os.path.dirname(os.path.dirname(os.path.abspath(procession.__file__)))
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-X", "dev", path],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )


@pytest.fixture
def script(tmp_path):
    """Starts code as the main module of a new interpreter, so that what it spawns can import it again."""
    numbers = itertools.count()
    started = []

    def start(code):
        path = tmp_path / f"script_{next(numbers)}.py"
        path.write_text(textwrap.dedent(code))
        started.append(run_script(str(path)))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=PATIENCE_SECONDS)


def output_of(process):
    said, complained = process.communicate(timeout=PATIENCE_SECONDS / 2)
    assert (process.returncode, complained) == (0, "")
    return said
