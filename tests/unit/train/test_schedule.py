"""The schedule against counting one step after the other."""

from dataclasses import replace

import pytest

from dlrm.config import load_config
from dlrm.data.order import SampleOrder
from dlrm.errors import ConfigError
from dlrm.train.schedule import ALL_EPOCHS, BEGINNING, MAX_STEPS, Position, Schedule, accumulation_lines

SHAPES = [(40, 8, False), (41, 8, False), (41, 8, True), (7, 8, False), (8, 8, True), (1, 1, False), (23, 5, True)]
"""Samples, global batch size and drop_last."""


def schedule_of(samples, batch_size, drop_last, *, epochs=3, max_steps=None):
    return Schedule(SampleOrder(samples, global_batch_size=batch_size, drop_last=drop_last), epochs, max_steps)


def counted(samples, batch_size, drop_last, *, epochs, max_steps):
    """Every position of a run, found by taking batches from the samples until there are none left."""
    position, positions = Position(), []
    for epoch in range(epochs):
        left = samples
        while left >= batch_size or (left and not drop_last):
            if position.step == max_steps:
                return positions
            taken = min(left, batch_size)
            left -= taken
            position = Position(epoch, position.batch + 1, position.step + 1, position.samples + taken)
            if left == 0 or (drop_last and left < batch_size):
                position = replace(position, epoch=epoch + 1, batch=0, epoch_ended=True)
            positions.append(position)
    return positions


@pytest.mark.parametrize("max_steps", [None, 1, 4, 5, 6, 1000])
@pytest.mark.parametrize("shape", SHAPES)
def test_positions_ends_and_the_end_are_those_of_counting(shape, max_steps):
    schedule = schedule_of(*shape, max_steps=max_steps)
    positions = counted(*shape, epochs=3, max_steps=max_steps)
    assert schedule.total_steps == len(positions)
    assert [schedule.position(step + 1) for step in range(len(positions))] == positions
    ends = [position.step for position in positions if position.epoch_ended or position is positions[-1]]
    before = [BEGINNING, *positions[:-1]]
    assert [schedule.next_end(position.step) for position in before] == [
        next(end for end in ends if end > position.step) for position in before
    ]
    assert not any(schedule.stop_reason(position.step) for position in before)
    assert schedule.stop_reason(len(positions)) == (ALL_EPOCHS if positions[-1].epoch == 3 else MAX_STEPS)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_run_begins_where_nothing_is_trained(shape):
    assert schedule_of(*shape).position(0) == BEGINNING


def test_only_what_counting_comes_by_is_a_position_of_a_schedule():
    shape = (41, 8, False)
    schedule, positions = schedule_of(*shape), counted(*shape, epochs=5, max_steps=None)
    assert all(schedule.has(position) for position in [BEGINNING, *positions])  # also beyond the last epoch
    for position in positions:
        changes = [
            {"epoch": position.epoch + 1},
            {"batch": position.batch + 1},
            {"step": position.step + 1},
            {"samples": position.samples - 1},
            {"epoch_ended": not position.epoch_ended},
        ]
        assert not any(schedule.has(replace(position, **change)) for change in changes)


def test_a_run_says_what_micro_batches_do_to_tables():
    options = ["train.global_batch_size=4096", "train.accumulation_steps=4"]
    (said,) = accumulation_lines(load_config(None, options))
    assert "a step has 4 micro-batches of 1,024 samples" in said
    assert said.endswith("which with rowwise_adagrad is another training than a step with 4,096 samples at once")
    sgd = ["optim.sparse.kind=sgd", "optim.sparse.lr=1"]
    assert "which with sgd differs, by rows that" in accumulation_lines(load_config(None, [*options, *sgd]))[0]
    assert accumulation_lines(load_config(None, sgd)) == []


def test_a_schedule_is_made_of_the_configuration():
    config = load_config(None, ["train.global_batch_size=8", "train.epochs=2", "train.max_steps=9", "run.seed=5"])
    schedule = Schedule.of(config.train, seed=config.run.seed, num_samples=41)
    assert (schedule.order.num_batches, schedule.epochs, schedule.max_steps) == (6, 2, 9)
    expected = SampleOrder(41, global_batch_size=8, seed=5, shuffle=True)
    assert schedule.order.indices(1, 2).tolist() == expected.indices(1, 2).tolist()


def test_samples_that_fill_no_batch_are_an_error_before_anything_is_built():
    config = load_config(None, ["train.global_batch_size=8", "train.drop_last=true"])
    with pytest.raises(
        ConfigError, match=r"^train\.drop_last: leaves no batch of 8 out of 7 samples; set it to false$"
    ):
        Schedule.of(config.train, seed=0, num_samples=7)
