"""The standard library's `multiprocessing.spawn`, under this name too: one and the same module object."""

import sys
from multiprocessing import spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.spawn import *

sys.modules[__name__] = spawn
