"""Weights of samples and of ids train as computed by hand, on any number of ranks under every sharding type (law 2)."""

from dataclasses import replace

import numpy as np
import pytest

from dlrm.config import load_config
from tests.support.random_models import RandomModel, assembled, random_model, train_model, weighted
from tests.support.ranks import run_ranks
from tests.support.training_by_hand import train_by_hand

SEEDS = {  # sharding type: models with tables that are averaged and tables that are summed, one of each optimizer
    "table_wise": 53,
    "row_wise": 44,
    "table_row_wise": 14,
    "grid_shard": 6,
    "column_wise": 30,
    "data_parallel": 45,
}


def models(world_size: int) -> list[RandomModel]:
    found = []
    for kind, seed in SEEDS.items():
        model = weighted(random_model(seed))
        sharding = load_config(None, [f"sharding.types={kind}", "sharding.min_column_width=4"]).sharding
        found.append(replace(model, ranks=world_size, config=model.config.model_copy(update={"sharding": sharding})))
    return found


def train(rank: int, world_size: int):
    return [train_model(rank, world_size, model) for model in models(world_size)]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_weights_train_as_computed_by_hand_on_any_ranks_under_every_sharding_type(world_size):
    by_rank = run_ranks(train, world_size)
    for (kind, _), model, *results in zip(SEEDS.items(), models(world_size), *by_rank, strict=True):
        if world_size > 1:
            assert set(results[0].sharding) == {kind}
        losses, tensors = train_by_hand(model)
        assert results[0].losses == pytest.approx(losses, rel=1e-5)
        found = assembled(results)
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            np.testing.assert_allclose(found[name], tensor, atol=1e-5, err_msg=f"{name}, {kind}")
