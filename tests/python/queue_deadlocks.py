"""Programs whose processes wait for queues, each for the other or not: `queue_deadlocks.py CASE START_METHOD`.

They are programs of their own, as whoever has another thread, like the tests' watchdog, could be served by it. Each prints
what its case comes to.
"""

import os
import signal
import subprocess
import sys
import threading
import time

import procession as mp

# Longer than it takes to find a deadlock.
LATE_SECONDS = 2.2


def told(error):
    """How many an error names, of which it must say a lot."""
    assert error.cycle[0]["pid"] == os.getpid(), error.cycle
    assert all(member["place"].startswith("queue_deadlocks.py:") for member in error.cycle), error.cycle
    for member in error.cycle:
        assert not (member["lock"] and member["queue"])
        assert member["queue"] is None or "Queue made at queue_deadlocks.py:" in member["queue"], member
        for word in (member["process"], f"(pid {member['pid']})", member["queue"] or member["lock"] or "the end of"):
            assert word in str(error), error
    return f"{len(error.cycle)} members"


# --- deadlocks -----------------------------------------------------------------------------------------------------


def put_two(queue, answers):
    try:
        queue.put(1), queue.put(2)
    except mp.DeadlockError as error:
        answers.put(told(error))


def joins_one_who_waits_for_room(context):
    queue, answers = context.Queue(1), context.Queue()
    child = context.Process(target=put_two, args=(queue, answers))
    child.start()
    child.join()
    return answers.get(), child.exitcode


def get_and_put(take, give):
    try:
        give.put(take.get())
    except mp.DeadlockError as error:
        give.put(told(error))


def wait_each_for_the_other(context):
    one, two = context.Queue(), context.SimpleQueue()
    child = context.Process(target=get_and_put, args=(one, two))
    child.start()
    try:
        answer = two.get()
    except mp.DeadlockError as error:
        answer = told(error)
        one.put("go on")
    child.join()
    return answer, child.exitcode


def wait_in_a_ring(context):
    # Each knows but the queues of its neighbours, where they were not forked.
    queues = [context.Queue() for _ in range(5)]
    children = [context.Process(target=get_and_put, args=(queues[i], queues[i + 1])) for i in range(len(queues) - 1)]
    for child in children:
        child.start()
    try:
        answer = queues[-1].get()
    except mp.DeadlockError as error:
        answer = told(error)
        queues[0].put("go on")
    for child in children:
        child.join()
    return answer, [child.exitcode for child in children]


def end_without_a_word(queue):
    queue.empty()


def waits_for_those_who_have_ended(context):
    queue = context.Queue()
    children = [context.Process(target=end_without_a_word, args=(queue,)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    try:
        return queue.get()
    except mp.DeadlockError as error:
        assert "which no other process has" in str(error), error
        return told(error)


def waits_for_one_who_is_killed_meanwhile(context):
    queue = context.JoinableQueue()
    queue.put("work")
    child = context.Process(target=take_and_be_killed, args=(queue,))
    child.start()
    try:
        queue.join()
    except mp.DeadlockError as error:
        assert "are done" in str(error), error
        answer = told(error)
    child.join()
    return answer, child.exitcode


def take_and_be_killed(queue):
    queue.get()
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGKILL)


def put_with_lock(lock, acquired, queue):
    try:
        if acquired:
            lock.acquire()
        else:
            lock.__enter__()
        queue.put("had the lock")
        lock.release()
    except mp.DeadlockError as error:
        queue.put(told(error))


def waits_with_a_lock_that_the_other_needs(context, acquired=False):
    lock, queue = context.Lock(), context.Queue()
    child = context.Process(target=put_with_lock, args=(lock, acquired, queue))
    lock.acquire() if acquired else lock.__enter__()
    child.start()
    try:
        answer = queue.get()
        lock.release()
    except mp.DeadlockError as error:
        answer = told(error)
        lock.release()
        assert queue.get() == "had the lock"
    child.join()
    return answer, child.exitcode


def waits_with_an_acquired_lock_that_the_other_needs(context):
    return waits_with_a_lock_that_the_other_needs(context, acquired=True)


def work(tasks, _also):
    while tasks.get() is not None:
        pass


def ends_without_telling_its_workers(context):
    # Kept until the interpreter has ended, which waits for its children.
    global tasks
    tasks = context.Queue(), context.Lock()
    children = [context.Process(target=work, args=tasks) for _ in range(3)]
    for child in children:
        child.start()
    return "ended"


# --- no deadlocks --------------------------------------------------------------------------------------------------


def get_late(queue):
    """What comes out of the queue, which must take its time."""
    began = time.monotonic()
    value = queue.get()
    assert time.monotonic() - began >= LATE_SECONDS * 0.6
    return value


def another_thread_puts(context):
    queue = context.Queue()
    timer = threading.Timer(LATE_SECONDS, queue.put, ("late",))
    timer.start()
    value = get_late(queue)
    timer.join()
    return value


def a_thread_waits_while_another_works(context):
    queue, answers = context.Queue(), []
    thread = threading.Thread(target=lambda: answers.append(get_late(queue)))
    thread.start()
    time.sleep(LATE_SECONDS)
    queue.put("late")
    thread.join()
    return answers[0]


def put_late(queue, value="late"):
    time.sleep(LATE_SECONDS)
    queue.put(value)


def one_of_several_sleeps(context):
    queue, never = context.Queue(), context.Queue()
    sleeper = context.Process(target=put_late, args=(queue,))
    waiter = context.Process(target=get_and_put, args=(never, queue))
    sleeper.start(), waiter.start()
    value = get_late(queue)
    never.put("go on")
    sleeper.join(), waiter.join()
    return value, waiter.exitcode, queue.get()


def signal_late(pid):
    time.sleep(LATE_SECONDS)
    os.kill(pid, signal.SIGUSR1)


def a_handler_of_a_signal_puts(context):
    queue = context.Queue()
    signal.signal(signal.SIGUSR1, lambda *_: queue.put("late"))
    child = context.Process(target=signal_late, args=(os.getpid(),))
    child.start()
    value = get_late(queue)
    child.join()
    return value


def get_in_time(take, give):
    try:
        take.get(timeout=LATE_SECONDS)
    except Exception as error:
        give.put(type(error).__name__)


def the_other_waits_with_a_time_limit(context):
    one, two = context.Queue(), context.Queue()
    child = context.Process(target=get_in_time, args=(one, two))
    child.start()
    value = get_late(two)
    child.join()
    return value


def waits_with_a_time_limit(context):
    answers = context.Queue()
    get_in_time(context.Queue(), answers)
    return answers.get()


class Slow:
    """Takes its time where it is unpickled."""

    def __reduce__(self):
        return time.sleep, (LATE_SECONDS,)


def put_after(slow, queue):
    # Who was forked has not unpickled it.
    put_late(queue) if isinstance(slow, Slow) else queue.put("late")


def the_other_is_being_started(context):
    queue = context.Queue()
    child = context.Process(target=put_after, args=(Slow(), queue))
    child.start()
    value = get_late(queue)
    child.join()
    return value


def a_program_has_but_the_descriptor(context):
    queue = context.Queue()
    program = subprocess.Popen(["sleep", str(LATE_SECONDS)], pass_fds=queue._descriptors())
    try:
        get_late(queue)
    except mp.DeadlockError:
        # It had ended first.
        return program.wait(timeout=0.1)


def one_without_descriptors_puts(context):
    queue = context.Queue()
    # It has memory for what is put later, which takes a descriptor to get.
    queue.put("first"), queue.get()
    pid = os.fork()
    if pid == 0:
        try:
            os.closerange(3, 1024)
            put_late(queue)
        finally:
            os._exit(0)
    value = get_late(queue)
    os.waitpid(pid, 0)
    return value


def remember(queue):
    global remembered
    remembered = queue


def put_late_into_remembered():
    put_late(remembered)


def a_task_of_a_pool_puts(context):
    queue = context.Queue()
    with context.Pool(1, initializer=remember, initargs=(queue,)) as pool:
        result = pool.apply_async(put_late_into_remembered)
        value = get_late(queue)
        result.get()
    return value


def get_twice(take, give):
    give.put(take.get())
    give.put(take.get())


def the_other_is_joined_after_it_was_served(context):
    one, two = context.Queue(), context.Queue()
    server = context.Process(target=put_late, args=(one, "first"))
    child = context.Process(target=get_twice, args=(one, two))
    child.start(), server.start()
    first = get_late(two)
    server.join()
    one.put("second")
    child.join()
    return first, two.get()


if __name__ == "__main__":
    case, method = sys.argv[1:]
    print(globals()[case](mp.get_context(method)))
