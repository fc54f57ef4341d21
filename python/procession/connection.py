"""The standard library's `multiprocessing.connection`, under this name too: one and the same module object."""

import sys
from multiprocessing import connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.connection import *
    from multiprocessing.connection import Connection as Connection
    from multiprocessing.connection import answer_challenge as answer_challenge
    from multiprocessing.connection import deliver_challenge as deliver_challenge

sys.modules[__name__] = connection
