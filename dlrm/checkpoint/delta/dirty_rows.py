"""Reading the dirty rows of a delta: verified before anything is changed, then written over the blocks of a rank.

Memory is bounded by the row numbers of a shard and its pieces, some at a time: nothing of a whole table is ever held.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from dlrm.checkpoint.delta.format import QUANTISED, Delta, DirtyShard
from dlrm.checkpoint.delta.quantise import QUANTISED_PREFIX, restored
from dlrm.checkpoint.delta.replay import replay_average
from dlrm.checkpoint.manifest import RESTORE, TensorRecord
from dlrm.checkpoint.rectangles import Rectangle, intersection
from dlrm.checkpoint.stored import VERIFYING_THREADS, StoredPiece
from dlrm.checkpoint.tensors import Block, LogicalTensor, tensors_by_table
from dlrm.errors import CheckpointError


def verify_dirty_rows(delta: Delta, tensors: Sequence[LogicalTensor]) -> None:
    """Read all dirty rows that this rank's blocks need and see that they can be applied.

    Args:
        delta: an open one.
        tensors: those of the state that fit; of those among them that it has in fewer bytes all is read and seen to be
            restorable.

    Raises:
        CheckpointError: they are damaged, rows are out of range or out of order, or numbers would not be finite.
    """
    tables, checkpoint = tensors_by_table(tensors), delta.checkpoint
    not_whole = [stored for name, pieces in checkpoint.pieces.items() if name not in delta.whole for stored in pieces]
    for file in {stored.file.name: stored.file for stored in not_whole}.values():
        checkpoint.check_header(file)

    def verify(shard: DirtyShard) -> None:
        for _ in _parts(delta, shard, tables.get(shard.table, {})):
            pass

    def verify_quantised(stored: StoredPiece) -> None:
        restored(checkpoint, stored, checkpoint.read(stored))

    names = [tensor.name for tensor in tensors if tensor.name in delta.quantised]
    pieces = [stored for name in names for stored in checkpoint.pieces[f"{QUANTISED_PREFIX}{name}"]]
    with ThreadPoolExecutor(VERIFYING_THREADS) as pool:
        list(pool.map(verify, delta.shards))
        list(pool.map(verify_quantised, pieces))


def fill_dirty_rows(delta: Delta, tensors: Sequence[LogicalTensor]) -> None:
    """Write the dirty rows of a delta over the blocks of this rank, which hold the state of its parent.

    Raises:
        CheckpointError: they are damaged, some may have been written.
    """
    tables = tensors_by_table(tensors)
    if delta.record.average is not None:
        for table in delta.record.shards:
            replay_average(tables.get(table, {}), delta.record.average)
    for shard in delta.shards:
        for part_of_block, rows_N, values in _parts(delta, shard, tables.get(shard.table, {})):
            device = part_of_block.device
            part_of_block.index_copy_(0, rows_N.to(device), values.to(device))


def find_row_damage(delta: Delta, state: Mapping[str, TensorRecord]) -> list[CheckpointError]:
    """What keeps the rows of a delta from being applied to a state; its bytes are as they were written."""
    partial = [_without_memory(record) for name, record in state.items() if name not in delta.whole]
    try:
        verify_dirty_rows(delta, partial)
    except CheckpointError as error:
        return [error]
    return []


def _without_memory(record: TensorRecord) -> LogicalTensor:
    """One that nothing is written to."""
    return LogicalTensor.of(record.name, torch.empty(record.shape, dtype=record.torch_dtype, device="meta"))


def read_rows(delta: Delta, shard: DirtyShard) -> torch.Tensor:
    """Which rows of a shard a delta has: int64 (n,), counted from the shard's first row.

    Raises:
        CheckpointError: they are damaged, not of the shard or not strictly increasing.
    """
    name = f"{shard.name}.rows"
    rows_N = torch.empty(delta.dirty(shard), dtype=torch.int64)
    for stored in delta.checkpoint.pieces.get(name, ()):
        first, count = stored.piece.offsets[0], stored.piece.shape[0]
        rows_N[first : first + count] = delta.checkpoint.values(stored)
    if len(rows_N) and (int(rows_N[0]) < 0 or int(rows_N[-1]) >= shard.rows or bool((rows_N.diff() <= 0).any())):
        problem = f"{name} are not rows 0 .. {shard.rows - 1} in increasing order"
        raise CheckpointError(delta.checkpoint.path, problem, mend=RESTORE)
    return rows_N


def _parts(
    delta: Delta, shard: DirtyShard, table: Mapping[str, LogicalTensor]
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """What of a shard goes where: some columns of a block, rows in it (N,), and their values (N, columns) or (N,)."""
    needed = [(name, block) for name, tensor in table.items() for block in tensor.blocks if _reaches(shard, block)]
    if not needed:
        return
    rows_N = read_rows(delta, shard) + shard.first_row
    for name in dict.fromkeys(name for name, _ in needed):
        for stored in delta.checkpoint.pieces.get(f"{shard.name}.{name}", ()):
            first, count = stored.piece.offsets[0], stored.piece.shape[0]
            rows_n = rows_N[first : first + count]
            blocks = [block for other, block in needed if other == name and _has_a_row(block, rows_n)]
            if blocks:
                values, first_column = _values(delta, shard, name, stored)
                for block in blocks:
                    yield from _overlap(block, rows_n, values, first_column)


def _reaches(shard: DirtyShard, block: Block) -> bool:
    """Whether a block has rows, and unless it is row-wise state, columns of a shard."""
    here = block.rectangle
    dimensions = len(here.shape)
    there = Rectangle(shard.rectangle.offsets[:dimensions], shard.rectangle.shape[:dimensions])
    return intersection(here, there) is not None


def _has_a_row(block: Block, rows_n: torch.Tensor) -> bool:
    low, high = _range_in(block, rows_n)
    return low < high


def _range_in(block: Block, rows_n: torch.Tensor) -> tuple[int, int]:
    """Which of the rows, as a range of their places, a block has."""
    ends = torch.tensor([block.offsets[0], block.offsets[0] + block.tensor.shape[0]])
    low, high = torch.searchsorted(rows_n, ends).tolist()
    return low, high


def _values(delta: Delta, shard: DirtyShard, name: str, stored: StoredPiece) -> tuple[torch.Tensor, int]:
    """The numbers of a piece, (n, columns) or (n,), and the column of the table that the first one is of."""
    if delta.record.bits == 8 and name in QUANTISED:
        return restored(delta.checkpoint, stored, delta.checkpoint.read(stored)), shard.first_column
    return delta.checkpoint.values(stored), shard.first_column + sum(stored.piece.offsets[1:])


def _overlap(
    block: Block, rows_n: torch.Tensor, values: torch.Tensor, first_column: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    low, high = _range_in(block, rows_n)
    rows_N, values, target = rows_n[low:high] - block.offsets[0], values[low:high], block.tensor.detach()
    if target.dim() == 2:
        start = max(first_column, block.offsets[1])
        stop = min(first_column + values.shape[1], block.offsets[1] + target.shape[1])
        if start >= stop:
            return
        values = values[:, start - first_column : stop - first_column]
        target = target[:, start - block.offsets[1] : stop - block.offsets[1]]
    yield target, rows_N, values
