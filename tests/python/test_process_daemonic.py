"""Daemonic processes: they may have children, and nobody of the family outlives the parent."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading

import pytest
from process_harness import PATIENCE_SECONDS, is_alive, output_of, wait_until
from process_tasks import says_when_interrupted, sleeps, starts_a_child

import procession as mp


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
