"""``procession load FILE.py[:FUNCTION]``: functions of a file are virtual users, however they are run."""

from __future__ import annotations

import json
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_harness import LIMIT_SECONDS, MARK, nobody_left, run, start

SHOP = """
from procession import load

@load.setup()
def log_in():
    return {"token": "hugo"}

def buy(http, setup, n):
    assert setup == {"token": "hugo"}
    http.get("URL/json").expect(status=200)

async def browse(http):
    await http.get("URL/")

def fails(n):
    raise RuntimeError("sold out")
"""


@pytest.fixture
def shop(server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The path of a file with users; nobody of the test's processes may be left afterwards."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "shop.py"
    path.write_text(SHOP.replace("URL", server.url))
    yield path
    nobody_left(mark)


def result_of(*arguments: str) -> dict:
    done = run("load", "--no-tui", "-o", "result.json", *arguments)
    # On a busy machine the run may rightly say that its figures are worth nothing.
    assert done.returncode in (0, 98), done.stderr
    assert done.stdout.startswith(("PASS", "INVALID"))
    return json.loads(Path("result.json").read_text())


@pytest.mark.parametrize("vuser", ["thread", "process"])
def test_a_function_of_a_file_is_a_user_of_each_kind(shop, vuser):
    result = result_of("shop.py:buy", "-u", "2", "-n", "20", "--vuser", vuser)
    assert result["totals"]["requests"] == 20 and result["totals"]["failed_iterations"] == 0


def test_a_coroutine_function_keeps_to_a_rate(shop):
    result = result_of("shop.py:browse", "-q", "100/s", "-z", "1s")
    assert result["totals"]["requests"] + result["totals"]["unfinished"] + result["totals"]["unsent"] == 100


def test_what_a_function_raises_is_counted_and_shown(shop):
    done = run("load", "--no-tui", "shop.py:fails", "-u", "1", "-n", "3")
    assert done.returncode in (98, 99)
    assert "3 failed" in done.stdout and "RuntimeError: sold out" in done.stdout


@pytest.mark.parametrize(
    "options",
    [["--http2", "--streams", "2"], ["--cookies"], ["--connect-to", "127.0.0.1:1"], ["-H", "A: b"], ["-m", "PUT"]],
    ids=lambda options: options[0],
)
def test_options_of_urls_are_refused_as_a_function_would_not_heed_them(shop, options):
    done = run("load", "--no-tui", "shop.py:buy", "-n", "1", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert "is for URLs, and the target is a Python function" in done.stderr


def test_a_file_with_several_functions_wants_one_named(shop):
    done = run("load", "--no-tui", "shop.py")
    assert done.returncode == 1
    assert "several functions" in done.stderr and "shop.py:buy" in done.stderr


def test_a_broken_promise_of_a_function_is_a_failure(shop):
    done = run("load", "--no-tui", "shop.py:buy", "-u", "1", "-n", "5", "--slo", "p99<1us")
    assert done.returncode in (98, 99)
    assert "p99<1us" in done.stdout
    assert done.stdout.startswith("FAIL") == (done.returncode == 99)


def test_ctrl_c_ends_a_run_of_a_function_and_still_reports(shop):
    process = start("load", "--no-tui", "shop.py:browse", "-u", "2", "-z", "60s")
    assert process.stderr is not None
    process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 130 and b"browse, 2 users" in out
