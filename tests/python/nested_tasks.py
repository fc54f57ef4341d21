"""Tasks that have pools of their own, for test_nested.py."""

import os
import time

from subject import mp


def size_of_inner_pool(start_method, processes=None):
    with mp.get_context(start_method).Pool(processes) as pool:
        return pool._processes


def hold_inner_pool(path):
    with mp.get_context("fork").Pool(2) as pool:
        # One of them may do all the work before the other is there.
        while None in [worker.pid for worker in pool._pool]:
            time.sleep(0.005)
        with open(path + ".new", "w", encoding="utf-8") as file:
            file.write(" ".join(str(worker.pid) for worker in pool._pool))
        os.rename(path + ".new", path)
        pool.apply(time.sleep, (1000,))
