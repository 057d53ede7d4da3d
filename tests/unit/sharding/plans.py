"""Plans for worlds that are not there: planning needs no other ranks."""

import torch
from torchrec.distributed.types import ParameterSharding, ShardingPlan

from dlrm.config import Config, load_config
from dlrm.distributed.collectives import OneProcess
from dlrm.distributed.world import RankInfo, World
from dlrm.models.build import build_model
from dlrm.models.task import TrainTask
from dlrm.optim.tables.build import fuse_optimizer, table_optimizer
from dlrm.schema import Schema
from dlrm.sharding.planner import NOTHING, Reserve, make_plan

ROWS = (7, 50, 300, 40)
COMMON = ["model.embedding_dim=16", "model.bottom_mlp=8,16", "optim.sparse={kind: adagrad, lr: 0.1}"]


def config_of(*options: str) -> Config:
    return load_config(None, [*COMMON, *options])


def world_of(ranks: int, ranks_per_host: int | None = None, device: str = "cpu") -> World:
    place = RankInfo(0, ranks, 0, ranks_per_host or ranks)
    return World(rank_info=place, device=torch.device(device), backend="gloo", collectives=OneProcess())


def task_of(config: Config, schema: Schema) -> TrainTask:
    model = build_model(config.model, schema, seed=0)
    fuse_optimizer(model.table_weights, table_optimizer(config.optim.sparse), config.optim)
    return TrainTask(model)


def plan_of(
    config: Config,
    world: World,
    *,
    rows: tuple[int, ...] = ROWS,
    hotness: tuple[int, ...] | None = None,
    batch: int = 8,
    reserve: Reserve = NOTHING,
) -> ShardingPlan:
    schema = Schema.numbered(3, rows, hotness)
    task = task_of(config, schema)
    return make_plan(
        task,
        config=config.sharding,
        optimizer=table_optimizer(config.optim.sparse),
        lookups=task.model.lookups,
        world=world,
        rank_batch_size=batch,
        reserve=reserve,
    )


def tables_in(plan: ShardingPlan) -> dict[str, ParameterSharding]:
    return {table: parameter for module_plan in plan.plan.values() for table, parameter in module_plan.items()}


def blocks_of(parameter: ParameterSharding) -> list[tuple[int, int, int, int, int]]:
    """(rank, first row, first column, rows, columns) of every shard."""
    return [(s.placement.rank(), *s.shard_offsets, *s.shard_sizes) for s in parameter.sharding_spec.shards]
