"""What type checkers must understand of processes, contexts and errors."""

import multiprocessing
import multiprocessing.connection
import multiprocessing.context
import multiprocessing.process
from typing import Any, Literal, Optional

from typing_extensions import assert_type

import procession as mp
import procession.connection
import procession.queues
from procession import WorkerDied
from procession.context import DefaultContext, ForkContext, ForkServerContext, SpawnContext
from procession.process import ForkProcess, Process


def work(name: str, seconds: float = 1.0) -> None: ...


class Worker(mp.Process):
    def run(self) -> None:
        work(self.name)


def processes() -> None:
    process = mp.Process(target=work, args=("bob", 5), kwargs={}, name="xm0", daemon=True)
    assert_type(process, Process)
    process.start()
    assert_type(process.state, Literal["initial", "starting", "running", "suspended", "ended"])
    process.suspend()
    process.resume()
    process.interrupt()
    process.join(timeout=1.5)
    assert_type(process.exitcode, Optional[int])
    assert_type(process.pid, Optional[int])
    assert_type(Worker().state == "running", bool)
    assert_type(mp.current_process(), multiprocessing.process.BaseProcess)
    assert_type(mp.active_children(), list[multiprocessing.process.BaseProcess])
    theirs: multiprocessing.Process = process
    theirs.kill()


def contexts() -> None:
    assert_type(mp.get_context(), DefaultContext)
    assert_type(mp.get_context("fork"), ForkContext)
    assert_type(mp.get_context("spawn"), SpawnContext)
    assert_type(mp.get_context("forkserver"), ForkServerContext)
    assert_type(mp.get_context("fork").Process(target=work), ForkProcess)
    assert_type(mp.get_start_method(), str)
    assert_type(mp.get_start_method(allow_none=True), Optional[str])
    assert_type(mp.get_all_start_methods(), list[str])
    assert_type(mp.cpu_count(), int)
    mp.set_start_method("spawn", force=True)
    theirs: multiprocessing.context.BaseContext = mp.get_context("spawn")
    theirs.Lock()


def the_rest() -> None:
    queue: mp.Queue[int] = mp.Queue(3)
    queue.put(1)
    assert_type(queue.get(), int)
    also: procession.queues.Queue[int] = queue
    also.close()
    ours, its = mp.Pipe()
    ours.send(1)
    its.close()
    with mp.Lock(), mp.Manager() as manager:
        manager.list([1])
    number = mp.Value("i", 0)
    number.value = 3
    theirs: multiprocessing.connection.Connection[Any, Any] = ours
    theirs.close()
    listener = procession.connection.Listener()
    listener.close()
    mp.util.get_logger().info(mp.__version__)


def failures(pool: mp.pool.Pool) -> None:
    try:
        pool.apply(work)
    except mp.TaskTimeout as error:
        assert_type(error.limit_seconds, float)
        assert_type(error.pid, Optional[int])
    except WorkerDied as error:
        assert_type(error.exitcode, Optional[int])
        assert_type(error.task, str)
    except (mp.WorkerInitError, mp.ResultDecodeError) as error:
        assert_type(error.traceback_text, str)
    except (mp.PoolTerminated, mp.TimeoutError, mp.ProcessError) as error:
        known: multiprocessing.ProcessError = error
        print(known)


def mistakes() -> None:
    mp.Process(target=1)  # type: ignore
    mp.Process("group")  # type: ignore
    mp.get_context(1)  # type: ignore
    mp.Process().state = "running"  # type: ignore
    mp.Poool()  # type: ignore
