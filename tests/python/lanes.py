"""Two test runs share the tests: about half of the time that a test takes is waiting.

One begins at the first module, the other, told ``--backwards``, at the last. Each claims a module before it runs its tests,
by making a file in the directory that both are told by ``--claims``, and passes over what the other has claimed. A run that
dies takes only its module along, and says so by its exit code.
"""

from __future__ import annotations

import itertools
import pathlib

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lanes", "running beside another test run")
    group.addoption("--claims", metavar="DIR", help="where this run and another one note which modules they run")
    group.addoption("--backwards", action="store_true", help="begin with the last module")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--backwards"):
        # The modules, not the tests in them, which may build on fixtures of the whole module.
        modules = [list(tests) for _, tests in itertools.groupby(items, key=_module_of)]
        items[:] = itertools.chain.from_iterable(reversed(modules))


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    directory = session.config.getoption("--claims")
    if directory is None or session.config.option.collectonly or session.testsfailed:
        return None
    for module, tests in itertools.groupby(session.items, key=_module_of):
        if not _claim(pathlib.Path(directory), module):
            continue
        mine = list(tests)
        for item, following in zip(mine, [*mine[1:], None]):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
    return True


def _module_of(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


def _claim(directory: pathlib.Path, module: str) -> bool:
    try:
        (directory / module.replace("/", ".")).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
