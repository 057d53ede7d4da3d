"""From configuration and hardware to a sharding plan, made on rank 0 and the same on every rank."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

import psutil
import torch
from torch import nn
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import PlannerError, PlannerErrorType
from torchrec.distributed.types import ShardingPlan, ShardingType

from dlrm.config.optim import SparseAdam, SparseOptimizer
from dlrm.config.sharding import ShardingConfig, ShardingKind
from dlrm.distributed.collectives import from_rank_0
from dlrm.distributed.world import World
from dlrm.errors import ConfigError, PlanError
from dlrm.schema import Schema
from dlrm.sharding.sharder import TableSharder

_GIB = 1024**3


def make_plan(
    model: nn.Module,
    *,
    config: ShardingConfig,
    optimizer: SparseOptimizer,
    schema: Schema,
    world: World,
    rank_batch_size: int,
) -> ShardingPlan:
    """Ask torchrec's planner on rank 0 for a plan and give it to every rank.

    Args:
        model: the model with its tables (on the meta device).
        config: constraints and hardware figures.
        optimizer: of the tables; some sharding types would change its arithmetic and are left out.
        schema: sizes and hotness of the tables.
        world: ranks and device.
        rank_batch_size: samples of a rank in a step, by which the planner weighs communication.

    Raises:
        ConfigError: constraints for a table that does not exist.
        PlanError: no plan satisfies the constraints in the memory there is; the same on every rank.
    """
    constraints = table_constraints(config, optimizer, schema)
    planner = EmbeddingShardingPlanner(
        topology=topology(config, world),
        batch_size=max(1, rank_batch_size),
        storage_reservation=FixedPercentageStorageReservation(percentage=config.reserve_fraction),
        constraints=constraints,
        debug=False,
    )

    def plan() -> ShardingPlan:
        try:
            return planner.plan(model, [TableSharder()])
        except PlannerError as error:
            raise PlanError(_planner_message(error, config, world)) from error

    return from_rank_0(world.collectives, plan)


def topology(config: ShardingConfig, world: World) -> Topology:
    """What the planner is told of devices, memory and bandwidths; torchrec's defaults are nobody's hardware."""
    ranks_per_host = config.ranks_per_host or world.place.local_world_size
    if world.size % ranks_per_host:
        message = f"is {ranks_per_host}, which does not divide the {world.size} ranks"
        raise ConfigError.at("sharding.ranks_per_host", message)
    host_share = psutil.virtual_memory().total / world.place.local_world_size
    on_cuda = world.device.type == "cuda"
    device_bytes = torch.cuda.get_device_properties(world.device).total_memory if on_cuda else host_share
    if config.device_memory_gib is not None:
        device_bytes = config.device_memory_gib * _GIB
    host_bytes = config.host_memory_gib * _GIB if config.host_memory_gib is not None else host_share
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
        ddr_cap=int(host_bytes if on_cuda else device_bytes),
        **bandwidths,
    )


def table_constraints(
    config: ShardingConfig, optimizer: SparseOptimizer, schema: Schema
) -> dict[str, ParameterConstraints]:
    """The planner's constraints for every table.

    Raises:
        ConfigError: constraints for a table that does not exist, or sharding types that all change the optimizer.
    """
    names = [feature.name for feature in schema.sparse]
    for name in config.tables:
        if name not in names:
            nearest = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else f"; tables are {names[0]} .. {names[-1]}"
            raise ConfigError.at(f"sharding.tables.{name}", f"is no table{hint}")
    constraints = {}
    for feature in schema.sparse:
        own = config.tables.get(feature.name)
        key = f"sharding.tables.{feature.name}.types" if own and own.types else "sharding.types"
        kinds = own.types if own and own.types else config.types
        kernels = own.kernels if own and own.kernels else config.kernels
        constraints[feature.name] = ParameterConstraints(
            sharding_types=_faithful_types(kinds, optimizer, key),
            compute_kernels=list(kernels) if kernels else None,
            min_partition=config.min_column_width,
            pooling_factors=[float(feature.hotness)],
        )
    return constraints


def _faithful_types(kinds: Sequence[ShardingKind], optimizer: SparseOptimizer, key: str) -> list[str]:
    """The sharding types under which ``optimizer`` does what it does on one device.

    Adam of data-parallel tables has no sparse counterpart here.
    """
    unfaithful = {ShardingType.DATA_PARALLEL.value} if isinstance(optimizer, SparseAdam) else set()
    faithful: list[str] = [kind for kind in kinds if kind not in unfaithful]
    if not faithful:
        raise ConfigError.at(
            key,
            f"{', '.join(kinds)} would change the optimizer ({optimizer.kind} would keep moments of untouched rows); "
            "add another sharding type, or use optim.sparse.kind adagrad or sgd",
        )
    return faithful


def _planner_message(error: PlannerError, config: ShardingConfig, world: World) -> str:
    """One line for the planner's report of many."""
    memory = "device" if world.device.type == "cuda" else "host"
    if error.error_type in (PlannerErrorType.INSUFFICIENT_STORAGE, PlannerErrorType.PARTITION):
        needed = re.search(r"(\d+\.\d+|\d+) ?GB", str(error))
        limit = (
            f"sharding.device_memory_gib is {config.device_memory_gib:g}" if config.device_memory_gib else "detected"
        )
        return (
            f"the tables do not fit into the {memory} memory of {world.size} rank(s) ({limit}"
            f"{', planner: ' + needed.group(0) if needed else ''}); use more ranks, smaller tables or dimensions, "
            "more sharding.device_memory_gib, or allow more sharding.types (row_wise splits a large table)"
        )
    if error.error_type == PlannerErrorType.STRICT_CONSTRAINTS:
        return f"no sharding type and kernel satisfy sharding.types and sharding.kernels: {_first_line(error)}"
    return f"the planner found no plan: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
