"""What tasks print is inherited, written in whole lines, or kept with its result or error, whoever dies."""

import os
import re
import signal

import output_tasks
import pytest
from harness import get, open_pool, pool_tests, promised_by_us_only, take

import procession as mp

pytestmark = [*pool_tests, promised_by_us_only]


def test_a_result_has_what_its_task_has_printed(start_method, capfd):
    with open_pool(start_method, output="capture") as capture:
        result = capture.apply_async(output_tasks.say, (7,))
        assert (result.get(), result.output) == (7, "item 7\n")
        silent = capture.apply_async(abs, (-1,))
        assert (silent.get(), silent.output) == (1, "")
        assert capfd.readouterr() == ("", "")


def test_everything_that_writes_is_heard_in_one_order(start_method):
    with open_pool(start_method, output="capture") as capture:
        result = capture.apply_async(output_tasks.say_everywhere, (1,))
        assert result.get() == 1
        assert sorted(result.output.splitlines()) == [
            "from C",
            "from a descriptor",
            "from a program",
            "from print",
            "from stderr",
        ]


@pytest.mark.parametrize("chunksize", [None, 1, 25])
def test_each_item_of_a_map_has_its_own(start_method, chunksize):
    with open_pool(start_method, output="capture") as capture:
        result = capture.map_async(output_tasks.say_odd, range(100), chunksize)
        assert result.get() == list(range(100))
        assert result.outputs == [f"item {n}\n" if n % 2 else "" for n in range(100)]
        assert result.output == "".join(result.outputs)
        assert capture.map(output_tasks.say, range(10)) == list(range(10))


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_an_iterator_has_that_of_the_item_given_out_last(start_method, method):
    with open_pool(start_method, output="capture") as capture:
        results = getattr(capture, method)(output_tasks.say_odd, range(200))
        assert results.output == ""
        for value in results:
            assert results.output == (f"item {value}\n" if value % 2 else "")


def test_what_a_task_raises_has_its_output(start_method):
    with open_pool(start_method, output="capture") as capture:
        result = capture.apply_async(output_tasks.say_and_raise, (3,))
        with pytest.raises(ValueError) as raised:
            result.get()
        assert raised.value.output == result.output == "about to fail 3\n"
        refusing = capture.apply_async(output_tasks.say_and_raise_slotted, (4,))
        with pytest.raises(output_tasks.Slotted):
            refusing.get()
        assert refusing.output == "about to fail 4\n"


def test_a_task_that_dies_leaves_what_it_had_printed(start_method):
    with open_pool(start_method, output="capture") as capture:
        for n in range(10):
            error = get(capture.apply_async(output_tasks.say_and_die, (n,)))
            assert isinstance(error, mp.WorkerDied)
            assert error.output == f"about to die {n}\nso says C\nthe end has no line"
            assert f'it had printed:\n\n"""\nabout to die {n}\n' in str(error)
        assert capture.apply(output_tasks.say, (1,)) == 1


def test_in_a_map_only_the_victim_has_the_last_words(start_method):
    with open_pool(start_method, output="capture") as capture:
        result = capture.map_async(output_tasks.say_and_die, [5], 1)
        with pytest.raises(mp.WorkerDied) as raised:
            result.get()
        assert raised.value.output == result.outputs[0]
        got = take(capture.imap(output_tasks.say_and_die, [6]))
        assert [error.output.splitlines()[0] for error in got] == ["about to die 6"]


def test_a_task_beyond_its_time_leaves_what_it_had_printed(start_method):
    with open_pool(start_method, output="capture", timeout=0.3) as pool:
        error = get(pool.apply_async(output_tasks.say_and_sleep, (1,)))
    assert isinstance(error, mp.TaskTimeout)
    assert error.output == "about to sleep 1\n"
    assert "about to sleep 1" in str(error)


def test_of_a_task_that_is_tried_again_the_last_attempt_counts(start_method, tmp_path):
    with open_pool(start_method, output="capture", retries=1) as pool:
        result = pool.apply_async(output_tasks.say_and_die_once, (str(tmp_path / "one"),))
        assert (result.get(), result.output) == ("one", "here\n")
        many = pool.map_async(output_tasks.say_and_die_once, [str(tmp_path / name) for name in "ab"])
        assert (many.get(), many.outputs) == (["a", "b"], ["here\n", "here\n"])
        poison = get(pool.apply_async(output_tasks.say_and_die, (1,)))
        assert isinstance(poison, mp.PoisonTask)
        assert poison.output.startswith("about to die 1\n")
        lazily = pool.imap(output_tasks.say, [1])
        assert (next(lazily), lazily.output) == (1, "item 1\n")


def test_of_a_long_output_the_end_is_kept_and_memory_is_bounded(start_method):
    with open_pool(start_method, 1, output="capture", memory_limit="200M") as pool:
        result = pool.apply_async(output_tasks.say_much, (64,))
        result.get()
        assert re.match(r"\[\d+ bytes before this were left out\]\n", result.output)
        assert result.output.endswith("x\nthe last line\n")
        assert len(result.output) < 2 << 20


def test_a_task_that_closes_its_streams_loses_only_its_words(start_method):
    with open_pool(start_method, output="capture") as capture:
        assert capture.map(output_tasks.close_streams, range(20), 1) == list(range(20))


# A forkserver that others started before writes where it wrote then, so these run as programs of their own.
PROGRAM = """
import output_tasks
import procession as mp

if __name__ == "__main__":
    with mp.get_context({method!r}).Pool({arguments}) as pool:
        {body}
        pool.close()
        pool.join()
"""


def printed(run_python, method, arguments, *body):
    program = PROGRAM.format(method=method, arguments=arguments, body="\n        ".join(body))
    done = run_python(source=program, environment={"PYTHONPATH": os.path.dirname(__file__)})
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_what_the_initializer_prints_is_not_a_tasks(start_method, run_python):
    arguments = "1, initializer=output_tasks.say_at_start, output='capture'"
    out = printed(
        run_python,
        start_method,
        arguments,
        "result = pool.apply_async(output_tasks.say, (1,))",
        "assert (result.get(), result.output) == (1, 'item 1\\n')",
    )
    assert out == "from the initializer\n"


def test_lines_are_whole_and_say_whose_they_are(start_method, run_python):
    out = printed(
        run_python,
        start_method,
        "3, output='lines'",
        "pool.map(output_tasks.say_parts, range(60), 1)",
        "pool.map(output_tasks.say_long, range(10), 1)",
    )
    lines = out.splitlines()
    labelled = [re.fullmatch(r"\[\w*PoolWorker-\d+\] (.*)", line) for line in lines]
    assert all(labelled), [line[:80] for line, match in zip(lines, labelled) if not match]
    expected = [" ".join([str(n)] * 20) + " " for n in range(60)]
    expected += [f"left {n}" for n in range(60)]
    expected += [str(n) * 20_000 for n in range(10)]
    assert sorted(match[1] for match in labelled) == sorted(expected)


def test_a_worker_killed_in_the_midst_of_a_line_holds_up_no_other(start_method, run_python):
    out = printed(
        run_python,
        start_method,
        "2, output='lines'",
        "for n in range(5):",
        "    pool.apply_async(output_tasks.say_and_die, (n,)).wait()",
        "assert pool.map(output_tasks.say, range(10)) == list(range(10))",
    )
    assert len(re.findall(r"(?m)^\[\w*PoolWorker-\d+\] item \d$", out)) == 10
    assert len(re.findall(r"(?m)^\[\w*PoolWorker-\d+\] about to die \d$", out)) == 5


def test_the_executor_has_it_too(start_method):
    context = mp.get_context(start_method)
    with mp.ProcessPoolExecutor(1, context, output="capture") as executor:
        error = executor.submit(output_tasks.say_and_die, 1).exception()
    assert error.output.startswith("about to die 1\n")


def test_there_is_no_output_before_the_task_has_ended(start_method):
    with open_pool(start_method, output="capture") as capture:
        result = capture.apply_async(output_tasks.say_and_sleep, (1,))
        many = capture.map_async(output_tasks.say_and_sleep, [2, 3], 1)
        # Whoever looks at all that an object has (managers do) must get something.
        assert (result.output, many.output, many.outputs) == ("", "", [])
        result.cancel()
        error = get(result)
        assert isinstance(error, mp.TaskCancelled)
        assert result.output == error.output
        many.cancel()


def test_a_wrong_mode_is_refused():
    with pytest.raises(ValueError, match="output must be one of 'inherit', 'lines', 'capture', not 'catch'"):
        mp.Pool(1, output="catch")


def test_output_goes_where_it_went_without_a_word(start_method, capfd):
    with open_pool(start_method, 1) as pool:
        result = pool.apply_async(output_tasks.say, (1,))
        assert (result.get(), result.output) == (1, "")
        pid = pool.apply(os.getpid)
        os.kill(pid, signal.SIGTERM)
        pool.close()
        pool.join()
