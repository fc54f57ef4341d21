"""The standard library's `multiprocessing.util`, under this name too: one and the same module object."""

import sys
from multiprocessing import util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.util import *

sys.modules[__name__] = util
