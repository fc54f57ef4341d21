"""Everything that may happen to tasks, at once and for long: ``python tests/python/control_soak.py --help``.

Thousands of tasks a second run on one pool. Meanwhile workers are killed and stopped at random; some tasks never end and
have a time limit, some take more memory than they may, some are cancelled, some are tried again. Each task must have
exactly one outcome, and one that is possible for it; none may run twice that is not tried again. Memory and descriptors of
the pool's processes must not grow, and nothing may be left.
"""

import argparse
import collections
import mmap
import os
import random
import signal
import sys
import tempfile
import threading
import time

import ledger_tasks
import leftovers
import tasks
from harness import WorkerHunter, assert_pool_is_whole, get, open_pool, supervisor_of, worker_pids
from subject import mp

TIME_LIMIT_SECONDS = 0.1
MEMORY_LIMIT_BYTES = 80 << 20
SMALL_TASKS = 10_000
RETRIED_TASKS = 50
CANCELLED_TASKS = 20
#: Growth from the first fifth of the run on that is no leak: of allocators' arenas, of shared memory that was used once.
MOST_GROWTH_BYTES = 24 << 20

#: What may become of a task, beside its result, by its kind.
POSSIBLE = {
    "small": {"WorkerDied"},
    "stuck": {"TaskTimeout", "WorkerDied"},
    "hog": {"MemoryLimitExceeded", "WorkerDied"},
    "retried": {"PoisonTask", "WorkerDied"},
    "cancelled": {"TaskCancelled", "WorkerDied"},
}
MUST_FAIL = {"stuck", "hog"}


def take_memory(size):
    """Takes so much memory, a little at a time, and holds it."""
    held = []
    while sum(map(len, held)) < size:
        held.append(b"x" * (4 << 20))
        time.sleep(0.001)
    tasks.sleep_forever()


class Trouble:
    """Kills a random worker every 5 to 100 ms, or stops it for as long."""

    def __init__(self, hunter, generator):
        self._hunter, self._generator = hunter, generator
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._make, daemon=True)
        self.kills = self.stops = 0

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_error):
        self._over.set()
        self._thread.join()

    def _make(self):
        while not self._over.wait(self._generator.uniform(0.005, 0.1)):
            workers = [worker for worker in self._hunter.workers() if worker.is_alive()]
            if not workers:
                continue
            victim = self._generator.choice(workers)
            if self._generator.random() < 0.5:
                self.kills += 1
                victim.kill()
            else:
                self.stops += 1
                victim.send_signal(signal.SIGSTOP)
                self._over.wait(self._generator.uniform(0.005, 0.1))
                victim.send_signal(signal.SIGCONT)


def resident_bytes(pid):
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


class Soak:
    """One run, and its books."""

    def __init__(self, start_method, seconds, seed=None, processes=4):
        self.start_method, self.seconds, self.processes = start_method, seconds, processes
        self.generator = random.Random(seed)
        self.outcomes = collections.Counter()
        self.wrong = []
        self.samples = []

    def run(self):
        self.before = {info.pid for info in leftovers.descendants(os.getpid())}
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="soak-") as directory:
            path = os.path.join(directory, "ledger")
            with open(path, "wb") as file:
                file.truncate(SMALL_TASKS + RETRIED_TASKS + CANCELLED_TASKS)
            with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as ledger:
                options = {"memory_limit": MEMORY_LIMIT_BYTES}
                with open_pool(self.start_method, self.processes, ledger_tasks.open_ledger, (path,), **options) as pool:
                    hunter = WorkerHunter(pool, self.processes)
                    supervisor = supervisor_of(worker_pids(pool, self.processes))
                    with Trouble(hunter, self.generator) as trouble:
                        while time.monotonic() - started < self.seconds:
                            self.round(pool, ledger)
                            pids = [os.getpid(), supervisor.pid]
                            self.samples.append(([resident_bytes(p) for p in pids], [descriptors(p) for p in pids]))
                    self.kills, self.stops = trouble.kills, trouble.stops
                    assert_pool_is_whole(pool, self.processes)
        self.took = time.monotonic() - started
        return self

    def round(self, pool, ledger):
        ledger[:] = bytes(len(ledger))
        submitted = [("stuck", None, pool.apply_async(tasks.sleep_forever, timeout=TIME_LIMIT_SECONDS))]
        submitted.append(("hog", None, pool.apply_async(take_memory, (2 * MEMORY_LIMIT_BYTES,))))
        submitted += [("small", n, pool.apply_async(ledger_tasks.book, (n,))) for n in range(SMALL_TASKS)]
        first = SMALL_TASKS
        for n in range(first, first + RETRIED_TASKS):
            submitted.append(("retried", n, pool.apply_async(ledger_tasks.book, (n,), retries=3)))
        first += RETRIED_TASKS
        for n in range(first, first + CANCELLED_TASKS):
            result = pool.apply_async(ledger_tasks.book, (n,))
            submitted.append(("cancelled", n, result))
            result.cancel()
        for kind, number, result in submitted:
            got = get(result)
            name = type(got).__name__ if isinstance(got, BaseException) else "result"
            self.outcomes[kind, name] += 1
            runs = 0 if number is None else ledger[number]
            if name == "result":
                right = kind not in MUST_FAIL and got == number and (runs == 1 or kind == "retried" and runs >= 1)
            else:
                right = name in POSSIBLE[kind] and (runs <= 1 or kind == "retried")
            if not right:
                self.wrong.append((kind, number, got, runs))

    def check(self):
        """Fails if the books do not balance, or something was left."""
        assert self.wrong == [], f"outcomes that may not be: {self.wrong[:5]}"
        assert self.kills > 0 and self.stops > 0
        died = sum(count for (_, name), count in self.outcomes.items() if name in ("WorkerDied", "PoisonTask"))
        assert died <= self.kills, f"{died} tasks died by {self.kills} kills"
        # The forkserver stays for the next pool.
        of_soak = [info for info in leftovers.descendants(os.getpid()) if info.pid not in self.before]
        left = [info for info in of_soak if "forkserver_main" not in info.command]
        assert left == [], "processes are left"

    def check_length(self):
        """Fails if something grew, or a kind of trouble never came; worth asking after a run of a minute."""
        for kind, error in (("stuck", "TaskTimeout"), ("hog", "MemoryLimitExceeded")):
            assert self.outcomes[kind, error] > 0, f"no task was {kind}"
        settled = self.samples[len(self.samples) // 5 :]
        for who, which in (("the caller", 0), ("the supervisor", 1)):
            sizes = [memory[which] for memory, _ in settled]
            assert max(sizes[-5:]) - min(sizes) <= MOST_GROWTH_BYTES, f"{who} grew: {sizes[:: len(sizes) // 8 or 1]}"
        callers = [files[0] for _, files in settled]
        # A supervisor holds some descriptors more while it replaces somebody.
        assert min(callers[-5:]) <= min(callers) + 2, f"the caller's descriptors: {callers[-20:]}"

    def __str__(self):
        counts = ", ".join(f"{kind} {name} {count:,}" for (kind, name), count in sorted(self.outcomes.items()))
        sizes = [[memory[which] >> 20 for memory, _ in self.samples] for which in (0, 1)]
        rate = sum(self.outcomes.values()) / self.took
        return (
            f"{self.start_method}: {self.took:.0f} s, {self.kills} kills, {self.stops} stops, {rate:,.0f} tasks/s: {counts}; "
            f"caller {sizes[0][0]} to {sizes[0][-1]} MiB, supervisor {sizes[1][0]} to {sizes[1][-1]} MiB"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long, over all start methods (default: 600)")
    parser.add_argument("--seed", type=int, default=None, help="of the random numbers (default: from the clock)")
    parser.add_argument("--start-method", action="append", choices=("fork", "spawn", "forkserver"), help="default: all")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else int(time.time())
    methods = arguments.start_method or ["fork", "spawn", "forkserver"]
    print(f"{mp.__name__}, Python {sys.version.split()[0]}, seed {seed}", flush=True)
    ok = True
    for method in methods:
        soak = Soak(method, arguments.seconds / len(methods), seed).run()
        print(soak, flush=True)
        try:
            soak.check()
            soak.check_length()
        except AssertionError as error:
            ok = False
            print(f"FAILED: {error}", flush=True)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
