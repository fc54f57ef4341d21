"""The ``procession`` command as pip installs it; ``python -m procession`` is the same."""

from __future__ import annotations

import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Runs the command with the arguments of this process, and ends the process with its exit code."""
    from procession._native import run_command

    # The command answers Ctrl-C itself; Python's handler would only raise KeyboardInterrupt when all is over.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    arguments = ["procession"]
    if sys.executable:
        arguments.append(f"--default-python={sys.executable}")
    sys.exit(run_command(arguments + sys.argv[1:]))


if __name__ == "__main__":
    main()
