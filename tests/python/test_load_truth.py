"""The figures of Python users are true: under stalls, for every pacing, and when processes die or are told to stop."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
import urllib.request
from typing import NamedTuple

import leftovers
import load_server
import pytest
from load_harness import load_tests

from procession.load import load

pytestmark = load_tests

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


class Stall(NamedTuple):
    """A server that does nothing for a while in the middle of a run at 100 requests a second."""

    run_seconds: int
    begins_at_seconds: float
    seconds: float

    def truth(self, share, frozen_seconds):
        """The percentile that is due: the first of those that wait waits for the whole stall, the last not at all."""
        waiting = 100 * self.seconds
        slower = (1 - share) * 100 * self.run_seconds
        return frozen_seconds - self.seconds * slower / waiting

    def truth_of(self, due, share, frozen_seconds):
        """The percentile of iterations that were due at these moments. The stall begins so long after the first of them."""
        begins = due[0] + self.begins_at_seconds
        ends = begins + frozen_seconds
        waited = sorted(ends - moment if begins < moment < ends else 0 for moment in due)
        return waited[math.ceil(share * len(waited)) - 1]


def numbers(seed, place):
    """Random numbers from 0 to 1, as the documentation of the schedule says that they are drawn."""
    bits = (1 << 64) - 1
    state = seed ^ 0x5851F42D4C957F2D

    def step():
        nonlocal state
        state = (state + 0x9E3779B97F4A7C15) & bits
        mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & bits
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & bits
        return mixed ^ (mixed >> 31)

    state = step() ^ (place * 0xD1290D3B3B5DA7B5) & bits
    while True:
        yield (step() >> 11) / (1 << 53)


def poisson_arrivals(rate, seconds, workers, seed):
    """When iterations are due: of each worker's own Poisson process, which depends on the seed and its number alone."""
    due = []
    for worker in range(workers):
        moment, taken = 0.0, 0
        while True:
            moment += -math.log(1 - next(numbers(seed, worker << 40 | taken))) * workers / rate
            if moment >= seconds:
                break
            due.append(moment)
            taken += 1
    return sorted(due)


def see_stall(stall, kinds):
    """Runs these kinds of users beside each other; yields what they are, the result, and how long the server stood."""
    runs = []
    for function, options in kinds:
        serving = load_server.serving(freeze_at_seconds=stall.begins_at_seconds, freeze_seconds=stall.seconds)
        server = serving.__enter__()
        options = {"rate": 100, "duration": stall.run_seconds, **options}
        runs.append((f"{function} {options}", serving, server, begin(server, function, **options)))
    try:
        for kind, _, server, process in runs:
            result = json.loads(process.communicate(timeout=stall.run_seconds + 30)[0])
            if "poisson" not in kind:
                assert result["totals"]["requests"] + result["totals"]["unsent"] == 100 * stall.run_seconds, kind
            with urllib.request.urlopen(f"{server.url}/frozen", timeout=20) as reply:
                yield kind, result, float(reply.read())
    finally:
        for _, serving, _, process in runs:
            process.kill()
            process.communicate()
            serving.__exit__(None, None, None)


def test_a_stall_is_in_the_percentiles_of_every_kind_of_user():
    stall = Stall(run_seconds=6, begins_at_seconds=2.5, seconds=1)
    kinds = [
        ("coroutine", {"processes": 1}),
        ("coroutine", {"processes": 2}),
        ("plain", {"processes": 1, "vuser": "thread"}),
        ("plain", {"processes": 2, "vuser": "thread"}),
        ("plain", {"vuser": "process", "users": 4}),
        ("coroutine", {"vuser": "process", "users": 2}),
    ]
    for kind, result, frozen_seconds in see_stall(stall, kinds):
        for name, share in (("p95", 0.95), ("p99", 0.99)):
            # Not less than what is true; on a machine that is busy it may really have taken longer.
            truth = stall.truth(share, frozen_seconds)
            assert truth - 0.1 <= result["latency"]["response"][name] <= truth + 2, kind
        # Without it, one would have believed this: few requests were under way while the server was silent.
        if "process'" in kind:
            assert result["latency"]["service"]["p95"] < 0.35, kind


@pytest.mark.skipif("PROCESSION_LOAD_TRUTH" not in os.environ, reason="takes minutes: make load-truth")
@pytest.mark.timeout(600)
def test_a_stall_of_two_seconds_is_told_within_five_percent():
    stall = Stall(run_seconds=24, begins_at_seconds=11, seconds=2)
    kinds = [
        ("coroutine", {"vuser": "async"}),
        ("plain", {"vuser": "thread"}),
        ("plain", {"vuser": "process", "users": 4}),
        ("coroutine", {"vuser": "process", "users": 4}),
    ]
    pacings = [
        {"rate": 100},
        {"rate": 100, "duration": None, "stages": "24s:100/s"},
        {"rate": 100, "arrivals": "poisson", "seed": 7},
    ]
    for processes in (1, 2, 4):
        for pacing in pacings:
            several = [
                (function, {**options, **pacing, **({} if "users" in options else {"processes": processes})})
                for function, options in kinds
                if processes == 2 or "users" not in options
            ]
            for kind, result, frozen_seconds in see_stall(stall, several):
                due = None
                if "seed" in pacing:
                    due = poisson_arrivals(pacing["rate"], stall.run_seconds, len(result["workers"]), pacing["seed"])
                    assert result["totals"]["requests"] + result["totals"]["unsent"] == len(due), kind
                for name, share in (("p95", 0.95), ("p99", 0.99)):
                    told = result["latency"]["response"][name]
                    truth = stall.truth_of(due, share, frozen_seconds) if due else stall.truth(share, frozen_seconds)
                    print(f"{name} {told:.3f} s, truth {truth:.3f} s, {result['verdict']['outcome']}: {kind}")
                    assert told == pytest.approx(truth, rel=0.05), kind


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
    # Of the process: on a machine that is busy many users share its iterations.
    calls = itertools.count(1)

    def user(http, user):
        http.get("/")
        if next(calls) == 20 and user.process == 0 and not os.path.exists(marker):
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
