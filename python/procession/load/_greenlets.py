"""Plain functions as users that share a thread: each runs in a greenlet, which is set aside while it waits."""

from __future__ import annotations

from typing import Any, Awaitable, Callable

from ._scenario import LoadError

__all__ = ()


class Greenlets:
    """Runs plain functions under an event loop of coroutines."""

    def __init__(self, name: str) -> None:
        try:
            import greenlet  # type: ignore[import-untyped,unused-ignore]
        except ImportError:
            raise LoadError(
                f"{name} is a plain function, and those share a thread by greenlets, which are not installed: "
                "pip install 'procession[greenlet]'; or use vuser='thread' or 'process', or write it as `async def`"
            ) from None
        self._greenlet = greenlet.greenlet
        self._current = greenlet.getcurrent
        #: What ends a greenlet from without.
        self.ends = (greenlet.GreenletExit, GeneratorExit)

    def set_aside(self, wait: Awaitable[Any]) -> Any:
        """Called in a greenlet: lets the event loop go on, and returns what was waited for."""
        event_loop = self._current().parent
        if event_loop is None or event_loop.parent is not None:
            raise RuntimeError(
                "http, tcp, udp and think() are for the greenlet of the virtual user, not for one that its function makes"
            )
        return event_loop.switch(wait)

    def begins(self, begin: Callable[[], Any]) -> Callable[[], bool]:
        """Called in a greenlet, waits for the next iteration as a thread would: whether there is one."""

        def begins() -> bool:
            while True:
                wait = begin()
                if wait is None:
                    return True
                if wait is False:
                    return False
                self.set_aside(wait)

        return begins

    async def run(self, life: Callable[[], None]) -> None:
        """Runs `life` in a greenlet and awaits what it waits for. It is a user's whole life: a greenlet for each iteration
        would cost more than what most of them do."""
        running = self._greenlet(life)
        wait = running.switch()
        while not running.dead:
            try:
                value = await wait
            except BaseException as error:
                wait = running.throw(error)
            else:
                wait = running.switch(value)
