"""The figures of Python users are true: under stalls, for every pacing, and when processes die or are told to stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import urllib.request

import leftovers
import load_server
import pytest

from procession.load import load

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

USERS = """
    import json, sys
    from procession import load

    def plain(http):
        http.get("/")

    async def coroutine(http):
        await http.get("/")

    if __name__ == "__main__":
        url, function, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
        result = load(globals()[function], url=url, **options)
        print(result.to_json())
"""


def begin(server, function, **options):
    """Begins a load test in a program of its own."""
    program = [sys.executable, "-c", textwrap.dedent(USERS), server.url, function, json.dumps(options)]
    return subprocess.Popen(program, stdout=subprocess.PIPE, text=True)


def test_a_stall_is_in_the_percentiles_of_every_kind_of_user():
    # A server that does nothing for 1 of 6 seconds: of 600 requests at 100/s, 100 wait, the first a second, the last not
    # at all. So the true p95 is 0.3 s less than the stall, and the true p99 0.06 s less.
    kinds = [
        ("coroutine", {"processes": 1}),
        ("coroutine", {"processes": 2}),
        ("plain", {"processes": 1, "vuser": "thread"}),
        ("plain", {"processes": 2, "vuser": "thread"}),
        ("plain", {"vuser": "process", "users": 4}),
        ("coroutine", {"vuser": "process", "users": 2}),
    ]
    runs = []
    for function, options in kinds:
        serving = load_server.serving(freeze_at_seconds=2.5, freeze_seconds=1)
        server = serving.__enter__()
        runs.append((serving, server, begin(server, function, rate=100, duration=6, **options)))
    try:
        for (_, options), (_, server, process) in zip(kinds, runs):
            result = json.loads(process.communicate(timeout=40)[0])
            response = result["latency"]["response"]
            assert result["totals"]["requests"] + result["totals"]["unsent"] == 600, options
            with urllib.request.urlopen(f"{server.url}/frozen", timeout=20) as reply:
                frozen_seconds = float(reply.read())
            assert response["p95"] == pytest.approx(frozen_seconds - 0.3, abs=0.1), options
            assert response["p99"] == pytest.approx(frozen_seconds - 0.06, abs=0.1), options
            # Without it, one would have believed this: few requests were under way while the server was silent.
            if options.get("vuser") == "process":
                assert result["latency"]["service"]["p95"] < 0.35, options
    finally:
        for serving, _, process in runs:
            process.kill()
            process.communicate()
            serving.__exit__(None, None, None)


@pytest.mark.parametrize("vuser", ["async", "thread", "process"])
def test_every_pacing_begins_as_many_iterations_as_it_says(vuser):
    async def coroutine(http):
        await http.get("/")

    def plain(http):
        http.get("/")

    function = coroutine if vuser == "async" else plain
    with load_server.serving() as server:
        few = {"users": 4} if vuser == "process" else {"processes": 2}
        constant = load(function, vuser=vuser, url=server.url, rate="100/s", duration=0.5, **few)
        # On a machine that is busy the last ones may come too late.
        assert constant.requests + constant.data["totals"]["unsent"] == 50
        assert constant.iterations == constant.requests >= 40
        assert constant.lag is not None
        poisson = load(function, vuser=vuser, url=server.url, rate=200, arrivals="poisson", duration=0.5, seed=3, **few)
        assert 50 <= poisson.iterations <= 140
        stages = load(function, vuser=vuser, url=server.url, rate=1, stages="500ms:200/s", **few)
        assert 40 <= stages.iterations <= 52
        counted = load(function, vuser=vuser, url=server.url, users=4, iterations=33)
        assert (counted.iterations, counted.lag) == (33, None)


@pytest.mark.parametrize("vuser", ["async", "thread"])
def test_users_come_and_go_by_the_stages(vuser):
    async def coroutine(http):
        await http.get("/slow")

    def plain(http):
        http.get("/slow")

    with load_server.serving() as server:
        function = coroutine if vuser == "async" else plain
        result = load(function, vuser=vuser, url=server.url, stages="1s:10,1s:10,1s:0", processes=1)
    users = [second["users"] for second in result.data["seconds"]]
    assert 6 <= users[0] <= 10 and users[1] == 10 and users[2] <= 4
    assert {worker["restarts"] for worker in result.workers} == {0}


def test_what_is_unfinished_at_the_end_is_counted_as_such():
    async def user(http):
        await http.get("/never")

    with load_server.serving() as server:
        result = load(user, url=server.url, users=5, duration=0.2, drain=0.1)
    assert (result.requests, result.unfinished) == (0, 5)
    assert result.data["latency"]["response"]["censored_above"] == 0


def test_ctrl_c_ends_the_run_and_leaves_nothing():
    with load_server.serving() as server:
        process = begin(server, "plain", users=4, duration=60, vuser="thread")
        wait_for_workers(process)
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        process.communicate(timeout=20)
        assert process.returncode in (1, -signal.SIGINT)
        assert time.monotonic() - started < 10


def test_a_killed_caller_takes_all_its_workers_along():
    with load_server.serving() as server:
        process = begin(server, "coroutine", users=4, duration=60)
        wait_for_workers(process)
        family = leftovers.descendants(process.pid)
        process.kill()
        process.communicate()
        deadline = time.monotonic() + 20
        while any(os.path.exists(f"/proc/{info.pid}") for info in family):
            assert time.monotonic() < deadline, "workers outlive their caller"
            time.sleep(0.02)


def wait_for_workers(process):
    deadline = time.monotonic() + 20
    while len(leftovers.descendants(process.pid)) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    time.sleep(0.2)


def test_a_killed_worker_is_counted_and_replaced_and_loses_no_counted_request():
    def user(http, user, n):
        http.get("/")
        if n == 20 and user.process == 0 and not os.path.exists(marker):
            open(marker, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.005)

    import tempfile

    with tempfile.TemporaryDirectory() as folder, load_server.serving() as server:
        marker = os.path.join(folder, "died")
        result = load(user, url=server.url, rate=200, duration=1, processes=2, vuser="thread")
    assert result.deaths == 1
    assert "SIGKILL" in next(worker["last_death"] for worker in result.workers if worker["restarts"])
    # Of the 200, those that were under way in the process that died have not ended.
    assert 170 <= result.requests <= 200
