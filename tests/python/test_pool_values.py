"""Values arrive as they were sent: equal, and of the very same type.

Whatever is not marked as our own promise has been checked against the standard library
(``PROCESSION_TEST_STDLIB=1``, see subject.py).
"""

import collections
import math
import os

import pickle_tasks
import pytest
import tasks
from harness import (
    get,
    open_pool,
    outcome,
    pool_tests,
)
from subject import ON_STDLIB

pytestmark = pool_tests


# ---------------------------------------------------------------------------------------------------------------------
# Values: what arrives is equal to what was sent, and of the very same type.

PLAIN_VALUES = [
    None,
    True,
    False,
    0,
    1,
    -1,
    255,
    256,
    -257,
    2**31 - 1,
    2**31,
    -(2**31) - 1,
    2**63 - 1,
    -(2**63),
    2**63,
    2**64 - 1,
    2**64,
    -(2**64),
    10**30,
    -(10**300),
    1 << 100_000,
    0.0,
    -0.0,
    1.5,
    1e308,
    5e-324,
    float("inf"),
    float("-inf"),
    float("nan"),
    1j,
    complex(-0.0, float("inf")),
    "",
    "a",
    "\x00",
    "é",
    "日本語",
    "🦀" * 10,
    "\ud800",
    "lone \udcff surrogate \ud83d",
    "x" * 70_000,
    "日" * 70_000,
    b"",
    b"\x00",
    b"bytes",
    bytes(range(256)) * 300,
    bytearray(b""),
    bytearray(b"mutable"),
    bytearray(100_000),
    (),
    (1,),
    (None,),
    (1, (2, (3, (4, ())))),
    ((), ((),), (((),),)),
    tuple(range(1000)),
    (True, 1, 1.0),
    [],
    [1, [2, [3]]],
    {},
    {"a": 1, 2: "b", None: (), (1, 2): [3]},
    {1, 2, 3},
    frozenset({"x"}),
    range(5),
    slice(1, 2, 3),
    Ellipsis,
    NotImplemented,
    int,
    len,
    tasks.double,
    pickle_tasks.Record,
    pickle_tasks.IntSubclass(5),
    pickle_tasks.BytesSubclass(b"sub"),
    pickle_tasks.StrSubclass("sub"),
    pickle_tasks.TupleSubclass((1, 2)),
    pickle_tasks.FloatSubclass(2.5),
    pickle_tasks.Point(1, "y"),
    pickle_tasks.Record("r", [1, 2]),
    collections.OrderedDict([("b", 1), ("a", 2)]),
    collections.Counter("hello"),
    collections.deque([1, 2], maxlen=5),
    ValueError("as a value"),
]


def typed(value):
    """A picture of the value that tells apart what ``==`` does not: 1 and True, 0.0 and -0.0, subclasses; and in which
    NaN equals itself."""
    if isinstance(value, (tuple, list, collections.deque)):
        return type(value), tuple(typed(item) for item in value)
    if isinstance(value, (set, frozenset)):
        return type(value), frozenset(typed(item) for item in value)
    if isinstance(value, dict):
        return type(value), tuple((typed(key), typed(item)) for key, item in value.items())
    if isinstance(value, float):
        return type(value), value.hex() if not math.isnan(value) else "nan"
    if isinstance(value, complex):
        return type(value), typed(value.real), typed(value.imag)
    if isinstance(value, BaseException):
        return type(value), typed(value.args)
    if isinstance(value, pickle_tasks.Record):
        return type(value), value.name, typed(value.values)
    if isinstance(value, int) and not isinstance(value, bool):
        # The repr of a huge int is refused by newer Pythons.
        return type(value), int(value)
    return type(value), value if isinstance(value, (str, bytes, bytearray)) else repr(value)


def same(a, b):
    return typed(a) == typed(b)


def test_values_keep_their_value_and_exact_type(start_method):
    with open_pool(start_method) as pool:
        results = [pool.apply_async(tasks.identity, (value,)) for value in PLAIN_VALUES]
        for sent, result in zip(PLAIN_VALUES, results):
            assert same(sent, get(result)), f"{type(sent)} {str(sent)[:50]!r}"
        for sent, received in zip(PLAIN_VALUES, pool.map(tasks.identity, PLAIN_VALUES)):
            assert same(sent, received)
        for sent, received in zip(PLAIN_VALUES, pool.map(tasks.identity, PLAIN_VALUES, 1)):
            assert same(sent, received)
        for sent, received in zip(PLAIN_VALUES, pool.imap(tasks.identity, PLAIN_VALUES)):
            assert same(sent, received)
        for sent, received in zip(PLAIN_VALUES, pool.starmap(tasks.identity, [(value,) for value in PLAIN_VALUES])):
            assert same(sent, received)


def test_workers_see_values_with_their_exact_type(start_method):
    telling = [value for value in PLAIN_VALUES if not (isinstance(value, int) and abs(value) > 10**400)]
    with open_pool(start_method) as pool:
        seen = pool.map(pickle_tasks.type_and_repr, telling, 1)
        # Sets and functions tell their addresses or their order.
        for value, (type_name, text) in zip(telling, seen):
            assert type_name == type(value).__name__
            if not isinstance(value, (set, frozenset)) and "at 0x" not in repr(value):
                assert text == repr(value)
        mixed = (1, True, 1.0, "1", b"1", None, -0.0, 2**70, pickle_tasks.IntSubclass(1), (1, True))
        expected = [(type(value).__name__, repr(value)) for value in mixed]
        assert pool.apply(pickle_tasks.repr_of_all, mixed) == expected


def _argument_lists(st):
    """A hypothesis strategy: lists of values of all simple types, nested in one another."""
    scalars = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(min_value=-(2**70), max_value=2**70),
        st.floats(),
        st.complex_numbers(),
        st.text(st.characters(blacklist_categories=())),
        st.binary(max_size=300),
        st.binary(max_size=300).map(bytearray),
        st.integers().map(pickle_tasks.IntSubclass),
        st.binary(max_size=30).map(pickle_tasks.BytesSubclass),
    )
    hashable = st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.binary(max_size=30))
    values = st.recursive(
        scalars,
        lambda inner: st.one_of(
            st.lists(inner, max_size=5),
            st.lists(inner, max_size=5).map(tuple),
            st.dictionaries(hashable, inner, max_size=5),
            st.frozensets(hashable, max_size=5),
            st.sets(hashable, max_size=5),
            st.tuples(inner, inner).map(lambda pair: pickle_tasks.Point(*pair)),
        ),
        max_leaves=20,
    )
    return st.lists(values, max_size=4)


def test_any_value_built_of_simple_types_survives_the_round_trip(start_method):
    hypothesis = pytest.importorskip("hypothesis")
    with open_pool(start_method) as pool:

        @hypothesis.settings(
            max_examples=150, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
        )
        @hypothesis.given(_argument_lists(hypothesis.strategies))
        def check(arguments):
            received = pool.apply(tasks.all_arguments, arguments)
            assert same(received, (tuple(arguments), {}))
            assert same(pool.map(tasks.identity, arguments), arguments)

        check()


def test_values_do_not_alias_the_callers(start_method):
    sent = [[1], {"a": [2]}, bytearray(b"x")]
    with open_pool(start_method) as pool:
        received = pool.map(tasks.identity, sent)
        received[0].append(5)
        received[1]["a"].append(5)
        received[2].extend(b"y")
        assert sent == [[1], {"a": [2]}, bytearray(b"x")]


def test_arguments_are_taken_as_they_are_at_the_call(start_method):
    # The standard library pickles in a thread, some time later; whoever changes an argument after the call gambles there.
    if ON_STDLIB:
        pytest.skip("the standard library pickles arguments at a time of its own")
    with open_pool(start_method) as pool:
        changing = []
        results = []
        for x in range(100):
            changing.append(x)
            results.append(pool.apply_async(tasks.length_of, (changing,)))
        assert [get(result) for result in results] == list(range(1, 101))


def test_identity_within_one_argument_tuple_is_kept(start_method):
    shared = ["shared"]
    with open_pool(start_method) as pool:
        assert pool.apply(pickle_tasks.same_object, (shared, shared)) is True
        assert pool.apply(pickle_tasks.same_object, (shared, list(shared))) is False
        assert pool.map(pickle_tasks.shares_element, [(shared, shared), (shared, ["shared"])], 1) == [True, False]
        first, second = pool.apply(pickle_tasks.append_to_both, ((shared, shared),))
        assert first is second
        assert first == ["shared", "new"]
        big = bytearray(200_000)
        assert pool.apply(pickle_tasks.same_object, (big, big)) is True


def test_cycles_survive(start_method):
    cycle = [1]
    cycle.append(cycle)
    record = pickle_tasks.Record("self", [])
    record.parent = record
    with open_pool(start_method) as pool:
        received = pool.apply(tasks.identity, (cycle,))
        assert received[1] is received
        received = pool.apply(tasks.identity, (record,))
        assert received.parent is received


@pytest.fixture
def reducers_restored():
    """What a test registers with pickle is forgotten afterwards. The tables stay the same objects: others know them."""
    import copyreg
    from multiprocessing.reduction import ForkingPickler

    tables = (ForkingPickler._extra_reducers, copyreg.dispatch_table)
    before = [dict(table) for table in tables]
    yield
    for table, entries in zip(tables, before):
        table.clear()
        table.update(entries)


def test_registered_reducers_are_honoured(start_method, reducers_restored):
    pickle_tasks.register_reducers()
    with open_pool(start_method, initializer=pickle_tasks.register_reducers) as pool:
        assert (
            pool.apply(pickle_tasks.value_of, (pickle_tasks.ReducedByForkingPickler("arg"),))
            == "arg, by ForkingPickler"
        )
        received = pool.apply(tasks.identity, (pickle_tasks.ReducedByForkingPickler("x"),))
        assert received.value == "x, by ForkingPickler, by ForkingPickler"
        assert pool.apply(pickle_tasks.value_of, (pickle_tasks.ReducedByCopyreg("v"),)) == "v, by copyreg"
        assert pool.map(pickle_tasks.value_of, [pickle_tasks.ReducedByCopyreg("v")]) == ["v, by copyreg"]
        # Types that only a registered reducer can pickle, alone and within others.
        assert pool.apply(pickle_tasks.value_of, (pickle_tasks.Opaque(5),)) == 5
        assert pool.apply(pickle_tasks.opaque, (6,)).value == 6
        assert [item.value for item in pool.map(tasks.identity, [pickle_tasks.Opaque(x) for x in range(5)])] == list(
            range(5)
        )


def test_reducers_registered_while_the_pool_runs_are_honoured(start_method, reducers_restored):
    from multiprocessing.reduction import ForkingPickler

    with open_pool(start_method) as pool:
        assert isinstance(outcome(pool.apply, pickle_tasks.value_of, (pickle_tasks.Opaque(5),)), TypeError)
        ForkingPickler.register(pickle_tasks.Opaque, pickle_tasks._reduce_opaque)
        assert pool.apply(pickle_tasks.value_of, (pickle_tasks.Opaque(5),)) == 5


def test_large_arguments_and_results_survive(start_method):
    with open_pool(start_method) as pool:
        for size in (0, 1, 200, 1000, 4095, 4096, 4097, 65_535, 65_536, 65_537, 1_000_000, 5_000_000):
            sent = os.urandom(size)
            assert pool.apply(tasks.identity, (sent,)) == sent
            assert pool.apply(tasks.identity, (sent.hex(),)) == sent.hex()
        blocks = [os.urandom(size) for size in range(0, 300_000, 9_973)]
        assert pool.map(tasks.identity, blocks, 1) == blocks
        assert pool.map(tasks.identity, blocks) == blocks
