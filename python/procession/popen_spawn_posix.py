"""The standard library's `multiprocessing.popen_spawn_posix`, under this name too: one and the same module object."""

import sys
from multiprocessing import popen_spawn_posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.popen_spawn_posix import *

sys.modules[__name__] = popen_spawn_posix
