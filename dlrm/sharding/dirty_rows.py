"""Which rows of the sharded tables training has changed since the last checkpoint.

A fused kernel changes exactly the rows that it looks up, so before each lookup of a training step its ids are marked in a
map of one byte a row. torchrec has ``torchrec.distributed.model_tracker`` for this; it is not used, because it keeps the
ids of every step until they are read (memory grows with the steps between checkpoints, and all of them have to be made
unique then), takes those of evaluations as well, and cannot take back what it has handed out when a save fails.

Rows of data-parallel tables are not followed: no fused kernel looks them up.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dlrm.compiled import compiled
from dlrm.distributed.internals import Lookup, fused_lookups, kernels_of
from dlrm.table_names import table_name


class Shard(NamedTuple):
    """A part of a table that a fused kernel of this rank holds.

    Attributes:
        table: its name; first_row, first_column, rows, columns: which part, in the whole table.
    """

    table: str
    first_row: int
    first_column: int
    rows: int
    columns: int


class DirtyRows:
    """Follows the rows of every fused shard of this rank, from its making on.

    Rows are forgotten in two steps, so that none is lost with a save that fails: :meth:`take` hands them out, then
    :meth:`commit` says that a committed checkpoint holds them, or :meth:`rollback` that none does.

    Args:
        sharded: the sharded model.
    """

    def __init__(self, sharded: nn.Module) -> None:
        self._maps: list[_LookupMap] = []
        for lookup in fused_lookups(sharded):
            if lookup.grouped_configs:  # none on a rank without a shard of its sharding type
                self._maps.append(_LookupMap(lookup))
        self._taken: dict[Shard, torch.Tensor] | None = None

    def take(self) -> dict[Shard, torch.Tensor]:
        """The rows that training has changed since those that a committed save holds; collecting begins anew.

        Returns:
            For every shard the rows, int64 (n,) ascending, counted from the shard's first row, on its device.
        """
        if self._taken is not None:
            raise ValueError("what was taken last has neither been committed nor rolled back")
        self._taken = {shard: rows for marks in self._maps for shard, rows in marks.take()}
        return self._taken

    def commit(self) -> None:
        """The rows last taken are in a committed checkpoint."""
        self._taken = None

    def rollback(self) -> None:
        """The rows last taken, if any, are in no checkpoint: they count as dirty again."""
        if self._taken is not None:
            for marks in self._maps:
                marks.rollback(self._taken)
        self._taken = None

    def forget(self) -> None:
        """Count no row as dirty, and nothing as taken."""
        for marks in self._maps:
            marks.fill(0)
        self._taken = None


class _LookupMap:
    """One byte for each row of each shard of a lookup, 1 for dirty ones."""

    def __init__(self, lookup: Lookup) -> None:
        shards: list[Shard] = []
        shard_F = []  # the features of a lookup are those of its shards, in this order
        kernels = kernels_of(lookup)
        for config, _ in kernels:
            for table in config.embedding_tables:
                first_row, first_column = table.local_metadata.shard_offsets
                shard_F += [len(shards)] * table.num_features()
                shards.append(
                    Shard(table_name(table.name), first_row, first_column, table.local_rows, table.local_cols)
                )
        ends = np.cumsum([shard.rows for shard in shards])
        device = kernels[0][1].current_device
        self._marks = torch.zeros(int(ends[-1]), dtype=torch.uint8, device=device)
        self._ends_F = ends[shard_F]
        self._bases_F = torch.from_numpy(np.concatenate(([0], ends[:-1]))[shard_F]).to(device)
        self._part = {
            shard: self._marks[end - shard.rows : end]
            for shard, end in zip(shards, ends.tolist(), strict=True)
            if shard.rows
        }
        lookup.register_forward_pre_hook(self._mark)
        # Every write to rows from outside of the kernels (tables reset, a checkpoint loaded) ends with this call, by
        # which kernels drop their caches (dlrm.sharding.wrap.forget_cached_rows).
        lookup.purge = partial(self._mark_all_and, lookup.purge)

    def take(self) -> list[tuple[Shard, torch.Tensor]]:
        """The dirty rows of each shard; no row is dirty then."""
        found = [(shard, part.nonzero().squeeze(1)) for shard, part in self._part.items()]
        self._marks.zero_()
        return found

    def rollback(self, taken: dict[Shard, torch.Tensor]) -> None:
        for shard, part in self._part.items():
            part.index_fill_(0, taken[shard], 1)

    def fill(self, value: int) -> None:
        self._marks.fill_(value)

    def _mark_all_and(self, purge: Callable[[], None]) -> None:
        self.fill(1)
        purge()

    def _mark(self, lookup: nn.Module, inputs: tuple[KeyedJaggedTensor]) -> None:
        """Forward pre-hook: the ids count from the first row of their shard."""
        if not torch.is_grad_enabled() or not len(
            self._marks
        ):  # evaluations are without; `training` is not passed on here
            return
        ids = inputs[0]
        if self._marks.is_cuda:
            self._mark_on_device(ids)
        else:
            ends_F = np.asarray(ids.offset_per_key()[1:])
            _mark_rows(ids.values().numpy(), ends_F, self._bases_F.numpy(), self._ends_F, self._marks.numpy())

    def _mark_on_device(self, ids: KeyedJaggedTensor) -> None:
        """Four kernels, none of which the host waits for."""
        values_N, features = ids.values(), len(self._bases_F)
        ends_F = ids.offsets()[ids.stride() :: ids.stride()][:features]
        feature_N = torch.bucketize(torch.arange(len(values_N), device=values_N.device), ends_F, right=True)
        self._marks.index_fill_(0, values_N.long() + self._bases_F[feature_N], 1)


@compiled
def _mark_rows(
    ids_N: np.ndarray, ends_F: np.ndarray, bases_F: np.ndarray, row_ends_F: np.ndarray, marks: np.ndarray
) -> None:
    """Mark the ids of each feature in its part of the map; ids that no table has are the kernel's business."""
    first = 0
    for feature in range(len(ends_F)):
        base, stop = bases_F[feature], row_ends_F[feature]
        for place in range(first, ends_F[feature]):
            row = base + ids_N[place]
            if base <= row < stop:
                marks[row] = 1
        first = ends_F[feature]
