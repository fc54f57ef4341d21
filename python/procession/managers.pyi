import multiprocessing.context
import multiprocessing.managers
from collections.abc import Callable, Iterable
from multiprocessing.managers import (
    BaseManager as BaseManager,
    BaseProxy as BaseProxy,
    DictProxy as DictProxy,
    ListProxy as ListProxy,
    Namespace as Namespace,
    RemoteError as RemoteError,
    SharedMemoryManager as SharedMemoryManager,
    Token as Token,
    ValueProxy as ValueProxy,
)
from typing import Any

from .pool import Pool as _Pool

__all__ = ["BaseManager", "SyncManager", "BaseProxy", "Token", "SharedMemoryManager"]

class SyncManager(multiprocessing.managers.SyncManager):
    # The standard library's stub says that it is its own class.
    def Pool(  # type: ignore[override]
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: multiprocessing.context.BaseContext | None = None,
        **options: Any,
    ) -> _Pool: ...

def __getattr__(name: str) -> Any: ...
