"""The standard library's `multiprocessing.sharedctypes`, under this name too: one and the same module object."""

import sys
from multiprocessing import sharedctypes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.sharedctypes import *
    from multiprocessing.sharedctypes import Synchronized as Synchronized
    from multiprocessing.sharedctypes import SynchronizedArray as SynchronizedArray
    from multiprocessing.sharedctypes import SynchronizedBase as SynchronizedBase
    from multiprocessing.sharedctypes import SynchronizedString as SynchronizedString

sys.modules[__name__] = sharedctypes
