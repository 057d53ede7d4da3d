"""The sharded model with everything that trains it: what the model, optim, sharding and precision sections become."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import torch
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.types import ShardingPlan

from dlrm.config import Config
from dlrm.config.train import TrainConfig
from dlrm.distributed.world import World
from dlrm.errors import ConfigError
from dlrm.memory import NO_BYTES, PROCESS, Bytes, MemoryAccount, expect
from dlrm.models.base import group_of
from dlrm.models.build import build_model
from dlrm.models.init import fill_table_block
from dlrm.models.sequences import table_features, unpooled_tables
from dlrm.models.task import MODEL_PREFIX, TrainTask
from dlrm.optim.averaging import Averaging, ExponentialAverage, NoAverage
from dlrm.optim.tables.base import TableOptimizer
from dlrm.optim.tables.build import check_table_optimizer, fuse_optimizer, table_optimizer
from dlrm.optim.training import TrainingOptimizer, build_optimizer, check_all_are_trained, check_rate_groups
from dlrm.schema import Schema
from dlrm.sharding.column_shards import train_column_shards
from dlrm.sharding.copies import ONE_COPY, AveragedCopies, CopiedTables, Copies
from dlrm.sharding.groups import Groups, groups_of
from dlrm.sharding.hardware import Hardware, hardware_of
from dlrm.sharding.memory import pieces_of
from dlrm.sharding.planner import make_plan
from dlrm.sharding.report import TablePlacement, placements
from dlrm.sharding.sharder import Sharders, build_sharders
from dlrm.sharding.wrap import (
    CachedRows,
    FillBlock,
    fill_tables,
    local_shards,
    local_weights,
    shard_model,
    split_parameters,
)
from dlrm.table_names import is_table_weight, module_name
from dlrm.train.memory import Shapes, account, reserve
from dlrm.train.precision import DTYPES, allow_tf32, lower_dense
from dlrm.train.stepper import Stepper


@dataclass(frozen=True)
class Engine:
    """A model that can be trained and evaluated.

    Attributes:
        model: tables sharded, MLPs replicated; optimizer: of all of it; stepper: drives both.
        average: of the weights, for evaluation.
        plan, placements: where the tables are, for torchrec (of each group of ranks that share a copy) and for people.
        copies: of the tables.
        memory: what this rank will take, its process aside; hardware: that was planned for.
        dense_weights, table_weights: numbers of weights outside of tables and in them, each counted once.
    """

    model: DistributedModelParallel
    optimizer: TrainingOptimizer
    stepper: Stepper
    average: Averaging
    plan: ShardingPlan
    placements: list[TablePlacement]
    copies: Copies
    memory: MemoryAccount
    hardware: Hardware
    dense_weights: int
    table_weights: int
    fill_block: FillBlock

    def reset_tables(self) -> None:
        """Put tables and their optimizer state back to where they started."""
        fill_tables(self.model, self.fill_block)
        self.optimizer.reset_table_state()


@dataclass(frozen=True)
class PlannedModel:
    """A model that takes no memory yet, but for its dense parameters.

    Attributes:
        task: with the loss; tables: what trains its tables; sizes: (rows, dim) of each table, by name.
        groups: of ranks that share a copy of the tables.
        plan: where the tables are to be, in each group; sharders: put them there.
        memory_of: what a rank will take, its process aside.
    """

    task: TrainTask
    tables: TableOptimizer
    sizes: dict[str, tuple[int, int]]
    groups: Groups
    plan: ShardingPlan
    sharders: Sharders
    memory_of: Callable[[int], MemoryAccount]

    @property
    def placements(self) -> list[TablePlacement]:
        """The plan for people: a row a table, over all ranks."""
        return placements(self.plan, self.sizes, self.tables, self.groups.world_size, self.groups)


def plan_model(config: Config, schema: Schema, world: World, *, scored: int = 0, trains: bool = True) -> PlannedModel:
    """Make the model, find what it takes, and plan its sharding.

    Args:
        config: of the run.
        schema: of the data.
        world: the ranks.
        scored: samples of the largest split that is evaluated.
        trains: whether the model will be trained, or only asked.

    Raises:
        ConfigError, PlanError: what does not fit the schema or the devices; the same on every rank.
    """
    groups = find_groups(config, world)
    of_tables = table_optimizer(config.optim.sparse)
    check_table_optimizer(of_tables, world.device)
    model = build_model(config.model, schema, seed=config.run.seed, rank=world.rank)
    lower_dense(model, config.precision, world.device)
    allow_tf32(config.precision, world.device)
    sharders = build_sharders(config.precision.exchange)
    features = table_features(config.model, schema)  # one a table
    check_rate_groups(config.optim, model.groups, [feature.name for feature in features])
    weights = model.table_weights
    fuse_optimizer(weights, of_tables, config.optim)
    sizes = {feature.name: (feature.rows, weights[module_name(feature.name)].shape[1]) for feature in features}
    of_each_table = replace(schema, sparse=features)
    task = TrainTask(model, task_weights(config.train, schema.tasks))
    shapes = Shapes.of(task, config, schema, world, scored, exchanged=groups.size > 1, trains=trains)
    plan = make_plan(
        task,
        config=config.sharding,
        optimizer=of_tables,
        schema=of_each_table,
        world=world,
        rank_batch_size=config.train.micro_batch_size // world.size,
        sharders=sharders,
        reserve=reserve(config, shapes, of_tables, world, groups),
        groups=groups,
    )

    def memory_of(rank: int) -> MemoryAccount:
        pieces = pieces_of(plan, sizes, of_each_table, rank, groups, unpooled_tables(config.model, schema))
        return account(config, shapes, pieces, of_tables, world, groups)

    return PlannedModel(task, of_tables, sizes, groups, plan, sharders, memory_of)


def find_groups(config: Config, world: World) -> Groups:
    """The ranks that share a copy of the tables.

    Raises:
        ConfigError: there cannot be such groups, or what else is configured allows no second copy.
        PlanError: hosts with unlike numbers of ranks.
    """
    groups = groups_of(config.sharding, world)
    if groups.copies > 1 and config.checkpoint.enabled and config.checkpoint.full_every > 1:
        message = (
            f"is {config.checkpoint.full_every}, and with {groups.copies} copies of the tables (sharding.group_size) every "
            "row may change when they are averaged, by rounding, so that no delta would hold all changes; use 1"
        )
        raise ConfigError.at("checkpoint.full_every", message)
    return groups


def build_engine(
    config: Config,
    schema: Schema,
    world: World,
    *,
    scored: int = 0,
    process: Bytes = NO_BYTES,
    trains: bool = True,
) -> Engine:
    """Make the model, plan its sharding, shard it, and give it its optimizers; see :func:`plan_model`.

    ``process`` is what the process takes without a model, for the account that an error tells of.
    """
    planned = plan_model(config, schema, world, scored=scored, trains=trains)
    memory = planned.memory_of(world.rank)
    expect(memory.with_part(PROCESS, process))  # before there are tables, with which memory runs out most often
    task, of_tables, sizes, plan = planned.task, planned.tables, planned.sizes, planned.plan
    table_weights = sum(rows * dim for rows, dim in sizes.values())
    dense_weights = sum(parameter.numel() for parameter in task.parameters()) - table_weights
    dense_names = [name for name, _ in task.named_parameters() if not is_table_weight(name)]
    fill_block = _block_filler(config, sizes)
    sharded = shard_model(
        task,
        plan=plan,
        world=world,
        fill_block=fill_block,
        sharders=planned.sharders,
        all_reduce=DTYPES[config.precision.all_reduce],
        bucket_mib=config.train.all_reduce_bucket_mib,
        accumulates=config.train.accumulation_steps > 1,
        groups=planned.groups,
        timeout=timedelta(seconds=config.distributed.timeout_s),
    )
    train_column_shards(sharded, plan=plan, optimizer=of_tables, groups=planned.groups)
    dense, replicated = split_parameters(sharded, plan)
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for name, parameter in dense.items():
        groups.setdefault(group_of(name.removeprefix(MODEL_PREFIX)), {})[name] = parameter
    average: Averaging = NoAverage()
    if config.train.average_decay > 0:
        average = ExponentialAverage(local_weights(sharded), config.train.average_decay, CachedRows(sharded))
    copies = _copies(config, sharded, planned.groups, world, average)
    optimizer = build_optimizer(
        config.optim,
        of_tables,
        fused=sharded.fused_optimizer,
        groups=groups,
        data_parallel_tables=replicated,
        accumulation_steps=config.train.accumulation_steps,
    )
    check_all_are_trained(optimizer, [*dense_names, *replicated])
    return Engine(
        model=sharded,
        optimizer=optimizer,
        stepper=Stepper(sharded, optimizer, world.device, config.train.pipeline, copies),
        average=average,
        plan=plan,
        placements=planned.placements,
        copies=copies,
        memory=memory,
        hardware=hardware_of(config.sharding, world),
        dense_weights=dense_weights,
        table_weights=table_weights,
        fill_block=fill_block,
    )


def _copies(
    config: Config, sharded: DistributedModelParallel, groups: Groups, world: World, average: Averaging
) -> Copies:
    if not isinstance(sharded, CopiedTables):
        return ONE_COPY
    followers: list[torch.Tensor] = []
    if isinstance(average, ExponentialAverage):
        followers = [average.average_of(shard) for shard in local_shards(sharded)]
    return AveragedCopies(sharded, groups, world.rank, every_steps=config.sharding.sync_steps, followers=followers)


def task_weights(config: TrainConfig, tasks: Sequence[str]) -> list[float]:
    """The weight of each task's loss in what is trained.

    Raises:
        ConfigError: a weight of a task that the data do not have.
    """
    unknown = [name for name in config.task_weights if name not in tasks]
    if unknown:
        key = f"train.task_weights.{unknown[0]}"
        raise ConfigError.at(key, f"is no task of the data, which have {', '.join(tasks)}")
    return [config.task_weights.get(task, 1.0) for task in tasks]


def _block_filler(config: Config, sizes: dict[str, tuple[int, int]]) -> FillBlock:
    """What writes the initial weights of any part of any table."""

    def fill(table: str, block_RC: torch.Tensor, first_row: int, first_column: int) -> None:
        rows, dim = sizes[table]
        fill_table_block(
            block_RC,
            config.run.seed,
            table,
            rows=rows,
            dim=dim,
            row_start=first_row,
            col_start=first_column,
            bound=config.model.embedding_init_bound,
        )

    return fill
