"""A task with several arguments: apply_async(function, args=(…)), starmap for many of them."""

import os

from procession import Pool


def multiply(x, y):
    print(f"process {os.getpid()} multiplies {x} by {y}", flush=True)
    return x * y


def main():
    with Pool(processes=4) as pool:
        result = pool.apply_async(multiply, args=(10, 4))
        print(result.get(timeout=10))

        print(pool.starmap(multiply, [(1, 2), (3, 4), (5, 6)]))


if __name__ == "__main__":
    main()
