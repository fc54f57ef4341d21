"""The standard library's `multiprocessing.heap`, under this name too: one and the same module object."""

import sys
from multiprocessing import heap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.heap import *

sys.modules[__name__] = heap
