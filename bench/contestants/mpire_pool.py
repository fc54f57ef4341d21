"""mpire's ``WorkerPool``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .base import Unsupported
from .stdlib_shaped import PoolMethods


class Mpire(PoolMethods):
    timeout_errors = (TimeoutError,)

    def __init__(self, method: str) -> None:
        super().__init__(method)
        try:
            import mpire
        except ImportError as error:
            raise Unsupported(f"not installed ({error})") from None
        self._mpire = mpire

    def open(self, processes: int, limit_seconds: float | None = None) -> None:
        self._limit_seconds = limit_seconds
        self._pool = self._mpire.WorkerPool(processes, start_method=self.method, keep_alive=True)

    def submit(self, function: Callable[[Any], Any], argument: Any) -> Any:
        return self._pool.apply_async(function, (argument,), task_timeout=self._limit_seconds)

    def close(self) -> None:
        self._pool.stop_and_join()

    def abandon(self) -> None:
        self._pool.terminate()

    def map(self, function: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        return self._pool.map(
            function, _as_single_arguments(items), chunk_size=chunksize, concatenate_numpy_output=False
        )

    def unordered(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        return list(self._pool.imap_unordered(function, _as_single_arguments(items), chunk_size=1))


def _as_single_arguments(items: Sequence[Any]) -> Sequence[Any]:
    # mpire unpacks whatever can be iterated over into several arguments.
    if len(items) and hasattr(items[0], "__iter__"):
        return [(item,) for item in items]
    return items
