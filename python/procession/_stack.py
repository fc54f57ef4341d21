"""Has a process write down where it is, upon a signal."""

import os

__all__ = ()


def write_upon(signal):
    """Has this process write the stacks of its threads upon `signal`, into a file of its own; returns its descriptor.

    Raises:
        OSError, RuntimeError, ValueError: there are no descriptors left, or the signal cannot be had.
    """
    # `faulthandler` answers in the signal's handler, whoever holds the GIL; its file has no name.
    import faulthandler
    import fcntl

    descriptor = os.memfd_create("procession-stack")
    try:
        # High up, out of the way of programs that count on low numbers.
        high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 100)
    finally:
        os.close(descriptor)
    try:
        faulthandler.register(signal, file=high, all_threads=True, chain=True)
    except BaseException:
        os.close(high)
        raise
    return high
