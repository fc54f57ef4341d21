"""The interface that every adapter offers to the measurements."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any


class Unsupported(Exception):
    """The library cannot do what a row measures; the text says why."""


class Contestant:
    """One process pool of one library.

    Each method does its work in the way the library's own documentation would have a user do it, with as little as
    possible between the measurement and the library. Where a library has no such operation the method raises
    ``Unsupported`` and the row says so.
    """

    timeout_errors: tuple[type[BaseException], ...] = ()
    """What ``collect`` raises when the time is up, to be told apart from an error about the task."""

    def __init__(self, method: str) -> None:
        self.method = method

    def open(self, processes: int) -> None:
        """Makes the pool.

        Where the library can, an adapter takes ``initializer``, called in each worker, and ``limit_seconds``, which a
        task may run; the fault matrix asks for them.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Ends the pool in an orderly way when everything was collected."""
        raise NotImplementedError

    def abandon(self) -> None:
        """Ends the pool although tasks may never finish. Best effort: what is left is killed from outside."""
        self.close()

    def caller(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """A function that runs ``function`` on its argument in a worker and returns the result: one round trip."""
        raise NotImplementedError

    def submit(self, function: Callable[[Any], Any], argument: Any) -> Any:
        """Starts one task and returns the library's handle for it."""
        raise NotImplementedError

    def collect(self, handle: Any, timeout_seconds: float) -> Any:
        """The result behind a handle; raises what the library raises."""
        raise NotImplementedError

    def submit_all_then_collect(self, function: Callable[[Any], Any], arguments: Iterable[Any]) -> list[Any]:
        """Submits one task for each argument, and only then collects the results in order."""
        raise NotImplementedError

    def map(self, function: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        """All results in order; ``chunksize=None`` is the library's own default."""
        raise NotImplementedError

    def unordered(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """All results in the order in which they came, one item per task."""
        raise NotImplementedError

    def run_process(self, target: Callable[[], None]) -> int | None:
        """Starts a process of the library's own, joins it, and returns its exit code."""
        raise NotImplementedError

    def outcomes(
        self, function: Callable[[Any], Any], items: Sequence[Any], limit_seconds: float
    ) -> tuple[list[Any], list[BaseException], int]:
        """Runs one task per item and returns its results, its errors, and how many tasks never came to an end."""
        deadline = time.monotonic() + limit_seconds
        handles = [self.submit(function, item) for item in items]
        results: list[Any] = []
        errors: list[BaseException] = []
        never = 0
        for handle in handles:
            try:
                results.append(self.collect(handle, max(0.05, deadline - time.monotonic())))
            except self.timeout_errors as error:
                # A library's own limit on the task may raise the same class as the end of our patience, but sooner.
                if time.monotonic() < deadline:
                    errors.append(error)
                else:
                    never += 1
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                errors.append(error)
        return results, errors, never
