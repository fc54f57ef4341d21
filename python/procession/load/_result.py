"""What a load test came to."""

from __future__ import annotations

import json
import os
from typing import Any, Iterator, Mapping

__all__ = ["LoadResult", "Step", "Steps"]

_SHARES = {
    "p50": 0.5,
    "p75": 0.75,
    "p90": 0.9,
    "p95": 0.95,
    "p99": 0.99,
    "p999": 0.999,
}


class _Times:
    """Percentiles of response times, in seconds."""

    def __init__(self, latency: Mapping[str, Any]) -> None:
        self._latency = latency
        self._response = latency["response"]

    @property
    def p50(self) -> float:
        """Half of the response times are not longer, in seconds."""
        return float(self._response["p50"])

    @property
    def p75(self) -> float:
        """75 % of the response times are not longer, in seconds."""
        return float(self._response["p75"])

    @property
    def p90(self) -> float:
        """90 % of the response times are not longer, in seconds."""
        return float(self._response["p90"])

    @property
    def p95(self) -> float:
        """95 % of the response times are not longer, in seconds."""
        return float(self._response["p95"])

    @property
    def p99(self) -> float:
        """99 % of the response times are not longer, in seconds."""
        return float(self._response["p99"])

    @property
    def p999(self) -> float:
        """99.9 % of the response times are not longer, in seconds."""
        return float(self._response["p999"])

    @property
    def mean(self) -> float:
        """The average response time, in seconds."""
        return float(self._response["mean"])

    @property
    def min(self) -> float:
        """The shortest response time, in seconds."""
        return float(self._response["min"])

    @property
    def max(self) -> float:
        """The longest response time, in seconds."""
        return float(self._response["max"])

    @property
    def service(self) -> Mapping[str, Any]:
        """The same from the moment at which requests were sent, and not from the one at which they were due."""
        found: Mapping[str, Any] = self._latency["service"]
        return found

    @property
    def lag(self) -> Mapping[str, Any] | None:
        """How late requests were sent; None without a rate."""
        found: Mapping[str, Any] | None = self._latency["lag"]
        return found


class Step(_Times):
    """One kind of request, a named step, or whole iterations."""

    def __init__(self, step: Mapping[str, Any]) -> None:
        super().__init__(step["latency"])
        self._step = step

    @property
    def name(self) -> str:
        """As the report calls it."""
        return str(self._step["name"])

    @property
    def kind(self) -> str:
        """`"request"`, `"step"` or `"iteration"`."""
        return str(self._step["kind"])

    @property
    def count(self) -> int:
        """How many came to an end."""
        return int(self._step["count"])

    @property
    def errors(self) -> int:
        """How many of them failed."""
        return int(self._step["errors"])

    @property
    def rate(self) -> float:
        """How many came to an end per second."""
        return float(self._step["per_second"])

    def __repr__(self) -> str:
        return f"<Step {self.name!r}: {self.count} with {self.errors} errors, p99 {self.p99:.4f} s>"


class Steps(Mapping[str, Step]):
    """The steps of a result by their names."""

    def __init__(self, steps: list[Mapping[str, Any]]) -> None:
        # Of those that have a name in common, requests come first.
        self._steps = {step["name"]: Step(step) for step in reversed(steps)}

    def __getitem__(self, name: str) -> Step:
        try:
            return self._steps[name]
        except KeyError:
            raise KeyError(f"no step is called {name!r}; there are {', '.join(map(repr, self))}") from None

    def __iter__(self) -> Iterator[str]:
        return reversed(list(self._steps))

    def __len__(self) -> int:
        return len(self._steps)

    def __repr__(self) -> str:
        return f"<Steps {', '.join(self)}>"


class LoadResult(_Times):
    """What a load test came to. Times are in seconds.

    Example:
        >>> from procession import load
        >>> def idle(n):
        ...     load.think(0.001)
        >>> result = load(idle, users=1, iterations=3)
        >>> result.iterations, result.errors
        (3, {})
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._data: dict[str, Any] = json.loads(text)
        super().__init__(self._data["latency"])
        self._steps = Steps(self._data["steps"])

    @property
    def verdict(self) -> str:
        """`"PASS"`; `"FAIL"`: an SLO was broken; `"INVALID"`: the figures say more about this machine than the server."""
        return str(self._data["verdict"]["outcome"]).upper()

    @property
    def reasons(self) -> list[str]:
        """Why the verdict is not `"PASS"`, and what to do about it."""
        reasons = [
            f"{reason['what']}: {reason['figure']}, {reason['limit']}; {reason['cure']}"
            for reason in self._data["verdict"]["reasons"]
        ]
        return reasons + [f"{slo['slo']}: {slo['figure']}" for slo in self._data["slos"] if not slo["kept"]]

    @property
    def requests(self) -> int:
        """How many requests came to an end, well or not."""
        return int(self._data["totals"]["requests"])

    @property
    def rate(self) -> float:
        """Requests per second."""
        return float(self._data["totals"]["requests_per_second"])

    @property
    def iterations(self) -> int:
        """How often users' functions came to an end, well or not."""
        return int(self._data["totals"]["iterations"])

    @property
    def failed_iterations(self) -> int:
        """How many of them raised."""
        return int(self._data["totals"]["failed_iterations"])

    @property
    def failed_requests(self) -> int:
        """How many requests failed."""
        return int(self._data["totals"]["errors"])

    @property
    def error_share(self) -> float:
        """The share of requests that failed, 0 to 1."""
        return float(self._data["totals"]["error_share"])

    @property
    def unfinished(self) -> int:
        """How many requests were under way at the end."""
        return int(self._data["totals"]["unfinished"])

    @property
    def errors(self) -> dict[str, int]:
        """How often what went wrong, by kind: `"refused"`, `"timeout"`, `"status5xx"`, `"assertion"`, `"script"` …"""
        return {error["kind"]: error["count"] for error in self._data["errors"]}

    @property
    def examples(self) -> dict[str, str]:
        """What the first error of each kind said."""
        return {error["kind"]: error["example"] for error in self._data["errors"]}

    @property
    def statuses(self) -> dict[int, int]:
        """How many responses had which status."""
        return {status["status"]: status["count"] for status in self._data["statuses"]}

    @property
    def steps(self) -> Steps:
        """Kinds of requests, named steps and iterations, by name."""
        return self._steps

    @property
    def workers(self) -> list[dict[str, Any]]:
        """The worker processes: what each has done, how busy it was, and how often it died."""
        return list(self._data["workers"])

    @property
    def deaths(self) -> int:
        """How many worker processes died and were replaced."""
        return sum(worker["restarts"] for worker in self._data["workers"])

    @property
    def data(self) -> dict[str, Any]:
        """All of it, as the JSON report has it."""
        return self._data

    def to_json(self) -> str:
        """The result as JSON, as `procession load -o FILE.json` writes it."""
        return self._text

    def report(self, path: str | os.PathLike[str]) -> None:
        """Writes a report, of the form that the file's name asks for.

        Args:
            path: ends in `.html`, `.json`, `.csv`, `.xml` (JUnit), `.prom` (Prometheus) or `.txt`.

        Raises:
            ValueError: there are no reports of that form.
            OSError: the file cannot be written.
        """
        from .. import _native

        suffix = os.path.splitext(os.fspath(path))[1].lower().lstrip(".")
        text = _native.load_report(self._text, suffix)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)

    def __str__(self) -> str:
        from .. import _native

        return _native.load_report(self._text, "txt")

    def __repr__(self) -> str:
        return (
            f"<LoadResult {self.verdict}: {self.requests} requests, {self.rate:.0f}/s, p99 {self.p99:.4f} s, "
            f"{self.failed_requests} failed>"
        )
