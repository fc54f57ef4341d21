"""What pickle can only name travels by value where cloudpickle is installed, over all start methods."""

import subprocess
import sys
import threading

import pytest
import tasks
import worker_tasks
from harness import PATIENCE_SECONDS, get, open_pool, pool_tests

pytestmark = pool_tests


def make_adder(amount):
    def add(number):
        return number + amount

    return add


def make_point_class():
    class LocalPoint:
        def __init__(self, x):
            self.x = x

    return LocalPoint


def x_of(point):
    return point.x


def test_lambdas_closures_and_local_functions_run_in_workers(start_method):
    offset = 10
    with open_pool(start_method) as pool:
        assert pool.map(lambda x: x + offset, range(100)) == list(range(10, 110))
        assert pool.map(make_adder(5), [1, 2], 1) == [6, 7]
        assert list(pool.imap(make_adder(6), [1, 2])) == [7, 8]
        assert pool.starmap(lambda a, b: a * b + offset, [(1, 2), (3, 4)]) == [12, 22]
        assert get(pool.apply_async(lambda a, b=1: (a, b, offset), (1,), {"b": 2})) == (1, 2, 10)


def test_a_closure_is_sent_as_it_is_at_each_call(start_method):
    amount = 1

    def add(number):
        return number + amount

    with open_pool(start_method) as pool:
        assert pool.map(add, [1, 2]) == [2, 3]
        amount = 10
        assert pool.map(add, [1, 2]) == [11, 12]
        assert get(pool.apply_async(add, (5,))) == 15


def test_local_functions_and_classes_travel_as_arguments_and_results(start_method):
    Point = make_point_class()
    with open_pool(start_method) as pool:
        assert get(pool.apply_async(tasks.identity, (make_adder(1),)))(2) == 3
        made = get(pool.apply_async(make_adder, (4,)))
        assert made(1) == 5
        assert pool.map(x_of, [Point(1), Point(2)]) == [1, 2]
        assert type(get(pool.apply_async(tasks.identity, (Point(3),)))) is Point


def test_initializers_may_be_local_functions(start_method):
    secret = "known to the closure"
    with open_pool(start_method, 1, lambda: worker_tasks.remember(secret)) as pool:
        assert get(pool.apply_async(worker_tasks.recall)) == (secret,)


def test_what_cloudpickle_cannot_send_either_says_what_pickle_said(start_method):
    with open_pool(start_method) as pool:
        error = get(pool.apply_async(tasks.identity, (threading.Lock(),)))
        assert type(error) is TypeError
        assert "cannot pickle '_thread.lock' object" in str(error)


def test_what_pickle_can_send_does_not_import_cloudpickle(run_python, tmp_path):
    program = (
        "import sys, operator, procession as mp\n"
        "with mp.get_context('fork').Pool(1) as pool:\n"
        "    assert pool.map(operator.neg, [1, 2.5]) == [-1, -2.5]\n"
        "    assert pool.map(len, [{1: 2}, [3]]) == [1, 1]\n"
        '    assert pool.apply(eval, (\'"cloudpickle" in __import__("sys").modules\',)) is False\n'
        "print('cloudpickle' in sys.modules)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(program)
    done = run_python(script)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_without_cloudpickle_the_error_says_what_would_help(run_python):
    program = (
        "import sys; sys.modules['cloudpickle'] = None\n"
        "import procession as mp\n"
        "with mp.get_context('fork').Pool(1) as pool:\n"
        "    try:\n"
        "        pool.map(lambda x: x, [1])\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__, error)\n"
        "    print(pool.map(abs, [-1]))\n"
    )
    output = run_python(source=program).stdout
    assert "pip install 'procession[cloudpickle]'" in output
    assert "lambda" in output and output.endswith("[1]\n")


# Typed at a prompt, given by -c, read from standard input, or from a notebook's cells: the main module has no file that
# a worker could import.
UNREACHABLE_MAIN = """
import procession as mp

class Point:
    def __init__(self, x):
        self.x = x

def make(x):
    return Point(x)

def x_of(point):
    return point.x

factor = 2
pool = mp.get_context({start_method!r}).Pool(2)

def late(x):
    return x * factor

print(pool.map(late, [1, 2, 3]))
factor = 3
print(pool.map(late, [1, 2, 3]))
print([type(p) is Point for p in pool.map(make, [1, 2])], pool.map(x_of, [Point(5)]))
pool.close()
pool.join()
"""
UNREACHABLE_OUTPUT = "[2, 4, 6]\n[3, 6, 9]\n[True, True] [5]\n"


@pytest.mark.parametrize("way", ["-c", "standard input", "interactive"])
def test_functions_of_a_main_module_without_a_file_run_in_workers(run_python, start_method, way):
    source = UNREACHABLE_MAIN.format(start_method=start_method)
    if way == "-c":
        done = run_python(source=source)
    elif way == "standard input":
        done = run_python("-", input=source)
    else:
        # As somebody would paste it: a prompt needs an empty line after each block, which is there.
        done = run_python("-i", "-q", input=source)
    assert done.stdout == UNREACHABLE_OUTPUT, done.stderr


def test_functions_defined_in_notebook_cells_run_in_workers(start_method, tmp_path):
    # What a notebook's kernel does: an own namespace that is the main module, cells run one by one.
    kernel = (
        "import sys, types\n"
        "main = types.ModuleType('__main__')\n"
        "sys.modules['__main__'] = main\n"
        "for number, cell in enumerate(sys.argv[1].split('\\n\\n')):\n"
        "    exec(compile(cell, f'<cell {number}>', 'exec'), vars(main))\n"
    )
    script = tmp_path / "kernel.py"
    script.write_text(kernel)
    done = subprocess.run(
        [sys.executable, str(script), UNREACHABLE_MAIN.format(start_method=start_method).strip()],
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE_SECONDS,
    )
    assert done.stdout == UNREACHABLE_OUTPUT, done.stderr


# ---------------------------------------------------------------------------------------------------------------------
# Several threads that take one result.


class SlowToRebuild(Exception):
    def __reduce__(self):
        return rebuild_slowly, ()


def rebuild_slowly():
    # Long enough for other threads to look at the result meanwhile.
    threading.Event().wait(0.05)
    return SlowToRebuild()


def raise_slow(item):
    raise SlowToRebuild if item else ValueError


def return_slow(item):
    return [SlowToRebuild()]


def test_a_result_that_is_being_rebuilt_is_not_handed_to_others_half_done():
    def take(result, into):
        try:
            into.append(result.get(PATIENCE_SECONDS))
        except Exception as error:
            into.append(error)

    with open_pool("fork") as pool:
        for function in (raise_slow, return_slow):
            called, seen = [], []
            result = pool.map_async(function, [1, 1], 1, callback=called.append, error_callback=called.append)
            threads = [threading.Thread(target=take, args=(result, seen)) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            seen += called
            assert len(seen) == 4
            for got in seen:
                if function is raise_slow:
                    assert type(got) is SlowToRebuild
                else:
                    assert [type(inner[0]) for inner in got] == [SlowToRebuild] * 2
