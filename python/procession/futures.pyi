import multiprocessing.context
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future as _StdlibFuture
from concurrent.futures.process import BrokenProcessPool as BrokenProcessPool
from typing import Any, Literal, TypeVar

from typing_extensions import ParamSpec

from ._retry import Retry

__all__ = ["BrokenProcessPool", "Future", "ProcessPoolExecutor"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

class Future(_StdlibFuture[_T]):
    def cancel(self, running: bool = False) -> bool: ...

class ProcessPoolExecutor(Executor):
    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: multiprocessing.context.BaseContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        timeout: float | None = None,
        memory_limit: float | str | None = None,
        recycle_memory: float | str | None = None,
        retries: Retry | int | None = None,
        cpu_affinity: Iterable[int] | bool | None = None,
        threads_per_worker: int | Literal["auto"] | None = "auto",
        output: Literal["inherit", "lines", "capture"] = "inherit",
        relay_logging: bool = False,
    ) -> None: ...
    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]: ...
    def map(
        self,
        fn: Callable[..., _T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[_T]: ...
    def __del__(self) -> None: ...
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None: ...
