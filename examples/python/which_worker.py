"""Who did what: a pool's workers tell their process ids. After close() a pool takes no more work."""

import os
import random
import time

import procession as mp

LONGEST_SECONDS = 0.3


def square(x):
    time.sleep(random.random() * LONGEST_SECONDS)
    print(f"process {os.getpid()}: {x} * {x} = {x * x}", flush=True)
    return x * x


def main():
    pool = mp.Pool(mp.cpu_count())
    print(pool.map(square, range(8)))  # In the order of the inputs, whoever was faster.
    pool.close()
    try:
        pool.map(square, range(8))
    except ValueError as error:
        print(f"after close(): {type(error).__name__}: {error}")
    pool.join()
    print("Done")


if __name__ == "__main__":
    main()
