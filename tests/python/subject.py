"""The package under test, under the name the tests use: ``mp``.

With ``PROCESSION_TEST_STDLIB=1`` in the environment the tests look at the standard library's ``multiprocessing``
instead. That is how expectations about compatibility are proved right: what is a promise of ours alone is then skipped,
and all the rest has to pass there too.
"""

import os

ON_STDLIB = os.environ.get("PROCESSION_TEST_STDLIB", "0") not in ("", "0")

if ON_STDLIB:
    import multiprocessing as mp
    import multiprocessing.pool as pool_module
else:
    import procession as mp
    import procession.pool as pool_module

__all__ = ["ON_STDLIB", "mp", "pool_module"]
