"""Processes over every start method: the standard library's behaviour word for word, and that nothing is left of them."""

import multiprocessing
import os
import pickle
import re
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor

import pytest
from process_harness import open_descriptors, output_of, wait_until
from process_tasks import complains_to, fails, finalizes, kills_itself, nothing, sleeps, tells_who_it_is

import procession as mp
from procession import util

# --- the standard library's behaviour --------------------------------------------------------------------------------


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
def test_representations_are_the_stdlibs_word_for_word(start_method, daemonic):
    said = [life_in_reprs(package.get_context(start_method), daemonic) for package in (multiprocessing, mp)]
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
def test_misuse_is_answered_in_the_stdlibs_words(start_method, misuse):
    answers = []
    for package in (multiprocessing, mp):
        try:
            answers.append(MISUSES[misuse](package.get_context(start_method)))
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


def test_child_knows_who_it_is_and_shares_the_stdlibs_state(context, start_method):
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
        "start method": (start_method, start_method),
        "logging": "a name",
    }
    ours.close()


def test_active_children_are_those_of_both_packages(start_method):
    processes = [package.get_context(start_method).Process(target=sleeps) for package in (multiprocessing, mp)]
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


# --- nothing is left -------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_start_that_fails_leaves_the_process_as_it_was(start_method):
    context = mp.get_context(start_method)
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


def test_many_threads_that_wait_for_a_process_see_one_exit_code():
    # All of them are woken at once, and the forkserver tells only once how a process ended.
    context = mp.get_context("forkserver")
    for _ in range(20):
        process = context.Process(target=sys.exit, args=(7,))
        process.start()
        found = []

        def wait(process=process, found=found):
            process.join()
            found.append(process.exitcode)

        threads = [threading.Thread(target=wait) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [7] * 6
        process.close()
