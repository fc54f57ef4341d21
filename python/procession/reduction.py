"""The standard library's `multiprocessing.reduction`, under this name too: one and the same module object."""

import sys
from multiprocessing import reduction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.reduction import *
    from multiprocessing.reduction import HAVE_SEND_HANDLE as HAVE_SEND_HANDLE

sys.modules[__name__] = reduction
