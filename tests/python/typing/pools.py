"""What type checkers must understand of pools."""

from collections.abc import Iterator

from typing_extensions import assert_type

import procession as mp
from procession.pool import AsyncResult, IMapIterator, IMapUnorderedIterator, MapResult, Pool, ThreadPool


def half(number: int) -> float:
    return number / 2


def add(left: int, right: int) -> int:
    return left + right


def prepare(level: str) -> None: ...


def note(value: object) -> None: ...


def calls() -> None:
    with mp.Pool(4, prepare, ("fast",), maxtasksperchild=10, timeout=1.5) as pool:
        assert_type(pool, Pool)
        assert_type(pool.map(half, [1, 2], chunksize=1), list[float])
        assert_type(pool.map(lambda text: len(text), ["a"]), list[int])
        assert_type(pool.map_async(half, range(3), callback=note), MapResult[float])
        assert_type(pool.map_async(half, range(3)).get(timeout=1), list[float])
        assert_type(pool.starmap(add, [(1, 2)]), list[int])
        assert_type(pool.starmap_async(add, zip([1], [2])).get(), list[int])
        assert_type(pool.apply(add, (1, 2)), int)
        assert_type(pool.apply(add, kwds={"left": 1, "right": 2}), int)
        assert_type(pool.imap(half, iter([1])), IMapIterator[float])
        assert_type(pool.imap(half, [1]).next(timeout=1), float)
        assert_type(pool.imap_unordered(half, [1], buffersize=8), IMapUnorderedIterator[float])
        assert_type(pool.imap(half, [1], chunksize=10), Iterator[float])
        for value in pool.imap_unordered(half, [1], 10):
            assert_type(value, float)

        result = pool.apply_async(half, (3,), callback=note, error_callback=note)
        assert_type(result, AsyncResult[float])
        assert_type(result.get(), float)
        assert_type(result.ready(), bool)
        assert_type(result.successful(), bool)
        result.wait(0.1)


def wrong_calls(pool: Pool) -> None:
    pool.map(half, ["a"])  # type: ignore
    pool.map(half)  # type: ignore
    pool.apply_async(half, (1,), callback=1)  # type: ignore
    mp.Pool(timeout="soon")  # type: ignore
    mp.Pool("many")  # type: ignore
    pool.imap(half, [1], buffersize="big")  # type: ignore


def others() -> None:
    assert_type(mp.pool.Pool(2), Pool)
    assert_type(mp.get_context("spawn").Pool(2), Pool)
    assert_type(mp.pool.Pool(context=mp.get_context("fork")), Pool)
    assert_type(ThreadPool(2).map(half, [1]), list[float])
