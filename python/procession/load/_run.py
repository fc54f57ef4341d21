"""Runs a load test: what the options mean, and the process that controls the workers."""

from __future__ import annotations

import functools
import json
import os
import signal
from typing import Any, Callable, Mapping

from .. import _native
from ._feed import Feed, feed
from ._greenlets import Greenlets
from ._result import LoadResult
from ._scenario import DEFAULTS_ATTRIBUTE, LoadError, Scenario, defaults_of, name_of, resolve
from ._worker import Job, call_hook, work

__all__ = ()

# What each option is if neither the call nor a decorator says it.
_VUSERS = ("async", "thread", "process")
_MOST_USERS = {"async": 1000, "thread": 200, "process": 32}
_POLL_SECONDS = 0.1


# --- options -------------------------------------------------------------------------------------------------------


def seconds(value: Any, name: str) -> float:
    """A duration: a number of seconds, or text such as `"30s"` or `"1m30s"`."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e9:
        return float(value)
    if isinstance(value, str):
        try:
            return _native.parse_duration(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    raise ValueError(f"{name} must be a number of seconds or a text such as '30s' or '5m', not {value!r}")


def per_second(value: Any, name: str) -> float:
    """A rate: a number per second, or text such as `"200/s"` or `"6k/m"`."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e9:
        return float(value)
    if isinstance(value, str):
        try:
            return _native.parse_rate(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    raise ValueError(f"{name} must be a number per second or a text such as '200/s' or '6k/m', not {value!r}")


def _whole(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number, at least 1, not {value!r}")
    return int(value)


def _stages(text: Any) -> tuple[bool, list[tuple[float, float]]]:
    if not isinstance(text, str):
        raise TypeError(f"stages must be a text such as '30s:100,2m:500', not {text!r}")
    try:
        return _native.parse_stages(text)
    except ValueError as error:
        raise ValueError(f"stages: {error}") from None


def _slos(value: Any) -> list[str]:
    slos = [value] if isinstance(value, str) else value
    if not isinstance(slos, (list, tuple)) or not all(isinstance(slo, str) for slo in slos):
        raise TypeError(f"slo must be a text such as 'p99<500ms', or several, not {value!r}")
    for slo in slos:
        try:
            _native.check_slo(slo)
        except ValueError as error:
            raise ValueError(f"slo: {error}") from None
    return list(slos)


def make_plan(scenario: Scenario, options: Mapping[str, Any], vuser: str) -> dict[str, Any]:
    """The plan of a run, as the engine reads it."""

    def get(name: str) -> Any:
        return options.get(name)

    users = None if get("users") is None else _whole(get("users"), "users")
    arrivals = get("arrivals") or "constant"
    if arrivals not in ("constant", "poisson"):
        raise ValueError(f"arrivals must be 'constant' or 'poisson', not {arrivals!r}")
    if get("arrivals") and get("rate") is None:
        raise ValueError("arrivals are those of a rate, and there is none: give rate=")
    most = get("max_users")
    most = _MOST_USERS[vuser] if most is None else _whole(most, "max_users")
    if get("rate") is not None or get("stages") is not None:
        # Those who asked for a number of users get no more than that.
        most = users if users is not None and get("max_users") is None else max(most, users or 0)
    rate = None if get("rate") is None else per_second(get("rate"), "rate")
    no_think = {"least_seconds": 0.0, "most_seconds": 0.0}
    pacing: dict[str, Any]
    if get("stages") is not None:
        of_rate, stages = _stages(get("stages"))
        if of_rate:
            pacing = {
                "kind": "rate_stages",
                "start": rate or 0.0,
                "stages": [{"duration_seconds": length, "per_second": goal} for length, goal in stages],
                "arrivals": arrivals,
                "most_in_flight": most,
            }
        elif rate is not None:
            raise ValueError("rate= and stages of users do not go together: write the stages as '30s:100/s'")
        else:
            most = max([users or 0, *(int(goal) for _, goal in stages)])
            pacing = {
                "kind": "user_stages",
                "start": users or 0,
                "stages": [{"duration_seconds": length, "users": int(goal)} for length, goal in stages],
                "think": no_think,
            }
    elif rate is not None:
        pacing = {"kind": "rate", "per_second": rate, "arrivals": arrivals, "most_in_flight": most}
    else:
        most = users or 1
        pacing = {"kind": "users", "users": most, "think": no_think}
    processes = get("processes")
    if vuser == "process":
        if processes is not None:
            raise ValueError("with vuser='process' each user is a process: say how many with users=")
        processes = most
    elif processes is None:
        processes = _native.usable_cpus()
    plan: dict[str, Any] = json.loads(_native.plan_defaults(scenario.name, most))
    plan["pacing"] = pacing
    plan["processes"] = min(_whole(processes, "processes"), most)
    duration, iterations = get("duration"), get("iterations")
    if duration is None and iterations is None and get("stages") is None:
        raise ValueError("a load test needs an end: give duration=, iterations= or stages=")
    plan["duration_seconds"] = None if duration is None else seconds(duration, "duration")
    plan["iterations"] = None if iterations is None else _whole(iterations, "iterations")
    for option, field in (("warmup", "warmup_seconds"), ("timeout", "timeout_seconds"), ("drain", "drain_seconds")):
        if get(option) is not None:
            plan[field] = seconds(get(option), option)
    if get("timeout") is not None and get("drain") is None:
        plan["drain_seconds"] = plan["timeout_seconds"]
    if get("seed") is not None:
        seed = get("seed")
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 64:
            raise ValueError(f"seed must be a whole number from 0 to 2**64 - 1, not {seed!r}")
        plan["seed"] = seed
    plan["guards"]["owns_target"] = bool(get("own_target"))
    plan["slos"] = [] if get("slo") is None else _slos(get("slo"))
    return plan


_OPTIONS = frozenset(
    """users rate arrivals stages duration iterations warmup timeout drain slo vuser processes max_users url headers
    http2 redirects verify cert server_name data setup teardown setup_process teardown_process seed own_target context
    weight""".split()
)


def prepare(target: Any, options: Mapping[str, Any]) -> tuple[Scenario, dict[str, Any], str, dict[str, Any]]:
    """The scenario, its plan, what its users are, and the options with all defaults."""
    unknown = sorted(set(options) - _OPTIONS)
    if unknown:
        raise TypeError(f"load() takes no option {unknown[0]!r}")
    pairs = resolve(target)
    merged = _defaults(pairs)
    merged.update((name, value) for name, value in options.items() if value is not None)
    data = merged.get("data")
    if data is not None and not isinstance(data, Feed):
        data = feed(data)
    scenario = Scenario(pairs, data)
    vuser = merged.get("vuser") or ("async" if scenario.is_async else "thread")
    if vuser not in _VUSERS:
        raise ValueError(f"vuser must be one of {', '.join(map(repr, _VUSERS))}, not {vuser!r}")
    if vuser == "async" and not scenario.is_async:
        # What is missing is said here, not by each worker.
        Greenlets(scenario.name)
    for name in "setup", "teardown", "setup_process", "teardown_process":
        hook = merged.get(name)
        if hook is not None and not callable(hook):
            raise TypeError(f"{name} must be a function, not {hook!r}")
    context = merged.get("context")
    if context is not None and not callable(getattr(context, "Process", None)):
        raise TypeError(f"context must be one of procession.get_context(…), not {context!r}")
    return scenario, make_plan(scenario, merged, vuser), vuser, merged


def _defaults(pairs: list[tuple[Callable[..., Any], float]]) -> dict[str, Any]:
    """What the decorators of all functions say together. Rates add up; what else is said twice must be the same."""
    together: dict[str, Any] = {}
    rates = []
    for function, _ in pairs:
        for name, value in defaults_of(function).items():
            if name == "weight":
                continue
            if name == "rate":
                rates.append(per_second(value, "rate"))
            elif name == "slo":
                together.setdefault("slo", []).extend(_slos(value))
            elif together.setdefault(name, value) != value:
                raise LoadError(
                    f"@load({name}=…) of {name_of(function)} says {value!r} where another function says "
                    f"{together[name]!r}: say it in the call or on the command line"
                )
    if rates:
        if len(rates) < len(pairs):
            raise LoadError("either all functions of a run have a rate, or none")
        together["rate"] = sum(rates)
        # Each gets the share that it asked for.
        pairs[:] = [(function, rate) for (function, _), rate in zip(pairs, rates)] if len(pairs) > 1 else pairs
    return together


# --- in the caller -------------------------------------------------------------------------------------------------


def run(target: Any, options: Mapping[str, Any]) -> LoadResult:
    """Runs a load test to its end; see `procession.load`."""
    scenario, plan, vuser, merged = prepare(target, options)
    for one in scenario.feeds():
        one._reset()
    context = merged.get("context")
    if context is None:
        from ..context import _default_context as context
    value = _call_hook(merged.get("setup"), "setup", None)
    try:
        job = make_job(scenario, plan, vuser, merged, value)
        return LoadResult(_in_host(context, job))
    finally:
        _call_hook(merged.get("teardown"), "teardown", value)


def _tls(verify: Any, cert: Any, server_name: Any) -> dict[str, Any]:
    """How servers at https URLs prove who they are, and who we are."""
    if server_name is not None and not isinstance(server_name, str):
        raise TypeError(f"server_name must be a text such as 'shop.example', not {server_name!r}")
    certificate, key = (cert, cert) if isinstance(cert, (str, os.PathLike)) else cert or (None, None)
    return {
        "insecure": verify is False,
        "ca_file": None if isinstance(verify, bool) else os.fspath(verify),
        "certificate_file": None if certificate is None else os.fspath(certificate),
        "key_file": None if key is None else os.fspath(key),
        "server_name": server_name,
    }


def _redirects(most: Any) -> int:
    if most is None:
        return 0
    if isinstance(most, bool) or not isinstance(most, int) or not 0 <= most < 1 << 32:
        raise ValueError(f"redirects must be a whole number, at least 0, not {most!r}")
    return int(most)


def _version(http2: Any) -> str:
    if http2 not in (None, True, False):
        raise TypeError(f"http2 must be True or False, not {http2!r}")
    return "http2" if http2 else "http1"


def make_job(scenario: Scenario, plan: dict[str, Any], vuser: str, merged: Mapping[str, Any], value: Any) -> Job:
    headers = merged.get("headers") or {}
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers must map names to texts, as in {{'Accept': 'text/html'}}, not {headers!r}")
    url = merged.get("url")
    if url is not None and not isinstance(url, str):
        raise TypeError(f"url must be a text such as 'http://127.0.0.1:8000', not {url!r}")
    client = {
        "base_url": url,
        "headers": [[str(name), str(text)] for name, text in headers.items()],
        "version": _version(merged.get("http2")),
        "redirects": _redirects(merged.get("redirects")),
        "tls": _tls(merged.get("verify", True), merged.get("cert"), merged.get("server_name")),
    }
    return Job(
        scenario,
        vuser,
        json.dumps(plan),
        json.dumps(client),
        plan["seed"],
        value,
        merged.get("setup_process"),
        merged.get("teardown_process"),
    )


def _call_hook(function: Callable[..., Any] | None, role: str, value: Any) -> Any:
    return None if function is None else call_hook(function, role, value)


def _in_host(context: Any, job: Job) -> str:
    """Has a process of its own control the run: it has one thread and no history, so it may fork when it likes."""
    from multiprocessing import connection

    ours, theirs = connection.Pipe()
    host = context.Process(target=_host, args=(job, theirs), name="LoadHost")
    with ours:
        with theirs:
            host.start()
        try:
            while True:
                ready = connection.wait([ours, host.sentinel])
                if ours in ready:
                    kind, *rest = ours.recv()
                    break
                host.join()
                raise LoadError(f"the process that controls the load test ended, with exit code {host.exitcode}")
        except EOFError:
            host.join()
            raise LoadError(f"the process that controls the load test ended, with exit code {host.exitcode}") from None
        except BaseException:
            if host.is_alive():
                ours.send("stop")
            raise
        finally:
            host.join()
    if kind == "result":
        return str(rest[0])
    name, text = rest
    raise {"ValueError": ValueError, "TypeError": TypeError}.get(name, LoadError)(text)


# --- in the host ---------------------------------------------------------------------------------------------------


def _host(job: Job, line: Any) -> None:
    from multiprocessing import connection, parent_process

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    caller = parent_process()
    assert caller is not None
    try:
        controlled = Controlled(job)
        try:
            while not controlled.wait(_POLL_SECONDS):
                if connection.wait([line, caller.sentinel], 0):
                    # The caller has gone, or wants no more.
                    return
            message: tuple[str, ...] = ("result", controlled.snapshot())
        finally:
            controlled.close()
    except Exception as error:
        message = ("error", type(error).__name__, str(error))
    try:
        line.send(message)
    except (BrokenPipeError, ConnectionResetError):
        pass


class Controlled:
    """A run in the process that controls it, with what its workers say beside their counts."""

    def __init__(self, job: Job) -> None:
        self._said, says = os.pipe()
        try:
            os.set_blocking(self._said, False)
            self._text = b""
            self._promises: set[str] = set()
            self._run = _native.LoadRun(job.plan, job.client, job.scenario.name, functools.partial(work, job, says))
        except BaseException:
            os.close(self._said)
            raise
        finally:
            # Workers that come later need it as well; the run keeps none open that is not theirs.
            self._says = says

    def wait(self, seconds: float) -> bool:
        """Whether it is over."""
        try:
            over = self._run.wait(seconds)
        except RuntimeError as error:
            # What a worker gave up for is for the tester to read, and not where in here that was seen.
            raise LoadError(str(error)) from None
        self._listen()
        return over

    def _listen(self) -> None:
        while True:
            try:
                piece = os.read(self._said, 65536)
            except BlockingIOError:
                break
            if not piece:
                break
            self._text += piece
        *lines, self._text = self._text.split(b"\n")
        for line in lines:
            slo = line.decode("utf-8", "replace")
            if slo not in self._promises:
                self._promises.add(slo)
                self._run.add_slo(slo)

    def snapshot(self) -> str:
        self._listen()
        return self._run.snapshot()

    def stop(self) -> None:
        self._run.stop()

    def worker_pids(self) -> list[int]:
        return self._run.worker_pids()

    def close(self) -> None:
        self._run.close()
        os.close(self._said)
        os.close(self._says)
