import multiprocessing.context
from collections.abc import Callable, Iterable, Sequence
from ctypes import _SimpleCData, c_char
from multiprocessing.context import (
    AuthenticationError as AuthenticationError,
    BufferTooShort as BufferTooShort,
    ProcessError as ProcessError,
    TimeoutError as TimeoutError,
    assert_spawning as assert_spawning,
    get_spawning_popen as get_spawning_popen,
    set_spawning_popen as set_spawning_popen,
)
from typing import Any, ClassVar, Literal, TypeVar, overload

from typing_extensions import TypeAlias

from . import process as process, sharedctypes, synchronize
from ._retry import Retry
from .connection import Connection as _Connection
from .managers import SyncManager as _SyncManager
from .pool import Pool as _Pool
from .process import (
    ForkProcess as ForkProcess,
    ForkServerProcess as ForkServerProcess,
    Process as Process,
    SpawnProcess as SpawnProcess,
)
from .queues import JoinableQueue as _JoinableQueue, Queue as _Queue, SimpleQueue as _SimpleQueue

__all__ = ()

_T = TypeVar("_T")
_CT = TypeVar("_CT")
_AnyLock: TypeAlias = synchronize.Lock | synchronize.RLock
_LockOrTrue: TypeAlias = _AnyLock | Literal[True] | None

class BaseContext(multiprocessing.context.BaseContext):
    # The standard library's stub says that a context's pool is its own class; ours is another one.
    def Pool(  # type: ignore[override]
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
    ) -> _Pool: ...
    # So are these.
    def Lock(self) -> synchronize.Lock: ...  # type: ignore[override]
    def RLock(self) -> synchronize.RLock: ...  # type: ignore[override]
    def Condition(self, lock: _AnyLock | None = None) -> synchronize.Condition: ...  # type: ignore[override]
    def Semaphore(self, value: int = 1) -> synchronize.Semaphore: ...  # type: ignore[override]
    def BoundedSemaphore(self, value: int = 1) -> synchronize.BoundedSemaphore: ...  # type: ignore[override]
    def Event(self) -> synchronize.Event: ...  # type: ignore[override]
    def Barrier(  # type: ignore[override]
        self, parties: int, action: Callable[[], object] | None = None, timeout: float | None = None
    ) -> synchronize.Barrier: ...
    @overload  # type: ignore[override]
    def Value(self, typecode_or_type: type[_CT], *args: Any, lock: Literal[False]) -> _CT: ...
    @overload
    def Value(
        self, typecode_or_type: type[_SimpleCData[_T]], *args: Any, lock: _LockOrTrue = True
    ) -> sharedctypes.Synchronized[_T]: ...
    @overload
    def Value(self, typecode_or_type: str, *args: Any, lock: _LockOrTrue = True) -> sharedctypes.Synchronized[Any]: ...
    @overload
    def Value(self, typecode_or_type: str | type[Any], *args: Any, lock: _LockOrTrue | bool = True) -> Any: ...
    @overload  # type: ignore[override]
    def Array(
        self,
        typecode_or_type: type[c_char] | Literal["c"],
        size_or_initializer: int | Sequence[Any],
        *,
        lock: _LockOrTrue = True,
    ) -> sharedctypes.SynchronizedString: ...
    @overload
    def Array(
        self,
        typecode_or_type: type[_SimpleCData[_T]],
        size_or_initializer: int | Sequence[Any],
        *,
        lock: _LockOrTrue = True,
    ) -> sharedctypes.SynchronizedArray[_T]: ...
    @overload
    def Array(
        self, typecode_or_type: str, size_or_initializer: int | Sequence[Any], *, lock: _LockOrTrue = True
    ) -> sharedctypes.SynchronizedArray[Any]: ...
    @overload
    def Array(
        self,
        typecode_or_type: str | type[Any],
        size_or_initializer: int | Sequence[Any],
        *,
        lock: _LockOrTrue | bool = True,
    ) -> Any: ...
    def Queue(self, maxsize: int = 0) -> _Queue[Any]: ...
    def JoinableQueue(self, maxsize: int = 0) -> _JoinableQueue[Any]: ...
    def SimpleQueue(self) -> _SimpleQueue[Any]: ...
    def Pipe(self, duplex: bool = True) -> tuple[_Connection[Any, Any], _Connection[Any, Any]]: ...
    def Manager(self) -> _SyncManager: ...
    @overload  # type: ignore[override]
    def get_context(self, method: None = None) -> DefaultContext: ...
    @overload
    def get_context(self, method: Literal["fork"]) -> ForkContext: ...
    @overload
    def get_context(self, method: Literal["spawn"]) -> SpawnContext: ...
    @overload
    def get_context(self, method: Literal["forkserver"]) -> ForkServerContext: ...
    @overload
    def get_context(self, method: str) -> BaseContext: ...

class DefaultContext(BaseContext, multiprocessing.context.DefaultContext):  # type: ignore[misc]
    Process: ClassVar[type[Process]]  # type: ignore[assignment]
    def __init__(self, stdlib_default_context: multiprocessing.context.DefaultContext) -> None: ...
    @overload  # type: ignore[override]
    def get_start_method(self, allow_none: Literal[False] = False) -> str: ...
    @overload
    def get_start_method(self, allow_none: bool) -> str | None: ...
    def set_start_method(self, method: str | None, force: bool = False) -> None: ...
    def get_all_start_methods(self) -> list[str]: ...

class ForkContext(BaseContext, multiprocessing.context.ForkContext):  # type: ignore[misc]
    Process: ClassVar[type[ForkProcess]]  # type: ignore[assignment]

class SpawnContext(BaseContext, multiprocessing.context.SpawnContext):  # type: ignore[misc]
    Process: ClassVar[type[SpawnProcess]]  # type: ignore[assignment]

class ForkServerContext(BaseContext, multiprocessing.context.ForkServerContext):  # type: ignore[misc]
    Process: ClassVar[type[ForkServerProcess]]  # type: ignore[assignment]

_default_context: DefaultContext
_concrete_contexts: dict[str, BaseContext]

def _force_start_method(method: str) -> None: ...
def __getattr__(name: str) -> Any: ...
