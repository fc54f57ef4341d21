"""Runs the fault tests many times over, and a storm of random kills: ``python tests/python/soak.py --help``.

The storm: a random worker is killed every 5 to 30 ms while thousands of small tasks run. Afterwards the books must
balance: every task has exactly one outcome, no task ran twice, whatever has a result ran once, and no kill cost more
than one task.

Then senders and receivers of queues are killed at random moments, and no item may be lost that was put, or come twice.
"""

import argparse
import glob
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field

import ledger_tasks
import leftovers
import queue_storm
import sync_tasks
from harness import PATIENCE_SECONDS, Hang, WorkerHunter, assert_pool_is_whole, get, open_pool
from subject import mp

START_METHODS = ("fork", "spawn", "forkserver")


@dataclass
class StormReport:
    """The books of one storm."""

    start_method: str
    kills: int = 0
    submitted: int = 0
    succeeded: int = 0
    failed: int = 0
    wrong: list = field(default_factory=list)
    ran_twice: list = field(default_factory=list)
    lost: list = field(default_factory=list)
    seconds: float = 0.0

    def check(self):
        """Fails if the books do not balance."""
        assert self.wrong == [], f"outcomes that nobody may see: {self.wrong[:5]}"
        assert self.ran_twice == [], f"tasks that ran twice: {self.ran_twice[:20]}"
        assert self.lost == [], f"tasks that have a result and did not run: {self.lost[:20]}"
        assert self.succeeded + self.failed == self.submitted
        assert self.kills > 0 and self.submitted > 0
        assert self.failed <= self.kills, f"{self.failed} tasks failed by {self.kills} kills"

    def __str__(self):
        return (
            f"{self.start_method}: {self.kills} kills in {self.seconds:.1f} s; of {self.submitted} tasks "
            f"{self.succeeded} gave their results, {self.failed} died"
        )


class _Killer:
    """Kills a random worker every 5 to 30 ms, replacements that just start included."""

    def __init__(self, hunter, generator):
        self._hunter = hunter
        self._generator = generator
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.kills = 0

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_error):
        self._stop.set()
        self._thread.join()

    def _run(self):
        while not self._stop.wait(self._generator.uniform(0.005, 0.030)):
            workers = [worker for worker in self._hunter.workers() if worker.is_alive()]
            if workers:
                # Counted before, as an outcome may be seen sooner than this thread runs on.
                self.kills += 1
                self._generator.choice(workers).kill()


def storm(start_method, seconds, seed=None, processes=2, tasks_per_round=2000, payload_size=0, **pool_options):
    """Runs small tasks for so many seconds while workers are killed; returns a StormReport."""
    generator = random.Random(seed)
    report = StormReport(start_method)
    payload = generator.getrandbits(8 * payload_size).to_bytes(payload_size, "little") if payload_size else b""
    with tempfile.TemporaryDirectory(prefix="storm-") as directory:
        ledger_path = os.path.join(directory, "ledger")
        with open(ledger_path, "wb") as file:
            file.truncate(50_000_000)
        with open_pool(start_method, processes, ledger_tasks.open_ledger, (ledger_path,), **pool_options) as pool:
            hunter = WorkerHunter(pool, processes)
            started = time.monotonic()
            outcomes = bytearray()
            with _Killer(hunter, generator) as killer:
                while time.monotonic() - started < seconds:
                    numbers = range(len(outcomes), len(outcomes) + tasks_per_round)
                    if payload_size:
                        results = [pool.apply_async(ledger_tasks.book_bytes, (number, payload)) for number in numbers]
                    else:
                        results = [pool.apply_async(ledger_tasks.book, (number,)) for number in numbers]
                    for number, result in zip(numbers, results):
                        got = get(result)
                        if got == ((number, payload) if payload_size else number):
                            outcomes.append(1)
                        elif type(got).__name__ == "WorkerDied" and got.exitcode == -signal.SIGKILL:
                            outcomes.append(0)
                        else:
                            outcomes.append(2)
                            report.wrong.append((number, got if isinstance(got, BaseException) else type(got)))
            report.kills = killer.kills
            report.seconds = time.monotonic() - started
            assert_pool_is_whole(pool, processes)
        with open(ledger_path, "rb") as file:
            ledger = file.read(len(outcomes))
    report.submitted = len(outcomes)
    report.succeeded = outcomes.count(1)
    report.failed = outcomes.count(0)
    report.ran_twice = [number for number, runs in enumerate(ledger) if runs > 1]
    report.lost = [number for number, runs in enumerate(ledger) if outcomes[number] == 1 and runs != 1]
    return report


def lock_storm(start_method, seconds, seed=None, processes=4):
    """Has processes use locks and the like for so many seconds while one after the other is killed and replaced.

    Nobody may hang; what a lock guards may be half changed as often as its owner died, and no more. Returns a line that
    tells how it went.
    """
    context, generator = mp.get_context(start_method), random.Random(seed)
    lock, recursive, semaphore = context.Lock(), context.RLock(), context.Semaphore(2)
    condition, event = context.Condition(), context.Event()
    pair, counts = context.RawArray("q", 2), context.RawArray("q", 2)
    started = time.monotonic()
    arguments = (lock, recursive, semaphore, condition, event, pair, counts, started + seconds)
    kills = 0

    def start():
        process = context.Process(target=sync_tasks.run_lock_storm, args=arguments)
        process.start()
        return process

    alive = [start() for _ in range(processes)]
    try:
        while time.monotonic() < started + seconds:
            time.sleep(generator.uniform(0.005, 0.030))
            victim = alive.pop(generator.randrange(processes))
            victim.kill()
            victim.join()
            kills += 1
            alive.append(start())
        for process in alive:
            process.join(PATIENCE_SECONDS)
            assert process.exitcode == 0, f"a process hangs, or ended with {process.exitcode}"
    finally:
        for process in alive:
            process.kill()
            process.join()
    for taken in (lock, recursive, condition):
        assert taken.acquire(timeout=PATIENCE_SECONDS), f"{taken} is lost"
        taken.release()
    deaths = lock.owner_deaths
    assert 0 <= pair[0] - pair[1] <= deaths, f"{pair[:]} after {deaths} deaths with the lock"
    return (
        f"{start_method}: {kills} kills in {time.monotonic() - started:.1f} s, {deaths + recursive.owner_deaths} of them "
        f"with a lock held; {pair[0]} and {counts[0]} turns"
    )


def _run_fault_tests(times, jobs, options):
    """Runs the fault tests so many times, `jobs` of them beside each other; says whether all rounds passed."""
    tests = sorted(glob.glob(os.path.join(os.path.dirname(os.path.abspath(__file__)), "test_faults*.py")))

    def run_round(number):
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *options, *tests],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # By this a round knows what it left behind from what its neighbours are about to end.
            env={**os.environ, leftovers.MARKER: f"{os.getpid()}-round-{number}"},
        )
        if done.returncode == 0:
            last_line = done.stdout.rstrip().rpartition("\n")[2]
            print(f"round {number} of {times}: {last_line} ({time.monotonic() - started:.0f} s)", flush=True)
            return True
        print(f"{done.stdout}\nround {number} of {times} failed", flush=True)
        return False

    with ThreadPoolExecutor(jobs) as rounds:
        running = [rounds.submit(run_round, number) for number in range(1, times + 1)]
        for round_ in as_completed(running):
            if not round_.result():
                # Those that run now end by themselves; a round that failed is no reason to tear others apart.
                rounds.shutdown(cancel_futures=True)
                return False
    return True


def _run_storms(seconds, start_methods, seed):
    ok = True
    for start_method in start_methods:
        for name, options in (
            ("tiny tasks", {}),
            ("tiny tasks, 8 workers", {"processes": 8}),
            ("300 kB each way", {"payload_size": 300_000, "tasks_per_round": 100}),
            ("recycled workers", {"maxtasksperchild": 20}),
        ):
            try:
                report = storm(start_method, seconds, seed, **options)
                report.check()
                print(f"storm, {name}: {report}", flush=True)
            except (AssertionError, Hang) as error:
                ok = False
                print(f"storm, {name}, {start_method}, seed {seed}: FAILED: {error}", flush=True)
    return ok


def _run_lock_storms(seconds, start_methods, seed):
    ok = True
    for start_method in start_methods:
        try:
            print(f"lock storm, {lock_storm(start_method, seconds, seed)}", flush=True)
        except AssertionError as error:
            ok = False
            print(f"lock storm, {start_method}, seed {seed}: FAILED: {error}", flush=True)
    return ok


def _run_queue_storms(rounds, start_methods, seed):
    ok = True
    for start_method in start_methods:
        context = mp.get_context(start_method)
        # Starting takes most of the time; the queue is the same.
        rounds_here = rounds if start_method == "fork" else rounds // 20
        for name, kill in (
            ("senders", queue_storm.kill_senders),
            ("senders of a bounded one", lambda *a: queue_storm.kill_senders(*a, maxsize=10)),
            ("receivers", queue_storm.kill_receivers),
        ):
            started = time.monotonic()
            try:
                kill(context, rounds_here, seed)
                took = time.monotonic() - started
                print(f"queue, {start_method}: {name} killed in {rounds_here} rounds, {took:.0f} s", flush=True)
            except Exception as error:
                ok = False
                print(f"queue, {name}, {start_method}, seed {seed}: FAILED: {error!r}", flush=True)
    return ok


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50, help="how often the fault tests run (default: 50)")
    parser.add_argument("--jobs", type=int, default=1, help="how many of these run beside each other (default: 1)")
    parser.add_argument("--storm-seconds", type=float, default=20.0, help="length of each storm (default: 20)")
    parser.add_argument(
        "--queue-rounds", type=int, default=1000, help="how often users of queues are killed (default: 1000)"
    )
    parser.add_argument(
        "--seed", type=int, default=None, help="of the storms' random numbers (default: from the clock)"
    )
    parser.add_argument(
        "--start-method", action="append", choices=START_METHODS, help="for the storms only (default: all three)"
    )
    parser.add_argument("--no-storms", action="store_true", help="run the fault tests only")
    parser.add_argument("options", nargs="*", metavar="OPTION", help="passed on to pytest; put them after --")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else int(time.time())
    print(f"{mp.__name__}, Python {sys.version.split()[0]}, seed {seed}", flush=True)
    ok, start_methods = True, arguments.start_method or START_METHODS
    if not arguments.no_storms:
        ok = _run_storms(arguments.storm_seconds, start_methods, seed)
        ok = _run_lock_storms(arguments.storm_seconds, start_methods, seed) and ok
        ok = _run_queue_storms(arguments.queue_rounds, start_methods, seed) and ok
    ok = _run_fault_tests(arguments.rounds, arguments.jobs, arguments.options) and ok
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
