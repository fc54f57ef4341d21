"""What the pool tests share: pools that end, limits that no hang survives, programs to run, and looks into /proc."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import uuid

import leftovers
import pytest
import tasks
from subject import ON_STDLIB, mp

# How long a single wait may take before the test calls it a hang. Far beyond what any of these needs on a busy machine;
# it bounds nothing but hangs.
PATIENCE_SECONDS = float(os.environ.get("PROCESSION_TEST_PATIENCE", 20))

# Long beside what a task takes that is not meant to be ended, even on a busy machine.
TASK_LIMIT_SECONDS = 0.7

THIS_DIRECTORY = os.path.dirname(os.path.abspath(__file__))

# Every module of pool tests says `pytestmark = harness.pool_tests`. The warning is Python's own about forking next to
# threads; other libraries that the test process has loaded start some. Whether we start any is tested in programs of
# their own, under `-W error`.
pool_tests = [
    pytest.mark.timeout(3 * PATIENCE_SECONDS),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

promised_by_us_only = pytest.mark.skipif(ON_STDLIB, reason="the standard library's pool does not promise this")


class Hang(AssertionError):
    """Something took longer than anybody would wait."""


@contextlib.contextmanager
def time_limit(seconds, what):
    """Raises Hang in the main thread if the body takes longer. May be nested; leaves outer alarms as they were."""

    def on_alarm(_number, _frame):
        raise Hang(f"{what} took longer than {seconds:g} s")

    started = time.monotonic()
    outer_handler = signal.signal(signal.SIGALRM, on_alarm)
    outer_seconds, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, outer_handler)
        if outer_seconds:
            left = outer_seconds - (time.monotonic() - started)
            signal.setitimer(signal.ITIMER_REAL, max(left, 0.001))


@contextlib.contextmanager
def open_pool(start_method, processes=2, *args, **kwds):
    """A pool that is terminated and joined at the end, within a limit, whatever state the test left it in."""
    before = {process.pid for process in descendants(os.getpid())}
    pool = mp.get_context(start_method).Pool(processes, *args, **kwds)
    try:
        yield pool
    finally:
        try:
            with time_limit(PATIENCE_SECONDS, "terminate() and join()"):
                pool.terminate()
                pool.join()
        except Hang:
            # The next test must not meet what this one could not end.
            for process in descendants(os.getpid()):
                if process.pid not in before:
                    process.kill()
            raise


def outcome(function, *args, **kwds):
    """Calls the function; returns its result, or the exception that it raised, of whatever kind."""
    try:
        return function(*args, **kwds)
    except (Hang, pytest.fail.Exception):
        raise
    except mp.TimeoutError as error:
        raise Hang("a result did not come in time") from error
    except BaseException as error:
        return error


def get(result):
    """The result, or the error, of an AsyncResult; Hang if there is neither."""
    return outcome(result.get, PATIENCE_SECONDS)


def take(iterator, limit=None):
    """What an IMapIterator gives, item by item, errors as items too; Hang if it stops giving."""
    items = []
    while limit is None or len(items) < limit:
        item = outcome(iterator.next, PATIENCE_SECONDS)
        if isinstance(item, StopIteration):
            break
        items.append(item)
    return items


def each_by_apply_async(pool, function, items):
    return [get(result) for result in [pool.apply_async(function, (item,)) for item in items]]


def each_by_imap(pool, function, items):
    return take(pool.imap(function, items))


def each_by_imap_unordered(pool, function, items):
    return take(pool.imap_unordered(function, items))


# How a test can learn the outcome of each single item. What imap_unordered gives comes in any order.
EACH_WAY = {
    "apply_async": each_by_apply_async,
    "imap": each_by_imap,
    "imap_unordered": each_by_imap_unordered,
}


# ---------------------------------------------------------------------------------------------------------------------
# Workers.

_meetings = itertools.count()


def worker_pids(pool, count, directory=None):
    """The pids of ``count`` workers that are all alive at once; fails if there are fewer."""
    with tempfile.TemporaryDirectory(prefix="meeting-", dir=directory) as place:
        results = [pool.apply_async(tasks.meet, (place, count, PATIENCE_SECONDS)) for _ in range(count)]
        pids = [get(result) for result in results]
        for pid in pids:
            if isinstance(pid, BaseException):
                raise pid
    assert len(set(pids)) == count, f"{count} tasks that meet ran in {len(set(pids))} workers"
    return pids


def assert_only_thirteen_fails(got, way, function, check, n=40):
    """Exactly item 13 failed, as expected; the others have their results."""
    errors = [item for item in got if isinstance(item, BaseException)]
    results = [item for item in got if not isinstance(item, BaseException)]
    assert len(errors) == 1, errors
    check(errors[0], function)
    if way == "imap_unordered":
        results.sort()
    else:
        assert got[13] is errors[0]
    assert results == [x * x for x in range(n) if x != 13]


def assert_pool_is_whole(pool, count=2):
    """The pool takes tasks in every way, and has all its workers."""
    worker_pids(pool, count)
    with time_limit(PATIENCE_SECONDS, "map() in a pool that should be whole"):
        assert pool.map(tasks.double, range(50)) == [2 * x for x in range(50)]
        assert pool.map(tasks.double, range(20), 1) == [2 * x for x in range(20)]
    assert get(pool.apply_async(tasks.add, (1,), {"b": 2})) == 3
    assert take(pool.imap(tasks.double, range(10))) == [2 * x for x in range(10)]
    assert sorted(take(pool.imap_unordered(tasks.double, range(10)))) == [2 * x for x in range(10)]


def supervisor_of(pids):
    """The process that forks and reaps these workers, or None if that is this process itself."""
    parents = {Process(pid).parent_pid() for pid in pids}
    assert len(parents) == 1, f"workers {pids} have different parents: {parents}"
    parent = parents.pop()
    return None if parent == os.getpid() else Process(parent)


class WorkerHunter:
    """Finds the workers of one pool from outside, replacements included, without asking the pool."""

    def __init__(self, pool, count):
        before = {process.pid for process in descendants(os.getpid())}
        pids = worker_pids(pool, count)
        self.parent_pid = Process(pids[0]).parent_pid()
        # Other children of the same parent are helpers of the standard library, not workers.
        self._others = {process.pid for process in children(self.parent_pid)} - set(pids)
        self._others &= before

    def workers(self):
        return [process for process in children(self.parent_pid) if process.pid not in self._others]


# ---------------------------------------------------------------------------------------------------------------------
# Processes, as the kernel tells.


class Process:
    """A process that cannot be mistaken for a later one with the same pid."""

    def __init__(self, pid):
        self.pid = pid
        self._info_at_first = leftovers.process_info(pid)

    def _info(self):
        """What the process table says of it now; None once it is gone, even if its pid is in use again."""
        info = leftovers.process_info(self.pid)
        if info is None or self._info_at_first is None or info.started_ticks != self._info_at_first.started_ticks:
            return None
        return info

    def is_alive(self):
        """Whether it can still run: a zombie cannot, whoever is to reap it."""
        info = self._info()
        return info is not None and info.state not in "XZ"

    def state(self):
        """The kernel's letter for its state, X once it is gone."""
        info = self._info()
        return "X" if info is None else info.state

    def parent_pid(self):
        info = self._info()
        return 0 if info is None else info.parent_pid

    def send_signal(self, number):
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def __repr__(self):
        return f"<{self._info() or f'process {self.pid}, gone'}>"


def children(pid):
    return [Process(info.pid) for info in leftovers.process_table().values() if info.parent_pid == pid]


def descendants(pid):
    return [Process(info.pid) for info in leftovers.descendants(pid)]


def wait_until(condition, what, seconds=None):
    """Polls until the condition holds and returns its value; Hang if it never does."""
    seconds = PATIENCE_SECONDS if seconds is None else seconds
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Hang(f"still not so after {seconds:g} s: {what}")
        time.sleep(0.005)


def wait_for_file(path):
    """Waits until somebody has written something into the file, and returns it."""

    def content():
        try:
            with open(path, encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    return wait_until(content, f"something is written to {path}")


def wait_until_gone(processes, seconds=None):
    processes = list(processes)
    wait_until(
        lambda: not any(process.is_alive() for process in processes),
        f"these have ended: {[process for process in processes if process.is_alive()]}",
        seconds,
    )


def native_thread_count():
    return len(os.listdir("/proc/self/task"))


def line_count(path):
    try:
        with open(path, encoding="utf-8") as file:
            return sum(1 for _ in file)
    except FileNotFoundError:
        return 0


@contextlib.contextmanager
def running_thread(target, *args):
    """Runs the target in a thread beside the body, and re-raises here what it raised there."""
    errors = []

    def run():
        try:
            target(*args)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(PATIENCE_SECONDS)
    if thread.is_alive():
        raise Hang(f"the thread that runs {target.__name__} did not end")
    if errors:
        raise errors[0]


# ---------------------------------------------------------------------------------------------------------------------
# Programs: what must be seen from outside runs as a script in a process of its own.


class Program:
    """A Python script, started in a session of its own, with every process that ever comes of it.

    Whatever it starts carries a mark in its environment, so that orphans are found too.
    """

    def __init__(self, directory, source, *arguments, flags=(), environment=None, stdin=None, arguments_before=None):
        self._mark = f"PROCESSION_TEST_PROGRAM={uuid.uuid4()}"
        name, _, value = self._mark.partition("=")
        variables = dict(os.environ, **{name: value})
        # The script's own directory comes first on its path anyway; the tasks are found beside this file.
        variables["PYTHONPATH"] = os.pathsep.join([THIS_DIRECTORY, *filter(None, [variables.get("PYTHONPATH")])])
        variables.pop("PYTHONWARNINGS", None)
        variables.update(environment or {})
        self._stdout_path = os.path.join(str(directory), "stdout")
        self._stderr_path = os.path.join(str(directory), "stderr")
        if arguments_before is None:
            script = os.path.join(str(directory), "program.py")
            with open(script, "w", encoding="utf-8") as file:
                file.write(textwrap.dedent(source))
            arguments_before = [script]
        # Files, not pipes: a descendant that lives on must not be able to hold up the reader.
        with open(self._stdout_path, "wb") as stdout, open(self._stderr_path, "wb") as stderr:
            self._popen = subprocess.Popen(
                [sys.executable, *flags, *arguments_before, *map(str, arguments)],
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=stdout,
                stderr=stderr,
                cwd=str(directory),
                env=variables,
                start_new_session=True,
            )
        self.pid = self._popen.pid

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        left = self.processes()
        for process in left:
            process.kill()
        self._popen.wait()
        if kind is not None and isinstance(error, (AssertionError, Hang)):
            for name, text in (("stdout", self.stdout()), ("stderr", self.stderr())):
                sys.stdout.write(f"{name} of the program:\n{text if len(text) < 5000 else '...' + text[-5000:]}\n")

    def processes(self):
        """All living processes of this program, itself included."""
        found = []
        for pid in leftovers.process_table():
            try:
                with open(f"/proc/{pid}/environ", "rb") as file:
                    if self._mark.encode() not in file.read().split(b"\0"):
                        continue
            except OSError:
                continue
            process = Process(pid)
            if process.is_alive():
                found.append(process)
        return found

    def stdout(self):
        with open(self._stdout_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def stderr(self):
        with open(self._stderr_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def lines(self):
        return self.stdout().splitlines()

    def wait_for_line(self, start):
        """Returns the first whole line of the output that begins so."""

        def find():
            for line in self.stdout().splitlines(keepends=True):
                if line.startswith(start) and line.endswith("\n"):
                    return line.rstrip("\n")
            if self._popen.poll() is not None:
                raise AssertionError(f"the program ended before it said {start!r}")
            return None

        return wait_until(find, f"the program says {start!r}")

    def send_signal(self, number):
        self._popen.send_signal(number)

    def send_signal_to_group(self, number):
        os.killpg(self.pid, number)

    def is_running(self):
        return self._popen.poll() is None

    def wait(self, seconds=None):
        """Its exit code, as Popen gives it."""
        seconds = PATIENCE_SECONDS if seconds is None else seconds
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise Hang(f"the program did not end within {seconds:g} s") from error

    def assert_nothing_left(self, seconds=3.0):
        """No process of the program is left soon after it ended."""
        self.wait()
        try:
            wait_until(lambda: not self.processes(), "all processes of the program have ended", seconds)
        except Hang:
            raise AssertionError(f"left behind: {self.processes()}") from None


def run_program(directory, source, *arguments, exit_code=0, **options):
    """Runs a script to its end, checks its exit code and that nothing is left of it; returns the Program."""
    with Program(directory, source, *arguments, **options) as program:
        assert program.wait(2 * PATIENCE_SECONDS) == exit_code, program.stderr()[-3000:]
        program.assert_nothing_left()
    return program
