"""Functions of a file as virtual users of `procession load FILE.py`: the part of the command's host that runs them.

The talk with the command is told in `crates/procession-cli/src/host/README.md`.
"""

from __future__ import annotations

import os
import select
import sys
import types
from time import monotonic
from typing import Any, Callable, Mapping

from .. import _command_host as host
from ._run import Controlled, make_job, prepare
from ._scenario import DEFAULTS_ATTRIBUTE, HOOK_ATTRIBUTE, LoadError, defaults_of, name_of
from ._worker import call_hook

__all__ = ()

# What a run without any word about its end takes, as one of a URL does.
_DURATION_SECONDS = 10.0
_POLL_SECONDS = 0.05
_PROGRESS_SECONDS = 0.25
_HOOKS = {
    "setup_run": "setup",
    "teardown_run": "teardown",
    "setup_process": "setup_process",
    "teardown_process": "teardown_process",
}


def serve(hello: Mapping[str, Any], settings: Mapping[str, Any], channel: host.Channel) -> None:
    """Runs the load test that the command's first line asks for, and reports it."""
    # User code runs from here on: the command must be able to end it.
    channel.die_with_command(True)
    target, hooks = _find(hello["place"], hello["function"])
    try:
        options = _options(target, settings)
        scenario, plan, vuser, merged = prepare(target, {**options, **hooks})
        _set_think(plan, settings.get("think_seconds"))
        for feed in scenario.feeds():
            feed._reset()
        value = _hook(merged, "setup", None)
        try:
            controlled = Controlled(make_job(scenario, plan, vuser, merged, value))
            try:
                channel.die_with_command(False)
                channel.send("ready", "{}")
                if not _control(controlled, channel):
                    return
                channel.send("finished", controlled.snapshot())
            finally:
                controlled.close()
        finally:
            _hook(merged, "teardown", value)
    except (LoadError, TypeError, ValueError) as error:
        raise host.Fatal("function", str(error)) from error
    except OSError as error:
        raise host.Fatal("pool", f"the load test cannot go on: {error}") from error


def _find(place: dict[str, str], name: str) -> tuple[Any, dict[str, Callable[..., Any]]]:
    """The function to run, or several with their weights, and what the file has to be called before and after."""
    if name:
        function = host.load_function(place, name)
        module = sys.modules.get(getattr(function, "__module__", ""))
        return function, _hooks(module)
    where = place.get("file") or place["module"]
    module = host._load_file(where) if "file" in place else host._load_module(where)
    own = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, types.FunctionType)
        and value.__module__ == module.__name__
        and not key.startswith("_")
        and not hasattr(value, HOOK_ATTRIBUTE)
    }
    decorated = [value for value in own.values() if hasattr(value, DEFAULTS_ATTRIBUTE)]
    if decorated:
        return (decorated[0] if len(decorated) == 1 else decorated), _hooks(module)
    if len(own) == 1:
        return next(iter(own.values())), _hooks(module)
    if not own:
        raise host.Fatal("function", f"{where} has no function", "write one, such as `def buy(http): …`")
    help = f"name it, as in {where}:{next(iter(own))}, or decorate those that are users with @load(): " + ", ".join(own)
    raise host.Fatal("function", f"{where} has several functions, and none is decorated", help)


def _hooks(module: types.ModuleType | None) -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {}
    for value in vars(module).values() if module is not None else ():
        kind = getattr(value, HOOK_ATTRIBUTE, None) if isinstance(value, types.FunctionType) else None
        if kind in _HOOKS:
            option = _HOOKS[kind]
            if option in found and found[option] is not value:
                raise host.Fatal(
                    "function",
                    f"{name_of(found[option])}() and {name_of(value)}() are both decorated as {option}",
                    "one is enough: call the other from it",
                )
            found[option] = value
    return found


def _options(target: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    names = (
        "users",
        "rate",
        "arrivals",
        "stages",
        "duration",
        "iterations",
        "warmup",
        "timeout",
        "processes",
        "redirects",
        "vuser",
        "slo",
        "seed",
    )
    options = {name: settings[name] for name in names if settings.get(name) is not None}
    options["http2"] = settings.get("http2") or None
    options["own_target"] = settings.get("own_target") or None
    options["verify"] = False if settings.get("insecure") else settings.get("cacert")
    options["cert"] = (settings["cert"], settings["key"]) if settings.get("cert") else None
    functions = target if isinstance(target, list) else [target]
    said = {name for function in functions for name in defaults_of(function)} | set(options)
    # What the command line says about the load takes the place of what the function says about it.
    if said.isdisjoint(("duration", "iterations", "stages")):
        options["duration"] = _DURATION_SECONDS
    return options


def _set_think(plan: dict[str, Any], think_seconds: Any) -> None:
    if think_seconds is None:
        return
    if "think" not in plan["pacing"]:
        raise ValueError(
            "think time is that of users, and this test has a rate: give users, or call think() in the function"
        )
    least, most = think_seconds
    plan["pacing"]["think"] = {"least_seconds": least, "most_seconds": most}


def _hook(merged: Mapping[str, Any], role: str, value: Any) -> Any:
    function = merged.get(role)
    return None if function is None else call_hook(function, role, value)


def _control(controlled: Controlled, channel: host.Channel) -> bool:
    """Waits for the run's end and tells how far it is; false if the command is gone or wants no more."""
    requests = channel.requests.fileno()
    stops = 0
    told = monotonic()
    while not controlled.wait(_POLL_SECONDS):
        while select.select([requests], [], [], 0)[0]:
            # Read here and not by `receive`: what a buffer holds is not seen by `select`.
            piece = os.read(requests, 65536)
            if not piece:
                return False
            stops += piece.count(b"\n")
            controlled.stop()
            if stops > 1:
                return True
        if monotonic() - told >= _PROGRESS_SECONDS:
            told = monotonic()
            channel.send("progress", controlled.snapshot())
    return True
