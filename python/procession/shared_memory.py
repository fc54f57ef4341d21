"""The standard library's `multiprocessing.shared_memory`, under this name too: one and the same module object."""

import sys
from multiprocessing import shared_memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.shared_memory import *

sys.modules[__name__] = shared_memory
