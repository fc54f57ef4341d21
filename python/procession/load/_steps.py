"""Named steps as decorators of functions."""

from __future__ import annotations

import functools
import inspect
from typing import Any, Callable

from .. import _native

__all__ = ()


def decorate(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, each call of which is timed under this name."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def timed_async(*args: Any, **kwargs: Any) -> Any:
            with _native.step(name):
                return await function(*args, **kwargs)

        return timed_async

    @functools.wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        with _native.step(name):
            return function(*args, **kwargs)

    return timed
