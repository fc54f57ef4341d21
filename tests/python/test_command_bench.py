"""``procession bench``: a plain loop beside pools."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import xml.etree.ElementTree
from pathlib import Path

import pytest
from command_harness import LIMIT_SECONDS, MARK, assert_matches, host_pid, run, start, wait_for


def test_bench_compares_a_plain_loop_with_pools(folder: Path) -> None:
    done = run(
        *("bench", "work.py:sleeper", "--processes", "1,4", "--rounds", "2"),
        *("--export-json", "bench.json", "--export-svg", "bench.svg"),
        *["0.05"] * 12,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^plain loop +\d", done.stdout, re.MULTILINE)
    assert "████" in done.stdout and "more processes than cores help" in done.stdout
    bench = json.loads((folder / "bench.json").read_text())
    assert_matches("bench", bench)
    assert [row["processes"] for row in bench["rows"]] == [None, 1, 4]
    assert [len(row["seconds"]) for row in bench["rows"]] == [2, 2, 2]
    plain_loop, _, four = bench["rows"]
    assert plain_loop["median_seconds"] >= 12 * 0.05
    assert plain_loop["busy_share"] < 0.5
    assert four["speed_up"] > 1.5
    assert bench["advice"] in done.stdout
    svg = xml.etree.ElementTree.parse(folder / "bench.svg").getroot()
    assert svg.tag.endswith("svg")


def test_bench_starts_each_measurement_with_an_empty_memory(folder: Path) -> None:
    done = run("bench", "work.py:remembers", "--range", "10", "--rounds", "2", "-p", "1", "--export-json", "bench.json")
    assert done.returncode == 0, done.stderr
    for row in json.loads((folder / "bench.json").read_text())["rows"]:
        assert min(row["seconds"]) >= 10 * 0.02


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_bench_works_with_other_start_methods(folder: Path, start_method: str) -> None:
    done = run("bench", "work.py:power", "--range", "20", "--rounds", "1", "-p", "2", "--start-method", start_method)
    assert done.returncode == 0, done.stderr
    assert f", {start_method}\n" in done.stdout


def test_bench_refuses_to_measure_a_function_that_fails(folder: Path) -> None:
    done = run("bench", "work.py:upper", "--range", "3")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: a call raised AttributeError: 'int' object has no attribute 'upper'\n")


def test_an_interrupted_bench_shows_what_it_has(folder: Path) -> None:
    command = start("bench", "work.py:sleeper", "--rounds", "1", "-p", "1,2", *["0.5"] * 6, "--quiet")
    mark = os.environ[MARK]
    first = wait_for(lambda: host_pid(mark))
    wait_for(lambda: host_pid(mark) != first)
    time.sleep(0.5)
    command.send_signal(signal.SIGINT)
    out, text = command.communicate(timeout=LIMIT_SECONDS)
    assert command.returncode == 130
    assert b"plain loop" in out and text == b"interrupted by SIGINT; so far:\n"
