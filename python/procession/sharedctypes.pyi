import ctypes
from collections.abc import Iterable, Sequence
from ctypes import _SimpleCData
from multiprocessing.context import BaseContext
from typing import Any, Generic, Literal, TypeVar, overload

from typing_extensions import TypeAlias

from . import _native
from .synchronize import Lock, RLock

__all__ = ["RawValue", "RawArray", "Value", "Array", "copy", "synchronized"]

_T = TypeVar("_T")
_CT = TypeVar("_CT")
_Lock: TypeAlias = Lock | RLock | Literal[True] | None

typecode_to_type: dict[str, Any]

@overload
def RawValue(typecode_or_type: type[_CT], *args: Any) -> _CT: ...
@overload
def RawValue(typecode_or_type: str, *args: Any) -> Any: ...
@overload
def RawArray(
    typecode_or_type: type[_SimpleCData[_T]], size_or_initializer: int | Sequence[Any]
) -> ctypes.Array[Any]: ...
@overload
def RawArray(typecode_or_type: str | type[Any], size_or_initializer: int | Sequence[Any]) -> Any: ...
@overload
def Value(typecode_or_type: type[_CT], *args: Any, lock: Literal[False], ctx: BaseContext | None = None) -> _CT: ...
@overload
def Value(
    typecode_or_type: type[_SimpleCData[_T]], *args: Any, lock: _Lock = True, ctx: BaseContext | None = None
) -> Synchronized[_T]: ...
@overload
def Value(
    typecode_or_type: str, *args: Any, lock: _Lock = True, ctx: BaseContext | None = None
) -> Synchronized[Any]: ...
@overload
def Value(
    typecode_or_type: str | type[Any], *args: Any, lock: _Lock | bool = True, ctx: BaseContext | None = None
) -> Any: ...
@overload
def Array(
    typecode_or_type: type[ctypes.c_char] | Literal["c"],
    size_or_initializer: int | Sequence[Any],
    *,
    lock: _Lock = True,
    ctx: BaseContext | None = None,
) -> SynchronizedString: ...
@overload
def Array(
    typecode_or_type: type[_SimpleCData[_T]],
    size_or_initializer: int | Sequence[Any],
    *,
    lock: _Lock = True,
    ctx: BaseContext | None = None,
) -> SynchronizedArray[_T]: ...
@overload
def Array(
    typecode_or_type: str,
    size_or_initializer: int | Sequence[Any],
    *,
    lock: _Lock = True,
    ctx: BaseContext | None = None,
) -> SynchronizedArray[Any]: ...
@overload
def Array(
    typecode_or_type: str | type[Any],
    size_or_initializer: int | Sequence[Any],
    *,
    lock: _Lock | bool = True,
    ctx: BaseContext | None = None,
) -> Any: ...
def copy(obj: _CT) -> _CT: ...
def synchronized(obj: Any, lock: Lock | RLock | None = None, ctx: BaseContext | None = None) -> Any: ...
def reduce_ctype(obj: Any) -> Any: ...
def rebuild_ctype(type_: Any, wrapper: Any, length: int | None) -> Any: ...

class SynchronizedBase(_native.SynchronizedValue):
    def __init__(self, obj: Any, lock: Lock | RLock | None = None, ctx: BaseContext | None = None) -> None: ...
    def __reduce__(self) -> Any: ...

class Synchronized(SynchronizedBase, Generic[_T]):
    value: _T

class SynchronizedArray(SynchronizedBase, Generic[_T]):
    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, i: slice) -> list[_T]: ...
    @overload
    def __getitem__(self, i: int) -> _T: ...
    @overload
    def __setitem__(self, i: slice, value: Iterable[_T]) -> None: ...
    @overload
    def __setitem__(self, i: int, value: _T) -> None: ...

class SynchronizedString(SynchronizedArray[bytes]):
    @overload  # type: ignore[override]
    def __getitem__(self, i: slice) -> bytes: ...
    @overload
    def __getitem__(self, i: int) -> bytes: ...
    @overload  # type: ignore[override]
    def __setitem__(self, i: slice, value: bytes) -> None: ...
    @overload
    def __setitem__(self, i: int, value: bytes) -> None: ...
    value: bytes
    raw: bytes
