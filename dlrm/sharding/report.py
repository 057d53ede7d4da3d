"""A sharding plan as rows that a person can read."""

from __future__ import annotations

from dataclasses import dataclass

from torchrec.distributed.types import ShardingPlan, ShardingType

from dlrm.optim.tables.base import TableOptimizer
from dlrm.sharding.groups import Groups, one_group
from dlrm.table_names import module_name

_GIB = 1024**3


@dataclass(frozen=True)
class TablePlacement:
    """Where one table is.

    Attributes:
        table, rows, dim: the table.
        sharding: sharding type; kernel: compute kernel.
        gib_by_rank: weights and optimizer state on each rank, GiB; of each copy, where there are several.
    """

    table: str
    rows: int
    dim: int
    sharding: str
    kernel: str
    gib_by_rank: tuple[float, ...]

    @property
    def ranks(self) -> tuple[int, ...]:
        """Ranks that hold a part of the table."""
        return tuple(rank for rank, gib in enumerate(self.gib_by_rank) if gib > 0)


def placements(
    plan: ShardingPlan,
    sizes: dict[str, tuple[int, int]],
    optimizer: TableOptimizer,
    world_size: int,
    groups: Groups | None = None,
) -> list[TablePlacement]:
    """One row a table, in the model's order.

    Args:
        plan: the plan, of a group of ranks or of all.
        sizes: (rows, dim) of each table.
        optimizer: of the tables; its state counts.
        world_size: number of ranks.
        groups: of ranks that share a copy of the tables; all share one if left out.
    """
    groups = groups or one_group(world_size)
    by_table = {name: parameter for module_plan in plan.plan.values() for name, parameter in module_plan.items()}
    rows_of_report = []
    for table, (rows, dim) in sizes.items():
        parameter = by_table[module_name(table)]
        bytes_by_rank = [0] * world_size
        if parameter.sharding_type == ShardingType.DATA_PARALLEL.value:
            bytes_by_rank = [optimizer.block_bytes(rows, dim)] * world_size
        else:
            for shard in parameter.sharding_spec.shards:
                shard_rows, shard_columns = shard.shard_sizes
                for rank in groups.peers_at(shard.placement.rank()):
                    bytes_by_rank[rank] += optimizer.block_bytes(shard_rows, shard_columns)
        gib = tuple(size / _GIB for size in bytes_by_rank)
        rows_of_report.append(TablePlacement(table, rows, dim, parameter.sharding_type, parameter.compute_kernel, gib))
    return rows_of_report


def ranks_text(ranks: tuple[int, ...]) -> str:
    """``0-3`` for consecutive ranks, ``0,2`` otherwise."""
    if len(ranks) > 2 and ranks[-1] - ranks[0] == len(ranks) - 1:
        return f"{ranks[0]}-{ranks[-1]}"
    return ",".join(str(rank) for rank in ranks)
