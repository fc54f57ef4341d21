"""What workers see of the program that started them, and how programs may be written, over all start methods."""

import multiprocessing
import os
import sys
import textwrap
import threading
from multiprocessing import util

import fault_tasks
import pytest
import tasks
import worker_tasks
from harness import (
    PATIENCE_SECONDS,
    Program,
    get,
    open_pool,
    pool_tests,
    promised_by_us_only,
    run_program,
    time_limit,
    worker_pids,
)
from subject import ON_STDLIB, mp

pytestmark = pool_tests

NAME_PREFIX = {"fork": "ForkPoolWorker-", "spawn": "SpawnPoolWorker-", "forkserver": "ForkServerPoolWorker-"}


# ---------------------------------------------------------------------------------------------------------------------
# Who the workers are.


def test_workers_know_who_they_are(start_method):
    with open_pool(start_method) as pool:
        pids = worker_pids(pool, 2)
        seen = [get(pool.apply_async(worker_tasks.describe_process)) for _ in range(10)]
    for about in seen:
        assert about["name"].startswith(NAME_PREFIX[start_method])
        assert about["name"][len(NAME_PREFIX[start_method]) :].isdigit()
        assert about["daemon"] is True
        assert about["pid"] == about["os_pid"]
        assert about["pid"] in pids
        assert about["parent_name"] == "MainProcess"
        assert about["parent_pid"] == os.getpid()
        assert about["parent_alive"] is True
        assert about["children"] == []
        assert about["authkey"] == bytes(multiprocessing.current_process().authkey)
        # procession and multiprocessing agree.
        assert (about["our_name"], about["our_daemon"], about["our_pid"]) == (about["name"], True, about["pid"])
        assert about["our_parent_pid"] == about["parent_pid"]


NAMES = """
    import sys
    from subject import mp
    import worker_tasks

    if __name__ == "__main__":
        context = mp.get_context(sys.argv[1])
        with context.Pool(1) as first, context.Pool(1) as second:
            print(first.apply(worker_tasks.describe_process)["name"])
            print(second.apply(worker_tasks.describe_process)["name"])
        with context.Pool(1, maxtasksperchild=1) as third:
            print(third.apply(worker_tasks.describe_process)["name"])
            print(third.apply(worker_tasks.describe_process)["name"])
"""


def test_workers_of_all_pools_are_counted_together(start_method, tmp_path):
    names = run_program(tmp_path, NAMES, start_method).stdout().split()
    assert names == [f"{NAME_PREFIX[start_method]}{number}" for number in (1, 2, 3, 4)]


def test_log_records_name_the_worker(start_method):
    with open_pool(start_method) as pool:
        for name in get(pool.apply_async(worker_tasks.log_record_process_name)):
            assert name.startswith(NAME_PREFIX[start_method])


def test_tasks_run_in_the_workers_main_thread_and_alone(start_method):
    with open_pool(start_method) as pool:
        about = get(pool.apply_async(worker_tasks.describe_threads))
        assert about == {"in_main_thread": True, "names": ["MainThread"], "identity": True, "native": True}
        # Only a main thread may do this.
        assert get(pool.apply_async(worker_tasks.set_signal_handler)) == "possible"


def test_workers_draw_different_random_numbers(start_method, tmp_path):
    import random

    random.seed(5)
    expected = random.Random(5).random()
    with open_pool(start_method, 3) as pool:
        results = [pool.apply_async(worker_tasks.random_numbers, (str(tmp_path), 3)) for _ in range(3)]
        seen = [get(result) for result in results]
    assert len({number for _, number, _ in seen}) == 3
    assert len({choices for _, _, choices in seen}) == 3
    assert expected not in {number for _, number, _ in seen}


@promised_by_us_only
def test_replaced_workers_draw_different_random_numbers_too(start_method, tmp_path):
    numbers = []
    with open_pool(start_method, 1, maxtasksperchild=1) as pool:
        for round_number in range(6):
            place = tmp_path / str(round_number)
            place.mkdir()
            numbers.append(get(pool.apply_async(worker_tasks.random_numbers, (str(place), 1)))[1])
    assert len(set(numbers)) == 6


# ---------------------------------------------------------------------------------------------------------------------
# What they inherit.


def test_forked_workers_see_the_callers_memory_and_others_do_not(start_method, monkeypatch):
    monkeypatch.setattr(worker_tasks, "inherited_setting", "set by the caller")
    with open_pool(start_method) as pool:
        expected = "set by the caller" if start_method == "fork" else "as imported"
        assert get(pool.apply_async(worker_tasks.read_inherited_setting)) == expected
        # What is set later is nobody's business.
        monkeypatch.setattr(worker_tasks, "inherited_setting", "set too late")
        assert get(pool.apply_async(worker_tasks.read_inherited_setting)) == expected


@promised_by_us_only
def test_replacements_see_the_memory_as_it_was_when_the_pool_was_made(monkeypatch):
    monkeypatch.setattr(worker_tasks, "inherited_setting", "set before")
    with open_pool("fork") as pool:
        monkeypatch.setattr(worker_tasks, "inherited_setting", "set after")
        for _ in range(4):
            assert type(get(pool.apply_async(fault_tasks.sigkill_self))) is mp.WorkerDied
        assert get(pool.apply_async(worker_tasks.read_inherited_setting)) == "set before"


def test_forked_initializers_need_not_be_pickled():
    lock = threading.Lock()
    secret = "known to the closure"
    with open_pool("fork", 2, worker_tasks.use_callable, (lambda: secret, lock)) as pool:
        assert get(pool.apply_async(worker_tasks.recall)) == (secret,)
    with open_pool("fork", 2, lambda: worker_tasks.remember(secret)) as pool:
        assert get(pool.apply_async(worker_tasks.recall)) == (secret,)


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_what_cannot_be_pickled_is_refused_as_initializer_where_it_must_be_sent(start_method):
    lock = threading.Lock()
    for initializer, initargs in ((lambda: lock, ()), (worker_tasks.remember, (lock,))):
        pool = None
        with time_limit(PATIENCE_SECONDS, "a pool whose initializer cannot be sent"):
            with pytest.raises(Exception) as caught:
                pool = mp.get_context(start_method).Pool(2, initializer, initargs)
                pool.apply(tasks.nothing)
            if pool is not None:
                pool.terminate()
                pool.join()
        assert "pickle" in str(caught.value) or "lambda" in str(caught.value)


def test_initargs_reach_the_initializer_of_every_worker(start_method):
    with open_pool(start_method, 3, worker_tasks.remember, (1, "two", [3.0])) as pool:
        assert [get(pool.apply_async(worker_tasks.recall)) for _ in range(12)] == [(1, "two", [3.0])] * 12
    with open_pool(start_method, 1, worker_tasks.remember, [4, 5]) as pool:
        assert get(pool.apply_async(worker_tasks.recall)) == (4, 5)


def test_after_fork_hooks_run_in_forked_workers(monkeypatch):
    witness = worker_tasks.AfterForkWitness()
    monkeypatch.setattr(worker_tasks.AfterForkWitness, "ran", False)
    util.register_after_fork(witness, worker_tasks.AfterForkWitness.mark)
    with open_pool("fork") as pool:
        assert get(pool.apply_async(worker_tasks.after_fork_ran)) is True
    assert worker_tasks.AfterForkWitness.ran is False


def _succeeds(run_python, tmp_path, program):
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(program))
    done = run_python(path)
    assert done.returncode == 0, done.stderr


def test_hooks_of_the_interpreter_run_once_between_the_caller_and_a_worker(run_python, tmp_path):
    program = """
    import os

    import procession as mp

    forks = []
    os.register_at_fork(before=lambda: forks.append("before"), after_in_child=lambda: forks.append("child"))
    os.register_at_fork(after_in_parent=lambda: forks.append("parent"))


    def tell(_):
        return list(forks)


    if __name__ == "__main__":
        with mp.get_context("fork").Pool(2) as pool:
            first = pool.map(tell, range(4), chunksize=1)
            assert all(told == ["before", "child"] for told in first), first
            assert forks == ["before", "parent"], forks
    """
    _succeeds(run_python, tmp_path, program)


@promised_by_us_only
def test_a_supervisor_keeps_no_child_of_a_dead_caller_alive(run_python, tmp_path):
    program = """
    import os, signal, sys, time

    import procession as mp


    def child_of(caller):
        child = mp.get_context("spawn").Process(target=time.sleep, args=(600,), daemon=True)
        child.start()
        # From here on the supervisor is the only other process that could hold what the child's life hangs on.
        pool = mp.get_context("fork").Pool(1)
        pool.apply(abs, (-1,))
        os.kill(pool._supervisor_pid, signal.SIGSTOP)
        os.write(caller, f"{child.pid} {pool._supervisor_pid}".encode())
        os.kill(os.getpid(), signal.SIGKILL)


    def is_alive(pid):
        try:
            with open(f"/proc/{pid}/stat") as status:
                return status.read().rpartition(")")[2].split()[0] not in "ZX"
        except FileNotFoundError:
            return False


    if __name__ == "__main__":
        reading_end, writing_end = os.pipe()
        caller = os.fork()
        if caller == 0:
            os.close(reading_end)
            child_of(writing_end)
        os.close(writing_end)
        child, supervisor = map(int, os.read(reading_end, 100).split())
        try:
            os.waitpid(caller, 0)
            while is_alive(child):
                time.sleep(0.002)
        finally:
            os.kill(supervisor, signal.SIGKILL)
    """
    _succeeds(run_python, tmp_path, program)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="older Pythons do not warn")
def test_forking_beside_threads_warns_as_os_fork_does():
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        with pytest.warns(DeprecationWarning, match="is multi-threaded, use of fork"), open_pool("fork"):
            pass
    finally:
        over.set()
        thread.join()


def test_the_standard_librarys_locks_can_be_handed_to_workers(start_method):
    lock = multiprocessing.get_context(start_method).Lock()
    with open_pool(start_method, 2, worker_tasks.remember, (lock,)) as pool:
        assert pool.map(worker_tasks.use_remembered_lock, range(20), 1) == ["held"] * 20
        # Elsewhere than in an initializer's arguments they are refused, as ever.
        error = get(pool.apply_async(tasks.identity, (lock,)))
        assert type(error) is RuntimeError
        assert "through inheritance" in str(error)


def test_workers_have_the_callers_surroundings(start_method, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, "/added/by/the/test"])
    monkeypatch.setattr(sys, "argv", ["some program", "with", "arguments"])
    with open_pool(start_method) as pool:
        about = get(pool.apply_async(worker_tasks.describe_interpreter))
    assert about["argv"] == ["some program", "with", "arguments"]
    assert "/added/by/the/test" in about["path"]
    assert about["executable"] == sys.executable
    assert about["stdin"] == "", "a task cannot read what was meant for its caller"


def test_workers_are_in_the_directory_where_the_pool_was_made(start_method, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_pool(start_method) as pool:
        about = get(pool.apply_async(worker_tasks.describe_interpreter))
    assert about["cwd"] == str(tmp_path)


FLAGS = """
    import sys
    from subject import mp
    import worker_tasks

    if __name__ == "__main__":
        with mp.get_context(sys.argv[1]).Pool(1) as pool:
            about = pool.apply(worker_tasks.describe_interpreter)
        print(about["dev_mode"], about["optimize"], "error::UserWarning" in about["warnoptions"])
"""


def test_workers_have_the_callers_interpreter_flags(start_method, tmp_path):
    program = run_program(tmp_path, FLAGS, start_method, flags=["-X", "dev", "-OO", "-W", "error::UserWarning"])
    assert program.stdout() == "True 2 True\n"


# ---------------------------------------------------------------------------------------------------------------------
# Programs.

CLEAN = """
    from subject import mp
    import sys

    if __name__ == "__main__":
        mp.set_start_method(sys.argv[1])
        with mp.Pool(4) as p:
            print(p.map(abs, [-1, -2]))
"""


@pytest.mark.parametrize("flags", [[], ["-X", "dev", "-W", "error"], ["-I", "-S", "-B"]], ids=" ".join)
def test_the_smallest_program_runs_clean(start_method, flags, tmp_path):
    if "-I" in flags:
        # Isolated: it cannot see our directory, so it is told where things are.
        source = "import sys; sys.path[:0] = %r\n" % [p for p in sys.path if p] + textwrap.dedent(CLEAN)
    else:
        source = CLEAN
    if ON_STDLIB and start_method == "fork" and sys.version_info >= (3, 12) and "error" in flags:
        pytest.skip("the standard library's own threads make Python warn when it forks")
    program = run_program(tmp_path, source, start_method, flags=flags)
    assert program.stdout() == "[1, 2]\n"
    assert program.stderr() == ""


LONGER = """
    import sys
    from subject import mp
    import fault_tasks

    class Point:
        def __init__(self, x):
            self.x = x

    def mirrored(point):
        return Point(-point.x)

    def initialize(value):
        global known
        known = value

    def tell(_):
        return known

    def fail(_):
        raise ValueError("in main")

    if __name__ == "__main__":
        context = mp.get_context(sys.argv[1])
        pool = context.Pool(2, initialize, ("known",))
        print([point.x for point in pool.map(mirrored, [Point(1), Point(2)])])
        print([type(point) is Point for point in pool.imap(mirrored, [Point(3)])])
        print(pool.apply(tell, (0,)))
        for submit in (lambda: pool.map(fail, [1]), lambda: pool.apply_async(fail, (1,)).get()):
            try:
                submit()
            except ValueError as error:
                print(error, "in fail" in str(error.__cause__))
        print(sorted(pool.imap_unordered(abs, range(-5, 0))))
        if sys.argv[2] == "deaths":
            try:
                pool.apply(fault_tasks.sigkill_self)
            except mp.WorkerDied as error:
                print(error.exitcode)
            print(pool.apply(tell, (0,)))
        pool.close()
        pool.join()
"""
LONGER_OUTPUT = "[-1, -2]\n[True]\nknown\nin main True\nin main True\n[1, 2, 3, 4, 5]\n"


@pytest.mark.parametrize("flags", [[], ["-X", "dev", "-W", "error"]], ids=" ".join)
def test_functions_and_classes_of_the_main_program_can_be_sent(start_method, flags, tmp_path):
    program = run_program(tmp_path, LONGER, start_method, "no deaths", flags=flags)
    assert program.stdout() == LONGER_OUTPUT
    assert program.stderr() == ""


@promised_by_us_only
def test_replacements_know_the_main_program_too(start_method, tmp_path):
    program = run_program(tmp_path, LONGER, start_method, "deaths", flags=["-X", "dev", "-W", "error"])
    assert program.stdout() == LONGER_OUTPUT + "-9\nknown\n"
    assert program.stderr() == ""


def test_a_program_may_be_a_module_of_a_package(start_method, tmp_path):
    package = tmp_path / "some_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "helper.py").write_text("FACTOR = 3\n")
    (package / "program.py").write_text("from .helper import FACTOR\n" + textwrap.dedent(LONGER))
    program = run_program(tmp_path, "", start_method, "no deaths", arguments_before=["-m", "some_package.program"])
    assert program.stdout() == LONGER_OUTPUT
    assert program.stderr() == ""


def test_a_program_may_be_a_directory_or_an_archive(start_method, tmp_path):
    import zipfile

    archive = tmp_path / "program.pyz"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("__main__.py", textwrap.dedent(CLEAN))
    program = run_program(tmp_path, "", start_method, arguments_before=[str(archive)])
    assert program.stdout() == "[1, 2]\n"


def test_a_program_may_come_from_the_command_line(start_method, tmp_path):
    program = run_program(tmp_path, "", start_method, arguments_before=["-c", textwrap.dedent(CLEAN)])
    assert program.stdout() == "[1, 2]\n"
    assert program.stderr() == ""


def test_a_program_may_come_from_standard_input(start_method, tmp_path):
    script = tmp_path / "from standard input"
    script.write_text(textwrap.dedent(CLEAN))
    if ON_STDLIB and start_method != "fork":
        pytest.skip("the standard library's workers look for a file <stdin>, for ever")
    with open(script) as stdin, Program(tmp_path, "", start_method, arguments_before=["-"], stdin=stdin) as program:
        if program.wait(2 * PATIENCE_SECONDS) == 0:
            assert program.stdout() == "[1, 2]\n"
        else:
            assert start_method != "fork"
            assert "WorkerInitError" in program.stderr()
        program.assert_nothing_left()


@promised_by_us_only
@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_a_function_that_only_the_command_line_knows_is_a_clear_error(start_method, tmp_path):
    source = """
        import sys
        from subject import mp

        # It could be sent as it is.
        sys.modules["cloudpickle"] = None

        def double(x):
            return 2 * x

        if __name__ == "__main__":
            with mp.get_context(sys.argv[1]).Pool(2) as pool:
                try:
                    pool.apply(double, (1,))
                except AttributeError as error:
                    print("double" in str(error) and "__main__" in str(error))
                print(pool.apply(abs, (-1,)))
    """
    program = run_program(tmp_path, "", start_method, arguments_before=["-c", textwrap.dedent(source)])
    assert program.stdout() == "True\n1\n"


def test_the_default_start_method_is_that_of_the_running_python(tmp_path):
    source = """
        import multiprocessing
        from subject import mp
        import worker_tasks

        if __name__ == "__main__":
            with mp.Pool(1) as pool:
                name = pool.apply(worker_tasks.describe_process)["name"]
            print(name, mp.get_start_method() == multiprocessing.get_start_method())
    """
    name, same = run_program(tmp_path, source).stdout().split()
    assert name == NAME_PREFIX[multiprocessing.get_context().get_start_method()] + "1"
    assert same == "True"


def test_the_start_method_set_for_multiprocessing_is_ours_too(start_method, tmp_path):
    source = """
        import multiprocessing, sys
        from subject import mp
        import worker_tasks

        if __name__ == "__main__":
            multiprocessing.set_start_method(sys.argv[1])
            with mp.Pool(1) as pool:
                print(pool.apply(worker_tasks.describe_process)["name"])
    """
    assert run_program(tmp_path, source, start_method).stdout() == NAME_PREFIX[start_method] + "1\n"


NON_DAEMONIC = """
    import sys
    from subject import mp, pool_module
    import nested_tasks

    # The recipe by which people get pools inside tasks out of the standard library.
    class NoDaemonProcess(type(mp.get_context(sys.argv[-1]).Process())):
        @property
        def daemon(self):
            return False

        @daemon.setter
        def daemon(self, value):
            pass

    class NoDaemonContext(type(mp.get_context(sys.argv[-1]))):
        Process = NoDaemonProcess

    class NestablePool(pool_module.Pool):
        def __init__(self, *args, **kwargs):
            kwargs["context"] = NoDaemonContext()
            super().__init__(*args, **kwargs)

    if __name__ == "__main__":
        with NestablePool(2) as pool:
            print(pool.map(nested_tasks.sum_of_squares_by_inner_pool, [5, 6], 1))
            pool.close()
            pool.join()
"""


def test_the_recipe_for_pools_inside_tasks_works(tmp_path):
    assert run_program(tmp_path, NON_DAEMONIC, "fork").stdout() == "[30, 55]\n"


# ---------------------------------------------------------------------------------------------------------------------
# Main programs that workers cannot import.

UNGUARDED = """
    from subject import mp
    import sys

    with mp.get_context(sys.argv[1]).Pool(2) as pool:
        print(pool.map(abs, [-1]), flush=True)
"""


@promised_by_us_only
@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_a_main_program_without_a_guard_is_one_error_with_advice(start_method, tmp_path):
    program = run_program(tmp_path, UNGUARDED, start_method, exit_code=1)
    assert program.stdout() == ""
    assert "WorkerInitError" in program.stderr()
    assert "if __name__ == '__main__':" in program.stderr()
    assert program.stderr().count("\n") < 150, "once is enough"


RAISES_ON_IMPORT = """
    from subject import mp
    import sys

    with open("imports", "a") as file:
        file.write(__name__ + "\\n")
    if __name__ != "__main__":
        raise LookupError("cannot be imported")

    if __name__ == "__main__":
        with mp.get_context(sys.argv[1]).Pool(2) as pool:
            for submit in (
                lambda: pool.map(abs, [-1]),
                lambda: pool.apply_async(abs, (-1,)).get(),
                lambda: next(pool.imap(abs, [-1])),
            ):
                try:
                    print(submit())
                except mp.WorkerInitError as error:
                    print("WorkerInitError", "LookupError: cannot be imported" in str(error))
"""


@promised_by_us_only
@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_a_main_program_that_raises_on_import_is_one_error(start_method, tmp_path):
    program = run_program(tmp_path, RAISES_ON_IMPORT, start_method)
    assert program.stdout() == "WorkerInitError True\n" * 3
    imports = (tmp_path / "imports").read_text().split()
    assert 2 <= len(imports) <= 5, imports


@promised_by_us_only
def test_a_module_that_raises_on_import_fails_only_the_tasks_that_need_it(start_method, tmp_path):
    (tmp_path / "poisonous.py").write_text(
        "import os\nif os.environ.get('POISONED_FOR') != str(os.getpid()): raise LookupError('cannot be imported')\n"
        "def function(x): return x\n"
    )
    source = """
        import os, sys
        from subject import mp
        import tasks

        if __name__ == "__main__":
            with mp.get_context(sys.argv[1]).Pool(2) as pool:
                pool.apply(tasks.nothing)
                os.environ["POISONED_FOR"] = str(os.getpid())
                import poisonous
                for _ in range(3):
                    try:
                        print(pool.apply(poisonous.function, (1,)))
                    except LookupError as error:
                        print(error, pool.apply(tasks.double, (1,)))
    """
    assert run_program(tmp_path, source, start_method).stdout() == "cannot be imported 2\n" * 3


@promised_by_us_only
def test_importing_starts_nothing(tmp_path):
    source = """
        import os
        import procession, procession.pool
        print(len(os.listdir("/proc/self/task")))
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            print(file.read().split())
    """
    assert run_program(tmp_path, source).stdout() == "1\n[]\n"


MANY_DESCRIPTORS = """
    import os, resource, sys
    import procession as mp

    def change(arrays):
        for array in arrays:
            array[0] += 1

    if __name__ == "__main__":
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(2048, hard), hard))
        context = mp.get_context(sys.argv[1])
        # Each has a descriptor of its own.
        arrays = [context.Array("b", 200_000) for _ in range(600)]

        def start():
            process = context.Process(target=change, args=(arrays,))
            process.start()
            process.join()
            print(process.exitcode, {array[0] for array in arrays})

        start()
        with context.Pool(1, change, (arrays,)) as pool:
            print(pool.map(abs, [-1]), {array[0] for array in arrays})
        if sys.argv[1] == "forkserver":
            # An order whose sender was interrupted.
            import socket
            from procession import _zygote

            socket.send_fds(_zygote._server.socket, [b"300 more"], [0] * 253)
            start()
"""


@promised_by_us_only
@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_more_descriptors_than_the_kernel_takes_at_once_are_handed_on(start_method, tmp_path):
    program = run_program(tmp_path, MANY_DESCRIPTORS, start_method)
    expected = ["0 {1}", "[1] {2}", "0 {3}"]
    assert program.lines() == expected[: 2 if start_method == "spawn" else 3]
