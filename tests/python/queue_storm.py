"""Kills senders and receivers of queues at random moments and looks whether anything was lost, doubled or stuck."""

import queue
import random
import time


def _item(which, number):
    # Some in the record, some in blocks of their own, some pickled with a large buffer.
    size = number % 5 * 12_000
    return (which, number, b"p" * size) if number % 2 else {"key": [which, number, bytearray(size)]}


def _read(item):
    which, number, padding = item["key"] if isinstance(item, dict) else item
    assert item == _item(which, number), f"item {number} of {which} is not what was put"
    return which, number


def _send_until_killed(made, sent, which):
    number = 0
    while True:
        made.put(_item(which, number))
        number += 1
        sent[which] = number


def _receive_until_killed(made, got):
    while True:
        got.put(_read(made.get()))


def _kill_soon(process, generator):
    time.sleep(generator.uniform(0.0, 0.02))
    process.kill()
    process.join()


def _assert_alive(made):
    made.put("alive")
    assert made.get(timeout=10) == "alive"


def kill_senders(context, rounds, seed, maxsize=0):
    """Whatever a sender has put is there, in order; at most one item more, which it was about to count."""
    generator = random.Random(seed)
    made = context.Queue(maxsize)
    seen = [0, 0]

    def receive():
        which, number = _read(made.get_nowait())
        assert number == seen[which], f"item {number} of sender {which} came when {seen[which]} was due"
        seen[which] += 1

    for _round in range(rounds):
        sent = context.RawArray("l", 2)
        senders = [context.Process(target=_send_until_killed, args=(made, sent, which)) for which in range(2)]
        for sender in senders:
            sender.start()
        seen[:] = [0, 0]
        for sender in senders:
            if maxsize:
                for _ in range(generator.randrange(20)):
                    try:
                        receive()
                    except queue.Empty:
                        pass
            _kill_soon(sender, generator)
        while not made.empty():
            receive()
        for which in range(2):
            assert sent[which] <= seen[which] <= sent[which] + 1, f"sent {sent[:]}, got {seen}"
        _assert_alive(made)


def kill_receivers(context, rounds, seed):
    """Each item is got once, or is still there; each killed receiver takes at most one with it."""
    generator = random.Random(seed)
    made, got = context.Queue(), context.Queue()
    for _round in range(rounds):
        for number in range(300):
            made.put(_item(0, number))
        receivers = [context.Process(target=_receive_until_killed, args=(made, got)) for _ in range(2)]
        for receiver in receivers:
            receiver.start()
        for receiver in receivers:
            _kill_soon(receiver, generator)
        seen = []
        while not got.empty():
            seen.append(got.get(timeout=10)[1])
        while not made.empty():
            seen.append(_read(made.get(timeout=10))[1])
        assert len(seen) == len(set(seen)), "an item was got twice"
        assert 300 - len(receivers) <= len(seen) <= 300, f"{300 - len(seen)} items are lost"
        _assert_alive(made)
        _assert_alive(got)
