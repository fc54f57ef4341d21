"""Pools that nobody ends: they are dropped, their program ends or is killed, and nothing is left."""

import gc
import signal
import time
import weakref

import pytest
import tasks
from harness import (
    PATIENCE_SECONDS,
    Process,
    Program,
    get,
    pool_tests,
    promised_by_us_only,
    run_program,
    take,
    wait_until_gone,
    worker_pids,
)
from subject import ON_STDLIB, mp

pytestmark = pool_tests


# ---------------------------------------------------------------------------------------------------------------------
# Pools that nobody ends.


@pytest.mark.filterwarnings("ignore:unclosed running multiprocessing pool:ResourceWarning")
def test_a_dropped_pool_ends_its_workers(start_method):
    pool = mp.get_context(start_method).Pool(2)
    workers = [Process(pid) for pid in worker_pids(pool, 2)]
    reference = weakref.ref(pool)
    del pool
    gc.collect()
    assert reference() is None
    wait_until_gone(workers)


@promised_by_us_only
@pytest.mark.parametrize(
    "hold",
    [lambda pool: pool, lambda pool: pool.apply_async(tasks.double, (1,)), lambda pool: pool.imap(tasks.double, [1])],
    ids=["itself", "a result", "an iterator"],
)
@pytest.mark.filterwarnings("ignore:unclosed running multiprocessing pool:ResourceWarning")
def test_a_dropped_pool_that_holds_on_to_itself_ends_its_workers(hold):
    pool = mp.get_context("fork").Pool(1)
    workers = [Process(pid) for pid in worker_pids(pool, 1)]
    reference = weakref.ref(pool)
    pool.held = hold(pool)
    del pool
    gc.collect()
    assert reference() is None
    wait_until_gone(workers)


def test_what_holds_a_pool_at_the_programs_end_is_finalized(run_python):
    done = run_python(
        source=f"""
import {mp.__name__} as mp
def double(x):
    return 2 * x
class Owner:
    def __init__(self):
        self.pool = mp.get_context("fork").Pool(1)
    def __del__(self):
        print("finalized")
owner = Owner()
print(owner.pool.map(double, [1]))
"""
    )
    assert done.stdout == "[2]\nfinalized\n", done.stderr


@pytest.mark.filterwarnings("ignore:unclosed running multiprocessing pool:ResourceWarning")
def test_a_pool_lives_as_long_as_somebody_has_a_result_of_it_to_come(start_method):
    result = mp.get_context(start_method).Pool(2).apply_async(tasks.sleep_and_return, (0.3, "slept"))
    gc.collect()
    assert get(result) == "slept"
    del result
    mapped = mp.get_context(start_method).Pool(2).map_async(tasks.double, range(10))
    iterator = mp.get_context(start_method).Pool(2).imap(tasks.double, range(100))
    gc.collect()
    assert get(mapped) == [2 * x for x in range(10)]
    assert take(iterator) == [2 * x for x in range(100)]
    del mapped, iterator
    # That the workers are gone now is seen by the guard against leftovers.
    gc.collect()


@promised_by_us_only
@pytest.mark.filterwarnings("ignore:unclosed running multiprocessing pool:ResourceWarning")
def test_results_that_were_computed_can_be_had_after_the_pool_is_dropped(start_method):
    pool = mp.get_context(start_method).Pool(2)
    result = pool.apply_async(tasks.make_bytes, (1_000_000, 7))
    iterator = pool.imap(tasks.double, range(10))
    result.wait(PATIENCE_SECONDS)
    first = next(iterator)
    del pool
    gc.collect()
    assert get(result) == tasks.make_bytes(1_000_000, 7)
    assert first == 0
    # The rest comes or is refused, but nobody waits for ever.
    for item in take(iterator):
        assert isinstance(item, (int, mp.ProcessError))


EXIT_WITH_OPEN_POOL = """
    import sys, time
    from subject import mp
    import tasks

    if __name__ == "__main__":
        start_method, how, work = sys.argv[1:]
        pool = mp.get_context(start_method).Pool(2)
        assert pool.map(tasks.double, range(10)) == [2 * x for x in range(10)]
        if work == "running":
            results = [pool.apply_async(tasks.sleep_forever) for _ in range(4)]
        if work == "queued":
            results = [pool.apply_async(tasks.double, (x,)) for x in range(20_000)]
        if work == "iterated":
            iterator = pool.imap(tasks.double, range(20_000))
            next(iterator)
        if work == "awaited by a daemon thread":
            import threading
            threading.Thread(target=pool.apply, args=(tasks.sleep_forever,), daemon=True).start()
            time.sleep(0.2)
        print("leaving", flush=True)
        if how == "sys.exit":
            sys.exit(3)
        if how == "error":
            raise ValueError("on the way out")
"""


@pytest.mark.parametrize("work", ["none", "running", "queued", "iterated", "awaited by a daemon thread"])
def test_a_program_may_end_with_an_open_pool(start_method, work, tmp_path):
    program = run_program(tmp_path, EXIT_WITH_OPEN_POOL, start_method, "end", work)
    assert program.stdout() == "leaving\n"
    if work == "awaited by a daemon thread":
        # The thread may live long enough to hear, and to say, that its pool has ended.
        assert program.stderr() == "" or "PoolTerminated" in program.stderr()
    else:
        assert program.stderr() == ""


@pytest.mark.parametrize("how, exit_code", [("sys.exit", 3), ("error", 1)])
def test_an_open_pool_does_not_change_the_exit_code(start_method, how, exit_code, tmp_path):
    program = run_program(tmp_path, EXIT_WITH_OPEN_POOL, start_method, how, "running", exit_code=exit_code)
    assert program.stderr().count("Traceback") == (1 if how == "error" else 0)


EXIT_IN_OTHER_WAYS = """
    import atexit, sys, threading, os
    from subject import mp
    import tasks

    def end_at_exit(pool):
        assert pool.apply(tasks.double, (1,)) == 2
        pool.terminate()
        pool.join()
        print("ended at exit", flush=True)

    class Holder:
        '''In a reference cycle, so that only the collector at the interpreter's end finds the pool.'''
        def __init__(self, pool):
            self.me, self.pool = self, pool

    if __name__ == "__main__":
        start_method, how = sys.argv[1:]
        pool = mp.get_context(start_method).Pool(2)
        assert pool.apply(tasks.double, (1,)) == 2
        if how == "atexit":
            atexit.register(end_at_exit, pool)
        if how == "cycle":
            holder = Holder(pool)
            del holder
        if how == "closed":
            pool.close()
        if how == "os._exit":
            os._exit(0)
        if how == "in a thread":
            thread = threading.Thread(target=lambda: print(pool.map(tasks.double, range(3)), flush=True))
            thread.start()
"""


@pytest.mark.parametrize("how", ["atexit", "cycle", "closed", "os._exit", "in a thread"])
def test_a_program_may_end_its_pool_late_or_never(start_method, how, tmp_path):
    program = run_program(tmp_path, EXIT_IN_OTHER_WAYS, start_method, how)
    assert program.stdout() == {"atexit": "ended at exit\n", "in a thread": "[0, 2, 4]\n"}.get(how, "")
    if how == "os._exit" and ON_STDLIB:
        return  # Its resource tracker finds semaphores that nobody removed, and says so.
    assert program.stderr() == ""


OUTPUT = """
    import sys
    from subject import mp
    import tasks

    if __name__ == "__main__":
        # Still in the buffer when the workers come about: who inherits the buffer must not write it again.
        print("once")
        sys.stdout.write("and once more, unfinished")
        with mp.get_context(sys.argv[1]).Pool(2) as pool:
            pool.map(tasks.print_line, ["line %d" % x for x in range(20)], 1)
            pool.close()
            pool.join()
        print(", finished")
"""


def test_what_tasks_print_is_written_once(start_method, tmp_path):
    program = run_program(tmp_path, OUTPUT, start_method)
    text = program.stdout()
    assert text.count("once\n") == 1
    assert text.count("and once more, unfinished") == 1
    assert [text.count(f"line {x}\n") for x in range(20)] == [1] * 20


# ---------------------------------------------------------------------------------------------------------------------
# The caller is killed.


KILLED = """
    import os, sys, time
    from subject import mp
    import nested_tasks
    import tasks

    if __name__ == "__main__":
        start_method, state, directory = sys.argv[1:]
        pool = mp.get_context(start_method).Pool(2)
        pool.map(tasks.double, range(10))
        if state == "busy":
            paths = [os.path.join(directory, name) for name in ("first", "second")]
            results = [pool.apply_async(tasks.announce_and_sleep, (path,)) for path in paths]
            for path in paths:
                tasks.wait_for_file(path)
        if state == "spinning":
            results = [pool.apply_async(tasks.spin_forever) for _ in range(2)]
            time.sleep(0.2)
        if state == "deaf":
            paths = [os.path.join(directory, name) for name in ("first", "second")]
            results = [pool.apply_async(tasks.sleep_stubbornly, (path,)) for path in paths]
            for path in paths:
                tasks.wait_for_file(path)
        if state == "submitting":
            print("ready", flush=True)
            while True:
                pool.map(tasks.double, range(1000), 1)
        if state == "with grandchildren":
            path = os.path.join(directory, "grandchild")
            result = pool.apply_async(nested_tasks.start_program_then_sleep, (path,))
            tasks.wait_for_file(path)
        print("ready", flush=True)
        time.sleep(3600)
"""


@promised_by_us_only
@pytest.mark.parametrize("state", ["idle", "busy", "spinning", "deaf", "submitting", "with grandchildren"])
def test_nothing_is_left_when_the_caller_is_killed(start_method, state, tmp_path):
    with Program(tmp_path, KILLED, start_method, state, tmp_path) as program:
        program.wait_for_line("ready")
        assert len(program.processes()) >= 3
        program.send_signal(signal.SIGKILL)
        # One second is what is promised; on a machine that is busy with other things it may be a little more.
        program.assert_nothing_left(seconds=3.0)


@promised_by_us_only
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGABRT], ids=lambda number: number.name)
def test_nothing_is_left_when_the_caller_dies_by_another_signal(start_method, number, tmp_path):
    with Program(tmp_path, KILLED, start_method, "busy", tmp_path) as program:
        program.wait_for_line("ready")
        program.send_signal(number)
        assert program.wait() == -number
        program.assert_nothing_left()


@promised_by_us_only
def test_nothing_is_left_when_the_caller_is_killed_while_it_makes_the_pool(start_method, tmp_path):
    source = """
        import sys
        from subject import mp
        import tasks

        if __name__ == "__main__":
            print("ready", flush=True)
            while True:
                with mp.get_context(sys.argv[1]).Pool(3) as pool:
                    pass
    """
    for milliseconds in (0, 3, 10, 30, 60, 100):
        with Program(tmp_path, source, start_method) as program:
            program.wait_for_line("ready")
            time.sleep(milliseconds / 1000)
            program.send_signal(signal.SIGKILL)
            program.assert_nothing_left()
