import multiprocessing.connection
from multiprocessing.connection import (
    answer_challenge as answer_challenge,
    deliver_challenge as deliver_challenge,
    wait as wait,
)
from typing import Any, TypeVar

from ._native import ConnectionBase

__all__ = ["Client", "Listener", "Pipe", "wait"]

_Send = TypeVar("_Send", contravariant=True)
_Recv = TypeVar("_Recv", covariant=True)

# Its methods are those of the first base; how they are typed, the second says.
class Connection(ConnectionBase, multiprocessing.connection.Connection[_Send, _Recv]): ...  # type: ignore[misc]

class Listener(multiprocessing.connection.Listener):
    def accept(self) -> Connection[Any, Any]: ...

def Client(
    address: str | tuple[str, int], family: str | None = None, authkey: bytes | None = None
) -> Connection[Any, Any]: ...
def Pipe(duplex: bool = True) -> tuple[Connection[Any, Any], Connection[Any, Any]]: ...
def __getattr__(name: str) -> Any: ...
