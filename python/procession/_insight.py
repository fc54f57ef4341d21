"""What a pool tells of itself: statistics, events, progress."""

import sys
import time
from dataclasses import dataclass
from typing import NamedTuple, Optional

__all__ = ()


@dataclass(frozen=True)
class FunctionStats:
    """What a pool has seen of one function; seconds are means over the tasks that were timed.

    Counts are exact. Each batch of several items is timed, and one of sixteen single tasks.

    Attributes:
        function: its name.
        items: calls that have come back, errors included.
        failed: those of them that raised.
        lost: calls whose worker died.
        batches: tasks that the calls travelled in; `items / batches` is the mean batch.
        largest_batch: calls in the largest of them.
        encode_seconds: to pickle the arguments of a call, in the caller.
        queue_seconds: from then until a worker began with the task.
        run_seconds: of a call in the worker, unpickling and pickling there included.
        return_seconds: from the task's end until the caller had its result.
        longest_seconds: the longest call; of a batch, its mean.
        argument_bytes: of a call.
        result_bytes: of a call.
    """

    function: str
    items: int
    failed: int
    lost: int
    batches: int
    largest_batch: int
    encode_seconds: float
    queue_seconds: float
    run_seconds: float
    return_seconds: float
    longest_seconds: float
    argument_bytes: int
    result_bytes: int


@dataclass(frozen=True)
class PoolStats:
    """Where a pool's time has gone, function by function, and what could be done better.

    Printed, it is a table with the hints below.

    Attributes:
        functions: a `FunctionStats` for each function that the pool was given.
        hints: what costs time, and the cure, in words; often empty.
    """

    functions: "list[FunctionStats]"
    hints: "list[str]"

    def __str__(self):
        heads = ("function", "calls", "failed", "lost", "per batch", "encode", "queue", "run", "return", "longest")
        rows = [heads]
        for f in self.functions:
            times = (f.encode_seconds, f.queue_seconds, f.run_seconds, f.return_seconds, f.longest_seconds)
            per_batch = f"{f.items / f.batches:.1f}" if f.batches else "-"
            rows.append((f.function, f.items, f.failed, f.lost, per_batch, *map(_duration, times)))
        widths = [max(len(str(row[column])) for row in rows) for column in range(len(heads))]
        lines = []
        for row in rows:
            cells = [str(row[0]).ljust(widths[0]), *(str(c).rjust(w) for c, w in zip(row[1:], widths[1:]))]
            lines.append("  ".join(cells).rstrip())
        return "\n".join([*lines, *(f"hint: {hint}" for hint in self.hints)])


def _duration(seconds):
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns" if seconds else "-"


def stats_of(pool):
    """The statistics of a pool."""
    functions, hints = pool._stats()
    return PoolStats(
        [FunctionStats(name, *counts, *seconds, *sizes) for name, counts, seconds, sizes in functions], hints
    )


class Event(NamedTuple):
    """Something that has happened in a pool.

    Attributes:
        what: `"started"`, `"finished"`, `"failed"` (it raised), `"lost"` (its worker died), `"retried"`, of a task;
            `"worker ready"`, `"worker ended"`.
        at_seconds: when, since the pool was made.
        worker: the worker's name.
        pid: the worker's process id.
        function: the task's function; empty for events of workers.
        item: which item of a map, from 0; None for a single call.
        seconds: how long the task ran, when it has finished or failed.
        exitcode: how the worker ended, when it has or the task was lost.
    """

    what: str
    at_seconds: float
    worker: str
    pid: int
    function: str
    item: Optional[int]
    seconds: Optional[float]
    exitcode: Optional[int]


class Events:
    """The events of a pool, from the moment on when this was made: an iterator that ends with the pool.

    They wait in a ring of 4096. Who reads too slowly misses some, which `missed` counts; the pool never waits.
    """

    def __init__(self, reader):
        self._reader = reader

    def __iter__(self):
        return self

    def __next__(self):
        while True:
            event = self.next(1.0)
            if event is not None:
                return event
            if self._reader is None or self._reader.is_over():
                event = self.next(0.0)
                if event is None:
                    raise StopIteration
                return event

    def next(self, timeout=0.0):
        """The next event, waited for at most `timeout` seconds; None if there is none."""
        if self._reader is None:
            return None
        fields = self._reader.next(timeout)
        return None if fields is None else Event(*fields)

    @property
    def missed(self):
        """How many events were overwritten before they were read."""
        return 0 if self._reader is None else self._reader.missed

    def close(self):
        """Reads no more. While nobody reads events, the pool writes none."""
        self._reader = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# ---- progress ------------------------------------------------------------------------------------------------------

_REDRAW_SECONDS = 0.1


class _Line:
    """A line on standard error that is written anew, for those who have no tqdm."""

    def __init__(self, total):
        self._total = total
        self._done = 0
        self._began = time.monotonic()
        self._drawn = 0.0
        self._stream = sys.stderr
        # Where nobody sees a line being redrawn, only the last one is written.
        self._is_terminal = bool(self._stream) and self._stream.isatty()

    def update(self, more):
        """So many items more are done."""
        self._done += more
        now = time.monotonic()
        if self._is_terminal and now - self._drawn >= _REDRAW_SECONDS:
            self._drawn = now
            self._write("\r", "")

    def close(self):
        """Writes the last state and leaves it there."""
        self._write("\r" if self._is_terminal else "", "\n")

    def _write(self, before, after):
        if self._stream is None:
            return
        seconds = max(time.monotonic() - self._began, 1e-9)
        rate = self._done / seconds
        text = f"{self._done}"
        if self._total:
            width = 30
            filled = width * self._done // self._total
            left = (self._total - self._done) / rate if rate else 0.0
            text = f"{'━' * filled}{'─' * (width - filled)} {text}/{self._total}"
            rest = f"{left:.0f} s left" if self._done < self._total else f"{seconds:.1f} s"
        else:
            rest = f"{seconds:.1f} s"
        try:
            self._stream.write(f"{before}{text} {rate:.3g} items/s, {rest}   {after}")
            self._stream.flush()
        except (OSError, ValueError):
            # Nobody is left to look at it.
            self._stream = None


class _Callback:
    """Calls the user's function with the number of items done and their total."""

    def __init__(self, function, total):
        self._function = function
        self._total = total
        self._done = 0
        function(0, total)

    def update(self, more):
        self._done += more
        self._function(self._done, self._total)

    def close(self):
        pass


def bar_for(progress, total, what):
    """What shows the progress: the user's function, tqdm if it is installed, or a line of our own."""
    if callable(progress):
        return _Callback(progress, total)
    try:
        # It chooses by itself between a terminal and a notebook.
        from tqdm.auto import tqdm
    except ImportError:
        return _Line(total)
    return tqdm(total=total, desc=what, unit=" items", dynamic_ncols=True)


def follow(result, state, progress, what):
    """Shows the progress of a map, by its `state()`, until it is done; returns what the map gives."""
    done, total = state()
    bar = bar_for(progress, total, what)
    try:
        shown = 0
        while True:
            result.wait(_REDRAW_SECONDS)
            ready = result.ready()
            done, _ = state()
            if done > shown:
                bar.update(done - shown)
                shown = done
            if ready:
                break
    finally:
        bar.close()
    return result.get()


class ProgressIterator:
    """An iterator over results that shows how many have come."""

    def __init__(self, iterator, progress, total, what):
        self._iterator = iterator
        self._bar = bar_for(progress, total, what)

    def __iter__(self):
        return self

    def __next__(self):
        return self._count(self._iterator.__next__)

    def next(self, timeout=None):
        """As that of the pool's own iterators."""
        return self._count(self._iterator.next, timeout)

    def _count(self, step, *arguments):
        from multiprocessing import TimeoutError

        try:
            value = step(*arguments)
        except StopIteration:
            self._end()
            raise
        except TimeoutError:
            raise
        except BaseException:
            # An item that failed is an item done.
            self._update()
            raise
        self._update()
        return value

    def __aiter__(self):
        return self

    async def __anext__(self):
        from asyncio import CancelledError

        try:
            value = await self._iterator.__anext__()
        except StopAsyncIteration:
            self._end()
            raise
        except CancelledError:
            # The wait was cancelled, not the item.
            raise
        except BaseException:
            self._update()
            raise
        self._update()
        return value

    def _update(self):
        if self._bar is not None:
            self._bar.update(1)

    def _end(self):
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __getattr__(self, name):
        return getattr(self._iterator, name)

    def __del__(self):
        self._end()
