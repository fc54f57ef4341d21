"""The standard library's `multiprocessing.resource_tracker`, under this name too: one and the same module object."""

import sys
from multiprocessing import resource_tracker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.resource_tracker import *
    from multiprocessing.resource_tracker import ResourceTracker as ResourceTracker

sys.modules[__name__] = resource_tracker
