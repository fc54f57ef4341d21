import multiprocessing.context
import sys
from collections.abc import Callable, Iterable, Mapping
from multiprocessing.process import (
    BaseProcess as BaseProcess,
    active_children as active_children,
    current_process as current_process,
    parent_process as parent_process,
)
from typing import Any, Literal
from typing_extensions import TypeAlias

from .errors import TaskTimeout

__all__ = ["BaseProcess", "current_process", "active_children", "parent_process"]

_ProcessState: TypeAlias = Literal["initial", "starting", "running", "suspended", "ended"]

class AuthenticationString(bytes): ...

class _Controllable(BaseProcess):
    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] = {},
        *,
        daemon: bool | None = None,
        timeout: float | None = None,
    ) -> None: ...
    @property
    def timed_out(self) -> bool: ...
    @property
    def timeout_error(self) -> TaskTimeout | None: ...
    @property
    def state(self) -> _ProcessState: ...
    def suspend(self) -> None: ...
    def resume(self) -> None: ...
    if sys.version_info < (3, 14):
        def interrupt(self) -> None: ...

class Process(_Controllable, multiprocessing.context.Process): ...
class ForkProcess(_Controllable, multiprocessing.context.ForkProcess): ...
class SpawnProcess(_Controllable, multiprocessing.context.SpawnProcess): ...
class ForkServerProcess(_Controllable, multiprocessing.context.ForkServerProcess): ...

def __getattr__(name: str) -> Any: ...
