"""Other processes: those that tasks start, and those that the caller forks or reaps while a pool is open."""

import os
import signal

import fault_tasks
import nested_tasks
import pytest
import tasks
from harness import (
    PATIENCE_SECONDS,
    TASK_LIMIT_SECONDS,
    Process,
    assert_pool_is_whole,
    children,
    get,
    native_thread_count,
    open_pool,
    pool_tests,
    promised_by_us_only,
    run_program,
    time_limit,
    wait_for_file,
    wait_until,
    wait_until_gone,
)
from subject import mp

pytestmark = [*pool_tests, promised_by_us_only]


# ---------------------------------------------------------------------------------------------------------------------
# Processes below the workers.


def test_a_task_may_open_a_pool_of_its_own(start_method):
    expected = [sum(x * x for x in range(n)) for n in (5, 10, 12)]
    with open_pool(start_method) as pool:
        with time_limit(2 * PATIENCE_SECONDS, "pools inside tasks"):
            assert (
                pool.starmap(nested_tasks.sum_of_squares_by_inner_pool, [(n, start_method) for n in (5, 10, 12)], 1)
                == expected
            )
            # What the inner pool's task raises comes all the way.
            with pytest.raises(ValueError, match="thirteen"):
                pool.apply(nested_tasks.sum_of_squares_by_inner_pool, (20, start_method))
        assert_pool_is_whole(pool)


def test_a_pool_inside_a_task_ends_with_its_worker(start_method, tmp_path):
    path = str(tmp_path / "inner pids")
    with open_pool(start_method) as pool:
        result = pool.apply_async(nested_tasks.inner_pool_then_sleep, (path, start_method))
        inner = [Process(int(pid)) for pid in wait_for_file(path).split()]
        middle = _worker_running(pool, result)
        os.kill(middle, signal.SIGKILL)
        assert type(get(result)) is mp.WorkerDied
        wait_until_gone(inner)
        assert_pool_is_whole(pool)


def _worker_running(pool, _result):
    """The pid of the worker that is not free: with one task running in a pool of two, who else comes when called?"""
    free = get(pool.apply_async(tasks.pid))
    busy = [process.pid for process in children(Process(free).parent_pid()) if process.pid != free]
    assert len(busy) == 1, busy
    return busy[0]


@pytest.mark.parametrize("start", [nested_tasks.start_program_then_sleep, nested_tasks.fork_child_then_sleep])
@pytest.mark.parametrize("ending", ["kill", "timeout", "terminate"])
def test_what_a_task_started_ends_with_its_worker(start_method, start, ending, tmp_path):
    path = str(tmp_path / "grandchild")
    with open_pool(start_method, **({"timeout": TASK_LIMIT_SECONDS} if ending == "timeout" else {})) as pool:
        result = pool.apply_async(start, (path,))
        grandchild = Process(int(wait_for_file(path)))
        assert grandchild.is_alive()
        if ending == "kill":
            os.kill(grandchild.parent_pid(), signal.SIGKILL)
            assert type(get(result)) is mp.WorkerDied
        elif ending == "timeout":
            assert type(get(result)) is mp.TaskTimeout
        else:
            pool.terminate()
            assert type(get(result)) is mp.PoolTerminated
        wait_until_gone([grandchild])
        if ending != "terminate":
            assert_pool_is_whole(pool)


def test_a_task_may_run_programs_and_reap_them(start_method):
    with open_pool(start_method) as pool:
        assert pool.map(nested_tasks.run_program, range(6), 1) == [42] * 6


def test_a_task_that_forks_and_comes_back_in_both_processes_stays_one_worker(start_method):
    with open_pool(start_method, 2) as pool:
        with time_limit(PATIENCE_SECONDS, "tasks that fork"):
            assert pool.map(fault_tasks.fork_and_return, range(20), chunksize=5) == [0] * 20
            assert [pool.apply(fault_tasks.fork_and_return, (x,)) for x in range(4)] == [0] * 4
            endings = [SystemExit(3), SystemExit(), SystemExit("a word"), LookupError("in the copy alone")]
            assert pool.map(fault_tasks.fork_and_raise, endings) == [3, 0, 1, 1]
            assert_pool_is_whole(pool)


@pytest.mark.parametrize("initializer", [fault_tasks.fork_and_go_on, fault_tasks.fork_and_fail_in_the_copy])
def test_an_initializer_that_forks_and_comes_back_in_both_processes_stays_one_worker(start_method, initializer):
    with open_pool(start_method, 2, initializer) as pool:
        with time_limit(PATIENCE_SECONDS, "tasks after an initializer that forks"):
            assert_pool_is_whole(pool)


def test_a_task_that_closes_descriptors_which_are_not_its_own_hinders_nobody(start_method):
    with open_pool(start_method, 2) as pool:
        with time_limit(PATIENCE_SECONDS, "tasks that close what is not theirs"):
            for x in range(5):
                assert pool.apply(fault_tasks.close_all_descriptors, (x,)) == x
            assert pool.map(fault_tasks.close_all_descriptors, range(20)) == list(range(20))
            assert_pool_is_whole(pool)


# ---------------------------------------------------------------------------------------------------------------------
# The caller forks, ignores SIGCHLD, or reaps whatever there is to reap.

FORK_WHILE_OPEN = """
    import os, sys
    from subject import mp
    import fault_tasks
    import tasks

    if __name__ == "__main__":
        start_method, child_does = sys.argv[1:]
        pool = mp.get_context(start_method).Pool(2)
        assert pool.map(tasks.double, range(10)) == [2 * x for x in range(10)]
        child = os.fork()
        if child == 0:
            if child_does == "calls the pool":
                for call in (
                    lambda: pool.apply(tasks.double, (1,)),
                    lambda: pool.map(tasks.double, [1, 2]),
                    lambda: next(pool.imap(tasks.double, [1])),
                    lambda: pool.apply_async(tasks.double, (1,)).get(5),
                ):
                    try:
                        call()
                    except (ValueError, RuntimeError, mp.ProcessError) as error:
                        assert not isinstance(error, mp.TimeoutError), "the child waited for nothing"
                        assert "process" in str(error) or "fork" in str(error), error
                    else:
                        raise AssertionError("the child got a result from its parent's pool")
            if child_does == "ends the pool":
                # Refused or without effect: it is not the child's.
                for method in (pool.close, pool.terminate, pool.join):
                    try:
                        method()
                    except RuntimeError as error:
                        assert "process" in str(error), error
            if child_does == "drops the pool":
                import gc
                del pool
                gc.collect()
            if child_does == "opens its own":
                with mp.get_context(start_method).Pool(2) as own:
                    assert own.map(tasks.double, range(10)) == [2 * x for x in range(10)]
            sys.exit(7)
        _, status = os.waitpid(child, 0)
        assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 7, status
        assert pool.map(tasks.double, range(10), 1) == [2 * x for x in range(10)]
        results = [pool.apply_async(fault_tasks.sigkill_at_thirteen, (x,)) for x in range(20)]
        failed = 0
        for x, result in enumerate(results):
            try:
                assert result.get(20) == x * x
            except mp.WorkerDied:
                failed += 1
        assert failed == 1
        pool.terminate()
        pool.join()
        print("all well")
"""


@pytest.mark.parametrize(
    "child_does", ["nothing", "calls the pool", "ends the pool", "drops the pool", "opens its own"]
)
def test_a_fork_of_the_caller_leaves_the_pool_to_its_parent(start_method, child_does, tmp_path):
    program = run_program(
        tmp_path, FORK_WHILE_OPEN, start_method, child_does, flags=["-W", "error::DeprecationWarning"]
    )
    assert program.stdout() == "all well\n"
    assert program.stderr() == ""


FORK_WHILE_BUSY = """
    import os, sys, threading, time
    from subject import mp
    import tasks

    if __name__ == "__main__":
        # While a map runs in another thread: the child inherits whatever state that thread had just then.
        with mp.get_context(sys.argv[1]).Pool(2) as pool:
            done = []
            def work():
                for _ in range(30):
                    done.append(pool.map(tasks.double, range(200), 1) == [2 * x for x in range(200)])
            thread = threading.Thread(target=work)
            thread.start()
            while thread.is_alive():
                child = os.fork()
                if child == 0:
                    os._exit(7)
                _, status = os.waitpid(child, 0)
                assert os.WEXITSTATUS(status) == 7
                time.sleep(0.002)
            assert done == [True] * 30
        print("all well")
"""


def test_forks_beside_a_running_map_disturb_nobody(start_method, tmp_path):
    # That Python warns of a fork beside a thread of the caller's own is right.
    program = run_program(tmp_path, FORK_WHILE_BUSY, start_method, flags=["-W", "ignore::DeprecationWarning"])
    assert program.stdout() == "all well\n"


def test_an_idle_pool_keeps_no_thread(start_method):
    before = native_thread_count()
    with open_pool(start_method) as pool:
        assert native_thread_count() == before
        assert pool.map(tasks.double, range(100), 1) == [2 * x for x in range(100)]
        assert list(pool.imap(tasks.double, range(10))) == [2 * x for x in range(10)]
        called = []
        get(pool.apply_async(tasks.double, (1,), callback=called.append))
        assert called == [2]
        wait_until(lambda: native_thread_count() == before, "threads of ours go when nobody needs them")


SIGCHLD_TAKEN = """
    import os, signal, sys, threading, time
    from subject import mp
    import fault_tasks
    import tasks

    def reap(_number, _frame):
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

    if __name__ == "__main__":
        handler = {"ignored": signal.SIG_IGN, "reaped": reap}[sys.argv[2]]
        signal.signal(signal.SIGCHLD, handler)
        with mp.get_context(sys.argv[1]).Pool(2) as pool:
            assert pool.map(tasks.double, range(100), 1) == [2 * x for x in range(100)]
            results = [pool.apply_async(fault_tasks.sigkill_at_thirteen, (x,)) for x in range(30)]
            failed = []
            for x, result in enumerate(results):
                try:
                    assert result.get(20) == x * x
                except mp.WorkerDied as error:
                    failed.append(x)
            assert failed == [13], failed
        pool.join()
        with mp.get_context(sys.argv[1]).Pool(2) as pool:
            assert pool.apply(tasks.double, (1,)) == 2
            pool.close()
            pool.join()
        assert signal.getsignal(signal.SIGCHLD) is handler
        print("all well")
"""


@pytest.mark.parametrize("how", ["ignored", "reaped"])
def test_a_caller_that_takes_sigchld_for_itself_disturbs_nobody(start_method, how, tmp_path):
    assert run_program(tmp_path, SIGCHLD_TAKEN, start_method, how).stdout() == "all well\n"


def test_a_pool_leaves_signal_handlers_alone(start_method):
    numbers = [number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)]
    before = {number: signal.getsignal(number) for number in numbers}
    with open_pool(start_method) as pool:
        pool.map(tasks.double, range(10))
        get(pool.apply_async(fault_tasks.sigkill_self))
        assert {number: signal.getsignal(number) for number in numbers} == before
