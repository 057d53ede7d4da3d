"""The growing tables of an engine: from the configuration to what makes rows of ids, and back to rows that start anew."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import partial

import torch
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.types import ShardingPlan

from dlrm.config import Config
from dlrm.config.model.growing import GrowingEmbedding
from dlrm.distributed.internals import ShardedTensor
from dlrm.distributed.world import World
from dlrm.errors import ConfigError
from dlrm.format import escaped
from dlrm.lookups.shared import growing_tables
from dlrm.models.init import table_rows
from dlrm.optim.averaging import Averaging, ExponentialAverage
from dlrm.optim.training import TrainingOptimizer
from dlrm.schema import Schema
from dlrm.sharding.growing.fresh_rows import FreshRows, TablePart
from dlrm.sharding.growing.tables import GrowingTables, IdsAreRows, RowsOfIds
from dlrm.sharding.wrap import fused_shards
from dlrm.table_names import is_table_weight, table_name, table_of_weight

_CACHED = "fused_uvm_caching"


def growing_lines(config: Config, schema: Schema) -> tuple[str, ...]:
    """What a start says of growing tables; nothing if there are none."""
    return tuple(
        f"table {escaped(name)} grows: {one.own_rows:,} rows for ids alone in {one.buckets:,} buckets, "
        f"{one.rows - one.own_rows:,} shared; admission {one.admission.kind}, eviction {one.eviction.kind}; "
        "every sharding type may hold it"
        for name, one in growing_tables(config.model, schema).items()
    )


def check_growing(config: Config, schema: Schema, plan: ShardingPlan) -> None:
    """Refuse what growing tables cannot be combined with.

    Raises:
        ConfigError: ids are weighed as if they were rows, or rows are cached on a device.
    """
    growing = growing_tables(config.model, schema)
    if not growing:
        return
    first = escaped(next(iter(growing)))
    if config.sharding.id_statistics:
        message = (
            f"tells of ids, and table {first} grows: which rows it will use cannot be told from them; leave it out"
        )
        raise ConfigError.at("sharding.id_statistics", message)
    for module_plan in plan.plan.values():
        for module, parameter in module_plan.items():
            if table_name(module) in growing and parameter.compute_kernel == _CACHED:
                message = (
                    f"has table {escaped(table_name(module))} cached ({_CACHED}), and it grows: rows start anew in its "
                    "memory, which the cache would not notice; allow it other kernels"
                )
                raise ConfigError.at("sharding.kernels", message)


def build_growing(
    config: Config,
    schema: Schema,
    world: World,
    *,
    widths: Mapping[str, int],
    sharded: DistributedModelParallel,
    optimizer: TrainingOptimizer,
    average: Averaging,
) -> RowsOfIds:
    """What makes rows of the ids of batches.

    Args:
        config: of the run.
        schema: with the tables' rows.
        widths: of the rows of each table, without padding.
        world: the ranks.
        sharded: the model, whose rows start anew.
        optimizer: whose state of rows does.
        average: of the weights, which does, too.
    """
    growing = growing_tables(config.model, schema)
    if not growing:
        return IdsAreRows()
    initial = partial(_initial_rows, config, widths, growing)
    parts = _parts(sharded, optimizer, average, set(growing))
    fresh_rows = FreshRows(parts, initial, initial_state=optimizer.tables.initial_state)
    return GrowingTables(growing, schema, world.collectives, fresh_rows)


def _initial_rows(
    config: Config,
    widths: Mapping[str, int],
    growing: Mapping[str, GrowingEmbedding],
    table: str,
    rows_N: torch.Tensor,
    first_column: int,
    columns: int,
) -> torch.Tensor:
    return table_rows(
        rows_N,
        config.run.seed,
        table,
        rows=growing[table].rows,
        dim=widths[table],
        col_start=first_column,
        columns=columns,
        bound=config.model.embedding_init_bound,
    )


def _weights(sharded: DistributedModelParallel) -> list[tuple[str, torch.Tensor | ShardedTensor]]:
    return [(name, weight) for name, weight in sharded.state_dict().items() if is_table_weight(name)]


def _parts(
    sharded: DistributedModelParallel, optimizer: TrainingOptimizer, average: Averaging, tables: set[str]
) -> dict[str, list[TablePart]]:
    """By table what this rank holds of it."""
    fused = {(shard.table, shard.first_row, shard.first_column): shard.states for shard in fused_shards(sharded)}
    unfused = optimizer.unfused_state()
    found: dict[str, list[TablePart]] = defaultdict(list)
    for name, weight in _weights(sharded):
        table = table_of_weight(name)
        if table not in tables:
            continue
        if isinstance(weight, ShardedTensor):
            for shard in weight.local_shards():
                row, column = shard.metadata.shard_offsets
                if shard.tensor.numel():
                    states = fused.get((table, row, column), {})
                    found[table].append(_part(row, column, shard.tensor.detach(), states, average))
        else:
            found[table].append(_part(0, 0, weight.detach(), unfused[name], average))
        found.setdefault(table, [])
    return found


def _part(
    row: int, column: int, weight: torch.Tensor, states: Mapping[str, torch.Tensor], average: Averaging
) -> TablePart:
    averages = (average.average_of(weight),) if isinstance(average, ExponentialAverage) else ()
    return TablePart(row, column, (weight, *averages), tuple(states.values()))
