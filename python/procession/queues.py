"""The standard library's `multiprocessing.queues`, under this name too: one and the same module object."""

import sys
from multiprocessing import queues

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.queues import *

sys.modules[__name__] = queues
