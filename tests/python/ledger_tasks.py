"""Accounting: a byte per task in a file that all workers map, so that a task run twice is seen."""

import mmap

_ledger = None


def open_ledger(path):
    global _ledger
    with open(path, "r+b") as file:
        _ledger = mmap.mmap(file.fileno(), 0)


def book(number):
    _ledger[number] += 1
    return number


def book_bytes(number, payload):
    """The same with a payload on the way in and out, so that kills also hit long copies."""
    _ledger[number] += 1
    return number, payload
