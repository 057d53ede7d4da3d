"""Row-wise Adagrad that stays the same algorithm when a table is cut into columns.

Row-wise Adagrad keeps one number a row, the sum over the steps of the mean square of the row's D gradients. Where a plan
cuts a table into columns (column_wise, table_column_wise, grid_shard), fbgemm's fused kernel sees the columns of one shard
and takes the mean over these: it keeps one number a row *and shard*, and each shard learns at a rate of its own. That is
another algorithm, and its state cannot be given to another plan.

So here such tables are only looked up by the fused kernel. In the backward pass, in its place:

1. From the ids of the global batch and the gradient of the pooled embeddings (that of a bag, times the id's weight, is that
   of each id in it, since the tables all sum) each rank adds up the gradient of every row that its shards meet. Where rows
   are not summed, each id has a gradient of its own.
2. The ranks that hold shards of the same rows sum the squares of these gradients: one float32 a touched row. They have
   been sent the same ids, so their touched rows are the same and in the same order.
3. Each adds the sum, divided by the D of the whole table, to its copy of the accumulators, and updates its columns.

The accumulators of all column shards of a row are therefore equal to the bit: one number a row, whatever the plan.

It costs a sort of the ids, and torch's indexing instead of one fused kernel, and an all-reduce for each set of ranks that
share rows: with every table column_wise on two CPU ranks, steps of small models took up to twice as long as with the
fused kernels alone. Lookups without a table that is cut keep their fused kernel and cost nothing. Other optimizers work
on each weight by itself, so that cutting columns does not change them.

Terms: a *block* is a range of rows of a table over all of its columns, a *piece* is what a rank holds of a block, the
*holders* of a block are the ranks with a piece of it. C columns of a piece, U touched rows, X columns of a lookup.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.types import ShardingPlan, ShardMetadata
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dlrm.distributed.internals import Lookup, fused_lookups, is_pooled, kernels_of
from dlrm.errors import PlanError
from dlrm.optim.tables.base import TableOptimizer
from dlrm.optim.tables.rowwise_adagrad import TableRowwiseAdagrad
from dlrm.sharding.groups import Groups, one_group
from dlrm.table_names import table_name

_COUNT_ROWS_ON = ("cpu",)  # where the number of touched rows need not be waited for
_UNCACHED_KERNELS = (EmbeddingComputeKernel.FUSED.value, EmbeddingComputeKernel.FUSED_UVM.value)


def train_column_shards(
    sharded: nn.Module, *, plan: ShardingPlan, optimizer: TableOptimizer, groups: Groups | None = None
) -> None:
    """Take the update of tables that are cut into columns over from the fused kernels, if it is row-wise Adagrad.

    Every rank has to call it, once, after the model has been wrapped and before the first step.

    Args:
        sharded: the sharded model.
        plan: by which it was sharded.
        optimizer: of the tables.
        groups: of ranks that share a copy of the tables, in which the plan's ranks are positions; one if left out.

    Raises:
        PlanError: a table is cut into columns and lies behind a cache, where its rows cannot be reached; on every rank.
    """
    if not optimizer.by_row:
        return
    assert isinstance(optimizer, TableRowwiseAdagrad), f"no update by columns of {optimizer.kind}"
    holders = _holders_of_cut_blocks(plan)
    meeting = _process_groups(holders.values(), groups or one_group(dist.get_world_size()))
    for lookup in fused_lookups(sharded):
        pieces = _pieces_by_block(lookup)
        if any(block in holders for block in pieces):
            group_of = {block: meeting.get(holders.get(block, ())) for block in pieces}
            lookup.register_forward_hook(_LookupUpdate(pieces, group_of, optimizer, pooled=is_pooled(lookup)).watch)


class _Block(NamedTuple):
    """Consecutive rows of a table, which is called as torchrec does."""

    table: str
    first_row: int
    rows: int


@dataclass(frozen=True)
class _Piece:
    """What this rank holds of a block: some columns of each of its rows.

    Attributes:
        kernel: fbgemm's module; it knows the learning rate.
        weight_RC, sums_R: views of the weights and the accumulators in it.
        dim: columns of the whole table.
        features, columns: where the ids of each of its features are among those of the lookup, and its columns for that
            feature in the lookup's output, if that sums rows.
    """

    kernel: Any
    weight_RC: torch.Tensor
    sums_R: torch.Tensor
    dim: int
    features: tuple[int, ...]
    columns: tuple[slice, ...]


@dataclass(frozen=True)
class _Touched:
    """What a step brings to the pieces of a block.

    How many rows a step touches only the device knows, and asking it would be a wait a table and step. So there is a place
    for every id, and those that are left over have a gradient of zeros for a row that was touched, which changes nothing.

    Attributes:
        rows_U: int64 (U,).
        gradients_UC: gradients of these rows, one tensor a piece.
        squares_U: sum of their squares over the columns, first of the pieces here, then of all.
    """

    rows_U: torch.Tensor
    gradients_UC: list[torch.Tensor]
    squares_U: torch.Tensor


class _LookupUpdate:
    """Updates every piece of a lookup in the backward pass.

    Args:
        pieces: of this rank, by block, in an order that all ranks have in common.
        group_of: the process group of the block's holders; None where this rank is the only one.
        optimizer: its hyper-parameters.
        pooled: whether the lookup sums rows.
    """

    def __init__(
        self,
        pieces: dict[_Block, list[_Piece]],
        group_of: dict[_Block, dist.ProcessGroup | None],
        optimizer: TableRowwiseAdagrad,
        *,
        pooled: bool,
    ) -> None:
        self._pieces, self._pooled = pieces, pooled
        self._optimizer = optimizer
        self._blocks_of: dict[dist.ProcessGroup, list[_Block]] = {}
        for block, group in group_of.items():
            if group is not None:
                self._blocks_of.setdefault(group, []).append(block)

    def watch(
        self, lookup: nn.Module, inputs: tuple[KeyedJaggedTensor], pooled_BX: torch.Tensor
    ) -> torch.Tensor | None:
        """Forward hook: cut the output off from the fused kernel's backward pass and wait for its gradient instead."""
        if not torch.is_grad_enabled():
            return None
        leaf_BX = pooled_BX.detach().requires_grad_()
        leaf_BX.register_hook(partial(self._update, inputs[0]))
        return leaf_BX

    @torch.no_grad()
    def _update(self, ids: KeyedJaggedTensor, gradient_BX: torch.Tensor) -> None:
        touched = {block: self._add_up(pieces, ids, gradient_BX) for block, pieces in self._pieces.items()}
        for group, blocks in self._blocks_of.items():
            _all_reduce_together([touched[block].squares_U for block in blocks], group)
        for block, pieces in self._pieces.items():
            self._apply(pieces, touched[block])

    def _add_up(self, pieces: list[_Piece], ids: KeyedJaggedTensor, gradient_BX: torch.Tensor) -> _Touched:
        ids_N, bags_N, weights_N = _ids_and_bags_of(ids, pieces[0].features)  # those of the other pieces are the same
        if not self._pooled:
            bags_N, weights_N = torch.arange(len(ids_N), device=ids_N.device), None
        rows_U, place_N, order_N = _gathered_by_row(ids_N)
        bags_N = bags_N.index_select(0, order_N)
        squares_U = gradient_BX.new_zeros(len(rows_U), dtype=torch.float32)
        gradients_UC = []
        for piece in pieces:
            gradient_NC = self._of_bags(piece, ids, gradient_BX).index_select(0, bags_N).float()
            if weights_N is not None:
                gradient_NC *= weights_N.index_select(0, order_N)[:, None]
            gradient_UC = gradient_NC.new_zeros(len(rows_U), gradient_NC.shape[1])
            gradient_UC.index_add_(0, place_N, gradient_NC)
            squares_U += gradient_UC.square().sum(dim=1)
            gradients_UC.append(gradient_UC)
        return _Touched(rows_U, gradients_UC, squares_U)

    def _of_bags(self, piece: _Piece, ids: KeyedJaggedTensor, gradient_BX: torch.Tensor) -> torch.Tensor:
        """The gradient of each of a piece's bags, feature by feature; where rows are not summed, of each of its ids."""
        if self._pooled:
            return _one_below_the_other(gradient_BX, piece.columns)
        # One vector of all rows, which torchrec has cut into equally wide columns.
        gradient_NC = gradient_BX.reshape(-1, piece.weight_RC.shape[1])
        offsets = ids.offset_per_key()
        return gradient_NC[offsets[piece.features[0]] : offsets[piece.features[-1] + 1]]

    def _apply(self, pieces: list[_Piece], touched: _Touched) -> None:
        rows_U = touched.rows_U
        for piece, gradient_UC in zip(pieces, touched.gradients_UC, strict=True):
            piece.sums_R.index_add_(0, rows_U, touched.squares_U / piece.dim)
            sums_U = piece.sums_R.index_select(0, rows_U)
            rates_U = piece.kernel.get_learning_rate() / (sums_U.sqrt() + self._optimizer.eps)
            piece.weight_RC.index_add_(0, rows_U, gradient_UC * rates_U[:, None], alpha=-1)


def _ids_and_bags(ids: KeyedJaggedTensor, feature: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The ids of a feature, the bag (sample) that each is in, both int64 (N,), and their weights if ids have some."""
    offsets = ids.offset_per_key()
    own = slice(offsets[feature], offsets[feature + 1])
    ids_N = ids.values()[own].long()
    lengths_B = ids.lengths().view(len(offsets) - 1, -1)[feature]
    bags_N = torch.arange(len(lengths_B), device=ids_N.device).repeat_interleave(lengths_B, output_size=len(ids_N))
    weights = ids.weights_or_none()
    return ids_N, bags_N, None if weights is None else weights[own]


def _ids_and_bags_of(
    ids: KeyedJaggedTensor, features: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Those of all features of a table; bags of the second are counted after those of the first."""
    found = [_ids_and_bags(ids, feature) for feature in features]
    if len(found) == 1:
        return found[0]
    bags = [bags_N + number * ids.stride() for number, (_, bags_N, _) in enumerate(found)]
    weights = [weights_N for _, _, weights_N in found if weights_N is not None]
    return torch.cat([ids_N for ids_N, _, _ in found]), torch.cat(bags), torch.cat(weights) if weights else None


def _one_below_the_other(gradient_BX: torch.Tensor, columns: Sequence[slice]) -> torch.Tensor:
    """The columns of each feature as rows, those of the first feature first."""
    parts = [gradient_BX[:, of_feature] for of_feature in columns]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _gathered_by_row(ids_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The ids in ascending order: rows_U (see :class:`_Touched`), the place of each id among these, and where it was."""
    sorted_N, order_N = ids_N.sort(stable=True)
    is_new_N = torch.ones_like(sorted_N)
    is_new_N[1:] = sorted_N[1:] != sorted_N[:-1]
    place_N = is_new_N.cumsum(0) - 1
    rows_U = sorted_N.scatter(0, place_N, sorted_N)
    if rows_U.device.type in _COUNT_ROWS_ON and len(rows_U):
        rows_U = rows_U[: int(place_N[-1]) + 1]
    return rows_U, place_N, order_N


def _all_reduce_together(tensors: list[torch.Tensor], group: dist.ProcessGroup) -> None:
    """Sum each vector over the ranks of the group, in place, with one call."""
    flat = torch.cat(tensors)
    dist.all_reduce(flat, group=group)
    for tensor, total in zip(tensors, torch.split(flat, [len(tensor) for tensor in tensors]), strict=True):
        tensor.copy_(total)


def _holders_of_cut_blocks(plan: ShardingPlan) -> dict[_Block, tuple[int, ...]]:
    """The positions with a piece, ascending, of each block that is cut into columns."""
    parameters = {table: parameter for of_module in plan.plan.values() for table, parameter in of_module.items()}
    ranks: dict[_Block, list[int]] = {}
    for table, parameter in parameters.items():
        for shard in parameter.sharding_spec.shards if parameter.sharding_spec is not None else []:
            ranks.setdefault(_block(table, shard), []).append(shard.placement.rank())
    # Ranks without a row of a short table all hold the same empty block.
    holders = {block: tuple(sorted(set(held))) for block, held in ranks.items() if len(held) > 1 and block.rows}
    own_update = {parameters[block.table].sharding_type for block in holders}  # all tables of a type share a lookup
    for table, parameter in parameters.items():
        if parameter.sharding_type in own_update and parameter.compute_kernel not in _UNCACHED_KERNELS:
            name = table_name(table)
            raise PlanError(
                f"table {name} is sharded {parameter.sharding_type} with kernel {parameter.compute_kernel}, behind whose "
                "cache row-wise Adagrad by columns cannot reach the rows; "
                f"set sharding.tables.{name}.kernels to fused,fused_uvm, or its types to row_wise"
            )
    return holders


def _process_groups(
    position_sets: Iterable[tuple[int, ...]], groups: Groups
) -> dict[tuple[int, ...], dist.ProcessGroup]:
    """For every set of two or more positions the process group in this rank's group; made in one order on all ranks."""
    mine = groups.copy_of(dist.get_rank())
    return {
        positions: [dist.new_group(ranks) for ranks in groups.in_each(positions)][mine]
        for positions in sorted(set(position_sets))
        if len(positions) > 1
    }


def _block(table: str, shard: ShardMetadata) -> _Block:
    return _Block(table, shard.shard_offsets[0], shard.shard_sizes[0])


def _pieces_by_block(lookup: Lookup) -> dict[_Block, list[_Piece]]:
    """What this rank holds in a lookup, sorted by table and rows."""
    pieces: dict[_Block, list[_Piece]] = {}
    feature = column = 0
    for config, kernel in kernels_of(lookup):
        tables, weights, states = (
            config.embedding_tables,
            kernel.split_embedding_weights(),
            kernel.split_optimizer_states(),
        )
        for table, weight_RC, (sums_R, *_) in zip(tables, weights, states, strict=True):
            features = tuple(range(feature, feature + len(table.feature_names)))
            starts = [column + number * table.local_cols for number in range(len(features))]
            columns = tuple(slice(start, start + table.local_cols) for start in starts)
            piece = _Piece(kernel, weight_RC, sums_R, table.embedding_dim, features, columns)
            pieces.setdefault(_block(table.name, table.local_metadata), []).append(piece)
            feature, column = feature + len(features), columns[-1].stop
    return dict(sorted(pieces.items()))
