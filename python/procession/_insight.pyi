from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, NamedTuple, TypeVar

from typing_extensions import Self

from ._native import ApplyResult, EventReader, PoolBase

_T = TypeVar("_T")

# True, or a function of the number of items done and their total, if that is known.
Progress = bool | Callable[[int, int | None], object] | None

@dataclass(frozen=True)
class FunctionStats:
    function: str
    items: int
    failed: int
    lost: int
    batches: int
    largest_batch: int
    encode_seconds: float
    queue_seconds: float
    run_seconds: float
    return_seconds: float
    longest_seconds: float
    argument_bytes: int
    result_bytes: int

@dataclass(frozen=True)
class PoolStats:
    functions: list[FunctionStats]
    hints: list[str]

def stats_of(pool: PoolBase) -> PoolStats: ...

class Event(NamedTuple):
    what: str
    at_seconds: float
    worker: str
    pid: int
    function: str
    item: int | None
    seconds: float | None
    exitcode: int | None

class Events(Iterator[Event]):
    def __init__(self, reader: EventReader) -> None: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> Event: ...
    def next(self, timeout: float = 0.0) -> Event | None: ...
    @property
    def missed(self) -> int: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None: ...

def bar_for(progress: Progress, total: int | None, what: str | None) -> Any: ...
def follow(
    result: ApplyResult[_T], state: Callable[[], tuple[int, int]], progress: Progress, what: str | None
) -> _T: ...

class ProgressIterator(Generic[_T]):
    def __init__(self, iterator: Iterator[_T], progress: Progress, total: int | None, what: str | None) -> None: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> _T: ...
    def next(self, timeout: float | None = None) -> _T: ...
    def __aiter__(self) -> Self: ...
    async def __anext__(self) -> _T: ...
    def __getattr__(self, name: str) -> Any: ...
    def __del__(self) -> None: ...
