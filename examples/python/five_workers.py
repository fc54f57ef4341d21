"""The simplest stress model: five processes run the same function.

With join() inside the loop they run one after the other; with join() after the loop, side by side.
"""

import time

import procession as mp

PROCESSES = 5
WORK_SECONDS = 0.2


def do(number):
    name = mp.current_process().name
    print(f"{name} starts as worker {number}", flush=True)
    time.sleep(WORK_SECONDS)
    print(f"{name} ends", flush=True)


def one_after_the_other():
    processes = []
    for number in range(PROCESSES):
        process = mp.Process(target=do, args=(number,))  # Named Process-1, Process-2, …
        processes.append(process)
        process.start()
        process.join()
    return processes


def side_by_side():
    processes = [mp.Process(target=do, args=(number,), name=f"user-{number}") for number in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return processes


def main():
    for way in (one_after_the_other, side_by_side):
        begin = time.perf_counter()
        processes = way()
        print(f"{way.__name__}: {time.perf_counter() - begin:.1f} s")
        print(processes)


if __name__ == "__main__":
    main()
