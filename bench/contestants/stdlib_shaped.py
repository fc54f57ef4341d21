"""Pools with the methods of ``multiprocessing.pool.Pool``: procession, multiprocessing itself, billiard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .base import Contestant, Unsupported


class PoolMethods(Contestant):
    """The measurements by methods that are named and work as in ``multiprocessing``; a subclass makes ``_pool``."""

    _pool: Any

    def close(self) -> None:
        self._pool.close()
        self._pool.join()

    def caller(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        apply = self._pool.apply
        return lambda argument: apply(function, (argument,))

    def submit(self, function: Callable[[Any], Any], argument: Any) -> Any:
        return self._pool.apply_async(function, (argument,))

    def collect(self, handle: Any, timeout_seconds: float) -> Any:
        return handle.get(timeout_seconds)

    def submit_all_then_collect(self, function: Callable[[Any], Any], arguments: Iterable[Any]) -> list[Any]:
        apply_async = self._pool.apply_async
        results = [apply_async(function, (argument,)) for argument in arguments]
        return [result.get() for result in results]

    def map(self, function: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        return self._pool.map(function, items, chunksize)

    def unordered(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        return list(self._pool.imap_unordered(function, items))


class StdlibShaped(PoolMethods):
    """What the three have in common; a subclass names the module."""

    def __init__(self, method: str, package: Any) -> None:
        super().__init__(method)
        self.timeout_errors = (package.TimeoutError,)
        self.context = package.get_context(method)

    def open(self, processes: int, initializer: Callable[[], None] | None = None) -> None:
        self._pool = self.context.Pool(processes, initializer)

    def abandon(self) -> None:
        self._pool.terminate()
        self._pool.join()

    def run_process(self, target: Callable[[], None]) -> int | None:
        process = self.context.Process(target=target)
        process.start()
        process.join()
        return process.exitcode


class Procession(StdlibShaped):
    def __init__(self, method: str) -> None:
        try:
            import procession
        except ImportError as error:
            raise Unsupported(f"not installed ({error}); run bench/setup.sh") from None
        super().__init__(method, procession)

    def open(
        self, processes: int, initializer: Callable[[], None] | None = None, limit_seconds: float | None = None
    ) -> None:
        self._pool = self.context.Pool(processes, initializer, timeout=limit_seconds)


class Multiprocessing(StdlibShaped):
    def __init__(self, method: str) -> None:
        import multiprocessing

        super().__init__(method, multiprocessing)


class Billiard(StdlibShaped):
    def __init__(self, method: str) -> None:
        try:
            import billiard
        except ImportError as error:
            raise Unsupported(f"not installed ({error})") from None
        super().__init__(method, billiard)

    def open(
        self, processes: int, initializer: Callable[[], None] | None = None, limit_seconds: float | None = None
    ) -> None:
        self._pool = self.context.Pool(processes, initializer, timeout=limit_seconds)
