"""Two processes read two files at the same time; "Done!" is printed when both have ended.

All are started first and joined afterwards: the row of join() calls is the barrier.
"""

import pathlib
import sys
import time

import procession as mp

HERE = pathlib.Path(__file__).parent
FILES = [HERE / "fork.py", HERE / "several_arguments.py"]
READ_SECONDS = 0.5


def read_file(path):
    time.sleep(READ_SECONDS)  # A slow disk: without the joins below, "Done!" would come first.
    with open(path, encoding="utf-8") as file:
        print(file.read(), flush=True)


def main():
    processes = [mp.Process(target=read_file, args=(path,)) for path in sys.argv[1:] or FILES]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    print("Done!")


if __name__ == "__main__":
    main()
