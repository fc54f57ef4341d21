"""The standard library's `multiprocessing.forkserver`, under this name too: one and the same module object."""

import sys
from multiprocessing import forkserver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.forkserver import *

sys.modules[__name__] = forkserver
