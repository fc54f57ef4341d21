"""Functions as virtual users: what they are given, what they may do, and that it is the same however they are run."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import time

import pytest
from load_harness import load_tests

import procession
from procession.load import (
    ExpectationFailed,
    LoadError,
    RequestError,
    feed,
    load,
    setup,
    step,
    teardown,
    think,
)

pytestmark = load_tests

VUSERS = ["async", "thread", "process"]


def few(function, vuser="thread", users=2, iterations=10, **options):
    return load(function, vuser=vuser, users=users, iterations=iterations, **options)


# --- the two meanings of `load` ----------------------------------------------------------------------------------------


def test_load_is_a_function_and_a_module_and_a_decorator():
    from procession import load as callable_module

    def idle():
        pass

    assert callable_module(idle, iterations=3).iterations == 3
    assert procession.load.think is think
    decorated = callable_module(users=3, slo="p99<1s")(idle)
    assert decorated is idle
    assert callable_module(idle) is idle


def test_options_of_the_call_override_those_of_the_decorator(server):
    @load(users=3, iterations=6)
    def user(http):
        http.get("/")

    result = load(user, url=server.url)
    assert (result.iterations, result.data["info"]["plan"]["pacing"]["users"]) == (6, 3)
    assert load(user, url=server.url, iterations=4).iterations == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"users": 0, "iterations": 1}, "users must be a whole number"),
        ({"users": 2}, "needs an end"),
        ({"rate": "fast", "duration": 1}, "rate: "),
        ({"duration": "3 parsecs"}, "duration: "),
        ({"arrivals": "poisson", "duration": 1}, "there is none: give rate="),
        ({"stages": "10", "users": 1}, "stages: in the stage"),
        ({"stages": "1s:10", "rate": 1}, "do not go together"),
        ({"vuser": "fiber", "iterations": 1}, "vuser must be one of"),
        ({"vuser": "process", "processes": 3, "iterations": 1}, "say how many with users="),
        ({"slo": "p99<500", "iterations": 1}, 'slo: "p99<500": a time needs its unit: 500ms or 500s$'),
        ({"slo": ["p99<1s", "errors>1%"], "iterations": 1}, 'slo: "errors>1%": errors should stay below'),
        ({"seed": -1, "iterations": 1}, "seed must be a whole number"),
    ],
)
def test_wrong_options_are_told(options, words):
    with pytest.raises(ValueError, match=words):
        load(time.time, **options)


def test_unknown_options_and_arguments_that_nobody_has_are_told():
    with pytest.raises(TypeError, match="takes no option 'userz'"):
        load(time.time, userz=3)
    with pytest.raises(LoadError, match="asks for 'htpp', which nobody has"):
        load(lambda htpp: None, iterations=1)
    with pytest.raises(LoadError, match="asks for data, and there is none"):
        load(lambda data: None, iterations=1)
    with pytest.raises(TypeError, match="sets defaults for"):
        load(processes=3)
    wrong = {"slo": 5, "headers": [("a", "b")], "url": 5, "setup": 5, "teardown_process": "x", "context": "fork"}
    for option, value in wrong.items():
        with pytest.raises(TypeError, match=f"{option} must "):
            load(time.time, iterations=1, **{option: value})


# --- the same function in three ways -------------------------------------------------------------------------------------


async def shopper(http, n, user):
    with step("login"):
        reply = await http.get("/json")
        assert reply.json("token") == "hugo"
    await think(0.001, 0.002)
    async with step("buy"):
        (await http.post("/echo", json={"n": n, "id": user.id})).expect(status=200)


def plain_shopper(http, n, user):
    with http.step("login"):
        assert http.get("/json").json("token") == "hugo"
    think(0.001, 0.002)
    with step("buy"):
        http.post("/echo", json={"n": n, "id": user.id}).expect(status=200)


@pytest.mark.parametrize("function", [shopper, plain_shopper])
@pytest.mark.parametrize("vuser", VUSERS)
def test_a_function_is_the_same_user_however_it_is_run(server, function, vuser):
    if function is plain_shopper and vuser == "async":
        pytest.importorskip("greenlet")
    result = few(function, vuser, url=server.url)
    assert result.errors == {}, result.examples
    assert (result.iterations, result.requests, result.statuses) == (10, 20, {200: 20})
    counts = {name: (found.kind, found.count) for name, found in result.steps.items()}
    assert counts == {
        "GET /json": ("request", 10),
        "POST /echo": ("request", 10),
        "login": ("step", 10),
        "buy": ("step", 10),
        function.__name__: ("iteration", 10),
    }
    assert result.steps["login"].p50 >= result.steps["GET /json"].p50 * 0.99
    assert result.steps[function.__name__].p50 >= 0.001


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_every_start_method_runs_users(server, method):
    context = procession.get_context(method)
    rows = feed([{"a": 1}, {"a": 2}], share="unique")
    result = few(
        functools.partial(takes_rows, data=rows) if method == "fork" else takes_a_row,
        context=context,
        url=server.url,
        data=rows,
    )
    assert result.iterations == 2
    assert result.errors == {}, result.examples


def takes_rows(http, data):
    http.post("/echo", json=0)


def takes_a_row(http, data):
    assert http.post("/echo", json=data).json("a") in (1, 2)


def test_functions_share_the_users_by_their_weights(server):
    def often(http):
        http.get("/", name="often")

    def seldom(http):
        http.get("/", name="seldom")

    result = few({often: 9, seldom: 1}, iterations=300, url=server.url, seed=1)
    counts = result.steps["often"].count, result.steps["seldom"].count
    assert sum(counts) == 300 and 5 < counts[1] < 70


# --- HTTP ----------------------------------------------------------------------------------------------------------------


def run_once(server, function, **options):
    """Runs an iteration; what fails in it fails the test."""
    result = load(function, iterations=1, url=server.url, **options)
    assert result.iterations == 1
    assert not result.failed_iterations, result.examples
    return result


def test_a_response_tells_what_came(server):
    def user(http):
        reply = http.get("/json")
        assert reply and reply.ok and reply.status == reply.status_code == 200
        assert reply.headers == {"content-type": "application/json", "content-length": "17"}
        assert reply.body == b'{"token": "hugo"}' and reply.text == '{"token": "hugo"}'
        assert reply.json() == {"token": "hugo"}
        assert reply.name == "GET /json" and reply.url == "/json" and 0 < reply.elapsed < 30
        assert http.get("/chunked").text == "abcde"
        assert http.get("/empty").status == 204
        assert http.head("/").body == b""
        assert http.get("/404", expect=404).status == 404
        assert not http.get("/404", expect=(404, 410))
        assert http.get("/close").text == http.get("/close").text == "ok"

    result = run_once(server, user)
    assert result.errors == {}, result.examples


def test_requests_carry_what_they_are_given(server):
    def user(http):
        assert http.post("/echo", json={"a": [1, "ü"]}).json() == {"a": [1, "ü"]}
        assert http.post("/echo", data=b"\0\1").body == b"\0\1"
        assert http.put("/echo", data="ü").text == "ü"
        assert http.patch("/echo", data={"a": "b c"}).text == "a=b+c"
        assert "DELETE /echo" in http.delete("/echo").text
        head = http.get("/echo", params={"q": "a b"}, headers={"X-One": "1", "x-run": "9"}).text
        assert (
            "GET /echo?q=a+b HTTP/1.1" in head and "X-One: 1" in head and "x-run: 9" in head and "X-Run: 7" not in head
        )
        assert "X-Run: 7" in http.get("/echo").text
        assert "OPTIONS /echo" in http.request("options", "/echo").text

    result = run_once(server, user, headers={"X-Run": "7"})
    assert result.steps["GET /echo"].count == 2


def test_each_user_has_cookies_and_a_connection_of_its_own(server):
    def user(http, n):
        if n == 0:
            assert "Cookie" not in http.get("/echo").text
            http.get("/login")
        assert "\r\nCookie: who=me" in http.get("/echo").text
        if n == 2:
            http.clear_cookies()
            assert "Cookie" not in http.get("/echo").text
            http.get("/login")

    result = few(user, users=3, iterations=30, url=server.url)
    assert result.errors == {}, result.examples
    # Users that came when all was done have made none.
    assert 1 <= result.data["totals"]["connections"] <= 3


def test_expectations_fail_the_request_and_the_iteration(server):
    def user(http, n):
        reply = http.get("/json")
        if n % 4 == 1:
            reply.expect(status=201)
        if n % 4 == 2:
            assert reply.json("token") == "emil", "wrong token"
        if n % 4 == 3:
            reply.expect(text="emil")

    result = few(user, users=1, iterations=20, url=server.url)
    assert (result.requests, result.failed_requests, result.failed_iterations) == (20, 15, 15)
    assert result.errors == {"assertion": 15}
    assert result.steps["GET /json"].errors == 15
    assert "status 200 instead of 201" in result.examples["assertion"]


def test_promises_of_steps_are_judged_at_the_end(server):
    def user(http):
        http.get("/").expect(status=200, p99="<30s")
        http.get("/slow").expect(p99="<1ms")

    result = few(user, url=server.url)
    assert {slo["slo"]: slo["kept"] for slo in result.data["slos"]} == {
        "p99<30s for GET /": True,
        "p99<1ms for GET /slow": False,
    }
    assert any("p99<1ms for GET /slow" in reason for reason in result.reasons)


# --- failures ------------------------------------------------------------------------------------------------------------


def errors_of(server, vuser, path, users=4, iterations=40, **options):
    async def user(http):
        await http.get(path)

    def plain_user(http):
        http.get(path)

    function = user if vuser == "async" else plain_user
    return load(
        function,
        vuser=vuser,
        users=users,
        iterations=iterations,
        url=server.url,
        processes=None if vuser == "process" else 2,
        **options,
    )


@pytest.mark.parametrize("vuser", VUSERS)
def test_failures_are_counted_exactly_by_their_kind(server, vuser):
    paths = ["/", "/500", "/404", "/reset", "/half", "/malformed"]

    async def user(http, n):
        await http.get(paths[n % 6])

    def plain_user(http, n):
        http.get(paths[n % 6])

    function = user if vuser == "async" else plain_user
    result = load(function, vuser=vuser, users=2, iterations=120, url=server.url)
    assert result.requests == 120
    assert result.errors == {"status5xx": 20, "status4xx": 20, "reset": 40, "protocol": 20}
    assert result.failed_requests == 100
    # A bad status is a response that the function may look at; a broken connection raises.
    assert result.failed_iterations == 60


@pytest.mark.parametrize("vuser", VUSERS)
def test_what_never_answers_times_out_and_is_in_the_percentiles(server, vuser):
    result = errors_of(server, vuser, "/never", users=4, iterations=4, timeout=0.3)
    assert result.errors == {"timeout": 4}
    assert result.p50 >= 0.3


def test_exceptions_are_failures_of_the_iteration_with_their_place():
    def user(n):
        if n % 2:
            raise KeyError("no such thing")
        if n % 4 == 2:
            raise SystemExit("bye")

    result = few(user, users=1, iterations=20)
    assert (result.iterations, result.failed_iterations) == (20, 15)
    assert result.errors == {"script": 15}
    assert "KeyError: 'no such thing' (test_load_users.py:" in result.examples["script"]


def pauses(http):
    http.get("/bye")
    time.sleep(0.2)
    http.get("/")


async def pauses_for_all(http):
    await http.get("/bye")
    time.sleep(0.2)
    await http.get("/")


@pytest.mark.parametrize(
    ("function", "vuser"),
    [(pauses, "thread"), (pauses, "process"), (pauses_for_all, "async"), (pauses_for_all, "thread")],
)
def test_a_connection_that_was_closed_during_a_pause_is_not_used(server, function, vuser):
    result = few(function, vuser, users=1, iterations=3, url=server.url)
    assert (result.requests, result.errors) == (6, {}), result.examples


def test_what_ends_programs_or_tasks_fails_no_more_than_its_iteration():
    class Strange(BaseException):
        pass

    kinds = [Strange, GeneratorExit, KeyboardInterrupt, asyncio.CancelledError]

    def user(n):
        raise kinds[n]("whatever it is")

    result = few(user, users=1, iterations=4)
    assert (result.iterations, result.failed_iterations) == (4, 4)
    assert "Strange: whatever it is (test_load_users.py:" in result.examples["script"]


def test_a_task_that_was_cancelled_fails_the_iteration_that_awaits_it():
    async def user(n):
        task = asyncio.ensure_future(asyncio.sleep(60))
        if n % 2:
            task.cancel()
            await task
        task.cancel()

    result = few(user, "async", users=2, iterations=20, processes=1)
    assert (result.iterations, result.failed_iterations) == (20, 10)
    assert "CancelledError" in result.examples["script"]


def test_users_that_are_cancelled_at_the_end_have_not_failed():
    async def user():
        await asyncio.sleep(60)

    result = load(user, users=3, duration=0.3, drain=0.1, processes=1)
    assert (result.failed_iterations, result.errors) == (0, {})


def visits(http):
    yield http.get("/")


async def visits_asynchronously(http):
    yield await http.get("/")


@pytest.mark.parametrize("function", [visits, visits_asynchronously, functools.partial(visits)])
def test_a_generator_is_refused_as_nothing_of_it_would_run(function):
    with pytest.raises(LoadError, match=r"visits\w*\(\) is a generator|partial\(\) is a generator"):
        few(function)


def test_work_that_a_plain_function_leaves_to_others_is_a_failure():
    async def visit():
        raise AssertionError("nobody awaits this")

    def generate():
        yield

    for result in (few(lambda: visit()), few(lambda: generate())):
        assert (result.iterations, result.failed_iterations) == (10, 10)
        assert "the function returned a " in result.examples["script"]
    assert few(lambda: "a value").failed_iterations == 0


def test_nobody_at_the_address_is_refused_and_raises():
    def user(http):
        with pytest.raises(RequestError, match="refused") as caught:
            http.get("http://127.0.0.1:1/")
        assert caught.value.kind == "refused"
        with pytest.raises(RequestError, match="names no host"):
            http.get("/")

    result = few(user, users=1, iterations=5)
    assert result.errors == {"refused": 5}, result.examples
    assert result.failed_iterations == 0


def test_a_crash_costs_one_user_and_is_shown(server):
    def user(http, user, n):
        http.get("/")
        if user.id == 1 and n == 5:
            os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(0.01)

    result = load(user, vuser="process", users=3, iterations=90, url=server.url)
    assert result.deaths >= 1
    died = [worker for worker in result.workers if worker["restarts"]]
    assert [worker["number"] for worker in died] == [1]
    assert "SIGSEGV" in died[0]["last_death"]
    # All iterations were begun; the one that it happened in has not ended, its request has.
    assert result.iterations + result.deaths == 90
    assert result.requests == 90


# --- data, setup, several steps ------------------------------------------------------------------------------------------


def test_rows_are_taken_once_or_in_turn_or_by_each(server, tmp_path):
    csv = tmp_path / "users.csv"
    csv.write_text("name,age\nann,1\nbob,2\ncid,3\n")
    jsonl = tmp_path / "items.jsonl"
    jsonl.write_text('{"id": 1}\n\n{"id": 2}\n')

    def user(http, n, data=feed(csv, share="unique"), item=feed(jsonl, share="shared"), turn=feed([7, 8])):
        assert item == {"id": 1 + n % 2}
        http.get("/", name=data["name"])
        http.get("/", name=f"turn {turn}")

    result = few(user, users=2, iterations=100, url=server.url)
    assert result.errors == {}, result.examples
    assert {name: found.count for name, found in result.steps.items()} == {
        "ann": 1,
        "bob": 1,
        "cid": 1,
        "turn 7": 2,
        "turn 8": 1,
        "user": 3,
    }


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "a,b\n1\n", "row 2 has another number of columns"),
        ("a.csv", "a,b\n", "holds no rows"),
        ("a.jsonl", "{}\n{\n", "line 2 is no JSON"),
        ("a.json", "{}", "holds no list of rows"),
        ("a.json", "[1,", r"a\.json: is no JSON"),
        ("a.json", b"[\xff]", r"a\.json: is no text in UTF-8"),
        ("a.jsonl", b"1\n\xff\n", r"a\.jsonl: is no text in UTF-8"),
        ("a.csv", b"a\n\xff\n", r"a\.csv: is no text in UTF-8"),
        ("a.yaml", "", "rows of data are read from"),
    ],
)
def test_data_that_is_not_what_it_should_be_is_told(tmp_path, name, text, words):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=words):
        feed(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text", "row"), [("a.csv", "a\nü\n", {"a": "ü"}), ("a.jsonl", '"ü"\n', "ü"), ("a.json", '["ü"]', "ü")]
)
def test_the_mark_that_windows_puts_in_front_of_text_is_no_part_of_it(tmp_path, name, text, row):
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert feed(tmp_path / name).rows == [row]


def test_setup_and_teardown_run_once_per_run_and_once_per_process(tmp_path):
    seen = tmp_path / "seen"

    def note(text):
        with open(seen, "a") as file:
            file.write(f"{text}\n")

    def begin():
        note("setup")
        return "of the run"

    async def begin_process(setup):
        note(f"process {setup}")
        return os.getpid()

    def user(setup):
        assert setup == os.getpid()

    result = load(
        user,
        users=4,
        processes=2,
        iterations=20,
        setup=begin,
        setup_process=begin_process,
        teardown_process=lambda setup: note(f"process over {setup == os.getpid()}"),
        teardown=lambda setup: note(f"over {setup}"),
    )
    assert result.errors == {}, result.examples
    lines = seen.read_text().splitlines()
    assert lines[0] == "setup" and lines[-1] == "over of the run"
    assert sorted(lines[1:-1]) == ["process of the run"] * 2 + ["process over True"] * 2


def test_a_setup_that_raises_ends_the_run_before_it_begins():
    def broken():
        raise OSError("no database")

    with pytest.raises(LoadError, match=r"setup function broken\(\) raised OSError: no database"):
        load(time.time, iterations=1, setup=broken)
    with pytest.raises(LoadError, match="no database"):
        load(time.time, iterations=1, setup_process=broken)


def test_marks_for_the_command_are_left_on_functions():
    @setup(per="process")
    def one():
        pass

    @teardown()
    def two():
        pass

    assert (one.__procession_load_hook__, two.__procession_load_hook__) == ("setup_process", "teardown_run")


def test_a_step_that_fails_is_counted_as_failed_and_a_function_can_be_one():
    @step("half")
    def half(n):
        if n % 2:
            raise ValueError("odd")

    def user(n):
        half(n)

    result = few(user, users=1, iterations=10)
    assert (result.steps["half"].count, result.steps["half"].errors) == (10, 5)


# --- raw sockets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True])
def test_raw_sockets_are_timed(server, is_async):
    def plain(tcp, udp):
        with tcp.connect(server.tcp) as line:
            line.send(b"PING 1\nPING 2\n")
            assert line.recv_until(b"\n", name="ping") == b"PONG 1\n"
            assert line.recv_exactly(4) == b"PONG"
            assert line.recv() == b" 2\n"
        with udp.connect(server.udp) as socket:
            socket.send(b"hello")
            assert socket.recv() == b"hello"
            socket.send(b"lose me")
            with pytest.raises(RequestError, match="no datagram"):
                socket.recv(timeout=0.05)

    async def coroutine(tcp, udp):
        line = await tcp.connect(server.tcp)
        await line.send(b"PING 1\n")
        assert await line.recv_until(b"\n", name="ping") == b"PONG 1\n"
        line.close()
        socket = await udp.connect(server.udp)
        await socket.send(b"hello")
        assert await socket.recv() == b"hello"
        await socket.send(b"lose me")
        with pytest.raises(RequestError, match="no datagram"):
            await socket.recv(timeout=0.05)

    result = few(coroutine if is_async else plain, None, users=1, iterations=5)
    assert result.failed_iterations == 0, result.examples
    assert result.errors == {"lost": 5}
    assert result.steps["ping"].count == 5
    assert (result.steps[f"udp {server.udp}"].count, result.steps[f"udp {server.udp}"].errors) == (10, 5)
    assert result.steps[f"connect {server.tcp}"].kind == "step"


def test_a_function_that_holds_up_all_others_makes_no_answer_slow(server):
    async def user(http, tcp, udp):
        line = await tcp.connect(server.tcp)
        socket = await udp.connect(server.udp)
        await line.send(b"PING\n")
        await socket.send(b"hello")
        asking = http.get("/slow", name="slow"), line.recv_until(b"\n", name="ping"), socket.recv(name="datagram")
        asked = [asyncio.ensure_future(call) for call in asking]
        await asyncio.sleep(0)
        # The answers come meanwhile, and nobody is there to read them.
        time.sleep(2)
        assert [len(answer) for answer in (await asyncio.gather(*asked))[1:]] == [5, 5]

    result = few(user, None, users=1, iterations=1, url=server.url)
    assert result.failed_iterations == 0, result.examples
    assert [result.steps[name].max < 1 for name in ("slow", "ping", "datagram")] == [True] * 3


# --- asyncio -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vuser", VUSERS)
def test_coroutines_may_use_all_of_asyncio(server, vuser):
    async def user(http):
        await asyncio.sleep(0.001)
        first, second = await asyncio.gather(http.get("/json"), http.get("/slow"))
        assert first.json("token") == "hugo" and second.text == "ok"
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(http.get("/never"), 0.02)
        reader, writer = await asyncio.open_connection(*server.tcp.split(":"))
        writer.write(b"PING\n")
        assert await reader.readline() == b"PONG\n"
        writer.close()
        assert asyncio.current_task() is not None
        await think(0.001)

    result = few(user, vuser, users=2, iterations=6, url=server.url)
    assert result.failed_iterations == 0, result.examples
    assert result.iterations == 6 and result.steps["GET /json"].count == 6


# --- results -------------------------------------------------------------------------------------------------------------


def test_the_result_can_be_read_and_kept(server, tmp_path):
    def user(http):
        http.get("/")

    result = few(user, url=server.url)
    assert json.loads(result.to_json())["totals"]["requests"] == 10 == result.requests
    assert (
        0
        < result.min
        <= result.p50
        <= result.p75
        <= result.p90
        <= result.p95
        <= result.p99
        <= result.p999
        <= result.max
    )
    assert result.error_share == 0 and result.unfinished == 0 and result.deaths == 0
    assert repr(result).startswith(f"<LoadResult {result.verdict}: 10 requests")
    with pytest.raises(KeyError, match="there are 'GET /', 'user'"):
        result.steps["nothing"]
    assert result.verdict in str(result)
    for suffix, word in [
        ("html", "<!doctype html>"),
        ("json", '"requests":10'),
        ("csv", ","),
        ("xml", "<testsuite"),
        ("prom", "# HELP"),
    ]:
        result.report(tmp_path / f"x.{suffix}")
        assert word in (tmp_path / f"x.{suffix}").read_text()
    with pytest.raises(ValueError, match='no reports of the form "pdf"'):
        result.report(tmp_path / "x.pdf")


def test_expectation_failures_are_assertion_errors():
    assert issubclass(ExpectationFailed, AssertionError)
