"""Managers: the standard library's, with our pools in them.

Everything of `multiprocessing.managers` is here, and is the standard library's own object, so that classes registered or
derived there and here are the same. Only `SyncManager` is one of ours, derived from theirs: its `Pool` is procession's, run
in the manager's process, and its locks survive clients that are killed with them. Queues, locks and whatever else a manager
lends out are, as ever, objects of the threads in that process: they lie in its memory, and no process but the manager's ever
touches them.
"""

from multiprocessing import managers as _stdlib_managers
from multiprocessing.managers import *  # noqa: F403
from multiprocessing.managers import AcquirerProxy as _AcquirerProxy
from multiprocessing.managers import ConditionProxy as _ConditionProxy
from multiprocessing.managers import PoolProxy as _PoolProxy
from multiprocessing.managers import SyncManager as _StdlibSyncManager

from . import _managed_locks

__all__ = list(_stdlib_managers.__all__)


def __getattr__(name):
    return getattr(_stdlib_managers, name)


class SyncManager(_StdlibSyncManager):
    """A manager of shared objects, as `Manager()` starts it. See `multiprocessing.managers.SyncManager`."""

    _Server = _managed_locks.Server


def _pool(*args, **kwds):
    from .pool import Pool

    return Pool(*args, **kwds)


SyncManager.register("Pool", _pool, _PoolProxy)
SyncManager.register("Lock", _managed_locks.Lock, _AcquirerProxy)
SyncManager.register("RLock", _managed_locks.RLock, _AcquirerProxy)
SyncManager.register("Condition", _managed_locks.condition, _ConditionProxy)
# Named, as the server would otherwise read all attributes of each result.
SyncManager.register("AsyncResult", exposed=("get", "wait", "ready", "successful", "cancel"), create_method=False)
