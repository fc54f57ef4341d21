"""Hands the logging records of a pool's workers to the handlers of the process that made it."""

import logging
import logging.handlers
import threading

__all__ = ()


class Relay:
    """The way that records take: workers put them into a queue, and a thread of the pool's process handles them.

    The queue outlives who writes to it, so what a worker had logged before it was killed arrives.
    """

    def __init__(self, context):
        self.queue = context.SimpleQueue()
        self._thread = threading.Thread(target=self._handle_all, name="procession-logging", daemon=True)

    def start(self):
        # After the workers' fork: in them this thread would be missing.
        self._thread.start()

    def _handle_all(self):
        while (record := self.queue.get()) is not None:
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)

    def end(self):
        """Handles what was logged until now, and ends; called when the workers have ended."""
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self.queue.put(None)
            self._thread.join()


class _Sender(logging.handlers.QueueHandler):
    def enqueue(self, record):
        self.queue.put(record)


def send_to(queue, level):
    """In a worker: sends whatever would have been handled here, and only that."""
    root = logging.getLogger()
    sender = _Sender(queue)
    # Handlers that came along by a fork would say everything twice.
    for logger in list(root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger) and logger.handlers:
            logger.handlers[:] = [] if logger.propagate else [sender]
    root.handlers[:] = [sender]
    root.setLevel(level)
