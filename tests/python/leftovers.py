"""What a test may have left behind: processes, descriptors, files in /dev/shm, threads.

A :class:`Snapshot` is taken before a test; :meth:`Snapshot.settle` compares with it afterwards, gives slow endings a
short time, and returns one line per thing that is still there. Everything is read from /proc, so nothing has to be
asked of the code under test.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterable
from typing import NamedTuple

#: Put into the environment of the test run, so that orphans (their parent gone, so no longer below us in the tree) are
#: still recognised as ours.
MARKER = "PROCESSION_TEST_RUN"

#: Servers which live as long as the process that uses them, by what their command line holds. One of each is allowed.
WARM_SERVERS = {
    "resource tracker": ("multiprocessing.resource_tracker",),
    "forkserver of the standard library": ("multiprocessing.forkserver",),
    "forkserver of procession": ("procession", "forkserver"),
}
#: And one by its name: what is cloned from it has the same command line.
TEMPLATE = "mp-template"


class ProcessInfo(NamedTuple):
    """One line of the process table. ``started_ticks`` tells a reused pid from the process that had it before."""

    pid: int
    parent_pid: int
    state: str
    started_ticks: int
    name: str
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.name}, state {self.state}, parent {self.parent_pid}): {self.command or '[none]'}"


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def process_info(pid: int) -> ProcessInfo | None:
    """The process table's entry for ``pid``, or None if there is none (any more)."""
    stat = _read(f"/proc/{pid}/stat")
    if not stat:
        return None
    # The name stands in parentheses and may hold any byte, so count fields from the last one.
    opening, closing = stat.index(b"("), stat.rindex(b")")
    name = stat[opening + 1 : closing].decode(errors="replace")
    fields = stat[closing + 2 :].split()
    command = _read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").strip().decode(errors="replace")
    return ProcessInfo(pid, int(fields[1]), fields[0].decode(), int(fields[19]), name, command)


def process_table() -> dict[int, ProcessInfo]:
    """Every process of the machine that we may see, by pid."""
    table = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            info = process_info(int(entry))
            if info is not None:
                table[info.pid] = info
    return table


def descendants(root: int, table: dict[int, ProcessInfo] | None = None) -> list[ProcessInfo]:
    """All processes below ``root``, zombies included, parents before their children."""
    if table is None:
        table = process_table()
    children: dict[int, list[ProcessInfo]] = {}
    for info in table.values():
        children.setdefault(info.parent_pid, []).append(info)
    found, queue = [], [root]
    while queue:
        for info in children.get(queue.pop(0), []):
            found.append(info)
            queue.append(info.pid)
    return found


def is_running(pid: int) -> bool:
    """Whether ``pid`` exists and is not a zombie."""
    info = process_info(pid)
    return info is not None and info.state not in "ZX"


def wait_until(condition, *, seconds: float = 10.0, every_seconds: float = 0.01) -> bool:
    """Polls ``condition`` until it is true (then True) or the time is over (then False)."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_seconds)
    return True


class _Orphans:
    """Finds processes of this test run whose parents are gone: by the marker in their environment, or, as a forked
    process shows the environment of the one it was forked from, by having exactly ours."""

    def __init__(self) -> None:
        me = process_info(os.getpid())
        assert me is not None
        self._me = me
        self._environment = _read(f"/proc/{me.pid}/environ")
        self._marker = f"{MARKER}={os.environ[MARKER]}".encode()
        self._foreign: set[tuple[int, int]] = set()

    def among(self, table: dict[int, ProcessInfo], known: set[int]) -> list[ProcessInfo]:
        found = []
        for info in table.values():
            identity = (info.pid, info.started_ticks)
            if info.pid in known or identity in self._foreign or info.state in "ZX":
                continue
            if info.started_ticks < self._me.started_ticks:
                self._foreign.add(identity)
                continue
            environment = _read(f"/proc/{info.pid}/environ")
            forked_from_us = environment == self._environment and info.command == self._me.command
            if self._marker in environment.split(b"\0") or (environment and forked_from_us):
                found.append(info)
        return found


_orphans: _Orphans | None = None


def _our_processes() -> list[ProcessInfo]:
    global _orphans
    if _orphans is None:
        _orphans = _Orphans()
    table = process_table()
    mine = descendants(os.getpid(), table)
    ancestors, pid = {os.getpid()}, os.getpid()
    while pid in table:
        pid = table[pid].parent_pid
        ancestors.add(pid)
    return mine + _orphans.among(table, ancestors | {info.pid for info in mine})


def _warm_servers(processes: Iterable[ProcessInfo]) -> dict[str, list[ProcessInfo]]:
    """The servers among ``processes`` that may stay. What a forkserver forked has the same command line, so only our
    own children count: a worker that outlives its pool is nobody's server."""
    servers: dict[str, list[ProcessInfo]] = {}
    for info in processes:
        if info.parent_pid == os.getpid() and info.state not in "ZX":
            if info.name == TEMPLATE:
                servers.setdefault("template of procession", []).append(info)
                continue
            for kind, words in WARM_SERVERS.items():
                if all(word in info.command for word in words):
                    servers.setdefault(kind, []).append(info)
                    break
    return servers


def _descriptors() -> dict[int, str]:
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        try:
            found[int(entry)] = os.readlink(f"/proc/self/fd/{entry}")
        except OSError:
            pass  # The descriptor of this very listing.
    return found


def _descriptors_of_servers(servers: Iterable[ProcessInfo]) -> set[str]:
    """Pipes and memory files that a warm server holds too, as /proc names them."""
    held = set()
    for info in servers:
        try:
            entries = os.listdir(f"/proc/{info.pid}/fd")
        except OSError:
            continue
        for entry in entries:
            try:
                target = os.readlink(f"/proc/{info.pid}/fd/{entry}")
            except OSError:
                continue
            if target.startswith("pipe:") or target.startswith("/memfd:"):
                held.add(target)
    return held


def _pid_of_pidfd(descriptor: int) -> int | None:
    for line in _read(f"/proc/self/fdinfo/{descriptor}").splitlines():
        if line.startswith(b"Pid:"):
            return int(line.split()[1])
    return None


def _shared_memory_files() -> set[str]:
    try:
        return set(os.listdir("/dev/shm"))
    except OSError:
        return set()


def _held_by_others(names: set[str], ours: Iterable[ProcessInfo]) -> set[str]:
    """Which of these files in /dev/shm a process has that is not ours: the directory is the whole machine's."""
    our_pids = {os.getpid(), *(info.pid for info in ours)}
    held: set[str] = set()
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) in our_pids:
            continue
        held.update(name for name in names if f"/dev/shm/{name}".encode() in _read(f"/proc/{entry}/maps"))
        try:
            targets = {os.readlink(f"/proc/{entry}/fd/{fd}") for fd in os.listdir(f"/proc/{entry}/fd")}
        except OSError:
            continue
        held.update(name for name in names if f"/dev/shm/{name}" in targets)
    return held


def _native_threads() -> set[int]:
    return {int(entry) for entry in os.listdir("/proc/self/task")}


class Snapshot:
    """What there was before a test."""

    def __init__(self) -> None:
        self._processes = {(info.pid, info.started_ticks) for info in _our_processes()}
        self._descriptors = _descriptors()
        self._shared_memory_files = _shared_memory_files()
        self._suspects: set[str] | None = None
        self._threads = set(threading.enumerate())
        self._native_threads = _native_threads()

    def settle(self, *, seconds: float = 5.0) -> list[str]:
        """Waits until everything is as it was, at most ``seconds``; returns a line for each thing left behind."""
        deadline = time.monotonic() + seconds
        pause_seconds = 0.001
        self._suspects = _shared_memory_files() - self._shared_memory_files
        while True:
            left = self.differences()
            if not left or time.monotonic() > deadline:
                return left
            # What comes now is not the ended test's; what goes and comes is somebody else's.
            self._suspects &= _shared_memory_files()
            time.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 2, 0.05)

    def differences(self) -> list[str]:
        """One line for each thing that was not there when the snapshot was taken."""
        left: list[str] = []

        processes = _our_processes()
        servers = _warm_servers(processes)
        for kind, running in servers.items():
            if len(running) > 1:
                left.append(f"{len(running)} processes are a {kind}: {', '.join(str(info.pid) for info in running)}")
        server_list = [info for running in servers.values() for info in running]
        server_pids = {info.pid for info in server_list}
        for info in processes:
            if info.pid not in server_pids and (info.pid, info.started_ticks) not in self._processes:
                left.append(str(info))

        new_servers = [info for info in server_list if (info.pid, info.started_ticks) not in self._processes]
        left += self._new_descriptors(server_list, len(new_servers))

        names = _shared_memory_files() - self._shared_memory_files
        if self._suspects is not None:
            names &= self._suspects
        if names:
            names -= _held_by_others(names, processes)
        left += [f"file /dev/shm/{name}" for name in sorted(names)]

        for thread in threading.enumerate():
            if thread not in self._threads:
                left.append(f"thread {thread!r}")
        for native in sorted(_native_threads() - self._native_threads):
            name = _read(f"/proc/self/task/{native}/comm").decode(errors="replace").strip()
            left.append(f"native thread {native} ({name})")
        return left

    def _new_descriptors(self, servers: list[ProcessInfo], new_servers: int) -> list[str]:
        held_by_servers = _descriptors_of_servers(servers)
        server_pids = {info.pid for info in servers}
        left = []
        for descriptor, target in sorted(_descriptors().items()):
            if self._descriptors.get(descriptor) == target and not target.startswith("anon_inode:"):
                continue
            if descriptor in self._descriptors and target.startswith("anon_inode:"):
                continue  # These have no number of their own, so equal names are all there is to compare.
            if target.startswith(f"/dev/shm/pym-{os.getpid()}-"):
                continue  # The standard library's heap keeps the memory of a Value or Array for the next one.
            if target in held_by_servers or _pid_of_pidfd(descriptor) in server_pids:
                continue
            if target.startswith("socket:") and new_servers > 0:
                new_servers -= 1  # The line to a server that was started meanwhile; the two ends have two names.
                continue
            left.append(f"descriptor {descriptor}: {target}")
        return left


def kill_leftover_processes(before: Snapshot) -> None:
    """Ends what a failed test left running, so that its neighbours are judged by their own doings."""
    processes = _our_processes()
    server_pids = {info.pid for running in _warm_servers(processes).values() for info in running}
    for info in processes:
        if info.pid not in server_pids and (info.pid, info.started_ticks) not in before._processes:
            try:
                os.kill(info.pid, signal.SIGKILL)
                os.waitpid(info.pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass


if not sys.platform.startswith("linux"):  # pragma: no cover
    raise ImportError("these tests read /proc, which only Linux has")
