"""The pools under comparison, each behind the same small interface.

A contestant is named ``library:method`` (``procession:fork``) or just ``library`` where there is no choice of start
method. Adapters are imported only in the process that measures them.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from .base import Contestant, Unsupported

__all__ = ["Contestant", "LIBRARIES", "Library", "Unsupported", "library_of", "make"]


@dataclass(frozen=True)
class Library:
    """Where the adapter of a library is, and which start methods it takes."""

    name: str
    module: str
    adapter: str
    methods: tuple[str, ...]
    distribution: str | None = None
    """The name under which the library is installed; ``None`` for the standard library."""


_PYTHON_METHODS = ("fork", "forkserver", "spawn")

LIBRARIES: dict[str, Library] = {
    library.name: library
    for library in (
        Library("procession", "stdlib_shaped", "Procession", _PYTHON_METHODS, "procession"),
        Library("multiprocessing", "stdlib_shaped", "Multiprocessing", _PYTHON_METHODS),
        Library("concurrent.futures", "executors", "ConcurrentFutures", _PYTHON_METHODS),
        Library("loky", "executors", "Loky", (), "loky"),
        Library("joblib", "joblib_parallel", "Joblib", (), "joblib"),
        Library("mpire", "mpire_pool", "Mpire", _PYTHON_METHODS, "mpire"),
        Library("pebble", "pebble_pool", "Pebble", _PYTHON_METHODS, "pebble"),
        Library("billiard", "stdlib_shaped", "Billiard", _PYTHON_METHODS, "billiard"),
        Library("ray", "ray_pool", "Ray", (), "ray"),
    )
}


def library_of(contestant: str) -> Library:
    """The library of a contestant's name.

    Raises ``KeyError`` when there is none of that name.
    """
    return LIBRARIES[contestant.partition(":")[0]]


def make(contestant: str) -> Contestant:
    """Imports the adapter of a contestant such as ``"loky"`` or ``"multiprocessing:spawn"``.

    Raises ``Unsupported`` when the library is not installed.
    """
    library = library_of(contestant)
    method = contestant.partition(":")[2]
    if bool(method) != bool(library.methods) or (method and method not in library.methods):
        raise Unsupported(
            f"{library.name} has the start methods {library.methods or '(none to choose)'}, not {method!r}"
        )
    module = importlib.import_module(f"{__name__}.{library.module}")
    adapter: type[Contestant] = getattr(module, library.adapter)
    return adapter(method)
