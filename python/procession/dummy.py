"""The standard library's `multiprocessing.dummy`, under this name too: one and the same module object."""

import sys
from multiprocessing import dummy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.dummy import *
    from multiprocessing.dummy import DummyProcess as DummyProcess
    from multiprocessing.dummy import Namespace as Namespace
    from multiprocessing.dummy import Value as Value

sys.modules[__name__] = dummy

# It is a package: without this, importing its submodule by our name would load a second copy of that.
sys.modules[__name__ + ".connection"] = dummy.connection
