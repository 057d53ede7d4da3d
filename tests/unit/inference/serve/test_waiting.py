"""The schedule without threads and with times that are said."""

import pytest

from dlrm.inference.serve.waiting import Batch, ExpiredError, Limits, Queue, QueueFullError, Request, Schedule
from tests.unit.inference.serve.fakes import rows


def request(*numbers, at=0.0, until=float("inf")):
    made = Request(rows(*numbers), until)
    made.arrived_s = at
    return made


def numbers(batch):
    return [request.features.dense_BN[:, 0].tolist() for request in batch.requests]


def test_a_batch_is_what_waits_as_far_as_it_fits():
    schedule, queue = Schedule(Limits(max_batch_rows=4)), Queue("a")
    for asked in [request(1), request(2, 3), request(4, 5), request(6)]:
        schedule.put(queue, asked)
    assert numbers(schedule.take(0)) == [[1], [2, 3]]
    assert queue.rows == 3
    assert numbers(schedule.take(0)) == [[4, 5], [6]]
    assert queue.rows == 0
    assert schedule.take(0) is None


def test_the_first_of_a_batch_waits_no_longer_than_it_may():
    schedule, queue = Schedule(Limits(max_batch_rows=3, max_wait_s=2)), Queue("a")
    schedule.put(queue, request(1, at=10))
    schedule.put(queue, request(2, at=11))
    assert schedule.take(11) == 1.0
    assert schedule.take(11.5) == 0.5
    assert numbers(schedule.take(12)) == [[1], [2]]
    for number in range(4):
        schedule.put(queue, request(number, at=20))
    assert numbers(schedule.take(20)) == [[0], [1], [2]]  # full: nothing to wait for
    assert schedule.take(20) == 2.0
    schedule.closing = True
    assert numbers(schedule.take(20)) == [[3]]


def test_queues_wait_each_for_itself():
    schedule, early, late = Schedule(Limits(max_wait_s=2)), Queue("early"), Queue("late")
    schedule.put(late, request(1, at=9))
    schedule.put(early, request(2, at=8))
    assert schedule.take(9) == 1.0
    assert schedule.take(10).queue is early
    assert schedule.take(10) == 1.0
    assert schedule.take(11).queue is late


def test_a_queue_takes_rows_up_to_its_bound():
    schedule, queue, other = Schedule(Limits(max_queue_rows=3)), Queue("a"), Queue("b")
    schedule.put(queue, request(1, 2))
    with pytest.raises(QueueFullError, match="2 rows wait, 2 more"):
        schedule.put(queue, request(3, 4))
    schedule.put(queue, request(5))
    schedule.put(other, request(6, 7, 8))
    assert numbers(schedule.take(0)) == [[1, 2], [5]]
    schedule.put(queue, request(1, 2, 3))


def test_what_has_waited_too_long_is_not_computed():
    schedule, queue = Schedule(Limits(max_batch_rows=2)), Queue("a")
    asked = [request(1, until=5), request(2, until=6), request(3, until=4), request(4)]
    for one in asked:
        schedule.put(queue, one)
    batch = schedule.take(5.5)
    assert batch.expired == [asked[0], asked[2]]
    assert batch.requests == [asked[1], asked[3]]
    assert isinstance(asked[0].error, ExpiredError)
    assert queue.rows == 0
    schedule.put(queue, request(1, until=5))
    batch = schedule.take(6)
    assert (len(batch.expired), batch.requests) == (1, [])


def test_a_large_request_is_computed_in_pieces_and_lets_others_go_between():
    schedule, queue = Schedule(Limits(max_batch_rows=2)), Queue("a")
    large = request(1, 2, 3, 4, 5)
    for one in [large, request(6), request(7), request(8)]:
        schedule.put(queue, one)
    found = []
    while isinstance(batch := schedule.take(0), Batch):
        found.append((batch.piece, batch.rows, numbers(batch) if batch.piece is None else None))
    assert found == [
        (slice(0, 2), 2, None),
        (None, 2, [[6], [7]]),
        (None, 1, [[8]]),
        (slice(2, 4), 2, None),
        (slice(4, 5), 1, None),
    ]
    assert queue.rows == 0


def test_the_last_rows_of_a_large_request_are_not_mixed_with_others():
    schedule, queue = Schedule(Limits(max_batch_rows=3)), Queue("a")
    large = request(1, 2, 3, 4)
    for one in [large, request(5)]:
        schedule.put(queue, one)
    assert schedule.take(0).piece == slice(0, 3)
    assert numbers(schedule.take(0)) == [[5]]
    assert schedule.take(0).piece == slice(3, 4)


def test_a_large_request_whose_time_is_over_is_dropped_with_what_is_left_of_it():
    schedule, queue = Schedule(Limits(max_batch_rows=2)), Queue("a")
    large = request(1, 2, 3, 4, 5, until=10)
    schedule.put(queue, large)
    assert schedule.take(9).piece == slice(0, 2)
    assert schedule.take(11).expired == [large]
    assert queue.rows == 0
    assert schedule.take(11) is None


def test_queues_take_turns():
    schedule, much, little = Schedule(Limits(max_batch_rows=1)), Queue("much"), Queue("little")
    for number in range(100):
        schedule.put(much, request(number))
    schedule.put(little, request(1))
    schedule.put(little, request(2))
    order = [schedule.take(0).queue.model for _ in range(6)]
    assert order == ["much", "little", "much", "little", "much", "much"]


def test_a_thread_is_of_use_where_nothing_waited_and_for_each_further_batch():
    schedule, queue = Schedule(Limits(max_batch_rows=3)), Queue("a")
    assert [schedule.put(queue, request(number)) for number in range(7)] == [
        True,
        False,
        True,
        False,
        False,
        True,
        False,
    ]
