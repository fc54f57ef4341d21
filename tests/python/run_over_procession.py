"""Runs a program of somebody else's with nothing changed but its import of multiprocessing.

Usage: run_over_procession.py PACKAGE MODULE [ARGUMENT …]

Where modules of PACKAGE import `multiprocessing` they get `procession`; everything else imports what it names. At the end a
line on stderr tells what was used.
"""

import builtins
import runpy
import sys

_import = builtins.__import__
_packages = ()


def _import_redirected(name, globals=None, locals=None, fromlist=(), level=0):
    if name.startswith("multiprocessing") and level == 0 and globals is not None:
        importer = (globals.get("__name__") or "").partition(".")[0]
        if importer in _packages and name.partition(".")[0] == "multiprocessing":
            name = "procession" + name[len("multiprocessing") :]
    return _import(name, globals, locals, fromlist, level)


def redirect(*packages):
    """Has the modules of these packages import procession in the place of multiprocessing."""
    global _packages
    _packages = packages
    builtins.__import__ = _import_redirected


if __name__ == "__main__":
    _, package, module, *arguments = sys.argv
    redirect(package, "__main__")
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        print("used:", *(name for name in ("procession.pool",) if name in sys.modules), file=sys.stderr)
