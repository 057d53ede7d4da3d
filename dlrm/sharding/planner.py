"""From configuration and hardware to a sharding plan, made on rank 0 and the same on every rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import get_args

import psutil
import torch
from torch import nn
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import PlannerError, PlannerErrorType
from torchrec.distributed.types import ShardingPlan, ShardingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from dlrm.config.sharding import Kernel, ShardingConfig, ShardingKind
from dlrm.distributed.collectives import from_rank_0
from dlrm.distributed.world import RankInfo, World
from dlrm.errors import ConfigError, ConfigProblem, PlanError
from dlrm.format import did_you_mean
from dlrm.optim.tables.base import TableOptimizer
from dlrm.schema import Schema
from dlrm.sharding.sharder import TableSharder
from dlrm.table_names import module_name, table_name

_GIB = 1024**3
_MOST_ROWS_ON_CPU = 2**31 - 2  # embedding_backward_split_cpu_template.cpp: below 2^31 - 1
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # cgroup v2; Linux, Documentation/admin-guide/cgroup-v2.rst
_DOES_NOT_FIT = (  # the last: the planner's word for tables that fit in sum, but not one by one
    PlannerErrorType.INSUFFICIENT_STORAGE,
    PlannerErrorType.PARTITION,
    PlannerErrorType.STRICT_CONSTRAINTS,
)


def make_plan(
    model: nn.Module,
    *,
    config: ShardingConfig,
    optimizer: TableOptimizer,
    schema: Schema,
    world: World,
    rank_batch_size: int,
    sharder: TableSharder | None = None,
) -> ShardingPlan:
    """Ask torchrec's planner on rank 0 for a plan and give it to every rank.

    Args:
        model: the model with its tables (on the meta device).
        config: constraints and hardware figures.
        optimizer: of the tables; some sharding types would change its arithmetic and are left out.
        schema: sizes and hotness of the tables.
        world: ranks and device.
        rank_batch_size: samples of a rank in a step, by which the planner weighs communication.
        sharder: says in what tables exchange, which weighs too; float32 if left out.

    Raises:
        ConfigError: constraints for tables that do not exist, or that leave a table no kernel.
        PlanError: no plan satisfies the constraints in the memory there is; the same on every rank.
    """
    constraints = table_constraints(config, optimizer, schema, world.rank_info)
    check_kernels(config, constraints, world.device.type)
    hardware = topology(config, world)
    planner = EmbeddingShardingPlanner(
        topology=hardware,
        batch_size=max(1, rank_batch_size),
        storage_reservation=FixedPercentageStorageReservation(percentage=config.reserve_fraction),
        constraints=constraints,
        debug=False,
    )

    def plan() -> ShardingPlan:
        try:
            return planner.plan(model, [sharder or TableSharder()])
        except PlannerError as error:
            raise PlanError(_planner_message(error, model, optimizer, hardware, rank_batch_size)) from error
        except (ValueError, RuntimeError) as error:  # where constraints leave it nothing to choose from, e.g.
            raise PlanError(f"the planner found no plan: {_first_line(error)}") from error

    made = from_rank_0(world.collectives, plan)
    if world.device.type == "cpu":
        _check_rows_on_cpu(made)
    return made


def topology(config: ShardingConfig, world: World) -> Topology:
    """What the planner is told of devices, memory and bandwidths; torchrec's defaults are nobody's hardware."""
    ranks_per_host = world.rank_info.local_world_size
    if world.size % ranks_per_host:
        raise PlanError(f"{world.size} ranks do not divide into hosts of {ranks_per_host}; start as many on every host")
    host_share = _host_memory_bytes() / world.rank_info.local_world_size
    on_cuda = world.device.type == "cuda"
    device_bytes = torch.cuda.get_device_properties(world.device).total_memory if on_cuda else host_share
    if config.device_memory_gib is not None:
        device_bytes = config.device_memory_gib * _GIB
    host_bytes = config.host_memory_gib * _GIB if config.host_memory_gib is not None else host_share
    ddr_bytes = (host_bytes if on_cuda else device_bytes) * (1 - config.reserve_fraction)
    bandwidths = {
        name: value * _GIB / 1000  # torchrec counts bytes per millisecond
        for name, value in (("intra_host_bw", config.intra_host_gib_s), ("inter_host_bw", config.inter_host_gib_s))
        if value is not None
    }
    return Topology(
        world_size=world.size,
        local_world_size=ranks_per_host,
        compute_device=world.device.type,
        hbm_cap=int(device_bytes) if on_cuda else 0,
        ddr_cap=int(ddr_bytes),  # torchrec's storage reservation only looks at device memory
        **bandwidths,
    )


def _host_memory_bytes() -> int:
    """Memory of the host, or of the container where that is less."""
    total = int(psutil.virtual_memory().total)
    limit = _CGROUP_LIMIT.read_text().strip() if _CGROUP_LIMIT.exists() else "max"
    return min(total, int(limit)) if limit.isdigit() else total


def table_constraints(
    config: ShardingConfig, optimizer: TableOptimizer, schema: Schema, rank_info: RankInfo
) -> dict[str, ParameterConstraints]:
    """The planner's constraints for every table, by the names that torchrec has for them.

    Raises:
        ConfigError: constraints for tables that do not exist, or sharding types that all change the optimizer.
    """
    unknown = list(_unknown_tables(config, [feature.name for feature in schema.sparse]))
    if unknown:
        raise ConfigError(unknown)
    constraints = {}
    for feature in schema.sparse:
        own = config.tables.get(feature.name)
        key = f"sharding.tables.{feature.name}.types" if own and own.types else "sharding.types"
        kinds = own.types if own and own.types else config.types
        kernels = own.kernels if own and own.kernels else config.kernels
        constraints[module_name(feature.name)] = ParameterConstraints(
            sharding_types=_filling_types(_faithful_types(kinds, optimizer, key), feature.rows, rank_info),
            compute_kernels=list(kernels) if kernels else None,
            min_partition=config.min_column_width,
            pooling_factors=[float(feature.hotness)],
        )
    return constraints


def _filling_types(kinds: list[str], rows: int, rank_info: RankInfo) -> list[str]:
    """``kinds`` without those that cut a small table into row ranges of which some ranks get none, if others remain.

    Such ranks exchange batches of empty bags, and other types do without. A table of one row cannot be cut into a grid:
    torchrec takes the ranks with its row for some of a table that is cut into columns only, and disagrees with itself on
    the size of the optimizer's state. Cut into columns it is where the grid would have it.
    """
    if rows == 1 and rank_info.local_world_size > 1:
        columns = ShardingType.COLUMN_WISE.value
        kinds = list(dict.fromkeys(columns if kind == ShardingType.GRID_SHARD.value else kind for kind in kinds))

    def fills(ranks: int) -> bool:
        return -(-rows // ranks) * (ranks - 1) < rows

    cut_over = {
        ShardingType.ROW_WISE.value: rank_info.world_size,
        ShardingType.TABLE_ROW_WISE.value: rank_info.local_world_size,
        ShardingType.GRID_SHARD.value: rank_info.local_world_size,
    }
    filling = [kind for kind in kinds if fills(cut_over.get(kind, 1))] or kinds
    if rank_info.local_world_size == rank_info.world_size and ShardingType.ROW_WISE.value in filling:
        # On a single host the two are one and the same; the plan should call it by its simpler name.
        filling = [kind for kind in filling if kind != ShardingType.TABLE_ROW_WISE.value]
    return filling


def _check_rows_on_cpu(plan: ShardingPlan) -> None:
    """Refuse shards that fbgemm's CPU kernels would refuse in the first backward pass."""
    for module_plan in plan.plan.values():
        for table, parameter in module_plan.items():
            shards = parameter.sharding_spec.shards if parameter.sharding_spec is not None else []
            most = max((shard.shard_sizes[0] for shard in shards), default=0)
            if most > _MOST_ROWS_ON_CPU:
                raise PlanError(
                    f"table {table}: {parameter.sharding_type} puts {most} rows on a rank, fbgemm's CPU kernels take "
                    f"{_MOST_ROWS_ON_CPU} at most; allow sharding.types row_wise, use more ranks, or fewer rows"
                )


def _unknown_tables(config: ShardingConfig, names: Sequence[str]) -> Iterator[ConfigProblem]:
    for name in config.tables:
        if name not in names:
            hint = did_you_mean(name, names) or f"tables are {names[0]} .. {names[-1]}"
            yield ConfigProblem(f"sharding.tables.{name}", "", f"is no table; {hint}")


def check_kernels(config: ShardingConfig, constraints: Mapping[str, ParameterConstraints], device_type: str) -> None:
    """Refuse compute kernels of which the device offers none for any sharding type that a table may have.

    Raises:
        ConfigError: names the option and the kernels there are.
    """
    for module, constraint in constraints.items():
        table = table_name(module)
        if constraint.compute_kernels is None:
            continue
        types = constraint.sharding_types or []
        offered = list(dict.fromkeys(k for kind in types for k in TableSharder().compute_kernels(kind, device_type)))
        if not set(offered) & set(constraint.compute_kernels):
            own = config.tables.get(table)
            key = f"sharding.tables.{table}.kernels" if own and own.kernels else "sharding.kernels"
            known = ", ".join(kernel for kernel in offered if kernel in get_args(Kernel))
            given = ", ".join(constraint.compute_kernels)
            raise ConfigError.at(key, f"is {given}, but for {', '.join(types)} on {device_type} there is only {known}")


def _faithful_types(kinds: Sequence[ShardingKind], optimizer: TableOptimizer, key: str) -> list[str]:
    """The sharding types under which ``optimizer`` does what it does on one device."""
    unfaithful = set() if optimizer.data_parallel else {ShardingType.DATA_PARALLEL.value}
    faithful: list[str] = [kind for kind in kinds if kind not in unfaithful]
    if not faithful:
        raise ConfigError.at(
            key,
            f"{', '.join(kinds)} would change the optimizer ({optimizer.kind} would keep moments of untouched rows); "
            "add another sharding type, or use optim.sparse.kind adagrad or sgd",
        )
    return faithful


def _planner_message(
    error: PlannerError, model: nn.Module, optimizer: TableOptimizer, hardware: Topology, rank_batch_size: int
) -> str:
    """One line for the planner's report of many."""
    if error.error_type not in _DOES_NOT_FIT:
        return f"the planner found no plan: {_first_line(error)}"
    gib = {
        table_name(table.name): optimizer.block_bytes(table.num_embeddings, table.embedding_dim) / _GIB
        for module in model.modules()
        if isinstance(module, EmbeddingBagCollection)
        for table in module.embedding_bag_configs()
    }
    largest = max(gib, key=lambda name: gib[name])
    storage = hardware.devices[0].storage
    memory, bytes_a_rank = ("device", storage.hbm) if hardware.compute_device == "cuda" else ("host", storage.ddr)
    return (
        f"the tables need {sum(gib.values()):.3g} GiB with their optimizer's state ({largest} alone {gib[largest]:.3g}) "
        f"and do not fit into {hardware.world_size} rank(s) with {bytes_a_rank / _GIB:.3g} GiB of {memory} memory each "
        f"beside the activations of {rank_batch_size} samples; use more ranks, smaller tables, dimensions or batches, more "
        "sharding.device_memory_gib, or allow more sharding.types (row_wise splits a large table)"
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
