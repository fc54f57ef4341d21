"""What becomes of what the tasks of a pool print."""

import io
import os
import sys

__all__ = ()

MODES = ("inherit", "lines", "capture")

# Whoever writes a line while another worker is stopped in the midst of one does not wait for that for ever.
_PATIENCE_SECONDS = 1.0

_former = []


def begin(mode, name, lock):
    """In a worker, before its first task; returns what is to be called after each item, or None."""
    if mode == "inherit":
        return None
    _flush()
    # Kept, as the end of what stood there might close the descriptors.
    _former.extend((sys.stdout, sys.stderr))
    if mode == "capture":
        # Whatever stood here before (a notebook's stream, a test's), from now on it is the file of this worker. By lines, so
        # that a worker that is killed has written what it had printed.
        sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
        sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
        return _flush
    lines = [_Lines(descriptor, f"[{name}] ", lock) for descriptor in (1, 2)]
    sys.stdout, sys.stderr = (_text_over(raw) for raw in lines)

    def end_item():
        _flush()
        for raw in lines:
            raw.end_line()

    return end_item


def _flush():
    for stream in (sys.stdout, sys.stderr, sys.__stdout__):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            # There is none, it is closed, or nobody reads it any more.
            pass


def _text_over(raw):
    buffer = io.BufferedWriter(raw)
    return io.TextIOWrapper(buffer, encoding="utf-8", errors="backslashreplace", line_buffering=True)


class _Lines(io.RawIOBase):
    """A stream that writes whole lines to a descriptor, each with a label, never in the midst of another worker's."""

    def __init__(self, descriptor, label, lock):
        self._descriptor = descriptor
        self._label = label.encode("utf-8", "backslashreplace")
        self._lock = lock
        self._begun = b""

    def writable(self):
        return True

    def fileno(self):
        return self._descriptor

    def isatty(self):
        return os.isatty(self._descriptor)

    def write(self, data):
        data = bytes(data)
        *lines, self._begun = (self._begun + data).split(b"\n")
        if lines:
            self._emit(lines)
        return len(data)

    def end_line(self):
        """Writes what is left of a line that has no end."""
        if self._begun:
            begun, self._begun = self._begun, b""
            self._emit([begun])

    def close(self):
        if not self.closed:
            try:
                self.end_line()
            finally:
                super().close()

    def _emit(self, lines):
        data = memoryview(b"".join(self._label + line + b"\n" for line in lines))
        taken = self._lock.acquire(timeout=_PATIENCE_SECONDS)
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        finally:
            if taken:
                self._lock.release()
