"""The same configuration gives the same training on any number of ranks and under any sharding type (law 2)."""

import pytest

from dlrm.config import load_config
from tests.support.ranks import run_ranks
from tests.support.training import training_losses

STEPS = 50
SAMPLES = 330  # no multiple of the batch: the epoch's last batch holds 30
SMALL = [
    "model.bottom_mlp=16,8",
    "model.embedding_dim=8",
    "model.top_mlp=16,1",
    "train.global_batch_size=50",  # no multiple of four ranks
]
OPTIMIZERS = {
    "sgd": ["optim.sparse.kind=sgd", "optim.sparse.lr=0.1", "optim.dense.kind=sgd", "optim.dense.lr=0.05"],
    "adagrad": ["optim.sparse.kind=adagrad", "optim.sparse.lr=0.05"],
    "rowwise_adagrad": ["optim.sparse.lr=0.05", "optim.dense.lr=0.01"],
}
MODEL_PARALLEL = ["table_wise", "row_wise", "table_row_wise", "column_wise"]


def losses(world_size, *options):
    config = load_config(None, [*SMALL, *options])
    by_rank = run_ranks(training_losses, world_size, config, SAMPLES, STEPS)
    assert all(of_rank == by_rank[0] for of_rank in by_rank)
    return by_rank[0]


def assert_same_training(actual, expected):
    assert actual[0] == pytest.approx(expected[0], rel=1e-6)
    assert actual == pytest.approx(expected, rel=1e-5)


@pytest.fixture(scope="module")
def one_rank():
    return {name: losses(1, *options, "sharding.types=table_wise") for name, options in OPTIMIZERS.items()}


@pytest.mark.parametrize("sharding", [*MODEL_PARALLEL, "data_parallel"])
@pytest.mark.parametrize("world_size", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_losses_do_not_depend_on_ranks_and_sharding(one_rank, optimizer, world_size, sharding):
    actual = losses(world_size, *OPTIMIZERS[optimizer], f"sharding.types={sharding}")
    assert_same_training(actual, one_rank[optimizer])


def test_training_makes_progress(one_rank):
    for curve in one_rank.values():
        assert sum(curve[-10:]) < 0.97 * sum(curve[:10])


def test_losses_do_not_depend_on_the_mixture_of_sharding_types(one_rank):
    tables = [f"sharding.tables.cat_{i}.types={kind}" for i, kind in enumerate(["data_parallel", *MODEL_PARALLEL[:3]])]
    assert_same_training(losses(2, *OPTIMIZERS["rowwise_adagrad"], *tables), one_rank["rowwise_adagrad"])


def test_losses_do_not_depend_on_the_pipeline(one_rank):
    assert_same_training(losses(2, *OPTIMIZERS["adagrad"], "train.pipeline=base"), one_rank["adagrad"])


def test_losses_do_not_depend_on_ranks_with_dropout_schedule_clipping_and_rates():
    options = [
        "model.dropout=0.3",
        "optim.schedule.warmup_steps=10",
        "optim.schedule.decay_start_step=20",
        "optim.schedule.decay_steps=20",
        "optim.clip_norm=0.05",
        "optim.lr_scale.cat_1=2.0",
        "optim.lr_scale.top_mlp=0.5",
        "model.interaction.kind=dcn",
        "model.interaction.rank=4",
    ]
    expected = losses(1, *options, "sharding.types=table_wise")
    assert_same_training(losses(3, *options), expected)
    plain = losses(1, *options[-2:], "sharding.types=table_wise")
    assert plain[-1] != pytest.approx(expected[-1], rel=1e-3)
