"""How a pool's supervisor comes about: one function per start method."""

import os
import sys
import warnings
from multiprocessing import util as _util

from . import _native

__all__ = ()

WORKER_PREFIXES = {"fork": "Fork", "spawn": "Spawn", "forkserver": "ForkServer"}


def _callers_own():
    """Descriptors that each child must let go of which is forked by this process."""
    descriptors = []
    for name in "process", "_template", "_zygote":
        module = sys.modules.get(f"{__package__}.{name}")
        if module is not None:
            descriptors += module.own_descriptors()
    return descriptors


def _fork(pool):
    from ._worker import Settings, work

    settings = Settings(pool)
    prefix = WORKER_PREFIXES[pool._start_method]
    # What is buffered would be written once by each process.
    _util._flush_std_streams()
    # As `os.fork` does, which this takes the place of.
    sys.audit("os.fork")
    if sys.version_info >= (3, 12) and (_native.thread_count() or 1) > 1:
        warnings.warn(
            f"This process (pid={os.getpid()}) is multi-threaded, use of fork() may lead to deadlocks in the child.",
            DeprecationWarning,
            stacklevel=1,
        )
    worker = pool._fork_supervisor(_callers_own())
    if worker is not None:
        code = 1
        try:
            code = work(*worker, settings, prefix)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            # Nothing of the caller's program may run in this process, whatever happens.
            os._exit(code)


class _Spawning:
    """Stands in for a process that is being started while its arguments are pickled: locks, queues and connections may
    only travel then, and their descriptors with them."""

    def __init__(self, method):
        self.method = method
        self.descriptors = []

    def duplicate_for_child(self, descriptor):
        self.descriptors.append(descriptor)
        return descriptor if self.method == "spawn" else len(self.descriptors) - 1

    def DupFd(self, descriptor):
        if self.method == "spawn":
            from multiprocessing.popen_spawn_posix import _DupFd

            return _DupFd(descriptor)
        from multiprocessing.popen_forkserver import _DupFd

        return _DupFd(descriptor)


def preparation(name):
    """What a clean interpreter is told of this one: `multiprocessing.spawn.get_preparation_data`."""
    from multiprocessing import spawn

    data = spawn.get_preparation_data(name)
    # A program that came through standard input says that this is its file.
    if os.path.basename(data.get("init_main_from_path") or "") == "<stdin>":
        del data["init_main_from_path"]
    return data


def _pack(pool, method):
    """Pickles what a clean interpreter needs to become the pool's supervisor."""
    import io
    from multiprocessing import context, reduction, resource_tracker

    from . import _by_value
    from ._worker import Settings

    spawning = _Spawning(method)
    buffer = io.BytesIO()
    data = preparation(f"{WORKER_PREFIXES[method]}PoolSupervisor")
    # The child must not ask for a default start method, but have ours.
    data["start_method"] = method
    tracker = resource_tracker._resource_tracker._fd
    settings = Settings(pool)
    context.set_spawning_popen(spawning)
    try:
        if tracker is not None:
            tracker = spawning.DupFd(spawning.duplicate_for_child(tracker))
        reduction.dump(data, buffer)
        _by_value.dump((settings, WORKER_PREFIXES[method], tracker), buffer)
    finally:
        context.set_spawning_popen(None)
    return buffer.getvalue(), spawning.descriptors


def program_of(module, function, statement):
    """A program in one line, in which this function of a module of this package is known to the statement."""
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return f"import sys; sys.path.append({home!r}); from procession.{module} import {function}; {statement}"


def command(function, *arguments):
    """The command line of a clean interpreter that calls a function of `procession._zygote`."""
    from multiprocessing import spawn

    program = program_of("_zygote", function, f"{function}({', '.join(map(repr, arguments))})")
    executable = os.fsdecode(spawn.get_executable())
    return os.fsencode(executable), [executable, *_util._args_from_interpreter_flags(), "-c", program]


def execute(executable, arguments, descriptors):
    """Runs a program that inherits these descriptors; returns its pid."""
    # In a program that has closed its standard streams the helper below would fail: its own descriptors must not have
    # their numbers.
    placeholders = []
    try:
        while not placeholders or placeholders[-1] < 3:
            placeholders.append(os.open(os.devnull, os.O_RDWR))
        return _util.spawnv_passfds(executable, arguments, descriptors)
    finally:
        for descriptor in placeholders:
            os.close(descriptor)


def _spawn(pool):
    from . import _template

    stash, descriptors = _pack(pool, "spawn")
    memory, results, line, caller = pool._line()
    block, length = pool._stash(stash)
    executable, arguments = command("spawn_main", memory, results, line, caller, block, length)
    pid = _template.start(executable, arguments, [memory, results, line, caller, *descriptors])
    pool._launched(pid)


def _forkserver(pool):
    from . import _zygote

    stash, descriptors = _pack(pool, "forkserver")
    memory, results, line, caller = pool._line()
    block, length = pool._stash(stash)
    pid, pidfd = _zygote.ask_for_supervisor((memory, results, line, caller), block, length, descriptors)
    pool._launched(pid, pidfd)


LAUNCHERS = {"fork": _fork, "spawn": _spawn, "forkserver": _forkserver}

if sys.platform != "linux":
    raise ImportError("procession's pools run on Linux only, so far")
