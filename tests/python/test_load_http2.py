"""Functions as virtual users speak HTTP/2: the requests of a user to one server share a connection, and nothing else."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path

import h2_server
import load_server
import pytest
from command_harness import run

from procession.load import LoadError, RequestError, load

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

KINDS = ["async", "thread", "process"]
AUTHORITY = Path(h2_server.CERTIFICATES) / "ca.pem"


@pytest.fixture(scope="module")
def server():
    with h2_server.serving() as url:
        yield url


@pytest.fixture
def fresh():
    """One that has not been asked for anything yet."""
    with h2_server.serving() as url:
        yield url


def few(function, server, vuser="thread", users=1, iterations=3, **options):
    return load(function, vuser=vuser, url=server, users=users, iterations=iterations, http2=True, **options)


def counts_of(server):
    """What the server has counted, this question included."""

    def ask(http, setup):
        Path(setup).write_text(http.get("/counts").text)

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/counts"
        assert few(ask, server, iterations=1, setup=lambda: path).errors == {}
        return json.loads(Path(path).read_text())


# --- the same function in three ways -------------------------------------------------------------------------------------


@pytest.mark.parametrize("vuser", [*KINDS, "greenlet"])
def test_a_user_keeps_one_connection_however_it_is_run(fresh, vuser):
    def check(replies):
        ok, token, missing, size = replies
        assert (ok.status, ok.text, ok.headers["content-length"]) == (200, "ok", "2")
        assert token.json("token") == "hugo" and token.headers["content-type"] == "application/json"
        assert missing.status == 404 and size.text == "5"

    if vuser == "async":

        async def user(http):
            paths = ("/", "/json", "/status/404")
            check([await http.get(path) for path in paths] + [await http.post("/size", data=b"hello")])
    else:

        def user(http):
            check([http.get(path) for path in ("/", "/json", "/status/404")] + [http.post("/size", data=b"hello")])

    if vuser == "greenlet":
        pytest.importorskip("greenlet")
        vuser = "async"
    result = few(user, fresh, vuser, users=2, iterations=10)
    assert result.errors == {"status4xx": 10}, result.examples
    assert (result.iterations, result.failed_iterations) == (10, 0)
    assert {name: step.count for name, step in result.steps.items() if step.kind == "request"} == {
        "GET /": 10,
        "GET /json": 10,
        "GET /status/404": 10,
        "POST /size": 10,
    }
    totals = result.data["totals"]
    assert (totals["requests"], totals["connections"]) == (40, 2)
    assert totals["bytes_sent"] > 40 * 30 and totals["bytes_received"] > 40 * 15
    assert result.data["phases"]["first_byte"]["count"] == 40
    counts = counts_of(fresh)
    assert (counts["connections"], counts["requests"]) == (3, 41)


def test_requests_of_a_user_are_under_way_at_the_same_time_on_one_connection(fresh):
    async def user(http):
        numbers = await asyncio.gather(*(http.get("/together/8") for _ in range(8)))
        assert len({reply.text for reply in numbers}) == 1

    result = few(user, fresh, "async", users=3, iterations=30, processes=1)
    assert (result.requests, result.errors, result.failed_iterations) == (240, {}, 0), result.examples
    assert result.data["totals"]["connections"] == 3
    assert counts_of(fresh)["most streams"] == 8


def test_those_that_are_more_than_the_server_takes_wait_for_their_turn(fresh):
    async def user(http):
        replies = await asyncio.gather(*(http.get("/slow") for _ in range(25)))
        assert [reply.text for reply in replies] == ["slow"] * 25

    result = few(user, fresh, "async", iterations=2)
    assert (result.requests, result.errors) == (50, {}), result.examples
    counts = counts_of(fresh)
    assert (counts["connections"], counts["most streams"]) == (2, h2_server.MOST_STREAMS)
    # Three rounds of 50 ms: those that had to wait took longer, from the moment at which they were asked for.
    assert result.steps["GET /slow"].max > 0.15


# --- what is sent, and what comes back -----------------------------------------------------------------------------------


def test_requests_say_what_was_asked_for_with_names_in_lower_case(server):
    def user(http):
        echoed = http.get("/echo?a=b", headers={"X-Own": "MiXed", "Connection": "close", "Host": "shop.example"}).text
        fields = dict(line.split(": ", 1) for line in echoed.splitlines())
        assert fields[":path"] == "/echo?a=b" and fields[":authority"] == "shop.example"
        assert fields["x-own"] == "MiXed" and fields["x-run"] == "7"
        assert "connection" not in fields and "host" not in fields
        echoed = http.post("/echo", json={"a": [1]})
        assert echoed.json("a", 0) == 1

    assert few(user, server, headers={"X-Run": "7"}).errors == {}


def test_cookies_and_redirects_are_what_they_are_over_http_1(server):
    def user(http):
        http.clear_cookies()
        http.get("/login")
        assert "cookie: who=me; a=b\n" in http.get("/echo").text
        reply = http.get("/redirect/302//redirect/301//echo", redirects=5, name="home")
        assert "via=302" not in reply.text and "via=301" in reply.text
        assert reply.url.endswith("/echo") and ":method: GET" in reply.text
        http.clear_cookies()
        assert "cookie" not in http.get("/echo").text
        assert http.post("/redirect/307//size", data=b"12345", redirects=1).text == "5"
        assert http.get("/redirect/302//").status == 302

    result = few(user, server)
    assert (result.errors, result.failed_iterations) == ({}, 0), result.examples
    assert result.steps["home"].count == 3 and result.data["totals"]["connections"] == 1


def test_responses_without_a_body_end_with_their_head(server):
    def user(http):
        # Even where the server sends one.
        assert (http.head("/").status, http.head("/").body) == (200, b"")
        assert http.head("/json").headers == {"content-length": "1234", "x-method": "HEAD"}
        assert (http.get("/status/204").status, http.get("/status/204").body) == (204, b"")

    assert few(user, server).errors == {}


def test_interim_responses_and_trailers_are_passed_over(server):
    def user(http):
        reply = http.get("/interim")
        assert (reply.status, reply.text, reply.headers) == (200, "body", {"x-which": "final"})

    assert few(user, server).errors == {}


@pytest.mark.parametrize("protocols", [(), ("h2",)])
def test_large_bodies_come_whole_on_either_way_and_beside_each_other(protocols):
    async def user(http):
        sent = [http.post("/size", data=b"y" * (h2_server.BIG + number)) for number in range(3)]
        come = [http.get("/big") for _ in range(3)]
        sizes = [reply.text for reply in await asyncio.gather(*sent)]
        assert sizes == [str(h2_server.BIG + number) for number in range(3)]
        assert [len(reply.body) for reply in await asyncio.gather(*come)] == [h2_server.BIG] * 3

    with h2_server.serving(*protocols) as url:
        result = few(user, url, "async", iterations=2, verify=AUTHORITY)
    assert (result.errors, result.failed_iterations) == ({}, 0), result.examples
    assert result.data["totals"]["connections"] == 1
    assert result.data["totals"]["bytes_sent"] > 6 * h2_server.BIG
    assert result.data["totals"]["bytes_received"] > 6 * h2_server.BIG


def test_a_head_that_is_longer_than_a_frame_is_sent_in_several(server):
    def user(http):
        assert f"x-long: {'z' * 40_000}\n" in http.get("/echo", headers={"X-Long": "z" * 40_000}).text

    assert few(user, server).errors == {}


# --- failures --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [
        ("/reset", "reset", "reset the stream (INTERNAL_ERROR)"),
        ("/half", "reset", "reset the stream"),
        ("/malformed", "protocol", "a header that is none"),
        ("/short", "protocol", "a body of 5 bytes"),
        ("/status/503", "status5xx", "status 503"),
    ],
)
def test_what_fails_on_one_stream_is_counted_once_and_is_nothing_to_its_neighbours(server, path, kind, words):
    async def user(http):
        failing, *others = await asyncio.gather(
            http.get(path), *(http.get("/slow") for _ in range(4)), return_exceptions=True
        )
        assert isinstance(failing, RequestError) == (kind != "status5xx")
        assert [other.text for other in others] == ["slow"] * 4

    result = few(user, server, "async")
    assert (result.requests, result.errors) == (15, {kind: 3}), result.examples
    assert words in result.examples[kind]
    assert result.data["totals"]["connections"] == 1


@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [
        ("/die", "reset", ""),
        ("/angry", "reset", "ENHANCE_YOUR_CALM"),
        ("/unwanted", "reset", "one connection after the other"),
    ],
)
def test_a_dead_connection_fails_each_request_on_it_once(fresh, path, kind, words):
    async def user(http):
        waiting = [http.get("/never") for _ in range(5)] if path != "/unwanted" else []
        results = await asyncio.gather(*waiting, http.get(path), return_exceptions=True)
        assert all(isinstance(result, RequestError) and result.kind == kind for result in results), results
        # The next one has a connection of its own.
        assert (await http.get("/")).text == "ok"

    result = few(user, fresh, "async")
    each = 6 if path != "/unwanted" else 1
    assert (result.requests, result.errors) == (3 * (each + 1), {kind: 3 * each}), result.examples
    assert words in result.examples[kind] and result.failed_iterations == 0


def test_what_the_server_has_not_looked_at_is_asked_for_again_on_another_connection(fresh):
    async def user(http, n):
        first = (await http.get("/connection")).text
        replies = await asyncio.gather(
            http.get("/slow"), http.get(f"/moved/{n}"), *(http.get("/connection") for _ in range(3))
        )
        assert replies[0].text == "slow"
        assert {reply.text for reply in replies[1:]}.isdisjoint({first})

    result = few(user, fresh, "async")
    assert (result.requests, result.errors, result.failed_iterations) == (18, {}, 0), result.examples


@pytest.mark.parametrize("vuser", KINDS)
def test_a_request_that_is_given_up_is_nothing_to_its_neighbours(fresh, vuser):
    if vuser == "async":

        async def user(http):
            # So that there is a connection, however long that takes.
            await http.get("/")
            slow = [http.get("/slow") for _ in range(3)]
            with pytest.raises(RequestError, match="no complete response within"):
                await http.get("/never", timeout=0.02)
            assert [reply.text for reply in await asyncio.gather(*slow)] == ["slow"] * 3
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(http.get("/never", name="cancelled"), 0.02)
            assert (await http.get("/")).text == "ok"
    else:

        def user(http):
            http.get("/")
            with pytest.raises(RequestError, match="no complete response within"):
                http.get("/never", timeout=0.02)
            assert http.get("/").text == "ok"

    result = few(user, fresh, vuser)
    assert (result.errors, result.failed_iterations) == ({"timeout": 3}, 0), result.examples
    assert result.data["totals"]["connections"] == 1
    # CANCEL, once for each.
    assert counts_of(fresh)["reset 8"] == (6 if vuser == "async" else 3)


def test_nobody_there_fails_all_who_wait_for_the_connection():
    async def user(http):
        results = await asyncio.gather(*(http.get("/") for _ in range(4)), return_exceptions=True)
        assert all(isinstance(result, RequestError) and result.kind == "refused" for result in results)

    result = few(user, "http://127.0.0.1:9", "async")
    assert (result.requests, result.errors, result.failed_iterations) == (12, {"refused": 12}, 0)


def test_a_server_that_speaks_another_version_is_an_error():
    with load_server.serving() as plain:
        # It waits for the end of a request that it does not understand, or refuses it.
        result = few(lambda http: http.get("/"), plain.url, timeout=0.2)
    assert result.requests == 3 and sum(result.errors.values()) == 3
    assert set(result.errors) <= {"timeout", "protocol", "reset"}, result.errors


# --- TLS ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vuser", KINDS)
def test_over_tls_it_is_agreed_upon(vuser):
    if vuser == "async":

        async def user(http):
            assert (await http.get("/")).text == "ok"
    else:

        def user(http):
            assert http.get("/").text == "ok"

    with h2_server.serving("http/1.1", "h2") as url:
        result = few(user, url, vuser, users=2, iterations=10, verify=AUTHORITY)
    assert (result.requests, result.errors) == (10, {}), result.examples
    assert result.data["phases"]["tls"]["count"] == result.data["totals"]["connections"] == 2


@pytest.mark.parametrize("protocols", [("",), ("http/1.1",)])
def test_a_server_that_does_not_offer_it_is_refused(protocols):
    with h2_server.serving(*protocols) as url:
        result = few(lambda http: http.get("/"), url, verify=AUTHORITY)
    assert result.errors == {"tls": 3}, result.examples


def test_without_being_asked_for_it_is_not_spoken():
    with load_server.serving() as plain:
        assert load(lambda http: http.get("/"), url=plain.url, users=1, iterations=3).errors == {}


# --- the run -------------------------------------------------------------------------------------------------------------------


def test_what_is_under_way_at_the_end_is_counted_as_unfinished(server):
    async def user(http):
        await asyncio.gather(*(http.get("/never") for _ in range(4)))

    result = load(user, url=server, http2=True, users=2, duration=1, drain=0.2, processes=1)
    assert (result.requests, result.errors, result.unfinished) == (0, {}, 8)


def test_many_users_keep_to_a_rate(server):
    async def user(http):
        await asyncio.gather(http.get("/"), http.get("/json"))

    result = load(user, url=server, http2=True, rate=100, duration=1, processes=2)
    totals = result.data["totals"]
    assert result.iterations + totals["unsent"] + totals["unfinished"] >= 100
    assert result.errors == {} and result.requests == 2 * result.iterations


def test_machines_of_others_are_spared(server):
    async def user(http):
        await asyncio.gather(*(http.get("/") for _ in range(200)))

    with pytest.raises(LoadError, match=r"0\.0\.0\.0 is not this machine"):
        few(user, server.replace("127.0.0.1", "0.0.0.0"), "async", iterations=10)


def test_the_decorator_says_it_too_and_what_it_says_is_checked(server):
    @load(http2=True)
    def user(http):
        http.get("/")

    assert load(user, url=server, users=1, iterations=3).errors == {}
    with pytest.raises(TypeError, match="http2 must be True or False"):
        load(user, url=server, users=1, iterations=3, http2="yes")


@pytest.mark.parametrize("vuser", KINDS)
def test_the_command_has_functions_speak_it(server, tmp_path, monkeypatch, vuser):
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    monkeypatch.chdir(tmp_path)
    asynchronous = ("async ", "await ") if vuser == "async" else ("", "")
    Path("shop.py").write_text("{}def buy(http):\n    {}http.get('{}/')\n".format(*asynchronous, server))
    options = ["--vuser", vuser, "-u", "2", "-n", "10", "-o", "result.json"]
    done = run("load", "--no-tui", "shop.py", "--http2", *options)
    assert done.returncode in (0, 98), done.stderr
    totals = json.loads(Path("result.json").read_text())["totals"]
    assert (totals["requests"], totals["errors"], totals["connections"]) == (10, 0, 2)
