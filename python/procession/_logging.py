"""Hands the logging records of a pool's workers to the handlers of the process that made it."""

import logging
import logging.handlers
import sys
import threading
import traceback
from queue import Empty, Full

from .queues import Queue

__all__ = ()

# As many records may be on their way. Workers that log faster than handlers handle wait, and drop records in the end, so
# that no handler can hold up a task for good.
_MOST_UNDER_WAY = 10_000
_PATIENCE_SECONDS = 1.0
# A wait with a time limit is never taken for a deadlock, whoever is left.
_FOR_EVER_SECONDS = 1e9
# How long the end of a pool waits for handlers when nobody has asked for all that was logged.
_LAST_WORDS_SECONDS = 5.0


class Relay:
    """The way that records take: workers put them into a queue, and a thread of the pool's process handles them.

    The queue outlives who writes to it, so what a worker had logged before it was killed arrives.
    """

    def __init__(self, context):
        self.queue = Queue(_MOST_UNDER_WAY, ctx=context)
        self._is_over = False
        self._thread = threading.Thread(target=self._handle_all, name="procession-logging", daemon=True)

    def start(self):
        # After the workers' fork: in them this thread would be missing.
        self._thread.start()

    def _handle_all(self):
        while True:
            # One bad record, or a handler that raises, must not silence those behind it.
            try:
                try:
                    record = self.queue.get(timeout=0 if self._is_over else _FOR_EVER_SECONDS)
                except Empty:
                    return
                if record is None:
                    return
                logger = logging.getLogger(record.name)
                if logger.isEnabledFor(record.levelno):
                    logger.handle(record)
            except Exception:
                if logging.raiseExceptions and sys.stderr is not None:
                    print("a record that a worker has logged could not be handled", file=sys.stderr)
                    traceback.print_exc()

    def end(self, in_full):
        """Ends when what was logged until now is handled, or, if not `in_full`, soon; the workers have ended before."""
        if not self._thread.is_alive() or self._thread is threading.current_thread():
            return
        seconds = None if in_full else _LAST_WORDS_SECONDS
        try:
            self.queue.put(None, timeout=seconds)
        except Full:
            # A handler stands still. When it goes on, what is left is handled, and then the thread ends.
            self._is_over = True
            try:
                self.queue.put_nowait(None)
            except Full:
                pass
            return
        self._thread.join(seconds)


class _Sender(logging.handlers.QueueHandler):
    dropped = 0

    def enqueue(self, record):
        try:
            self.queue.put(record, timeout=0 if self.dropped else _PATIENCE_SECONDS)
        except Full:
            self.dropped += 1
            return
        if self.dropped:
            dropped, self.dropped = self.dropped, 0
            text = f"{dropped} records of this worker were dropped, as they came faster than they were handled"
            self.emit(logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, None, None))


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
