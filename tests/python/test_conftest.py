"""The guards of the tests are tested themselves: a guard that sees nothing would look like good news."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import leftovers
import pytest


def test_snapshot_of_an_idle_process_shows_no_difference():
    assert leftovers.Snapshot().differences() == []


def test_snapshot_sees_a_running_child_and_then_its_zombie():
    before = leftovers.Snapshot()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert any(f"process {child.pid} " in line for line in before.differences())
        child.stdin.close()
        assert leftovers.wait_until(lambda: leftovers.process_info(child.pid).state == "Z")
        assert any("state Z" in line for line in before.differences())
    finally:
        child.wait()
    assert before.settle() == []


@pytest.mark.parametrize("how", ["fork", "exec"])
def test_snapshot_sees_an_orphan(how):
    before = leftovers.Snapshot()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        orphan = os.fork()
        if orphan == 0:
            if how == "exec":
                os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)"])
            time.sleep(60)
            os._exit(0)
        os.write(writing, str(orphan).encode())
        os._exit(0)
    os.waitpid(child, 0)
    orphan = int(os.read(reading, 100))
    os.close(reading)
    os.close(writing)
    assert leftovers.wait_until(lambda: leftovers.process_info(orphan).parent_pid != child)
    # In the midst of its execve a process shows no environment.
    assert leftovers.wait_until(lambda: how == "fork" or "time.sleep(60)" in leftovers.process_info(orphan).command)
    assert leftovers.wait_until(lambda: leftovers._read(f"/proc/{orphan}/environ"))
    assert any(f"process {orphan} " in line for line in before.differences())
    os.kill(orphan, signal.SIGKILL)
    assert before.settle() == []


def test_snapshot_sees_descriptors_of_each_kind():
    before = leftovers.Snapshot()
    opened = [*os.pipe(), os.eventfd(0) if hasattr(os, "eventfd") else os.open("/dev/null", os.O_RDONLY)]
    sockets = socket.socketpair()
    assert len(before.differences()) == 5
    for descriptor in opened:
        os.close(descriptor)
    for end in sockets:
        end.close()
    assert before.differences() == []


def test_snapshot_sees_a_file_in_shared_memory():
    before = leftovers.Snapshot()
    path = f"/dev/shm/procession-test-{os.getpid()}"
    with open(path, "w"):
        pass
    assert before.differences() == [f"file {path}"]
    os.unlink(path)


def test_snapshot_ignores_a_file_in_shared_memory_that_a_stranger_has_open():
    before = leftovers.Snapshot()
    path = f"/dev/shm/procession-test-{os.getpid()}"
    program = f"import os, sys; file = open({path!r}, 'w'); print(flush=True); sys.stdin.read(); os.unlink({path!r})"
    stranger = subprocess.Popen(
        # Its starter ends at once, so that it is nobody's child, and nothing in its environment tells that it is ours.
        ["/bin/sh", "-c", 'exec 3<&0; "$0" -c "$1" <&3 & exec 3<&-', sys.executable, program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={},
    )
    stranger.stdout.readline()
    stranger.wait()
    assert os.path.exists(path)
    assert not any(line.startswith("file ") for line in before.differences())
    stranger.stdin.close()
    stranger.stdout.close()
    assert leftovers.wait_until(lambda: not os.path.exists(path))


def test_snapshot_sees_a_thread():
    before = leftovers.Snapshot()
    going_on = threading.Event()
    thread = threading.Thread(target=going_on.wait, name="straggler")
    thread.start()
    assert any("straggler" in line for line in before.differences())
    going_on.set()
    thread.join()
    assert before.settle() == []


def test_warm_servers_of_the_standard_library_may_stay_but_not_their_children():
    import multiprocessing

    before = leftovers.Snapshot()
    process = multiprocessing.get_context("forkserver").Process(target=time.sleep, args=(60,))
    process.start()
    assert any(f"process {process.pid} " in line for line in before.differences())
    process.kill()
    process.join()
    process.close()
    assert before.settle() == []


def _run_pytest(tmp_path, source, *options):
    """Runs pytest with our conftest on a test file in ``tmp_path``; returns the result, its output in ``stdout``."""
    here = os.path.dirname(os.path.abspath(__file__))
    (tmp_path / "conftest.py").write_text(
        f"import sys\nsys.path.insert(0, {here!r})\nfrom conftest_of_tests import *\n"
    )
    (tmp_path / "conftest_of_tests.py").symlink_to(os.path.join(here, "conftest.py"))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")  # No settings of a folder above.
    (tmp_path / "test_it.py").write_text(textwrap.dedent(source))
    environment = {name: value for name, value in os.environ.items() if name != leftovers.MARKER}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=50,
        cwd=tmp_path,
        env=environment,
    )


def test_a_test_that_leaves_something_fails_and_its_neighbour_does_not(tmp_path):
    result = _run_pytest(
        tmp_path,
        """
        import os, subprocess, sys
        def test_leaves_a_process():
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
        def test_leaves_nothing():
            pass
        """,
    )
    assert "left behind:" in result.stdout
    assert "import time; time.sleep(100)" in result.stdout
    assert "2 passed, 1 error" in result.stdout


def test_a_test_that_hangs_fails_with_the_stacks_of_all_processes_and_the_next_one_runs(tmp_path):
    result = _run_pytest(
        tmp_path,
        """
        import os, time
        def wait_in_child():
            time.sleep(100)
        def test_hangs():
            child = os.fork()
            if child == 0:
                wait_in_child()
                os._exit(0)
            os.waitpid(child, 0)
        def test_next():
            pass
        """,
        "--timeout=1",
    )
    assert "test_hangs is not done after 1 s" in result.stdout
    assert "in wait_in_child" in result.stdout
    assert "in test_hangs" in result.stdout
    assert "the test's time is over" in result.stdout
    assert "1 failed, 1 passed, 1 error" in result.stdout


def test_run_python_kills_a_program_that_hangs(run_python):
    with pytest.raises(pytest.fail.Exception, match="was not done after 1 s"):
        run_python(source="import time; print('so far', flush=True); time.sleep(100)", timeout_seconds=1)


def test_run_python_gives_exit_code_and_output(run_python):
    result = run_python("7", source="import sys; print(sys.stdin.read() * 2); sys.exit(int(sys.argv[1]))", input="ab")
    assert (result.returncode, result.stdout, result.stderr) == (7, "abab\n", "")
