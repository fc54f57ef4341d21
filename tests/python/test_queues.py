"""Queues: the standard library's behaviour, what travels, and what is left when a process is killed."""

import array
import asyncio
import multiprocessing
import multiprocessing.queues
import os
import pickle
import queue
import signal
import threading
import time

import pytest
import queue_storm
from conftest import RunPython

import procession as mp
import procession.queues

pytestmark = pytest.mark.timeout(60)

MAKES = {"theirs": multiprocessing, "ours": mp}
VALUES = [
    0,
    -1,
    2**62,
    -(2**80),
    1.5,
    True,
    None,
    "",
    "naïve \udc80",
    "long " * 30_000,
    b"",
    b"x" * 16_380,
    b"y" * 40_000,
    bytearray(b"z" * 100_000),
    (1, ("two", b"3"), ()),
    [1, {"a": {2, 3}}],
    {"nested": [b"b" * 70_000, bytearray(b"c" * 70_000)]},
    array.array("d", range(10_000)),
    int,
]


def kinds_of(make):
    return make.Queue(), make.JoinableQueue(), make.SimpleQueue()


# --- behaviour -----------------------------------------------------------------------------------------------------


def test_every_value_comes_out_as_it_was_put():
    for made in kinds_of(mp):
        for value in VALUES:
            made.put(value)
        for value in VALUES:
            got = made.get()
            assert got == value and type(got) is type(value)
        assert made.empty()


def test_what_comes_out_is_the_receivers_own():
    made = mp.Queue()
    made.put(bytearray(100_000))
    got = made.get()
    got[0] = 1
    made.put(bytearray(100_000))
    assert made.get()[0] == 0


def test_queues_are_of_the_standard_librarys_kinds():
    for ours, theirs in zip(kinds_of(mp), kinds_of(multiprocessing)):
        assert isinstance(ours, type(theirs))
        assert type(ours).__module__ == "procession.queues"
    assert isinstance(mp.JoinableQueue(), procession.queues.Queue)
    assert procession.queues.Full is queue.Full


def put_into_a_closed_one(make):
    made = make.SimpleQueue()
    made.close()
    made.put(1)


def get_from_a_closed_one(make):
    made = make.SimpleQueue()
    made.close()
    made.get()


def looks_into_a_closed_simple_one(make):
    made = make.SimpleQueue()
    made.close()
    made.empty()


def puts_too_many(make):
    made = make.Queue(1)
    made.put(1)
    made.put_nowait(2)


def puts_too_many_within_a_time(make):
    made = make.Queue(1)
    made.put(1)
    made.put(2, timeout=0.01)


def gets_nothing(make):
    make.Queue().get_nowait()


def gets_nothing_within_a_time(make):
    make.Queue().get(True, 0.01)


def gets_nothing_within_no_time(make):
    make.Queue().get(True, -1)


def joins_the_thread_of_an_open_one(make):
    made = make.Queue()
    try:
        made.join_thread()
    except AssertionError as error:
        raise AssertionError(str(error).replace(repr(made), "IT")) from None


def is_done_too_often(make):
    make.JoinableQueue().task_done()


def pickles(make):
    pickle.dumps(make.Queue())


def pickles_a_simple_one(make):
    pickle.dumps(make.SimpleQueue())


@pytest.mark.parametrize(
    "misuse",
    [
        put_into_a_closed_one,
        get_from_a_closed_one,
        looks_into_a_closed_simple_one,
        puts_too_many,
        puts_too_many_within_a_time,
        gets_nothing,
        gets_nothing_within_a_time,
        gets_nothing_within_no_time,
        joins_the_thread_of_an_open_one,
        is_done_too_often,
        pickles,
        pickles_a_simple_one,
    ],
    ids=lambda misuse: misuse.__name__,
)
def test_a_mistake_gets_the_standard_librarys_error(misuse):
    errors = {}
    for name, make in MAKES.items():
        with pytest.raises(Exception) as caught:
            misuse(make)
        errors[name] = (caught.type, caught.value.args)
    assert errors["ours"] == errors["theirs"]


@pytest.mark.parametrize("use", [lambda q: q.put(1), lambda q: q.get(), lambda q: q.get_nowait()])
def test_a_closed_queue_says_so(use):
    made = mp.Queue()
    made.put(0)
    made.close()
    made.close()
    with pytest.raises(ValueError, match="Queue <.*Queue object at 0x.*> is closed"):
        use(made)
    made.join_thread()
    made.cancel_join_thread()


@pytest.mark.parametrize("use", [lambda q: None, lambda q: q.put(1)])
def test_looking_into_a_closed_queue_is_as_in_the_standard_library(use):
    outcomes = []
    for make in MAKES.values():
        made = make.Queue()
        use(made)
        made.close()
        made.join_thread()
        try:
            outcomes.append(f"empty: {made.empty()}")
        except OSError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


def test_sizes_are_told_as_they_are():
    made = mp.Queue(2)
    assert (made.qsize(), made.empty(), made.full()) == (0, True, False)
    made.put(1)
    assert (made.qsize(), made.empty(), made.full()) == (1, False, False)
    made.put(2)
    assert (made.qsize(), made.empty(), made.full()) == (2, False, True)
    assert not mp.Queue().full()


def test_the_unpicklable_is_an_error_where_it_is_put_and_nothing_else_is_lost():
    made = mp.Queue()
    made.put("before")
    with pytest.raises(TypeError, match="cannot pickle"):
        made.put([b"x" * 100_000, threading.Lock()])
    made.put("after")
    assert [made.get(), made.get()] == ["before", "after"]
    assert made.empty()


class Poison:
    def __reduce__(self):
        return (int, ("no number",))


def test_what_cannot_be_rebuilt_is_an_error_of_that_get_alone():
    made = mp.Queue()
    made.put(Poison())
    made.put(2)
    with pytest.raises(ValueError, match="no number"):
        made.get()
    assert made.get() == 2


def test_an_unbounded_queue_takes_far_more_than_a_pipe_would():
    made = mp.SimpleQueue()
    for number in range(100_000):
        made.put({"number": number})
    for number in range(100_000):
        assert made.get() == {"number": number}


def test_a_sender_waits_for_room_and_a_receiver_for_an_item():
    made = mp.Queue(1)
    made.put("first")
    late = threading.Thread(target=made.put, args=("second",))
    late.start()
    time.sleep(0.05)
    assert late.is_alive()
    assert made.get() == "first"
    assert made.get() == "second"
    late.join()
    early = []
    receiver = threading.Thread(target=lambda: early.append(made.get()))
    receiver.start()
    time.sleep(0.05)
    made.put("awaited")
    receiver.join()
    assert early == ["awaited"]


def test_threads_share_a_queue():
    made, got = mp.Queue(10), []

    def receive():
        while (item := made.get()) is not None:
            got.append(item)

    receivers = [threading.Thread(target=receive) for _ in range(3)]
    senders = [
        threading.Thread(target=lambda start=start: [made.put([i]) for i in range(start, 3000, 3)])
        for start in range(3)
    ]
    for thread in receivers + senders:
        thread.start()
    for thread in senders:
        thread.join()
    for _ in receivers:
        made.put(None)
    for thread in receivers:
        thread.join()
    assert sorted(got) == [[i] for i in range(3000)]


# --- waiting with others -------------------------------------------------------------------------------------------


def test_a_queue_can_be_waited_for_with_other_things():
    made = mp.Queue()
    one, other = mp.Pipe()
    with one, other:
        assert mp.connection.wait([made._reader, other], 0) == []
        made.put(1)
        assert mp.connection.wait([made._reader, other], 5) == [made._reader] or made._reader.poll()
        one.send(1)
        assert len(mp.connection.wait([made._reader, other], 5)) == 2
        assert made.get() == 1
        assert mp.connection.wait([made._reader, other], 5) == [other]
        assert not made._reader.poll(0.01)


def test_asyncio_can_watch_a_queue():
    made = mp.SimpleQueue()

    async def receive():
        arrived = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(made._reader.fileno(), arrived.set)
        try:
            threading.Timer(0.05, made.put, ["heard"]).start()
            await asyncio.wait_for(arrived.wait(), 10)
        finally:
            loop.remove_reader(made._reader.fileno())
        return made.get()

    assert asyncio.run(receive()) == "heard"


INTERRUPTED = """
import _thread, os, signal, threading, time
import procession as mp

full, empty, joinable = mp.Queue(1), mp.SimpleQueue(), mp.JoinableQueue()
full.put(1)
joinable.put(1)
began = []

def interrupt():
    time.sleep(0.3)
    began.append(time.monotonic())
    {interrupt}

threading.Thread(target=interrupt).start()
try:
    {wait}
except KeyboardInterrupt:
    print(time.monotonic() - began[0] < 0.5)
"""


# The second stands for a signal that came just before the wait began to sleep, or between two sleeps.
@pytest.mark.parametrize("interrupt", ["os.kill(os.getpid(), signal.SIGINT)", "_thread.interrupt_main()"])
@pytest.mark.parametrize("wait", ["full.put(2)", "empty.get()", "joinable.join()"])
def test_ctrl_c_ends_every_wait(run_python: RunPython, wait, interrupt):
    done = run_python(source=INTERRUPTED.format(wait=wait, interrupt=interrupt))
    assert (done.stdout, done.stderr, done.returncode) == ("True\n", "", 0)


# --- other processes -----------------------------------------------------------------------------------------------


def relay(incoming, outgoing):
    while (item := incoming.get()) != "that is all":
        outgoing.put(item)
    incoming.task_done()


def test_queues_travel_to_processes(context):
    there, back = context.JoinableQueue(3), context.SimpleQueue()
    process = context.Process(target=relay, args=(there, back))
    process.start()
    for value in VALUES:
        there.put(value)
        assert back.get() == value
    there.put("that is all")
    for _ in VALUES:
        there.task_done()
    there.join()
    process.join()
    assert process.exitcode == 0


def fill(made, count):
    for number in range(count):
        made.put((number, b"x" * 1000))


def test_a_process_is_joined_before_anybody_has_fetched_its_items(context):
    made = context.Queue()
    process = context.Process(target=fill, args=(made, 1000))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert [made.get(timeout=5)[0] for _ in range(1000)] == list(range(1000))


def put_and_die(made):
    made.put({"last": b"w" * 100_000})
    os.kill(os.getpid(), signal.SIGKILL)


def test_items_survive_their_killed_sender(context):
    made = context.Queue()
    process = context.Process(target=put_and_die, args=(made,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert made.get(timeout=5) == {"last": b"w" * 100_000}


_inherited = None


def _keep(made):
    global _inherited
    _inherited = made


def _put_into_kept(number):
    _inherited.put(number * number)


def test_pools_get_queues_by_their_initializer(context):
    made = context.SimpleQueue()
    with context.Pool(2, _keep, (made,)) as pool:
        pool.map(_put_into_kept, range(20))
    assert sorted(made.get() for _ in range(20)) == [n * n for n in range(20)]


def test_queues_pass_by_inheritance_alone():
    one, other = mp.Pipe()
    with one, other, pytest.raises(RuntimeError, match="Queue objects should only be shared between processes through"):
        one.send(mp.Queue())


def grandchild(made):
    process = mp.get_context("fork").Process(target=fill, args=(made, 10))
    process.start()
    process.join()
    made.put("child")


def test_a_fork_inside_a_fork_has_the_queue_too():
    context = mp.get_context("fork")
    made = context.Queue()
    process = context.Process(target=grandchild, args=(made,))
    process.start()
    process.join()
    assert [made.get(timeout=5) for _ in range(11)][-1] == "child"


# --- deaths --------------------------------------------------------------------------------------------------------


def test_senders_killed_at_random_lose_nothing_that_was_put():
    queue_storm.kill_senders(mp.get_context("fork"), rounds=30, seed=5)


def test_receivers_killed_at_random_lose_one_item_at_most_and_get_none_twice():
    queue_storm.kill_receivers(mp.get_context("fork"), rounds=30, seed=6)


def test_a_receiver_killed_in_its_sleep_costs_nobody_a_wake_up(context):
    made = context.Queue()
    sleeper = context.Process(target=made.get)
    sleeper.start()
    time.sleep(0.2)
    sleeper.kill()
    sleeper.join()
    threading.Timer(0.1, made.put, ["for me"]).start()
    assert made.get(timeout=10) == "for me"


def test_a_queue_leaves_nothing_behind():
    def mappings():
        with open("/proc/self/maps") as lines:
            return sum("procession-queue" in line for line in lines)

    before = mappings()
    made = [mp.Queue() for _ in range(20)]
    for each in made:
        each.put(b"x" * 100_000)
    assert mappings() == before + 20
    del made, each
    assert mappings() == before
