"""From a model and a plan to a DistributedModelParallel whose weights do not depend on the plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import nn
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.types import ShardingPlan, ShardingType

from dlrm.config.precision import ExchangeConfig
from dlrm.distributed.internals import ShardedTensor, caches_rows, fused_lookups, kernels_of
from dlrm.distributed.world import World
from dlrm.sharding.copies import CopiedTables
from dlrm.sharding.empty_shards import keep_empty_shards_apart
from dlrm.sharding.groups import Groups
from dlrm.sharding.replicas import Replicas, settle_gradient_buckets
from dlrm.sharding.sharder import Sharders, build_sharders
from dlrm.sharding.unpooled_on_cpu import look_rows_up_by_torch
from dlrm.table_names import is_table_weight, table_name, table_of_weight

FillBlock = Callable[[str, torch.Tensor, int, int], None]
"""``fill(table, block_RC, first_row, first_column)`` writes the initial weights of a block of a table in place."""


def shard_model(
    model: nn.Module,
    *,
    plan: ShardingPlan,
    world: World,
    fill_block: FillBlock,
    sharders: Sharders | None = None,
    all_reduce: torch.dtype = torch.float32,
    bucket_mib: int | None = None,
    accumulates: bool = False,
    groups: Groups | None = None,
    timeout: timedelta | None = None,
) -> DistributedModelParallel:
    """Shard the tables by ``plan``, replicate the rest by DDP, and write the tables' initial weights.

    Args:
        model: tables on the meta device, everything else initialised on CPU, the same on every rank.
        plan: where each table goes, in each group of ranks.
        world: ranks and device.
        fill_block: writes the initial weights of whatever part of a table this rank holds.
        sharders: say in what tables exchange; float32 if left out.
        all_reduce: in what the gradients of the rest are summed over ranks.
        bucket_mib: of gradients that are summed together, in MiB; None as torch has it.
        accumulates: whether they are summed once for several backward passes.
        groups: of ranks that share a copy of the tables; all share one if left out.
        timeout: of what ranks of a group wait for, where there are several; torch's if left out.
    """
    wrapper = Replicas(all_reduce, bucket_mib=bucket_mib, accumulates=accumulates)
    sharders = sharders or build_sharders(ExchangeConfig())
    if groups is None or groups.copies == 1:
        sharded = DistributedModelParallel(
            model, device=world.device, plan=plan, sharders=sharders, data_parallel_wrapper=wrapper
        )
    else:
        sharded = CopiedTables(
            model,
            world.device,
            plan,
            groups,
            ranks_per_host=world.rank_info.local_world_size,
            timeout=timeout,
            sharders=sharders,
            data_parallel_wrapper=wrapper,
        )
    settle_gradient_buckets(sharded)
    for lookup in fused_lookups(sharded):
        for _, kernel in kernels_of(lookup):
            keep_empty_shards_apart(kernel)
    look_rows_up_by_torch(sharded)
    fill_tables(sharded, fill_block)
    return sharded


@torch.no_grad()
def fill_tables(sharded: DistributedModelParallel, fill_block: FillBlock) -> None:
    """Write the initial weights of every part of a table that this rank holds."""
    for name, weight in sharded.state_dict().items():
        if is_table_weight(name):
            _fill(table_of_weight(name), weight, fill_block)
    forget_cached_rows(sharded)


def _fill(table: str, weight: torch.Tensor | ShardedTensor, fill_block: FillBlock) -> None:
    if not isinstance(weight, ShardedTensor):  # data-parallel: the whole table is here
        fill_block(table, weight.detach(), 0, 0)
        return
    for shard in weight.local_shards():
        first_row, first_column = shard.metadata.shard_offsets
        fill_block(table, shard.tensor.detach(), first_row, first_column)


def local_shards(sharded: DistributedModelParallel) -> list[torch.Tensor]:
    """The parts of sharded tables that this rank holds, as views that training changes."""
    return [
        shard.tensor.detach()
        for weight in sharded.state_dict().values()
        if isinstance(weight, ShardedTensor)
        for shard in weight.local_shards()
        if shard.tensor.numel()
    ]


def local_weights(sharded: DistributedModelParallel) -> list[torch.Tensor]:
    """The parts of all trained weights that this rank holds, as views that training changes."""
    weights = []
    for weight in sharded.state_dict().values():
        if isinstance(weight, ShardedTensor):
            weights += [shard.tensor.detach() for shard in weight.local_shards()]
        elif weight.is_floating_point():  # dropout's step counter is no weight
            weights.append(weight.detach())
    return weights


@dataclass(frozen=True)
class FusedShard:
    """The optimizer's state of a part of a table, inside of the fused kernel that trains it.

    Attributes:
        table: its name.
        first_row, first_column: where the part begins.
        states: views by name: ``sum`` of Adagrad, ``exp_avg`` and ``exp_avg_sq`` of Adam; (rows, columns) of the part, or
            (rows,) of row-wise Adagrad.
    """

    table: str
    first_row: int
    first_column: int
    states: dict[str, torch.Tensor]


def fused_shards(sharded: nn.Module) -> Iterator[FusedShard]:
    """What the fused kernels of this rank hold; nothing if their optimizer keeps no state."""
    for lookup in fused_lookups(sharded):
        for config, kernel in kernels_of(lookup):
            # no list of states where there are none, so not strict
            for table, states in zip(config.embedding_tables, kernel.get_optimizer_state(), strict=False):
                first_row, first_column = table.local_metadata.shard_offsets
                yield FusedShard(table_name(table.name), first_row, first_column, states)


def forget_cached_rows(sharded: nn.Module) -> None:
    """Let kernels that cache rows read them anew: the weights behind the cache have been written to."""
    for lookup in fused_lookups(sharded):
        lookup.purge()


class CachedRows:
    """The rows of tables in host memory that kernels of this rank cache on the device (``fused_uvm_caching``).

    Training changes them in the cache, and the table behind it is older until they are flushed. torchrec does so before
    ``state_dict``; whoever keeps views of the tables does it himself.
    """

    def __init__(self, sharded: nn.Module) -> None:
        self._lookups = [
            lookup for lookup in fused_lookups(sharded) if any(caches_rows(kernel) for _, kernel in kernels_of(lookup))
        ]

    def flush(self) -> None:
        """Write what has changed in the caches to the tables."""
        for lookup in self._lookups:
            lookup.flush()

    def purge(self) -> None:
        """Let the kernels read rows anew: the tables have been written to."""
        for lookup in self._lookups:
            lookup.purge()


def data_parallel_tables(plan: ShardingPlan) -> set[str]:
    """Module names of the tables that ``plan`` replicates."""
    return {
        table
        for module_plan in plan.plan.values()
        for table, parameter in module_plan.items()
        if parameter.sharding_type == ShardingType.DATA_PARALLEL.value
    }


def split_parameters(
    sharded: DistributedModelParallel, plan: ShardingPlan
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The parameters that no fused kernel trains, by full name.

    Returns:
        Those outside of tables (replicated by DDP), and the weights of data-parallel tables.
    """
    replicated = data_parallel_tables(plan)
    mlps, tables = {}, {}
    for name, parameter in sharded.named_parameters():
        if not is_table_weight(name):
            mlps[name] = parameter
        elif name.split(".")[-2] in replicated:
            tables[name] = parameter
    return mlps, tables
