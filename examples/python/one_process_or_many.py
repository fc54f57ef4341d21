"""One process or many? The same work by a pool with a process per core, and by this process alone.

    python one_process_or_many.py [ITEMS]

For a function of your own: procession bench FILE.py:FUNCTION
"""

import sys
import time

import procession as mp

ITEMS = 200
WORK_SECONDS = 0.01


def square(x):
    time.sleep(WORK_SECONDS)
    return x * x


def main():
    items = range(int(sys.argv[1]) if len(sys.argv) > 1 else ITEMS)
    processes = mp.cpu_count()

    with mp.Pool(processes) as pool:
        begin = time.perf_counter()
        by_pool = pool.map(square, items)
        pool_seconds = time.perf_counter() - begin

    begin = time.perf_counter()
    alone = list(map(square, items))
    alone_seconds = time.perf_counter() - begin

    if by_pool != alone:
        raise SystemExit("the pool and the single process do not agree")
    print(f"{len(items)} items, {WORK_SECONDS * 1000:g} ms each")
    print(f"one process:         {alone_seconds:6.2f} s")
    print(f"pool of {processes:2} processes: {pool_seconds:6.2f} s, {alone_seconds / pool_seconds:.2f} times as fast")


if __name__ == "__main__":
    main()
