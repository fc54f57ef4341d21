"""A parent goes on while its child sleeps, until it joins it. Each process knows its own id and its parent's."""

import os
import time

import procession as mp

SLEEP_SECONDS = 1.0


def sleeper(name, seconds):
    print(f"child: my process id is {os.getpid()}, my parent's is {os.getppid()}", flush=True)
    print(f"child: {name} will sleep for {seconds} s", flush=True)
    time.sleep(seconds)
    print(f"child: {name} is awake", flush=True)


def main():
    child = mp.Process(target=sleeper, args=("bob", SLEEP_SECONDS))
    child.start()
    print(f"parent: child process {child.pid} is started, and I go on meanwhile", flush=True)
    print(f"parent: the child is alive: {child.is_alive()}", flush=True)
    child.join()  # Without this line the next ones would be printed while the child still sleeps.
    print(f"parent: the child has ended with exit code {child.exitcode}")
    print(f"parent: my process id is {os.getpid()}, my parent's is {os.getppid()}")


if __name__ == "__main__":
    main()
