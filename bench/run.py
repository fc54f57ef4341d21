#!/usr/bin/env python3
"""Compares procession's pool with its rivals in one interleaved run. See README.md beside this file."""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import environment
import processes
import report
from contestants import LIBRARIES, library_of
from rows import OURS, ROWS, RUST_EXAMPLE, STDLIB, Row

BENCH = Path(__file__).resolve().parent
REPOSITORY = BENCH.parent

# Rivals are there to be compared with, not to be known to three digits, and Ray needs ten seconds to start.
RIVAL_ROUNDS_AT_MOST = 3
RAY_ROUNDS_AT_MOST = 2
FAILURES_UNTIL_GIVEN_UP = 2


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Compares procession's pool with its rivals in one interleaved run and prints the ratios.",
        epilog="Examples: run.py --quick; run.py --only 'map-*,round-trip' --rivals loky,joblib --rounds 3",
    )
    parser.add_argument("--list", action="store_true", help="list the rows and who takes part in them, and stop")
    parser.add_argument(
        "--only", metavar="ROWS", help="measure these rows only: names or patterns, separated by commas (see --list)"
    )
    parser.add_argument(
        "--rivals",
        metavar="NAMES",
        help="compare with these libraries only, separated by commas, or 'none'; multiprocessing always takes part",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="small numbers, one round, multiprocessing as the only rival: about a minute, to see where one stands",
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="interleaved rounds (5; with --quick 1)")
    parser.add_argument("--without-procession", action="store_true", help="rivals only, to check them on a new machine")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="write results.md and raw/ into this directory; without it a full run writes beside run.py, and a partial "
        "or quick run keeps only its raw figures there",
    )
    parser.add_argument(
        "--python", metavar="FILE", help="interpreter to measure with (bench/.venv when it exists, else this one)"
    )
    parser.add_argument("--report", type=Path, metavar="RAW", help="print the report of an earlier run's raw file")
    arguments = parser.parse_args()
    if arguments.rounds is None:
        arguments.rounds = 1 if arguments.quick else 5
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    known = {row.name for row in ROWS} | {"rust-map"}
    for pattern in split(arguments.only):
        if not fnmatch.filter(known, pattern):
            parser.error(f"--only: no row is called {pattern!r}; run.py --list names them all")
    for name in split(arguments.rivals):
        if name not in LIBRARIES and name != "none":
            parser.error(f"--rivals: no library is called {name!r}; there are {', '.join(LIBRARIES)}")
    return arguments


def split(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def list_rows() -> None:
    for row in ROWS:
        print(f"{row.name}: {row.title}")
        for figure in row.figures:
            print(f"    {figure.title} [{figure.unit}]{f', reach {figure.reach}' if figure.reach else ''}")
        print(f"    contestants: {', '.join(row.contestants)}")
    print(f"rust-map: the Rust example {RUST_EXAMPLE}, if there is one")


class Scrubber:
    """Takes this machine's places out of texts that are kept."""

    def __init__(self, interpreter: str) -> None:
        prefix = Path(interpreter).parent.parent
        self._replacements = sorted(
            {str(prefix): "<environment>", str(REPOSITORY): "<repository>", str(Path.home()): "~"}.items(),
            key=lambda item: -len(item[0]),
        )

    def __call__(self, text: str) -> str:
        for place, name in self._replacements:
            text = text.replace(place, name)
        text = re.sub(r"/(?:tmp|dev/shm)/(?:pb|bench)-\w+", "<temporary>", text)
        return re.sub(r"\b\d{1,3}(?:\.\d{1,3}){3}\b", "<address>", text)


class Session:
    """One run: which rows, which contestants, and what came of them so far."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        own = BENCH / ".venv" / "bin" / "python"
        # Not resolved: a virtual environment's python is a link, and what it links to does not know the environment.
        self.interpreter = os.path.abspath(arguments.python or (own if own.exists() else sys.executable))
        self.scrub = Scrubber(self.interpreter)
        distributions = [library.distribution for library in LIBRARIES.values() if library.distribution]
        found = environment.probe(self.interpreter, [*distributions, "numpy", "pandas"])
        self.missing = {
            library.name
            for library in LIBRARIES.values()
            if library.distribution and not found["libraries"].get(library.distribution)
        }
        self.has_numpy = bool(found["libraries"].get("numpy"))
        self.has_pandas = bool(found["libraries"].get("pandas"))
        self.failures: dict[tuple[str, str], int] = {}
        self.run: dict[str, Any] = {
            "schema": 1,
            "options": {
                "rounds": arguments.rounds,
                "rival_rounds": min(arguments.rounds, RIVAL_ROUNDS_AT_MOST),
                "quick": arguments.quick,
                "only": arguments.only,
                "rivals": arguments.rivals,
            },
            "environment": environment.describe(found, REPOSITORY),
            "complaints": [] if arguments.without_procession else environment.complaints(found, REPOSITORY),
            "processor_probe_ms": [],
            "load_average_before": f"{os.getloadavg()[0]:.1f}",
            "measurements": [],
            "rust": {"lines": [], "note": ""},
        }
        self._ticks_before = environment.stolen_and_total_ticks()

    # ---- what takes part -----------------------------------------------------------------------------------------

    def wants(self, row_name: str) -> bool:
        patterns = split(self.arguments.only)
        return not patterns or any(fnmatch.fnmatch(row_name, pattern) for pattern in patterns)

    def contestants(self, row: Row) -> list[str]:
        rivals = split(self.arguments.rivals)
        chosen = []
        for name in row.contestants:
            library = library_of(name).name
            if library == OURS:
                if not self.arguments.without_procession:
                    chosen.append(name)
            elif library == STDLIB or (not self.arguments.quick and (not rivals or library in rivals)):
                chosen.append(name)
        if self.arguments.quick:
            # One start method per row is enough for a glance.
            method = next(name for name in row.contestants).partition(":")[2]
            chosen = [name for name in chosen if name.endswith(f":{method}")]
        return chosen

    def takes_part(self, contestant: str, round_number: int) -> bool:
        library, rounds = library_of(contestant).name, self.arguments.rounds
        if library in (OURS, STDLIB):
            return True
        most = min(rounds, RAY_ROUNDS_AT_MOST if library == "ray" else RIVAL_ROUNDS_AT_MOST)
        return bool((round_number + 1) * most // rounds > round_number * most // rounds)

    # ---- measuring -----------------------------------------------------------------------------------------------

    def measure(self, row: Row, contestant: str, round_number: int) -> None:
        if self.failures.get((row.name, contestant), 0) >= FAILURES_UNTIL_GIVEN_UP:
            return
        library = library_of(contestant).name
        if library in self.missing or (row.needs_numpy and not self._has_what_it_needs(row)):
            absent = library if library in self.missing else "numpy or pandas"
            if round_number == 0:
                self._keep(row, contestant, round_number, {}, "missing", f"{absent} is not installed", 0.0, {})
            return
        parameters = dict(row.quick_parameters if self.arguments.quick else row.parameters)
        parameters.update(row.smaller.get(library, {}) if not self.arguments.quick else {})
        limit = row.quick_limit_seconds if self.arguments.quick else row.limit_seconds

        temporary = tempfile.mkdtemp(prefix="pb-", dir="/tmp")
        shared = tempfile.mkdtemp(prefix="pb-", dir="/dev/shm") if os.access("/dev/shm", os.W_OK) else temporary
        try:
            output = os.path.join(temporary, "figures.jsonl")
            request = os.path.join(temporary, "request.json")
            with open(request, "w") as file:
                json.dump(
                    {
                        "contestant": contestant,
                        "module": row.module,
                        "function": row.function,
                        "parameters": parameters,
                        "output": output,
                    },
                    file,
                )
            ended = processes.run_limited(
                [self.interpreter, str(BENCH / "measure.py"), request],
                {**os.environ, **self._measuring_environment(temporary, shared)},
                limit,
                os.path.join(temporary, "log"),
            )
            lines = []
            if os.path.exists(output):
                with open(output) as file:
                    lines = [json.loads(line) for line in file if line.endswith("\n")]
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(shared, ignore_errors=True)
        self._conclude(row, contestant, round_number, parameters, limit, ended, lines)

    def _has_what_it_needs(self, row: Row) -> bool:
        return self.has_numpy and (self.has_pandas or row.parameters.get("with_pandas") is not True)

    @staticmethod
    def _measuring_environment(temporary: str, shared: str) -> dict[str, str]:
        one_thread = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")}
        return {
            **one_thread,
            "TMPDIR": temporary,
            # Where joblib would put them anyhow, but in a directory that is removed even if joblib is killed.
            "JOBLIB_TEMP_FOLDER": shared,
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONHASHSEED": "0",
        }

    def _conclude(
        self,
        row: Row,
        contestant: str,
        round_number: int,
        parameters: dict[str, Any],
        limit: float,
        ended: processes.Ended,
        lines: list[dict[str, Any]],
    ) -> None:
        figures = {
            line["figure"]: {key: value for key, value in line.items() if key != "figure"}
            for line in lines
            if "figure" in line
        }
        last = next((line for line in lines if "end" in line), None)
        detail = ""
        if last is not None:
            end, detail = last["end"], last.get("detail", "")
        elif ended.exit_status is None:
            end = "hangs" if ended.was_idle else "slow"
            complete = all(figure.key in figures for figure in row.figures)
            what = "all was measured, but the pool did not close" if complete else "no answer"
            detail = (
                f"{what} within {limit:.0f} s, {'nobody was working any more' if ended.was_idle else 'still at it'}"
            )
        else:
            status = ended.exit_status
            end = "died"
            detail = f"the measuring process ended by {f'signal {-status}' if status < 0 else f'exit {status}'}"
        log = self.scrub(ended.output) if end in ("error", "died", "hangs", "slow") else ""
        self._keep(row, contestant, round_number, figures, end, self.scrub(detail), ended.seconds, parameters, log)

    def _keep(
        self,
        row: Row,
        contestant: str,
        round_number: int,
        figures: dict[str, Any],
        end: str,
        detail: str,
        seconds: float,
        parameters: dict[str, Any],
        log: str = "",
    ) -> None:
        for found in figures.values():
            for key in ("detail", "error"):
                if key in found:
                    found[key] = self.scrub(found[key])
        hung = end in ("hangs", "slow") or any(found.get("status") in ("never", "hangs") for found in figures.values())
        # Waiting for a rival's hang to come again costs a minute each time and tells nothing; how often our own comes
        # is worth knowing.
        if (end != "done" or hung) and (library_of(contestant).name != OURS or end in ("unsupported", "missing")):
            self.failures[row.name, contestant] = self.failures.get((row.name, contestant), 0) + (
                FAILURES_UNTIL_GIVEN_UP if hung or end in ("unsupported", "missing", "wrong") else 1
            )
        measurement = {
            "row": row.name,
            "contestant": contestant,
            "round": round_number,
            "end": end,
            "detail": detail,
            "seconds": round(seconds, 3),
            "parameters": parameters,
            "figures": figures,
        }
        if log:
            measurement["log"] = log[-2000:]
        self.run["measurements"].append(measurement)
        shown = ", ".join(
            f"{figure.key} "
            + (
                f"{report.number(figures[figure.key]['value'])} {figure.unit}"
                if figures[figure.key]["value"] is not None
                else figures[figure.key]["status"]
            )
            for figure in row.figures
            if figure.key in figures
        )
        trouble = "" if end == "done" else f"{end.upper()} {detail}"
        said = " ".join(filter(None, (shown, trouble)))
        say(f"{round_number + 1}/{self.arguments.rounds} {row.name} {contestant}: {said}")

    # ---- the Rust example ----------------------------------------------------------------------------------------

    def build_rust_example(self) -> str | None:
        if self.arguments.quick or self.arguments.without_procession or not self.wants("rust-map"):
            return None
        if not (REPOSITORY / RUST_EXAMPLE).exists():
            self.run["rust"]["note"] = f"there is no {RUST_EXAMPLE}"
            return None
        if shutil.which("cargo") is None:
            self.run["rust"]["note"] = "cargo is not installed"
            return None
        say("building the Rust example")
        log = tempfile.NamedTemporaryFile(prefix="pb-", suffix=".log", delete=False)
        log.close()
        try:
            name = Path(RUST_EXAMPLE).stem
            arguments = ["cargo", "build", "--release", "-p", "procession", "--example", name]
            ended = processes.run_limited(
                [*arguments, "--message-format=json-render-diagnostics"], os.environ, 900.0, log.name, str(REPOSITORY)
            )
            if ended.exit_status != 0:
                self.run["rust"]["note"] = "the example did not build: " + self.scrub(ended.output[-300:])
                return None
            with open(log.name) as file:
                for line in file:
                    message = json.loads(line) if line.startswith("{") else {}
                    if message.get("target", {}).get("name") == name and message.get("executable"):
                        return str(message["executable"])
        finally:
            os.unlink(log.name)
        self.run["rust"]["note"] = "cargo named no executable"
        return None

    def measure_rust(self, executable: str, round_number: int) -> None:
        with tempfile.NamedTemporaryFile(prefix="pb-", suffix=".log") as log:
            ended = processes.run_limited([executable], os.environ, 60.0, log.name)
            if ended.exit_status != 0:
                self.run["rust"]["note"] = f"round {round_number + 1} failed: " + self.scrub(ended.output[-300:])
                return
            for line in Path(log.name).read_text().splitlines():
                if line.startswith("{"):
                    found = json.loads(line)
                    self.run["rust"]["lines"].append({**found, "round": round_number})
                    said = f"{found['name']}: {report.number(found['per_second'])} /s"
                    say(f"{round_number + 1}/{self.arguments.rounds} rust-map {said}")

    # ---- the run -------------------------------------------------------------------------------------------------

    def go(self) -> None:
        executable = self.build_rust_example()
        for round_number in range(self.arguments.rounds):
            self.run["processor_probe_ms"].append(round(environment.processor_probe_ms(), 3))
            for row in ROWS:
                if self.wants(row.name):
                    for contestant in self.contestants(row):
                        if self.takes_part(contestant, round_number):
                            self.measure(row, contestant, round_number)
            if executable:
                self.measure_rust(executable, round_number)

    def conclude(self) -> None:
        self.run["processor_probe_ms"].append(round(environment.processor_probe_ms(), 3))
        self.run["load_average_after"] = f"{os.getloadavg()[0]:.1f}"
        stolen, total = environment.stolen_and_total_ticks()
        elapsed = max(1, total - self._ticks_before[1])
        self.run["stolen_percent"] = round(100 * (stolen - self._ticks_before[0]) / elapsed, 2)

    @property
    def is_full(self) -> bool:
        chosen = (self.arguments.only, self.arguments.rivals, self.arguments.quick, self.arguments.without_procession)
        return not any(chosen)

    def write(self, finished: bool) -> None:
        directory = self.arguments.out or BENCH
        raw = directory / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.run, indent=1, ensure_ascii=False) + "\n"
        kept = raw / f"run-{time.strftime('%Y%m%d-%H%M%S')}.json"
        write_whole(kept, text)
        say(f"raw figures: {os.path.relpath(kept)}")
        if self.arguments.out or (finished and self.is_full):
            write_whole(raw / "latest.json", text)
            write_whole(directory / "results.md", report.markdown(self.run))
            say(f"report: {os.path.relpath(directory / 'results.md')}")
        if finished and self.is_full and not self.arguments.out:
            fill_in(BENCH / "README.md", "machine", report.machine_table(self.run))
            fill_in(REPOSITORY / "README.md", "measured", report.front_page_table(self.run))


def fill_in(page: Path, name: str, text: str) -> None:
    """Puts the text between the page's two comments of that name; leaves a page without them alone."""
    pattern = re.compile(rf"(<!-- {name}:begin\b[^>]*-->\n).*?(<!-- {name}:end -->)", re.DOTALL)
    old = page.read_text()
    new = pattern.sub(lambda found: f"{found[1]}{text}\n{found[2]}", old)
    if new != old:
        write_whole(page, new)


def write_whole(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".tmp")
    part.write_text(text)
    part.replace(path)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    # Whoever reads a list or a report through `head` has seen enough.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    arguments = parse_arguments()
    if arguments.list:
        list_rows()
        return 0
    if arguments.report:
        print(report.markdown(json.loads(arguments.report.read_text())), end="")
        return 0
    if arguments.out:
        # A place that cannot be written to is found now and not after an hour.
        (arguments.out / "raw").mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    processes.adopt_orphans()
    session = Session(arguments)
    for complaint in session.run["complaints"]:
        say(f"beware: {complaint}")
    finished = False
    try:
        session.go()
        finished = True
    except KeyboardInterrupt:
        say("interrupted; this is what was measured until then")
    finally:
        processes.sweep()
        session.conclude()
        session.write(finished)
    print(report.terminal(session.run))
    failures = report.failures(session.run)
    for failure in failures:
        say(f"procession failed: {failure}")
    return 130 if not finished else 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
