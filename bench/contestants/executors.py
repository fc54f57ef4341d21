"""Pools with the methods of ``concurrent.futures.Executor``: the standard library's own and loky's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .base import Contestant, Unsupported


class ExecutorShaped(Contestant):
    """What both have in common; a subclass makes the executor."""

    _executor: Any

    def __init__(self, method: str) -> None:
        super().__init__(method)
        from concurrent.futures import TimeoutError as FutureTimeoutError
        from concurrent.futures import as_completed

        self.timeout_errors = (FutureTimeoutError,)
        self._as_completed = as_completed

    def close(self) -> None:
        self._executor.shutdown(wait=True)

    def caller(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        submit = self._executor.submit
        return lambda argument: submit(function, argument).result()

    def submit(self, function: Callable[[Any], Any], argument: Any) -> Any:
        return self._executor.submit(function, argument)

    def collect(self, handle: Any, timeout_seconds: float) -> Any:
        return handle.result(timeout_seconds)

    def submit_all_then_collect(self, function: Callable[[Any], Any], arguments: Iterable[Any]) -> list[Any]:
        submit = self._executor.submit
        futures = [submit(function, argument) for argument in arguments]
        return [future.result() for future in futures]

    def map(self, function: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        if chunksize is None:
            return list(self._executor.map(function, items))
        return list(self._executor.map(function, items, chunksize=chunksize))

    def unordered(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        submit = self._executor.submit
        return [future.result() for future in self._as_completed([submit(function, item) for item in items])]


class ConcurrentFutures(ExecutorShaped):
    def open(self, processes: int, initializer: Callable[[], None] | None = None) -> None:
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        context = multiprocessing.get_context(self.method)
        self._executor = ProcessPoolExecutor(processes, mp_context=context, initializer=initializer)

    def abandon(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)


class Loky(ExecutorShaped):
    def __init__(self, method: str) -> None:
        try:
            import loky
        except ImportError as error:
            raise Unsupported(f"not installed ({error})") from None
        super().__init__(method)
        self._loky = loky

    def open(self, processes: int, initializer: Callable[[], None] | None = None) -> None:
        self._executor = self._loky.ProcessPoolExecutor(processes, initializer=initializer)

    def abandon(self) -> None:
        self._executor.shutdown(wait=False, kill_workers=True)
