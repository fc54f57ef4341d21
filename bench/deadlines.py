"""How accurately a pool kills tasks that are stuck: `python bench/deadlines.py [tasks] [limit_seconds] [workers]`.

So many tasks that never end, and as many that end at once between them. Each of the stuck ones must be killed for its limit,
each of the others must give its result, and nothing may be left. Prints by how much the limits were overrun, and what a kill
and a replacement cost.
"""

import os
import sys
import time

import procession as mp


def stuck():
    while True:
        time.sleep(3600)


def square(x):
    return x * x


def main(tasks=1000, limit_seconds=0.1, workers=2):
    with mp.get_context("fork").Pool(workers) as pool:
        began = time.monotonic()
        results = []
        for x in range(tasks):
            results.append((None, pool.apply_async(stuck, timeout=limit_seconds)))
            results.append((x, pool.apply_async(square, (x,))))
        overruns, wrong, stackless = [], 0, []
        for x, result in results:
            try:
                wrong += result.get() != x * x
            except mp.TaskTimeout as error:
                wrong += x is not None
                # Where the worker was is told by itself, so it may be missing; the kill does not wait for it.
                if "in stuck" not in (error.stack or ""):
                    stackless.append(error.stack)
                overruns.append(error.elapsed_seconds - limit_seconds)
        took = time.monotonic() - began
    overruns.sort()
    left = [pid for pid in os.listdir("/proc") if pid.isdigit() and parent_of(pid) == os.getpid()]

    def at(share):
        return f"{1e3 * overruns[min(len(overruns) - 1, int(share * len(overruns)))]:.1f} ms"

    ideal = tasks * limit_seconds / workers
    print(
        f"{tasks} stuck tasks, limit {limit_seconds} s, {workers} workers: {len(overruns)} killed, {wrong} wrong, "
        f"{len(stackless)} without their stack, left: {left}"
    )
    for stack in stackless[:3]:
        print(f"instead of a stack: {stack!r}")
    print(f"overrun until the process was gone: median {at(0.5)}, 90 % {at(0.9)}, 99 % {at(0.99)}, most {at(1)}")
    print(
        f"{took:.1f} s in all, where the limits alone are {ideal:.1f} s: {1e3 * (took - ideal) * workers / tasks:.1f} ms a kill"
    )
    return wrong or len(overruns) != tasks or left


def parent_of(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return 0


if __name__ == "__main__":
    given = [kind(text) for kind, text in zip((int, float, int), sys.argv[1:])]
    sys.exit(bool(main(*given)))
