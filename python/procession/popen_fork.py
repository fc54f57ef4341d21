"""The standard library's `multiprocessing.popen_fork`, under this name too: one and the same module object."""

import sys
from multiprocessing import popen_fork

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.popen_fork import *

sys.modules[__name__] = popen_fork
