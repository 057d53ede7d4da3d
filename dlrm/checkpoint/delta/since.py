"""What the deltas of a chain say that came after one of its checkpoints; nothing is read of those before."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from dlrm.checkpoint.delta.dirty_rows import read_rows, row_values
from dlrm.checkpoint.delta.format import Delta, DirtyShard
from dlrm.checkpoint.fill import Progress
from dlrm.checkpoint.stored import StoredChunk
from dlrm.checkpoint.tensors import weight_name
from dlrm.errors import CheckpointError

_PART_BYTES = 32 << 20
"""Of weights in memory at once."""


@dataclass(frozen=True)
class ChangedRows:
    """Rows of a table as a delta has them.

    Attributes:
        rows_N: which, int64, ascending; weights_ND: all their columns.
    """

    rows_N: torch.Tensor
    weights_ND: torch.Tensor


def changed_rows(delta: Delta, table: str, dim: int, progress: Progress) -> Iterator[ChangedRows]:
    """The rows of a table that a delta has, in parts of bounded size; each chunk is verified, and read once.

    Args:
        delta: an open one.
        table: as the checkpoint calls it.
        dim: D.
        progress: is told the bytes that were read.

    Raises:
        CheckpointError: they are damaged; shards of the table do not have the same rows, so that rows are not whole.
    """
    name = weight_name(table)
    if name in delta.whole:
        yield from _all_rows(delta, name, dim, progress)
        return
    groups: dict[tuple[int, int], list[DirtyShard]] = defaultdict(list)
    for dirty in delta.shards:
        if dirty.table == table:
            groups[dirty.first_row, dirty.rows].append(dirty)
    for (first_row, _), shards in groups.items():
        if sum(dirty.columns for dirty in shards) != dim:
            raise _not_whole(delta, table)
        rows = [read_rows(delta, dirty) for dirty in shards]
        if any(not torch.equal(rows[0], other_N) for other_N in rows[1:]):
            raise _not_whole(delta, table)
        for dirty in shards:
            _tell(delta, f"{dirty.name}.rows", progress)
        yield from _rows_of(delta, shards, rows[0] + first_row, dim, progress)


def _rows_of(
    delta: Delta, shards: Sequence[DirtyShard], rows_N: torch.Tensor, dim: int, progress: Progress
) -> Iterator[ChangedRows]:
    columns = [_Columns(delta, dirty, progress) for dirty in shards]
    most = max(1, _PART_BYTES // (dim * torch.float32.itemsize))
    for first in range(0, len(rows_N), most):
        part_N = rows_N[first : first + most]
        weights_ND = torch.empty(len(part_N), dim)
        for shard in columns:
            shard.fill(weights_ND, first)
        yield ChangedRows(part_N, weights_ND)


class _Columns:
    """Reads the rows of a shard in order; the last chunk is kept for the rows that follow."""

    def __init__(self, delta: Delta, dirty: DirtyShard, progress: Progress) -> None:
        self._delta, self._dirty, self._progress = delta, dirty, progress
        chunks = delta.checkpoint.chunks.get(f"{dirty.name}.weight", [])
        self._chunks = sorted(chunks, key=lambda stored: stored.chunk.offsets)
        self._kept: tuple[StoredChunk, torch.Tensor, int] | None = None

    def fill(self, weights_ND: torch.Tensor, first: int) -> None:
        """Write the columns of the shard's rows ``first``, ``first + 1``, ... into those of a part."""
        for stored in self._chunks:
            start = stored.chunk.offsets[0]
            low, high = max(first, start), min(first + len(weights_ND), start + stored.chunk.shape[0])
            if low < high:
                values, column = self._values(stored)
                weights_ND[low - first : high - first, column : column + values.shape[1]] = values[
                    low - start : high - start
                ]

    def _values(self, stored: StoredChunk) -> tuple[torch.Tensor, int]:
        if self._kept is None or self._kept[0] is not stored:
            self._kept = (stored, *row_values(self._delta, self._dirty, "weight", stored))
            self._progress(stored.chunk.bytes)
        return self._kept[1:]


def _all_rows(delta: Delta, name: str, dim: int, progress: Progress) -> Iterator[ChangedRows]:
    """Of a table that the dense optimizer trains, all of which every checkpoint has."""
    for stored in delta.checkpoint.chunks.get(name, ()):
        first, count = stored.chunk.offsets[0], stored.chunk.shape[0]
        if stored.chunk.shape[1] != dim:
            raise _not_whole(delta, name)
        yield ChangedRows(torch.arange(first, first + count), delta.checkpoint.values(stored).float())
        progress(stored.chunk.bytes)


def _tell(delta: Delta, name: str, progress: Progress) -> None:
    progress(sum(stored.chunk.bytes for stored in delta.checkpoint.chunks.get(name, ())))


def _not_whole(delta: Delta, table: str) -> CheckpointError:
    problem = f"has rows of {table} in some of their columns only"
    return CheckpointError(delta.checkpoint.path, problem, hint="export it anew, without --update")
