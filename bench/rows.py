"""The rows of the comparison: what is measured, with which parameters, against whom, and how far we want to be ahead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# ---- who takes part ----------------------------------------------------------------------------------------------

OURS = "procession"
STDLIB = "multiprocessing"

FORK = (
    "procession:fork",
    "multiprocessing:fork",
    "concurrent.futures:fork",
    "loky",
    "joblib",
    "mpire:fork",
    "pebble:fork",
    "billiard:fork",
    "ray",
)
OTHER_METHODS = (
    "procession:forkserver",
    "multiprocessing:forkserver",
    "procession:spawn",
    "multiprocessing:spawn",
)
ALL_METHODS = FORK[:2] + OTHER_METHODS + FORK[2:]

FORKSERVER_START = (
    "procession:forkserver",
    "multiprocessing:forkserver",
    "concurrent.futures:forkserver",
    "mpire:forkserver",
    "pebble:forkserver",
    "billiard:forkserver",
)
# loky, joblib and Ray always start clean interpreters, so this is where they belong.
SPAWN_START = (
    "procession:spawn",
    "multiprocessing:spawn",
    "concurrent.futures:spawn",
    "loky",
    "joblib",
    "mpire:spawn",
    "pebble:spawn",
    "billiard:spawn",
    "ray",
)
FORK_START = tuple(name for name in FORK if name.endswith(":fork"))


# ---- what is reported --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reach:
    """A target: so many times better than the standard library under the same start method, or an absolute bound."""

    ratio: float | None = None
    at_most: float | None = None

    def __str__(self) -> str:
        return f"≥ {self.ratio:g} ×" if self.ratio is not None else f"≤ {self.at_most:g}"


@dataclass(frozen=True)
class Figure:
    """One number that a row reports."""

    key: str
    title: str
    unit: str
    higher_is_better: bool = False
    reach: Reach | None = None
    only_with: str | None = None
    """Another figure that a library must have as well to be called the best of the others."""
    context: bool = False
    """The machine's own figure, which says nothing about the contestant."""


@dataclass(frozen=True)
class Row:
    """One measurement: a function of ``measurements.py`` and what is known about it."""

    name: str
    title: str
    function: str
    figures: tuple[Figure, ...]
    contestants: tuple[str, ...]
    parameters: Mapping[str, Any]
    quick_parameters: Mapping[str, Any]
    limit_seconds: float = 60.0
    quick_limit_seconds: float = 30.0
    smaller: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Parameters by library, for those that would need minutes for the full number. The figures are rates, or sizes per
    task, so they stay comparable; the report names the libraries."""
    needs_numpy: bool = False
    module: str = "measurements"
    """Where the function is."""


def _rates(key: str, title: str, ratio: float) -> Figure:
    return Figure(key, title, "/s", higher_is_better=True, reach=Reach(ratio=ratio))


def _ms(key: str, title: str, ratio: float | None) -> Figure:
    return Figure(key, title, "ms", reach=None if ratio is None else Reach(ratio=ratio))


def _us(key: str, title: str, ratio: float) -> Figure:
    return Figure(key, title, "µs", reach=Reach(ratio=ratio))


def _start_figures(what: str, ratio: float) -> tuple[Figure, ...]:
    return (
        _ms("again", what, ratio),
        _ms("first", f"{what}, the very first pool of the process", None),
    )


_RATE = {"n": 20_000, "budget_seconds": 2.0}
_QUICK_RATE = {"n": 5_000, "budget_seconds": 0.3}
_SLOW_RATE = {"ray": {"n": 2_000}}

ROWS: tuple[Row, ...] = (
    Row(
        "apply-async",
        "`apply_async` of tiny tasks × 20,000, then all `get`",
        "apply_async",
        (_rates("rate", "`apply_async` of tiny tasks × 20,000, then all `get`", 40),),
        ALL_METHODS,
        _RATE,
        _QUICK_RATE,
        smaller=_SLOW_RATE,
    ),
    Row(
        "apply-async-pickled",
        "The same with arguments that need pickle",
        "apply_async_pickled",
        (
            _rates("dict", "the same with small dicts", 15),
            _rates("list", "the same with small lists", 15),
            _rates("dataclass", "the same with small dataclasses", 15),
        ),
        FORK,
        {"n": 20_000, "budget_seconds": 1.0},
        {"n": 4_000, "budget_seconds": 0.2},
        smaller=_SLOW_RATE,
    ),
    Row(
        "map-one",
        "`map(chunksize=1)` × 20,000",
        "map_one_by_one",
        (_rates("rate", "`map(chunksize=1)` × 20,000", 80),),
        ALL_METHODS,
        _RATE,
        _QUICK_RATE,
        smaller=_SLOW_RATE,
    ),
    Row(
        "imap-unordered",
        "`imap_unordered` × 20,000",
        "imap_unordered",
        (_rates("rate", "`imap_unordered` × 20,000", 40),),
        FORK,
        _RATE,
        _QUICK_RATE,
        smaller=_SLOW_RATE,
    ),
    Row(
        "map-default",
        "`map`, default chunks, × 1,000,000",
        "map_default",
        (_rates("rate", "`map`, default chunks, × 1,000,000", 2),),
        ALL_METHODS,
        {"n": 1_000_000, "budget_seconds": 2.0},
        {"n": 200_000, "budget_seconds": 0.4},
        # Those whose default is one item per task, and those of a tenth of the speed.
        smaller={
            "concurrent.futures": {"n": 20_000},
            "loky": {"n": 20_000},
            "pebble": {"n": 20_000},
            "mpire": {"n": 100_000},
            "ray": {"n": 100_000},
        },
    ),
    Row(
        "round-trip",
        "`apply` round trip",
        "round_trip",
        (
            Figure("tight", "`apply` round trip p50, tight loop", "µs", reach=Reach(ratio=15)),
            Figure("apart", "`apply` round trip p50, 1 ms apart", "µs", reach=Reach(ratio=5)),
        ),
        ALL_METHODS,
        {"n": 3_000, "n_apart": 400, "budget_seconds": 2.0},
        {"n": 500, "n_apart": 100, "budget_seconds": 0.5},
    ),
    Row(
        "array-argument",
        "100 MB array as argument",
        "array_argument",
        (
            _ms("steady", "100 MB array as argument", 20),
            _ms("first", "100 MB array as argument, first call", None),
            Figure("memcpy", "one copy of it by memcpy", "ms", context=True),
        ),
        FORK,
        {"megabytes": 100, "calls": 7, "budget_seconds": 4.0},
        {"megabytes": 100, "calls": 2, "budget_seconds": 1.0},
        needs_numpy=True,
    ),
    Row(
        "array-both-ways",
        "100 MB array as argument and result",
        "array_argument_and_result",
        (
            _ms("steady", "100 MB array as argument and result", 20),
            _ms("first", "100 MB array as argument and result, first call", None),
            Figure("memcpy", "one copy of it by memcpy", "ms", context=True),
        ),
        FORK,
        {"megabytes": 100, "calls": 7, "budget_seconds": 5.0},
        {"megabytes": 100, "calls": 2, "budget_seconds": 1.0},
        needs_numpy=True,
    ),
    Row(
        "arrays-1mb",
        "1 MB arrays both ways × 200, `map(chunksize=1)`",
        "small_arrays",
        (
            Figure("steady", "1 MB arrays both ways × 200", "GB/s", higher_is_better=True, reach=Reach(ratio=5)),
            Figure("first", "1 MB arrays both ways × 200, first call", "GB/s", higher_is_better=True),
        ),
        FORK,
        {"arrays": 200, "budget_seconds": 3.0},
        {"arrays": 200, "budget_seconds": 0.5},
        needs_numpy=True,
    ),
    Row(
        "start-fork",
        "Pool(2) made + first result: fork, small program",
        "start",
        _start_figures("Pool(2) + first result: fork, small program", 2),
        FORK_START,
        {"repetitions": 10, "with_pandas": False, "budget_seconds": 2.0},
        {"repetitions": 5, "with_pandas": False, "budget_seconds": 0.5},
    ),
    Row(
        "start-fork-pandas",
        "Pool(2) made + first result: fork, numpy and pandas imported",
        "start",
        _start_figures("Pool(2) + first result: fork, numpy + pandas imported", 1.5),
        FORK_START,
        {"repetitions": 10, "with_pandas": True, "budget_seconds": 2.0},
        {"repetitions": 5, "with_pandas": True, "budget_seconds": 0.5},
        needs_numpy=True,
    ),
    Row(
        "start-forkserver",
        "Pool(2) made + first result: warm forkserver",
        "start",
        _start_figures("Pool(2) + first result: forkserver, warm", 4),
        FORKSERVER_START,
        {"repetitions": 10, "with_pandas": False, "budget_seconds": 2.0},
        {"repetitions": 4, "with_pandas": False, "budget_seconds": 0.5},
    ),
    Row(
        "start-spawn",
        "Pool(2) made + first result: spawn",
        "start",
        _start_figures("Pool(2) + first result: spawn", 3),
        SPAWN_START,
        {"repetitions": 10, "with_pandas": False, "budget_seconds": 2.0},
        {"repetitions": 4, "with_pandas": False, "budget_seconds": 0.5},
        smaller={"ray": {"repetitions": 1}},
    ),
    Row(
        "process-fork",
        "`Process` started + joined: fork",
        "process",
        (
            _ms("again", "`Process` started + joined: fork", 1),
            _ms("first", "`Process` started + joined: fork, the very first of the process", None),
        ),
        ("procession:fork", "multiprocessing:fork"),
        {"repetitions": 40, "budget_seconds": 2.0},
        {"repetitions": 8, "budget_seconds": 0.5},
    ),
    Row(
        "process-forkserver",
        "`Process` started + joined: forkserver",
        "process",
        (
            _ms("again", "`Process` started + joined: forkserver", 3),
            _ms("first", "`Process` started + joined: forkserver, the very first of the process", None),
        ),
        ("procession:forkserver", "multiprocessing:forkserver"),
        {"repetitions": 40, "budget_seconds": 2.0},
        {"repetitions": 8, "budget_seconds": 0.5},
    ),
    Row(
        "process-spawn",
        "`Process` started + joined: spawn",
        "process",
        (
            _ms("again", "`Process` started + joined: spawn", 1.2),
            _ms("first", "`Process` started + joined: spawn, the very first of the process", None),
        ),
        ("procession:spawn", "multiprocessing:spawn"),
        {"repetitions": 40, "budget_seconds": 2.0},
        {"repetitions": 8, "budget_seconds": 0.5},
    ),
    Row(
        "killed-worker",
        "A worker is killed while it runs a task",
        "killed_worker",
        (
            Figure(
                "error",
                "killed worker: until its task's error is raised",
                "ms",
                reach=Reach(at_most=10),
                # Giving up the whole pool is quick.
                only_with="replacement",
            ),
            Figure("replacement", "killed worker: until a replacement has answered", "ms", reach=Reach(at_most=20)),
        ),
        ALL_METHODS,
        {"trials": 5, "limit_seconds": 12.0},
        {"trials": 3, "limit_seconds": 1.5},
        limit_seconds=90.0,
    ),
    Row(
        "one-kill-in-1000",
        "1,000 tasks of 0.5 ms, one of which kills its worker",
        "one_kill_among_many",
        (
            Figure(
                "makespan",
                "1,000 tasks of 0.5 ms with one SIGKILL: time over ideal",
                "× ideal",
                reach=Reach(at_most=1.02),
            ),
        ),
        ALL_METHODS,
        {"n": 1000, "limit_seconds": 15.0},
        {"n": 1000, "limit_seconds": 2.0},
    ),
    *(
        Row(
            f"heavy-tail-{kind}",
            f"400 heavy-tailed tasks ({what}): makespan over ideal",
            "heavy_tail",
            tuple(
                Figure(key, f"400 heavy-tailed tasks ({what}), {how}", "× ideal", reach=Reach(at_most=1.05))
                for key, how in (
                    ("default", "`map`"),
                    ("one", "`map(chunksize=1)`"),
                    ("unordered", "`imap_unordered`"),
                )
            ),
            FORK,
            {"kind": kind, "n": 400, "total_seconds": 3.0},
            {"kind": kind, "n": 400, "total_seconds": 1.6},
        )
        for kind, what in (("sleep", "sleeping"), ("cpu", "CPU"))
    ),
    Row(
        "queued-memory",
        "Memory of the parent per queued small task",
        "queued_memory",
        (Figure("bytes_per_task", "parent memory per queued small task", "B", reach=Reach(at_most=500)),),
        FORK,
        {"n": 100_000, "limit_seconds": 50.0},
        {"n": 30_000, "limit_seconds": 20.0},
        limit_seconds=90.0,
        smaller={name: {"n": 20_000} for name in ("concurrent.futures", "loky", "mpire", "pebble", "ray")},
    ),
    Row(
        "idle",
        "An idle pool",
        "idle",
        (
            Figure("cpu", "idle pool: CPU of all its processes and threads", "ms/s", reach=Reach(at_most=0.0)),
            Figure("wakeups", "idle pool: wake-ups", "/s", reach=Reach(at_most=0.0)),
        ),
        ALL_METHODS,
        {"seconds": 5.0},
        {"seconds": 1.5},
    ),
    Row(
        "busy-cores",
        "With two other processes that keep both cores busy",
        "busy",
        tuple(
            Figure(f"{call}_{us}", f"busy cores: {how} of {what}", "µs/task", reach=Reach(ratio=1))
            for call, how in (("apply", "`apply` one after the other"), ("map", "`map(chunksize=1)`"))
            for us, what in ((0, "empty tasks"), (20, "20 µs tasks"), (200, "200 µs tasks"))
        ),
        FORK,
        {"n": 500, "n_map": 2_000, "budget_seconds": 1.0},
        {"n": 200, "n_map": 500, "budget_seconds": 0.2},
    ),
    Row(
        "queue-streams",
        "Items through a `Queue`",
        "queue_streams",
        (
            _rates("ints", "`Queue`, one sender, one receiver, small ints", 20),
            _rates("blobs", "`Queue`, one sender, one receiver, 64 KB `bytes`", 8),
            _rates("crowd", "`Queue`, four senders, four receivers, small dicts", 5),
        ),
        FORK[:2],
        {"ints": 100_000, "blobs": 4_000, "dicts": 10_000},
        {"ints": 20_000, "blobs": 1_000, "dicts": 2_000},
        module="messages",
    ),
    Row(
        "message-round-trips",
        "Question and answer between two processes, median",
        "message_round_trips",
        (
            _us("queue", "question and answer through two `Queue`s", 10),
            _us("simple", "question and answer through two `SimpleQueue`s", 10),
            _us("pipe", "question and answer through a `Pipe`", 3),
        ),
        FORK[:2],
        {"n": 5_000},
        {"n": 1_000},
        module="messages",
    ),
    Row(
        "pipe-streams",
        "Messages through a `Pipe`",
        "pipe_stream",
        (
            _rates("small", "`Pipe`, small ints", 1.5),
            _rates("blobs", "`Pipe`, 64 KB `bytes`", 1),
            _rates("large", "`Pipe`, 1 MB `bytes`", 3),
        ),
        FORK[:2],
        {"n": 20_000, "megabytes": 200},
        {"n": 5_000, "megabytes": 40},
        module="messages",
    ),
)


# ---- locks and shared values -------------------------------------------------------------------------------------

_LOCK_CONTESTANTS = ("procession:fork", "multiprocessing:fork")
_ALONE = {"n": 200_000, "budget_seconds": 1.0}
_QUICK_ALONE = {"n": 50_000, "budget_seconds": 0.2}
_BY_TWO = {"n": 200_000, "repetitions": 3}
_QUICK_BY_TWO = {"n": 50_000, "repetitions": 1}


def _lock_row(name: str, title: str, alone: bool, *figures: Figure) -> Row:
    parameters = (_ALONE, _QUICK_ALONE) if alone else (_BY_TWO, _QUICK_BY_TWO)
    return Row(name, title, name.replace("-", "_"), figures, _LOCK_CONTESTANTS, *parameters, module="lock_measurements")


ROWS += (
    _lock_row(
        "lock-alone",
        "A lock that nobody else wants",
        True,
        Figure("pair", "`lock.acquire()`, `lock.release()`", "ns", reach=Reach(ratio=1)),
        Figure("with", "`with lock`", "ns", reach=Reach(ratio=2)),
    ),
    _lock_row(
        "lock-by-two", "A lock that two processes want", False, _rates("with", "`with lock` by two processes", 1.5)
    ),
    _lock_row(
        "value-alone",
        "A shared value that nobody else wants",
        True,
        Figure("increment", "`with value.get_lock(): value.value += 1`", "ns", reach=Reach(ratio=2.5)),
    ),
    _lock_row(
        "value-by-two",
        "A shared value that two processes count in",
        False,
        _rates("increment", "`with value.get_lock(): value.value += 1` by two processes", 3),
    ),
)


@dataclass(frozen=True)
class RustFigure:
    """A line of the Rust example, told by a word in its name."""

    words: tuple[str, ...]
    title: str
    at_least_per_second: float


RUST_EXAMPLE = "crates/procession/examples/bench_map.rs"
RUST_FIGURES = (
    RustFigure(("batch", "chunk"), "Rust `map` of u64, batched", 10e6),
    RustFigure(("one", "single", "per_task", "per task"), "Rust `map` of u64, one per task", 3e6),
)


def rust_figure(name: str) -> RustFigure | None:
    """The target that belongs to a line of the Rust example, if one does."""
    return next((figure for figure in RUST_FIGURES if any(word in name.lower() for word in figure.words)), None)
