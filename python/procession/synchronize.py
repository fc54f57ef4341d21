"""The standard library's `multiprocessing.synchronize`, under this name too: one and the same module object."""

import sys
from multiprocessing import synchronize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.synchronize import *
    from multiprocessing.synchronize import Barrier as Barrier
    from multiprocessing.synchronize import SemLock as SemLock

sys.modules[__name__] = synchronize
