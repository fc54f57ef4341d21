"""No test hangs, and no test leaves anything behind.

* Each test has a time limit (``timeout`` in pyproject.toml, or ``@pytest.mark.timeout(seconds)``), held by
  :mod:`watchdog`.
* After each test, processes, descriptors, ``/dev/shm`` and threads are as they were before: :func:`no_leftovers`.
* ``start_method`` runs a test once for ``fork``, ``spawn`` and ``forkserver``; ``context`` is procession's context for it.
* ``run_python`` runs a program in a process of its own, with a time limit.
* ``mark`` and ``folder`` are where tests of the command run it: :mod:`command_harness`.
* ``script`` starts a program of the tests of processes: :mod:`process_harness`.
* ``server`` is what the tests of virtual users test: :mod:`load_harness`.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import leftovers
import pytest
import watchdog
from command_harness import folder, mark  # noqa: F401 - fixtures
from dev_shm import take_a_private_dev_shm
from lanes import pytest_addoption, pytest_collection_modifyitems, pytest_runtestloop  # noqa: F401
from load_harness import server  # noqa: F401 - a fixture
from process_harness import script  # noqa: F401 - a fixture

# Unbuffered, `print` writes a line and its end apart, so lines of several processes mix: a property of that mode of
# Python's, and of no interest to the tests, which expect the ordinary one.
os.environ.pop("PYTHONUNBUFFERED", None)
os.environ.setdefault(leftovers.MARKER, f"{os.getpid()}-{time.time_ns()}")

# A shell that starts the tests in the background has them ignore Ctrl-C, and nohup the end of the terminal, which programs
# started here would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

_watchdog: watchdog.Watchdog | None = None


def _fail_test() -> None:
    pytest.fail("the test's time is over; the watchdog's report shows where each process was", pytrace=True)


def pytest_configure(config: pytest.Config) -> None:
    global _watchdog
    take_a_private_dev_shm()
    # Tests let processes crash; nobody will look at their core files.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    # Capturing replaces descriptor 2 later; reports are for whoever watches the run.
    report = os.fdopen(os.dup(2), "w")
    _watchdog = watchdog.Watchdog(report, _fail_test)


def pytest_unconfigure(config: pytest.Config) -> None:
    global _watchdog
    if _watchdog is not None:
        _watchdog.stop()
        _watchdog = None


def pytest_timeout_set_timer(item: pytest.Item, settings) -> bool:
    """Has our watchdog hold the limits that pytest-timeout read from marks and options."""
    assert _watchdog is not None
    _watchdog.watch(settings.timeout, item.nodeid)
    return True


def pytest_timeout_cancel_timer(item: pytest.Item) -> bool:
    """The limit of this test is off."""
    if _watchdog is not None:
        _watchdog.relax()
    return True


@pytest.fixture(autouse=True)
def no_leftovers() -> Iterator[None]:
    """Fails the test if a process, a descriptor, a file in /dev/shm or a thread outlives it.

    Only the standard library's resource tracker and the warm forkservers may stay, one of each.
    """
    before = leftovers.Snapshot()
    yield
    if before.differences():
        gc.collect()  # A pool in a reference cycle with an exception's traceback is not the code's leftover yet.
    left = before.settle()
    if left:
        leftovers.kill_leftover_processes(before)
        pytest.fail("left behind:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture(params=["fork", "spawn", "forkserver"])
def start_method(request: pytest.FixtureRequest) -> str:
    """Each of the three ways to start processes, in turn."""
    if request.param not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no start method {request.param}")
    return request.param


@pytest.fixture
def context(start_method: str):
    """procession's context for :func:`start_method`."""
    import procession

    return procession.get_context(start_method)


class RunPython:
    """Runs Python programs in processes of their own; see :meth:`__call__`."""

    def __call__(
        self,
        *arguments: str | os.PathLike[str],
        source: str | None = None,
        input: str = "",
        timeout_seconds: float = 30.0,
        interpreter_options: list[str] = [],
        environment: dict[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs ``python *arguments`` (or ``python -c source *arguments``) and returns exit code and output.

        The program has its own process group. A program that is not done in time is killed together with all its
        descendants, and the test fails with what it had printed.
        """
        command = [sys.executable, *interpreter_options]
        if source is not None:
            command += ["-c", source]
        command += [os.fspath(argument) for argument in arguments]
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
            cwd=cwd,
            start_new_session=True,
        ) as process:
            try:
                output, errors = process.communicate(input, timeout=timeout_seconds)
            except BaseException as error:
                victims = leftovers.descendants(process.pid)
                for info in victims:
                    try:
                        os.kill(info.pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
                process.kill()
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                output, errors = process.communicate()
                tree = "\n".join(map(str, victims))
                pytest.fail(
                    f"{command} was not done after {timeout_seconds:g} s\n"
                    f"its processes:\n{tree}\nstdout:\n{output}\nstderr:\n{errors}"
                )
        return subprocess.CompletedProcess(command, process.returncode, output, errors)


@pytest.fixture
def run_python() -> RunPython:
    """A function that runs a Python program in a process of its own, with a time limit: see :class:`RunPython`."""
    return RunPython()
