"""The sharded model with everything that trains it: what the model, optim, sharding and precision sections become."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.types import ShardingPlan

from dlrm.config import Config
from dlrm.config.train import TrainConfig
from dlrm.distributed.world import World
from dlrm.errors import ConfigError
from dlrm.format import escaped
from dlrm.lookups.jagged import RowsLookedUp
from dlrm.lookups.plan import Lookups, with_table_rows
from dlrm.memory import NO_BYTES, PROCESS, Bytes, MemoryAccount, expect
from dlrm.models.base import Model, group_of
from dlrm.models.build import build_model
from dlrm.models.init import fill_table_block
from dlrm.models.tables import padded_width
from dlrm.models.task import MODEL_PREFIX, TASK_WEIGHTING, TrainTask
from dlrm.models.task_weighting import UncertaintyWeights
from dlrm.optim.averaging import Averaging, ExponentialAverage, NoAverage
from dlrm.optim.schedule import batch_size_factor
from dlrm.optim.tables.base import TableOptimizer
from dlrm.optim.tables.build import check_table_optimizer, fuse_optimizer, padding_factors, table_optimizer
from dlrm.optim.training import TrainingOptimizer, build_optimizer, check_all_are_trained, check_rate_groups
from dlrm.schema import Schema
from dlrm.sharding.column_shards import train_column_shards
from dlrm.sharding.copies import ONE_COPY, AveragedCopies, CopiedTables, Copies
from dlrm.sharding.groups import Groups, groups_of
from dlrm.sharding.growing.tables import RowsOfIds
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
from dlrm.table_names import is_table_weight
from dlrm.train.growing import build_growing, check_growing
from dlrm.train.memory import Shapes, account, reserve
from dlrm.train.precision import DTYPES, allow_tf32, check_half_tables, lower_dense
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
        lookups: what the model looks up of a sample.
        rows_of_ids: what makes rows of the ids of batches.
        fill_block: writes initial weights of tables; task: the model with its loss, inside of ``model``.
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
    lookups: Lookups
    fill_block: FillBlock
    rows_of_ids: RowsOfIds
    task: TrainTask

    def learned_task_weights(self) -> list[float] | None:
        """The weight of each task's loss, where they are learned; the same on every rank."""
        weighting = self.task.task_weighting
        return weighting.weights() if isinstance(weighting, UncertaintyWeights) else None

    @property
    def widths(self) -> dict[str, int]:
        """Of the rows of each table, without padding."""
        return self.lookups.widths

    def reset_tables(self) -> None:
        """Put tables and their optimizer state back to where they started."""
        self.rows_of_ids.forget()
        fill_tables(self.model, self.fill_block)
        self.optimizer.reset_table_state()


@dataclass(frozen=True)
class PlannedModel:
    """A model that takes no memory yet, but for its dense parameters.

    Attributes:
        task: with the loss.
        tables: what trains its tables; sizes: (rows, padded width) of each table, by name.
        factors: of the rates of padded tables.
        groups: of ranks that share a copy of the tables.
        plan: where the tables are to be, in each group; sharders: put them there.
        memory_of: what a rank will take, its process aside.
    """

    task: TrainTask
    tables: TableOptimizer
    sizes: dict[str, tuple[int, int]]
    factors: dict[str, float]
    groups: Groups
    plan: ShardingPlan
    sharders: Sharders
    memory_of: Callable[[int], MemoryAccount]

    @property
    def lookups(self) -> Lookups:
        """What is looked up of a sample."""
        return self.task.model.lookups

    @property
    def schema(self) -> Schema:
        """The lookups as features, which is what the tables see of the data."""
        return self.lookups.schema

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
    schema = with_table_rows(config.model, schema)
    groups = find_groups(config, world)
    check_half_tables(config, copies=groups.copies)
    half = config.precision.tables == "fp16"
    of_tables = table_optimizer(config.optim.sparse, weight_bytes=2 if half else 4)
    check_table_optimizer(of_tables, world.device)
    model = build_model(config.model, schema, seed=config.run.seed, rank=world.rank, half_tables=half)
    lower_dense(model, config.precision, world.device)
    allow_tf32(config.precision, world.device)
    sharders = build_sharders(config.precision.exchange)
    task = build_task(model, config, schema)
    check_rate_groups(config.optim, task.groups, list(model.lookups.widths))
    if config.optim.frozen:
        task.freeze(config.optim.frozen)
    sizes = {table.name: (table.rows, padded_width(table.dim)) for table in model.lookups.tables}
    factors = padding_factors(of_tables, sizes, model.lookups.widths)
    fuse_optimizer(model.table_weights, of_tables, config.optim, factors)
    model.scale_table_gradients({table: 1 / factor for table, factor in factors.items()})
    looked_up, unpooled = model.lookups.schema, model.lookups.unpooled_tables
    shapes = Shapes.of(task, config, looked_up, world, scored, exchanged=groups.size > 1, trains=trains)
    plan = make_plan(
        task,
        config=config.sharding,
        optimizer=of_tables,
        lookups=model.lookups,
        world=world,
        rank_batch_size=config.train.micro_batch_size // world.size,
        sharders=sharders,
        reserve=reserve(config, shapes, of_tables, world, groups),
        groups=groups,
    )

    check_growing(config, schema, plan)

    def memory_of(rank: int) -> MemoryAccount:
        pieces = pieces_of(plan, sizes, looked_up, rank, groups, unpooled)
        return account(config, shapes, pieces, of_tables, world, groups)

    return PlannedModel(task, of_tables, sizes, factors, groups, plan, sharders, memory_of)


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
    widths = planned.lookups.widths
    table_weights = sum(rows * widths[name] for name, (rows, _) in sizes.items())
    weights = [(name, weight) for name, weight in task.named_parameters() if not is_table_weight(name)]
    dense_weights = sum(weight.numel() for _, weight in weights)
    dense_names = [name for name, weight in weights if weight.requires_grad]
    fill_block = _block_filler(config, sizes, widths)
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
        if not parameter.requires_grad:  # frozen
            continue
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
        factors=planned.factors,
        accumulation_steps=config.train.accumulation_steps,
        undecayed=[TASK_WEIGHTING],
        rate_factor=batch_size_factor(config),
    )
    check_all_are_trained(optimizer, [*dense_names, *replicated])
    if of_tables.initial_state:  # fbgemm starts from zeros
        optimizer.reset_table_state()
    rows_of_ids = build_growing(
        config,
        with_table_rows(config.model, schema),
        world,
        widths=widths,
        sharded=sharded,
        optimizer=optimizer,
        average=average,
    )
    return Engine(
        model=sharded,
        optimizer=optimizer,
        stepper=Stepper(
            sharded,
            optimizer,
            world.device,
            config.train.pipeline,
            copies,
            rows_of_ids=rows_of_ids,
            lookups=None if planned.lookups.are_ids else RowsLookedUp(planned.lookups),
        ),
        average=average,
        plan=plan,
        placements=planned.placements,
        copies=copies,
        memory=memory,
        hardware=hardware_of(config.sharding, world),
        dense_weights=dense_weights,
        table_weights=table_weights,
        lookups=planned.lookups,
        fill_block=fill_block,
        rows_of_ids=rows_of_ids,
        task=task,
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


def build_task(model: Model, config: Config, schema: Schema) -> TrainTask:
    """The model with its loss.

    Raises:
        ConfigError: a weight of a task that the data do not have; weights that are to be learned of a single one; a decay
            of embeddings of features with several ids.
    """
    if config.optim.embedding_decay:
        _check_rows_are_alone(model.lookups)
    tasks = schema.tasks
    weights: list[float] | None = task_weights(config.train, tasks)
    if config.train.task_weighting == "uncertainty":
        if len(tasks) == 1:
            message = (
                "is uncertainty, which weighs several tasks against each other, and the data have one; leave it out"
            )
            raise ConfigError.at("train.task_weighting", message)
        weights = None
    return TrainTask(
        model,
        weights,
        tasks=len(tasks),
        label_smoothing=config.train.label_smoothing,
        embedding_decay=config.optim.embedding_decay,
    )


def _check_rows_are_alone(lookups: Lookups) -> None:
    weighted = lookups.features.ids_have_weights
    for feature in lookups.schema.sparse:
        what = ""
        if feature.table in lookups.unpooled_tables:
            what = "rows that are looked up one by one (docs/sequences.md), which it does not reach"
        elif feature.hotness > 1:
            what = "several rows a sample, which all get the gradient of their sum"
        elif weighted:
            what = "rows that are multiplied by weights"
        if what:
            message = f"decays rows that are looked up alone, and {escaped(feature.name)} may have {what}; leave it out"
            raise ConfigError.at("optim.embedding_decay", message)


def task_weights(config: TrainConfig, tasks: Sequence[str]) -> list[float]:
    """The weight of each task's loss in what is trained; of weights that are learned, that at the start.

    Raises:
        ConfigError: a weight of a task that the data do not have.
    """
    unknown = [name for name in config.task_weights if name not in tasks]
    if unknown:
        key = f"train.task_weights.{unknown[0]}"
        raise ConfigError.at(key, f"is no task of the data, which have {', '.join(tasks)}")
    return [config.task_weights.get(task, 1.0) for task in tasks]


def _block_filler(config: Config, sizes: dict[str, tuple[int, int]], widths: dict[str, int]) -> FillBlock:
    """What writes the initial weights of any part of any table."""

    def fill(table: str, block_RC: torch.Tensor, first_row: int, first_column: int) -> None:
        fill_table_block(
            block_RC,
            config.run.seed,
            table,
            rows=sizes[table][0],
            dim=widths[table],
            row_start=first_row,
            col_start=first_column,
            bound=config.model.embedding_init_bound,
        )

    return fill
