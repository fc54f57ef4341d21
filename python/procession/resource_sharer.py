"""The standard library's `multiprocessing.resource_sharer`, under this name too: one and the same module object."""

import sys
from multiprocessing import resource_sharer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.resource_sharer import *

sys.modules[__name__] = resource_sharer
