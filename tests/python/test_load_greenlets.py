"""Plain functions share a thread where greenlets are installed; what they wait for, others use."""

from __future__ import annotations

import asyncio
import builtins
import time

import pytest
from load_harness import load_tests

from procession.load import LoadError, RequestError, feed, load, think

pytest.importorskip("greenlet")
pytestmark = load_tests


def test_users_that_wait_do_so_beside_each_other(server):
    def user():
        think(0.2)

    began = time.monotonic()
    result = load(user, vuser="async", users=50, iterations=50, processes=1)
    assert (result.iterations, result.errors) == (50, {})
    # One after the other they would take ten seconds.
    assert time.monotonic() - began < 8


def test_failures_are_raised_where_the_function_waits(server):
    def user(http):
        try:
            http.get("http://127.0.0.1:9/")
        except RequestError as error:
            assert "refused" in str(error)
            raise ValueError("seen") from error

    result = load(user, vuser="async", url=server.url, users=1, iterations=4, processes=1)
    assert result.errors == {"refused": 4, "script": 4}
    assert "ValueError: seen" in result.examples["script"]


def test_what_ends_programs_or_tasks_fails_no_more_than_its_iteration():
    def user(n):
        think(0.001)
        raise (KeyboardInterrupt if n % 2 else asyncio.CancelledError)

    result = load(user, vuser="async", users=2, iterations=10, processes=1)
    assert (result.iterations, result.failed_iterations) == (10, 10)


def test_sockets_work_in_the_same_words(server):
    def user(tcp):
        with tcp.connect(server.tcp) as connection:
            connection.send(b"ping 1\n")
            assert connection.recv_until(b"\n").endswith(b"\n")

    threads = load(user, vuser="thread", users=3, iterations=12, processes=1)
    greenlets = load(user, vuser="async", users=3, iterations=12, processes=1)
    assert (greenlets.iterations, greenlets.errors) == (threads.iterations, threads.errors) == (12, {})
    assert {name: step.count for name, step in greenlets.steps.items()} == {
        name: step.count for name, step in threads.steps.items()
    }


def test_they_run_inside_of_asyncio_too(server):
    def user(http):
        assert asyncio.get_running_loop() is not None
        http.get("/")

    result = load(user, vuser="async", url=server.url, users=3, iterations=12, processes=1)
    assert (result.requests, result.errors) == (12, {}), result.examples


def test_a_greenlet_of_the_functions_own_is_told_that_it_cannot_wait(server):
    import greenlet

    def user(http):
        greenlet.greenlet(lambda: http.get("/")).switch()

    result = load(user, vuser="async", url=server.url, users=1, iterations=3, processes=1)
    assert result.iterations == 3 and result.errors["script"] == 3
    assert "not for one that its function makes" in result.examples["script"]


def test_a_rate_is_kept(server):
    def user(http):
        http.get("/slow")

    result = load(user, vuser="async", url=server.url, rate=100, duration=0.5, processes=1)
    assert result.requests + result.unfinished + result.data["totals"]["unsent"] == 50


def test_without_greenlets_the_error_says_what_to_install(server, monkeypatch):
    def import_less(name, *arguments, **keywords):
        if name == "greenlet":
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", import_less)
    with pytest.raises(LoadError, match="procession\\[greenlet\\]"):
        load(lambda http: None, vuser="async", url=server.url, iterations=1)


def test_what_one_iteration_does_to_its_greenlet_is_nothing_to_the_next(server):
    seen = []

    def user(http, n):
        seen.append(n)
        if n == 1:
            raise SystemExit("of this iteration only")
        if n == 2:
            http.get("http://127.0.0.1:9/")
        http.get("/")
        assert seen == list(range(n + 1))

    result = load(user, vuser="async", url=server.url, users=1, iterations=5, processes=1)
    assert (result.iterations, result.errors) == (5, {"script": 1, "refused": 1}), result.examples


def test_users_that_wait_when_the_run_ends_are_told_where_they_wait(server, tmp_path):
    def user(http):
        try:
            http.get("/never")
        finally:
            (tmp_path / "told").touch()

    result = load(user, vuser="async", url=server.url, users=2, duration=0.1, drain=0.1, processes=1)
    assert (result.unfinished, result.errors) == (2, {})
    assert (tmp_path / "told").exists()


def test_rows_of_data_that_are_used_up_end_a_user(server):
    def user(http, data):
        http.get("/")

    result = load(user, vuser="async", url=server.url, users=2, duration=30, data=feed([1, 2, 3], share="unique"))
    assert (result.iterations, result.errors) == (3, {})
