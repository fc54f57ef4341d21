"""The standard library's `multiprocessing.managers`, under this name too: one and the same module object."""

import sys
from multiprocessing import managers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.managers import *
    from multiprocessing.managers import DictProxy as DictProxy
    from multiprocessing.managers import ListProxy as ListProxy
    from multiprocessing.managers import Namespace as Namespace
    from multiprocessing.managers import RemoteError as RemoteError
    from multiprocessing.managers import ValueProxy as ValueProxy

sys.modules[__name__] = managers
