"""The fault matrix: what each pool makes of each fault, in one run, as docs/fault-matrix.md.

python bench/faults.py                                  everything that is installed; some ten minutes
python bench/faults.py --contestants procession --only sigkill,exit
python bench/faults.py --check                          exit code 1 if one of our own cells is not as it should be

Each cell is measured in a process of its own, which is killed with all that it started when its time is over.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import contestants
import environment
import processes

BENCH = Path(__file__).resolve().parent
REPOSITORY = BENCH.parent
PAGE = REPOSITORY / "docs" / "fault-matrix.md"
RAW = BENCH / "raw" / "faults.json"

FAULTS = {
    "sigkill": "SIGKILL in a task (as the OOM killer does)",
    "segfault": "segmentation fault in a task",
    "exit": "`os._exit` in a task",
    "system-exit": "`SystemExit` in a task",
    "base-exception": "a `BaseException` of one's own",
    "exception-poisoned": "an exception that the caller cannot unpickle",
    "result-unpicklable": "a result that cannot be pickled",
    "result-poisoned": "a result that the caller cannot unpickle",
    "argument-unpicklable": "an argument that cannot be pickled",
    "argument-poisoned": "an argument that the worker cannot unpickle",
    "stuck": "a task that never returns, limit 1 s",
    "idle-killed": "an idle worker is killed",
    "initializer": "the initializer raises",
    "lambda": "the function is a lambda",
    "nested": "a pool inside a task",
}
FROM_OUTSIDE = {
    "ctrl-c": "Ctrl-C while all workers are busy",
    "orphans": "the caller is killed while all workers are busy",
}
TIMES = "times"

CONTESTANTS = [
    "procession:fork",
    "procession:spawn",
    "procession:forkserver",
    "multiprocessing:fork",
    "concurrent.futures:fork",
    "loky",
    "joblib",
    "mpire:fork",
    "pebble:fork",
    "billiard:fork",
    "ray",
]

# What is as good as it gets in each row.
GOOD = {"own", "works", "told"}
PATIENCE_SECONDS = 5.0


def measure(interpreter: str, contestant: str, function: str, limit: float, **parameters: Any) -> dict[str, Any]:
    """Runs one measurement to its end; returns its figures and how it ended."""
    with Request(contestant, function, parameters) as request:
        processes.run_limited(request.command(interpreter), request.environment(), limit, request.log)
        return request.figures()


class Request:
    """A request to ``measure.py``, with the directory it lives in."""

    def __init__(self, contestant: str, function: str, parameters: dict[str, Any]) -> None:
        self.directory = tempfile.mkdtemp(prefix="pf-", dir="/tmp")
        self.output = os.path.join(self.directory, "figures.jsonl")
        self.log = os.path.join(self.directory, "log")
        self._request = os.path.join(self.directory, "request.json")
        module = "measurements" if function == "killed_worker" else "fault_measurements"
        with open(self._request, "w") as file:
            json.dump(
                {
                    "contestant": contestant,
                    "module": module,
                    "function": function,
                    "parameters": parameters,
                    "output": self.output,
                },
                file,
            )

    def __enter__(self) -> Request:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    def command(self, interpreter: str) -> list[str]:
        return [interpreter, str(BENCH / "measure.py"), self._request]

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "TMPDIR": self.directory,
            "JOBLIB_TEMP_FOLDER": self.directory,
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def figures(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if os.path.exists(self.output):
            with open(self.output) as file:
                for line in file:
                    if line.endswith("\n"):
                        entry = json.loads(line)
                        if "figure" in entry:
                            found[entry.pop("figure")] = entry
                        else:
                            found["end_of_run"] = entry
        return found


def task_cell(interpreter: str, contestant: str, fault: str) -> dict[str, Any]:
    found = measure(interpreter, contestant, "task_fault", 45.0, fault=fault)
    end = found.get("end_of_run", {})
    if end.get("end") == "unsupported":
        return {"verdict": "n/a", "detail": end.get("detail", "")}
    if "cell" not in found:
        return {
            "verdict": "hangs" if not end else "error",
            "detail": _first_words(end.get("detail") or "no answer at all"),
        }
    cell = {"verdict": found["cell"]["value"], **{k: v for k, v in found["cell"].items() if k != "value"}}
    if found.get("end", {}).get("value") == "its end hangs":
        cell["end_hangs"] = True
    return cell


def _first_words(text: str) -> str:
    # What follows may name places on this machine.
    return text.split(",")[0].splitlines()[0][:120]


def outside_cell(interpreter: str, contestant: str, fault: str) -> dict[str, Any]:
    """Interrupts or kills a program whose workers are busy, and waits for all of it to be gone."""
    with Request(contestant, "work_until_told", {}) as request, open(request.log, "wb") as log:
        program = subprocess.Popen(
            request.command(interpreter),
            env=request.environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        try:
            deadline = time.monotonic() + 40
            while "busy" not in (figures := request.figures()):
                if time.monotonic() > deadline or program.poll() is not None:
                    end = figures.get("end_of_run", {})
                    if end.get("end") == "unsupported":
                        return {"verdict": "n/a", "detail": end.get("detail", "")}
                    return {"verdict": "error", "detail": end.get("detail", "its workers were never busy")}
                time.sleep(0.02)
            time.sleep(1.0)
            started = time.monotonic()
            if fault == "ctrl-c":
                os.killpg(program.pid, signal.SIGINT)
            else:
                program.kill()
            while True:
                program.poll()
                left = [pid for pid in processes.descendants() if not _is_zombie(pid)]
                seconds = time.monotonic() - started
                if not left:
                    return {"verdict": "gone", "seconds": round(seconds, 2), "detail": ""}
                if seconds > PATIENCE_SECONDS:
                    running = program.poll() is None
                    what = "the program goes on" if running else f"{len(left)} processes left"
                    return {"verdict": "stays", "seconds": round(seconds, 2), "detail": what}
                time.sleep(0.01)
        finally:
            program.kill()
            program.wait()
            processes.sweep()


def _is_zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def times_cell(interpreter: str, contestant: str) -> dict[str, Any]:
    found = measure(interpreter, contestant, "killed_worker", 60.0, trials=15, limit_seconds=12.0)
    end = found.get("end_of_run", {})
    if end.get("end") == "unsupported":
        return {"verdict": "n/a", "detail": end.get("detail", "")}
    return {
        "verdict": "times",
        **{
            key: {"ms": figure.get("value"), "status": figure.get("status", "")}
            for key, figure in found.items()
            if key in ("error", "replacement")
        },
    }


# ---- the page ----------------------------------------------------------------------------------------------------

BEGIN, END = "<!-- matrix:begin -->", "<!-- matrix:end -->"


def cell_text(cell: dict[str, Any]) -> str:
    verdict = cell["verdict"]
    if verdict == "gone":
        return f"gone after {cell['seconds']:.1f} s"
    if verdict == "stays":
        return f"**{cell['detail']}** after {PATIENCE_SECONDS:.0f} s"
    text = verdict if verdict in GOOD or verdict == "n/a" else f"**{verdict}**"
    return text + ("; **its end hangs**" if cell.get("end_hangs") else "")


def time_text(cell: dict[str, Any], key: str) -> str:
    if cell["verdict"] == "n/a":
        return "n/a"
    figure = cell.get(key)
    if figure is None or figure["ms"] is None:
        return f"**{(figure or {}).get('status') or 'never'}**"
    ms = figure["ms"]
    return f"{ms:.1f} ms" if ms < 100 else f"{ms / 1000:.1f} s"


def page(run: dict[str, Any]) -> str:
    names = run["contestants"]
    cells = run["cells"]
    about = run["environment"]
    heads = [f"{name.partition(':')[0]} {name.partition(':')[2]}".strip() for name in names]

    def row(title: str, texts: list[str]) -> str:
        return f"| {title} | " + " | ".join(texts) + " |"

    lines = [
        "<!-- Written by `make faults`; edit bench/faults.py. -->",
        "",
        "# The fault matrix",
        "",
        "Eight tasks on two workers; one of them, or something around them, goes wrong; afterwards eight good tasks. What "
        "each pool makes of it, measured in one run. What is in bold costs more than the one task that went wrong.",
        "",
        row("", heads),
        "| --- |" + " --- |" * len(names),
    ]
    for fault, title in {**FAULTS, **FROM_OUTSIDE}.items():
        if any(fault in cells[name] for name in names):
            lines.append(row(title, [cell_text(cells[name][fault]) if fault in cells[name] else "" for name in names]))
    if any(TIMES in cells[name] for name in names):
        for key, title in (
            ("error", "SIGKILL until the caller has the error (median)"),
            ("replacement", "SIGKILL until a replacement has answered (median)"),
        ):
            lines.append(row(title, [time_text(cells[name][TIMES], key) for name in names]))
    lines += [
        "",
        "* **own**: only that task fails, with an error of its own; the others give their results, the pool goes on.",
        "* **works**: nothing fails. **told**: everybody who waits gets one clear error.",
        "* **more fail**: other tasks fail, too. **pool dead**: the pool takes no more work. **hangs**: a task, or the call, "
        "never comes to an end (six seconds were waited).",
        "* **gone**: no process is left. **n/a**: the library has no such operation or option.",
        "",
        f"Measured on {about['date']} with {about['python']} on {about['cpus_usable']} CPUs ({about['cpu']}), "
        f"Linux {about['kernel']}, of "
        + ", ".join(
            f"{name} {version}"
            for name, version in about["libraries"].items()
            if version and name in {n.partition(":")[0] for n in names}
        )
        + ". Anew by `make faults`; every cell's evidence is in "
        "[bench/raw/faults.json](../bench/raw/faults.json).",
        "",
    ]
    return "\n".join(lines)


def complaints(run: dict[str, Any]) -> list[str]:
    """Cells of ours that are not as they should be."""
    found = []
    for name, cells in run["cells"].items():
        if not name.startswith("procession"):
            continue
        for fault, cell in cells.items():
            good = cell["verdict"] in GOOD | {"gone", "times"} and not cell.get("end_hangs")
            if not good:
                found.append(f"{name}, {fault}: {cell['verdict']} ({cell.get('detail', '')})")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contestants", default="", help="libraries or library:method, with commas; all without it")
    parser.add_argument("--only", default="", help="faults, with commas; all without it")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a cell of ours is not good")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that measures")
    arguments = parser.parse_args()
    wanted = [name for name in arguments.contestants.split(",") if name]
    names = [n for n in CONTESTANTS if not wanted or n in wanted or n.partition(":")[0] in wanted]
    only = [fault for fault in arguments.only.split(",") if fault]
    unknown = set(only) - {*FAULTS, *FROM_OUTSIDE, TIMES}
    if unknown or not names:
        parser.error(f"there is no {', '.join(unknown) or arguments.contestants}")
    processes.adopt_orphans()
    distributions = [
        library.distribution for name in names if (library := contestants.library_of(name)).distribution is not None
    ]
    about = environment.describe(environment.probe(arguments.python, sorted(set(distributions))), REPOSITORY)
    names = [
        name
        for name in names
        if (library := contestants.library_of(name)).distribution is None
        or about["libraries"].get(library.distribution)
        or name.startswith("procession")
    ]
    run: dict[str, Any] = {"contestants": names, "environment": about, "cells": {name: {} for name in names}}
    for fault in [*FAULTS, *FROM_OUTSIDE, TIMES]:
        if only and fault not in only:
            continue
        for name in names:
            if fault in FAULTS:
                cell = task_cell(arguments.python, name, fault)
            elif fault == TIMES:
                cell = times_cell(arguments.python, name)
            else:
                cell = outside_cell(arguments.python, name, fault)
            run["cells"][name][fault] = cell
            shown = (
                cell_text(cell) if fault != TIMES else f"{time_text(cell, 'error')}, {time_text(cell, 'replacement')}"
            )
            print(f"{fault:22} {name:26} {shown.replace('**', '')}   {cell.get('detail', '')}", flush=True)
    bad = complaints(run)
    for line in bad:
        print(f"not as it should be: {line}")
    if not arguments.check and not only and not wanted:
        PAGE.write_text(page(run), encoding="utf-8")
        RAW.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
        print(f"written: {PAGE.relative_to(REPOSITORY)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
