"""Compares load generators in one run: see README.md beside this file."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional

import rivals

REPOSITORY = Path(__file__).resolve().parents[2]
OURS = REPOSITORY / "target" / "release" / "examples" / "bench_url"
BODY = "hello world"

NGINX = """
worker_processes 1; worker_cpu_affinity 10; pid {home}/nginx.pid; error_log {home}/error.log;
events {{ worker_connections 20000; multi_accept on; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;
  client_body_temp_path {home}; proxy_temp_path {home}; fastcgi_temp_path {home}; uwsgi_temp_path {home};
  scgi_temp_path {home}; default_type text/plain;
  server {{ listen 127.0.0.1:{http} backlog=16384; location / {{ return 200 "{body}"; }} }}
  server {{ listen 127.0.0.1:{https} ssl http2 backlog=16384; location / {{ return 200 "{body}"; }}
    ssl_certificate {fixtures}/server.pem; ssl_certificate_key {fixtures}/server.key; }}
}}
"""


class Ports(NamedTuple):
    http: int
    https: int


class Figure(NamedTuple):
    requests: int
    cpu_seconds: float
    output: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def nginx() -> Iterator[Ports]:
    with tempfile.TemporaryDirectory() as home:
        ports = Ports(free_port(), free_port())
        fixtures = REPOSITORY / "crates" / "procession-load" / "tests" / "fixtures"
        text = NGINX.format(home=home, body=BODY, fixtures=fixtures, **ports._asdict())
        configuration = Path(home) / "nginx.conf"
        configuration.write_text(text)
        os.chmod(home, 0o755)
        server = subprocess.Popen(["nginx", "-p", home, "-c", str(configuration), "-g", "daemon off;"])
        try:
            for _ in range(200):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", ports.http)) == 0:
                        break
                time.sleep(0.02)
            yield ports
        finally:
            server.terminate()
            server.wait()


def measure(command: List[str], requests_in: Callable[[str], int]) -> Figure:
    """Runs a generator on core 0 and gives what it did and what it used."""
    with tempfile.TemporaryFile("w+") as output:
        child = subprocess.Popen(["taskset", "-c", "0", *command], stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if child.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {child.returncode}: {text[-500:]}")
    return Figure(requests_in(text), usage.ru_utime + usage.ru_stime, text)


def number(pattern: str) -> Callable[[str], int]:
    def find(text: str) -> int:
        found = re.search(pattern, text, re.MULTILINE)
        if found is None:
            raise RuntimeError(f"no {pattern!r} in {text[-500:]}")
        return int(found.group(1))

    return find


OUR_COUNT = number(r"requests (\d+) errors 0 ")
WRK_COUNT = number(r"(\d+) requests in")
H2LOAD_COUNT = number(r"(\d+) succeeded")
AB_COUNT = number(r"Complete requests:\s+(\d+)")
GOOSE_COUNT = number(r"^requests (\d+)$")
# How late requests were sent, by the generator's own fault. No rival tells.
DELAY = re.compile(r"delay_p99_us ([\d.]+)")


def oha_count(text: str) -> int:
    return sum(json.loads(text)["statusCodeDistribution"].values())


class Contestant(NamedTuple):
    name: str
    command: List[str]
    count: Callable[[str], int]


def contestants(row: str, ports: Ports, seconds: int) -> List[Contestant]:
    """Who takes part in a row, and how each is told what to do."""
    url, secure = f"http://127.0.0.1:{ports.http}/", f"https://127.0.0.1:{ports.https}/"
    ours = str(OURS)
    time_limit = str(seconds)

    def us(where: str, connections: int, *mode: str) -> Contestant:
        return Contestant("procession", [ours, where, str(connections), time_limit, "1", *mode], OUR_COUNT)

    def wrk(where: str, connections: int, *more: str) -> Contestant:
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", *more, where]
        return Contestant("wrk", command, WRK_COUNT)

    def h2load(where: str, connections: int, *more: str) -> Contestant:
        return Contestant("h2load", ["h2load", f"-c{connections}", "-D", time_limit, *more, where], H2LOAD_COUNT)

    def ab(where: str, connections: int, *more: str) -> Contestant:
        command = ["ab", "-q", "-c", str(connections), "-t", time_limit, "-n", "100000000", *more, where]
        return Contestant("ab", command, AB_COUNT)

    def oha(where: str, connections: int, *more: str) -> Contestant:
        command = ["oha", "--no-tui", "--output-format", "json", "--insecure", "-c", str(connections)]
        return Contestant("oha", [*command, "-z", f"{seconds}s", *more, where], oha_count)

    def goose(where: str, users: int) -> Contestant:
        at_once = ["--users", str(users), "--increase-rate", str(100 * users), "--run-time", f"{seconds}s"]
        quiet = ["--no-reset-metrics", "--no-print-metrics", "--no-telnet", "--no-websocket", "-q"]
        return Contestant("goose", ["goose-get", "--host", where, *at_once, *quiet], GOOSE_COUNT)

    if row.startswith("keep-"):
        connections = int(row[len("keep-") :])
        everybody = [us(url, connections), wrk(url, connections), h2load(url, connections, "--h1")]
        return [*everybody, ab(url, connections, "-k"), oha(url, connections), goose(url, connections)]
    if row == "close":
        close = wrk(url, 64, "-H", "Connection: close")
        return [us(url, 64, "close"), close, ab(url, 64), oha(url, 64, "--disable-keepalive")]
    if row == "tls":
        return [us(secure, 64), wrk(secure, 64), h2load(secure, 64, "--h1"), oha(secure, 64)]
    if row == "h2":
        return [us(secure, 64, "h2:8"), h2load(secure, 8, "-m8"), oha(secure, 8, "--http2", "-p", "8")]
    if row == "rate":
        rate = h2load(url, 64, "--h1", "--rps", str(10_000 / 64))
        # No rival, but the least that whoever sends each request at its own moment has to spend.
        waking = us(url, 64, "wakes:10000")._replace(name="(waking)")
        return [us(url, 64, "rate:10000"), waking, rate, oha(url, 64, "-q", "10000", "--latency-correction")]
    raise ValueError(row)


def compare(row: str, ports: Ports, rounds: int, seconds: int) -> None:
    figures: Dict[str, List[float]] = {}
    delays: Dict[str, List[float]] = {}
    for _ in range(rounds):
        for contestant in contestants(row, ports, seconds):
            if shutil.which(contestant.command[0]) is None:
                continue
            try:
                figure = measure(contestant.command, contestant.count)
            except RuntimeError as problem:
                print(f"  {contestant.name} is left out: {problem}", file=sys.stderr)
                continue
            figures.setdefault(contestant.name, []).append(figure.requests / figure.cpu_seconds)
            delay = DELAY.search(figure.output)
            if row == "rate" and delay:
                delays.setdefault(contestant.name, []).append(float(delay.group(1)))
    medians = {name: statistics.median(values) for name, values in figures.items()}
    ours = medians.get("procession")
    for name, median in medians.items():
        ratio = f"{ours / median:5.2f}" if ours else "    -"
        each = " ".join(f"{value:.0f}" for value in figures[name])
        print(f"{row:10} {name:12} {median:10.0f} requests/CPU-s   ours/theirs {ratio}   ({each})", flush=True)
    for name, values in delays.items():
        each = " ".join(f"{value:.1f}" for value in values)
        print(f"{row:10} {name:12} {statistics.median(values):10.1f} delay_p99_us{' ' * 23}({each})", flush=True)


def memory_of(pid: int) -> int:
    """Kilobytes of a process and its children, what they share counted once."""
    total = 0
    with contextlib.suppress(OSError):
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        total += int(re.search(r"^Pss:\s+(\d+)", rollup, re.MULTILINE).group(1))  # type: ignore[union-attr]
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            total += memory_of(int(child))
    return total


def memory(ports: Ports) -> None:
    """What a further connection costs."""
    for few, many in zip(contestants("keep-100", ports, 3), contestants("keep-1100", ports, 3)):
        if shutil.which(few.command[0]) is None:
            continue
        sizes = []
        for contestant in (few, many):
            command = ["taskset", "-c", "0", *contestant.command]
            child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(2)
            sizes.append(memory_of(child.pid))
            child.wait()
        print(f"{'memory':10} {few.name:12} {(sizes[1] - sizes[0]) / 1000:10.1f} kB a connection", flush=True)


def calls_in(line: str) -> int:
    """The calls in a line of strace's table; its last line is their sum and is left out."""
    found = re.match(r"\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(?!total)[a-z]\w*$", line)
    return int(found.group(1)) if found else 0


def syscalls(ports: Ports) -> None:
    """How many system calls a request takes; those of beginning and end are spread over all."""
    if shutil.which("strace") is None:
        return
    for contestant in contestants("keep-8", ports, 2):
        if shutil.which(contestant.command[0]) is None:
            continue
        with tempfile.NamedTemporaryFile("r") as counts:
            traced = ["strace", "-f", "-c", "-o", counts.name, *contestant.command]
            figure = measure(traced, contestant.count)
            total = sum(calls_in(line) for line in counts.read().splitlines())
        print(f"{'syscalls':10} {contestant.name:12} {total / figure.requests:10.2f} a request", flush=True)


def start_time(rounds: int) -> None:
    """From the start of the program to the first byte that arrives, with four processes where it has them."""
    rivals = {"procession": [str(OURS)], "wrk": ["wrk", "-t4", "-c4", "-d1s"]}
    for name, command in rivals.items():
        if shutil.which(command[0]) is None:
            continue
        taken = []
        for _ in range(max(rounds, 5)):
            with socket.create_server(("127.0.0.1", 0)) as listener:
                url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
                whole = [*command, url, "4", "1", "4"] if name == "procession" else [*command, url]
                began = time.perf_counter()
                child = subprocess.Popen(whole, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                with listener.accept()[0] as connection:
                    connection.recv(1)
                    taken.append(time.perf_counter() - began)
                child.kill()
                child.wait()
        print(f"{'start':10} {name:12} {statistics.median(taken) * 1000:10.1f} ms", flush=True)


ROWS = ("keep-64", "keep-5000", "close", "tls", "h2", "rate", "memory", "syscalls", "start")


def main(arguments: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(ROWS), help="rows, separated by commas (all of them)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (3)")
    parser.add_argument("--seconds", type=int, default=4, help="for how long (4)")
    options = parser.parse_args(arguments)
    rivals.use()
    if rivals.missing(["nginx"]):
        print("bench/load needs nginx as the server: bench/load/setup.sh nginx", file=sys.stderr)
        return 2
    missing = rivals.missing(["wrk", "h2load", "ab", "oha", "goose-get", "strace"])
    if missing:
        print(f"not here, and so left out: {', '.join(missing)} (see bench/load/setup.sh)", file=sys.stderr)
    if (os.cpu_count() or 1) < 2:
        print("bench/load needs two cores: one for the server, one for the generator", file=sys.stderr)
        return 2
    with nginx() as ports:
        for row in options.only.split(","):
            if row == "memory":
                memory(ports)
            elif row == "syscalls":
                syscalls(ports)
            elif row == "start":
                start_time(options.rounds)
            else:
                compare(row, ports, options.rounds, options.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
