"""The Python process behind the ``procession`` command: loads the user's function and runs it in a pool.

The command starts it with two descriptors and talks to it in JSON lines; the protocol is told in
``crates/procession-cli/src/host/README.md``. Nothing here writes to standard output or standard error, which belong to
the user's function.
"""

from __future__ import annotations

import fcntl
import functools
import importlib
import importlib.machinery
import importlib.util
import json
import keyword
import os
import signal
import sys
import threading
import time
import traceback
import types
from typing import Any, AsyncIterable, BinaryIO, Callable, NoReturn

import procession

# Pool() would load it later, when the user's folder leads the path and a queue.py there would be taken for Python's.
import procession.pool

PROTOCOL_VERSION = 1

# A traceback longer than this (a deep recursion, say) loses its middle.
MAX_TRACEBACK_CHARACTERS = 16_384

# (status, seconds, pid, JSON fragment that completes the report)
Outcome = tuple[str, float, int, str]


class Fatal(Exception):
    """The host cannot do its job: what was wrong and where, and what to do."""

    def __init__(self, kind: str, message: str, help: str | None = None, traceback: str | None = None) -> None:
        super().__init__(message)
        self.report = {"kind": kind, "message": message, "help": help, "traceback": traceback}


def to_json(value: object) -> str:
    """JSON that every reader takes: ``ValueError`` and friends where there is none, such as for NaN."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    # Lone surrogates, as in names of files that are not UTF-8, are no text for anybody but Python.
    text.encode("utf-8")
    return text


def printable(text: str) -> str:
    """The text with what UTF-8 cannot say written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


# --- the user's function -----------------------------------------------------------------------------------------


def _error_line(error: BaseException) -> str:
    """The error's class and the first line of its text; a syntax error is preceded by its place, others by nothing."""
    lines = "".join(traceback.format_exception_only(type(error), error)).splitlines()
    line = next((line for line in lines if line and not line[0].isspace()), type(error).__name__)
    return printable(line.rstrip())


def _user_traceback(error: BaseException, skip_files: tuple[str, ...]) -> str:
    """The traceback without the frames at its top that are not the user's."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(skip_files):
        frames = frames.tb_next
    text = "".join(traceback.format_exception(type(error), error, frames))
    if len(text) > MAX_TRACEBACK_CHARACTERS:
        half = MAX_TRACEBACK_CHARACTERS // 2
        text = f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"
    return printable(text)


def _module_name(path: str) -> str:
    """A name under which the module of this file hides no other: its own, or else one that nobody has."""
    name = os.path.splitext(os.path.basename(path))[0]
    taken = name in sys.modules or name in getattr(sys, "stdlib_module_names", ())
    if name.isidentifier() and not keyword.iskeyword(name) and not taken:
        return name
    return "procession_user_" + "".join(c if c.isalnum() else "_" for c in name)


def _load_file(path: str) -> types.ModuleType:
    full_path = os.path.abspath(path)
    if not os.path.exists(full_path):
        raise Fatal(
            "function",
            f"no such file: {path}",
            f"the path is taken from the current folder, {printable(os.getcwd())}",
        )
    if os.path.isdir(full_path):
        raise Fatal("function", f"{path} is a folder, not a Python file", f"name a file in it: {path}/FILE.py:FUNCTION")
    # The file's own folder comes first, as when Python runs the file; its neighbours can be imported.
    sys.path.insert(0, os.path.dirname(full_path))
    sys.argv[:] = [full_path]
    name = _module_name(full_path)
    loader = importlib.machinery.SourceFileLoader(name, full_path)
    spec = importlib.util.spec_from_file_location(name, full_path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses, pickle and others look a class's module up here while it is being made.
    sys.modules[name] = module
    _execute(path, lambda: loader.exec_module(module))
    return module


def _load_module(name: str) -> types.ModuleType:
    # The current folder comes first, as with `python -m`.
    sys.path.insert(0, os.getcwd())
    sys.argv[:] = [name]
    module = _execute(name, lambda: importlib.import_module(name))
    assert isinstance(module, types.ModuleType)
    return module


def _execute(place: str, load: Callable[[], Any]) -> Any:
    pid = os.getpid()
    try:
        loaded = load()
        if os.getpid() != pid:
            # The module has forked and come back in both processes. The copy would answer what this one is asked.
            os._exit(0)
        return loaded
    except BaseException as error:
        if isinstance(error, ModuleNotFoundError) and error.name is not None:
            if place == error.name or place.startswith(error.name + "."):
                raise Fatal(
                    "function",
                    f"no module named {error.name!r} that Python can import from {printable(os.getcwd())}",
                    f"for a file write its name with .py, as in {error.name.replace('.', '/')}.py:FUNCTION",
                ) from None
            help = f"install {error.name} for {sys.executable}, or choose another interpreter with --python PATH"
        elif isinstance(error, ImportError) and "attempted relative import" in str(error):
            help = "the file belongs to a package: name it as package.module:function, from the folder above"
        elif isinstance(error, SyntaxError):
            help = f"this is Python {sys.version.split()[0]}; correct the file, or choose another with --python PATH"
        else:
            help = "the file is executed once to load the function: what must not run then belongs under `if __name__ == '__main__':`"
        text = _user_traceback(error, (__file__, "<frozen importlib", importlib.__file__ or __file__))
        raise Fatal("function", f"importing {place} raised {_error_line(error)}", help, text) from None


def _callables(owner: object) -> list[str]:
    """Names of the public functions that `owner` itself defines, in order of definition where known."""
    own_module = owner.__name__ if isinstance(owner, types.ModuleType) else getattr(owner, "__module__", None)
    names = []
    for name, value in vars(owner).items() if hasattr(owner, "__dict__") else ():
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", None) == own_module:
            names.append(name)
    return names


def load_function(place: dict[str, str], function: str) -> Callable[..., Any]:
    """The function that the command line names, or `Fatal`."""
    if "file" in place:
        where = place["file"]
        found: Any = _load_file(where)
    else:
        where = place["module"]
        found = _load_module(where)
    reached = where
    owner = found
    for name in function.split("."):
        owner = found
        try:
            found = getattr(owner, name)
        except AttributeError:
            # Only a mistake needs it, and every worker would pay for the import.
            import difflib

            there = _callables(owner)
            everything = [attribute for attribute in dir(owner) if not attribute.startswith("__")]
            close = difflib.get_close_matches(name, there, n=3) or difflib.get_close_matches(name, everything, n=3)
            if close:
                help = "did you mean " + " or ".join(repr(match) for match in close) + "?"
            elif there:
                more = ", …" if len(there) > 10 else ""
                help = f"functions there: {', '.join(there[:10])}{more}"
            else:
                help = "it defines no public function"
            raise Fatal("function", f"{reached} has no function {name!r}", help) from None
        reached = f"{reached}:{name}" if reached == where else f"{reached}.{name}"
    if not callable(found):
        there = _callables(owner)
        help = f"functions there: {', '.join(there[:10])}" if there else "name something that can be called"
        raise Fatal("function", f"{reached} is not a function but of type {type(found).__name__}", help)
    return found  # type: ignore[no-any-return]


class Task:
    """The user's function, with how an input becomes its arguments."""

    def __init__(self, hello: dict[str, Any]) -> None:
        self.function = load_function(hello["place"], hello["function"])
        self.json: bool = hello["json"]
        self.star: bool = hello["star"]

    def arguments(self, item: str | bytes) -> Any:
        """The list of arguments for this input (bytes are the name of a file)."""
        if isinstance(item, bytes):
            return (os.fsdecode(item),)
        if not self.json:
            return (item,)
        value = json.loads(item)
        return value if self.star else (value,)

    def call(self, *arguments: Any) -> Any:
        """What the function returns; a generator is read to its end, a coroutine run to its end, or both."""
        result = self.function(*arguments)
        if isinstance(result, types.GeneratorType):
            return list(result)
        if isinstance(result, types.AsyncGeneratorType):
            result = _gather(result)
        if isinstance(result, types.CoroutineType):
            import asyncio

            return asyncio.run(result)
        return result


async def _gather(values: AsyncIterable[Any]) -> list[Any]:
    return [value async for value in values]


# --- in the workers ----------------------------------------------------------------------------------------------

# The task of this process. Workers that are forked find the host's; others load it in `_start_worker`.
_task: Task | None = None


def _print_by_lines() -> None:
    """Lines must not wait in a buffer that a kill would take along, nor be written in pieces that mix with others'."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(line_buffering=True, write_through=False)


def _start_worker(hello: dict[str, Any] | None, inherited_descriptors: tuple[int, ...]) -> None:
    global _task
    # A copy of the host's pipes here would hide the host's death, and user code could write into them.
    for descriptor in inherited_descriptors:
        os.close(descriptor)
    _print_by_lines()
    if hello is not None:
        # Where the host was when it loaded the function, which may have gone elsewhere meanwhile.
        os.chdir(hello["folder"])
        _task = Task(hello)


def _run_item(item: str | bytes) -> Outcome:
    """Runs the function on one input. Whatever it does short of ending the process becomes an outcome."""
    task = _task
    assert task is not None
    started = time.perf_counter()
    try:
        result = task.call(*task.arguments(item))
        seconds = time.perf_counter() - started
    # sys.exit() and custom BaseExceptions too are an item's failure and nobody else's.
    except BaseException as error:
        seconds = time.perf_counter() - started
        return "error", seconds, os.getpid(), f'"error":{_error_json(error)}'
    try:
        fragment = f'"result":{to_json(result)}'
    except Exception:
        try:
            fragment = f'"result":{to_json(printable(repr(result)))},"result_is_repr":true'
        except Exception as error:
            return "error", seconds, os.getpid(), f'"error":{_error_json(error)}'
    return "ok", seconds, os.getpid(), fragment


def _error_json(error: BaseException) -> str:
    try:
        message = str(error)
    except Exception:
        message = "(its text cannot be had: str() of it raised)"
    try:
        text = _user_traceback(error, (__file__,))
    except Exception:
        text = "(its traceback cannot be had)"
    return to_json({"type": type(error).__name__, "message": printable(message), "traceback": text})


def _call_function(arguments: Any) -> Any:
    assert _task is not None
    return _task.call(*arguments)


# --- in the host -------------------------------------------------------------------------------------------------


class Channel:
    """The two pipes to the command."""

    def __init__(self, request_descriptor: int, report_descriptor: int) -> None:
        self.descriptors = (request_descriptor, report_descriptor)
        for descriptor in self.descriptors:
            os.set_inheritable(descriptor, False)
        self.requests: BinaryIO = os.fdopen(request_descriptor, "rb")
        self._report_descriptor = report_descriptor
        self._lock = threading.Lock()

    def receive(self) -> tuple[str, dict[str, Any]] | None:
        """The next request as (kind, fields), or None when the command has closed its end or is gone."""
        line = self.requests.readline()
        if not line.endswith(b"\n"):
            return None
        ((kind, fields),) = json.loads(line).items()
        return kind, fields

    def send(self, kind: str, fields_json: str) -> None:
        """Reports one object with this kind as its only key. Without a reader it goes nowhere."""
        line = memoryview(f'{{"{kind}":{fields_json}}}\n'.encode())
        with self._lock:
            try:
                while line:
                    line = line[os.write(self._report_descriptor, line) :]
            except BrokenPipeError:
                pass

    def die_with_command(self, armed: bool) -> None:
        """While armed, the kernel ends this process when the command is gone, even in the middle of user code.

        SIGIO comes when something happens to the pipe, and its default action is to end the process. Nothing is
        sent while it is armed, so what happens can only be that the other end is closed.
        """
        descriptor = self.descriptors[0]
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        if armed:
            fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_ASYNC)
        else:
            fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & ~os.O_ASYNC)


def _make_pool(hello: dict[str, Any], channel: Channel, processes: int, **options: Any) -> Any:
    """A pool whose workers know the task."""
    context = procession.get_context(hello["start_method"])
    if context.get_start_method() == "fork":
        arguments: tuple[Any, ...] = (None, channel.descriptors)
    else:
        arguments = (hello, ())
    path = sys.path[:]
    try:
        if arguments[0] is not None:
            # Such workers load the function themselves, after all that they need before: they would take a json.py in the
            # user's folder for Python's.
            sys.path[:] = hello["path"]
        return context.Pool(processes, _start_worker, arguments, **options)
    except Exception as error:
        scarce = isinstance(error, (OSError, MemoryError, ValueError))
        help = (
            "ask for fewer with --processes N, or see the limits of this session with `ulimit -a`" if scarce else None
        )
        raise Fatal("pool", f"cannot start a pool of {processes} processes: {_error_line(error)}", help) from error
    finally:
        sys.path[:] = path


class MapHost:
    """Runs items as they come and reports each as it ends. The command bounds how many are under way."""

    def __init__(self, channel: Channel, pool: Any, function_name: str, command_pid: int) -> None:
        self.channel = channel
        self.pool = pool
        self.waiting = 0
        self.stopping = False
        self.function_name = function_name
        self.command_pid = command_pid
        self.lock = threading.Lock()

    def run(self) -> None:
        """Serves until the command closes its end; items that are still under way then are not wanted any more."""
        while True:
            request = self.channel.receive()
            if request is None:
                break
            kind, item = request
            assert kind == "item", kind
            index: int = item["index"]
            text = bytes.fromhex(item["name_hex"]) if "name_hex" in item else item["text"]
            with self.lock:
                self.waiting += 1
            done = functools.partial(self._done, index)
            done.takes_output = True  # type: ignore[attr-defined]
            try:
                self.pool.apply_async(
                    _run_item,
                    (text,),
                    callback=done,
                    error_callback=functools.partial(self._lost, index),
                )
            except Exception as error:
                raise Fatal("pool", f"the pool takes no more work: {_error_line(error)}", None, str(error)) from error
        with self.lock:
            self.stopping = True
            all_answered = self.waiting == 0
        if all_answered:
            self.pool.close()
        else:
            self.pool.terminate()
        self.pool.join()
        if os.getppid() != self.command_pid:
            # The command would clear up what the function had started; it is gone, so that is ours to do. Python's
            # resource tracker ignores SIGTERM, and ends by itself when all is cleared.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.killpg(0, signal.SIGTERM)

    def _done(self, index: int, outcome: Outcome, output: str | None) -> None:
        status, seconds, pid, fragment = outcome
        if output:
            fragment += f',"output":{to_json(printable(output))}'
        self._report(
            f'{{"index":{index},"status":"{status}","seconds":{seconds:.7f},"pid":{pid},{fragment}}}',
        )

    def _lost(self, index: int, error: BaseException) -> None:
        if self.stopping:
            # Ended by us.
            return
        message = str(error)
        task = getattr(error, "task", None)
        if task:
            # For the user it is their function that ran, not ours around it.
            message = message.replace(task, task.replace(_run_item.__name__, self.function_name, 1))
        details: dict[str, Any] = {"type": type(error).__name__, "message": printable(message)}
        report: dict[str, Any] = {"index": index, "pid": getattr(error, "pid", None), "error": details}
        if isinstance(error, procession.TaskTimeout):
            report["status"] = "timed_out"
            report["seconds"] = error.elapsed_seconds
            details["limit_seconds"] = error.limit_seconds
        elif isinstance(error, procession.WorkerDied):
            report["status"] = "died"
            exitcode = details["exitcode"] = error.exitcode
            if exitcode is not None and exitcode < 0:
                details["signal"] = _signal_name(-exitcode)
        elif isinstance(error, procession.MemoryLimitExceeded):
            report["status"] = "died"
        elif isinstance(error, procession.WorkerInitError):
            # The same for every item: the worker cannot be made, so neither can the run.
            fatal = Fatal("pool", "no worker could start", None, printable(str(error)))
            self.channel.send("fatal", to_json(fatal.report))
            return
        else:
            report["status"] = "error"
        output = getattr(error, "output", "")
        if output:
            report["output"] = printable(output)
        self._report(to_json(report))

    def _report(self, fields_json: str) -> None:
        # Counted first: the command may close its end as soon as it has the last report.
        with self.lock:
            self.waiting -= 1
        self.channel.send("result", fields_json)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _busy_seconds() -> float:
    """How long this thread has computed or waited for a core: on a busy machine it wants more than it gets."""
    try:
        with open("/proc/thread-self/schedstat", "rb") as file:
            computed, waited_for_core, _ = map(int, file.read().split())
    except (OSError, ValueError):
        return time.thread_time()
    return (computed + waited_for_core) / 1e9


def _measure(hello: dict[str, Any], channel: Channel, processes: int | None) -> None:
    """Takes all items, then times them once: in a plain loop, or in a pool whose making counts."""
    assert _task is not None
    task = _task
    inputs: list[Any] = []
    while True:
        request = channel.receive()
        if request is None:
            return
        kind, item = request
        if kind == "measure":
            break
        inputs.append(task.arguments(bytes.fromhex(item["name_hex"]) if "name_hex" in item else item["text"]))

    channel.die_with_command(True)
    pool = None
    busy_started = _busy_seconds()
    started = time.perf_counter()
    try:
        if processes is None:
            call = task.call
            for arguments in inputs:
                call(*arguments)
        else:
            pool = _make_pool(hello, channel, processes)
            pool.map(_call_function, inputs)
        seconds = time.perf_counter() - started
    except Fatal:
        raise
    except BaseException as error:
        cause = error.__cause__
        text = printable(str(cause)) if cause is not None else _user_traceback(error, (__file__,))
        raise Fatal(
            "task",
            f"a call raised {_error_line(error)}",
            "a measurement of failing calls says nothing: give inputs that the function can do",
            text.strip().strip('"').strip(),
        ) from error
    finally:
        busy_seconds = _busy_seconds() - busy_started
        if pool is not None:
            pool.terminate()
            pool.join()
    channel.die_with_command(False)
    channel.send("measured", to_json({"seconds": seconds, "busy_seconds": busy_seconds}))


def _serve(channel: Channel) -> None:
    global _task
    command_pid = os.getppid()
    channel.send(
        "hello",
        to_json({"protocol": PROTOCOL_VERSION, "version": _version(), "python": sys.version.split()[0]}),
    )
    request = channel.receive()
    if request is None:
        return
    kind, hello = request
    if kind != "hello" or hello["protocol"] != PROTOCOL_VERSION:
        raise Fatal("version", _version())
    ((job, settings),) = hello["job"].items()
    if job == "load":
        _load(hello, channel, settings)
        return
    channel.die_with_command(True)
    hello["folder"], hello["path"] = os.getcwd(), sys.path[:]
    _task = Task(hello)
    if job == "map":
        limits = {
            "timeout": settings["timeout_seconds"],
            "memory_limit": settings["memory_limit_bytes"],
            "output": settings["output"],
        }
        pool = _make_pool(hello, channel, settings["processes"], **limits)
        channel.die_with_command(False)
        channel.send("ready", "{}")
        MapHost(channel, pool, hello["function"], command_pid).run()
    else:
        channel.die_with_command(False)
        channel.send("ready", "{}")
        _measure(hello, channel, settings["processes"])


def _load(hello: dict[str, Any], channel: Channel, settings: dict[str, Any]) -> None:
    """Runs a function as a virtual user; the part of the package that does so is loaded only here."""
    try:
        users = importlib.import_module("procession.load._command")
    except ImportError as error:
        raise Fatal("pool", f"this procession cannot run functions as virtual users: {_error_line(error)}") from error
    users.serve(hello, settings, channel)


def _version() -> str:
    try:
        return str(procession.__version__)
    except (AttributeError, ImportError):
        return "of unknown version"


def main() -> NoReturn:
    """Serves the command that started this process, with the two descriptors named in ``sys.argv``."""
    channel = Channel(int(sys.argv[1]), int(sys.argv[2]))
    _print_by_lines()
    try:
        _serve(channel)
        sys.exit(0)
    except Fatal as fatal:
        report = fatal.report
    except Exception as error:
        report = Fatal(
            "pool", f"the host process failed: {_error_line(error)}", None, _user_traceback(error, ())
        ).report
    # The command closes its end on this; that must not kill what ends in order.
    channel.die_with_command(False)
    channel.send("fatal", to_json(report))
    sys.exit(1)
