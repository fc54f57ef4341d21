"""Results and iterators in an event loop: they are awaited without a thread that blocks."""

import asyncio

__all__ = ()


def _event():
    # A future of the running loop, and what completes it from any thread.
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    def complete():
        if not future.done():
            future.set_result(None)

    def call():
        try:
            loop.call_soon_threadsafe(complete)
        except RuntimeError:
            # The loop was closed meanwhile: nobody waits there any more.
            pass

    return future, call


async def result_of(result):
    """What `await result` does. Cancelling the wait does not cancel the task: `result.cancel()` does."""
    future, call = _event()
    if result._listen(call):
        await future
    return result.get(0)


async def next_of(iterator):
    """What `async for` does for each item."""
    future, call = _event()
    while iterator._listen(call):
        await future
        future, call = _event()
    try:
        return iterator.next(0)
    except StopIteration:
        raise StopAsyncIteration from None
