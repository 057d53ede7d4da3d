"""Plans on the ranks that share them."""

import pytest
import torch
from torch.distributed._shard.sharded_tensor import ShardedTensor

from dlrm.distributed.collectives import ProcessGroup
from dlrm.errors import DlrmError
from dlrm.train.engine import build_engine
from tests.support.ranks import run_ranks
from tests.support.training import this_world, tiny_source
from tests.unit.sharding.plans import blocks_of, config_of, plan_of, tables_in


def plan_on_rank(rank, world_size, config):
    plan = tables_in(plan_of(config, this_world()))
    return {
        name: (p.sharding_type, p.compute_kernel, p.ranks, blocks_of(p) if p.sharding_spec is not None else None)
        for name, p in plan.items()
    }


@pytest.mark.parametrize("world_size", [2, 4])
def test_every_rank_has_the_same_plan(world_size):
    config = config_of("sharding.tables={cat_0: {types: data_parallel}, cat_1: {types: row_wise}}")
    first, *others = run_ranks(plan_on_rank, world_size, config)
    assert first["cat_1"][0] == "row_wise"
    assert all(other == first for other in others)


def refusal_on_rank(rank, world_size, config):
    with pytest.raises(DlrmError) as caught:
        plan_of(config, this_world())
    ProcessGroup().barrier()  # nobody was left behind in a broadcast
    return type(caught.value).__name__, str(caught.value)


@pytest.mark.parametrize(
    ("option", "kind"),
    [
        ("sharding.device_memory_gib=1e-6", "PlanError"),
        ("sharding.tables.elsewhere.types=row_wise", "ConfigError"),
        ("sharding.kernels=fused_uvm", "ConfigError"),
    ],
)
def test_a_plan_that_cannot_be_is_the_same_one_line_on_every_rank(option, kind):
    (name, said), other = run_ranks(refusal_on_rank, 2, config_of(option))
    assert (name, said) == other
    assert name == kind
    assert "\n" not in said


def parts_on_rank(rank, world_size, config):
    """What this rank holds of every table: (first row, first column, weights); and what the report says it holds."""
    engine = build_engine(config, tiny_source(1).schema, this_world())
    parts = {}
    for name, value in engine.model.state_dict().items():
        if ".embedding_bags." in name:
            shards = value.local_shards() if isinstance(value, ShardedTensor) else None
            own = [(0, 0, value)] if shards is None else [(*s.metadata.shard_offsets, s.tensor) for s in shards]
            parts[name.split(".")[-2]] = [(row, column, tensor.detach().clone()) for row, column, tensor in own]
    return parts, {placement.table: placement.gib_by_rank[rank] for placement in engine.placements}


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize(
    "kind", ["table_wise", "row_wise", "column_wise", "table_row_wise", "grid_shard", "data_parallel"]
)
def test_what_the_ranks_hold_is_each_weight_once_and_what_the_report_says(kind, world_size):
    config = config_of(f"sharding.types={kind}", "optim.sparse={kind: sgd, lr: 0.1}")
    sizes = {feature.name: (feature.rows, 16) for feature in tiny_source(1).schema.sparse}
    ranks = run_ranks(parts_on_rank, world_size, config)
    for table, size in sizes.items():
        copies = torch.zeros(size)
        for parts, gib in ranks:
            for row, column, weights in parts[table]:
                copies[row : row + weights.shape[0], column : column + weights.shape[1]] += 1
            held = sum(weights.numel() for _, _, weights in parts[table])
            assert gib[table] == pytest.approx(4 * held / 1024**3)
        assert copies.eq(world_size if kind == "data_parallel" else 1).all()
