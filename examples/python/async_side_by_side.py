"""Several apply_async() calls run side by side: three tasks take as long as one."""

import os
import time

from procession import Pool

WORK_SECONDS = 0.5


def square(x):
    print(f"process {os.getpid()} works on {x}", flush=True)
    time.sleep(WORK_SECONDS)
    return x * x


def main():
    with Pool(processes=4) as pool:
        begin = time.perf_counter()
        results = [pool.apply_async(square, [x]) for x in (10, 11, 12)]
        print([result.get(timeout=10) for result in results])
        print(f"three tasks of {WORK_SECONDS} s took {time.perf_counter() - begin:.1f} s")

        print(pool.map(square, range(10)))


if __name__ == "__main__":
    main()
