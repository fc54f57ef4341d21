"""What one pool makes of one fault: run by ``measure.py`` in a process of its own.

Eight tasks on two workers, of which the fourth misbehaves; afterwards eight good ones. Each function records one cell:
``verdict`` is one of the words in `VERDICTS`, ``detail`` what was seen.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import fault_tasks
import workloads
from contestants import Contestant, Unsupported
from measurements import PROCESSES, _text

TASKS, VICTIM = 8, 3
LIMIT_SECONDS = 6.0

VERDICTS = {
    "own": "only that task fails, and the pool goes on",
    "works": "nothing fails",
    "told": "everybody who waits gets one clear error",
    "more fail": "other tasks fail, too; the pool goes on",
    "pool dead": "the pool takes no more work",
    "hangs": "somebody waits for ever",
}


def _items(contestant: Contestant, fault: str) -> list[Any]:
    items: list[Any] = [("good", index) for index in range(TASKS)]
    if fault == "nested":
        module = type(contestant).__name__.lower()
        of_its_own = module in ("procession", "multiprocessing", "billiard")
        items[VICTIM] = (fault, VICTIM, module if of_its_own else "multiprocessing")
        return items
    if fault == "argument-unpicklable":
        items[VICTIM] = ("good", VICTIM, fault_tasks.Unpicklable())
    elif fault == "argument-poisoned":
        items[VICTIM] = ("good", VICTIM, fault_tasks.PoisonedPickle("the worker"))
    elif fault != "good":
        items[VICTIM] = (fault, VICTIM)
    return items


def _function(fault: str) -> Callable[[Any], Any]:
    if fault == "lambda":
        return lambda task: task[1]
    return fault_tasks.misbehave


def _outcomes(contestant: Contestant, fault: str) -> tuple[list[Any], list[BaseException], int]:
    """As `Contestant.outcomes`, in a thread, so that a call that never returns is seen, too."""
    found: list[Any] = []

    def run() -> None:
        try:
            items = _items(contestant, fault)
            try:
                found.append(contestant.outcomes(_function(fault), items, LIMIT_SECONDS))
            except Unsupported as error:
                found.append(error)
            except BaseException as error:
                # The call itself raised: nobody got anything.
                found.append(([], [error] * len(items), 0))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(LIMIT_SECONDS + 2)
    if not found:
        return [], [], TASKS
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def task_fault(contestant: Contestant, record: Callable[..., None], fault: str) -> None:
    """A task does something; what do the others see?"""
    options = {"limit_seconds": 1.0} if fault == "stuck" else {}
    if fault == "initializer":
        options = {"initializer": fault_tasks.raise_at_start}
    try:
        contestant.open(PROCESSES, **options)
    except TypeError as error:
        raise Unsupported(f"has no such option ({error})") from None
    if not options:
        _outcomes(contestant, "good")
    if fault == "idle-killed":
        pids = {contestant.caller(workloads.worker_pid)(None) for _ in range(20)}
        time.sleep(0.1)
        os.kill(pids.pop(), signal.SIGKILL)
        time.sleep(0.05)
    started = time.monotonic()
    results, errors, never = _outcomes(contestant, fault if fault != "idle-killed" else "good")
    seconds = time.monotonic() - started
    if fault in ("initializer", "lambda"):
        # It concerns all tasks.
        verdict = "hangs" if never else "works" if len(results) == TASKS else "told" if not results else "more fail"
        again_text = ""
    else:
        good = set(range(TASKS)) - {VICTIM}
        came = [result for result in results if isinstance(result, int)]
        again, _, again_never = _outcomes(contestant, "good")
        usable = sorted(again) == list(range(TASKS))
        if never:
            verdict = "hangs"
        elif not usable:
            verdict = "hangs" if again_never else "pool dead"
        elif not errors and len(results) == TASKS:
            verdict = "works"
        elif set(came) == good and len(errors) == 1:
            verdict = "own"
        else:
            verdict = "more fail"
        again_text = "" if usable else f"; then {len(again)} of {TASKS} good tasks"
    detail = f"{len(results)} results, {len(errors)} errors, {never} never{again_text}"
    record("cell", verdict, detail=detail, error=_text(errors[0]) if errors else "", seconds=round(seconds, 3))
    _end(contestant, record)


def _end(contestant: Contestant, record: Callable[..., None]) -> None:
    ended: list[bool] = []

    def end() -> None:
        try:
            contestant.abandon()
        except BaseException:
            pass
        ended.append(True)

    thread = threading.Thread(target=end, daemon=True)
    thread.start()
    thread.join(5)
    record("end", "ends" if ended else "its end hangs")


def work_until_told(contestant: Contestant, record: Callable[..., None]) -> None:
    """Keeps all workers busy, says so, and waits to be interrupted or killed from outside."""
    contestant.open(PROCESSES)
    _outcomes(contestant, "good")
    record("busy", os.getpid())
    try:
        contestant.map(fault_tasks.busy, [3.0] * 16, 1)
    except KeyboardInterrupt:
        sys.exit(1)


__all__ = ["LIMIT_SECONDS", "VERDICTS", "task_fault", "work_until_told"]
