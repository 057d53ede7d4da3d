"""Reading the dirty rows of a delta: verified before anything is changed, then written over the shards of a rank.

Memory is bounded by the row numbers of a shard and its chunks, some at a time: nothing of a whole table is ever held.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from dlrm.checkpoint.delta.format import QUANTISED, Delta, DirtyShard
from dlrm.checkpoint.delta.quantise import QUANTISED_PREFIX, restored
from dlrm.checkpoint.delta.replay import replay_average
from dlrm.checkpoint.manifest import RESTORE, TensorRecord
from dlrm.checkpoint.slices import Slice, intersection
from dlrm.checkpoint.stored import VERIFYING_THREADS, StoredChunk
from dlrm.checkpoint.tensors import GlobalTensor, Shard, tensors_by_table
from dlrm.errors import CheckpointError


def verify_dirty_rows(delta: Delta, tensors: Sequence[GlobalTensor]) -> None:
    """Read all dirty rows that this rank's shards need and see that they can be applied.

    Args:
        delta: an open one.
        tensors: those of the state that fit; of those among them that it has in fewer bytes all is read and seen to be
            restorable.

    Raises:
        CheckpointError: they are damaged, rows are out of range or out of order, or numbers would not be finite.
    """
    tables, checkpoint = tensors_by_table(tensors), delta.checkpoint
    not_whole = [stored for name, chunks in checkpoint.chunks.items() if name not in delta.whole for stored in chunks]
    for file in {stored.file.name: stored.file for stored in not_whole}.values():
        checkpoint.check_header(file)

    def verify(dirty: DirtyShard) -> None:
        for _ in _parts(delta, dirty, tables.get(dirty.table, {})):
            pass

    def verify_quantised(stored: StoredChunk) -> None:
        restored(checkpoint, stored, checkpoint.read(stored))

    names = [tensor.name for tensor in tensors if tensor.name in delta.quantised]
    chunks = [stored for name in names for stored in checkpoint.chunks[f"{QUANTISED_PREFIX}{name}"]]
    with ThreadPoolExecutor(VERIFYING_THREADS) as pool:
        list(pool.map(verify, delta.shards))
        list(pool.map(verify_quantised, chunks))


def fill_dirty_rows(delta: Delta, tensors: Sequence[GlobalTensor]) -> None:
    """Write the dirty rows of a delta over the shards of this rank, which hold the state of its parent.

    Raises:
        CheckpointError: they are damaged, some may have been written.
    """
    tables = tensors_by_table(tensors)
    if delta.record.average is not None:
        for table in delta.record.shards:
            replay_average(tables.get(table, {}), delta.record.average)
    for dirty in delta.shards:
        for part_of_shard, rows_N, values in _parts(delta, dirty, tables.get(dirty.table, {})):
            device = part_of_shard.device
            part_of_shard.index_copy_(0, rows_N.to(device), values.to(device))


def find_row_damage(delta: Delta, state: Mapping[str, TensorRecord]) -> list[CheckpointError]:
    """What keeps the rows of a delta from being applied to a state; its bytes are as they were written."""
    partial = [_without_memory(record) for name, record in state.items() if name not in delta.whole]
    try:
        verify_dirty_rows(delta, partial)
    except CheckpointError as error:
        return [error]
    return []


def _without_memory(record: TensorRecord) -> GlobalTensor:
    """One that nothing is written to."""
    return GlobalTensor.of(record.name, torch.empty(record.shape, dtype=record.torch_dtype, device="meta"))


def read_rows(delta: Delta, dirty: DirtyShard) -> torch.Tensor:
    """Which rows of a shard are dirty: int64 (n,), counted from the shard's first row.

    Raises:
        CheckpointError: they are damaged, not of the shard or not strictly increasing.
    """
    name = f"{dirty.name}.rows"
    rows_N = torch.empty(delta.rows_of(dirty), dtype=torch.int64)
    for stored in delta.checkpoint.chunks.get(name, ()):
        first, count = stored.chunk.offsets[0], stored.chunk.shape[0]
        rows_N[first : first + count] = delta.checkpoint.values(stored)
    if len(rows_N) and (int(rows_N[0]) < 0 or int(rows_N[-1]) >= dirty.rows or bool((rows_N.diff() <= 0).any())):
        problem = f"{name} are not rows 0 .. {dirty.rows - 1} in increasing order"
        raise CheckpointError(delta.checkpoint.path, problem, hint=RESTORE)
    return rows_N


def _parts(
    delta: Delta, dirty: DirtyShard, table: Mapping[str, GlobalTensor]
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """What of dirty rows goes where: some columns of a shard, rows in it (N,), and their values (N, columns) or (N,)."""
    needed = [(name, shard) for name, tensor in table.items() for shard in tensor.shards if _reaches(dirty, shard)]
    if not needed:
        return
    rows_N = read_rows(delta, dirty) + dirty.first_row
    for name in dict.fromkeys(name for name, _ in needed):
        for stored in delta.checkpoint.chunks.get(f"{dirty.name}.{name}", ()):
            first, count = stored.chunk.offsets[0], stored.chunk.shape[0]
            rows_n = rows_N[first : first + count]
            shards = [shard for other, shard in needed if other == name and _has_a_row(shard, rows_n)]
            if shards:
                values, first_column = row_values(delta, dirty, name, stored)
                for shard in shards:
                    yield from _overlap(shard, rows_n, values, first_column)


def _reaches(dirty: DirtyShard, shard: Shard) -> bool:
    """Whether a shard has rows, and unless it is row-wise state, columns of one with dirty rows."""
    here = shard.slice
    dimensions = len(here.shape)
    there = Slice(dirty.slice.offsets[:dimensions], dirty.slice.shape[:dimensions])
    return intersection(here, there) is not None


def _has_a_row(shard: Shard, rows_n: torch.Tensor) -> bool:
    low, high = _range_in(shard, rows_n)
    return low < high


def _range_in(shard: Shard, rows_n: torch.Tensor) -> tuple[int, int]:
    """Which of the rows, as a range of their places, a shard has."""
    ends = torch.tensor([shard.offsets[0], shard.offsets[0] + shard.tensor.shape[0]])
    low, high = torch.searchsorted(rows_n, ends).tolist()
    return low, high


def row_values(delta: Delta, dirty: DirtyShard, name: str, stored: StoredChunk) -> tuple[torch.Tensor, int]:
    """The numbers of a chunk, (n, columns) or (n,), and the column of the table that the first one is of."""
    if delta.record.bits == 8 and name in QUANTISED:
        return restored(delta.checkpoint, stored, delta.checkpoint.read(stored)), dirty.first_column
    return delta.checkpoint.values(stored), dirty.first_column + sum(stored.chunk.offsets[1:])


def _overlap(
    shard: Shard, rows_n: torch.Tensor, values: torch.Tensor, first_column: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    low, high = _range_in(shard, rows_n)
    rows_N, values, target = rows_n[low:high] - shard.offsets[0], values[low:high], shard.tensor.detach()
    if target.dim() == 2:
        start = max(first_column, shard.offsets[1])
        stop = min(first_column + values.shape[1], shard.offsets[1] + target.shape[1])
        if start >= stop:
            return
        values = values[:, start - first_column : stop - first_column]
        target = target[:, start - shard.offsets[1] : stop - shard.offsets[1]]
    yield target, rows_N, values
