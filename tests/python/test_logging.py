"""What workers log reaches the handlers of the process that made the pool, whole and once."""

import logging
import os
import threading

import pytest
import tasks
from harness import get, open_pool, pool_tests, promised_by_us_only

pytestmark = [*pool_tests, promised_by_us_only]


class Kept(logging.Handler):
    """Keeps records."""

    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        assert threading.current_thread() is not threading.main_thread()
        self.records.append(record)


@pytest.fixture
def kept():
    handler, root = Kept(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield handler.records
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def test_records_of_all_workers_are_handled_by_the_end_of_the_pool(start_method, kept):
    with open_pool(start_method, relay_logging=True) as pool:
        pool.map(tasks.log_line, range(200), 1)
        pool.close()
        pool.join()
        mine = [record for record in kept if record.name == "tasks"]
        assert sorted(record.getMessage() for record in mine) == sorted(f"line {n}" for n in range(200))
        assert {record.process for record in mine} <= {pid for pid in range(2, 2**22)} - {os.getpid()}
        assert all("PoolWorker-" in record.processName for record in mine)


def test_an_exception_arrives_with_its_traceback(start_method, kept):
    with open_pool(start_method, relay_logging=True) as pool:
        pool.apply(tasks.log_exception)
        pool.terminate()
    [record] = [record for record in kept if record.name == "tasks"]
    assert "ZeroDivisionError" in record.getMessage() or "ZeroDivisionError" in record.exc_text


def test_what_was_logged_before_the_worker_was_killed_arrives(start_method, kept):
    with open_pool(start_method, relay_logging=True) as pool:
        for n in range(5):
            assert isinstance(get(pool.apply_async(tasks.log_and_die, (n,))), Exception)
        pool.terminate()
    assert [record.getMessage() for record in kept if record.name == "tasks"] == [f"about to die {n}" for n in range(5)]


def test_levels_hold_in_workers(start_method, kept):
    with open_pool(start_method, relay_logging=True) as pool:
        pool.apply(tasks.log_debug)
        pool.close()
        pool.join()
    assert [record for record in kept if record.name == "tasks"] == []


def test_a_handler_may_end_the_pool(start_method, kept):
    ended = []

    class Ends(logging.Handler):
        def emit(self, record):
            pool.terminate()
            ended.append(True)

    handler = Ends()
    with open_pool(start_method, relay_logging=True) as pool:
        logging.getLogger("tasks").addHandler(handler)
        try:
            get(pool.apply_async(tasks.log_line, (1,)))
            pool.terminate()
            pool.join()
        finally:
            logging.getLogger("tasks").removeHandler(handler)
    assert ended == [True]
