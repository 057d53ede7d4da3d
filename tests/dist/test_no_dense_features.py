"""Without dense features training is the same on any number of ranks and goes on after a stop, with any interaction."""

import pytest

from tests.support.ranks import run_ranks
from tests.support.training import trained

SMALL = [
    "data={kind: random, num_dense: 0, rows: [7, 50, 300, 40], hotness: [1, 2, 1, 3], random_hotness: true}",
    "data.train_samples=150",  # no multiple of the batch
    "data.validation_samples=40",
    "model.embedding_dim=8",
    "model.top_mlp=8,1",
    "train.global_batch_size=32",
    "evaluation.every_steps=4",
]
RUNS = {
    "dot": ["optim.clip_norm=0.05", "optim.lr_scale.top_mlp=0.5", "train.average_decay=0.9"],
    "cat": ["model.interaction.kind=cat", "optim.dense={kind: adam, lr: 0.01}", "model.dropout=0.2"],
    "dcn": ["model.interaction={kind: dcn, rank: 4}", "optim.dense={kind: sgd, lr: 0.05, momentum: 0.9}"],
    "projection": ["model.interaction={kind: projection, branch1: [16], branch2: [8]}", "sharding.types=data_parallel"],
}
LENGTH, STOP = 6, 3


def runs(rank, world_size, resumed):
    """The last state and validation loss of each run; those in ``resumed`` end the same to the bit if they are stopped."""
    ends = {}
    for name, options in RUNS.items():
        state, _, loss = trained([*SMALL, *options], LENGTH)
        if name in resumed:
            again, _, loss_again = trained([*SMALL, *options], LENGTH, trained([*SMALL, *options], STOP)[:2])
            assert again.keys() == state.keys()
            assert all(again[key].equal(value) for key, value in state.items())
            assert loss_again == loss
        ends[name] = state, loss
    return ends


def test_one_and_two_ranks_train_the_same_and_resume():
    ends, of_two = run_ranks(runs, 1, [])[0], run_ranks(runs, 2, ["dot", "cat"])[0]
    for name, (state, loss) in ends.items():
        assert not any("bottom_mlp" in key for key in state)
        other, other_loss = of_two[name]
        assert other_loss == pytest.approx(loss, rel=1e-6)
        assert other.keys() == state.keys()
        for key, value in state.items():
            assert other[key].double().allclose(value.double(), rtol=1e-4, atol=1e-6), (name, key)
