"""A spawned process may be the clone of an interpreter that nobody has used; nothing but the time tells it from a new one."""

import os
import signal

import pytest
from harness import PATIENCE_SECONDS, Program, run_program

pytestmark = pytest.mark.timeout(6 * PATIENCE_SECONDS)

# Makes sure that there is a template, and tells which process it is.
PRELUDE = """
    import os, signal, sys, threading, time
    import procession as mp
    from procession import _template

    context = mp.get_context("spawn")

    def nothing():
        pass

    def run(target, *args):
        process = context.Process(target=target, args=args)
        process.start()
        process.join()
        return process.exitcode

    def ask(function, *args):
        reader, writer = context.Pipe(duplex=False)
        with reader, writer:
            process = context.Process(target=answer, args=(writer, function, args))
            process.start()
            writer.close()
            found = reader.recv()
            process.join()
        return found

    def answer(writer, function, args):
        writer.send(function(*args))

    def template():
        found = _template._template
        return None if found is None else found.pid

    def make_template():
        for _ in range(200):
            run(nothing)
            found = _template._template
            if found is not None and found.is_ready:
                return found.pid
        raise AssertionError("there is no template")
"""

IS_CLONE = """
    def is_clone():
        with open("/proc/self/cmdline") as file:
            return "_template" in file.read()
"""


def script(text):
    return PRELUDE + IS_CLONE + text


def test_the_first_two_are_executed_and_later_ones_cloned(tmp_path):
    program = run_program(
        tmp_path,
        script("""
    if __name__ == "__main__":
        print(ask(is_clone), ask(is_clone), template() is not None)
        make_template()
        print(ask(is_clone))
"""),
    )
    assert program.lines() == ["False False True", "True"]
    assert program.stderr() == ""


def test_a_clone_is_this_processs_child_in_every_way(tmp_path):
    program = run_program(
        tmp_path,
        script("""
    def about():
        hits = []
        signal.signal(signal.SIGUSR1, lambda *_: hits.append(threading.current_thread() is threading.main_thread()))
        main = threading.main_thread()
        thread = threading.Thread(target=lambda: signal.pthread_kill(main.ident, signal.SIGUSR1))
        thread.start()
        thread.join()
        lock = threading.RLock()
        with lock, lock:
            pass
        name = open("/proc/self/comm").read().strip()
        return os.getppid(), threading.get_native_id() == os.getpid() == main.native_id, hits, name

    if __name__ == "__main__":
        mine = open("/proc/self/comm").read().strip()
        make_template()
        assert ask(is_clone)
        assert ask(about) == (os.getpid(), True, [True], mine), ask(about)
        process = context.Process(target=sys.exit, args=(7,))
        process.start()
        pid, status = os.waitpid(process.pid, 0)
        print(pid == process.pid, os.waitstatus_to_exitcode(status))
        process = context.Process(target=time.sleep, args=(60,))
        process.start()
        process.kill()
        process.join()
        print(process.exitcode)
"""),
    )
    assert program.lines() == ["True 7", "-9"]


CHANGES = """
    import ctypes, resource

    prctl = ctypes.CDLL(None).prctl
    PR_SET_THP_DISABLE, PR_GET_THP_DISABLE = 41, 42

    def umask():
        found = os.umask(0o22)
        os.umask(found)
        return found

    def look():
        ignored = signal.getsignal(signal.SIGUSR2)
        return (
            os.environ.get("COLOUR"), os.getcwd(), umask(), resource.getrlimit(resource.RLIMIT_NOFILE),
            os.nice(0), os.sched_getaffinity(0), os.getsid(0), os.getpgid(0), ignored == signal.SIG_IGN,
            prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), is_clone(),
        )

    def change(what):
        if what == "environment":
            os.environ["COLOUR"] = "green"
        elif what == "directory":
            os.mkdir("below")
            os.chdir("below")
        elif what == "umask":
            os.umask(0o77)
        elif what == "limit":
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
        elif what == "nice":
            os.nice(1)
        elif what == "affinity":
            os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
        elif what == "group":
            os.setpgid(0, 0)
        elif what == "ignored signal":
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        elif what == "huge pages":
            assert prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0

    if __name__ == "__main__":
        what = sys.argv[1]
        before = make_template()
        os.umask(0o22)
        make_template()
        if what == "group":
            # A session's leader cannot leave its group.
            pid = os.fork()
            if pid:
                sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            make_template()
        assert ask(is_clone)
        change(what)
        seen = ask(look)
        expected = look()
        assert seen[:-1] == expected[:-1], (seen, expected)
        assert not seen[-1], "cloned under other circumstances"
        # If they stay so, there is a template for them.
        make_template()
        seen = ask(look)
        assert seen[:-1] == expected[:-1] and seen[-1], (seen, expected)
        print("the same")
        sys.stdout.flush()
        os._exit(0) if what == "group" else None
"""


@pytest.mark.parametrize(
    "what",
    ["environment", "directory", "umask", "limit", "nice", "affinity", "group", "ignored signal", "huge pages"],
)
def test_what_a_program_inherits_reaches_spawned_processes_as_it_is_now(tmp_path, what):
    if what == "affinity" and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is one CPU only")
    if what == "nice" and os.nice(0) == 19:
        pytest.skip("nobody is nicer")
    program = run_program(tmp_path, script(CHANGES), what)
    assert program.lines() == ["the same"]


def test_standard_streams_are_those_of_the_moment(tmp_path):
    program = run_program(
        tmp_path,
        script("""
    def speak(text):
        print(text)
        print(text, file=sys.stderr)

    if __name__ == "__main__":
        make_template()
        run(speak, "one")
        # The same files, opened anew: what is written goes behind what is there.
        for number, name in ((1, "stdout"), (2, "stderr")):
            new = os.open(name, os.O_WRONLY | os.O_APPEND)
            os.dup2(new, number)
            os.close(new)
        run(speak, "two")
        for number, name in ((1, "out"), (2, "err")):
            new = os.open(name, os.O_WRONLY | os.O_CREAT, 0o600)
            os.dup2(new, number)
            os.close(new)
        run(speak, "three")
        make_template()
        run(speak, "four")
        os.close(0)
        run(speak, "five")
"""),
    )
    assert program.lines() == program.stderr().splitlines() == ["one", "two"]
    assert (tmp_path / "out").read_text() == (tmp_path / "err").read_text() == "three\nfour\nfive\n"


def test_descriptors_keep_their_numbers(tmp_path):
    program = run_program(
        tmp_path,
        script("""
    import resource
    from multiprocessing import context as stdlib_context

    class Carried:
        def __init__(self, descriptor):
            self.descriptor = descriptor

        def __reduce__(self):
            popen = stdlib_context.get_spawning_popen()
            return Received, (popen.DupFd(popen.duplicate_for_child(self.descriptor)),)

    class Received(Carried):
        def __init__(self, descriptor):
            super().__init__(descriptor.detach())

    def contents(carried):
        opened = set(map(int, os.listdir("/proc/self/fd")))
        return [(c.descriptor, os.pread(c.descriptor, 10, 0), c.descriptor in opened) for c in carried], len(opened)

    def memory(number):
        descriptor = os.memfd_create("carried", 0)
        os.write(descriptor, b"%d" % number)
        return descriptor

    if __name__ == "__main__":
        descriptors = [memory(number) for number in range(60)]
        executed = ask(contents, [Carried(d) for d in descriptors])
        make_template()
        assert ask(is_clone)
        # In any order, low and high, so that each is in the way of another.
        high = os.dup2(memory(60), 900, inheritable=False)
        carried = [Carried(d) for d in descriptors[::-1]]
        assert ask(contents, carried)[0] == executed[0][::-1]
        assert ask(contents, carried)[1] == executed[1], "other descriptors than an executed process has"
        assert ask(contents, [Carried(high)])[0] == [(900, b"60", True)]
        # Beyond what a new process may open, though it may inherit it: executed.
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        for soft in (800, 100, limit[0]):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, limit[1]))
            run(nothing)
            make_template()
            assert ask(is_clone)
            assert ask(contents, [Carried(high)])[0] == [(900, b"60", True)]
            assert ask(contents, carried)[0] == executed[0][::-1]
        # More than travel at once: executed.
        many = [Carried(memory(number)) for number in range(240)]
        assert [found[1] for found in ask(contents, many)[0]] == [b"%d" % number for number in range(240)]
        assert ask(is_clone)
        print("all there")
"""),
    )
    assert program.lines() == ["all there"]


def test_clones_differ_where_new_interpreters_would(tmp_path):
    program = run_program(
        tmp_path,
        script("""
    import random, tempfile, uuid

    def draw():
        return random.random(), random.SystemRandom().random(), uuid.uuid4(), tempfile.mktemp(), os.urandom(8)

    if __name__ == "__main__":
        make_template()
        one, other = ask(draw), ask(draw)
        print(ask(is_clone), [a == b for a, b in zip(one, other)])
"""),
    )
    assert program.lines() == ["True [False, False, False, False, False]"]


def test_a_killed_template_costs_nothing(tmp_path):
    program = run_program(
        tmp_path,
        script("""
    if __name__ == "__main__":
        first = make_template()
        os.kill(first, signal.SIGKILL)
        print(run(sys.exit, 3), template() != first)
        second = make_template()
        print(second != first, ask(is_clone))
"""),
    )
    assert program.lines() == ["3 True", "True True"]


def test_a_template_that_somebody_else_reaps_costs_nothing(tmp_path):
    program = run_program(
        tmp_path,
        script("""
    if __name__ == "__main__":
        first = make_template()
        os.kill(first, signal.SIGKILL)
        # As a program does that waits for any child.
        while os.waitpid(-1, 0)[0] != first:
            pass
        print(run(sys.exit, 3))
        print(make_template() != first, ask(is_clone))
        os.kill(template(), signal.SIGKILL)
        os.waitpid(template(), 0)
"""),
    )
    assert program.lines() == ["3", "True True"]
    assert program.stderr() == ""


def test_a_template_that_is_killed_while_it_is_asked_costs_nothing(tmp_path):
    program = run_program(
        tmp_path,
        script("""
    def kill_often(stop):
        while not stop.is_set():
            pid = template()
            if pid is not None:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            stop.wait(0.013)

    if __name__ == "__main__":
        stop = threading.Event()
        killer = threading.Thread(target=kill_often, args=(stop,))
        killer.start()
        codes = [run(sys.exit, number % 7) for number in range(60)]
        stop.set()
        killer.join()
        assert codes == [number % 7 for number in range(60)], codes
        print(mp.active_children())
"""),
    )
    assert program.lines() == ["[]"]


def test_a_template_that_stands_still_is_replaced(tmp_path):
    program = run_program(
        tmp_path,
        script("""
    if __name__ == "__main__":
        _template._PATIENCE_SECONDS = 0.3
        first = make_template()
        os.kill(first, signal.SIGSTOP)
        print(run(sys.exit, 3), template())
        assert not os.path.exists(f"/proc/{first}")
        print(make_template() != first)
"""),
    )
    assert program.lines() == ["3 None", "True"]


def test_a_template_ends_with_its_process_however_that_ends(tmp_path):
    for end in ("sys.exit()", "os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)"):
        with Program(
            tmp_path,
            script(f"""
    if __name__ == "__main__":
        print("template", make_template(), flush=True)
        {end}
"""),
        ) as program:
            program.wait_for_line("template")
            program.wait()
            program.assert_nothing_left()


def test_a_stopped_template_does_not_hold_up_the_exit(tmp_path):
    program = run_program(
        tmp_path,
        script("""
    if __name__ == "__main__":
        os.kill(make_template(), signal.SIGSTOP)
        print("over")
"""),
    )
    assert program.lines() == ["over"]


def test_a_forked_process_has_a_template_of_its_own(tmp_path):
    program = run_program(
        tmp_path,
        script("""
    def in_fork(queue, template_of_parent):
        first = ask(os.getppid)
        mine = make_template()
        queue.put((first == os.getpid(), ask(os.getppid) == os.getpid(), ask(is_clone), mine != template_of_parent))

    if __name__ == "__main__":
        parents = make_template()
        fork = mp.get_context("fork")
        queue = fork.Queue()
        process = fork.Process(target=in_fork, args=(queue, parents))
        process.start()
        print(queue.get(), template() == parents, ask(is_clone))
        process.join()
"""),
    )
    assert program.lines() == ["(True, True, True, True) True True"]


def test_a_clone_may_spawn_in_turn(tmp_path):
    program = run_program(
        tmp_path,
        script("""
    def inner():
        return os.getppid(), is_clone()

    def outer():
        make_template()
        return os.getpid(), ask(inner)

    if __name__ == "__main__":
        make_template()
        pid, (parent, cloned) = ask(outer)
        print(pid == parent, cloned)
"""),
    )
    assert program.lines() == ["True True"]


def test_an_executable_that_runs_python_as_its_child_has_no_template(tmp_path):
    program = run_program(
        tmp_path,
        script("""
    if __name__ == "__main__":
        with open("wrapper", "w") as file:
            file.write(f'#!/bin/sh\\n"{sys.executable}" "$@"\\nexit $?\\n')
        os.chmod("wrapper", 0o700)
        context.set_executable(os.path.abspath("wrapper"))
        print({run(sys.exit, 7) for _ in range(8)}, ask(is_clone))
"""),
    )
    assert program.lines() == ["{7} False"]
    assert program.stderr() == ""


def test_processes_in_a_new_pid_namespace_have_no_template(tmp_path):
    program = run_program(
        tmp_path,
        script("""
    import ctypes

    CLONE_NEWPID, CLONE_NEWUSER = 0x20000000, 0x10000000

    if __name__ == "__main__":
        unshare = ctypes.CDLL(None).unshare
        if unshare(CLONE_NEWPID) and unshare(CLONE_NEWUSER | CLONE_NEWPID):
            print("not here")
            sys.exit()
        # The namespace lasts as long as its first process.
        first = context.Process(target=time.sleep, args=(1000,))
        first.start()
        print({run(sys.exit, 7) for _ in range(8)}, ask(is_clone))
        first.kill()
        first.join()
"""),
    )
    if program.lines() == ["not here"]:
        pytest.skip("this needs the right to make namespaces")
    assert program.lines() == ["{7} False"]
    assert program.stderr() == ""


def test_a_template_that_may_not_be_killed_any_more_ends_all_the_same(tmp_path):
    program = run_program(
        tmp_path,
        script("""
    def refuse(*_):
        raise PermissionError("as to a process that has changed its user since")

    if __name__ == "__main__":
        first = make_template()
        signal.pidfd_send_signal = refuse
        os.environ["COLOUR"] = "green"
        print({run(sys.exit, 7) for _ in range(4)}, os.path.exists(f"/proc/{first}"))
        print(make_template() != first)
"""),
    )
    assert program.lines() == ["{7} False", "True"]
    assert program.stderr() == ""


def test_threads_spawn_side_by_side(tmp_path):
    program = run_program(
        tmp_path,
        script("""
    if __name__ == "__main__":
        codes = {}

        def work(first):
            for number in range(first, first + 8):
                codes[number] = run(sys.exit, number)

        threads = [threading.Thread(target=work, args=(8 * k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(codes == {number: number for number in range(32)})
"""),
    )
    assert program.lines() == ["True"]


def test_ctrl_c_reaches_the_clone_and_not_the_template(tmp_path):
    with Program(
        tmp_path,
        script("""
    def wait_long():
        try:
            print("waits", flush=True)
            time.sleep(100)
        except KeyboardInterrupt:
            print("interrupted", flush=True)

    if __name__ == "__main__":
        before = make_template()
        process = context.Process(target=wait_long)
        process.start()
        try:
            process.join()
        except KeyboardInterrupt:
            process.join()
        time.sleep(0.1)
        print(before == make_template(), ask(is_clone))
"""),
    ) as program:
        program.wait_for_line("waits")
        program.send_signal_to_group(signal.SIGINT)
        assert program.wait() == 0
        assert program.lines() == ["waits", "interrupted", "True True"]
        program.assert_nothing_left()


def test_an_interpreter_that_is_watched_is_not_cloned(tmp_path):
    # As a tool for coverage does that measures child processes.
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("import sys\nsys.settrace(lambda *_: None)\n")
    path = os.pathsep.join([str(site), os.path.dirname(os.path.abspath(__file__))])
    program = run_program(
        tmp_path,
        script("""
    if __name__ == "__main__":
        print(*(ask(is_clone) for _ in range(8)), template())
"""),
        environment={"PYTHONPATH": path},
    )
    assert program.lines() == ["False " * 8 + "None"]


def test_pools_get_their_supervisors_from_the_template(tmp_path):
    program = run_program(
        tmp_path,
        script("""
    def double(x):
        return 2 * x

    if __name__ == "__main__":
        for number in range(12):
            with context.Pool(2) as pool:
                assert pool.map(double, range(20)) == [2 * x for x in range(20)]
                cloned = pool.apply(is_clone)
                parents = pool.apply(mp.parent_process).pid == os.getpid()
        print(cloned, parents, template() is not None)
"""),
        flags=["-X", "dev", "-W", "error"],
    )
    assert program.lines() == ["True True True"]
    assert program.stderr() == ""


def test_the_template_sleeps_and_shows_its_name(tmp_path):
    program = run_program(
        tmp_path,
        script("""
    def switches(pid):
        return [line for line in open(f"/proc/{pid}/status") if "ctxt_switches" in line]

    if __name__ == "__main__":
        pid = make_template()
        time.sleep(0.1)
        before = switches(pid)
        time.sleep(0.5)
        print(open(f"/proc/{pid}/comm").read().strip(), switches(pid) == before)
"""),
    )
    assert program.lines() == ["mp-template True"]
