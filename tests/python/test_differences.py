"""Each claim of docs/differences-from-multiprocessing.md has its test; this is the list of them.

A claim is a row of a table or a point of a list there, known by the words it begins with. A claim without a test fails, and
so does a test that is no more.
"""

import multiprocessing.synchronize
import pathlib
import re
import threading
import time

import pytest
from harness import PATIENCE_SECONDS

import procession as mp

TESTS = pathlib.Path(__file__).resolve().parent
PAGE = TESTS.parents[1] / "docs" / "differences-from-multiprocessing.md"

CLAIMS = {
    # Instead of hanging.
    "the worker of a task dies": "test_faults::test_a_fault_in_a_task_fails_that_task_alone",
    "a task raises `SystemExit`": "test_faults::test_a_fault_in_a_task_fails_that_task_alone",
    "a task's exception or result cannot be unpickled": "test_faults_pickle::test_what_cannot_come_back_fails_its_own_task_alone",
    "an argument cannot be unpickled": "test_faults_pickle::test_an_argument_that_cannot_be_rebuilt_fails_its_own_task_alone",
    "the initializer raises": "test_faults_user_code::test_a_failing_initializer_is_one_error_to_everybody",
    "`get()` after `terminate()`": "test_shutdown::test_terminate_tells_everybody_who_waits",
    "a callback raises": "test_faults_user_code::test_an_error_in_a_callback_is_raised_by_get",
    "an idle worker is killed": "test_faults::test_the_death_of_all_idle_workers_costs_nothing",
    "`terminate()` in a callback": "test_shutdown::test_terminate_may_be_called_by_a_callback",
    "the owner of a lock": "test_synchronize::test_lock_of_a_killed_process_goes_to_the_next_who_asks",
    "a process is killed as it waits for a condition": (
        "test_synchronize::test_condition_outlives_a_killed_waiter_whose_notification_goes_to_the_next"
    ),
    "a party is killed": "test_synchronize::test_barrier_breaks_if_a_party_is_killed_in_it_and_can_be_reset",
    "locks are held and waited for in a circle": "test_synchronize::test_locks_taken_crosswise_raise_in_one_of_the_two",
    "all who could put something into a queue": "test_queue_deadlocks::test_two_who_wait_for_an_item_of_each_other_raise_in_one",
    "a process that has put items is joined": "test_queues::test_a_process_is_joined_before_anybody_has_fetched_its_items",
    "a process is killed right after `put()`": "test_queues::test_items_survive_their_killed_sender",
    "an item that cannot be pickled is put": (
        "test_queues::test_the_unpicklable_is_an_error_where_it_is_put_and_nothing_else_is_lost"
    ),
    # Queues and connections.
    "`put()` pickles": "test_queues::test_the_unpicklable_is_an_error_where_it_is_put_and_nothing_else_is_lost",
    "An item is there for others": "test_queues::test_a_process_is_joined_before_anybody_has_fetched_its_items",
    "A process that is killed amid": "test_queues::test_senders_killed_at_random_lose_nothing_that_was_put",
    "`SimpleQueue.put()` never waits": "test_queues::test_an_unbounded_queue_takes_far_more_than_a_pipe_would",
    "Without a `maxsize`": "test_queues::test_an_unbounded_queue_takes_far_more_than_a_pipe_would",
    "A queue may be passed": "test_queues::test_queues_travel_to_processes",
    "`queue._reader`": "test_queues::test_a_queue_can_be_waited_for_with_other_things",
    "`Pipe(duplex=False)`": "test_connections::test_a_one_way_pipe_says_which_end_is_which",
    "Pickling a connection": "test_connections::test_a_connection_does_not_pickle_by_itself",
    # Executors.
    "A worker that dies costs": "test_futures::test_dead_worker_fails_only_its_own_future",
    "An argument that cannot be unpickled in the worker fails": (
        "test_futures::test_argument_that_cannot_be_rebuilt_fails_its_own_future"
    ),
    "All workers start with the first call.": "test_futures::test_workers_can_be_looked_at_and_stopped",
    "`shutdown(cancel_futures=True)`": "test_futures::test_shutdown_that_cancels_leaves_the_running_ones",
    "`executor._processes`": "test_futures::test_workers_can_be_looked_at_and_stopped",
    # More than there.
    "`lock.owner_deaths`": "test_synchronize::test_lock_of_a_killed_process_goes_to_the_next_who_asks",
    "`Pool(timeout=seconds)`": "test_faults_limits::test_a_task_that_takes_too_long_is_ended_and_the_others_go_on",
    "`imap(…, buffersize=n)`": "test_pool_iterators::test_buffersize_is_how_far_imap_reads_ahead_of_its_reader",
    "`Process.suspend()`": "test_process_control::test_suspended_process_stands_still_until_it_is_resumed",
    "A daemonic process may have children": "test_process_daemonic::test_daemonic_process_may_have_children",
    "A daemonic process ends with its parent": "test_process_daemonic::test_nobody_of_a_daemonic_family_outlives_the_parent",
    "Any number of connections": (
        "test_start_methods::test_more_descriptors_than_the_kernel_takes_at_once_are_handed_on"
    ),
    "Lambdas, closures": "test_by_value::test_lambdas_closures_and_local_functions_run_in_workers",
    "The error classes": "test_pool_semantics::test_the_package_exports_its_errors",
    "A manager's `Pool`": "test_managers::test_a_managers_pool_is_ours",
    # What you may notice.
    "**Workers are not your process's children.**": "test_differences::test_workers_are_grandchildren",
    "**A pool has no threads of its own**": "test_faults_processes::test_an_idle_pool_keeps_no_thread",
    "**Under `fork` workers see your process as it was": (
        "test_start_methods::test_replacements_see_the_memory_as_it_was_when_the_pool_was_made"
    ),
    "**A result is unpickled in `get()`**": "test_differences::test_a_result_is_rebuilt_in_the_thread_that_gets_it",
    "**Arguments are pickled when the task is submitted.**": (
        "test_pool_values::test_arguments_are_taken_as_they_are_at_the_call"
    ),
    "**An array that is read-only stays so**": "test_arrays::test_a_read_only_array_arrives_read_only",
    "**The forkserver imports your main module once**": "test_differences::test_the_forkserver_imports_the_main_module_once",
    "**A spawned process may be the clone": "test_template::test_the_first_two_are_executed_and_later_ones_cloned",
    "**Initializers of a pool that never has work**": "test_differences::test_a_pool_closed_at_once_ends_without_a_word",
    "**When the input of `imap` raises": "test_differences::test_items_before_a_failing_one_of_the_input_are_given_out",
    "**A pool needs no `/dev/shm`**": "test_differences::test_a_pool_puts_nothing_into_dev_shm",
    "**Private attributes**": "test_differences::test_private_attributes_are_other_ones",
    "**Locks and the like have no names**": "test_differences::test_locks_have_no_names_and_classes_of_their_own",
    "**They may be handed to processes of any start method**": (
        "test_synchronize::test_objects_of_one_context_may_be_handed_to_a_process_of_another"
    ),
    "**`isinstance(lock, multiprocessing": "test_differences::test_locks_have_no_names_and_classes_of_their_own",
    "**A shared value or array has its memory when it is made**": (
        "test_sharedctypes::test_an_array_beyond_all_memory_is_an_error_and_nobody_is_killed_for_it"
    ),
    "**An `Event` that is set and cleared at once**": "test_differences::test_an_event_set_and_cleared_at_once_is_seen",
    "**A condition has room for 1024": "test_differences::test_a_condition_has_room_for_so_many",
}


def claims_of_the_page():
    text = PAGE.read_text(encoding="utf-8").replace("\n  ", " ")
    for line in text.splitlines():
        if line.startswith("* "):
            yield line[2:]
        elif re.match(r"\| (?!---|situation)", line):
            yield line[2:]


def test_each_claim_has_a_test_and_each_test_a_claim():
    claims = list(claims_of_the_page())
    untested = [claim for claim in claims if not any(claim.startswith(words) for words in CLAIMS)]
    assert untested == []
    unsaid = [words for words in CLAIMS if not any(claim.startswith(words) for claim in claims)]
    assert unsaid == []


@pytest.mark.parametrize("test", sorted(set(CLAIMS.values())))
def test_the_test_of_a_claim_is_there(test):
    module, _, function = test.partition("::")
    assert f"\ndef {function}(" in (TESTS / f"{module}.py").read_text(encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------------------
# Claims that have no test elsewhere.


def run_and_print(run_python, tmp_path, source, *arguments):
    script = tmp_path / "program.py"
    script.write_text(source)
    done = run_python(script, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_workers_are_grandchildren(run_python, tmp_path, start_method):
    source = (
        "import os, sys, procession as mp\n"
        "if __name__ == '__main__':\n"
        "    with mp.get_context(sys.argv[1]).Pool(2) as pool:\n"
        "        print(pool.apply(os.getppid) != os.getpid(), mp.active_children())\n"
    )
    assert run_and_print(run_python, tmp_path, source, start_method) == "True []\n"


def test_a_result_is_rebuilt_in_the_thread_that_gets_it(run_python, tmp_path):
    source = (
        "import threading, procession as mp\n"
        "class Result:\n"
        "    def __reduce__(self):\n"
        "        return threading.get_ident, ()\n"
        "with mp.get_context('fork').Pool(1) as pool:\n"
        "    results = [pool.apply_async(Result) for _ in range(3)]\n"
        "    print({result.get() for result in results} == {threading.get_ident()})\n"
    )
    assert run_and_print(run_python, tmp_path, source) == "True\n"


def test_the_forkserver_imports_the_main_module_once(run_python, tmp_path):
    source = (
        "import os, procession as mp\n"
        "imported_by = os.getpid()\n"
        "def tell(connection):\n"
        "    connection.send((imported_by, os.getpid()))\n"
        "if __name__ == '__main__':\n"
        "    context = mp.get_context('forkserver')\n"
        "    told = []\n"
        "    for _ in range(3):\n"
        "        ours, theirs = context.Pipe()\n"
        "        process = context.Process(target=tell, args=(theirs,))\n"
        "        process.start()\n"
        "        told.append(ours.recv())\n"
        "        process.join()\n"
        "    importers, children = map(set, zip(*told))\n"
        "    print(len(importers), len(children), importers.isdisjoint(children), os.getpid() in importers)\n"
    )
    assert run_and_print(run_python, tmp_path, source) == "1 3 True False\n"


def test_a_pool_closed_at_once_ends_without_a_word(run_python, tmp_path, start_method):
    source = (
        "import sys, procession as mp\n"
        "if __name__ == '__main__':\n"
        "    pool = mp.get_context(sys.argv[1]).Pool(2, initializer=len, initargs=('x',))\n"
        "    pool.close()\n"
        "    pool.join()\n"
    )
    assert run_and_print(run_python, tmp_path, source, start_method) == ""


def test_items_before_a_failing_one_of_the_input_are_given_out(run_python, tmp_path):
    source = (
        "import procession as mp\n"
        "def items():\n"
        "    yield from range(6)\n"
        "    raise KeyError('seventh')\n"
        "with mp.get_context('fork').Pool(2) as pool:\n"
        "    results = pool.imap(abs, items(), chunksize=4)\n"
        "    print([next(results) for _ in range(6)])\n"
        "    try:\n"
        "        next(results)\n"
        "    except KeyError as error:\n"
        "        print(error)\n"
    )
    assert run_and_print(run_python, tmp_path, source) == "[0, 1, 2, 3, 4, 5]\n'seventh'\n"


def test_a_pool_puts_nothing_into_dev_shm(run_python, tmp_path, start_method):
    source = (
        "import os, sys, procession as mp\n"
        "if __name__ == '__main__':\n"
        "    before = set(os.listdir('/dev/shm'))\n"
        "    with mp.get_context(sys.argv[1]).Pool(2) as pool:\n"
        "        pool.map(len, [b'x' * 1_000_000] * 4)\n"
        "        print(set(os.listdir('/dev/shm')) - before)\n"
    )
    assert run_and_print(run_python, tmp_path, source, start_method) == "set()\n"


def test_private_attributes_are_other_ones(run_python, tmp_path):
    source = (
        "import procession as mp\n"
        "with mp.get_context('fork').Pool(1) as pool:\n"
        "    print(hasattr(pool, '_cache'), hasattr(pool, '_taskqueue'), pool.map_async(abs, [1])._number_left >= 0)\n"
    )
    assert run_and_print(run_python, tmp_path, source) == "False False True\n"


def test_locks_have_no_names_and_classes_of_their_own():
    lock = mp.Lock()
    assert lock._semlock.name is None
    assert lock._semlock is lock
    assert not isinstance(lock, multiprocessing.synchronize.Lock)
    assert isinstance(lock, mp.synchronize.Lock)


def test_an_event_set_and_cleared_at_once_is_seen():
    event = mp.Event()
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(event.wait(PATIENCE_SECONDS))) for _ in range(3)]
    for thread in threads:
        thread.start()
    # Nothing tells that a thread waits.
    time.sleep(0.3)
    event.set()
    event.clear()
    for thread in threads:
        thread.join()
    assert seen == [True] * 3


def test_a_condition_has_room_for_so_many(run_python, tmp_path):
    source = (
        "import threading, time, procession as mp\n"
        "threading.stack_size(65536)\n"
        "condition = mp.Condition(mp.Lock())\n"
        "errors = []\n"
        "def wait():\n"
        "    with condition:\n"
        "        try:\n"
        "            condition.wait(30)\n"
        "        except RuntimeError as error:\n"
        "            errors.append(error)\n"
        "threads = [threading.Thread(target=wait) for _ in range(1025)]\n"
        "for thread in threads:\n"
        "    thread.start()\n"
        "while not errors:\n"
        "    time.sleep(0.05)\n"
        "while any(thread.is_alive() for thread in threads):\n"
        "    with condition:\n"
        "        condition.notify_all()\n"
        "    time.sleep(0.05)\n"
        "print(len(errors))\n"
    )
    assert run_and_print(run_python, tmp_path, source) == "1\n"
