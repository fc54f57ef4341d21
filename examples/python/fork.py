"""fork(): called once, returns twice.

The parent gets the child's process id, the child gets 0. Who runs first is the scheduler's business.
"""

import os


def main():
    print(f"I am process {os.getpid()}", flush=True)  # What is not flushed here would be printed twice.

    pid = os.fork()
    if pid == 0:
        print(f"fork returned 0: I am child process {os.getpid()} and my parent is {os.getppid()}", flush=True)
        os._exit(0)
    print(f"fork returned {pid}: I am process {os.getpid()} and just created child process {pid}", flush=True)
    os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
