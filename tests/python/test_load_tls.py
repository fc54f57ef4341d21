"""Functions as virtual users speak to https servers: whom they trust, and who they say they are."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_harness import run
from load_harness import load_tests

from procession.load import load

pytestmark = load_tests

CERTIFICATES = Path(__file__).parents[2] / "crates/procession-load/tests/fixtures"
AUTHORITY = CERTIFICATES / "ca.pem"
CLIENT = (CERTIFICATES / "client.pem", CERTIFICATES / "client.key")
KINDS = ["async", "thread", "process"]
BIG = 2_000_000

SERVER = """
    import asyncio, ssl, sys

    async def serve(reader, writer):
        connection = b"%d" % id(writer)
        asked = getattr(writer.get_extra_info("ssl_object"), "asked", None)
        try:
            while True:
                head = (await reader.readuntil(b"\\r\\n\\r\\n")).decode().lower()
                length = [line for line in head.split("\\r\\n") if line.startswith("content-length:")]
                body = await reader.readexactly(int(length[0].split(":")[1]) if length else 0)
                answer = b"x" * BIG if head.startswith("get /big ") else b"%d" % len(body)
                if head.startswith("get /name "):
                    answer = str(asked).encode()
                writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(answer) + answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    async def main(folder, asks_for_certificate):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{folder}/server.pem", f"{folder}/server.key")
        context.sni_callback = lambda ssl_object, name, _: setattr(ssl_object, "asked", name)
        if asks_for_certificate == "1":
            context.load_verify_locations(f"{folder}/ca.pem")
            context.verify_mode = ssl.CERT_REQUIRED
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    asyncio.run(main(*sys.argv[1:]))
"""


@contextlib.contextmanager
def serving(asks_for_certificate: bool = False) -> Iterator[str]:
    import textwrap

    source = textwrap.dedent(SERVER).replace("BIG", str(BIG))
    program = [sys.executable, "-c", source, str(CERTIFICATES), str(int(asks_for_certificate))]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"https://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving() as url:
        yield url


def users(vuser, path="/", body=None):
    """A function that makes one request, as a user of this kind has it."""
    if vuser == "async":

        async def coroutine(http):
            reply = await (http.get(path) if body is None else http.post(path, data=body))
            assert len(reply.body) == (BIG if path == "/big" else len(str(len(body or b""))))

        return coroutine

    def plain(http):
        reply = http.get(path) if body is None else http.post(path, data=body)
        assert len(reply.body) == (BIG if path == "/big" else len(str(len(body or b""))))

    return plain


def run_users(server, vuser, function=None, **options):
    function = function or users(vuser)
    return load(function, vuser=vuser, url=server, users=2, iterations=20, **options)


def errors_of(result):
    return {error["kind"]: error["count"] for error in result.data["errors"]}


@pytest.mark.parametrize("vuser", KINDS)
def test_users_trust_whom_they_are_told_to_trust(server, vuser):
    result = run_users(server, vuser, verify=AUTHORITY)
    assert (result.requests, errors_of(result)) == (20, {})
    # Kept alive, as each of the two users has one connection.
    assert result.data["totals"]["connections"] == 2
    assert result.data["phases"]["tls"]["count"] == 2


@pytest.mark.parametrize("vuser", KINDS)
def test_a_server_that_nobody_vouches_for_is_an_error_of_its_kind(server, vuser):
    result = run_users(server, vuser)
    assert (result.requests, errors_of(result)) == (20, {"tls": 20})
    assert result.verdict != "PASS"
    assert errors_of(run_users(server, vuser, verify=False)) == {}


@pytest.mark.parametrize("vuser", KINDS)
def test_the_name_that_is_asked_for_is_the_one_that_the_certificate_must_be_for(server, vuser):
    def named(name):
        if vuser == "async":

            async def coroutine(http):
                assert (await http.get("/name")).text == name

            return coroutine

        def plain(http):
            assert http.get("/name").text == name

        return plain

    def errors(said, **options):
        return errors_of(run_users(server, vuser, named(str(said)), verify=AUTHORITY, **options))

    # Of an address, TLS asks no name.
    assert errors(None) == {}
    assert errors("procession.test", server_name="procession.test") == {}
    assert errors(None, server_name="example.org") == {"tls": 20}


@pytest.mark.parametrize(("wrong", "error"), [("not a name", ValueError), ("", ValueError), (b"bytes", TypeError)])
def test_a_name_that_is_none_is_refused_before_anything_begins(server, wrong, error):
    with pytest.raises(error, match="name"):
        run_users(server, "thread", server_name=wrong)


@pytest.mark.parametrize("vuser", ["async", "thread"])
def test_large_bodies_come_whole_on_either_way(server, vuser):
    assert errors_of(run_users(server, vuser, users(vuser, "/big"), verify=AUTHORITY)) == {}
    assert errors_of(run_users(server, vuser, users(vuser, "/", b"y" * BIG), verify=AUTHORITY)) == {}


def test_large_bodies_come_whole_to_the_command_too(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("load", "--no-tui", "-k", "-c", "2", "-n", "20", "-o", "result.json", f"{server}/big")
    totals = json.loads(Path("result.json").read_text())["totals"]
    assert (totals["requests"], totals["errors"]) == (20, 0)
    assert totals["bytes_received"] > 20 * BIG


def test_a_server_that_asks_for_a_certificate_gets_it():
    with serving(asks_for_certificate=True) as server:
        assert errors_of(run_users(server, "thread", verify=AUTHORITY, cert=CLIENT)) == {}
        refused = errors_of(run_users(server, "thread", verify=AUTHORITY))
        assert sum(refused.values()) == 20 and set(refused) <= {"tls", "reset"}


@pytest.mark.parametrize(
    "options, words",
    [
        ({"verify": "nowhere.pem"}, "nowhere.pem"),
        ({"verify": AUTHORITY, "cert": ("no.pem", "no.key")}, "no.pem"),
        ({"cert": CLIENT[0]}, "client.pem"),
    ],
)
def test_files_that_are_no_certificates_are_refused_before_anything_begins(server, options, words):
    with pytest.raises(ValueError, match=words):
        run_users(server, "thread", **options)


def test_a_plain_server_at_an_https_url_is_an_error_of_its_kind():
    import load_server

    with load_server.serving() as plain:
        # It waits for the end of a request that it does not understand.
        result = run_users(plain.url.replace("http:", "https:"), "thread", verify=False, timeout=0.1)
    assert errors_of(result) == {"connect_timeout": 20}


def test_the_command_says_whom_to_trust(server, tmp_path, monkeypatch):
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("shop.py").write_text(f"def buy(http):\n    http.get({server + '/'!r})\n")
    for options, kinds in (
        (["--cacert", str(AUTHORITY)], {}),
        (["-k"], {}),
        ([], {"tls": 5}),
    ):
        done = run("load", "--no-tui", "shop.py", "-u", "1", "-n", "5", "-o", "result.json", *options)
        assert done.returncode in (0, 98, 99), done.stderr
        assert {e["kind"]: e["count"] for e in json.loads(Path("result.json").read_text())["errors"]} == kinds


@pytest.mark.parametrize("vuser", KINDS)
def test_the_command_shows_the_certificate_of_its_functions(tmp_path, monkeypatch, vuser):
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    monkeypatch.chdir(tmp_path)
    source = (
        "async def buy(http):\n    await http.get('/')\n" if vuser == "async" else "def buy(http):\n    http.get('/')\n"
    )
    with serving(asks_for_certificate=True) as server:
        Path("shop.py").write_text(f"from procession import load\n\n@load(url={server!r})\n{source}")
        certificate, key = map(str, CLIENT)
        for options, shows in ((["--cert", certificate, "--key", key], True), ([], False)):
            done = run(
                "load", "--no-tui", "shop.py", "--vuser", vuser, "-u", "1", "-n", "5", "-o", "result.json",
                "--cacert", str(AUTHORITY), *options,
            )  # fmt: skip
            assert done.returncode in ((0, 98) if shows else (98, 99)), done.stderr
            found = {e["kind"]: e["count"] for e in json.loads(Path("result.json").read_text())["errors"]}
            assert found == {} if shows else sum(found.values()) == 5 and set(found) <= {"tls", "reset"}, options


def test_the_command_refuses_a_certificate_without_its_key_before_anything_begins(tmp_path, monkeypatch):
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("shop.py").write_text("def buy(http):\n    http.get('https://127.0.0.1:1/')\n")
    for options, words in (
        (["--cert", str(CLIENT[0])], "--key"),
        (["--cert", "no.pem", "--key", str(CLIENT[1])], "no.pem"),
    ):
        done = run("load", "--no-tui", "shop.py", "-u", "1", "-n", "5", "-o", "result.json", *options)
        assert done.returncode in (1, 2) and words in done.stderr, done.stderr
