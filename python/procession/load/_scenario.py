"""What a virtual user is: the user's function, what its signature asks for, and its defaults."""

from __future__ import annotations

import inspect
import os
from typing import Any, Callable, Iterable, Mapping

from ._feed import Feed

__all__ = ()

# What `@load(…)` leaves on a function, and `@load.setup` on another.
DEFAULTS_ATTRIBUTE = "__procession_load__"
HOOK_ATTRIBUTE = "__procession_load_hook__"

INJECTED = ("http", "tcp", "udp", "user", "data", "n", "setup")


class LoadError(Exception):
    """A load test that cannot begin or go on: what was wrong, and what to do."""


def name_of(function: Callable[..., Any]) -> str:
    name = getattr(function, "__name__", None)
    return name if isinstance(name, str) else type(function).__name__


def is_generator(function: Callable[..., Any]) -> bool:
    while hasattr(function, "func"):
        function = function.func
    call = type(function).__call__ if callable(function) else None
    return any(inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one) for one in (function, call))


def is_async(function: Callable[..., Any]) -> bool:
    while hasattr(function, "func"):
        function = function.func
    call = type(function).__call__ if callable(function) else None
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


class Injection:
    """How the arguments of one function come about."""

    def __init__(
        self, function: Callable[..., Any], data: Feed | None = None, allowed: Iterable[str] = INJECTED
    ) -> None:
        self.function = function
        self.is_async = is_async(function)
        if is_generator(function):
            raise LoadError(
                f"{name_of(function)}() is a generator, and calling it runs nothing of it: write it without `yield`"
            )
        self.positional: list[str | Feed] = []
        self.keywords: dict[str, str | Feed] = {}
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):
            parameters = ()  # type: ignore[assignment]
        allowed = tuple(allowed)
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            wanted: str | Feed
            if isinstance(parameter.default, Feed):
                wanted = data if data is not None and parameter.name == "data" else parameter.default
            elif parameter.name == "data" and data is not None:
                wanted = data
            elif parameter.name in allowed and parameter.name != "data":
                wanted = parameter.name
            elif parameter.default is not parameter.empty:
                continue
            elif parameter.name == "data" and "data" in allowed:
                raise LoadError(
                    f"{name_of(function)}() asks for data, and there is none: write data=feed('users.csv') in its "
                    "signature, or pass data= to load()"
                )
            else:
                raise LoadError(
                    f"{name_of(function)}() asks for {parameter.name!r}, which nobody has: a virtual user may ask for "
                    f"{', '.join(allowed)}, and for parameters whose default is feed(…)"
                )
            if parameter.kind is parameter.KEYWORD_ONLY or len(self.positional) < self._before(parameters, parameter):
                self.keywords[parameter.name] = wanted
            else:
                self.positional.append(wanted)

    @staticmethod
    def _before(parameters: Iterable[inspect.Parameter], one: inspect.Parameter) -> int:
        for index, parameter in enumerate(parameters):
            if parameter is one:
                return index
        return 0

    def feeds(self) -> list[Feed]:
        """The feeds that it takes a row of for each call."""
        return [one for one in (*self.positional, *self.keywords.values()) if isinstance(one, Feed)]

    def wants(self, name: str) -> bool:
        return name in self.positional or name in self.keywords.values()


class Scenario:
    """The functions that virtual users run, each with its share of the iterations."""

    def __init__(self, functions: list[tuple[Callable[..., Any], float]], data: Feed | None) -> None:
        self.functions = functions
        self.injections = [Injection(function, data) for function, _ in functions]
        self.weights = [weight for _, weight in functions]
        kinds = {injection.is_async for injection in self.injections}
        if len(kinds) > 1:
            names = ", ".join(name_of(function) for function, _ in functions)
            raise LoadError(f"{names}: the functions of one run are either all `async def` or all `def`")
        self.is_async = kinds.pop()

    @property
    def name(self) -> str:
        return ", ".join(name_of(function) for function, _ in self.functions)

    def feeds(self) -> list[Feed]:
        return list({id(feed): feed for injection in self.injections for feed in injection.feeds()}.values())


def defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    found = getattr(function, DEFAULTS_ATTRIBUTE, None)
    return dict(found) if isinstance(found, dict) else {}


def resolve(target: Any) -> list[tuple[Callable[..., Any], float]]:
    """The functions with their weights, of one function, several, or a mapping of functions to weights."""
    if callable(target):
        return [(target, 1.0)]
    if isinstance(target, Mapping):
        pairs = list(target.items())
    elif isinstance(target, (str, bytes, os.PathLike)):
        raise TypeError("load() runs functions: for a URL write the function `def get(http): http.get(url)`")
    else:
        try:
            functions = list(target)
        except TypeError:
            raise TypeError(
                f"load() takes a function, a list of functions, or a dict of weights, not {target!r}"
            ) from None
        pairs = [(function, defaults_of(function).get("weight", 1)) for function in functions]
    if not pairs:
        raise ValueError("load() got no function")
    for function, weight in pairs:
        if not callable(function):
            raise TypeError(f"load() takes functions, and {function!r} is none")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < float("inf"):
            raise ValueError(f"the weight of {name_of(function)} must be a positive number, not {weight!r}")
    return [(function, float(weight)) for function, weight in pairs]
