"""Machines of others get a modest number of requests from functions, unless somebody says that they agree."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from command_harness import run
from load_harness import load_tests

from procession import _native
from procession.load import LoadError, load

pytestmark = load_tests

KINDS = ["async", "thread", "process"]


class Stranger:
    """A server of ours, at an address that does not tell that it is here."""

    def __init__(self, server):
        self.url = server.url.replace("127.0.0.1", "0.0.0.0")
        self.tcp = server.tcp.replace("127.0.0.1", "0.0.0.0")
        self.udp = server.udp.replace("127.0.0.1", "0.0.0.0")


@pytest.fixture(scope="module")
def stranger(server):
    return Stranger(server)


@pytest.fixture
def one_per_second(monkeypatch):
    """A limit that even a machine with little time for us exceeds."""
    real = _native.plan_defaults

    def plan_defaults(*arguments):
        plan = json.loads(real(*arguments))
        plan["guards"]["stranger_rate"] = 1.0
        return json.dumps(plan)

    monkeypatch.setattr(_native, "plan_defaults", plan_defaults)


def greedy(vuser, url):
    """A user whose one iteration is many requests."""
    if vuser == "async":

        async def coroutine(http):
            for _ in range(100_000):
                await http.get(url)

        return coroutine

    def plain(http):
        for _ in range(100_000):
            http.get(url)

    return plain


@pytest.mark.parametrize("vuser", KINDS)
def test_too_many_requests_end_the_run_with_one_error_that_says_what_to_do(stranger, one_per_second, vuser):
    with pytest.raises(LoadError) as caught:
        load(greedy(vuser, stranger.url + "/"), vuser=vuser, users=2, iterations=2)
    text = str(caught.value)
    assert "0.0.0.0 is not this machine, and more than 1 requests per second may do harm" in text
    assert "own_target=True" in text and "--yes-i-own-this-target" in text


def test_a_machine_whose_owner_agrees_gets_as_many_as_anybody_likes(stranger):
    def user(http):
        for _ in range(200):
            http.get(stranger.url + "/")

    result = load(user, users=1, iterations=1, own_target=True)
    assert (result.requests, result.errors) == (200, {})


def test_it_is_requests_that_count_and_not_iterations(stranger):
    def user(http, n):
        if n % 50 == 0:
            http.get(stranger.url + "/")

    result = load(user, users=1, rate=1000, iterations=200)
    assert (result.requests, result.errors) == (4, {})


def test_what_is_on_this_machine_does_not_count(server):
    def user(http):
        for _ in range(200):
            http.get(server.url + "/")

    assert load(user, users=1, iterations=1).errors == {}


def test_more_users_than_are_modest_are_too_many_before_anything_is_sent():
    # A network for examples, where nobody is.
    with pytest.raises(LoadError, match="192.0.2.1 is not this machine, and 64 users"):
        load(greedy("thread", "http://192.0.2.1/"), users=64, iterations=64)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_raw_sockets_are_counted_too(stranger, one_per_second, protocol):
    def tcp_user(tcp):
        with tcp.connect(stranger.tcp) as connection:
            for _ in range(100_000):
                connection.send(b"ping\n")
                connection.recv_until(b"\n")

    def udp_user(udp):
        with udp.connect(stranger.udp) as socket:
            for _ in range(100_000):
                socket.send(b"ping")
                socket.recv()

    with pytest.raises(LoadError, match="0.0.0.0 is not this machine, and more than 1 requests"):
        load(tcp_user if protocol == "tcp" else udp_user, users=1, iterations=1)


@pytest.mark.parametrize("own_target", [False, True])
def test_redirects_lead_to_others_no_more_often_than_is_modest(server, stranger, one_per_second, own_target):
    # Who owns the target need not own what it leads to.
    user = greedy("thread", f"{server.url}/redirect/302/{stranger.url}/")
    with pytest.raises(LoadError, match="is not this machine, and more than 1 requests") as caught:
        load(user, users=1, iterations=1, redirects=1, own_target=own_target)
    assert ("where a redirect leads" in str(caught.value)) == own_target


def test_who_sleeps_does_not_hold_up_the_end(stranger, one_per_second):
    def user(http, user):
        if user.id == 0:
            time.sleep(3600)
        for _ in range(100_000):
            http.get(stranger.url + "/")

    with pytest.raises(LoadError, match="0.0.0.0 is not this machine"):
        load(user, vuser="thread", users=2, iterations=2, processes=1)


def test_the_command_shows_the_error_alone(stranger, tmp_path, monkeypatch):
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    monkeypatch.chdir(tmp_path)
    source = f"def buy(http):\n    for _ in range(COUNT):\n        http.get({stranger.url + '/'!r})\n"
    command = ["load", "--no-tui", "shop.py", "-u", "1", "-n", "1", "-o", "result.json"]
    Path("shop.py").write_text(source.replace("COUNT", "100_000"))
    done = run(*command)
    assert done.returncode == 1 and "--yes-i-own-this-target" in done.stderr
    assert "Traceback" not in done.stderr and "host process" not in done.stderr
    Path("shop.py").write_text(source.replace("COUNT", "200"))
    done = run(*command, "--yes-i-own-this-target")
    assert done.returncode in (0, 98), done.stderr
    assert json.loads(Path("result.json").read_text())["totals"]["requests"] == 200


def test_a_base_url_of_others_is_refused_before_anything_begins():
    with pytest.raises(ValueError, match="192.0.2.1 is not this machine"):
        load(greedy("thread", "/"), url="http://192.0.2.1/", rate=1000, duration=0.2)
    with pytest.raises(ValueError, match="64 connections"):
        load(greedy("thread", "/"), url="http://192.0.2.1/", users=64, duration=0.2)
