"""Faults. Most strike at item 13 and are the square otherwise; each notes that it ran, if a log is set up."""

import os
import signal
import sys
import time

from tasks import make_bytes, note, sleep_forever, sleep_stubbornly, spin_forever


class Catastrophe(BaseException):
    """Not an Exception, so that ``except Exception`` lets it through."""


def no_core_dump():
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def sigkill_self():
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def read_address_zero():
    import ctypes

    no_core_dump()
    ctypes.string_at(0)


def overflow_the_stack():
    import faulthandler

    no_core_dump()
    # The traceback that a parent's faulthandler would print is not what is tested.
    faulthandler.disable()
    faulthandler._stack_overflow()


def sigkill_at_thirteen(x):
    note(x)
    if x == 13:
        sigkill_self()
    return x * x


def segfault_at_thirteen(x):
    note(x)
    if x == 13:
        import faulthandler

        faulthandler.disable()
        read_address_zero()
    return x * x


def os_exit_at_thirteen(x):
    note(x)
    if x == 13:
        os._exit(3)
    return x * x


def os_exit_zero_at_thirteen(x):
    note(x)
    if x == 13:
        os._exit(0)
    return x * x


def sys_exit_at_thirteen(x):
    note(x)
    if x == 13:
        sys.exit(3)
    return x * x


def catastrophe_at_thirteen(x):
    note(x)
    if x == 13:
        raise Catastrophe("thirteen")
    return x * x


def keyboard_interrupt_at_thirteen(x):
    note(x)
    if x == 13:
        raise KeyboardInterrupt
    return x * x


def sleep_forever_at_thirteen(x):
    note(x)
    if x == 13:
        sleep_forever()
    return x * x


def spin_forever_at_thirteen(x):
    note(x)
    if x == 13:
        spin_forever()
    return x * x


def stubborn_at_thirteen(x):
    note(x)
    if x == 13:
        sleep_stubbornly()
    return x * x


def die_with(*_arguments, **_keywords):
    sigkill_self()


class RaisesInRepr:
    def __repr__(self):
        raise RuntimeError("has no repr")


def huge_or_deadly_at_five(x):
    if x == 5:
        sigkill_self()
    return make_bytes(5_000_000, x)


def fork_and_return(x):
    """Comes back in two processes; tells how the second one ended."""
    child = os.fork()
    if child == 0:
        return "from the copy"
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fork_and_raise(error):
    """The same, raised in the second one."""
    child = os.fork()
    if child == 0:
        raise error
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fork_and_go_on():
    """As an initializer: comes back in two processes."""
    os.fork()


def fork_and_fail_in_the_copy():
    """As an initializer: fails in a process that is no worker."""
    if os.fork() == 0:
        raise LookupError("in the copy alone")


def close_all_descriptors(x):
    os.closerange(3, 256)
    return x
