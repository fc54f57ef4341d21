"""What the tests of the command have it run: it lies as ``work.py`` in the folder of each."""

import asyncio
import os
import signal
import subprocess
import sys
import time


def upper(text):
    return text.upper()


def describe(text):
    return {"text": text, "length": len(text)}


def nothing(text):
    return None


def a_set(text):
    return {text}


def not_a_number(text):
    return float("nan")


def surrogate(text):
    return "\udcff"


def bad_repr(text):
    class Bad:
        def __repr__(self):
            raise RuntimeError("no repr")

    return Bad()


def no_threes(text):
    if "3" in text:
        raise ValueError("no threes: " + text)
    return text


def ends(text):
    if text == "exit":
        sys.exit("bye")
    if text == "base":
        raise BaseException("the very base")
    if text == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if text == "code":
        os._exit(7)
    return text


def stuck(text):
    if text == "stuck":
        while True:
            time.sleep(0.01)
    return text


def sleeper(text):
    time.sleep(float(text))
    return text


def at_gate(gate):
    gate = gate.strip()
    while not os.path.exists(gate):
        time.sleep(0.01)
    return 1


def later_first(text):
    time.sleep(0.3 if text == "0" else 0)
    return text


def hoards(text):
    kept = []
    while text == "hoard":
        kept.append(b"x" * (1 << 20))
        time.sleep(0.001)
    return text


def until_gate(text):
    while int(text) >= 20 and not os.path.exists("gate"):
        time.sleep(0.01)
    return text


def second_time(path):
    """Fails until it was called twice with this path."""
    with open(path, "a") as file:
        file.write("x")
    if os.path.getsize(path) < 2:
        raise RuntimeError("not yet")
    return "now"


def prints(text):
    print("printed", text)
    return text


def prints_and_dies(text):
    print("printed", text)
    print("the last words")
    os.kill(os.getpid(), signal.SIGKILL)


def big(text):
    return text * 1_000_000


def with_child(text):
    subprocess.run(["sleep", "1000"])


def power(base, exponent=1):
    return base**exponent


def sizes(path):
    return os.path.getsize(path)


async def waits(text):
    await asyncio.sleep(0.001)
    return text


def yields(text):
    yield from text


async def yields_and_waits(text):
    for letter in text:
        await asyncio.sleep(0.001)
        yield letter


class Shouter:
    @staticmethod
    def shout(text):
        return text + "!"


_cache = {}


def remembers(number):
    if number not in _cache:
        time.sleep(0.02)
    _cache[number] = True


NUMBER = 42
