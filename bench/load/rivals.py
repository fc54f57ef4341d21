"""Where the rivals are: what setup.sh has put beside this file, or else the system's own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Iterable, List

HOME = Path(__file__).resolve().parent / ".rivals"


def use() -> None:
    """Lets this program and its children find them."""
    debian = HOME / "debian" / "usr"
    # Debian keeps servers where the PATH of users does not lead.
    path = [HOME / "bin", debian / "bin", debian / "sbin", os.environ.get("PATH", os.defpath), "/usr/sbin"]
    os.environ["PATH"] = os.pathsep.join(map(str, path))
    libraries = [*sorted((debian / "lib").glob("*-linux-gnu*")), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    if libraries:
        os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(map(str, libraries))


def missing(programs: Iterable[str]) -> List[str]:
    return [program for program in programs if shutil.which(program) is None]


def python_with_locust() -> Path | None:
    found = HOME / "venv" / "bin" / "python"
    return found if found.exists() else None
