"""Pools seen from outside: ``procession ps`` and ``procession top``, and what the watched notice of it (nothing)."""

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import fault_tasks
import pytest
import tasks
from harness import PATIENCE_SECONDS, get, open_pool, pool_tests, promised_by_us_only, run_program, wait_until
from subject import mp

pytestmark = [*pool_tests, promised_by_us_only]

COMMAND = str(Path(sys.executable).with_name("procession"))


def ps(*options):
    done = subprocess.run([COMMAND, "ps", *options], capture_output=True, text=True, timeout=30, check=True)
    return done.stdout


def pools_of(pid):
    return [pool for pool in json.loads(ps("--json"))["pools"] if pool["pid"] == pid]


def watched(condition, what):
    """This process's pool as ``ps`` shows it, as soon as it fulfils the condition."""
    seen = []

    def look():
        seen[:] = pools_of(os.getpid())
        return len(seen) == 1 and condition(seen[0])

    wait_until(look, f"{what}: {seen}")
    return seen[0]


def raise_for_odd(number):
    if number % 2:
        raise ValueError(number)
    return number


def test_a_pool_is_shown_with_what_each_worker_does(start_method, tmp_path):
    gate = tmp_path / "gate"
    with open_pool(start_method, 2) as pool:
        assert get(pool.map_async(tasks.double, range(20))) == [2 * n for n in range(20)]
        with pytest.raises(ValueError):
            pool.apply(raise_for_odd, (3,))
        waiting = pool.map_async(tasks.wait_for_file, [str(gate)] * 2, chunksize=1)
        seen = watched(
            lambda p: [w["state"] for w in p["workers"]] == ["blocked"] * 2 and p["done"] == 21, "both workers wait"
        )
        assert seen["state"] == "running" and seen["start_method"] == start_method
        assert seen["supervisor_pid"] == pool._supervisor_pid
        assert (seen["failed"], seen["lost"], seen["died"], seen["restarts"]) == (1, 0, 0, 0)
        assert seen["processes"] == 2 and sys.executable.rsplit("/", 1)[-1] in seen["command"]
        assert sorted(w["pid"] for w in seen["workers"]) == sorted(w.pid for w in pool._pool)
        assert [w["name"] for w in seen["workers"]] == [w.name for w in pool._pool]
        assert sorted(w["task"]["item"] for w in seen["workers"]) == [0, 1]
        for worker in seen["workers"]:
            assert worker["task"]["function"] == "wait_for_file" and worker["resident_bytes"] > 1_000_000
        ages = [w["task"]["age_seconds"] for w in seen["workers"]]
        time.sleep(0.1)
        again = pools_of(os.getpid())[0]
        assert [w["task"]["age_seconds"] >= age + 0.05 for w, age in zip(again["workers"], ages)] == [True] * 2
        gate.touch()
        get(waiting)
        idle = watched(lambda p: p["done"] == 23, "the tasks are done")
        assert [w["task"] for w in idle["workers"]] == [None, None]


def test_deaths_replacements_and_suspended_workers_are_shown(start_method):
    with open_pool(start_method, 2, timeout=30) as pool:
        with pytest.raises(mp.WorkerDied):
            pool.apply(fault_tasks.sigkill_self)
        seen = watched(lambda p: p["died"] == 1 and len(p["workers"]) == 2, "one has died")
        assert (seen["lost"], seen["timed_out"], seen["restarts"]) == (1, 0, 1)
        pid = pool._pool[0].pid
        os.kill(pid, signal.SIGSTOP)
        try:
            watched(lambda p: "suspended" in [w["state"] for w in p["workers"]], "one is suspended")
        finally:
            os.kill(pid, signal.SIGCONT)
        watched(lambda p: "suspended" not in [w["state"] for w in p["workers"]], "it goes on")


def test_a_table_for_people_and_pools_that_are_over_are_gone():
    with open_pool("fork", 1) as pool:
        pool.map(tasks.double, range(5))
        text = ps()
        assert f"pool of process {os.getpid()}, running, fork" in text
        assert "5 done" in text and "STATE" in text
        # Where there is no terminal, top is that table, too.
        mine = [COMMAND, "top", "--pid", str(os.getpid())]
        top = subprocess.run(mine, capture_output=True, text=True, timeout=30, check=True)
        assert f"pool of process {os.getpid()}, running" in top.stdout
    pool.join()
    assert pools_of(os.getpid()) == []
    assert ps("--pid", str(os.getpid())) == "no pool of yours is running that this process has made\n"


def test_pools_are_chosen_by_the_process_that_has_made_them():
    with open_pool("fork", 1) as pool:
        pool.map(tasks.double, range(5))
        chosen = json.loads(ps("--json", "--pid", "1", "-p", str(os.getpid())))["pools"]
        assert [found["pid"] for found in chosen] == [os.getpid()]
        assert json.loads(ps("--json", "--pid", str(os.getppid())))["pools"] == []


def test_pools_of_other_users_are_not_visible(tmp_path):
    run_program(
        tmp_path,
        """
import os, sys
import procession
from procession import _native

if __name__ == "__main__":
    with procession.get_context("fork").Pool(1) as pool:
        pool.apply(abs, (-1,))
        pid = os.fork()
        if pid == 0:
            os.dup2(os.open("out", os.O_WRONLY | os.O_CREAT, 0o666), 1)
            if os.geteuid() == 0:
                os.setuid(65534)
            else:
                # Who cannot become another user sees the pool.
                sys.exit(0)
            os._exit(_native.run_command(["procession", "ps"]))
        assert os.waitpid(pid, 0)[1] == 0
        if os.geteuid() == 0:
            assert open("out").read() == "no pool of yours is running\\n", open("out").read()
""",
    )


def test_a_pool_of_the_command_names_the_function_and_not_the_program_that_runs_it(tmp_path):
    gate = tmp_path / "gate"
    (tmp_path / "work.py").write_text(Path(tasks.__file__).read_text())
    command = subprocess.Popen([COMMAND, "map", "work.py:wait_for_file", str(gate), "-q"], cwd=tmp_path)

    def line():
        return next((line for line in ps().splitlines() if "work.py:wait_for_file" in line), "")

    try:
        wait_until(line, "the pool is listed")
        assert line().startswith("pool of process ") and " -c … " in line()
        assert "import" not in line()
    finally:
        gate.touch()
        assert command.wait(PATIENCE_SECONDS) == 0


class Terminal:
    """``procession top`` on a terminal of its own."""

    def __init__(self, *options, columns=110, rows=24, **environment):
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm-256color", COLUMNS=str(columns), LINES=str(rows), **environment)
            import fcntl
            import struct
            import termios

            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            os.execv(COMMAND, [COMMAND, "top", "--pid", str(os.getppid()), *options])
        self.columns, self.rows = columns, rows
        self.screen = [[" "] * columns for _ in range(rows)]
        self.row = self.column = 0
        self.undecoded = b""

    def text(self):
        """What can be read on the screen."""
        return "\n".join("".join(line).rstrip() for line in self.screen)

    def _read(self):
        try:
            self.undecoded += os.read(self.descriptor, 65536)
        except OSError:
            return
        # What is incomplete waits for its rest. Only changed letters are sent, each run with its place before it.
        consumed = 0
        for match in re.finditer(
            rb"\x1b\[([?\d;]*)([A-Za-z])|\x1b[^\[]|[^\x1b]+(?=.)|[\x00-\x7f]", self.undecoded, re.DOTALL
        ):
            if match.start() != consumed:
                break
            consumed = match.end()
            if match[2] == b"H":
                row, _, column = (match[1] or b"1;1").partition(b";")
                self.row, self.column = int(row) - 1, int(column) - 1
            elif match[0][:1] != b"\x1b":
                for letter in match[0].decode():
                    if letter.isprintable() and self.row < self.rows and self.column < self.columns:
                        self.screen[self.row][self.column] = letter
                        self.column += 1
        self.undecoded = self.undecoded[consumed:]

    def wait_for(self, text):
        end = time.monotonic() + PATIENCE_SECONDS
        while text not in self.text():
            assert time.monotonic() < end, f"top does not show {text!r}:\n{self.text()}"
            if select.select([self.descriptor], [], [], 0.05)[0]:
                self._read()

    def press(self, keys):
        os.write(self.descriptor, keys.encode())

    def end(self):
        _, status = os.waitpid(self.pid, 0)
        os.close(self.descriptor)
        return status


def test_keys_suspend_resume_and_kill_a_worker_and_quit(tmp_path):
    gate = tmp_path / "gate"
    with open_pool("fork", 1) as pool:
        waiting = pool.apply_async(tasks.wait_for_file, (str(gate),))
        top = Terminal("--interval", "0.1")
        top.wait_for("blocked")
        top.press("z")
        top.wait_for(" suspended  ")
        top.press("z")
        top.wait_for(" blocked  ")
        top.press("x")
        top.wait_for("y kills it")
        top.press("y")
        top.wait_for("replaces it")
        error = get(waiting)
        assert isinstance(error, mp.WorkerDied)
        assert "was killed by SIGKILL while running wait_for_file" in str(error)
        assert pool.apply(tasks.double, (4,)) == 8
        top.press("q")
        assert top.end() == 0


def test_a_killed_watcher_changes_nothing(tmp_path):
    with open_pool("fork", 2) as pool:
        top = Terminal("--interval", "0.05", NO_COLOR="1")
        top.wait_for(f"pool of process {os.getpid()}")
        os.kill(top.pid, signal.SIGKILL)
        assert os.WTERMSIG(top.end()) == signal.SIGKILL
        assert pool.map(tasks.double, range(1000)) == [2 * n for n in range(1000)]
        for number in (signal.SIGTERM, signal.SIGINT):
            again = Terminal("--interval", "0.05")
            again.wait_for("1,000 done")
            # Its terminal is put right also when it is asked to end.
            os.kill(again.pid, number)
            assert again.end() == 0


# Without tmux the tests above look at what is written to a terminal, if not at how it looks there.
if shutil.which("tmux"):

    def test_the_screen_as_a_terminal_shows_it(tmp_path):
        session = f"procession-{uuid.uuid4().hex[:8]}"

        def tmux(*words):
            return subprocess.run(
                ["tmux", "-L", session, *words], capture_output=True, text=True, timeout=20, check=True
            ).stdout

        gate = tmp_path / "gate"
        with open_pool("fork", 2) as pool:
            pool.map(tasks.double, range(1234))
            waiting = pool.map_async(tasks.wait_for_file, [str(gate)] * 2, chunksize=1)
            tmux(
                "-f",
                "/dev/null",
                "new-session",
                "-d",
                "-s",
                "top",
                "-x",
                "100",
                "-y",
                "20",
                COMMAND,
                "top",
                "-p",
                str(os.getpid()),
                "-i",
                "0.1",
            )
            try:
                screen = []

                def complete():
                    screen[:] = tmux("capture-pane", "-p", "-t", "top").splitlines()
                    return sum(" blocked " in line and "wait_for_file[" in line for line in screen) == 2

                wait_until(complete, f"two workers are seen: {screen}")
                assert screen[0].startswith("procession top  1 pool, 2 workers, ")
                assert "1,234 done" in screen[2]
                assert screen[-1].startswith("s sort  r reverse")
            finally:
                tmux("kill-server")
                gate.touch()
            get(waiting)


def test_a_key_shows_where_a_worker_is(start_method, tmp_path):
    with open_pool(start_method, 1, timeout=60) as pool:
        gate = tmp_path / "gate"
        waiting = pool.apply_async(tasks.wait_for_file, (str(gate),))
        top = Terminal("--interval", "0.1")
        top.wait_for("blocked")
        top.press("d")
        top.wait_for("in wait_for_file")
        top.press("q")
        top.press("q")
        assert top.end() == 0
        gate.touch()
        assert get(waiting) == str(gate)


def test_a_stack_that_was_looked_at_is_not_taken_for_that_of_a_later_kill(tmp_path):
    with open_pool("fork", 1, timeout=1.0) as pool:
        waiting = pool.apply_async(tasks.wait_for_file, (str(tmp_path / "gate"),))
        top = Terminal("--interval", "0.1")
        top.wait_for("wait_for_file()")
        top.press("d")
        top.wait_for("in wait_for_file")
        top.press("q")
        top.press("q")
        top.end()
        error = get(waiting)
        assert isinstance(error, mp.TaskTimeout)
        assert error.stack.count("wait_for_file") == 1, error.stack
