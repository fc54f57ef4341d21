"""Connections: the standard library's behaviour word for word, its frame on the wire, and what ends a wait."""

import array
import asyncio
import multiprocessing
import multiprocessing.connection
import os
import pickle
import selectors
import signal
import socket
import threading
import time

import pytest
from conftest import RunPython

import procession as mp
import procession.connection

pytestmark = pytest.mark.timeout(60)

MAKES = {"theirs": multiprocessing, "ours": mp}


# --- the same words ------------------------------------------------------------------------------------------------


def closed(make, receiver, sender):
    receiver.close()
    receiver.recv()


def closed_descriptor(make, receiver, sender):
    receiver.close()
    receiver.fileno()


def only_receives(make, receiver, sender):
    receiver.send(1)


def only_sends(make, receiver, sender):
    sender.recv_bytes()


def polls_the_sender(make, receiver, sender):
    sender.poll()


def sender_is_gone(make, receiver, sender):
    sender.send("last words")
    sender.close()
    assert receiver.poll()
    assert receiver.recv() == "last words"
    receiver.recv()


def receiver_is_gone(make, receiver, sender):
    receiver.close()
    sender.send(1)


def too_long(make, receiver, sender):
    sender.send_bytes(b"12345")
    receiver.recv_bytes(4)


def closed_after_too_long(make, receiver, sender):
    with pytest.raises(OSError):
        too_long(make, receiver, sender)
    receiver.recv()


def buffer_too_short(make, receiver, sender):
    sender.send_bytes(b"12345")
    receiver.recv_bytes_into(bytearray(6), 2)


def negative_maxlength(make, receiver, sender):
    receiver.recv_bytes(-1)


def offset_beyond_the_buffer(make, receiver, sender):
    receiver.recv_bytes_into(bytearray(3), 4)


def negative_offset_into(make, receiver, sender):
    receiver.recv_bytes_into(bytearray(3), -1)


def negative_offset(make, receiver, sender):
    sender.send_bytes(b"abc", -1)


def offset_too_large(make, receiver, sender):
    sender.send_bytes(b"abc", 4)


def negative_size(make, receiver, sender):
    sender.send_bytes(b"abc", 0, -1)


def size_too_large(make, receiver, sender):
    sender.send_bytes(b"abc", 2, 2)


def text_as_bytes(make, receiver, sender):
    sender.send_bytes("abc")


def unpicklable(make, receiver, sender):
    sender.send(threading.Lock())


def no_handle(make, receiver, sender):
    make.connection.Connection(-1)


def neither_way(make, receiver, sender):
    make.connection.Connection(0, readable=False, writable=False)


@pytest.mark.parametrize(
    "misuse",
    [
        closed,
        closed_descriptor,
        only_receives,
        only_sends,
        polls_the_sender,
        sender_is_gone,
        receiver_is_gone,
        too_long,
        closed_after_too_long,
        buffer_too_short,
        negative_maxlength,
        offset_beyond_the_buffer,
        negative_offset_into,
        negative_offset,
        offset_too_large,
        negative_size,
        size_too_large,
        text_as_bytes,
        unpicklable,
        no_handle,
        neither_way,
    ],
    ids=lambda misuse: misuse.__name__,
)
def test_a_mistake_gets_the_standard_librarys_error(misuse):
    errors = {}
    for name, make in MAKES.items():
        receiver, sender = make.Pipe(duplex=False)
        with receiver, sender, pytest.raises(Exception) as caught:
            misuse(make, receiver, sender)
        errors[name] = (caught.type, caught.value.args)
    assert errors["ours"] == errors["theirs"]


def test_a_connection_is_one_of_the_standard_librarys_kind():
    one, other = mp.Pipe()
    with one, other:
        assert isinstance(one, multiprocessing.connection.Connection)
        assert type(one) is procession.connection.Connection
        assert (one.readable, one.writable, one.closed) == (True, True, False)
        assert one.fileno() == one._handle
    assert one.closed and one._handle is None
    one.close()


def test_a_one_way_pipe_says_which_end_is_which():
    receiver, sender = mp.Pipe(duplex=False)
    with receiver, sender:
        assert (receiver.readable, receiver.writable) == (True, False)
        assert (sender.readable, sender.writable) == (False, True)


# --- the wire ------------------------------------------------------------------------------------------------------

MESSAGES = [b"", b"x", bytes(16384), bytes(16385), bytes(range(256)) * 4096]


def theirs_over(connection):
    return multiprocessing.connection.Connection(os.dup(connection.fileno()))


@pytest.mark.parametrize("message", MESSAGES, ids=len)
def test_either_end_may_be_the_standard_librarys(message):
    one, other = mp.Pipe()
    with one, other, theirs_over(other) as theirs:
        sender = threading.Thread(target=lambda: (one.send_bytes(message), one.send({"object": message})))
        sender.start()
        assert theirs.recv_bytes() == message
        assert theirs.recv() == {"object": message}
        sender.join()
        sender = threading.Thread(target=lambda: (theirs.send_bytes(message), theirs.send([message])))
        sender.start()
        assert one.recv_bytes() == message
        assert one.recv() == [message]
        sender.join()


def test_pieces_of_a_buffer_travel_and_arrive_where_they_are_wanted():
    one, other = mp.Pipe()
    with one, other:
        one.send_bytes(array.array("i", [1, 2, 3]), 4, 4)
        numbers = array.array("i", [7, 7, 7])
        assert other.recv_bytes_into(numbers, 8) == 4
        assert numbers.tolist() == [7, 7, 2]
        one.send_bytes(memoryview(b"abcdef")[1:4])
        assert other.recv_bytes(3) == b"bcd"


def test_large_pieces_of_an_object_arrive_unchanged():
    value = [b"a" * 100_000, "small", bytearray(b"b" * 70_000), ("c" * 50_000, b"d" * 40_000)]
    one, other = mp.Pipe()
    with one, other:
        sender = threading.Thread(target=one.send, args=(value,))
        sender.start()
        assert other.recv() == value
        sender.join()


def test_a_pipe_of_the_system_and_a_network_socket_can_be_connections():
    reader, writer = os.pipe()
    with mp.connection.Connection(reader, writable=False) as receiver:
        with mp.connection.Connection(writer, readable=False) as sender:
            sender.send("by pipe")
            assert receiver.recv() == "by pipe"
            assert not receiver.poll()
            assert not receiver.poll(0.01)
        assert receiver.poll(None)
        with pytest.raises(EOFError):
            receiver.recv()
    with mp.connection.Listener(("localhost", 0), authkey=b"secret") as listener:
        clients = []
        connect = threading.Thread(
            target=lambda: clients.append(multiprocessing.connection.Client(listener.address, authkey=b"secret"))
        )
        connect.start()
        with listener.accept() as accepted:
            connect.join()
            assert type(accepted) is procession.connection.Connection
            with clients[0] as client:
                accepted.send({"by": "network"})
                assert client.recv() == {"by": "network"}


def test_a_wrong_key_is_refused_in_the_standard_librarys_words():
    with mp.connection.Listener(authkey=b"right") as listener:
        refused = []

        def connect():
            with pytest.raises(multiprocessing.AuthenticationError) as caught:
                mp.connection.Client(listener.address, authkey=b"wrong")
            refused.append(caught.value)

        thread = threading.Thread(target=connect)
        thread.start()
        with pytest.raises(multiprocessing.AuthenticationError):
            listener.accept()
        thread.join()
        assert len(refused) == 1


# --- the descriptor ------------------------------------------------------------------------------------------------


def test_the_descriptor_is_readable_exactly_while_there_is_a_message():
    one, other = mp.Pipe()
    with one, other, selectors.DefaultSelector() as selector:
        selector.register(other, selectors.EVENT_READ)
        assert selector.select(0) == []
        one.send(1)
        one.send(2)
        for number in (1, 2):
            assert mp.connection.wait([other], 5) == [other]
            assert len(selector.select(5)) == 1
            assert other.recv() == number
        assert selector.select(0) == []
        one.close()
        assert len(selector.select(5)) == 1


def test_asyncio_can_watch_a_connection():
    async def receive(connection):
        arrived = asyncio.Event()
        asyncio.get_running_loop().add_reader(connection.fileno(), arrived.set)
        try:
            await asyncio.wait_for(arrived.wait(), 10)
        finally:
            asyncio.get_running_loop().remove_reader(connection.fileno())
        return connection.recv()

    one, other = mp.Pipe()
    with one, other:
        one.send("heard")
        assert asyncio.run(receive(other)) == "heard"


def test_a_descriptor_that_does_not_block_says_so_as_in_the_standard_library():
    one, other = mp.Pipe()
    with one, other:
        os.set_blocking(other.fileno(), False)
        with pytest.raises(BlockingIOError):
            other.recv()


# --- other processes -----------------------------------------------------------------------------------------------


def echo(connection):
    # Not until the end of file: a forked child has the other end, too.
    while (message := connection.recv()) is not None:
        connection.send(message)
        del message


def test_connections_travel_to_processes_and_through_connections(context):
    ours, its = context.Pipe()
    process = context.Process(target=echo, args=(its,))
    process.start()
    its.close()
    receiver, sender = context.Pipe(duplex=False)
    with ours, receiver:
        ours.send(sender)
        sender.close()
        with ours.recv() as sender:
            assert type(sender) is procession.connection.Connection
            assert not sender.readable
            sender.send("round")
            assert receiver.recv() == "round"
        # Both copies of the sender were the last ones.
        with pytest.raises(EOFError):
            receiver.recv()
        ours.send(None)
    process.join()
    assert process.exitcode == 0
    multiprocessing.resource_sharer.stop(timeout=5)


def test_a_connection_does_not_pickle_by_itself():
    one, other = mp.Pipe()
    with one, other, pytest.raises(TypeError):
        pickle.dumps(one)


def sends_half_a_message(connection):
    os.write(connection.fileno(), (1000).to_bytes(4, "big") + b"half")
    os.kill(os.getpid(), signal.SIGKILL)


def sends_and_dies(connection):
    connection.send("last")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_senders_last_message_arrives_and_then_the_end(context):
    ours, its = context.Pipe()
    with ours:
        process = context.Process(target=sends_and_dies, args=(its,))
        process.start()
        its.close()
        assert ours.recv() == "last"
        with pytest.raises(EOFError):
            ours.recv()
        process.join()


def test_a_sender_killed_amid_a_message_is_an_error_and_no_wait():
    context = mp.get_context("fork")
    ours, its = context.Pipe()
    with ours:
        process = context.Process(target=sends_half_a_message, args=(its,))
        process.start()
        its.close()
        with pytest.raises(OSError, match="got end of file during message"):
            ours.recv()
        process.join()


# --- signals -------------------------------------------------------------------------------------------------------

INTERRUPTED = """
import os, signal, threading, time
import procession as mp

one, other = mp.Pipe()
began = []

def interrupt():
    time.sleep(0.3)
    began.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt).start()
try:
    {wait}
except KeyboardInterrupt:
    print(time.monotonic() - began[0] < 0.5)
"""


@pytest.mark.parametrize(
    "wait",
    ["other.recv()", "other.recv_bytes_into(bytearray(9))", "other.poll(None)", "one.send_bytes(bytes(1 << 24))"],
)
def test_ctrl_c_ends_every_wait(run_python: RunPython, wait):
    done = run_python(source=INTERRUPTED.format(wait=wait))
    assert (done.stdout, done.stderr, done.returncode) == ("True\n", "", 0)


def test_a_signal_amid_a_message_loses_nothing():
    heard = []
    before = signal.signal(signal.SIGALRM, lambda *_: heard.append(1))
    one, other = mp.Pipe()
    message = os.urandom(1 << 20)

    def send_slowly():
        frame = len(message).to_bytes(4, "big") + message
        with socket.socket(fileno=os.dup(one.fileno())) as stream:
            for start in range(0, len(frame), 100_000):
                stream.sendall(frame[start : start + 100_000])
                time.sleep(0.01)

    sender = threading.Thread(target=send_slowly)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
        with one, other:
            sender.start()
            assert other.recv_bytes() == message
            sender.join()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert heard
