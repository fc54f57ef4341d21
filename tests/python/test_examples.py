"""Each program in examples/python runs by itself, prints what it promises, and leaves nothing behind."""

import importlib.util
import multiprocessing
import pathlib
import re

import pytest

import procession

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples" / "python"
PACKAGE_PARENT = pathlib.Path(procession.__file__).resolve().parents[1]

# Python imports a module of this name at each start, children's included; a program under test needs no word about it.
SET_START_METHOD = """
import multiprocessing, procession
if multiprocessing.get_start_method(allow_none=True) is None:
    procession.set_start_method({method!r})
"""


@pytest.fixture
def run_example(run_python, start_method, tmp_path):
    """Runs an example with :func:`start_method`, every warning an error; returns what it printed."""
    (tmp_path / "sitecustomize.py").write_text(SET_START_METHOD.format(method=start_method))

    def run(name, *arguments, cwd=None):
        result = run_python(
            EXAMPLES / name,
            *arguments,
            interpreter_options=["-X", "dev", "-W", "error"],
            # Unbuffered, print() would write a line and its end apart, and lines of two processes could mix.
            environment={"PYTHONPATH": f"{tmp_path}:{PACKAGE_PARENT}", "PYTHONUNBUFFERED": ""},
            cwd=cwd,
        )
        assert result.stderr == ""
        assert result.returncode == 0
        return result.stdout

    return run


def test_every_example_is_tested():
    # work.py holds functions and no program.
    assert (EXAMPLES / "work.py").is_file()
    tested = set(re.findall(r'"(\w+\.py)"', pathlib.Path(__file__).read_text(encoding="utf-8")))
    assert {path.name for path in EXAMPLES.glob("*.py")} <= tested


def test_fork_returns_zero_to_the_child_and_the_childs_pid_to_the_parent(run_python):
    result = run_python(EXAMPLES / "fork.py")
    assert (result.returncode, result.stderr) == (0, "")
    (parent,) = re.findall(r"^I am process (\d+)$", result.stdout, re.MULTILINE)
    (child, childs_parent) = re.findall(
        r"fork returned 0: I am child process (\d+) and my parent is (\d+)", result.stdout
    )[0]
    (returned, me, created) = re.findall(
        r"fork returned ([1-9]\d*): I am process (\d+) and just created child process (\d+)", result.stdout
    )[0]
    assert child == returned == created != parent
    assert childs_parent == me == parent
    assert len(result.stdout.splitlines()) == 3


def test_named_processes_run_one_after_the_other_and_then_side_by_side(run_example):
    lines = run_example("five_workers.py").splitlines()
    in_turn = []
    for number in range(5):
        in_turn += [f"Process-{number + 1} starts as worker {number}", f"Process-{number + 1} ends"]
    assert lines[:10] == in_turn
    assert re.fullmatch(r"one_after_the_other: \d+\.\d s", lines[10])
    assert re.findall(r"name='(.*?)'.*?exitcode=(\d+)", lines[11]) == [(f"Process-{n}", "0") for n in range(1, 6)]

    side_by_side = lines[12:22]
    for number in range(5):
        start = side_by_side.index(f"user-{number} starts as worker {number}")
        assert side_by_side.index(f"user-{number} ends") > start
    assert re.fullmatch(r"side_by_side: \d+\.\d s", lines[22])
    assert re.findall(r"name='(.*?)'.*?exitcode=(\d+)", lines[23]) == [(f"user-{n}", "0") for n in range(5)]
    assert len(lines) == 24


@pytest.fixture
def two_files(tmp_path):
    first, second = tmp_path / "x.txt", tmp_path / "y.txt"
    first.write_text("the first file\nhas two lines\n", encoding="utf-8")
    second.write_text("第二个文件\n", encoding="utf-8")
    return first, second


def test_files_in_turn_are_printed_in_order_before_done(run_example, two_files):
    output = run_example("read_files_in_turn.py", *two_files)
    assert output == "the first file\nhas two lines\n\n第二个文件\n\nDone!\n"


def test_files_side_by_side_are_both_printed_before_done(run_example, two_files):
    output = run_example("read_files_side_by_side.py", *two_files)
    assert sorted(output.splitlines()) == sorted(["the first file", "has two lines", "", "第二个文件", "", "Done!"])
    assert output.endswith("Done!\n")


@pytest.mark.parametrize("name", ["read_files_in_turn.py", "read_files_side_by_side.py"])
def test_files_read_sources_when_none_are_named(run_example, name):
    output = run_example(name)
    assert "called once, returns twice" in output
    assert "A task with several arguments" in output
    assert output.endswith("Done!\n")


def test_parent_goes_on_while_its_child_sleeps_and_joins_it(run_example, start_method):
    output = run_example("sleeper.py")
    lines = output.splitlines()
    (child,) = re.findall(r"parent: child process (\d+) is started", output)
    (told_child, childs_parent) = re.findall(r"child: my process id is (\d+), my parent's is (\d+)", output)[0]
    (parent,) = re.findall(r"parent: my process id is (\d+)", output)
    assert told_child == child
    if start_method == "forkserver":  # There the server is the parent.
        assert childs_parent not in (child, parent)
    else:
        assert childs_parent == parent
    assert lines.index("parent: the child is alive: True") < lines.index("child: bob is awake")
    assert lines[-2] == "parent: the child has ended with exit code 0"


def test_stress_web_server_gets_pages_in_both_processes(run_example):
    output = run_example("stress_template.py")
    for name in ("visitor", "resident"):
        ((requests, page),) = re.findall(rf"^{name}: (\d+) requests in .* s, \d+/s: (.*)$", output, re.MULTILINE)
        assert int(requests) > 10
        assert page == "b'<!doctype html><titl'"
    assert output.endswith("done, exit codes: {'visitor': 0, 'resident': 0}\n")


def test_stress_web_server_tells_when_nobody_answers(run_python):
    result = run_python(EXAMPLES / "stress_template.py", "http://127.0.0.1:1/")
    assert result.returncode == 1
    assert "ConnectionRefusedError" in result.stderr
    assert "Process visitor:" in result.stderr
    assert "Process resident:" in result.stderr
    assert result.stdout == "done, exit codes: {'visitor': 1, 'resident': 1}\n"


def test_one_process_or_many_prints_both_times(run_example):
    output = run_example("one_process_or_many.py", "100")
    assert output.startswith("100 items, 10 ms each\n")
    alone, by_pool = (float(seconds) for seconds in re.findall(r": +(\d+\.\d+) s", output))
    assert alone >= 1.0
    assert by_pool >= 1.0 / multiprocessing.cpu_count() - 0.01
    assert re.search(r"\d+\.\d\d times as fast\n$", output)


def test_which_worker_shows_the_workers_and_that_a_closed_pool_takes_nothing(run_example):
    output = run_example("which_worker.py")
    done = re.findall(r"^process (\d+): (\d) \* \2 = (\d+)$", output, re.MULTILINE)
    assert sorted((int(x), int(square)) for _, x, square in done) == [(x, x * x) for x in range(8)]
    assert 1 <= len({pid for pid, _, _ in done}) <= multiprocessing.cpu_count()
    assert output.splitlines()[-3:] == [
        "[0, 1, 4, 9, 16, 25, 36, 49]",
        "after close(): ValueError: Pool not running",
        "Done",
    ]


def test_async_result_comes_or_times_out_and_comes_later(run_example):
    assert run_example("async_result.py").splitlines() == [
        "100",
        "no result after 0.2 s",
        "100",
        "[0, 1, 4, 9, 16, 25, 36, 49, 64, 81]",
    ]


def test_async_tasks_run_side_by_side(run_example):
    output = run_example("async_side_by_side.py")
    first_three = re.findall(r"^process (\d+) works on 1[012]$", output, re.MULTILINE)
    assert len(first_three) == len(set(first_three)) == 3
    assert "[100, 121, 144]\nthree tasks of 0.5 s took " in output
    assert output.endswith("[0, 1, 4, 9, 16, 25, 36, 49, 64, 81]\n")


def test_several_arguments_reach_the_task(run_example):
    output = run_example("several_arguments.py")
    assert [line for line in output.splitlines() if not line.startswith("process ")] == ["40", "[2, 12, 30]"]
    pairs = re.findall(r"^process \d+ multiplies (\d+) by (\d+)$", output, re.MULTILINE)
    assert sorted(pairs) == [("1", "2"), ("10", "4"), ("3", "4"), ("5", "6")]


FACTORIAL_OF_25 = "15511210043330985984000000"


def test_two_jobs_by_pool_give_both_results(run_example):
    lines = run_example("two_jobs_by_pool.py").splitlines()
    assert sorted(lines[:-1]) == sorted(
        [FACTORIAL_OF_25, f"result: {FACTORIAL_OF_25}", "slept for long", "result: slept for long"]
    )
    assert lines[-1] == "Both jobs have ended."


def test_two_jobs_by_processes_both_end_before_the_last_line(run_example):
    lines = run_example("two_jobs_by_processes.py").splitlines()
    assert sorted(lines[:-1]) == sorted([FACTORIAL_OF_25, "slept for long"])
    assert lines[-1] == "Both jobs have ended."


@pytest.fixture
def work():
    specification = importlib.util.spec_from_file_location("work", EXAMPLES / "work.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_work_counts_what_is_in_a_source(work, tmp_path):
    source = tmp_path / "source.py"
    source.write_text("import os\nfrom sys import path\n\nclass A:\n    def f(self):\n        return lambda: 1\n")
    assert work.parse_source(source) == {"path": str(source), "lines": 6, "functions": 2, "classes": 1, "imports": 2}


def test_work_refuses_a_source_that_is_none(work, tmp_path):
    source = tmp_path / "source.py"
    source.write_text("print 'hello'\n")
    with pytest.raises(SyntaxError):
        work.parse_source(source)


def test_work_digests_a_file(work, tmp_path):
    (tmp_path / "empty").touch()
    expected = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert work.digest(tmp_path / "empty") == {"path": str(tmp_path / "empty"), "bytes": 0, "sha256": expected}


@pytest.mark.parametrize(("number", "factor"), [("2", 2), ("97\n", 97), (100, 5), (2**31 - 1, 2**31 - 1), (49, 7)])
def test_work_finds_the_largest_prime_factor(work, number, factor):
    assert work.largest_prime_factor(number) == factor


def test_the_shop_is_tested_by_customers_that_are_coroutines(run_example):
    output = run_example("load_shop.py")
    assert output == "100 customers, 200 requests, 0 failed\nsteps: GET /cart, POST /login, login, shop\n"
