"""Functions as virtual users follow redirects if they ask for it, and count them as one request."""

from __future__ import annotations

import json
from pathlib import Path

import load_server
import pytest
from command_harness import run
from load_harness import load_tests

from procession.load import LoadError, RequestError, load

pytestmark = load_tests

KINDS = ["async", "thread", "process"]


def one(function, server, vuser="thread", **options):
    return load(function, vuser=vuser, url=server.url, users=1, iterations=3, **options)


@pytest.mark.parametrize("vuser", KINDS)
def test_what_is_counted_is_the_last_response_under_the_name_of_the_first_request(server, vuser):
    def check(reply, begun):
        assert (reply.status, reply.text) == (200, "ok")
        assert reply.url == begun + "/"

    url = server.url
    if vuser == "async":

        async def user(http):
            check(await http.get("/redirect/301//redirect/302//", redirects=5, name="home"), url)
    else:

        def user(http):
            check(http.get("/redirect/301//redirect/302//", redirects=5, name="home"), url)

    result = one(user, server, vuser)
    assert (result.requests, result.errors) == (3, {}), result.examples
    assert result.steps["home"].count == 3
    assert result.statuses == {200: 3}


def test_none_is_followed_unless_asked_for(server):
    def user(http):
        reply = http.get("/redirect/302//")
        assert (reply.status, reply.headers["location"], reply.url) == (302, "/", "/redirect/302//")

    assert one(user, server).errors == {}


def test_a_default_holds_for_requests_that_do_not_say_it_themselves(server):
    @load(redirects=1)
    def user(http):
        assert http.get("/redirect/302//").status == 200
        assert http.get("/redirect/302//", redirects=0).status == 302

    result = one(user, server)
    assert result.errors == {}, result.examples
    assert one(user, server, redirects=0).errors == {"assertion": 3}


def test_loops_end_at_the_number_that_was_asked_for(server):
    def user(http):
        assert http.get("/loop", redirects=7).status == 302

    result = one(user, server)
    assert (result.requests, result.errors) == (3, {}), result.examples


@pytest.mark.parametrize(
    ("status", "method", "then"),
    [(301, "PUT", "PUT"), (302, "POST", "GET"), (303, "PUT", "GET"), (308, "POST", "POST")],
)
def test_the_method_changes_as_in_browsers(server, status, method, then):
    def user(http):
        reply = http.request(method, f"/redirect/{status}//echo", data=b"body", redirects=1)
        # It shows the body, or else the head of a request without one.
        assert reply.text == "body" if then == method else reply.text.startswith(f"{then} /echo ")

    result = one(user, server)
    assert result.errors == {}, result.examples


def test_cookies_of_redirects_are_kept_on_the_way(server):
    def user(http):
        assert "Cookie: via=302" in http.get("/redirect/302//echo", redirects=1).text

    result = one(user, server)
    assert result.errors == {}, result.examples


def test_another_server_is_followed_to_and_told_no_secrets(server):
    with load_server.serving() as other:

        def user(http):
            text = http.get(f"/redirect/307/{other.url}/echo", headers={"Authorization": "me"}, redirects=1).text
            assert text.startswith("GET /echo ") and "Authorization" not in text and "Cookie" not in text

        result = one(user, server)
    assert result.errors == {}, result.examples


def test_what_leads_nowhere_is_a_failure_of_the_request(server):
    def user(http):
        try:
            http.get("/redirect/302/ftp://127.0.0.1/", redirects=1)
        except RequestError as error:
            assert "only http and https" in str(error)
        try:
            http.get("/redirect/302/http://127.0.0.1:9/", redirects=1)
        except RequestError as error:
            assert "refused" in str(error)

    result = one(user, server)
    assert (result.requests, result.errors) == (6, {"assertion": 3, "refused": 3}), result.examples


def test_the_time_limit_is_for_all_of_them_together(server):
    def user(http):
        try:
            http.get("/redirect/302//never", redirects=1, timeout=0.1)
        except RequestError:
            return
        raise ValueError("it never answers")

    result = one(user, server)
    assert result.errors == {"timeout": 3}, result.examples


@pytest.mark.parametrize("vuser", ["async", "thread"])
def test_the_end_of_a_run_ends_who_waits_behind_a_redirect(server, vuser):
    if vuser == "async":

        async def user(http):
            await http.get("/redirect/302//never", redirects=1)
    else:

        def user(http):
            http.get("/redirect/302//never", redirects=1)

    result = load(user, vuser=vuser, url=server.url, users=2, duration=0.2, drain=0.1, processes=1)
    assert (result.unfinished, result.errors) == (2, {}), result.examples


@pytest.mark.parametrize("wrong", [-1, "many", True])
def test_a_number_of_redirects_that_is_none_is_told(server, wrong):
    with pytest.raises(ValueError, match="redirects must be a whole number"):
        one(lambda http: None, server, redirects=wrong)


def test_functions_that_want_different_defaults_are_told(server):
    @load(redirects=1)
    def buy(http): ...

    @load(redirects=2)
    def browse(http): ...

    with pytest.raises(LoadError, match="redirects"):
        one([buy, browse], server)


def test_the_command_gives_functions_their_default(server, tmp_path, monkeypatch):
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("shop.py").write_text(f"def buy(http):\n    http.get('{server.url}/redirect/302//').expect(status=200)\n")
    for options, errors in ((["--redirects", "3"], 0), ([], 5)):
        done = run("load", "--no-tui", "shop.py", "-u", "1", "-n", "5", "-o", "result.json", *options)
        assert done.returncode in (0, 98, 99), done.stderr
        assert json.loads(Path("result.json").read_text())["totals"]["errors"] == errors
