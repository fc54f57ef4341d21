"""Pools, forks and programs inside a task."""

import os
import subprocess
import sys
import time

from subject import mp
from tasks import pid_of, raise_at_thirteen, sleep_forever, write_atomically


def size_of_inner_pool(start_method, processes=None):
    with mp.get_context(start_method).Pool(processes) as pool:
        return pool._processes


def hold_inner_pool(path):
    with mp.get_context("fork").Pool(2) as pool:
        # One of them may do all the work before the other is there.
        while None in [worker.pid for worker in pool._pool]:
            time.sleep(0.005)
        write_atomically(path, " ".join(str(worker.pid) for worker in pool._pool))
        pool.apply(time.sleep, (1000,))


def sum_of_squares_by_inner_pool(n, start_method=None):
    with mp.get_context(start_method).Pool(2) as pool:
        return sum(pool.map(raise_at_thirteen, range(n)))


def inner_pool_then_sleep(path, start_method=None):
    """Opens a pool, writes its workers' pids into the file and sleeps, so that the test can kill the middle."""
    with mp.get_context(start_method).Pool(2) as pool:
        pids = sorted(set(pool.map(pid_of, range(16), chunksize=1)))
        write_atomically(path, " ".join(map(str, pids)))
        sleep_forever()


def start_program_then_sleep(path):
    """Starts a long-running program and writes its pid into the file."""
    program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    write_atomically(path, str(program.pid))
    sleep_forever()


def fork_child_then_sleep(path):
    """Forks a long-running child and writes its pid into the file."""
    child = os.fork()
    if child == 0:
        try:
            time.sleep(3600)
        finally:
            os._exit(0)
    write_atomically(path, str(child))
    sleep_forever()


def run_program(_item=None):
    """A task that starts a program and reaps it, as any task may."""
    done = subprocess.run([sys.executable, "-S", "-c", "print(6 * 7)"], stdout=subprocess.PIPE, check=True)
    return int(done.stdout)
