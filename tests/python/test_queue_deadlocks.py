"""Waits for queues that nobody will ever end raise; those that somebody may end do not."""

import os

import pytest
from conftest import RunPython

pytestmark = pytest.mark.timeout(60)

PROGRAM = os.path.join(os.path.dirname(__file__), "queue_deadlocks.py")


@pytest.fixture
def outcome(run_python: RunPython, start_method: str):
    """What a case of `queue_deadlocks.py` prints, with nothing on stderr."""

    def run(case, errors=""):
        result = run_python(PROGRAM, case, start_method)
        assert (result.returncode, result.stderr if not errors else "") == (0, ""), result.stderr
        assert errors in result.stderr
        return result.stdout.strip()

    return run


# --- deadlocks -----------------------------------------------------------------------------------------------------


def test_join_of_one_who_waits_for_room_that_only_the_joining_could_make_raises_there(outcome):
    assert outcome("joins_one_who_waits_for_room") == "('2 members', 0)"


def test_two_who_wait_for_an_item_of_each_other_raise_in_one(outcome):
    assert outcome("wait_each_for_the_other") == "('2 members', 0)"


def test_a_ring_of_which_nobody_has_all_queues_raises_in_one(outcome):
    assert outcome("wait_in_a_ring") == "('5 members', [0, 0, 0, 0])"


def test_queue_that_nobody_else_has_any_more_raises(outcome):
    assert outcome("waits_for_those_who_have_ended") == "1 members"


def test_join_of_a_queue_whose_worker_was_killed_raises(outcome):
    assert outcome("waits_for_one_who_is_killed_meanwhile") == "('1 members', -9)"


@pytest.mark.parametrize("how", ["a", "an_acquired"])
def test_holder_of_a_lock_who_waits_for_an_item_of_one_who_waits_for_the_lock_raises(outcome, how):
    assert outcome(f"waits_with_{how}_lock_that_the_other_needs") == "('2 members', 0)"


def test_workers_who_are_not_told_the_end_do_not_keep_the_program_from_ending(outcome):
    assert outcome("ends_without_telling_its_workers", errors="DeadlockError: deadlock: ") == "ended"


# --- no deadlocks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case, printed",
    [
        ("another_thread_puts", "late"),
        ("a_thread_waits_while_another_works", "late"),
        ("one_of_several_sleeps", "('late', 0, 'go on')"),
        ("a_handler_of_a_signal_puts", "late"),
        ("the_other_waits_with_a_time_limit", "Empty"),
        ("waits_with_a_time_limit", "Empty"),
        ("the_other_is_being_started", "late"),
        ("a_program_has_but_the_descriptor", "0"),
        ("one_without_descriptors_puts", "late"),
        ("a_task_of_a_pool_puts", "late"),
        ("the_other_is_joined_after_it_was_served", "('first', 'second')"),
    ],
)
def test_wait_that_somebody_may_end_never_raises_where(outcome, case, printed):
    assert outcome(case) == printed
