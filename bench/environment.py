"""What the figures were measured on: machine, interpreter, libraries, commit."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

_PROBE = """
import importlib.metadata, json, platform, sys
found = {"python": platform.python_version(), "implementation": platform.python_implementation(), "libraries": {}}
for name in json.loads(sys.argv[1]):
    try:
        found["libraries"][name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        found["libraries"][name] = None
try:
    import multiprocessing, procession
    found["procession_is_stdlib"] = procession.Pool == multiprocessing.Pool
    found["procession_file"] = procession.__file__
    found["libraries"]["procession"] = found["libraries"].get("procession") or getattr(procession, "__version__", "source tree")
    try:
        from procession import _native
        found["native_file"] = _native.__file__
    except ImportError:
        pass
except ImportError as error:
    found["procession_error"] = str(error)
print(json.dumps(found))
"""


def probe(interpreter: str, distributions: list[str]) -> dict[str, Any]:
    """Asks the interpreter that will measure for its version, the libraries' versions and where procession is."""
    output = subprocess.run(
        [interpreter, "-c", _PROBE, json.dumps(distributions)], stdout=subprocess.PIPE, check=True, timeout=60
    )
    found: dict[str, Any] = json.loads(output.stdout)
    return found


def complaints(found: dict[str, Any], repository: Path) -> list[str]:
    """What would make the comparison mean something else than it seems to."""
    if "procession_error" in found:
        return [f"procession cannot be imported ({found['procession_error']}); run bench/setup.sh"]
    if found.get("procession_is_stdlib"):
        return ["procession.Pool is multiprocessing.Pool itself: the rows compare the standard library with itself"]
    if "native_file" in found:
        built = os.path.getmtime(found["native_file"])
        sources = [*repository.glob("crates/*/src/**/*.rs"), *repository.glob("crates/*/Cargo.toml")]
        newer = [path for path in sources if path.stat().st_mtime > built]
        if newer:
            return [f"procession was built before {newer[0].relative_to(repository)} changed; run bench/setup.sh"]
    return []


def describe(found: dict[str, Any], repository: Path) -> dict[str, Any]:
    """The machine and the versions, without anything that names the machine or a place on it."""
    memory_kib = next(
        int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal")
    )
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.lower().startswith(("model name", "cpu model"))
        ),
        platform.machine(),
    )
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": _commit(repository),
        "cpu": cpu,
        "architecture": platform.machine(),
        "virtual": "hypervisor" in Path("/proc/cpuinfo").read_text(),
        "cpus_usable": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory_kib / 2**20, 1),
        "kernel": platform.release().partition("-")[0],
        "libc": " ".join(platform.libc_ver()),
        "python": f"{found['implementation']} {found['python']}",
        "libraries": found["libraries"],
    }


def _commit(repository: Path) -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(repository), *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
        ).stdout.decode()

    try:
        commit = git("rev-parse", "--short=12", "HEAD").strip()
        # The results are written into the tree, so they are no sign of changed sources.
        written = [f":!bench/{name}" for name in ("raw", "results.md", "README.md")]
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", *written)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + (" with local changes" if changed.strip() else "")


def processor_probe_ms() -> float:
    """How long a fixed loop takes here and now: the least of five. Says how steady the machine was during a run."""
    least = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        total = 0
        for number in range(200_000):
            total += number
        least = min(least, time.perf_counter() - started)
    return least * 1000


def stolen_and_total_ticks() -> tuple[int, int]:
    """Clock ticks that the hypervisor gave to others, and all ticks, since boot."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return fields[7], sum(fields)
