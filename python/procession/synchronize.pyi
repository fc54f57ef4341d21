import threading
from collections.abc import Callable
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import Any, ClassVar, TypeVar

from typing_extensions import TypeAlias

from . import _native

__all__ = ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition", "Event"]

_T = TypeVar("_T")
_AnyLock: TypeAlias = Lock | RLock

RECURSIVE_MUTEX: int
SEMAPHORE: int
SEM_VALUE_MAX: int

class SemLock:
    @property
    def _semlock(self) -> Any: ...
    name: ClassVar[None]

class _Mutex(_native.LockBase, SemLock):
    maxvalue: ClassVar[int]
    def __init__(self, *, ctx: BaseContext) -> None: ...

class Lock(_Mutex):
    kind: ClassVar[int]

class RLock(_Mutex):
    kind: ClassVar[int]

class Semaphore(_native.SemaphoreBase, SemLock):
    kind: ClassVar[int]
    def __init__(self, value: int = 1, *, ctx: BaseContext) -> None: ...

class BoundedSemaphore(Semaphore): ...

class Condition:
    def __init__(self, lock: _AnyLock | None = None, *, ctx: BaseContext) -> None: ...
    def __enter__(self) -> bool: ...
    def __exit__(
        self,
        _type: type[BaseException] | None = None,
        _value: BaseException | None = None,
        _traceback: TracebackType | None = None,
        /,
    ) -> None: ...
    def acquire(self, block: bool = True, timeout: float | None = None) -> bool: ...
    def release(self) -> None: ...
    def wait(self, timeout: float | None = None) -> bool: ...
    def wait_for(self, predicate: Callable[[], _T], timeout: float | None = None) -> _T: ...
    def notify(self, n: int = 1) -> None: ...
    def notify_all(self) -> None: ...

class Event(_native.EventBase):
    def __init__(self, *, ctx: BaseContext) -> None: ...

class Barrier(threading.Barrier):
    def __init__(
        self,
        parties: int,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
        *,
        ctx: BaseContext,
    ) -> None: ...
