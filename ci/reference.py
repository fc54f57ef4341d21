"""Writes docs/reference from the product itself: the command's help, and the docstrings of the Python package.

python ci/reference.py --write    writes the pages
python ci/reference.py --check    fails if they are not what would be written
"""

import ast
import difflib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import procession
import procession.load
import procession.pool

REFERENCE = Path(__file__).resolve().parents[1] / "docs" / "reference"
GENERATED = "<!-- Written by `make reference`; edit what it is written from. -->\n"


def command_page() -> str:
    """The help of the command and of each of its subcommands."""

    def output_of(*arguments: str) -> str:
        environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
        command = [Path(sys.executable).with_name("procession"), *arguments]
        result = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        return "\n".join(line.rstrip() for line in result.stdout.strip().splitlines())

    parts = [GENERATED, "# The command\n"]
    for title, arguments in [
        ("procession", ["--help"]),
        ("procession map", ["help", "map"]),
        ("procession bench", ["help", "bench"]),
        ("procession top", ["help", "top"]),
        ("procession ps", ["help", "ps"]),
        ("procession load", ["help", "load"]),
    ]:
        parts.append(f"## {title}\n\n```text\n{output_of(*arguments)}\n```\n")
    return "\n".join(parts)


def signature_of(name: str, item: object) -> str:
    """The call as one would write it: names and defaults; types are in the stubs."""
    try:
        signature = inspect.signature(item)
    except (TypeError, ValueError):
        return f"{name}(…)"
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
        if parameter.name != "self"
    ]
    # A parameter that is positional only by way of `self` is not worth a slash of its own.
    return name + str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def overloaded_signature_of(name: str, function: object) -> str:
    """The same of a function whose options only its overloads name: as the longest of them has it."""
    definitions = [
        node
        for node in ast.parse(inspect.getsource(sys.modules[function.__module__])).body
        if isinstance(node, ast.FunctionDef) and node.name == function.__name__
    ]
    arguments = max((node.args for node in definitions), key=lambda arguments: len(arguments.kwonlyargs))
    for argument in arguments.posonlyargs + arguments.args + arguments.kwonlyargs:
        argument.annotation = None
    return f"{name}({ast.unparse(arguments)})"


def as_markdown(documentation: str) -> str:
    """A docstring with its sections (`Args:`, `Attributes:`, `Example:` …) as lists and programs."""
    lines: list[str] = []
    section = ""
    for line in documentation.splitlines():
        if re.fullmatch(r"[A-Z][a-z]+s?:", line):
            section = line
            lines.append("```pycon" if section.startswith("Example") else f"{section}\n")
        elif section.startswith("Example"):
            if line and not line.startswith(" "):
                lines += ["```", "", line]
                section = ""
            else:
                lines.append(line[4:])
        elif section and re.match(r"    \S", line):
            name, _, text = line.strip().partition(": ")
            lines.append(f"* `{name}`: {text}" if text else f"* {name}")
        elif section and line.startswith("    "):
            lines.append("  " + line.strip())
        else:
            if line:
                section = ""
            lines.append(line)
    if section.startswith("Example"):
        lines.append("```")
    return "\n".join(lines)


def described(heading: str, item: object) -> str:
    documentation = inspect.getdoc(item)
    if not documentation:
        raise SystemExit(f"{heading} has no docstring")
    return f"{heading}\n\n{as_markdown(documentation)}\n"


def attribute_line(cls: type, attribute: str) -> str:
    documentation = inspect.getdoc(inspect.getattr_static(cls, attribute))
    if not documentation:
        raise SystemExit(f"{cls.__name__}.{attribute} has no docstring")
    return f"* `{attribute}`: {documentation.replace(chr(10), chr(10) + '  ')}\n"


def function_section(function: object, signature: str = "") -> str:
    return described(f"## `{signature or signature_of(function.__name__, function)}`", function)


def class_section(
    cls: type, members: str = "", *, attributes: str = "", name: str = "", made_by_users: bool = False
) -> str:
    name = name or cls.__name__
    parts = [described(f"## `{signature_of(name, cls) if made_by_users else name}`", cls)]
    if attributes:
        # What is a sentence each is easier to look over as lines than as headings.
        parts.append("".join(attribute_line(cls, attribute) for attribute in attributes.split()))
    for member in members.split():
        item = inspect.getattr_static(cls, member)
        title = signature_of(f"{name}.{member}", item) if callable(item) else f"{name}.{member}"
        parts.append(described(f"### `{title}`", item))
    return "\n".join(parts)


def load_sections() -> list[str]:
    """What test programs and virtual users call, and what they are given."""
    load = procession.load
    times = "p50 p75 p90 p95 p99 p999 mean min max service lag"
    return [
        "# Load tests\n\n"
        "These are names of `procession.load`, a module that can be called: `procession.load(…)` is its function `load`. Users\n"
        "that are coroutines are given clients with the same methods, all of which are awaited.\n",
        function_section(load.load, overloaded_signature_of("load", load.load)),
        function_section(load.feed),
        class_section(load.step, made_by_users=True),
        function_section(load.think, signature_of("think", load.think)),
        function_section(load.setup),
        function_section(load.teardown),
        class_section(load.Http, "get head delete post put patch request step think clear_cookies", name="Http"),
        class_section(
            load.Response, "json expect", attributes="status ok url name elapsed headers body text", name="Response"
        ),
        class_section(load.Tcp, "connect", name="Tcp"),
        class_section(load.TcpConnection, "send recv recv_exactly recv_until close"),
        class_section(load.Udp, "connect", name="Udp"),
        class_section(load.UdpSocket, "send recv close"),
        class_section(load.User, attributes="id process iteration http tcp udp"),
        class_section(
            load.LoadResult,
            "to_json report",
            attributes="verdict reasons requests rate iterations failed_iterations failed_requests error_share unfinished "
            f"errors examples statuses steps workers deaths {times} data",
        ),
        class_section(load.Step, attributes=f"name kind count errors rate {times}"),
        class_section(load.LoadError),
        class_section(load.RequestError),
        class_section(load.ExpectationFailed),
    ]


def python_page() -> str:
    """Pools, their results, their errors, what processes have beyond the standard library's, and load tests."""
    pool = procession.pool
    parts = [
        GENERATED,
        "# The Python package\n\n"
        "What is listed here is procession's own. Every other name of `multiprocessing` is in `procession` too and\n"
        "means the same; the types of all of them are in the package's stubs.\n",
        class_section(
            pool.Pool,
            "apply apply_async map map_async starmap starmap_async imap imap_unordered close terminate join",
            made_by_users=True,
        ),
        class_section(pool.AsyncResult, "get wait ready successful cancel output"),
        class_section(pool.MapResult, "outputs"),
        class_section(pool.IMapIterator, "next cancel output"),
        class_section(procession.Process, "state suspend resume interrupt timed_out timeout_error"),
        *load_sections(),
        "# Errors\n",
    ]
    parts += [class_section(getattr(procession.errors, name)) for name in sorted(procession.errors.__all__)]
    return "\n".join(parts)


def main() -> int:
    if sys.argv[1:] not in (["--write"], ["--check"]):
        print(__doc__)
        return 2
    outdated = False
    for name, text in [("command.md", command_page()), ("python.md", python_page())]:
        path = REFERENCE / name
        if sys.argv[1] == "--write":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            continue
        written = path.read_text(encoding="utf-8") if path.exists() else ""
        if written != text:
            outdated = True
            sys.stdout.writelines(
                difflib.unified_diff(
                    written.splitlines(keepends=True),
                    text.splitlines(keepends=True),
                    f"docs/reference/{name}",
                    "product",
                )
            )
    if outdated:
        print("docs/reference is not up to date: run `make reference`")
    return 1 if outdated else 0


if __name__ == "__main__":
    sys.exit(main())
