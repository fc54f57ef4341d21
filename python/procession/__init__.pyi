from multiprocessing.context import (
    AuthenticationError as AuthenticationError,
    BufferTooShort as BufferTooShort,
    ProcessError as ProcessError,
    TimeoutError as TimeoutError,
)
from multiprocessing.process import (
    active_children as active_children,
    current_process as current_process,
    parent_process as parent_process,
)

from . import (
    connection as connection,
    context as context,
    dummy as dummy,
    errors as errors,
    forkserver as forkserver,
    futures as futures,
    heap as heap,
    joblib as joblib,
    load as load,
    managers as managers,
    pool as pool,
    popen_fork as popen_fork,
    popen_forkserver as popen_forkserver,
    popen_spawn_posix as popen_spawn_posix,
    process as process,
    queues as queues,
    reduction as reduction,
    resource_sharer as resource_sharer,
    resource_tracker as resource_tracker,
    shared_memory as shared_memory,
    sharedctypes as sharedctypes,
    spawn as spawn,
    synchronize as synchronize,
    util as util,
)
from .errors import (
    DeadlockError as DeadlockError,
    MemoryLimitExceeded as MemoryLimitExceeded,
    PoisonTask as PoisonTask,
    PoolTerminated as PoolTerminated,
    ResultDecodeError as ResultDecodeError,
    TaskCancelled as TaskCancelled,
    TaskTimeout as TaskTimeout,
    WorkerDied as WorkerDied,
    WorkerInitError as WorkerInitError,
)
from ._retry import Retry as Retry
from ._worker import worker_state as worker_state
from .futures import ProcessPoolExecutor as ProcessPoolExecutor
from .process import Process as Process

# These three are functions. They stand here as classes, as in the standard library's stub, because people write them
# in annotations.
from .queues import JoinableQueue as JoinableQueue, Queue as Queue, SimpleQueue as SimpleQueue

__all__ = [
    "Array",
    "AuthenticationError",
    "Barrier",
    "BoundedSemaphore",
    "BufferTooShort",
    "Condition",
    "Event",
    "JoinableQueue",
    "Lock",
    "Manager",
    "MemoryLimitExceeded",
    "Pipe",
    "Pool",
    "Process",
    "ProcessError",
    "Queue",
    "RLock",
    "RawArray",
    "RawValue",
    "Semaphore",
    "SimpleQueue",
    "TimeoutError",
    "Value",
    "active_children",
    "allow_connection_pickling",
    "cpu_count",
    "current_process",
    "freeze_support",
    "get_all_start_methods",
    "get_context",
    "get_logger",
    "get_start_method",
    "log_to_stderr",
    "parent_process",
    "reducer",
    "set_executable",
    "set_forkserver_preload",
    "set_start_method",
    "DeadlockError",
    "PoisonTask",
    "PoolTerminated",
    "ResultDecodeError",
    "TaskCancelled",
    "TaskTimeout",
    "WorkerDied",
    "WorkerInitError",
    "Retry",
    "ProcessPoolExecutor",
    "worker_state",
]

__version__: str
SUBDEBUG: int
SUBWARNING: int

reducer = reduction

Array = context._default_context.Array
Barrier = context._default_context.Barrier
BoundedSemaphore = context._default_context.BoundedSemaphore
Condition = context._default_context.Condition
Event = context._default_context.Event
Lock = context._default_context.Lock
Manager = context._default_context.Manager
Pipe = context._default_context.Pipe
Pool = context._default_context.Pool
RLock = context._default_context.RLock
RawArray = context._default_context.RawArray
RawValue = context._default_context.RawValue
Semaphore = context._default_context.Semaphore
Value = context._default_context.Value
allow_connection_pickling = context._default_context.allow_connection_pickling
cpu_count = context._default_context.cpu_count
freeze_support = context._default_context.freeze_support
get_all_start_methods = context._default_context.get_all_start_methods
get_context = context._default_context.get_context
get_logger = context._default_context.get_logger
get_start_method = context._default_context.get_start_method
log_to_stderr = context._default_context.log_to_stderr
set_executable = context._default_context.set_executable
set_forkserver_preload = context._default_context.set_forkserver_preload
set_start_method = context._default_context.set_start_method
