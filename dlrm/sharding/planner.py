"""From configuration and hardware to a sharding plan, made on rank 0 and the same on every rank."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from torch import nn
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import PlannerError, PlannerErrorType
from torchrec.distributed.types import CacheParams, ShardingPlan, ShardingType
from torchrec.modules.embedding_configs import BaseEmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from dlrm.config.precision import ExchangeConfig
from dlrm.config.sharding import Kernel, ShardingConfig, ShardingKind
from dlrm.data.id_statistics.file import read_statistics
from dlrm.data.id_statistics.sample import statistics_of
from dlrm.distributed.collectives import from_rank_0
from dlrm.distributed.world import RankInfo, World
from dlrm.errors import ConfigError, ConfigProblem, PlanError
from dlrm.format import did_you_mean, first_line
from dlrm.lookups.plan import Lookups
from dlrm.optim.tables.base import BYTES_PER_NUMBER, TableOptimizer
from dlrm.schema import Schema
from dlrm.sharding.groups import Groups
from dlrm.sharding.hardware import Hardware, hardware_of, topology
from dlrm.sharding.sharder import Sharders, TableSharder, build_sharders
from dlrm.sharding.spread_ids import add_statistics, spread_of_lookups
from dlrm.sharding.unpooled import unpooled_tables, unpooled_types
from dlrm.table_names import module_name, table_name

_GIB = 1024**3
_MOST_ROWS_ON_CPU = 2**31 - 2  # embedding_backward_split_cpu_template.cpp: below 2^31 - 1
_CACHED: Kernel = "fused_uvm_caching"
_CUT_INTO_COLUMNS = tuple(
    kind.value for kind in (ShardingType.COLUMN_WISE, ShardingType.TABLE_COLUMN_WISE, ShardingType.GRID_SHARD)
)
_ON_DEVICES: tuple[Kernel, ...] = ("dense", "fused")
_DOES_NOT_FIT = (  # the last: the planner's word for tables that fit in sum, but not one by one
    PlannerErrorType.INSUFFICIENT_STORAGE,
    PlannerErrorType.PARTITION,
    PlannerErrorType.STRICT_CONSTRAINTS,
)
# The last two where constraints leave it nothing to choose from, e.g.
_OF_PLANNER = (PlannerError, ValueError, RuntimeError)


@dataclass(frozen=True)
class Reserve:
    """Bytes of a rank's memory that tables and their exchange cannot have.

    Attributes:
        device: on the device, beside the share that ``sharding.reserve_fraction`` leaves free.
        host: in the host's memory, all of it on CPU.
        copies: what of ``host`` is for copies of the state while it is saved.
    """

    device: int = 0
    host: int = 0
    copies: int = 0


NOTHING = Reserve()


def make_plan(
    model: nn.Module,
    *,
    config: ShardingConfig,
    optimizer: TableOptimizer,
    lookups: Lookups,
    world: World,
    rank_batch_size: int,
    sharders: Sharders | None = None,
    reserve: Reserve = NOTHING,
    groups: Groups | None = None,
) -> ShardingPlan:
    """Ask torchrec's planner on rank 0 for a plan and give it to every rank.

    Where there are several copies of the tables, it is the plan of each group of ranks that share one.

    Args:
        model: the model with its tables (on the meta device).
        config: constraints and hardware figures.
        optimizer: of the tables; some sharding types would change its arithmetic and are left out.
        lookups: what is looked up of a sample.
        world: ranks and device.
        rank_batch_size: samples of a rank in a step, by which the planner weighs communication.
        sharders: say in what tables exchange, which weighs too; float32 if left out.
        reserve: memory for all that is no table.
        groups: of ranks that share a copy of the tables; all share one if left out.

    Raises:
        ConfigError: constraints for tables that do not exist, or that leave a table no kernel.
        PlanError: no plan satisfies the constraints in the memory there is; the same on every rank.
    """
    schema = lookups.schema
    group = world if groups is None else groups.seen_from(world)
    constraints = table_constraints(config, optimizer, schema, group.rank_info, unpooled_tables(model))
    check_kernels(config, constraints, world.device.type)
    if groups is not None and groups.copies > 1:
        keep_on_devices(config, constraints)
    elif world.device.type == "cuda":
        add_caches(config, constraints)
    hardware = hardware_of(config, world)

    def plan_for(hardware: Hardware) -> ShardingPlan:
        kept = 1 - config.reserve_fraction
        planner = EmbeddingShardingPlanner(
            topology=topology(
                hardware,
                group,
                device_bytes=max(1, hardware.device_bytes - int(reserve.device / kept)),
                host_bytes=max(1, int(hardware.host_bytes * kept) - reserve.host),  # torchrec reserves of devices only
            ),
            batch_size=max(1, rank_batch_size),
            storage_reservation=FixedPercentageStorageReservation(percentage=config.reserve_fraction),
            constraints=constraints,
            debug=False,
        )
        return planner.plan(model, sharders or build_sharders(ExchangeConfig()))

    def plan() -> ShardingPlan:
        if config.id_statistics:
            ids = statistics_of(lookups.features, read_statistics(config.id_statistics))
            known = spread_of_lookups(lookups, ids)
            add_statistics(constraints, known, schema.by_table, samples=rank_batch_size * group.size)
        _check_room_on_host(hardware, config, reserve)
        try:
            return plan_for(hardware)
        except PlannerError as error:
            if error.error_type not in _DOES_NOT_FIT:
                raise PlanError(f"the planner found no plan: {first_line(error)}") from error
            short = _short_memory(plan_for, hardware)
            raise PlanError(
                _does_not_fit(model, optimizer, hardware, group, reserve, short=short, samples=rank_batch_size)
            ) from error
        except _OF_PLANNER as error:
            raise PlanError(f"the planner found no plan: {first_line(error)}") from error

    made = from_rank_0(world.collectives, plan)
    if world.device.type == "cpu":
        _check_rows_on_cpu(made)
    return made


def _check_room_on_host(hardware: Hardware, config: ShardingConfig, reserve: Reserve) -> None:
    """Refuse what has no room in a GPU's host even without tables there; the planner does not see that then."""
    room = hardware.host_bytes * (1 - config.reserve_fraction)
    if hardware.name is None or reserve.host <= room:
        return
    copies, without = "", ""
    if reserve.copies:
        copies = f", {reserve.copies / _GIB:.3g} of them for a copy of the state while it is saved"
        without = ", do without checkpoints (checkpoint.enabled: false)"
    raise PlanError(
        f"a rank needs {reserve.host / _GIB:.3g} GiB of its host's memory even with all tables on devices{copies}, and has "
        f"{hardware.host_bytes / _GIB:.3g} GiB less sharding.reserve_fraction ({config.reserve_fraction:g}); use more "
        f"ranks, smaller tables, dimensions or batches{without}, or allow more sharding.host_memory_gib"
    )


def _short_memory(plan_for: Callable[[Hardware], ShardingPlan], hardware: Hardware) -> str:
    """Which memory the tables do not fit into: there is a plan if there is more of it."""
    if hardware.name is None:
        return "host"
    for memory in ("device", "host"):
        try:
            plan_for(hardware.with_room(device=memory == "device", host=memory == "host"))
        except _OF_PLANNER:
            continue
        return memory
    return "device and host"


def table_constraints(
    config: ShardingConfig,
    optimizer: TableOptimizer,
    schema: Schema,
    rank_info: RankInfo,
    unpooled: Container[str] = (),
) -> dict[str, ParameterConstraints]:
    """The planner's constraints for every table, by the names that torchrec has for them.

    ``unpooled`` are those tables (by these names) whose rows are not summed.

    Raises:
        ConfigError: constraints for tables that do not exist, or sharding types that all change the optimizer.
    """
    unknown = list(_unknown_tables(config, list(schema.by_table)))
    if unknown:
        raise ConfigError(unknown)
    constraints = {}
    for table, features in schema.by_table.items():
        own = config.tables.get(table)
        key = f"sharding.tables.{table}.types" if own and own.types else "sharding.types"
        kinds = own.types if own and own.types else config.types
        kernels = own.kernels if own and own.kernels else config.kernels
        faithful = _faithful_types(kinds, optimizer, key)
        if module_name(table) in unpooled:
            faithful = unpooled_types(faithful, key)
        constraints[module_name(table)] = ParameterConstraints(
            sharding_types=_filling_types(faithful, features[0].rows, rank_info),
            compute_kernels=list(kernels) if kernels else None,
            min_partition=config.min_column_width,
            pooling_factors=[float(feature.hotness) for feature in features],
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


def keep_on_devices(config: ShardingConfig, constraints: Mapping[str, ParameterConstraints]) -> None:
    """Leave out kernels of tables in host memory: copies of tables are averaged by NCCL, from device to device.

    torchrec averages the table behind a cache, too, and not the rows in it.

    Raises:
        ConfigError: a table may have no others.
    """
    for module, constraint in constraints.items():
        given = constraint.compute_kernels
        kept = [kernel for kernel in given or _ON_DEVICES if kernel in _ON_DEVICES]
        if not kept:
            own = config.tables.get(table_name(module))
            key = f"sharding.tables.{table_name(module)}.kernels" if own and own.kernels else "sharding.kernels"
            message = (
                f"is {', '.join(given or ())}, and of tables in host memory there can be one copy only "
                "(sharding.group_size); use fused"
            )
            raise ConfigError.at(key, message)
        constraint.compute_kernels = kept


def add_caches(config: ShardingConfig, constraints: Mapping[str, ParameterConstraints]) -> None:
    """Say how much of a table the device caches, where it may be kept in host memory behind a cache."""
    for module, constraint in constraints.items():
        if constraint.compute_kernels is None or _CACHED in constraint.compute_kernels:
            own = config.tables.get(table_name(module))
            share = own.cache_share if own and own.cache_share is not None else config.cache_share
            constraint.cache_params = CacheParams(load_factor=share)


def _faithful_types(kinds: Sequence[ShardingKind], optimizer: TableOptimizer, key: str) -> list[str]:
    """The sharding types under which ``optimizer`` does what it does on one device."""
    unfaithful = set() if optimizer.data_parallel else {ShardingType.DATA_PARALLEL.value}
    if optimizer.weight_bytes < BYTES_PER_NUMBER:
        unfaithful = {ShardingType.DATA_PARALLEL.value, *(_CUT_INTO_COLUMNS if optimizer.by_row else ())}
    faithful: list[str] = [kind for kind in kinds if kind not in unfaithful]
    if not faithful and optimizer.weight_bytes < BYTES_PER_NUMBER:
        message = f"{', '.join(kinds)} has no kernel that updates float16 tables by {optimizer.kind} as others do"
        raise ConfigError.at(key, f"{message}; add table_wise or row_wise, or use precision.tables fp32")
    if not faithful:
        raise ConfigError.at(
            key,
            f"{', '.join(kinds)} would change the optimizer ({optimizer.kind} would keep moments of untouched rows); "
            "add another sharding type, or use optim.sparse.kind adagrad or sgd",
        )
    return faithful


def _configs(collection: EmbeddingBagCollection | EmbeddingCollection) -> list[BaseEmbeddingConfig]:
    unpooled = isinstance(collection, EmbeddingCollection)
    return list(collection.embedding_configs() if unpooled else collection.embedding_bag_configs())


def _does_not_fit(
    model: nn.Module,
    optimizer: TableOptimizer,
    hardware: Hardware,
    world: World,
    reserve: Reserve,
    *,
    short: str,
    samples: int,
) -> str:
    """One line for the planner's report of many, with the memory that is ``short`` and the options that mend it."""
    gib = {
        table_name(table.name): optimizer.block_bytes(table.num_embeddings, table.embedding_dim) / _GIB
        for module in model.modules()
        if isinstance(module, EmbeddingBagCollection | EmbeddingCollection)
        for table in _configs(module)
    }
    largest = max(gib, key=lambda name: gib[name])
    there_is = {"device": hardware.device_bytes, "host": hardware.host_bytes}
    memories = " and ".join(
        f"{size / _GIB:.3g} GiB of {memory} memory" for memory, size in there_is.items() if memory in short
    )
    beside = [f"beside the activations of {samples} samples"]
    if "host" in short and reserve.copies:
        beside += [f"and {reserve.copies / _GIB:.3g} GiB for a copy of the state while it is saved"]
    return (
        f"the tables need {sum(gib.values()):.3g} GiB with their optimizer's state ({largest} alone {gib[largest]:.3g}) "
        f"and do not fit into {world.size} rank(s) with {memories} each {' '.join(beside)}; "
        f"{_what_to_change(short, on_cpu=hardware.name is None, copies=bool(reserve.copies))}"
    )


def _what_to_change(short: str, *, on_cpu: bool, copies: bool) -> str:
    options = {"device": "sharding.device_memory_gib", "host": "sharding.host_memory_gib"}
    if on_cpu:
        options["host"] = options["device"]
    more = " and ".join(option for memory, option in options.items() if memory in short)
    told = ["use more ranks, smaller tables, dimensions or batches", f"more {more}"]
    if short == "host" and not on_cpu:
        told += ["keep tables on the devices (sharding.kernels: fused)"]
    if short == "device":
        told += ["keep tables in host memory (sharding.kernels: fused_uvm_caching, a smaller sharding.cache_share)"]
    if "host" in short and copies:
        told += ["do without checkpoints (checkpoint.enabled: false)"]
    return f"{', '.join(told)}, or allow more sharding.types (row_wise splits a large table)"
