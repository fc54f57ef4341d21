"""Two different jobs side by side, by a pool: the pool chooses the processes. See two_jobs_by_processes.py."""

import math
import time

from procession import Pool


def multiply_up_to(n):
    result = math.prod(range(1, n))
    print(result, flush=True)
    return result


def sleep_often(n):
    for _ in range(n):
        time.sleep(0.01)
    print("slept for long", flush=True)
    return "slept for long"


def main():
    pool = Pool(processes=4)
    results = [pool.apply_async(multiply_up_to, [26]), pool.apply_async(sleep_often, [50])]
    pool.close()
    for result in results:
        print("result:", result.get(timeout=10))
    pool.join()
    print("Both jobs have ended.")


if __name__ == "__main__":
    main()
