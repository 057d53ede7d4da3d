"""Ids of 32 bits train what ids of 64 bits do, to the bit."""

from unittest import mock

import pytest

from dlrm.config import load_config
from dlrm.schema import Schema
from tests.support.ranks import run_ranks
from tests.support.training import training_losses

SMALL = [
    *("model.bottom_mlp=16,8", "model.embedding_dim=8", "model.top_mlp=16,1", "train.global_batch_size=50"),
    "optim.sparse.lr=0.05",
]
SHARDINGS = [
    *("table_wise", "row_wise", "table_row_wise", "column_wise", "table_column_wise", "grid_shard", "data_parallel"),
]


def losses_of_both(rank, world_size, kind):
    """By sharding type the losses with ids of 32 bits, and with ids of 64."""
    found = {}
    for sharding in SHARDINGS:
        config = load_config(None, [*SMALL, f"optim.sparse.kind={kind}", f"sharding.types={sharding}"])
        narrow = training_losses(rank, world_size, config, 330, 8)
        with mock.patch.object(Schema, "id_bytes", 8):
            found[sharding] = narrow, training_losses(rank, world_size, config, 330, 8)
    return found


@pytest.mark.parametrize("kind", ["sgd", "rowwise_adagrad"])
@pytest.mark.parametrize("world_size", [1, 2])
def test_the_width_of_ids_changes_nothing(world_size, kind):
    for sharding, (narrow, wide) in run_ranks(losses_of_both, world_size, kind)[0].items():
        assert narrow == wide, sharding
