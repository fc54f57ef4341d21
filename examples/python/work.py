"""Functions with honest work in them, for ``procession map`` and ``procession bench``:

procession map examples/python/work.py:parse_source src/*.py
procession map examples/python/work.py:digest --glob '/usr/share/**/*.gz'
seq 1000 1100 | procession map examples/python/work.py:largest_prime_factor -
"""

import ast
import hashlib
import tokenize
import warnings


def parse_source(path):
    """Parses a Python source file; returns how many lines, functions, classes and imports it has."""
    with tokenize.open(path) as file:  # Heeds the encoding that the file declares.
        source = file.read()
    counts = {"lines": source.count("\n"), "functions": 0, "classes": 0, "imports": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Backslashes in somebody else's strings are not our business.
        tree = ast.parse(source, filename=path)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            counts["functions"] += 1
        elif isinstance(node, ast.ClassDef):
            counts["classes"] += 1
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            counts["imports"] += 1
    return {"path": str(path), **counts}


def digest(path):
    """Returns the SHA-256 of a file and its size in bytes."""
    sha, size_bytes = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
            size_bytes += len(block)
    return {"path": str(path), "bytes": size_bytes, "sha256": sha.hexdigest()}


def largest_prime_factor(number):
    """Returns the largest prime factor of a whole number above 1; a line of text will do."""
    rest, factor, largest = int(number), 2, 1
    if rest < 2:
        raise ValueError(f"{number!r} has no prime factors")
    while factor * factor <= rest:
        while rest % factor == 0:
            largest, rest = factor, rest // factor
        factor += 1
    return max(largest, rest)
