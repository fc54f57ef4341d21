"""apply_async() returns at once; get() waits for the result, and raises TimeoutError if it takes too long."""

import time

from procession import Pool, TimeoutError

SLOW_SECONDS = 1.0
PATIENCE_SECONDS = 0.2


def square(x):
    return x * x


def slow_square(x):
    time.sleep(SLOW_SECONDS)
    return x * x


def main():
    with Pool(processes=4) as pool:
        result = pool.apply_async(square, [10])
        print(result.get(timeout=5))

        result = pool.apply_async(slow_square, [10])
        try:
            print(result.get(timeout=PATIENCE_SECONDS))
        except TimeoutError:
            print(f"no result after {PATIENCE_SECONDS} s")
        print(result.get())  # The task itself goes on, and its result can still be had.

        print(pool.map(square, range(10)))


if __name__ == "__main__":
    main()
