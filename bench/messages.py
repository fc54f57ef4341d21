"""What the rows about queues and connections measure. As in ``measurements.py``, each runs in a process of its own."""

from __future__ import annotations

import time
from typing import Any

from contestants import Contestant
from measurements import Record, check, median


def _started(context: Any, target: Any, *arguments: Any) -> Any:
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def _send(queue: Any, go: Any, count: int, item: Any) -> None:
    go.recv()
    for _ in range(count):
        queue.put(item)


def _receive(queue: Any, done: Any, count: int, item: Any) -> None:
    right = True
    for _ in range(count):
        right &= queue.get() == item
    done.send(right)


def _stream(context: Any, senders: int, receivers: int, count: int, item: Any) -> float:
    """Items per second through a queue that these many processes share."""
    queue = context.Queue()
    # One for each: nobody takes turns at a connection.
    starts = [context.Pipe(duplex=False) for _ in range(senders)]
    done, ended = context.Pipe()
    processes = [
        _started(context, _receive, queue, ended, count * senders // receivers, item) for _ in range(receivers)
    ]
    processes += [_started(context, _send, queue, heard, count, item) for heard, _ in starts]
    time.sleep(0.2)
    began = time.perf_counter()
    for _, go in starts:
        go.send(True)
    answers = [done.recv() for _ in range(receivers)]
    took = time.perf_counter() - began
    for process in processes:
        process.join()
    check(all(answers), "an item came out of the queue as another one")
    return count * senders / took


def queue_streams(contestant: Contestant, record: Record, ints: int, blobs: int, dicts: int) -> None:
    context = contestant.context  # type: ignore[attr-defined]
    record("ints", median([_stream(context, 1, 1, ints, 7) for _ in range(3)]))
    record("blobs", median([_stream(context, 1, 1, blobs, bytes(65536)) for _ in range(3)]))
    item = {"id": 1, "name": "task", "size": 2.5}
    record("crowd", median([_stream(context, 4, 4, dicts, item) for _ in range(3)]))


def _echo_queue(incoming: Any, outgoing: Any) -> None:
    while (item := incoming.get()) is not None:
        outgoing.put(item)


def _echo_connection(connection: Any) -> None:
    while (item := connection.recv()) is not None:
        connection.send(item)


def _round_trips(n: int, send: Any, receive: Any) -> float:
    """The median round trip in microseconds."""
    times = []
    for number in range(1, n + 1):
        began = time.perf_counter()
        send(number)
        answer = receive()
        times.append(time.perf_counter() - began)
        check(answer == number, "an echo came back as another number")
    return median(times) * 1e6


def message_round_trips(contestant: Contestant, record: Record, n: int) -> None:
    context = contestant.context  # type: ignore[attr-defined]
    for key, make in (("queue", context.Queue), ("simple", context.SimpleQueue)):
        there, back = make(), make()
        process = _started(context, _echo_queue, there, back)
        record(key, _round_trips(n, there.put, back.get))
        there.put(None)
        process.join()
    ours, its = context.Pipe()
    process = _started(context, _echo_connection, its)
    record("pipe", _round_trips(n, ours.send, ours.recv))
    ours.send(None)
    process.join()


def _receive_messages(connection: Any, count: int) -> None:
    for _ in range(count):
        connection.recv()
    connection.send(True)


def pipe_stream(contestant: Contestant, record: Record, n: int, megabytes: int) -> None:
    context = contestant.context  # type: ignore[attr-defined]
    for key, count, message in (("small", n, 7), ("blobs", n // 4, bytes(65536)), ("large", megabytes, bytes(1 << 20))):
        rates = []
        for _ in range(3):
            ours, its = context.Pipe()
            process = _started(context, _receive_messages, its, count)
            time.sleep(0.1)
            began = time.perf_counter()
            for _ in range(count):
                ours.send(message)
            ours.recv()
            rates.append(count / (time.perf_counter() - began))
            process.join()
        record(key, median(rates))
