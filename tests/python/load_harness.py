"""What the tests of functions as virtual users share: their marks, and a server to be tested."""

from __future__ import annotations

from collections.abc import Iterator

import load_server
import pytest

# Each of their modules says `pytestmark = load_harness.load_tests`. The warning is Python's own, about forking next to
# threads that other libraries have started.
load_tests = [
    pytest.mark.timeout(60),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[load_server.Server]:
    """A server in a process of its own, for all tests of a module."""
    with load_server.serving() as server:
        yield server
