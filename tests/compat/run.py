"""Runs CPython's own tests of multiprocessing over procession: the compatibility run.

    run.py [--python PYTHON]… [--start-methods fork,spawn,forkserver] [--suites multiprocessing,main,futures]
           [--classes PATTERN,…] [--jobs N] [--check] [--write docs/compatibility.md]

Each test class runs in a process of its own. A test that takes longer than its limit is ended and counted as failed, and
the class goes on without it. Tests that are expected to differ (`expected.toml`) are left out; `--check` runs those, and
only those, and fails if one passes. The exit code tells whether everything passed.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import fnmatch
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

try:
    import tomllib
except ImportError:  # Before Python 3.11; pytest brings it there.
    import tomli as tomllib

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "python"))

from dev_shm import take_a_private_dev_shm  # noqa: E402 - it is found there only

START_METHODS = ("fork", "spawn", "forkserver")
SUITES = ("multiprocessing", "main", "futures")
SECONDS_PER_TEST = 120.0
# What a test may need beside its own time: importing, and what its module does before and after.
START_SECONDS = 60.0
# How long what a process has left may take to end.
END_SECONDS = 5.0


@dataclass
class Difference:
    """Tests that are expected to differ, and why."""

    tests: list[str]
    kind: str
    reason: str
    start_methods: list[str] = field(default_factory=lambda: list(START_METHODS))
    pythons: list[str] = field(default_factory=list)
    varies: bool = False

    def covers(self, python: str, start_method: str, test: str) -> bool:
        """Whether this is about that test (`Class.test`) there."""
        return (
            start_method in self.start_methods
            and (not self.pythons or python in self.pythons)
            and any(fnmatch.fnmatchcase(test, pattern) for pattern in self.tests)
        )


def read_expected() -> list[Difference]:
    """The expected differences."""
    with open(HERE / "expected.toml", "rb") as file:
        differences = [Difference(**entry) for entry in tomllib.load(file).get("difference", [])]
    for difference in differences:
        if difference.kind not in ("internal", "deviation") or not difference.reason:
            raise SystemExit(f"expected.toml: {difference.tests} needs a reason and a kind, internal or deviation")
    return differences


@dataclass
class Interpreter:
    """A Python in which procession is installed."""

    executable: str
    version: str
    full_version: str

    @classmethod
    def of(cls, executable: str) -> Interpreter:
        """Asks the interpreter; ends the run with what to do if it cannot take part."""
        # Classes run in directories of their own; a name without a slash is looked up in PATH.
        if os.sep in executable:
            executable = os.path.abspath(executable)
        program = (
            "import sys, procession; v = sys.version_info; print(f'{v[0]}.{v[1]}', sys.version.split()[0]);"
            "import test._test_multiprocessing"
        )
        done = subprocess.run([executable, "-c", program], capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(
                f"{executable} cannot run the compatibility tests. It needs procession and CPython's own tests, which "
                f"some systems pack apart (on Debian and Ubuntu: apt-get install libpython3-testsuite):\n{done.stderr}"
            )
        version, full_version = done.stdout.split()
        return cls(executable, version, full_version)

    def environment(self, suite: str, start_method: str) -> dict[str, str]:
        """The environment of its tests."""
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(HERE / "site"), str(HERE)]),
            "PROCESSION_COMPAT_SUITE": suite,
            "PROCESSION_COMPAT_START_METHOD": start_method,
        }

    def classes(self, suite: str, start_method: str) -> dict[str, list[str]]:
        """Its test classes with the names of their tests."""
        done = subprocess.run(
            [self.executable, str(HERE / "run_class.py"), "--list"],
            env=self.environment(suite, start_method),
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
        return json.loads(done.stdout)


@dataclass
class Outcome:
    """What became of a test."""

    python: str
    start_method: str
    test: str
    outcome: str
    detail: str = ""


@dataclass
class Job:
    """A class of tests and those of its tests that are to run."""

    interpreter: Interpreter
    suite: str
    start_method: str
    class_name: str
    tests: list[str]
    seconds_per_test: float

    def run(self) -> list[Outcome]:
        """Runs them, in as many processes as hanging and crashing tests make necessary."""
        left = list(self.tests)
        found: dict[str, tuple[str, str]] = {}
        while left:
            ended, output = self._run_once(left, found)
            done = [test for test in left if test in found]
            if not done and ended is not None:
                # Nothing ran at all.
                for test in left:
                    found[test] = ("failed", f"the process ended with {ended} before this test\n{output}")
            left = [test for test in left if test not in found]
        return [
            Outcome(self.interpreter.version, self.start_method, f"{self.class_name}.{test}", *found[test])
            for test in self.tests
        ]

    def _run_once(self, tests: list[str], found: dict[str, tuple[str, str]]) -> tuple[int | None, str]:
        with tempfile.TemporaryDirectory(prefix="pc-") as directory:
            report, log = Path(directory, "report"), Path(directory, "log")
            report.touch()
            working_directory = Path(directory, "cwd")
            working_directory.mkdir()
            environment = self.interpreter.environment(self.suite, self.start_method)
            environment["TMPDIR"] = directory
            command = [self.interpreter.executable, str(HERE / "run_class.py"), str(report), self.class_name]
            with open(log, "wb") as output:
                process = subprocess.Popen(
                    [*command, str(self.seconds_per_test), *tests],
                    env=environment,
                    cwd=working_directory,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                ended = self._wait(process, report)
                text = log.read_text(errors="replace")[-6000:]
            running = None
            for line in report.read_text().splitlines():
                entry = json.loads(line)
                test, outcome, detail = entry["test"], entry["outcome"], entry["detail"]
                if outcome == "started":
                    running = test
                    continue
                if test not in self.tests:
                    # setUpModule, setUpClass and the like stand for all that did not run because of them.
                    if outcome == "skipped" or not any(name in found for name in tests):
                        for name in tests:
                            found.setdefault(name, (outcome, detail))
                    else:
                        last = [name for name in tests if name in found][-1]
                        found[last] = ("failed", f"{test}\n{detail}")
                    continue
                running = None
                if found.get(test, ("",))[0] != "failed":
                    found[test] = (outcome, detail)
            if running is not None and running not in found:
                how = "did not end in time" if ended is None else f"took the process down, which ended with {ended}"
                found[running] = ("failed", f"{how}\n{text}")
            return ended, text

    def _wait(self, process: subprocess.Popen[bytes], report: Path) -> int | None:
        """Waits for the end of the process, or for too long a silence, whose exit code is None."""
        size, since = 0, time.monotonic()
        limit = START_SECONDS + self.seconds_per_test
        try:
            while True:
                try:
                    ended = process.wait(0.2)
                    self._wait_for_group(process.pid)
                    return ended
                except subprocess.TimeoutExpired:
                    pass
                now_size = report.stat().st_size
                if now_size != size:
                    size, since, limit = now_size, time.monotonic(), self.seconds_per_test + 10
                elif time.monotonic() - since > limit:
                    return None
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()

    def _wait_for_group(self, group: int) -> None:
        """Gives what the process has left time to end by itself: the standard library's resource tracker removes the names
        of semaphores then, which would stay if it were killed."""
        deadline = time.monotonic() + END_SECONDS
        while time.monotonic() < deadline:
            try:
                os.killpg(group, 0)
            except ProcessLookupError:
                return
            time.sleep(0.01)


def table(outcomes: list[Outcome]) -> str:
    """Run, passed, failed, excluded and skipped for each Python and start method."""
    rows = Counter((o.python, o.start_method, o.outcome) for o in outcomes)
    pythons = sorted({o.python for o in outcomes}, key=lambda v: tuple(map(int, v.split("."))))
    lines = [
        "| Python | start method | run | passed | failed | excluded | not for this system |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for python in pythons:
        for method in START_METHODS:
            passed, failed, excluded, skipped = (
                rows[python, method, outcome] for outcome in ("passed", "failed", "excluded", "skipped")
            )
            if passed + failed + excluded:
                share = f"{100 * excluded / (passed + failed + excluded):.1f} %"
                lines.append(
                    f"| {python} | {method} | {passed + failed} | {passed} | {failed} | {excluded} ({share}) | {skipped} |"
                )
    return "\n".join(lines)


PAGE = """\
# Compatibility

<!-- Written by `make compat`; do not edit. -->

CPython has tests of its own for `multiprocessing`. `make compat` runs the ones that the installed interpreter brings
(`test._test_multiprocessing`, never copied, and the process tests of `concurrent.futures` and of main modules) with
`procession` in the place of `multiprocessing`, over every start method, each test class in a process of its own with a
time limit. *Not for this system* are those that the tests themselves skip: Windows, missing options, other start methods.

{table}

## What is left out, and why

An *internal* test looks into the standard library's private parts, which are other ones here. A *deviation* is a
difference that is on purpose and [documented](differences-from-multiprocessing.md).

| tests | start methods | kind | reason |
| --- | --- | --- | --- |
{differences}
"""


def page(outcomes: list[Outcome], differences: list[Difference]) -> str:
    """The page of the documentation."""
    rows = []
    for difference in differences:
        tests = ", ".join(f"`{test}`" for test in difference.tests)
        methods = "all" if set(difference.start_methods) == set(START_METHODS) else ", ".join(difference.start_methods)
        if difference.pythons:
            methods += f" (Python {', '.join(difference.pythons)})"
        rows.append(f"| {tests} | {methods} | {difference.kind} | {difference.reason} |")
    return PAGE.format(table=table(outcomes), differences="\n".join(rows))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", help="an interpreter that has procession; this one by default")
    parser.add_argument("--start-methods", default=",".join(START_METHODS))
    parser.add_argument("--suites", default=",".join(SUITES))
    parser.add_argument("--classes", default="*", help="patterns of Class or Class.test, separated by commas")
    parser.add_argument("--jobs", type=int, default=2 * len(os.sched_getaffinity(0)), help="classes at a time")
    parser.add_argument("--seconds-per-test", type=float, default=SECONDS_PER_TEST)
    parser.add_argument("--check", action="store_true", help="run the expected differences and report those that pass")
    parser.add_argument("--write", metavar="PAGE", help="write the page of the documentation")
    parser.add_argument("--json", metavar="FILE", help="write every outcome")
    parser.add_argument("--quiet", action="store_true", help="print failures and the table only")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs what the options say; returns an exit code."""
    options = parse(arguments)
    # CPython's test module makes a semaphore when it is imported, whose name stays if a test kills its process just then.
    take_a_private_dev_shm()
    expected = read_expected()
    jobs: list[Job] = []
    outcomes: list[Outcome] = []
    patterns = options.classes.split(",")
    for executable in options.python or [sys.executable]:
        interpreter = Interpreter.of(executable)
        for suite in options.suites.split(","):
            for method in options.start_methods.split(","):
                for class_name, tests in interpreter.classes(suite, method).items():
                    chosen = []
                    for test in tests:
                        name = f"{class_name}.{test}"
                        if not any(
                            fnmatch.fnmatchcase(class_name, p) or fnmatch.fnmatchcase(name, p) for p in patterns
                        ):
                            continue
                        excluded = any(d.covers(interpreter.version, method, name) for d in expected)
                        if excluded == options.check:
                            chosen.append(test)
                        elif excluded:
                            outcomes.append(Outcome(interpreter.version, method, name, "excluded"))
                    # Where differences are expected one may hang, and must not take others with it.
                    groups = [[test] for test in chosen] if options.check else [chosen] if chosen else []
                    jobs += [
                        Job(interpreter, suite, method, class_name, group, options.seconds_per_test) for group in groups
                    ]
    # The long ones first.
    jobs.sort(key=lambda job: -len(job.tests))
    lock = threading.Lock()

    def run(job: Job) -> None:
        started = time.monotonic()
        results = job.run()
        with lock:
            outcomes.extend(results)
            if not options.quiet:
                counts = Counter(o.outcome for o in results)
                said = ", ".join(f"{number} {outcome}" for outcome, number in sorted(counts.items()))
                where = f"{job.interpreter.version} {job.start_method:10} {job.class_name}"
                print(f"{where}: {said} ({time.monotonic() - started:.1f} s)", flush=True)
            for o in results:
                if o.outcome == "failed" and not options.check:
                    print(f"FAILED {o.python} {o.start_method} {o.test}\n{o.detail}", flush=True)

    with concurrent.futures.ThreadPoolExecutor(options.jobs) as executor:
        for future in [executor.submit(run, job) for job in jobs]:
            future.result()

    if options.json:
        Path(options.json).write_text(json.dumps([vars(o) for o in outcomes], indent=1))
    if options.check:
        certain = [d for d in expected if not d.varies]
        passed = [o for o in outcomes if o.outcome == "passed"]
        wrong = [o for o in passed if any(d.covers(o.python, o.start_method, o.test) for d in certain)]
        for o in wrong:
            print(f"listed in expected.toml, but it passes: {o.python} {o.start_method} {o.test}")
        return 1 if wrong else 0
    print(table(outcomes))
    if options.write:
        Path(options.write).write_text(page(outcomes, expected))
    return 1 if any(o.outcome == "failed" for o in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
