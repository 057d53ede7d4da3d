import random
import threading
import time
from concurrent.futures import wait

import numpy as np
import pytest

from dlrm.inference.serve.batcher import Batcher, Workers
from dlrm.inference.serve.waiting import ClosedError, ExpiredError, Limits, QueueFullError
from tests.unit.inference.serve.fakes import FakeModel, rows

PATIENCE_S = 60


def answers(future):
    return future.result(PATIENCE_S)[:, 0].tolist()


@pytest.fixture
def held():
    """A batcher of one thread, which computes the row 0 until its model is freed."""
    model = FakeModel()
    model.free.clear()
    with Batcher(model, Limits(max_batch_rows=4, max_queue_rows=10), threads=1) as batcher:
        first = batcher.submit(rows(0))
        assert model.busy.acquire(timeout=PATIENCE_S)
        yield batcher
        model.free.set()
        assert answers(first) == [0]


def test_what_waits_is_one_batch_and_everyone_gets_his_own_rows(held):
    futures = [held.submit(rows(1)), held.submit(rows(2, 3)), held.submit(rows(4)), held.submit(rows(5))]
    assert held.rows_waiting == 5
    held.model.free.set()
    assert [answers(future) for future in futures] == [[2], [4, 6], [8], [10]]
    assert held.model.batches == [[0], [1, 2, 3, 4], [5]]
    assert futures[0].result().dtype == np.float32


def test_no_answer_is_lost_or_given_to_another_under_many_threads():
    model, other = FakeModel(), FakeModel(3.0)
    limits = Limits(max_batch_rows=32, max_wait_s=0.0005, max_queue_rows=64)
    workers = Workers(limits, threads=3)
    batchers = [Batcher(model, workers=workers), Batcher(other, workers=workers)]
    wrong: list[object] = []
    rejected = [0] * 64
    answered = [0] * 64

    def ask(caller: int) -> None:
        choose = random.Random(caller)
        for turn in range(40):
            batcher = batchers[turn % 2]
            count = choose.choice([1, 1, 1, 2, 7, 33, 60])
            numbers = [float(caller * 1000 + turn * 10 + row / 64) for row in range(count)]
            try:
                future = batcher.submit(rows(*numbers))
            except QueueFullError:
                rejected[caller] += 1
                time.sleep(0.0002)
                continue
            found = answers(future)
            answered[caller] += 1
            if found != [number * batcher.model.factor for number in numbers]:
                wrong.append((caller, turn, found))

    threads = [threading.Thread(target=ask, args=(caller,)) for caller in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert workers.close(timeout_s=PATIENCE_S)
    assert not wrong
    assert sum(answered) + sum(rejected) == 64 * 40
    assert sum(answered) > 64
    assert max(len(batch) for batch in model.batches + other.batches) <= 32
    assert all(batcher.rows_waiting == 0 for batcher in batchers)


def test_a_large_request_is_put_together_from_its_pieces():
    model = FakeModel()
    with Batcher(model, Limits(max_batch_rows=4), threads=2) as batcher:
        assert answers(batcher.submit(rows(*range(11)))) == [2.0 * number for number in range(11)]
    assert sorted(model.batches) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]


def test_no_rows_are_answered_with_none():
    with Batcher(FakeModel(), threads=1) as batcher:
        assert batcher.submit(rows()).result(PATIENCE_S).shape == (0, 1)


def test_a_full_queue_refuses_at_once(held):
    held.submit(rows(*range(10)))
    with pytest.raises(QueueFullError):
        held.submit(rows(1))


def test_a_request_whose_time_is_over_is_not_computed(held):
    late, good = held.submit(rows(1), timeout_s=0.001), held.submit(rows(2))
    late_large = held.submit(rows(*range(5)), timeout_s=0.001)
    time.sleep(0.01)
    held.model.free.set()
    assert answers(good) == [4]
    for future in (late, late_large):
        with pytest.raises(ExpiredError):
            future.result(PATIENCE_S)
    assert held.model.batches == [[0], [2]]


def test_a_cancelled_request_is_not_computed(held):
    futures = [held.submit(rows(1)), held.submit(rows(*range(6))), held.submit(rows(2))]
    assert futures[0].cancel()
    assert futures[1].cancel()
    held.model.free.set()
    assert answers(futures[2]) == [4]
    assert held.close(timeout_s=PATIENCE_S)
    assert held.model.batches == [[0], [2]]


@pytest.mark.parametrize("count", [1, 9])
def test_what_a_model_raises_is_the_answer_and_the_thread_goes_on(count):
    with Batcher(FakeModel(), Limits(max_batch_rows=4), threads=2) as batcher:
        with pytest.raises(RuntimeError, match="a negative number"):
            batcher.submit(rows(*([-1] * count))).result(PATIENCE_S)
        for number in range(4):
            assert answers(batcher.submit(rows(number))) == [2 * number]


def test_closing_answers_what_waits(held):
    futures = [held.submit(rows(number)) for number in range(9)]
    threading.Timer(0.05, held.model.free.set).start()
    assert held.close(timeout_s=PATIENCE_S)
    assert [answers(future) for future in futures] == [[2 * number] for number in range(9)]
    with pytest.raises(ClosedError):
        held.submit(rows(1))


def test_closing_without_that_answers_only_what_is_computed(held):
    futures = [held.submit(rows(1)), held.submit(rows(*range(6)))]
    assert not held.close(drain=False, timeout_s=0.01)
    for future in futures:
        with pytest.raises(ClosedError):
            future.result(0)
    held.model.free.set()
    assert held.close(timeout_s=PATIENCE_S)
    assert held.model.batches == [[0]]


def test_a_model_that_is_asked_much_does_not_keep_another_waiting():
    much, little = FakeModel(), FakeModel()
    much.free.clear()
    workers = Workers(Limits(max_batch_rows=1, max_queue_rows=1000), threads=1)
    flood = Batcher(much, workers=workers)
    first = flood.submit(rows(0))
    assert much.busy.acquire(timeout=PATIENCE_S)
    flooded = [flood.submit(rows(number)) for number in range(500)]
    order = []
    for future in flooded[:3]:
        future.add_done_callback(lambda _: order.append("much"))
    asked = Batcher(little, workers=workers).submit(rows(1))
    asked.add_done_callback(lambda _: order.append("little"))
    much.free.set()
    assert answers(asked) == [2]
    assert order.index("little") <= 1  # no more than one batch of the other went before
    wait([first, *flooded], PATIENCE_S)
    assert workers.close(timeout_s=PATIENCE_S)


def test_a_wait_for_company_ends_without_it():
    with Batcher(FakeModel(), Limits(max_batch_rows=100, max_wait_s=0.02), threads=2) as batcher:
        started = time.monotonic()
        assert answers(batcher.submit(rows(1))) == [2]
        assert time.monotonic() - started >= 0.02


def test_batches_are_observed_before_their_requests_are_delivered():
    events = []
    workers = Workers(
        threads=1,
        deliver=lambda requests: events.append(("delivered", len(requests))),
        observe=lambda batch, started_s, ended_s: events.append(("observed", batch.rows, started_s <= ended_s)),
    )
    from dlrm.inference.serve.waiting import Queue, Request

    workers.put(Queue(FakeModel()), Request(rows(1, 2)))
    assert workers.close(timeout_s=PATIENCE_S)
    assert events == [("observed", 2, True), ("delivered", 1)]
