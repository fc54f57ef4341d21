"""pebble's ``ProcessPool``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .base import Contestant, Unsupported


class Pebble(Contestant):
    def __init__(self, method: str) -> None:
        super().__init__(method)
        try:
            import pebble
        except ImportError as error:
            raise Unsupported(f"not installed ({error})") from None
        from concurrent.futures import TimeoutError as FutureTimeoutError
        from concurrent.futures import as_completed

        self._pebble = pebble
        self.timeout_errors = (FutureTimeoutError,)
        self._as_completed = as_completed

    def open(
        self, processes: int, initializer: Callable[[], None] | None = None, limit_seconds: float | None = None
    ) -> None:
        import multiprocessing

        context = multiprocessing.get_context(self.method)
        self._pool = self._pebble.ProcessPool(processes, initializer=initializer, context=context)
        self._limit_seconds = limit_seconds

    def close(self) -> None:
        self._pool.close()
        self._pool.join()

    def abandon(self) -> None:
        self._pool.stop()
        self._pool.join(5)

    def caller(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        schedule = self._pool.schedule
        return lambda argument: schedule(function, args=(argument,)).result()

    def submit(self, function: Callable[[Any], Any], argument: Any) -> Any:
        return self._pool.schedule(function, args=(argument,), timeout=self._limit_seconds)

    def collect(self, handle: Any, timeout_seconds: float) -> Any:
        return handle.result(timeout_seconds)

    def submit_all_then_collect(self, function: Callable[[Any], Any], arguments: Iterable[Any]) -> list[Any]:
        schedule = self._pool.schedule
        futures = [schedule(function, args=(argument,)) for argument in arguments]
        return [future.result() for future in futures]

    def map(self, function: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        return list(self._pool.map(function, items, chunksize=chunksize or 1).result())

    def unordered(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        schedule = self._pool.schedule
        return [future.result() for future in self._as_completed([schedule(function, args=(item,)) for item in items])]
