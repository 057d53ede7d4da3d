"""The average of clean rows is carried on when a delta is loaded, and no further than anybody would train."""

import pytest
import torch

from dlrm.checkpoint.delta import replay as replay_module
from dlrm.checkpoint.delta.format import MAX_REPLAYED_STEPS, AverageRecord
from dlrm.checkpoint.delta.replay import replay_average
from dlrm.checkpoint.load import load_tensors
from dlrm.checkpoint.stored import open_checkpoint
from dlrm.errors import CheckpointError
from dlrm.optim.averaging import ExponentialAverage
from tests.unit.checkpoint.delta.deltas import alone, save_delta
from tests.unit.checkpoint.states import State, save_ranks, uncut

ROWS = [3, 17, 30]


def averaged(decay, steps):
    """Weights and averages as a training leaves them that touches ROWS alone in its steps; by number of steps."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(37, 8, generator=generator)
    average = ExponentialAverage([weight], decay)
    found = {}
    for step in range(1, max(steps) + 1):
        touched = slice(None) if step <= 2 else ROWS
        weight[touched] += torch.randn(weight[touched].shape, generator=generator)
        average.update()
        if step in steps:
            found[step] = (weight.clone(), average.average_of(weight).clone())
    return found


@pytest.mark.parametrize("rows_at_once", [1, 5, 1000])
def test_averages_of_clean_rows_come_out_to_the_bit_and_those_of_dirty_ones_are_not_what_they_were(
    rows_at_once, monkeypatch
):
    monkeypatch.setattr(replay_module, "_PART_BYTES", 32 * rows_at_once)
    found = averaged(0.9, (4, 40))
    (weight, average), (_, expected) = found[4], found[40]
    table = {"weight": alone("weight", weight), "average": alone("average", average)}
    replay_average(table, AverageRecord(decay=0.9, first=4, last=40))
    untouched = [row for row in range(37) if row not in ROWS]
    assert torch.equal(average[untouched], expected[untouched])
    assert bool((average[ROWS] != expected[ROWS]).all())


def state_of(weight, average):
    return State({"tables.a.weight": weight, "average.tables.a.weight": average})


def save_two(folder, record):
    """A full checkpoint and a delta of which the average says ``record``; the state they make."""
    found = averaged(0.9, (4, 40))
    base = save_ranks(folder, 4, [uncut(state_of(*found[4]))])

    def change(tensors, of_delta):
        tensors["touched.a.0_0.average"] = alone("touched.a.0_0.average", found[40][1][ROWS])
        tensors.pop("average.tables.a.weight")
        if record is not None:
            of_delta["average"] = record

    path = save_delta(
        folder,
        40,
        state_of(*found[40]),
        {"a": ROWS},
        base=base,
        parent=base,
        shards={"a": ((0, 0, 37, 8),)},
        change=change,
    )
    return path, state_of(*found[40])


def test_a_delta_restores_averages_to_the_bit(tmp_path):
    path, expected = save_two(tmp_path, {"decay": 0.9, "first": 4, "last": 40})
    target = state_of(torch.zeros(37, 8), torch.zeros(37, 8))
    load_tensors(open_checkpoint(path), uncut(target))
    assert target.same_bits_as(expected)


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (None, "do not both have an average"),
        ({"decay": 0.9, "first": 4, "last": 5 + MAX_REPLAYED_STEPS}, "of the average, not 0"),
        ({"decay": 0.9, "first": 0, "last": 2**62}, "of the average, not 0"),
        ({"decay": 0.9, "first": 4, "last": 3}, "of the average, not 0"),
        ({"decay": 1.0, "first": 4, "last": 40}, "increment.average.decay"),
        ({"decay": -0.1, "first": 4, "last": 40}, "increment.average.decay"),
        ({"decay": "0.9", "first": 4, "last": 40}, "increment.average.decay"),
        ({"decay": 0.9, "first": -4, "last": 40}, "increment.average.first"),
    ],
)
def test_an_average_that_nobody_trained_is_refused(record, says, tmp_path):
    path, _ = save_two(tmp_path, record)
    target = state_of(torch.zeros(37, 8), torch.zeros(37, 8))
    with pytest.raises(CheckpointError) as caught:
        load_tensors(open_checkpoint(path), uncut(target))
    assert says in str(caught.value)
    assert not any(bool(value.any()) for value in target.values.values())
