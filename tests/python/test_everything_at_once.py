"""Kills, stops, limits, cancels and retries at once, for a moment; `make soak-control` does it for ten minutes."""

from control_soak import Soak
from harness import pool_tests, promised_by_us_only

pytestmark = [*pool_tests, promised_by_us_only]


def test_each_task_has_one_outcome_that_is_possible_for_it(start_method):
    Soak(start_method, seconds=2, seed=7).run().check()
