"""What workers log reaches the handlers of the process that made the pool, whole and once."""

import logging
import os
import threading

import logging_tasks
import pytest
from harness import PATIENCE_SECONDS, get, open_pool, pool_tests, promised_by_us_only, wait_until

import procession._logging

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
        pool.map(logging_tasks.log_line, range(200), 1)
        pool.close()
        pool.join()
        mine = [record for record in kept if record.name == "tasks"]
        assert sorted(record.getMessage() for record in mine) == sorted(f"line {n}" for n in range(200))
        assert {record.process for record in mine} <= {pid for pid in range(2, 2**22)} - {os.getpid()}
        assert all("PoolWorker-" in record.processName for record in mine)


def test_an_exception_arrives_with_its_traceback(start_method, kept):
    with open_pool(start_method, relay_logging=True) as pool:
        pool.apply(logging_tasks.log_exception)
        pool.terminate()
    [record] = [record for record in kept if record.name == "tasks"]
    assert "ZeroDivisionError" in record.getMessage() or "ZeroDivisionError" in record.exc_text


def test_what_was_logged_before_the_worker_was_killed_arrives(start_method, kept):
    with open_pool(start_method, relay_logging=True) as pool:
        for n in range(5):
            assert isinstance(get(pool.apply_async(logging_tasks.log_and_die, (n,))), Exception)
        pool.terminate()
    assert [record.getMessage() for record in kept if record.name == "tasks"] == [f"about to die {n}" for n in range(5)]


def test_levels_hold_in_workers(start_method, kept):
    with open_pool(start_method, relay_logging=True) as pool:
        pool.apply(logging_tasks.log_debug)
        pool.close()
        pool.join()
    assert [record for record in kept if record.name == "tasks"] == []


def test_a_handler_that_raises_costs_its_own_record(start_method, kept, capfd):
    class Raises(logging.Handler):
        def emit(self, record):
            if record.getMessage() == "line 3":
                raise RuntimeError("not this one")

    handler = Raises()
    logging.getLogger("tasks").addHandler(handler)
    try:
        with open_pool(start_method, relay_logging=True) as pool:
            pool.map(logging_tasks.log_line, range(50), 1)
            pool.close()
            pool.join()
    finally:
        logging.getLogger("tasks").removeHandler(handler)
    assert len([record for record in kept if record.name == "tasks"]) == 49
    assert "RuntimeError: not this one" in capfd.readouterr().err


def test_a_record_that_cannot_be_rebuilt_costs_itself(start_method, kept, capfd):
    with open_pool(start_method, relay_logging=True) as pool:
        pool.map(logging_tasks.log_fragile_then_line, range(20), 1)
        pool.close()
        pool.join()
    lines = [record.getMessage() for record in kept if record.name == "tasks"]
    assert sorted(lines) == sorted(f"line {n}" for n in range(20))
    assert "cannot be rebuilt" in capfd.readouterr().err


def test_a_handler_that_stands_still_holds_up_no_task_and_no_end(start_method, kept, monkeypatch):
    monkeypatch.setattr(procession._logging, "_MOST_UNDER_WAY", 100)
    monkeypatch.setattr(procession._logging, "_LAST_WORDS_SECONDS", 0.1)
    may_go_on = threading.Event()

    class Stands(logging.Handler):
        def emit(self, record):
            may_go_on.wait(PATIENCE_SECONDS)

    handler = Stands()
    logging.getLogger("tasks").addHandler(handler)
    try:
        with open_pool(start_method, 1, relay_logging=True) as pool:
            pool.apply(logging_tasks.log_lines, (1000,))
            pool.terminate()
            relay = pool._relay._thread
            assert relay.is_alive()
            may_go_on.set()
            relay.join(PATIENCE_SECONDS)
            assert not relay.is_alive()
    finally:
        may_go_on.set()
        logging.getLogger("tasks").removeHandler(handler)


def test_what_was_dropped_is_told(start_method, kept, monkeypatch):
    monkeypatch.setattr(procession._logging, "_MOST_UNDER_WAY", 100)
    may_go_on = threading.Event()

    class Stands(logging.Handler):
        def emit(self, record):
            may_go_on.wait(PATIENCE_SECONDS)

    handler = Stands()
    logging.getLogger("tasks").addHandler(handler)
    try:
        with open_pool(start_method, 1, relay_logging=True) as pool:
            pool.apply(logging_tasks.log_lines, (1000,))
            may_go_on.set()
            wait_until(lambda: len(kept) >= 100, "the records under way are handled")
            pool.apply(logging_tasks.log_line, (7,))
            pool.close()
            pool.join()
    finally:
        may_go_on.set()
        logging.getLogger("tasks").removeHandler(handler)
    told = [record.getMessage() for record in kept if "were dropped" in record.getMessage()]
    assert len(told) == 1 and int(told[0].split()[0]) + len(kept) - 1 == 1001


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
            get(pool.apply_async(logging_tasks.log_line, (1,)))
            pool.terminate()
            pool.join()
        finally:
            logging.getLogger("tasks").removeHandler(handler)
    assert ended == [True]
