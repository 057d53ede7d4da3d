"""What tables take of a rank's memory: weights, optimizer state, caches, and what is exchanged of them in a step."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace

from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.types import ParameterSharding, ShardingPlan, ShardingType

from dlrm.memory import Bytes
from dlrm.optim.tables.base import BYTES_PER_NUMBER, TableOptimizer
from dlrm.schema import Schema
from dlrm.sharding.groups import Groups
from dlrm.table_names import module_name

_ON_HOST = (EmbeddingComputeKernel.FUSED_UVM.value, EmbeddingComputeKernel.FUSED_UVM_CACHING.value)
_DATA_PARALLEL: str = ShardingType.DATA_PARALLEL.value
_CACHING = EmbeddingComputeKernel.FUSED_UVM_CACHING.value
_CUT_INTO_ROWS = (ShardingType.ROW_WISE.value, ShardingType.TABLE_ROW_WISE.value, ShardingType.GRID_SHARD.value)
_DEFAULT_CACHE_SHARE = 0.2  # fbgemm's and torchrec's, where the plan names none
_ID_BYTES = 8  # as lookups take them; on the way most are half as wide


@dataclass(frozen=True)
class Piece:
    """What a rank holds of a table.

    Attributes:
        rows, columns: of the piece.
        sharding: sharding type; kernel: compute kernel; cache_share: of its rows, on the device.
        primary: whether it begins at the table's first column (there a checkpoint finds the state of whole rows).
        hotness: most ids of a sample, of all features of the table; features: how many these are.
        saved: whether checkpoints hold it: where there are several copies of the tables, those of one.
        pooled: whether a sample's rows are summed before they are sent.
    """

    rows: int
    columns: int
    sharding: str
    kernel: str
    cache_share: float
    primary: bool
    hotness: int
    features: int = 1
    saved: bool = True
    pooled: bool = True

    @property
    def replicated(self) -> bool:
        """Whether every rank has all of it."""
        return self.sharding == _DATA_PARALLEL


def pieces_of(
    plan: ShardingPlan,
    sizes: Mapping[str, tuple[int, int]],
    schema: Schema,
    rank: int,
    groups: Groups | None = None,
    unpooled: Container[str] = (),
) -> list[Piece]:
    """What ``rank`` holds under ``plan``.

    Args:
        plan: of a group of ranks, or of all.
        sizes: (rows, columns) of each table, by name.
        schema: the tables' hotness.
        rank: of which rank.
        groups: of ranks that share a copy of the tables; all share one if left out.
        unpooled: names of the tables whose rows are not summed.
    """
    position, saved = (rank, True) if groups is None else (groups.position_of(rank), groups.copy_of(rank) == 0)
    by_table = {name: parameter for module_plan in plan.plan.values() for name, parameter in module_plan.items()}
    asked = {
        table: (sum(feature.hotness for feature in features), len(features))
        for table, features in schema.by_table.items()
    }
    return [
        replace(piece, pooled=table not in unpooled)
        for table, (rows, columns) in sizes.items()
        for piece in _pieces(by_table[module_name(table)], rows, columns, asked[table], position, saved=saved)
    ]


def _pieces(
    parameter: ParameterSharding, rows: int, columns: int, asked: tuple[int, int], position: int, *, saved: bool
) -> Iterator[Piece]:
    hotness, features = asked
    share = parameter.cache_params.load_factor if parameter.cache_params else None
    common = (parameter.sharding_type, parameter.compute_kernel, share or _DEFAULT_CACHE_SHARE)
    if parameter.sharding_type == _DATA_PARALLEL:
        yield Piece(rows, columns, *common, primary=True, hotness=hotness, features=features)
        return
    for shard in parameter.sharding_spec.shards:
        if shard.placement.rank() == position and shard.shard_sizes[0]:
            primary = shard.shard_offsets[1] == 0
            rows, columns = shard.shard_sizes
            yield Piece(rows, columns, *common, primary=primary, hotness=hotness, features=features, saved=saved)


def weight_bytes(piece: Piece, optimizer: TableOptimizer, *, on_cpu: bool) -> Bytes:
    """Of its weights, cached ones aside."""
    return _placed(piece, piece.rows * piece.columns * optimizer.weight_bytes, on_cpu=on_cpu)


def state_bytes(piece: Piece, optimizer: TableOptimizer, *, on_cpu: bool) -> Bytes:
    """Of the optimizer's state."""
    of_both = optimizer.block_bytes(piece.rows, piece.columns)
    return _placed(piece, of_both - piece.rows * piece.columns * optimizer.weight_bytes, on_cpu=on_cpu)


def _placed(piece: Piece, size: int, *, on_cpu: bool) -> Bytes:
    """In host memory, or on the device, as the kernel has it."""
    return Bytes(host=size) if on_cpu or piece.kernel in _ON_HOST else Bytes(device=size)


def cache_bytes(piece: Piece, optimizer: TableOptimizer) -> int:
    """Of its rows on the device, where the kernel caches them."""
    cached = piece.rows * piece.cache_share if piece.kernel == _CACHING else 0
    return int(cached) * piece.columns * optimizer.weight_bytes


def gradient_bytes(piece: Piece, optimizer: TableOptimizer) -> int:
    """Of its gradient, which only data-parallel tables have: in a bucket of the all-reduce, and what is beside that.

    Once it is the gradient as it is computed, once what the optimizer makes of it.
    """
    copies = 1 + max(1, optimizer.temporaries)
    return copies * piece.rows * piece.columns * BYTES_PER_NUMBER if piece.replicated else 0


def saved_bytes(piece: Piece, optimizer: TableOptimizer, ranks: int) -> int:
    """What this rank writes of it into a checkpoint; ranks share what all of them have."""
    if not piece.saved:
        return 0
    state = optimizer.state_shapes(piece.rows, piece.columns).values()
    numbers = sum(math.prod(shape) if len(shape) > 1 or piece.primary else 0 for shape in state)
    size = piece.rows * piece.columns * optimizer.weight_bytes + numbers * BYTES_PER_NUMBER
    return size // (ranks if piece.replicated else 1)


def exchange_bytes(pieces: list[Piece], schema: Schema, *, columns: int, samples: int, ranks: int) -> int:
    """Of ids that are exchanged, and of embeddings if this rank looks more of them up than the mean of all.

    Args:
        pieces: what the rank holds.
        schema: of what is looked up.
        columns: of all vectors that a sample gets, one a feature, or one an id where they are not summed.
        samples: B, of a rank's part of a batch.
        ranks: that exchange with each other.
    """
    if ranks == 1:
        return 0
    pooled = samples * columns * BYTES_PER_NUMBER  # what the dense part gets
    sharded = [piece for piece in pieces if not piece.replicated]
    vectors = sum(piece.columns * (piece.features if piece.pooled else piece.hotness) for piece in sharded)
    looked_up = ranks * samples * vectors * BYTES_PER_NUMBER
    ids = sum(_ids(piece, samples=samples, ranks=ranks) for piece in sharded) * schema.bytes_per_id(_ID_BYTES)
    return max(0, looked_up - pooled) + 2 * ids  # those of two batches: the pipeline is one ahead


def _ids(piece: Piece, *, samples: int, ranks: int) -> int:
    of_all = ranks * samples * piece.hotness
    return of_all // ranks if piece.sharding in _CUT_INTO_ROWS else of_all
