"""joblib's ``Parallel``, on its default backend (loky)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .base import Contestant, Unsupported

_NO_SUBMIT = "joblib has no call that starts one task and returns"


class Joblib(Contestant):
    def __init__(self, method: str) -> None:
        super().__init__(method)
        try:
            import joblib
        except ImportError as error:
            raise Unsupported(f"not installed ({error})") from None
        self._joblib = joblib
        self._open_parallel: Any = None
        self._open_options: dict[str, Any] | None = None

    def open(self, processes: int) -> None:
        self._processes = processes

    def close(self) -> None:
        self._leave()
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True)

    def abandon(self) -> None:
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=False, kill_workers=True)

    def _leave(self) -> None:
        if self._open_parallel is not None:
            self._open_parallel.__exit__(None, None, None)
            self._open_parallel = self._open_options = None

    def _parallel(self, **options: Any) -> Any:
        # Entering the context keeps the workers between calls, as joblib's manual advises for many short calls.
        if options != self._open_options:
            self._leave()
            self._open_parallel = self._joblib.Parallel(n_jobs=self._processes, **options)
            self._open_parallel.__enter__()
            self._open_options = options
        return self._open_parallel

    def caller(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        parallel = self._parallel()
        delayed = self._joblib.delayed(function)
        return lambda argument: parallel([delayed(argument)])[0]

    def submit(self, function: Callable[[Any], Any], argument: Any) -> Any:
        raise Unsupported(_NO_SUBMIT)

    def submit_all_then_collect(self, function: Callable[[Any], Any], arguments: Iterable[Any]) -> list[Any]:
        # The nearest to it: one call whose tasks travel one by one.
        delayed = self._joblib.delayed(function)
        return self._parallel(batch_size=1)(delayed(argument) for argument in arguments)

    def map(self, function: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        delayed = self._joblib.delayed(function)
        return self._parallel(batch_size=chunksize or "auto")(delayed(item) for item in items)

    def unordered(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        delayed = self._joblib.delayed(function)
        parallel = self._parallel(batch_size=1, return_as="generator_unordered")
        return list(parallel(delayed(item) for item in items))

    def outcomes(
        self, function: Callable[[Any], Any], items: Sequence[Any], limit_seconds: float
    ) -> tuple[list[Any], list[BaseException], int]:
        # All or nothing: when one task fails, the call raises and every result is lost.
        try:
            return self.map(function, items, chunksize=1), [], 0
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            # A broken call leaves its context in a state that the next one would inherit.
            try:
                self._leave()
            except Exception:
                self._open_parallel = self._open_options = None
            return [], [error] * len(items), 0
