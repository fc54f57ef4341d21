"""A load generator that does not get the CPU it needs says so: its figures are INVALID, with the reason and a cure."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_harness import COMMAND, LIMIT_SECONDS

pytestmark = pytest.mark.timeout(120)


# At a rate, and as fast as eight connections can.
PACINGS = [["-q", "1000/s"], ["-c", "8"]]


def load(folder: Path, before, *arguments: str):
    """Runs a load test of the command's own server, after `before()` in its process; returns how it ended and its result."""
    done = subprocess.run(
        [COMMAND, "load", "--no-tui", "-P", "1", "-z", "2s", "-o", "result.json", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=2 * LIMIT_SECONDS,
        preexec_fn=before,
    )
    return done, json.loads((folder / "result.json").read_text())


def assert_is_invalid_for_want_of_cpu(done, result):
    assert done.returncode == 98, done.stdout
    assert done.stdout.startswith("INVALID")
    assert result["verdict"]["outcome"] == "invalid"
    reasons = {reason["what"]: reason for reason in result["verdict"]["reasons"]}
    of_cpu = ("requests were sent late", "a worker had to wait for a core")
    assert any(what.startswith(of_cpu) for what in reasons), reasons
    for what, reason in reasons.items():
        assert what in done.stdout and reason["figure"] and reason["limit"] and reason["cure"]


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


@pytest.mark.parametrize("pacing", PACINGS)
def test_a_generator_behind_busy_processes_is_invalid(tmp_path, pacing):
    with busy_processes(2 * len(os.sched_getaffinity(0))):
        done, result = load(tmp_path, lambda: os.nice(10), *pacing)
    assert_is_invalid_for_want_of_cpu(done, result)


@contextlib.contextmanager
def cgroup_with_a_twentieth_of_a_cpu() -> Iterator[Path]:
    """A control group of either version; skips the test where none can be made."""
    name = f"procession-test-{os.getpid()}"
    for parent, settings in (
        (Path("/sys/fs/cgroup/cpu"), {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "5000"}),
        (Path("/sys/fs/cgroup"), {"cpu.max": "5000 100000"}),
    ):
        group = parent / name
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            for file, text in settings.items():
                if not (group / file).exists():
                    raise OSError(f"no {file}")
                (group / file).write_text(text)
        except OSError:
            group.rmdir()
            continue
        try:
            yield group
        finally:
            group.rmdir()
        return
    pytest.skip("no control group with a limit of CPU can be made here")


@pytest.mark.parametrize("pacing", PACINGS)
def test_a_generator_with_too_little_of_a_cpu_is_invalid(tmp_path, pacing):
    with cgroup_with_a_twentieth_of_a_cpu() as group:
        done, result = load(tmp_path, lambda: (group / "cgroup.procs").write_text(str(os.getpid())), *pacing)
    assert_is_invalid_for_want_of_cpu(done, result)
