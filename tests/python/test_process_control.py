"""Processes that are interrupted, suspended and resumed, and the state they are in."""

import itertools
import os
import signal
import time

import pytest
from process_harness import output_of, wait_until
from process_tasks import (
    Gate,
    PicklesItself,
    WithOwnState,
    counts_up,
    ignores,
    nothing,
    receives_sigterm_late,
    says_when_interrupted,
    sleeps,
    suspends_its_parent,
)

import procession as mp

STATES = {"initial", "starting", "running", "suspended", "ended"}


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
@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_state_is_starting_until_the_child_has_what_it_needs(start_method, daemonic, tmp_path):
    gate = tmp_path / "gate"
    process = mp.get_context(start_method).Process(target=ignores, args=(Gate(str(gate)),), daemon=daemonic)
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
def test_parent_that_exits_does_not_wait_for_a_suspended_child_for_ever(script, start_method, daemonic, expected):
    printed = output_of(
        script(
            f"""
            import procession as mp, time

            def child(connection):
                connection.send("ready")
                time.sleep(0.3)
                print("went on", flush=True)

            if __name__ == "__main__":
                mp.set_start_method({start_method!r})
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
