"""Every model trains the same on any ranks and under every sharding type, and goes on after a stop to the bit."""

import pytest

from tests.dist.test_same_training import MODEL_PARALLEL
from tests.support.models import SMALL_MODELS
from tests.support.ranks import run_ranks
from tests.support.training import trained

DATA = [
    "data={kind: random, num_dense: 3, dense: normal, rows: [7, 50, 300, 40], hotness: [1, 2, 1, 3]}",
    "data.random_hotness=true",
    "data.train_samples=150",  # no multiple of the batch
    "data.validation_samples=40",
    "train.global_batch_size=32",
    "evaluation.every_steps=4",
    "optim.dense={kind: adam, lr: 0.01}",
    "optim.lr_scale.cat_1=2.0",
]
RATES = {
    "deepfm": ["optim.lr_scale={deep_mlp: 0.5, dense_fields: 2.0}"],
    "wukong": ["model.dropout=0.2", "optim.lr_scale.stack=0.5"],
    "finalmlp": ["model.dropout=0.2", "optim.clip_norm=0.05"],
}
MIXED = [f"sharding.tables.cat_{i}.types={kind}" for i, kind in enumerate(["data_parallel", *MODEL_PARALLEL[:3]])]
LENGTH, STOP = 6, 3


def options_of(kind):
    return [*DATA, f"model={SMALL_MODELS[kind]}", *RATES.get(kind, [])]


def of_each_model(rank, world_size, sharding):
    """What each model's training ends with."""
    return {kind: trained([*options_of(kind), *sharding], LENGTH)[::2] for kind in SMALL_MODELS}


def stopped_and_of_each_sharding(rank, world_size):
    """The same under mixed sharding, where a stop in between must change nothing; and one model under every type."""
    ends = of_each_model(rank, world_size, MIXED)
    for kind, (state, loss) in ends.items():
        options = [*options_of(kind), *MIXED]
        again, _, loss_again = trained(options, LENGTH, trained(options, STOP)[:2])
        assert again.keys() == state.keys()
        assert [name for name in state if not again[name].equal(state[name])] == [], kind
        assert loss_again == loss
    types = [*MODEL_PARALLEL, "data_parallel"]
    return ends, {one: trained([*options_of("deepfm"), f"sharding.types={one}"], LENGTH)[::2] for one in types}


@pytest.fixture(scope="module")
def one_rank():
    return run_ranks(of_each_model, 1, [])[0]


def assert_same(found, expected):
    (state, loss), (right, right_loss) = found, expected
    assert loss == pytest.approx(right_loss, rel=1e-5)
    assert state.keys() == right.keys()
    far = [name for name, value in right.items() if not state[name].double().allclose(value.double(), 1e-4, 1e-6)]
    assert far == []


def test_two_ranks_train_as_one_under_every_sharding_type_and_resume(one_rank):
    mixed, of_types = run_ranks(stopped_and_of_each_sharding, 2)[0]
    for kind in SMALL_MODELS:
        assert_same(mixed[kind], one_rank[kind])
    for found in of_types.values():
        assert_same(found, one_rank["deepfm"])


def test_three_ranks_that_share_no_batch_evenly_train_as_one(one_rank):
    found = run_ranks(of_each_model, 3, ["sharding.types=row_wise"])[0]
    for kind in SMALL_MODELS:
        assert_same(found[kind], one_rank[kind])
