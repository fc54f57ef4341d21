"""Running a measurement so that it can neither hang the run nor leave a process behind."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Makes this process the parent of whatever below it loses its own, so that daemons can be found and ended."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def descendants() -> list[int]:
    """The pids of all processes below this one, parents before children; zombies included."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    parent = int(file.read().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(parent, []).append(int(name))
    found = list(children.get(os.getpid(), ()))
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def sweep(limit_seconds: float = 10.0) -> int:
    """Kills everything below this process and reaps it; returns how many processes there were.

    Only for moments in which none of them is wanted.
    """
    deadline = time.monotonic() + limit_seconds
    seen: set[int] = set()
    while time.monotonic() < deadline:
        pids = descendants()
        if not pids:
            break
        for pid in pids:
            if pid not in seen:
                seen.add(pid)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for pid in pids:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass
        time.sleep(0.005)
    return len(seen)


def _cpu_ticks(pids: Sequence[int]) -> int:
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


@dataclass(frozen=True)
class Ended:
    """How a process that was run with a limit came to its end."""

    exit_status: int | None
    """As in ``subprocess``: negative for a signal; ``None`` when the time was up and it was killed."""
    was_idle: bool
    """When the time was up: whether nothing below us used any noteworthy CPU time any more."""
    seconds: float
    output: str
    """The end of what it wrote to stdout and stderr."""


def run_limited(
    arguments: Sequence[str], environment: Mapping[str, str], limit_seconds: float, log: str, cwd: str | None = None
) -> Ended:
    """Runs a program to its end or to the limit, then kills it and everything that it started."""
    started = time.monotonic()
    was_idle = False
    with open(log, "wb") as output:
        process = subprocess.Popen(
            arguments,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=cwd,
        )
        try:
            exit_status: int | None = process.wait(limit_seconds)
        except subprocess.TimeoutExpired:
            exit_status = None
            pids = descendants()
            before = _cpu_ticks(pids)
            time.sleep(1.0)
            was_idle = _cpu_ticks(pids) - before < 0.2 * os.sysconf("SC_CLK_TCK")
            process.kill()
            process.wait()
        finally:
            seconds = time.monotonic() - started
            sweep()
    with open(log, "rb") as written:
        written.seek(0, os.SEEK_END)
        written.seek(max(0, written.tell() - 4000))
        text = written.read().decode(errors="replace")
    return Ended(exit_status, was_idle, seconds, text)
