"""Two different jobs side by side, by a process each: start all, then join all. See two_jobs_by_pool.py."""

import math
import time

import procession as mp


def multiply_up_to(n):
    print(math.prod(range(1, n)), flush=True)


def sleep_often(n):
    for _ in range(n):
        time.sleep(0.01)
    print("slept for long", flush=True)


def main():
    jobs = [(multiply_up_to, 26), (sleep_often, 50)]
    processes = [mp.Process(target=function, args=(n,)) for function, n in jobs]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    print("Both jobs have ended.")


if __name__ == "__main__":
    main()
