"""The installed ``procession`` command, run as a user runs it, and what tests of it need.

Every run has a time limit and leaves nothing behind; :func:`nobody_left` looks for whatever carries the test's mark in
its environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Far beyond what any of these runs takes on a slow machine: reached only by one that hangs.
LIMIT_SECONDS = 45

REPOSITORY = Path(__file__).resolve().parents[2]
SCHEMAS = REPOSITORY / "crates" / "procession-cli" / "schema"
COMMAND = str(Path(sys.executable).with_name("procession"))
MARK = "PROCESSION_COMMAND_TEST"


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A mark for the test's processes, of which none may be left afterwards; the current folder is an empty one."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    monkeypatch.chdir(tmp_path)
    yield mark
    nobody_left(mark)


@pytest.fixture
def folder(mark: str, tmp_path: Path) -> Path:
    """The current folder, empty but for work.py; afterwards no process that came from the test may be left."""
    shutil.copy(Path(__file__).with_name("command_work.py"), tmp_path / "work.py")
    return tmp_path


def marked_processes(mark: str) -> list[tuple[int, str]]:
    """Processes that came from a test, with their command lines."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes():
                    if (entry / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                        found.append((int(entry.name), (entry / "cmdline").read_text().replace("\0", " ")[-60:]))
    return found


def nobody_left(mark: str, seconds: float = 5.0) -> None:
    until = time.monotonic() + seconds
    while left := marked_processes(mark):
        if time.monotonic() > until:
            for pid, _ in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            pytest.fail(f"left behind: {left}")
        time.sleep(0.02)


def run(*arguments: Any, input: str | bytes = b"", **options: Any) -> subprocess.CompletedProcess[str]:
    if isinstance(input, str):
        input = input.encode()
    done = subprocess.run(
        [COMMAND, *map(os.fspath, arguments)],
        input=input,
        capture_output=True,
        timeout=LIMIT_SECONDS,
        **options,
    )
    decoded = (stream.decode("utf-8") for stream in (done.stdout, done.stderr))
    return subprocess.CompletedProcess(done.args, done.returncode, *decoded)


def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    # A test runner in the background may have SIGINT ignored, and the command would rightly inherit that.
    return subprocess.Popen(
        [COMMAND, *map(os.fspath, arguments)],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **streams,
    )


def wait_for(condition: Any, seconds: float = 20.0) -> Any:
    until = time.monotonic() + seconds
    while True:
        with contextlib.suppress(LookupError, OSError):
            if value := condition():
                return value
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def json_lines(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    records = sorted((json.loads(line) for line in done.stdout.splitlines()), key=lambda record: record["index"])
    for record in records:
        assert_matches("map-line", record)
    return records


def host_pid(mark: str) -> int:
    for pid, _ in marked_processes(mark):
        with contextlib.suppress(OSError):
            if "_command_host" in Path(f"/proc/{pid}/cmdline").read_text() and os.getpgid(pid) == pid:
                return pid
    raise LookupError("no host process")


def assert_matches(name: str, value: Any) -> None:
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    assert list(violations(value, schema)) == []
    if name == "map-line":
        assert ("result" in value) == (value["status"] == "ok")
        assert ("error" in value) == (value["status"] != "ok")


# --- a validator for as much of JSON Schema as our schemas use ---------------------------------------------------

TYPES: dict[str, Any] = {
    "boolean": bool,
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}


KNOWN = {
    *("$schema", "$defs", "$ref", "title", "description", "default", "format", "type", "oneOf", "anyOf"),
    *("required", "properties", "additionalProperties", "enum", "const", "minimum", "maximum"),
    *("items", "prefixItems", "minItems", "maxItems"),
}


def violations(
    value: Any, schema: dict[str, Any], place: str = "$", definitions: dict[str, Any] | None = None
) -> Iterator[str]:
    definitions = schema.get("$defs", {}) if definitions is None else definitions
    assert schema.keys() <= KNOWN, f"the validator does not know {schema.keys() - KNOWN}"
    if "$ref" in schema:
        yield from violations(value, definitions[schema["$ref"].rpartition("/")[2]], place, definitions)
    for kind in ("oneOf", "anyOf"):
        fitting = [not list(violations(value, option, place, definitions)) for option in schema.get(kind, [])]
        if kind in schema and (not any(fitting) or (kind == "oneOf" and sum(fitting) > 1)):
            yield f"{place}: {value!r} is {sum(fitting)} of {kind}"
    types = schema.get("type", list(TYPES))
    if not any(isinstance(value, TYPES[name]) for name in ([types] if isinstance(types, str) else types)):
        yield f"{place}: {value!r} is not of type {types}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{place}: {value!r} is not one of {schema['enum']}"
    if "const" in schema and value != schema["const"]:
        yield f"{place}: {value!r} is not {schema['const']!r}"
    if "minimum" in schema and value is not None and value < schema["minimum"]:
        yield f"{place}: {value!r} is below {schema['minimum']}"
    if "maximum" in schema and value is not None and value > schema["maximum"]:
        yield f"{place}: {value!r} is above {schema['maximum']}"
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            yield f"{place}: {len(value)} elements"
        first = schema.get("prefixItems", [])
        for index, element in enumerate(value):
            rest = schema.get("items", {})
            of_element = first[index] if index < len(first) else {} if rest is True else rest
            yield from violations(element, of_element, f"{place}[{index}]", definitions)
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        for name in schema.get("required", []):
            if name not in value:
                yield f"{place}: no {name}"
        for name, element in value.items():
            if name in properties:
                yield from violations(element, properties[name], f"{place}.{name}", definitions)
            elif schema.get("additionalProperties") is False:
                yield f"{place}: {name} is not in the schema"
