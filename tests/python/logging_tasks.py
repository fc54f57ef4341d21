"""Tasks that log, for test_logging.py."""

import logging
import os
import signal


def log_line(n):
    logging.getLogger("tasks").info("line %d", n)


def log_debug():
    logging.getLogger("tasks").debug("nobody wants to know")


def log_exception():
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        logging.getLogger("tasks").exception("that failed")


def log_and_die(n):
    logging.getLogger("tasks").warning("about to die %d", n)
    os.kill(os.getpid(), signal.SIGKILL)


class Fragile:
    """Fails to be rebuilt where it arrives."""

    def __reduce__(self):
        return _refuse, ()


def _refuse():
    raise RuntimeError("cannot be rebuilt")


def log_fragile_then_line(n):
    logging.getLogger("tasks").info("fragile", extra={"more": Fragile()})
    log_line(n)


def log_lines(count):
    for n in range(count):
        log_line(n)


def log_executors_into_and_raise(path):
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger = logging.getLogger("concurrent.futures")
    logger.addHandler(handler)
    logger.propagate = False
    raise ValueError("cannot initialize")
