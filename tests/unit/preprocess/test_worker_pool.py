"""Threads work ahead, results come in order, and the first failure in order is the one that is seen."""

import threading
import time
from functools import partial

import pytest

from dlrm.preprocess.worker_pool import WorkerPool


def test_results_come_in_the_order_of_the_tasks():
    def slower_first(i):
        time.sleep(0.002 * (5 - i % 5))
        return i

    with WorkerPool(4) as pool:
        assert list(pool.each(partial(slower_first, i) for i in range(40))) == list(range(40))


def test_the_error_of_the_first_task_that_failed_is_raised_though_a_later_one_fails_sooner():
    later_has_failed = threading.Event()

    def first():
        assert later_has_failed.wait(10)
        raise ValueError("first")

    def later():
        later_has_failed.set()
        raise ValueError("later")

    with pytest.raises(ValueError, match="first"), WorkerPool(2) as pool:
        list(pool.each([first, later]))


def test_after_a_failure_no_task_is_begun_and_those_that_run_are_awaited():
    begun, ended = [], []
    running = threading.Event()

    def fail():
        assert running.wait(10)
        raise ValueError

    def run(i):
        begun.append(i)
        running.set()
        time.sleep(0.1)
        ended.append(i)

    tasks = [fail, *(partial(run, i) for i in range(50))]
    with pytest.raises(ValueError), WorkerPool(2) as pool:  # noqa: PT011
        list(pool.each(tasks))
    assert sorted(ended) == sorted(begun)  # two may run at a time and end in either order
    assert len(begun) < 5
    assert pool.stop.is_set()


def test_tasks_are_taken_when_there_is_a_thread_for_them():
    done = []

    def tasks():
        for i in range(30):
            assert i - len(done) <= 2, "two run and one is next"
            yield partial(done.append, i)

    with WorkerPool(2) as pool:
        assert len(list(pool.each(tasks()))) == 30
