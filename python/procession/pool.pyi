import multiprocessing.context
from collections.abc import Callable, Iterable, Iterator, Mapping
from multiprocessing.pool import ThreadPool as ThreadPool
from types import TracebackType
from typing import Any, Literal, TypeVar, overload

from typing_extensions import Self

from ._insight import Events, PoolStats, Progress
from ._native import (
    ApplyResult as ApplyResult,
    IMapIterator as IMapIterator,
    IMapUnorderedIterator as IMapUnorderedIterator,
    MapResult as MapResult,
    PoolBase,
)
from ._retry import Retry

__all__ = ["Pool", "ThreadPool"]

_S = TypeVar("_S")
_T = TypeVar("_T")

AsyncResult = ApplyResult

# The standard library's own objects, which its stub leaves out.
class RemoteTraceback(Exception):
    tb: str
    def __init__(self, tb: str) -> None: ...

class MaybeEncodingError(Exception):
    exc: str
    value: str
    def __init__(self, exc: object, value: object) -> None: ...

class Pool(PoolBase):
    @staticmethod
    def Process(
        ctx: multiprocessing.context.BaseContext, *args: Any, **kwds: Any
    ) -> multiprocessing.context.Process: ...
    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: multiprocessing.context.BaseContext | None = None,
        *,
        timeout: float | None = None,
        memory_limit: float | str | None = None,
        recycle_memory: float | str | None = None,
        retries: Retry | int | None = None,
        cpu_affinity: Iterable[int] | bool | None = None,
        threads_per_worker: int | Literal["auto"] | None = "auto",
        output: Literal["inherit", "lines", "capture"] = "inherit",
        relay_logging: bool = False,
    ) -> None: ...
    def apply(
        self,
        func: Callable[..., _T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        *,
        timeout: float | None = None,
        priority: int = 0,
        retries: Retry | int | None = None,
    ) -> _T: ...
    def apply_async(
        self,
        func: Callable[..., _T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callable[[_T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        timeout: float | None = None,
        priority: int = 0,
        retries: Retry | int | None = None,
    ) -> AsyncResult[_T]: ...
    def map(
        self,
        func: Callable[[_S], _T],
        iterable: Iterable[_S],
        chunksize: int | None = None,
        *,
        timeout: float | None = None,
        priority: int = 0,
        retries: Retry | int | None = None,
        progress: Progress = None,
    ) -> list[_T]: ...
    def map_async(
        self,
        func: Callable[[_S], _T],
        iterable: Iterable[_S],
        chunksize: int | None = None,
        callback: Callable[[list[_T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        timeout: float | None = None,
        priority: int = 0,
        retries: Retry | int | None = None,
    ) -> MapResult[_T]: ...
    def starmap(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        *,
        timeout: float | None = None,
        priority: int = 0,
        retries: Retry | int | None = None,
        progress: Progress = None,
    ) -> list[_T]: ...
    def starmap_async(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[_T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        timeout: float | None = None,
        priority: int = 0,
        retries: Retry | int | None = None,
    ) -> MapResult[_T]: ...
    # Above a chunksize of one the result is, as in the standard library, an iterator without `next(timeout)`.
    @overload
    def imap(
        self,
        func: Callable[[_S], _T],
        iterable: Iterable[_S],
        chunksize: Literal[1] = 1,
        *,
        buffersize: int | None = None,
        timeout: float | None = None,
        priority: int = 0,
        retries: Retry | int | None = None,
        progress: Progress = None,
    ) -> IMapIterator[_T]: ...
    @overload
    def imap(
        self,
        func: Callable[[_S], _T],
        iterable: Iterable[_S],
        chunksize: int,
        *,
        buffersize: int | None = None,
        timeout: float | None = None,
        priority: int = 0,
        retries: Retry | int | None = None,
        progress: Progress = None,
    ) -> Iterator[_T]: ...
    @overload
    def imap_unordered(
        self,
        func: Callable[[_S], _T],
        iterable: Iterable[_S],
        chunksize: Literal[1] = 1,
        *,
        buffersize: int | None = None,
        timeout: float | None = None,
        priority: int = 0,
        retries: Retry | int | None = None,
        progress: Progress = None,
    ) -> IMapUnorderedIterator[_T]: ...
    @overload
    def imap_unordered(
        self,
        func: Callable[[_S], _T],
        iterable: Iterable[_S],
        chunksize: int,
        *,
        buffersize: int | None = None,
        timeout: float | None = None,
        priority: int = 0,
        retries: Retry | int | None = None,
        progress: Progress = None,
    ) -> Iterator[_T]: ...
    def stats(self) -> PoolStats: ...
    def events(self) -> Events: ...
    def close(self) -> None: ...
    def terminate(self) -> None: ...
    def join(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None: ...
    def __del__(self) -> None: ...
