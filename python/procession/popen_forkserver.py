"""The standard library's `multiprocessing.popen_forkserver`, under this name too: one and the same module object."""

import sys
from multiprocessing import popen_forkserver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.popen_forkserver import *

sys.modules[__name__] = popen_forkserver
