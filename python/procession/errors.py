"""What is raised when something other than the user's own code went wrong.

Every class here is a `multiprocessing.ProcessError`, so one `except mp.ProcessError` covers them and the standard
library's own. Each survives pickling with its attributes, so it can be logged, stored, or raised out of a nested pool.
The functions below build them, so that their texts are worded in one place.
"""

from __future__ import annotations

import signal
from multiprocessing import ProcessError

__all__ = [
    "DeadlockError",
    "MemoryLimitExceeded",
    "PoisonTask",
    "PoolTerminated",
    "ResultDecodeError",
    "TaskCancelled",
    "TaskTimeout",
    "WorkerDied",
    "WorkerInitError",
]


class WorkerDied(ProcessError):
    """The worker that was running this task ended before the task did. Only this task is lost; the pool goes on.

    Attributes:
        pid: process id of the worker, or None if it never became known.
        exitcode: as `Process.exitcode`: the worker's exit code, or minus the number of the signal that ended it, or
            None if nobody could see how it ended.
        task: the call that was running, for example ``"f(3)"``; empty if the worker was idle.
        output: what the task had written to its standard output and error; empty without the pool's `output="capture"`.
    """

    output: str = ""

    def __init__(
        self, message: str = "", *, pid: int | None = None, exitcode: int | None = None, task: str = ""
    ) -> None:
        super().__init__(message)
        self.pid = pid
        self.exitcode = exitcode
        self.task = task


class PoisonTask(WorkerDied):
    """Each attempt at this task killed its worker, so it is not tried again.

    Attributes:
        attempts: how often it was tried.
        pid, exitcode, task, output: as in `WorkerDied`, of the last attempt, which is also the `__cause__`.
    """

    def __init__(
        self,
        message: str = "",
        *,
        pid: int | None = None,
        exitcode: int | None = None,
        task: str = "",
        attempts: int = 0,
    ) -> None:
        super().__init__(message, pid=pid, exitcode=exitcode, task=task)
        self.attempts = attempts


class TaskTimeout(ProcessError):
    """The task ran longer than its `timeout`, and its worker was killed for it. The pool goes on.

    Deliberately not a `multiprocessing.TimeoutError`: that one says that *waiting* took too long while the task runs on.

    Attributes:
        pid: process id of the worker that was killed, or None if it never became known.
        task: the call that was running, for example ``"f(3)"``.
        elapsed_seconds: how long the task had run when it was stopped.
        limit_seconds: how long it was allowed to run.
        stack: where the worker was then, thread by thread, as `faulthandler` writes it; empty if it could not tell.
        output: what the task had written to its standard output and error; empty without the pool's `output="capture"`.
    """

    output: str = ""

    def __init__(
        self,
        message: str = "",
        *,
        pid: int | None = None,
        task: str = "",
        elapsed_seconds: float = 0.0,
        limit_seconds: float = 0.0,
        stack: str = "",
    ) -> None:
        super().__init__(message)
        self.pid = pid
        self.task = task
        self.elapsed_seconds = elapsed_seconds
        self.limit_seconds = limit_seconds
        self.stack = stack


class MemoryLimitExceeded(ProcessError):
    """The task's worker took more memory than the pool's `memory_limit`, and was killed for it. The pool goes on.

    Attributes:
        pid: process id of the worker that was killed, or None if it never became known.
        task: the call that was running, for example ``"f(3)"``.
        peak_bytes: the most memory of its own that the worker was seen with.
        limit_bytes: how much it was allowed to have.
        stack: where the worker was then, thread by thread, as `faulthandler` writes it; empty if it could not tell.
        output: what the task had written to its standard output and error; empty without the pool's `output="capture"`.
    """

    output: str = ""

    def __init__(
        self,
        message: str = "",
        *,
        pid: int | None = None,
        task: str = "",
        peak_bytes: int = 0,
        limit_bytes: int = 0,
        stack: str = "",
    ) -> None:
        super().__init__(message)
        self.pid = pid
        self.task = task
        self.peak_bytes = peak_bytes
        self.limit_bytes = limit_bytes
        self.stack = stack


class TaskCancelled(ProcessError):
    """The task was cancelled before it had a result. If a worker was running it, that worker was killed.

    Attributes:
        task: the call, for example ``"f(...)"``.
        output: what the task had written to its standard output and error; empty without the pool's `output="capture"`.
    """

    output: str = ""

    def __init__(self, message: str = "", *, task: str = "") -> None:
        super().__init__(message)
        self.task = task


class WorkerInitError(ProcessError):
    """No worker of the pool can start: the initializer raised, or the worker died before its first task.

    Raised by everything that waits for the pool, and by every later submission.

    Attributes:
        pid: process id of the worker, or None if it never became known.
        exitcode: as in `WorkerDied`; None if the worker did not end by itself.
        traceback_text: the traceback as the worker printed it; empty if it left none.
    """

    def __init__(
        self,
        message: str = "",
        *,
        pid: int | None = None,
        exitcode: int | None = None,
        traceback_text: str = "",
    ) -> None:
        super().__init__(message)
        self.pid = pid
        self.exitcode = exitcode
        self.traceback_text = traceback_text


class ResultDecodeError(ProcessError):
    """The task ended, but its result or its exception could not be rebuilt in this process.

    `__cause__` is what the rebuilding raised.

    Attributes:
        task: the function, for example ``"f"``.
        traceback_text: the traceback of the task's own exception, as text; empty if the task returned normally.
    """

    def __init__(self, message: str = "", *, task: str = "", traceback_text: str = "") -> None:
        super().__init__(message)
        self.task = task
        self.traceback_text = traceback_text


class PoolTerminated(ProcessError):
    """The pool was terminated before this task had a result."""


class DeadlockError(ProcessError):
    """Some wait for each other, and for nobody else: without this error they would do so for ever.

    They hold locks and wait for them in a circle, wait for the end of processes, or for queues into which nobody else could
    put anything, or out of which nobody else could take. The error is raised in one of them, the one that came last. What it
    releases on its way out, or its end, lets the others go on.

    Attributes:
        cycle: those who wait, as dictionaries with the keys "process" (its name), "pid", "thread" (the kernel's number),
            "place" (file and line, where it waits), "lock" (the lock that it waits for, or None), "queue" (the queue that it
            waits for, or None; if both are None it waits for the end of a process) and "holder_pid" (who has that lock, or is
            that process; None if it is a queue, which any of them could serve). The first one is where the error was raised.
    """

    def __init__(self, message: str = "", *, cycle: list[dict[str, object]] | None = None) -> None:
        super().__init__(message)
        self.cycle = cycle or []


def deadlock(
    message: str, members: list[tuple[str, int, int, str, str | None, str | None, int | None]]
) -> DeadlockError:
    """Builds the error of a wait that is part of a deadlock."""
    keys = ("process", "pid", "thread", "place", "lock", "queue", "holder_pid")
    return DeadlockError(message, cycle=[dict(zip(keys, member)) for member in members])


def worker_died(name: str, pid: int | None, exitcode: int | None, task: str, output: str = "") -> WorkerDied:
    """Builds the error of a task whose worker ended under it."""
    message = f"{_worker(name, pid)} {_ending(exitcode)}"
    if task:
        message += f" while running {task}"
    error = WorkerDied(message + _printed(output), pid=pid, exitcode=exitcode, task=task)
    _note_output(error, output)
    return error


def poison_task(last: WorkerDied, attempts: int) -> PoisonTask:
    """Builds the error of a task that has killed all the workers that tried it."""
    message = f"{last.task or 'the task'} killed its worker in each of {attempts} attempts, and is not tried again; the last: {last}"
    error = PoisonTask(message, pid=last.pid, exitcode=last.exitcode, task=last.task, attempts=attempts)
    error.__cause__ = last
    _note_output(error, last.output)
    return error


def memory_limit_exceeded(
    name: str, pid: int | None, task: str, peak_bytes: int, limit_bytes: int, stack: str, output: str = ""
) -> MemoryLimitExceeded:
    """Builds the error of a task whose worker took too much memory."""
    message = (
        f"{task or 'the task'} took {_bytes(peak_bytes)} of memory, its limit was {_bytes(limit_bytes)}; "
        f"{_worker(name, pid)} was killed"
    )
    error = MemoryLimitExceeded(
        message + _where(stack) + _printed(output),
        pid=pid,
        task=task,
        peak_bytes=peak_bytes,
        limit_bytes=limit_bytes,
        stack=stack,
    )
    _note_output(error, output)
    return error


def task_cancelled(task: str, output: str = "") -> TaskCancelled:
    """Builds the error of a task that was cancelled."""
    error = TaskCancelled(f"{task or 'the task'} was cancelled", task=task)
    _note_output(error, output)
    return error


def task_timeout(
    name: str,
    pid: int | None,
    task: str,
    elapsed_seconds: float,
    limit_seconds: float,
    stack: str = "",
    output: str = "",
) -> TaskTimeout:
    """Builds the error of a task that was stopped because it ran too long."""
    message = (
        f"{task or 'the task'} ran for {_seconds(elapsed_seconds)}, its limit was {_seconds(limit_seconds)}; "
        f"{_worker(name, pid)} was killed"
    )
    error = TaskTimeout(
        message + _where(stack) + _printed(output),
        pid=pid,
        task=task,
        elapsed_seconds=elapsed_seconds,
        limit_seconds=limit_seconds,
        stack=stack,
    )
    _note_output(error, output)
    return error


def process_timeout(
    name: str, pid: int | None, elapsed_seconds: float, limit_seconds: float, stack: str
) -> TaskTimeout:
    """Builds the error of a process that was ended because it ran too long."""
    message = (
        f"process {name}{'' if pid is None else f' (pid {pid})'} ran for {_seconds(elapsed_seconds)}, "
        f"its limit was {_seconds(limit_seconds)}; it was killed"
    )
    return TaskTimeout(
        message + _where(stack),
        pid=pid,
        task=name,
        elapsed_seconds=elapsed_seconds,
        limit_seconds=limit_seconds,
        stack=stack,
    )


def worker_init_error(
    name: str | None, pid: int | None, exitcode: int | None, traceback_text: str | None
) -> WorkerInitError:
    """Builds the error of a pool whose workers cannot start; `name` is None where the text says which one it was.

    With a traceback the initializer (or the import of the main module) is to blame, without one the way it ended is
    all there is to tell.
    """
    text = traceback_text or ""
    message = "the pool's workers cannot start" if name is None else f"{_worker(name, pid)} could not start"
    if exitcode is not None or not text:
        message += f": it {_ending(exitcode)} before its first task"
    return WorkerInitError(message + _quoted(text), pid=pid, exitcode=exitcode, traceback_text=text)


def result_decode_error(
    task: str, traceback_text_from_worker: str | None, cause: BaseException | None
) -> ResultDecodeError:
    """Builds the error of a task whose outcome arrived but could not be rebuilt; `cause` becomes its `__cause__`."""
    text = traceback_text_from_worker or ""
    outcome = "exception" if text else "result"
    message = f"the {outcome} of {task or 'the task'} could not be rebuilt in this process"
    if cause is not None:
        message += f": {type(cause).__name__}: {_text_of(cause)}"
    if text:
        message += "; the worker had said:" + _quoted(text)
    error = ResultDecodeError(message, task=task, traceback_text=text)
    error.__cause__ = cause
    return error


def pool_terminated() -> PoolTerminated:
    """Builds the error of a task that a terminated pool will never finish."""
    return PoolTerminated("the pool was terminated before the task finished")


def _worker(name: str, pid: int | None) -> str:
    return f"worker {name}" if pid is None else f"worker {name} (pid {pid})"


def _ending(exitcode: int | None) -> str:
    if exitcode is None:
        return "was lost"
    if exitcode >= 0:
        return f"exited with code {exitcode}"
    return f"was killed by {_signal_name(-exitcode)}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        # Between SIGRTMIN and SIGRTMAX only the two ends have a name.
        if signal.SIGRTMIN < number < signal.SIGRTMAX:
            return f"SIGRTMIN+{number - signal.SIGRTMIN}"
        return f"signal {number}"


def _seconds(value: float) -> str:
    return f"{value:.4g} s"


def _bytes(value: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} GiB"


def _where(stack: str) -> str:
    return f"; it was here:{_quoted(stack)}" if stack else ""


# Of a long output a message shows the end; all of it is in the attribute.
_MOST_PRINTED = 4000


def _printed(output: str) -> str:
    if not output.strip():
        return ""
    end = output[-_MOST_PRINTED:]
    return f"; {'the end of what it' if len(end) < len(output) else 'it'} had printed:{_quoted(end)}"


def _note_output(error: WorkerDied | TaskTimeout | MemoryLimitExceeded | TaskCancelled, output: str) -> None:
    if output:
        error.output = output


def _quoted(traceback_text: str) -> str:
    # The same frame as multiprocessing's RemoteTraceback, which people and tools already recognise.
    return f'\n\n"""\n{traceback_text.rstrip()}\n"""' if traceback_text else ""


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        # It came out of unpickling untrusted user code, so even its __str__ may be broken.
        return "(its text cannot be shown)"
