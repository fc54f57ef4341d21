"""Load tests whose virtual users are your own functions.

    from procession import load

    def buy(http):
        http.get("http://127.0.0.1:8000/").expect(status=200)

    if __name__ == "__main__":
        result = load(buy, users=100, duration="30s")
        print(result)

`load` is this module, and a function at the same time: with functions to run it runs them, and with nothing but options
it is a decorator that sets their defaults. The guide is docs/guide/load-python.md.
"""

from __future__ import annotations

import os
import sys
import types
from typing import Any, Callable, Iterable, Literal, Mapping, Sequence, TypeVar, Union, overload

from .._native import (
    ExpectationFailed,
    RequestError,
    TcpConnection,
    UdpSocket,
    User,
    step,
)
from .._native import (
    HttpClient as Http,
)
from .._native import (
    HttpResponse as Response,
)
from .._native import (
    TcpClient as Tcp,
)
from .._native import (
    UdpClient as Udp,
)
from .._native import (
    load_think as think,
)
from ._async import AsyncHttp, AsyncTcp, AsyncTcpConnection, AsyncUdp, AsyncUdpSocket
from ._feed import Feed, feed
from ._result import LoadResult, Step
from ._scenario import DEFAULTS_ATTRIBUTE, HOOK_ATTRIBUTE, LoadError, name_of

__all__ = [
    "AsyncHttp",
    "AsyncTcp",
    "AsyncTcpConnection",
    "AsyncUdp",
    "AsyncUdpSocket",
    "Feed",
    "Http",
    "ExpectationFailed",
    "LoadError",
    "LoadResult",
    "RequestError",
    "Response",
    "Step",
    "Tcp",
    "TcpConnection",
    "Udp",
    "UdpSocket",
    "User",
    "feed",
    "load",
    "setup",
    "step",
    "teardown",
    "think",
]

Function = Callable[..., Any]
F = TypeVar("F", bound=Function)
Seconds = Union[float, str]
Rate = Union[float, str]
Slo = Union[str, Sequence[str]]
VirtualUser = Literal["async", "thread", "process"]

# What the decorator takes: a default for each option that says how much, and not how.
_DEFAULTS = (
    "arrivals",
    "data",
    "duration",
    "http2",
    "iterations",
    "rate",
    "redirects",
    "slo",
    "stages",
    "timeout",
    "url",
    "users",
    "vuser",
    "warmup",
    "weight",
)


@overload
def load(
    *,
    users: int | None = None,
    rate: Rate | None = None,
    arrivals: Literal["constant", "poisson"] | None = None,
    stages: str | None = None,
    duration: Seconds | None = None,
    iterations: int | None = None,
    warmup: Seconds | None = None,
    timeout: Seconds | None = None,
    slo: Slo | None = None,
    vuser: VirtualUser | None = None,
    url: str | None = None,
    http2: bool | None = None,
    redirects: int | None = None,
    data: Any = None,
    weight: float | None = None,
) -> Callable[[F], F]: ...


@overload
def load(
    target: Function | Iterable[Function] | Mapping[Function, float],
    /,
    *,
    users: int | None = None,
    rate: Rate | None = None,
    arrivals: Literal["constant", "poisson"] | None = None,
    stages: str | None = None,
    duration: Seconds | None = None,
    iterations: int | None = None,
    warmup: Seconds | None = None,
    timeout: Seconds | None = None,
    drain: Seconds | None = None,
    slo: Slo | None = None,
    vuser: VirtualUser | None = None,
    processes: int | None = None,
    max_users: int | None = None,
    url: str | None = None,
    headers: Mapping[str, str] | None = None,
    http2: bool | None = None,
    redirects: int | None = None,
    verify: bool | str | os.PathLike[str] = True,
    cert: str | os.PathLike[str] | tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
    server_name: str | None = None,
    data: Any = None,
    setup: Function | None = None,
    teardown: Function | None = None,
    setup_process: Function | None = None,
    teardown_process: Function | None = None,
    seed: int | None = None,
    own_target: bool = False,
    context: Any = None,
) -> LoadResult: ...


def load(target: Any = None, /, **options: Any) -> Any:
    """Runs functions as virtual users and returns what was measured, or sets their defaults.

    With functions it runs them. A function is a virtual user: it is called again and again, and each call is an
    *iteration*. What its signature names is given to it: `http`, `tcp`, `udp` (clients of its own, whose calls are
    timed), `user` (who it is), `data` (a row of test data), `n` (how many iterations of this user came before) and
    `setup` (what the setup function returned).

    Without functions it is a decorator: `@load(users=50, slo="p99<500ms")` sets defaults, which a call of `load` and
    the options of the command override.

    Args:
        target: a function, a list of functions, or a dict of functions to weights. Several functions share the users by
            their weights.
        users: so many users at the same time, each of which begins its next iteration when its last one is through (the
            closed model). With `rate` it is the number of users that are there to serve it.
        rate: so many iterations per second over all processes, whatever becomes of earlier ones (the open model): a
            number, `"200/s"` or `"6k/m"`. Response times then count from the moment at which an iteration was due.
        arrivals: how a rate is spread over time: `"constant"` (the default) or `"poisson"`.
        stages: a load that changes: `"30s:100,2m:500"` goes within 30 s to 100 users, then within 2 min to 500;
            `"30s:100/s"` goes to a rate. It begins with `users`, or `rate`, or none.
        duration: how long new iterations begin: seconds, or text such as `"30s"` or `"5m"`.
        iterations: so many iterations in all.
        warmup: what happens in this time at the beginning is left out of the result's totals.
        timeout: seconds that one request may take (10).
        drain: seconds to wait at the end for what is under way; what is unfinished then is counted as such (10).
        slo: conditions that must hold, as in `"p99<500ms"`, `"errors<1%"`, `"p99<2s for GET /cart"`.
        vuser: what a user is: `"async"` (a coroutine; many in each process; what an `async def` function is by
            default), `"thread"` (what a plain function is by default) or `"process"` (a process each: for C libraries
            that block or crash).
        processes: how many worker processes share the users; as many as the CPUs this process may use if None.
        max_users: with a rate, how many users there may be at most; they come as they are needed.
        url: what URLs without a host are relative to.
        headers: sent with every request of `http`.
        http2: whether requests go over HTTP/2 (False): with https servers it is agreed upon, and those that do not offer it are
            an error; with others it is taken for granted. Each user has one connection to each server, which all its
            requests there share.
        redirects: how many redirects of a request of `http` are followed, unless it says `redirects=` itself (0). It is
            counted once, with the last response, and timed from the beginning.
        verify: whether the certificates of https servers are checked; or a file of those (PEM) that are trusted instead of
            the system's.
        cert: our own certificate, for servers that ask for one: a file (PEM) with certificate and key, or a file for each.
        server_name: the name that https servers are asked for, and that their certificates must be for, instead of the
            host of the URL: for one that is reached by its address, or through a tunnel.
        data: rows for those who ask for `data`: see `feed`.
        setup, teardown: called once per run, in the process that calls `load`. What `setup` returns is given to those who
            ask for `setup`.
        setup_process, teardown_process: called once in each worker process. What it returns takes the place of the former.
        seed: what random choices begin with; the same seed gives the same schedule.
        own_target: says that targets which are not on this machine are yours to test. Without it they get a modest load at
            most, that of 10 users or 50 requests per second: more than that ends the run with an error. Hosts to which
            only redirects lead get no more than that in any case.
        context: a context whose start method the workers have; the default one if None.

    Returns:
        The result; or the decorator if no function is given.

    Raises:
        LoadError: the test cannot begin, or a setup function raised.
        ValueError, TypeError: an option is not what it should be.

    Example:
        >>> from procession import load
        >>> def think_only(n):
        ...     load.think(0.001)
        >>> result = load(think_only, users=2, iterations=10)
        >>> result.iterations
        10
    """
    if target is None:
        unknown = sorted(set(options) - set(_DEFAULTS))
        if unknown:
            raise TypeError(f"@load() takes no option {unknown[0]!r}: it sets defaults for {', '.join(_DEFAULTS)}")
        return lambda function: _set_defaults(function, options)
    if not options and callable(target):
        # A bare decorator: a run would at least say how long.
        return _set_defaults(target, {})
    from ._run import run

    return run(target, options)


def _set_defaults(function: F, options: Mapping[str, Any]) -> F:
    if not callable(function):
        raise TypeError(f"@load() decorates functions, and {function!r} is none")
    try:
        setattr(function, DEFAULTS_ATTRIBUTE, {k: v for k, v in options.items() if v is not None})
    except AttributeError:
        raise TypeError(f"@load() cannot leave its defaults on {name_of(function)}: decorate a function") from None
    return function


def _hook(kind: str, per: str) -> Callable[[F], F]:
    if per not in ("run", "process"):
        raise ValueError(f"per must be 'run' or 'process', not {per!r}")

    def mark(function: F) -> F:
        setattr(function, HOOK_ATTRIBUTE, f"{kind}_{per}")
        return function

    return mark


def setup(per: Literal["run", "process"] = "run") -> Callable[[F], F]:
    """Marks a function of the file that `procession load FILE.py` names: it is called before the users begin.

    Args:
        per: `"run"`, once in all, or `"process"`, once in each worker process. Users who ask for `setup` are given what
            it returned.

    Example:
        >>> from procession import load
        >>> @load.setup(per="process")
        ... def connect():
        ...     return {"token": "abc"}
    """
    return _hook("setup", per)


def teardown(per: Literal["run", "process"] = "run") -> Callable[[F], F]:
    """Marks a function of the file that `procession load FILE.py` names: it is called after the users have ended.

    Args:
        per: `"run"`, once in all, or `"process"`, once in each worker process.
    """
    return _hook("teardown", per)


class _CallableModule(types.ModuleType):
    def __call__(self, target: Any = None, /, **options: Any) -> Any:
        return load(target, **options)


_CallableModule.__call__.__doc__ = load.__doc__
sys.modules[__name__].__class__ = _CallableModule
