"""Tests of the comparison itself: ``python -m pytest bench``."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parent
sys.path.insert(0, str(BENCH))

import contestants  # noqa: E402
import environment  # noqa: E402
import measurements  # noqa: E402
import report  # noqa: E402
import rows  # noqa: E402
from report import Results  # noqa: E402


def _measurement(
    row: str, contestant: str, round_number: int, figures: dict, end: str = "done", detail: str = ""
) -> dict:
    return {
        "row": row,
        "contestant": contestant,
        "round": round_number,
        "end": end,
        "detail": detail,
        "seconds": 1.0,
        "parameters": {},
        "figures": figures,
    }


def _run(*found: dict) -> dict:
    return {
        "options": {"rounds": 3, "rival_rounds": 3, "quick": False, "only": None, "rivals": None},
        "environment": {
            "date": "2000-01-01",
            "commit": "unknown",
            "cpu": "some processor",
            "architecture": "x86_64",
            "virtual": True,
            "cpus_usable": 2,
            "memory_gib": 1.0,
            "kernel": "6.0",
            "libc": "glibc 2.36",
            "python": "CPython 3.11.0",
            "libraries": {"procession": "0.1.0", "ray": None},
        },
        "complaints": [],
        "processor_probe_ms": [1.0, 1.1],
        "load_average_before": "0.0",
        "load_average_after": "0.0",
        "stolen_percent": 0.0,
        "measurements": list(found),
        "rust": {"lines": [], "note": ""},
    }


def _row(name: str) -> rows.Row:
    return next(row for row in rows.ROWS if row.name == name)


def _rates(contestant: str, *values: float) -> list[dict]:
    return [
        _measurement("map-one", contestant, index, {"rate": {"value": value}}) for index, value in enumerate(values)
    ]


def test_every_contestant_of_every_row_has_an_adapter_and_every_row_a_function() -> None:
    for row in rows.ROWS:
        assert callable(getattr(importlib.import_module(row.module), row.function))
        assert row.contestants[0].startswith("procession:")
        for name in row.contestants:
            library = contestants.library_of(name)
            method = name.partition(":")[2]
            assert method in library.methods if library.methods else not method
        assert set(row.smaller) <= set(contestants.LIBRARIES)


def test_row_and_figure_names_are_unique() -> None:
    assert len({row.name for row in rows.ROWS}) == len(rows.ROWS)
    for row in rows.ROWS:
        assert len({figure.key for figure in row.figures}) == len(row.figures)


def test_ratio_pairs_the_rounds_and_is_above_one_when_ours_is_better() -> None:
    run = _run(*_rates("procession:fork", 80.0, 900.0, 100.0), *_rates("multiprocessing:fork", 1.0, 9.0, 1.0))
    found = report.verdict(Results(run), _row("map-one"), _row("map-one").figures[0], "procession:fork")
    assert found.ratios == [80.0, 100.0, 100.0]
    assert found.outcome == "reached"
    latency = _row("round-trip").figures[0]
    assert report.better(2.0, 30.0, latency) == 15.0
    assert report.better(0.0, 30.0, latency) == float("inf")


def test_ratio_below_the_target_is_missed() -> None:
    run = _run(*_rates("procession:fork", 79.0), *_rates("multiprocessing:fork", 1.0))
    row = _row("map-one")
    assert report.verdict(Results(run), row, row.figures[0], "procession:fork").outcome == "missed"


def test_one_wrong_answer_hides_the_times_of_all_rounds() -> None:
    wrong = _measurement("map-one", "procession:fork", 2, {}, "wrong", "results differ")
    run = _run(*_rates("procession:fork", 80.0, 90.0), wrong)
    row = _row("map-one")
    assert Results(run).cell(row, "procession:fork", row.figures[0]).text("/s") == "WRONG"
    assert report.failures(run) == ["map-one procession:fork: wrong: results differ"]


def test_a_hang_in_one_round_is_not_averaged_away() -> None:
    hang = _measurement("map-one", "loky", 1, {}, "hangs", "no answer within 60 s")
    run = _run(*_rates("loky", 80.0), hang)
    row = _row("map-one")
    cell = Results(run).cell(row, "loky", row.figures[0])
    assert cell.value is None
    assert cell.text("/s") == "hangs (1 of 2 rounds)"


def test_a_library_whose_pool_broke_is_not_the_best_at_reporting_a_death() -> None:
    row = _row("killed-worker")
    run = _run(
        _measurement(row.name, "procession:fork", 0, {"error": {"value": 2.0}, "replacement": {"value": 3.0}}),
        _measurement(
            row.name,
            "mpire:fork",
            0,
            {"error": {"value": 1.0}, "replacement": {"value": None, "status": "pool broken"}},
        ),
        _measurement(row.name, "pebble:fork", 0, {"error": {"value": 40.0}, "replacement": {"value": 50.0}}),
    )
    found = report.verdict(Results(run), row, row.figures[0], "procession:fork")
    assert found.best_other == "pebble:fork 40.0"
    assert found.best_other_ratio == "20.0 ×"


def test_report_of_a_run_with_troubles_has_a_line_for_each() -> None:
    run = _run(
        *_rates("procession:fork", 80.0),
        *_rates("multiprocessing:fork", 1.0),
        _measurement("map-one", "ray", 0, {}, "missing", "ray is not installed"),
        _measurement("map-one", "pebble:fork", 0, {}, "error", "RuntimeError: no"),
    )
    text = report.markdown(run)
    assert "not installed" in text and "- pebble:fork: error: RuntimeError: no" in text
    assert "80.0 × " in text


def test_numbers_keep_three_digits() -> None:
    assert [report.number(value) for value in (0, 0.0123, 0.9999, 1.234, 12.34, 123.4, 3_456_789)] == [
        "0",
        "0.0123",
        "1.00",
        "1.23",
        "12.3",
        "123",
        "3,460,000",
    ]


def test_heavy_tail_is_what_its_description_says() -> None:
    def makespan(lengths: list[float], chunk: int) -> float:
        workers = [0.0, 0.0]
        for start in range(0, len(lengths), chunk):
            workers.sort()
            workers[0] += sum(lengths[start : start + chunk])
        return max(workers) / (sum(lengths) / 2)

    lengths = measurements.heavy_tailed_seconds(400, 3.0)
    assert sum(lengths) == pytest.approx(3.0)
    assert round(makespan(lengths, 1), 4) == 1.0003
    assert round(makespan(lengths, 50), 3) == 1.108


_HARNESS = """
import os, sys
sys.path.insert(0, {bench!r})
import processes
processes.adopt_orphans()
ended = processes.run_limited([sys.executable, "-c", {program!r}], os.environ, {limit}, {log!r})
print(ended.exit_status, ended.was_idle, processes.descendants())
print(ended.output, end="")
"""


def _harness(program: str, limit_seconds: float) -> list[str]:
    # In a process of its own, because the harness kills everything below itself.
    with tempfile.TemporaryDirectory() as directory:
        code = _HARNESS.format(
            bench=str(BENCH), program=program, limit=limit_seconds, log=os.path.join(directory, "log")
        )
        output = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, timeout=60)
    return output.stdout.decode().splitlines()


_DAEMON = (
    "import os, sys, time\n"
    "if os.fork() == 0:\n"
    "    os.setsid()\n"
    "    if os.fork() == 0:\n"
    "        print(os.getpid(), flush=True)\n"
    "        time.sleep(600)\n"
    "    os._exit(0)\n"
    "os.wait()\n"
)


def _is_gone(pid: str) -> bool:
    return not os.path.exists(f"/proc/{pid}")


def test_hang_is_ended_with_the_daemons_it_left_behind() -> None:
    first, daemon = _harness(_DAEMON + "time.sleep(600)\n", 1.0)
    assert first == "None True []"
    assert _is_gone(daemon)


def test_daemons_of_a_program_that_ended_in_time_are_ended_too() -> None:
    first, daemon = _harness(_DAEMON + "sys.exit(3)\n", 30.0)
    assert first == "3 False []"
    assert _is_gone(daemon)


def test_program_that_is_still_working_is_not_called_idle() -> None:
    (first,) = _harness("while True: pass", 1.0)
    assert first == "None False []"


def test_measurement_writes_its_figures_and_its_end() -> None:
    with tempfile.TemporaryDirectory() as directory:
        request, output = os.path.join(directory, "request.json"), os.path.join(directory, "figures.jsonl")
        Path(request).write_text(
            json.dumps(
                {
                    "contestant": "multiprocessing:fork",
                    "function": "map_one_by_one",
                    "parameters": {"n": 200, "budget_seconds": 0.0},
                    "output": output,
                }
            )
        )
        subprocess.run([sys.executable, str(BENCH / "measure.py"), request], check=True, timeout=60)
        figure, end = (json.loads(line) for line in Path(output).read_text().splitlines())
    assert figure["figure"] == "rate" and figure["value"] > 0
    assert end == {"end": "done"}


def test_wrong_answer_raises() -> None:
    class Liar(contestants.Contestant):
        def open(self, processes: int) -> None:
            pass

        def close(self) -> None:
            pass

        def map(self, function, items, chunksize=None):  # type: ignore[no-untyped-def]
            return [function(item) for item in items][::-1]

    with pytest.raises(measurements.WrongAnswer):
        measurements.map_one_by_one(Liar(""), lambda *_, **__: None, n=100, budget_seconds=0.0)


def test_results_do_not_name_places_of_the_machine() -> None:
    found = environment.probe(sys.executable, [])
    described = json.dumps(environment.describe({**found, "libraries": {}}, BENCH.parent))
    for place in (str(Path.home()), str(BENCH.parent), os.uname().nodename):
        assert place not in described
