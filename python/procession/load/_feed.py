"""Rows of test data for virtual users."""

from __future__ import annotations

import csv
import json
import os
from typing import Any, Iterable, Literal, Mapping, Union, get_args

from .. import _native

__all__ = ["Feed", "feed"]

Share = Literal["cycle", "unique", "shared"]
Row = Any
Source = Union[str, "os.PathLike[str]", Iterable[Row]]


class Feed:
    """Rows of a file or a list, handed out to iterations. Made by `feed`."""

    def __init__(self, source: Source, share: Share = "cycle") -> None:
        if share not in get_args(Share):
            raise ValueError(f"share must be one of {', '.join(map(repr, get_args(Share)))}, not {share!r}")
        self.share: Share = share
        self.name, self.rows = _read(source)
        if not self.rows:
            raise ValueError(f"{self.name} holds no rows of data")
        # One number for all processes of the run: a row is taken by adding one to it.
        self._taken = _native.SharedCounter()

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"<Feed of {len(self.rows)} rows from {self.name}, {self.share}>"

    def _reset(self) -> None:
        self._taken.reset()

    def _take(self, iteration: int) -> Row:
        """The row for this iteration of a user; `LookupError` when all are used up."""
        if self.share == "shared":
            return self.rows[iteration % len(self.rows)]
        number = self._taken.add_one()
        if self.share == "cycle":
            return self.rows[number % len(self.rows)]
        return self.rows[number]


def feed(source: Source, share: Share = "cycle") -> Any:
    """Rows of test data, as the default of a virtual user's parameter or as `load(…, data=feed(…))`.

    Each iteration gets one row. A row of a CSV file is a dict by the names in its first line, a row of a JSONL file
    (`.jsonl`, `.ndjson`) is the value of its line, a row of a JSON file is an element of its list.

    Args:
        source: path of a `.csv`, `.jsonl`, `.ndjson` or `.json` file, or the rows themselves.
        share: who gets which row.
            `"cycle"`: all users of all processes take turns; after the last row comes the first again.
            `"unique"`: each row goes to one iteration of one user; when they are used up, the run ends.
            `"shared"`: every user goes through all rows by itself, again and again.

    Raises:
        OSError, ValueError: the file cannot be read, or is not what its name says.

    Example:
        >>> from procession.load import feed
        >>> def buy(http, data=feed([{"item": 1}, {"item": 2}])):
        ...     http.post("/cart", json=data)
    """
    return Feed(source, share)


def _read(source: Source) -> tuple[str, list[Row]]:
    if not isinstance(source, (str, os.PathLike)):
        if isinstance(source, Mapping):
            raise TypeError("data must be a path or a list of rows, not a mapping")
        return "a list", list(source)
    path = os.fspath(source)
    try:
        return path, _read_file(path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no text in UTF-8: {error}") from None


def _read_file(path: str) -> list[Row]:
    suffix = os.path.splitext(path)[1].lower()
    rows: list[Row] = []
    # The mark that some programs put in front of their text is no part of it.
    encoding = "utf-8-sig"
    if suffix == ".csv":
        with open(path, newline="", encoding=encoding) as file:
            rows = list(csv.DictReader(file))
        for number, row in enumerate(rows, 2):
            if None in row or None in row.values():
                raise ValueError(f"{path}: row {number} has another number of columns than the first line")
        return rows
    if suffix in (".jsonl", ".ndjson"):
        with open(path, encoding=encoding) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        rows.append(json.loads(line))
                    except ValueError as error:
                        raise ValueError(f"{path}: line {number} is no JSON: {error}") from None
        return rows
    if suffix == ".json":
        with open(path, encoding=encoding) as file:
            try:
                rows = json.load(file)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}: is no JSON: {error}") from None
        if not isinstance(rows, list):
            raise ValueError(f"{path}: holds no list of rows but one {type(rows).__name__}")
        return rows
    raise ValueError(f"{path}: rows of data are read from .csv, .jsonl, .ndjson and .json files")
