"""What runs in the worker processes of a load test: the users, as coroutines, as threads, or one for the whole process."""

from __future__ import annotations

import gc
import inspect
import os
import random
import sys
import threading
from typing import Any, Callable

from .. import _native
from ._feed import Feed
from ._greenlets import Greenlets
from ._scenario import Injection, LoadError, Scenario, name_of

__all__ = ()

# Frames of a user's function rarely go deep, and there may be hundreds of threads.
_THREAD_STACK_BYTES = 512 * 1024
_TICK_SECONDS = 0.01


class Job:
    """Everything that a run needs to know; travels to the process that controls it once, and by fork to the workers."""

    def __init__(
        self,
        scenario: Scenario,
        vuser: str,
        plan: str,
        client: str,
        seed: int,
        setup_value: Any,
        setup_process: Callable[..., Any] | None,
        teardown_process: Callable[..., Any] | None,
    ) -> None:
        self.scenario = scenario
        self.vuser = vuser
        self.plan = plan
        self.client = client
        self.seed = seed
        self.setup_value = setup_value
        self.setup_process = setup_process
        self.teardown_process = teardown_process


def work(job: Job, says: int, process: Any) -> None:
    """The life of a worker process: its share of the load test, from beginning to end."""
    try:
        value = job.setup_value
        if job.setup_process is not None:
            value = call_hook(job.setup_process, "setup", value)
        # Collections of what was there before would only find it alive again.
        gc.collect()
        gc.freeze()
        process.wait_for_start()
        runner = _Coroutines if job.vuser == "async" else _Threads
        runner(job, process, value).run()
        process.finish()
        if job.teardown_process is not None:
            call_hook(job.teardown_process, "teardown", value)
        for slo in process.promises():
            # In pieces that no other worker's come between.
            os.write(says, f"{slo}\n".encode()[:4000])
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                pass


def call_hook(function: Callable[..., Any], role: str, value: Any) -> Any:
    """Calls a setup or teardown function with what it asks for."""
    injection = Injection(function, None, ("setup",))
    arguments = [value for _ in injection.positional]
    try:
        result = function(*arguments, **{name: value for name in injection.keywords})
        if injection.is_async:
            import asyncio

            result = asyncio.run(result)
    except Exception as error:
        raise LoadError(f"the {role} function {name_of(function)}() raised {type(error).__name__}: {error}") from error
    return result


class _Caller:
    """Calls a user's functions, each time one of them by their weights, with what they ask for."""

    def __init__(self, job: Job, user: Any, setup_value: Any) -> None:
        scenario = job.scenario
        self.user = user
        self.calls: list[Callable[[], Any]] = [
            _binder(function, injection, user, setup_value)
            for (function, _), injection in zip(scenario.functions, scenario.injections)
        ]
        self.weights = scenario.weights
        self.random = random.Random(f"{job.seed}/{user.id}")
        self.next: Callable[[], Any] = self.calls[0] if len(self.calls) == 1 else self._choose

    def _choose(self) -> Any:
        return self.random.choices(self.calls, self.weights)[0]()


def _binder(function: Callable[..., Any], injection: Injection, user: Any, setup_value: Any) -> Callable[[], Any]:
    fixed = {"user": user, "setup": setup_value}
    for name in ("http", "tcp", "udp"):
        if injection.wants(name):
            fixed[name] = getattr(user, name)

    def value(wanted: str | Feed) -> Any:
        if isinstance(wanted, Feed):
            try:
                return wanted._take(user.iteration)
            except IndexError:
                raise DataUsedUp from None
        return user.iteration if wanted == "n" else fixed[wanted]

    changing = bool(injection.feeds()) or injection.wants("n")
    if changing:
        positional, keywords = injection.positional, injection.keywords

        def call() -> Any:
            return function(*[value(wanted) for wanted in positional], **{k: value(v) for k, v in keywords.items()})

        return call
    arguments = [value(wanted) for wanted in injection.positional]
    named = {name: value(wanted) for name, wanted in injection.keywords.items()}
    if named:
        return lambda: function(*arguments, **named)
    if len(arguments) == 1:
        argument = arguments[0]
        return lambda: function(argument)
    if not arguments:
        return function
    return lambda: function(*arguments)


def _undone(result: Any) -> TypeError | None:
    """What a plain function has returned is of no interest, unless it is work that nobody does."""
    if inspect.iscoroutine(result):
        result.close()
        what = "a coroutine, which a plain function cannot run: write it, and what decorates it, as `async def`"
    elif inspect.isgenerator(result) or inspect.isasyncgen(result):
        what = "a generator, of which nothing has run: write it without `yield`"
    else:
        return None
    return TypeError(f"the function returned {what}")


class DataUsedUp(BaseException):
    """There is no row of data left that nobody has had."""


class _Users:
    def __init__(self, job: Job, process: Any, setup_value: Any) -> None:
        self.job = job
        self.process = process
        self.setup_value = setup_value
        #: What runs plain functions where coroutines are run.
        self.greenlets: Greenlets | None = None
        #: Whether users that are still there are cancelled, as the run is over.
        self.is_ending = False

    def caller(self, user: Any) -> Callable[[], Any]:
        return _Caller(self.job, user, self.setup_value).next

    def needs_asyncio(self) -> bool:
        # Whoever has loaded it may call it at any moment, and then a running loop must be there.
        if "asyncio" in sys.modules:
            return True
        return any(_mentions_asyncio(function) for function, _ in self.job.scenario.functions)

    async def live_async(self, user: Any) -> None:
        """The life of a user that is a coroutine, or is set aside as one."""
        if self.greenlets is not None:
            await self.greenlets.run(lambda: self.live(user))
            return
        call = self.caller(user)
        begin, done, fail = user.begin, user.done, user.fail
        try:
            while True:
                wait = begin()
                if wait is not None:
                    if wait is False:
                        return
                    await wait
                    continue
                try:
                    await call()
                except DataUsedUp:
                    user.out_of_data()
                    return
                except (_native.UserStopped, GeneratorExit):
                    raise
                except BaseException as error:
                    # Also a task that the function awaits may have been cancelled.
                    if self.is_ending:
                        raise
                    fail(error)
                else:
                    done()
        finally:
            user.leave()

    def live(self, user: Any) -> None:
        """The life of a user that is a plain function."""
        call = self.caller(user)
        begin, done, fail = user.begin, user.done, user.fail
        ends: tuple[type[BaseException], ...] = (_native.UserStopped,)
        if self.greenlets is not None:
            begin = self.greenlets.begins(begin)
            ends += self.greenlets.ends
        try:
            while begin():
                try:
                    result = call()
                except DataUsedUp:
                    user.out_of_data()
                    return
                except ends:
                    raise
                except BaseException as error:
                    if self.is_ending:
                        raise
                    fail(error)
                else:
                    undone = None if result is None else _undone(result)
                    if undone is None:
                        done()
                    else:
                        fail(undone)
        except _native.UserStopped:
            pass
        finally:
            user.leave()

    def drive(self, engine: Any, only: bool) -> None:
        """Runs users as coroutines: one, or as many as there should be. The event loop is the engine's own, as long as
        nobody needs asyncio's."""
        if not self.needs_asyncio():
            engine.drive(self.live_async, only)
            return
        import asyncio

        asyncio.run(self.under_asyncio(engine, only))

    async def under_asyncio(self, engine: Any, only: bool) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        over = loop.create_future()
        tasks: set[Any] = set()

        async def live(user: Any) -> None:
            try:
                await self.live_async(user)
            except _native.UserStopped:
                pass

        def ended(task: Any) -> None:
            tasks.discard(task)
            error = None if task.cancelled() else task.exception()
            if over.done():
                return
            if error is not None:
                over.set_exception(error)
            elif only:
                over.set_result(None)

        def start(user: Any) -> None:
            task = loop.create_task(live(user))
            tasks.add(task)
            task.add_done_callback(ended)

        engine.attach(loop, start, over, only)
        try:
            await over
        finally:
            engine.detach()
            self.is_ending = True
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=1)


class _Coroutines(_Users):
    """Many users in one thread."""

    def run(self) -> None:
        if self.job.scenario.is_async:
            self.drive(self.process.engine(True), False)
        else:
            self.greenlets = Greenlets(self.job.scenario.name)
            self.drive(self.process.engine(True, self.greenlets.set_aside), False)


class _Threads(_Users):
    """Users as threads; where a process is one user, it is the main thread."""

    def run(self) -> None:
        process = self.process
        if self.job.vuser == "process":
            self.live_here()
            return
        threading.stack_size(_THREAD_STACK_BYTES)
        self.failure: BaseException | None = None
        while self.failure is None:
            for _ in range(process.users_to_start()):
                process.expect_user()
                threading.Thread(target=self.live_in_thread, daemon=True).start()
            if not process.wait_for_change(_TICK_SECONDS):
                break
        if self.failure is not None:
            raise self.failure

    def live_here(self) -> None:
        engine = self.process.engine(self.job.scenario.is_async)
        if self.job.scenario.is_async:
            self.drive(engine, True)
        else:
            self.live(engine.add_user())

    def live_in_thread(self) -> None:
        try:
            self.live_here()
        except _native.UserStopped:
            pass
        except BaseException as error:
            self.failure = error


def _mentions_asyncio(function: Callable[..., Any]) -> bool:
    code = getattr(function, "__code__", None)
    return code is not None and _code_mentions(code)


def _code_mentions(code: Any) -> bool:
    return "asyncio" in code.co_names or any(
        _code_mentions(constant) for constant in code.co_consts if hasattr(constant, "co_names")
    )
