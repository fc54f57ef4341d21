"""Scripted virtual users, each doing one `http.get` over a connection that is kept: ours against Locust, in one run.

    python bench/load/users.py [--seconds 5] [--users 64] [--rounds 3]

The server is nginx with one worker, pinned to one core; the generator is pinned to another. What is compared is requests per
second of CPU time (user and system) of the whole process tree of the generator, start included: it hardly depends on what
else the machine does. Rounds are interleaved, and medians are printed. Contestants that are not installed are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import rivals

PORT = 18480
URL = f"http://127.0.0.1:{PORT}"

OURS = """
import json, resource, sys, time
from procession import load

async def coroutine(http):
    await http.get("/")

def plain(http):
    http.get("/")

if __name__ == "__main__":
    function, vuser, users, seconds = sys.argv[1:]
    {extra}
    result = load(globals()[function], vuser=vuser, users=int(users), processes=None if vuser == "process" else 1,
                  duration=float(seconds), url=URL)
    print(json.dumps([result.requests, result.failed_requests]))
""".replace("URL", repr(URL))

LOCUST = """
from locust import {base}, constant, task

class One({base}):
    host = URL
    wait_time = constant(0)

    @task
    def get(self):
        self.client.get("/")
""".replace("URL", repr(URL))

NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 20000; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder};
  scgi_temp_path {folder};
  server {{ listen 127.0.0.1:{port} backlog=8192; location / {{ return 200 "ok"; }} }}
}}
"""


def pinned(core: int, command: list[str]) -> list[str]:
    return ["taskset", "-c", str(core), *command] if shutil.which("taskset") else command


def contestants(folder: Path, seconds: float, users: int) -> dict[str, list[str]]:
    (folder / "ours.py").write_text(OURS.replace("{extra}", "pass"))
    (folder / "ours_asyncio.py").write_text(OURS.replace("{extra}", "import asyncio"))
    python = [sys.executable]

    def ours(program: str, function: str, vuser: str) -> list[str]:
        return [*python, str(folder / program), function, vuser, str(users), str(seconds)]

    found = {
        "procession, coroutines": ours("ours.py", "coroutine", "async"),
        "procession, coroutines under asyncio": ours("ours_asyncio.py", "coroutine", "async"),
        "procession, threads": ours("ours.py", "plain", "thread"),
        "procession, processes": ours("ours.py", "plain", "process"),
    }
    locust = rivals.python_with_locust()
    if locust is None:
        print("locust is not here, and so left out: bench/load/setup.sh locust", file=sys.stderr)
        return found
    for base in ("FastHttpUser", "HttpUser"):
        name = folder / f"{base.lower()}.py"
        name.write_text(LOCUST.format(base=base))
        found[f"Locust {base}"] = [
            str(locust),
            *["-m", "locust", "-f", str(name), "--headless", "-u", str(users), "-r", str(users), "-t", f"{seconds:g}s"],
            *["--json", "--only-summary", "--loglevel", "ERROR"],
        ]
    return found


def requests_of(name: str, output: str) -> tuple[int, int]:
    if name.startswith("Locust"):
        (entry,) = json.loads(output[output.index("[") :])
        return entry["num_requests"], entry["num_failures"]
    done, failed = json.loads(output.strip().splitlines()[-1])
    return done, failed


def measure(name: str, command: list[str]) -> tuple[float, float]:
    """Requests per CPU-second, and per second."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    result = subprocess.run(pinned(0, command), capture_output=True, text=True, timeout=120)
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        done, failed = requests_of(name, result.stdout)
    except (ValueError, IndexError):
        raise SystemExit(f"{name} failed:\n{result.stdout}\n{result.stderr}") from None
    if failed:
        print(f"{name}: {failed} requests failed", file=sys.stderr)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done / cpu, done / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--users", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rivals.use()
    if rivals.missing(["nginx"]):
        raise SystemExit("nginx is not here: bench/load/setup.sh nginx")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=PORT))
        core = 1 if (os.cpu_count() or 1) > 1 else 0
        command = pinned(core, ["nginx", "-p", name, "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")])
        with subprocess.Popen(command) as server:
            try:
                time.sleep(0.5)
                if server.poll() is not None:
                    raise SystemExit("nginx did not start")
                programs = contestants(folder, arguments.seconds, arguments.users)
                figures: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
                for _ in range(arguments.rounds):
                    for name, program in programs.items():
                        figures[name].append(measure(name, program))
            finally:
                server.terminate()
    print(f"{arguments.users} users, {arguments.seconds:g} s, median of {arguments.rounds}:")
    for name, rounds in figures.items():
        per_cpu, per_second = (statistics.median(values) for values in zip(*rounds))
        print(f"{name:40} {per_cpu:10,.0f} requests per CPU-second {per_second:10,.0f} per second")


if __name__ == "__main__":
    main()
