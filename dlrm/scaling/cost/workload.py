"""What each rank does in a step under a sharding plan, in operations and bytes; no hardware is in it.

Formulas, with R ranks of which a host has L, B samples of a rank, and for each shard of a table its columns D:

- *Lookups.* A rank looks up the ids of all R B samples for the shards that it holds, those of its own B for tables that
  every rank has. Of a table that is cut by rows it gets the share of the ids that fall into its range of rows.
- *Ids.* They go to the ranks that hold the shards, once for each range of columns.
- *Pooled embeddings.* Whole bags go back by an all-to-all: B D numbers to each other rank. Partial sums of tables that are
  cut by rows go back by a reduce-scatter; those of tables cut over a host's ranks are summed within the host first, by a
  reduce-scatter, and then go from host to host. Gradients take the same way back (an all-gather undoes a reduce-scatter).
- *Gradients* of dense parameters and of tables that every rank has are all-reduced.

Sources: torchrec's sharding modules (torchrec/distributed/sharding/{tw,rw,cw,twrw,grid}_sharding.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.types import ParameterSharding, ShardingPlan, ShardingType

from dlrm.data.id_statistics.base import IdStatistics
from dlrm.scaling.operations import Operation
from dlrm.scaling.stage_names import ALL_REDUCE, AVERAGING, INPUT_DIST, OUTPUT_DIST, backward_of
from dlrm.table_names import module_name

ALL_TO_ALL, REDUCE_SCATTER, ALL_GATHER, ALL_REDUCE_OP = "all_to_all", "reduce_scatter", "all_gather", "all_reduce"
WORLD, HOST, ACROSS = "world", "host", "across"
"""Whom a collective joins: all ranks, those of a host, those with the same number on their hosts."""

DATA_PARALLEL: str = ShardingType.DATA_PARALLEL.value
_BY_ROWS: str = ShardingType.ROW_WISE.value
_ON_A_HOST: tuple[str, ...] = (ShardingType.TABLE_ROW_WISE.value, ShardingType.GRID_SHARD.value)
CUT_BY_ROWS = (_BY_ROWS, *_ON_A_HOST)
CACHING = EmbeddingComputeKernel.FUSED_UVM_CACHING.value
ON_HOST = (EmbeddingComputeKernel.FUSED_UVM.value, CACHING)
"""Kernels of tables in host memory; the first reads all rows from there."""
_LENGTH = 4
ONCE_A_STEP = (ALL_REDUCE, AVERAGING)
"""Stages whose exchanges a step has once, however many micro-batches it has."""
Bytes = NDArray[np.float64]


@dataclass(frozen=True)
class Lookup:
    """What a rank looks up, and updates, of a shard in a step.

    Attributes:
        table: its name; sharding: sharding type; kernel: compute kernel; cached: share of the lookups that find their
            row on the device, where the kernel caches.
        rows, columns: of the shard.
        bags: pooled embeddings, or partial sums of them; ids: in them; distinct: rows that they ask for.
        state: bytes that the optimizer keeps of a row.
    """

    table: str
    sharding: str
    kernel: str
    cached: float
    rows: int
    columns: int
    bags: float
    ids: float
    distinct: float
    state: float


@dataclass(frozen=True)
class Transfer:
    """A collective of a step.

    Attributes:
        stage: it belongs to.
        collective: all_to_all, reduce_scatter, all_gather, all_reduce.
        group: whom it joins, world, host, across.
        sent, received: bytes, by rank, to and from the others of the group; of an all-reduce the bytes that are reduced.
        ranks: that the world of it has, all ranks or those that share a copy of the tables; ranks_per_host: of these.
        calls: how many of them a step has, or a part of one that comes every few steps.
        sharding: sharding type that it is for; "" of what is no table.
    """

    stage: str
    collective: str
    group: str
    sent: Bytes
    received: Bytes
    ranks: int
    ranks_per_host: int
    calls: float = 1
    sharding: str = ""


@dataclass(frozen=True)
class Workload:
    """What the ranks do in a step.

    Attributes:
        ranks, ranks_per_host: of the job; samples: B of a rank.
        operations: of the dense part, the same on every rank.
        lookups: by rank.
        transfers: between ranks; empty on one.
        updates: operations of the optimizer of dense parameters; replicated: of that of tables that every rank has, whose
            weights are ``replicated_numbers`` numbers.
        batch_bytes: of a rank's part of a batch; batch_ids: ids in it; cut_bags, cut_ids: those of tables cut by rows.
        tables: their number.
        micro_batches: of a step, each of which does all this but for what is summed and applied once (``once_a_step``).
        prefetches_ids: whether the ids of a batch are exchanged while the one before is trained.
    """

    ranks: int
    ranks_per_host: int
    samples: float
    operations: tuple[Operation, ...]
    lookups: tuple[tuple[Lookup, ...], ...]
    transfers: tuple[Transfer, ...]
    updates: tuple[Operation, ...]
    replicated: tuple[Operation, ...]
    replicated_numbers: int
    batch_bytes: float
    batch_ids: float
    cut_bags: float
    cut_ids: float
    tables: int
    prefetches_ids: bool
    micro_batches: int = 1

    def without_once_a_step(self) -> Workload:
        """What a micro-batch does that is not the last of its step."""
        kept = tuple(transfer for transfer in self.transfers if transfer.stage not in ONCE_A_STEP)
        return replace(self, transfers=kept, updates=(), micro_batches=1)


@dataclass(frozen=True)
class Formats:
    """Bytes of a number on its way between ranks.

    Attributes:
        ids: of an id and the weight it may have; forward: of pooled embeddings; backward: of their gradients.
        all_reduce: of dense gradients.
    """

    ids: int = 4
    forward: int = 4
    backward: int = 4
    all_reduce: int = 4


@dataclass(frozen=True)
class _Shard:
    rank: int
    rows: int
    columns: int
    first_row: int
    first_column: int


class Tables:
    """What a plan makes of the tables in a step.

    Args:
        plan: of the tables.
        sizes: (rows, columns) of each, by name.
        ids: of each, by name.
        state_bytes: of the optimizer, of a row of so many columns.
        samples: B of a rank.
        ranks: R; ranks_per_host: L.
        formats: of what is sent.
    """

    def __init__(
        self,
        plan: ShardingPlan,
        sizes: Mapping[str, tuple[int, int]],
        ids: Mapping[str, IdStatistics],
        *,
        state_bytes: Callable[[int], float],
        samples: float,
        ranks: int,
        ranks_per_host: int,
        formats: Formats,
    ) -> None:
        self._sizes, self._ids, self._state_bytes = sizes, ids, state_bytes
        self._samples, self._ranks, self._per_host = samples, ranks, ranks_per_host
        self._formats = formats
        by_module = {name: parameter for module_plan in plan.plan.values() for name, parameter in module_plan.items()}
        self._plans = {table: by_module[module_name(table)] for table in sizes}

    def lookups(self) -> tuple[tuple[Lookup, ...], ...]:
        """Of each rank."""
        found: list[list[Lookup]] = [[] for _ in range(self._ranks)]
        for table, parameter in self._plans.items():
            for shard, share in self._shards_with_shares(table, parameter):
                found[shard.rank].append(self._lookup(table, parameter, shard, share))
        return tuple(map(tuple, found))

    def _lookup(self, table: str, parameter: ParameterSharding, shard: _Shard, share: float) -> Lookup:
        everywhere = parameter.sharding_type == DATA_PARALLEL
        bags = self._samples * (1 if everywhere else self._ranks)
        share_of_rows = (parameter.cache_params.load_factor or 0.0) if parameter.cache_params else 0.0
        asked = bags * self._ids[table].ids_per_sample
        return Lookup(
            table=table,
            sharding=parameter.sharding_type,
            kernel=parameter.compute_kernel,
            cached=self._ids[table].hot_share(min(1.0, share_of_rows)) if parameter.cache_params else 0.0,
            rows=shard.rows,
            columns=shard.columns,
            bags=bags,
            ids=asked * share,
            distinct=min(float(shard.rows), self._ids[table].distinct(asked) * (share if share < 1 else 1.0)),
            state=self._state_bytes(shard.columns),
        )

    def _shards_with_shares(self, table: str, parameter: ParameterSharding) -> Iterator[tuple[_Shard, float]]:
        """The shards, each with the share of the ids that fall into its rows."""
        rows, columns = self._sizes[table]
        if parameter.sharding_type == DATA_PARALLEL:
            for rank in range(self._ranks):
                yield _Shard(rank, rows, columns, 0, 0), 1.0
            return
        shards = list(_shards(parameter))
        firsts = sorted({shard.first_row for shard in shards})
        shares = [1.0] if len(firsts) == 1 else self._ids[table].row_range_shares(rows, len(firsts))
        for shard in shards:
            yield shard, shares[firsts.index(shard.first_row)]

    def cut(self) -> tuple[float, float]:
        """Bags and ids of a rank's samples whose tables are cut by rows."""
        names = [table for table, plan in self._plans.items() if plan.sharding_type in CUT_BY_ROWS]
        return self._samples * len(names), self._samples * sum(self._ids[table].ids_per_sample for table in names)

    def transfers(self) -> Iterator[Transfer]:
        """Of ids, pooled embeddings and their gradients, by sharding type; not of tables that every rank has."""
        if self._ranks == 1:
            return
        kinds = dict.fromkeys(parameter.sharding_type for parameter in self._plans.values())
        for sharding in (kind for kind in kinds if kind != DATA_PARALLEL):
            tables = {table: plan for table, plan in self._plans.items() if plan.sharding_type == sharding}
            yield self._ids_sent(sharding, tables)
            yield from self._pooled(sharding, tables)

    def _ids_sent(self, sharding: str, tables: Mapping[str, ParameterSharding]) -> Transfer:
        """Lengths and ids; each rank keeps what is for itself."""
        to_rank = np.zeros(self._ranks)  # bytes that a rank is sent by each of the others
        for table, parameter in tables.items():
            for shard, share in self._shards_with_shares(table, parameter):
                ids = self._samples * self._ids[table].ids_per_sample * share * self._formats.ids
                to_rank[shard.rank] += ids + self._samples * _LENGTH
        sent = to_rank.sum() - to_rank
        return self._transfer(INPUT_DIST, ALL_TO_ALL, WORLD, sent, to_rank * (self._ranks - 1), sharding, calls=2)

    def _pooled(self, sharding: str, tables: Mapping[str, ParameterSharding]) -> Iterator[Transfer]:
        columns = np.zeros(self._ranks)  # that a rank has of pooled embeddings or partial sums
        for parameter in tables.values():
            for shard in _shards(parameter):
                columns[shard.rank] += shard.columns
        there, back = OUTPUT_DIST, backward_of(OUTPUT_DIST)
        if sharding == _BY_ROWS:
            width = sum(self._sizes[table][1] for table in tables)
            sent = np.full(self._ranks, self._samples * width * (self._ranks - 1.0))
            yield self._sent(there, REDUCE_SCATTER, WORLD, sent, sent, self._formats.forward, sharding)
            yield self._sent(back, ALL_GATHER, WORLD, sent, sent, self._formats.backward, sharding)
            return
        per_host, hosts = self._per_host, self._ranks // self._per_host
        if sharding in _ON_A_HOST:
            # First the sums of a host's ranks, of which each gets those of as many samples, then from host to host.
            inside = self._samples * hosts * columns * (per_host - 1.0)
            yield self._sent(there, REDUCE_SCATTER, HOST, inside, inside, self._formats.forward, sharding)
            yield self._sent(back, ALL_GATHER, HOST, inside, inside, self._formats.backward, sharding)
            if hosts == 1:
                return
            group, others = ACROSS, hosts - 1.0
            everywhere = np.tile(columns.reshape(hosts, per_host).sum(axis=0), hosts)  # on ranks with the same number
        else:
            group, others = WORLD, self._ranks - 1.0
            everywhere = np.full(self._ranks, columns.sum())
        out, of_others = self._samples * columns * others, self._samples * (everywhere - columns)
        yield self._sent(there, ALL_TO_ALL, group, out, of_others, self._formats.forward, sharding)
        yield self._sent(back, ALL_TO_ALL, group, of_others, out, self._formats.backward, sharding)

    def _sent(
        self, stage: str, collective: str, group: str, sent: Bytes, received: Bytes, number_bytes: int, sharding: str
    ) -> Transfer:
        return self._transfer(stage, collective, group, sent * number_bytes, received * number_bytes, sharding)

    def _transfer(
        self, stage: str, collective: str, group: str, sent: Bytes, received: Bytes, sharding: str, *, calls: int = 1
    ) -> Transfer:
        return Transfer(stage, collective, group, sent, received, self._ranks, self._per_host, calls, sharding)


def _shards(parameter: ParameterSharding) -> Iterator[_Shard]:
    for shard in parameter.sharding_spec.shards:
        (first_row, first_column), (rows, columns) = shard.shard_offsets, shard.shard_sizes
        yield _Shard(shard.placement.rank(), rows, columns, first_row, first_column)


def all_reduced(stage: str, size: float, ranks: int, ranks_per_host: int, calls: int = 1) -> Iterator[Transfer]:
    """An all-reduce of ``size`` bytes, if there is somebody to do it with.

    Args:
        stage: it belongs to.
        size: bytes of each rank.
        ranks: that join it.
        ranks_per_host: of these.
        calls: collectives that it is cut into.
    """
    if ranks > 1 and size:
        reduced = np.full(ranks, float(size))
        yield Transfer(stage, ALL_REDUCE_OP, WORLD, reduced, reduced, ranks, ranks_per_host, calls)


def bytes_by_collective(workload: Workload) -> dict[str, float]:
    """That a rank sends to others in a step, in the mean; of an all-reduce as a ring sends them."""
    found: dict[str, float] = {}
    for transfer in workload.transfers:
        sent = float(transfer.sent.mean())
        if transfer.collective == ALL_REDUCE_OP:
            sent *= 2 * (transfer.ranks - 1) / transfer.ranks
        times = 1 if transfer.stage in ONCE_A_STEP else workload.micro_batches
        found[transfer.collective] = found.get(transfer.collective, 0.0) + times * sent
    return found
