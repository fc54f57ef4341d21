"""Processes over every start method: the standard library's behaviour word for word, and what we have beyond it."""

import faulthandler
import itertools
import logging
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ProcessPoolExecutor

import pytest

import procession as mp
from procession import util

PACKAGE_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(mp.__file__)))
PATIENCE_SECONDS = 60
STATES = {"initial", "starting", "running", "suspended", "ended"}


@pytest.fixture(autouse=True)
def _cannot_hang_and_leaves_nothing_behind():
    def give_up(*_):
        faulthandler.dump_traceback(all_threads=True)
        raise AssertionError(f"the test took longer than {PATIENCE_SECONDS} s")

    # Not by a watchdog thread: forking beside one is an error under `-W error`.
    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE_SECONDS)
    try:
        yield
        left = mp.active_children()
        for process in left:
            process.kill()
            process.join()
        assert left == []
        assert threading.active_count() == 1
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(params=multiprocessing.get_all_start_methods())
def method(request):
    return request.param


@pytest.fixture
def context(method):
    return mp.get_context(method)


def wait_until(condition, what="the condition"):
    deadline = time.monotonic() + PATIENCE_SECONDS / 2
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true"
        time.sleep(0.002)


def open_descriptors():
    return set(os.listdir("/proc/self/fd"))


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as status:
            return status.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def run_script(code, **kwargs):
    """Starts the code as the main module of a new interpreter, so that what it spawns can import it again."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-X", "dev", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [PACKAGE_ROOT, os.environ.get("PYTHONPATH")]))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        **kwargs,
    )


@pytest.fixture
def script(tmp_path):
    numbers = itertools.count()
    started = []

    def start(code):
        path = tmp_path / f"script_{next(numbers)}.py"
        path.write_text(textwrap.dedent(code))
        started.append(run_script(str(path)))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=PATIENCE_SECONDS)


def output_of(process):
    said, complained = process.communicate(timeout=PATIENCE_SECONDS / 2)
    assert (process.returncode, complained) == (0, "")
    return said


# --- what the children run -----------------------------------------------------------------------------------------


def nothing():
    pass


def sleeps():
    # In short naps: Python acts on a signal that arrives just before a nap begins only when that nap ends.
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(0.02)


def fails():
    raise KeyError("a message")


def kills_itself():
    os.kill(os.getpid(), signal.SIGKILL)


def complains_to(path, target, args):
    # A server forks with the stderr that it once got, which is not this test's.
    sys.stderr = open(path, "w")
    target(*args)


def receives_sigterm_late(connection):
    signal.signal(signal.SIGTERM, lambda *_: os._exit(9))
    connection.send("ready")
    sleeps()


def counts_up(counter):
    while True:
        counter.value += 1
        time.sleep(0.0005)


def says_when_interrupted(connection):
    try:
        connection.send("ready")
        sleeps()
    except KeyboardInterrupt:
        sys.exit(7)


def tells_who_it_is(connection):
    this, parent = mp.current_process(), mp.parent_process()
    connection.send(
        {
            "name": this.name,
            "class": type(this).__name__,
            "module": type(this).__module__,
            "pid": (this.pid, os.getpid()),
            "daemon": this.daemon,
            "state": getattr(this, "state", None),
            "repr": repr(this),
            "same as the stdlib's": this is multiprocessing.current_process(),
            "children": mp.active_children(),
            "parent": (parent.name, parent.pid, parent.is_alive()),
            "start method": (mp.get_start_method(), multiprocessing.get_start_method()),
            "logging": logging.LogRecord("l", logging.INFO, "p", 1, "m", (), None).processName,
        }
    )


def starts_a_child(connection, method, daemonic):
    process = mp.get_context(method).Process(target=tells_who_it_is, args=(connection,), daemon=daemonic)
    process.start()
    process.join()
    connection.send((process.exitcode, process.name, process.daemon))


def suspends_its_parent(connection, parent):
    for call in ("suspend", "resume"):
        try:
            getattr(parent, call)()
        except AssertionError as error:
            connection.send(str(error))


def finalizes(connection):
    util.Finalize(None, connection.send, ("finalized",), exitpriority=1)


def opens_once(path):
    """Unpickled in the child: holds up its start until the file is there."""
    wait_until(lambda: os.path.exists(path))


class Gate:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return opens_once, (self.path,)


def ignores(argument):
    sleeps()


class WithOwnState(mp.Process):
    def __init__(self):
        super().__init__()
        self.state = "mine"

    def run(self):
        sys.exit(5 if self.state == "mine" else 6)


class PicklesItself(mp.context.SpawnProcess):
    """Leaves out what it does not know, as some people's classes do."""

    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name not in ("_lifeline", "_leashed")}


# --- the standard library's behaviour -------------------------------------------------------------------------------


def test_names_count_up_and_descend(script):
    printed = output_of(
        script(
            """
            import procession as mp

            def child():
                for process in (mp.Process(), mp.get_context("fork").Process(), mp.Process(name="xm0")):
                    print(process.name, flush=True)

            if __name__ == "__main__":
                print(mp.current_process().name, flush=True)
                first = mp.Process(target=child)
                print(first.name, mp.Process().name, mp.get_context("spawn").Process().name, flush=True)
                first.start()
                first.join()
            """
        )
    )
    assert printed.splitlines() == [
        "MainProcess",
        "Process-1 Process-2 SpawnProcess-3",
        "Process-1:1",
        "ForkProcess-1:2",
        "xm0",
    ]


def life_in_reprs(context, daemonic):
    """The representations of processes through their lives, without numbers that differ from run to run."""
    said = []

    def note(process):
        said.append(re.sub(r"(Process-|pid=|parent=)\d+", r"\1N", repr(process)))

    for end in ("terminate", "kill", "exit"):
        process = context.Process(target=nothing if end == "exit" else sleeps, daemon=daemonic)
        note(process)
        process.start()
        if end != "exit":
            note(process)
            getattr(process, end)()
        process.join()
        note(process)
        process.close()
        note(process)
    return said


@pytest.mark.parametrize("daemonic", [False, True])
def test_representations_are_the_stdlibs_word_for_word(method, daemonic):
    said = [life_in_reprs(package.get_context(method), daemonic) for package in (multiprocessing, mp)]
    assert said[0] == said[1]
    assert "exitcode=-SIGTERM" in said[1][2]


EXITS = {
    "returns": (nothing, (), 0),
    "sys.exit()": (sys.exit, (), 0),
    "sys.exit(3)": (sys.exit, (3,), 3),
    "sys.exit('text')": (sys.exit, ("a text",), 1),
    "raises": (fails, (), 1),
    "os._exit(300)": (os._exit, (300,), 44),
    "is killed": (kills_itself, (), -signal.SIGKILL),
}


@pytest.mark.parametrize("way", EXITS)
def test_exit_codes_and_last_words(context, way, tmp_path):
    target, args, expected = EXITS[way]
    said = tmp_path / "stderr"
    process = context.Process(target=complains_to, args=(str(said), target, args), name="named")
    process.start()
    process.join()
    assert process.exitcode == expected
    assert process.state == "ended"
    complaints = said.read_text()
    if way == "raises":
        assert complaints.startswith("Process named:\nTraceback") and complaints.endswith("KeyError: 'a message'\n")
    elif way == "sys.exit('text')":
        assert complaints == "a text\n"
    else:
        assert complaints == ""


def set_daemon(process):
    process.daemon = True


def set_name(process):
    process.name = 1


def close_twice(process):
    process.close()
    process.close()
    return repr(process)[:20]


def started(call):
    def start_then_call(context):
        process = context.Process(target=sleeps)
        process.start()
        try:
            return call(process)
        finally:
            process.kill()
            multiprocessing.process.BaseProcess.join(process)

    return start_then_call


def fresh(call):
    return lambda context: call(context.Process(target=sleeps))


def closed(call):
    def close_then_call(context):
        process = context.Process(target=sleeps)
        process.close()
        return call(process)

    return close_then_call


MISUSES = {
    "start twice": started(lambda p: p.start()),
    "set daemon of a started one": started(set_daemon),
    "close a running one": started(lambda p: p.close()),
    "join an unstarted one": fresh(lambda p: p.join()),
    "sentinel of an unstarted one": fresh(lambda p: p.sentinel),
    "exitcode of an unstarted one": fresh(lambda p: p.exitcode),
    "pid of an unstarted one": fresh(lambda p: p.pid),
    "is_alive of an unstarted one": fresh(lambda p: p.is_alive()),
    "terminate an unstarted one": fresh(lambda p: p.terminate()),
    "kill an unstarted one": fresh(lambda p: p.kill()),
    "name a number": fresh(set_name),
    "close twice": fresh(close_twice),
    "start a closed one": closed(lambda p: p.start()),
    "join a closed one": closed(lambda p: p.join()),
    "terminate a closed one": closed(lambda p: p.terminate()),
    "exitcode of a closed one": closed(lambda p: p.exitcode),
    "is_alive of a closed one": closed(lambda p: p.is_alive()),
    "a group": lambda context: context.Process(1),
    "args of a wrong type": lambda context: context.Process(args=1),
    "kwargs of a wrong type": lambda context: context.Process(kwargs=1),
    "an unknown argument": lambda context: context.Process(nice=1),
}


@pytest.mark.parametrize("misuse", MISUSES)
def test_misuse_is_answered_in_the_stdlibs_words(method, misuse):
    answers = []
    for package in (multiprocessing, mp):
        try:
            answers.append(MISUSES[misuse](package.get_context(method)))
        except Exception as error:
            answers.append((type(error), str(error)))
    assert answers[0] == answers[1]


def test_process_can_be_started_by_its_creator_only():
    process = mp.get_context("fork").Process(target=nothing)
    pid = os.fork()
    if pid == 0:
        try:
            process.start()
        except AssertionError as error:
            os._exit(42 if str(error) == "can only start a process object created by current process" else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42


def test_child_knows_who_it_is_and_shares_the_stdlibs_state(context, method):
    ours, its = context.Pipe()
    process = context.Process(target=tells_who_it_is, args=(its,), name="a name", daemon=True)
    process.start()
    its.close()
    told = ours.recv()
    process.join()
    assert told == {
        "name": "a name",
        "class": type(process).__name__,
        "module": "procession.process",
        "pid": (process.pid, process.pid),
        "daemon": True,
        "state": "running",
        "repr": f"<{type(process).__name__} name='a name' parent={os.getpid()} started daemon>",
        "same as the stdlib's": True,
        "children": [],
        "parent": ("MainProcess", os.getpid(), True),
        "start method": (method, method),
        "logging": "a name",
    }
    ours.close()


def test_active_children_are_those_of_both_packages(method):
    processes = [package.get_context(method).Process(target=sleeps) for package in (multiprocessing, mp)]
    for process in processes:
        process.start()
    assert set(mp.active_children()) == set(multiprocessing.active_children()) == set(processes)
    for process in processes:
        process.kill()
        process.join()
    assert mp.active_children() == []


def test_finalizers_of_the_child_run_at_its_end(context):
    ours, its = context.Pipe()
    process = context.Process(target=finalizes, args=(its,))
    process.start()
    process.join()
    assert ours.recv() == "finalized"
    ours.close()
    its.close()


def test_after_fork_hooks_run_in_a_forked_child():
    class Marked:
        where = "parent"

    marked = Marked()
    util.register_after_fork(marked, lambda it: setattr(it, "where", "child"))
    process = mp.get_context("fork").Process(target=lambda: sys.exit({"parent": 1, "child": 2}[marked.where]))
    process.start()
    process.join()
    assert process.exitcode == 2


def test_join_with_a_timeout_comes_back(context):
    process = context.Process(target=sleeps)
    process.start()
    process.join(timeout=0.05)
    assert process.exitcode is None and process.is_alive()
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL and not process.is_alive()


def test_executors_and_managers_take_our_contexts(context):
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        assert executor.submit(os.getppid).result() > 0
    with context.Manager() as manager:
        assert list(manager.list([1, 2])) == [1, 2]
    wait_until(lambda: not mp.active_children())


def test_recipe_for_processes_that_deny_being_daemonic():
    class NoDaemonProcess(mp.Process):
        @property
        def daemon(self):
            return False

        @daemon.setter
        def daemon(self, value):
            pass

    class NoDaemonContext(type(mp.get_context("fork"))):
        Process = NoDaemonProcess

    process = NoDaemonContext().Process(target=nothing, daemon=True)
    process.start()
    process.join()
    assert (process.exitcode, process.daemon) == (0, False)


# --- interrupt, suspend, resume, state ------------------------------------------------------------------------------


def test_interrupt_raises_keyboard_interrupt_in_the_child(context):
    ours, its = context.Pipe()
    process = context.Process(target=says_when_interrupted, args=(its,))
    process.start()
    assert ours.recv() == "ready"
    process.interrupt()
    process.join()
    assert process.exitcode == 7
    ours.close()
    its.close()


def test_suspended_process_stands_still_until_it_is_resumed(context):
    counter = context.Value("Q", lock=False)
    process = context.Process(target=counts_up, args=(counter,))
    process.start()
    wait_until(lambda: counter.value > 0)
    assert process.state == "running"

    for _ in range(3):
        process.suspend()
        assert process.state == "suspended"
        assert process.is_alive() and process.exitcode is None
        seen = counter.value
        time.sleep(0.1)
        assert counter.value == seen

        process.resume()
        assert process.state == "running"
        wait_until(lambda seen=seen: counter.value > seen)

    process.kill()
    process.join()


def test_suspending_twice_needs_one_resume(context):
    process = context.Process(target=sleeps)
    process.start()
    process.suspend()
    process.suspend()
    assert process.state == "suspended"
    process.resume()
    assert process.state in ("starting", "running")
    process.resume()
    process.kill()
    process.join()


@pytest.mark.parametrize("end, exitcode", [("kill", -signal.SIGKILL), ("terminate", -signal.SIGTERM)])
def test_suspended_process_can_be_ended(context, end, exitcode):
    process = context.Process(target=sleeps)
    process.start()
    process.suspend()
    getattr(process, end)()
    process.join()
    assert (process.exitcode, process.state) == (exitcode, "ended")


def test_terminating_a_suspended_process_lets_its_handler_run(context):
    ours, its = context.Pipe()
    process = context.Process(target=receives_sigterm_late, args=(its,))
    process.start()
    assert ours.recv() == "ready"
    process.suspend()
    process.terminate()
    process.join()
    assert process.exitcode == 9
    ours.close()
    its.close()


def test_state_sees_a_stop_by_somebody_else(context):
    process = context.Process(target=sleeps)
    process.start()
    os.kill(process.pid, signal.SIGSTOP)
    wait_until(lambda: process.state == "suspended")
    os.kill(process.pid, signal.SIGCONT)
    wait_until(lambda: process.state == "running")
    process.kill()
    process.join()


def test_state_through_a_life(context):
    process = context.Process(target=nothing)
    states = [process.state]
    process.start()
    while states[-1] != "ended":
        states.append(process.state)
    assert set(states) <= STATES
    in_order = [state for state, _ in itertools.groupby(states)]
    assert in_order in (
        ["initial", "starting", "running", "ended"],
        ["initial", "starting", "ended"],
        ["initial", "running", "ended"],
        ["initial", "ended"],
    )
    process.join()


@pytest.mark.parametrize("daemonic", [False, True])
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_state_is_starting_until_the_child_has_what_it_needs(method, daemonic, tmp_path):
    gate = tmp_path / "gate"
    process = mp.get_context(method).Process(target=ignores, args=(Gate(str(gate)),), daemon=daemonic)
    process.start()
    for _ in range(20):
        assert process.state == "starting"
        time.sleep(0.01)
    gate.touch()
    wait_until(lambda: process.state == "running")
    process.kill()
    process.join()


def test_state_of_a_process_that_pickles_itself_its_own_way():
    process = PicklesItself(target=sleeps)
    process.start()
    wait_until(lambda: process.state == "running")
    process.kill()
    process.join()


def test_attribute_of_a_subclass_named_state_is_its_own():
    process = WithOwnState()
    assert process.state == "mine"
    process.start()
    process.join()
    assert (process.state, process.exitcode) == ("mine", 5)


def test_control_of_a_process_that_cannot_be_controlled_is_refused(context):
    process = context.Process(target=nothing)
    for call in (process.suspend, process.resume):
        with pytest.raises(ValueError, match="^process not started$"):
            call()
    process.start()
    process.join()
    process.suspend()
    process.resume()
    assert (process.state, process.exitcode) == ("ended", 0)
    process.close()
    for call in (process.suspend, process.resume, lambda: process.state, process.interrupt):
        with pytest.raises(ValueError, match="^process object is closed$"):
            call()


def test_only_the_parent_controls_a_child():
    context = mp.get_context("fork")
    ours, its = context.Pipe()
    other = context.Process(target=sleeps)
    other.start()
    process = context.Process(target=suspends_its_parent, args=(its, other))
    process.start()
    assert [ours.recv(), ours.recv()] == ["can only suspend a child process", "can only resume a child process"]
    process.join()
    other.kill()
    other.join()
    ours.close()
    its.close()


@pytest.mark.parametrize("daemonic, expected", [(True, ""), (False, "went on\n")])
def test_parent_that_exits_does_not_wait_for_a_suspended_child_for_ever(script, method, daemonic, expected):
    printed = output_of(
        script(
            f"""
            import procession as mp, time

            def child(connection):
                connection.send("ready")
                time.sleep(0.3)
                print("went on", flush=True)

            if __name__ == "__main__":
                mp.set_start_method({method!r})
                ours, its = mp.Pipe()
                process = mp.Process(target=child, args=(its,), daemon={daemonic})
                process.start()
                ours.recv()
                process.suspend()
                time.sleep(0.4)
            """
        )
    )
    assert printed == expected


# --- daemonic processes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("daemonic", [False, True, None])
@pytest.mark.parametrize("inner", multiprocessing.get_all_start_methods())
def test_daemonic_process_may_have_children(context, inner, daemonic):
    ours, its = context.Pipe()
    process = context.Process(target=starts_a_child, args=(its, inner, daemonic), daemon=True)
    process.start()
    its.close()
    told = ours.recv()
    exitcode, name, grandchild_is_daemonic = ours.recv()
    process.join()
    assert exitcode == process.exitcode == 0
    assert (
        told["name"] == name == type(mp.get_context(inner).Process()).__name__ + "-" + process.name.split("-")[1] + ":1"
    )
    assert told["parent"] == (process.name, process.pid, True)
    # As in the standard library, it is inherited unless it is said.
    assert told["daemon"] is grandchild_is_daemonic is (True if daemonic is None else daemonic)
    ours.close()


FAMILY = """
    import os, sys, time
    import procession as mp

    def grandchild(connection):
        connection.send(os.getpid())
        time.sleep({patience})

    def child(connection):
        process = mp.get_context({inner!r}).Process(target=grandchild, args=(connection,), daemon={inner_daemonic})
        process.start()
        connection.send(os.getpid())
        time.sleep({patience})

    if __name__ == "__main__":
        context = mp.get_context({outer!r})
        ours, its = context.Pipe()
        process = context.Process(target=child, args=(its,), daemon=True)
        process.start()
        later = [context.Process(target=time.sleep, args=({patience},), daemon=True) for _ in range(2)]
        for sibling in later:
            sibling.start()
        print(ours.recv(), ours.recv(), *[sibling.pid for sibling in later], flush=True)
        {ending}
        time.sleep({patience})
"""


@pytest.mark.parametrize(
    "ending", ["os.kill(os.getpid(), 9)", "os._exit(0)", "process.suspend(); os.kill(os.getpid(), 9)", "sys.exit()"]
)
@pytest.mark.parametrize("outer, inner", [("fork", "fork"), ("spawn", "forkserver"), ("forkserver", "spawn")])
@pytest.mark.parametrize("inner_daemonic", [False, True])
def test_nobody_of_a_daemonic_family_outlives_the_parent(script, outer, inner, inner_daemonic, ending):
    parent = script(
        FAMILY.format(outer=outer, inner=inner, inner_daemonic=inner_daemonic, ending=ending, patience=PATIENCE_SECONDS)
    )
    family = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(family) == 4
    parent.wait(timeout=PATIENCE_SECONDS / 2)
    wait_until(lambda: not any(map(is_alive, family)), "the end of the family")


def test_forked_child_does_not_wait_for_the_forkserver_of_its_parent(script):
    printed = output_of(
        script(
            """
            import procession as mp

            def starts_two():
                for _ in range(2):
                    process = mp.get_context("forkserver").Process(target=print, args=("inner",))
                    process.start()
                    process.join()

            if __name__ == "__main__":
                for method in ("forkserver", "fork", "forkserver"):
                    process = mp.get_context(method).Process(target=starts_two if method == "fork" else print)
                    process.start()
                    process.join()
                    print(process.exitcode, flush=True)
            """
        )
    )
    assert printed.split() == ["0", "inner", "inner", "0", "0"]


def test_sibling_that_lives_on_does_not_keep_a_daemonic_process_alive(script):
    parent = script(
        f"""
        import os, time
        import procession as mp

        if __name__ == "__main__":
            context = mp.get_context("fork")
            daemonic = context.Process(target=time.sleep, args=({PATIENCE_SECONDS},), daemon=True)
            sibling = context.Process(target=time.sleep, args=({PATIENCE_SECONDS},))
            daemonic.start()
            sibling.start()
            print(daemonic.pid, sibling.pid, flush=True)
            os.kill(os.getpid(), 9)
        """
    )
    daemonic, sibling = map(int, parent.stdout.readline().split())
    try:
        parent.wait(timeout=PATIENCE_SECONDS / 2)
        wait_until(lambda: not is_alive(daemonic), "the end of the daemonic process")
        assert is_alive(sibling)
    finally:
        os.kill(sibling, signal.SIGKILL)


def test_daemonic_process_lives_as_long_as_its_parent(context):
    ours, its = context.Pipe()
    process = context.Process(target=says_when_interrupted, args=(its,), daemon=True)
    process.start()
    assert ours.recv() == "ready"
    # A program that the parent runs, and a fork of its own, come and go without harm to it.
    subprocess.run([sys.executable, "-c", ""], check=True)
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    process.join(timeout=0.2)
    assert process.state == "running"
    process.interrupt()
    process.join()
    assert process.exitcode == 7
    ours.close()
    its.close()


def test_process_started_in_a_thread_outlives_the_thread(context):
    process = context.Process(target=sleeps, daemon=True)
    thread = threading.Thread(target=process.start)
    thread.start()
    thread.join()
    process.join(timeout=0.2)
    assert process.is_alive()
    process.kill()
    process.join()


# --- nothing is left ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("daemonic", [False, True])
def test_processes_leave_no_descriptor_behind(context, daemonic):
    def live(suspend):
        processes = [context.Process(target=sleeps if suspend else nothing, daemon=daemonic) for _ in range(3)]
        for process in processes:
            process.start()
            if suspend:
                process.suspend()
                process.terminate()
        for process in processes:
            process.join()

    live(False)  # the forkserver and the resource tracker start here, and stay
    before = open_descriptors()
    live(False)
    live(True)
    assert open_descriptors() == before


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_start_that_fails_leaves_the_process_as_it_was(method):
    context = mp.get_context(method)
    warm = context.Process(target=nothing)
    warm.start()
    warm.join()
    warm.close()
    before = open_descriptors()
    process = context.Process(target=lambda: None)
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        process.start()
    assert process.state == "initial"
    assert mp.active_children() == []
    assert open_descriptors() == before


def test_forked_process_that_is_not_daemonic_costs_no_descriptor_of_ours():
    counts = []
    for package in (multiprocessing, mp):
        process = package.get_context("fork").Process(target=sleeps)
        before = len(open_descriptors())
        process.start()
        counts.append(len(open_descriptors()) - before)
        process.kill()
        process.join()
        process.close()
    assert counts[0] == counts[1]
