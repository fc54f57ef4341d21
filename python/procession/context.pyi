import multiprocessing.context
from collections.abc import Callable, Iterable
from multiprocessing.context import (
    AuthenticationError as AuthenticationError,
    BufferTooShort as BufferTooShort,
    ProcessError as ProcessError,
    TimeoutError as TimeoutError,
    assert_spawning as assert_spawning,
    get_spawning_popen as get_spawning_popen,
    set_spawning_popen as set_spawning_popen,
)
from typing import Any, ClassVar, Literal, overload

from . import process as process
from ._retry import Retry
from .managers import SyncManager as _SyncManager
from .pool import Pool as _Pool
from .process import (
    ForkProcess as ForkProcess,
    ForkServerProcess as ForkServerProcess,
    Process as Process,
    SpawnProcess as SpawnProcess,
)

__all__ = ()

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
    ) -> _Pool: ...
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
