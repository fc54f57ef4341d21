"""Two processes read two files, one after the other: join() right after start() keeps the order."""

import pathlib
import sys

import procession as mp

HERE = pathlib.Path(__file__).parent
FILES = [HERE / "fork.py", HERE / "several_arguments.py"]


def read_file(path):
    with open(path, encoding="utf-8") as file:
        print(file.read(), flush=True)


def main():
    for path in sys.argv[1:] or FILES:
        process = mp.Process(target=read_file, args=(path,))
        process.start()
        process.join()
    print("Done!")


if __name__ == "__main__":
    main()
