"""Reading the touched rows of an increment: verified before anything is changed, then written over the blocks of a rank.

Memory is bounded by the row numbers of a shard and its pieces, some at a time: nothing of a whole table is ever held.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain as chained

import torch

from dlrm.checkpoint.increments import QUANTISED, Chain, Increment, TouchedShard, full_name, names_by_table
from dlrm.checkpoint.manifest import DTYPES, RESTORE, TensorRecord
from dlrm.checkpoint.rectangles import Rectangle, intersection
from dlrm.checkpoint.reduced import PREFIX as REDUCED_PREFIX
from dlrm.checkpoint.reduced import restored
from dlrm.checkpoint.replay import replay_average
from dlrm.checkpoint.row_codes import PARAMETER_BYTES, decode_rows, fault_in_codes
from dlrm.checkpoint.stored import VERIFYING_THREADS, StoredPiece, find_damage
from dlrm.checkpoint.tensors import Block, LogicalTensor
from dlrm.errors import CheckpointError


def tensors_by_table(tensors: Sequence[LogicalTensor]) -> dict[str, dict[str, LogicalTensor]]:
    """The tensors of each table by their names in it (:func:`names_by_table`)."""
    by_name = {tensor.name: tensor for tensor in tensors}
    return {
        table: {name: by_name[full_name(table, name)] for name in names}
        for table, names in names_by_table(by_name).items()
    }


def verify_touched_rows(increment: Increment, tensors: Sequence[LogicalTensor]) -> None:
    """Read all touched rows that this rank's blocks need and see that they can be applied.

    Args:
        increment: an open one.
        tensors: those of the state that fit; of those among them that it has in fewer bytes all is read and seen to be
            restorable.

    Raises:
        CheckpointError: they are damaged, rows are out of range or out of order, or numbers would not be finite.
    """
    tables = tensors_by_table(tensors)
    _check_headers(increment)

    def verify(shard: TouchedShard) -> None:
        for _ in _parts(increment, shard, tables.get(shard.table, {})):
            pass

    def verify_reduced(stored: StoredPiece) -> None:
        restored(increment.checkpoint, stored, increment.checkpoint.read(stored))

    reduced = [tensor.name for tensor in tensors if tensor.name in increment.reduced]
    pieces = [stored for name in reduced for stored in increment.checkpoint.pieces[f"{REDUCED_PREFIX}{name}"]]
    with ThreadPoolExecutor(VERIFYING_THREADS) as pool:
        list(pool.map(verify, increment.shards))
        list(pool.map(verify_reduced, pieces))


def fill_touched_rows(increment: Increment, tensors: Sequence[LogicalTensor]) -> None:
    """Write the touched rows of an increment over the blocks of this rank, which hold the state of its parent.

    Raises:
        CheckpointError: they are damaged, some may have been written.
    """
    tables = tensors_by_table(tensors)
    if increment.record.average is not None:
        for table in increment.record.shards:
            replay_average(tables.get(table, {}), increment.record.average)
    for shard in increment.shards:
        for part_of_block, rows_N, values in _parts(increment, shard, tables.get(shard.table, {})):
            device = part_of_block.device
            part_of_block.index_copy_(0, rows_N.to(device), values.to(device))


def find_chain_damage(chain: Chain) -> list[CheckpointError]:
    """Read all of a chain and return what is wrong with any of its checkpoints; nothing if all are whole."""
    damage = [found for member in chain.members for found in find_damage(member)]
    return damage or [found for increment in chain.increments for found in find_row_damage(chain, increment)]


def find_row_damage(chain: Chain, increment: Increment) -> list[CheckpointError]:
    """What keeps the rows of an increment of a chain from being applied; its bytes are as they were written."""
    partial = [
        LogicalTensor(name, record.shape, DTYPES[record.dtype], (_without_memory(record),))
        for name, record in chain.tensors.items()
        if name not in increment.whole
    ]
    try:
        verify_touched_rows(increment, partial)
    except CheckpointError as error:
        return [error]
    return []


def _without_memory(record: TensorRecord) -> Block:
    """A block that nothing is written to."""
    return Block((0,) * len(record.shape), torch.empty(record.shape, dtype=DTYPES[record.dtype], device="meta"))


def read_rows(increment: Increment, shard: TouchedShard) -> torch.Tensor:
    """Which rows of a shard an increment has: int64 (n,), counted from the shard's first row.

    Raises:
        CheckpointError: they are damaged, not of the shard or not strictly increasing.
    """
    name = f"{shard.name}.rows"
    rows_N = torch.empty(increment.touched(shard), dtype=torch.int64)
    for stored in increment.checkpoint.pieces.get(name, ()):
        first, count = stored.piece.offsets[0], stored.piece.shape[0]
        data = increment.checkpoint.read(stored)
        rows_N[first : first + count] = torch.frombuffer(data, dtype=shard.row_dtype)
    if len(rows_N) and (int(rows_N[0]) < 0 or int(rows_N[-1]) >= shard.rows or bool((rows_N.diff() <= 0).any())):
        problem = f"{name} are not rows 0 .. {shard.rows - 1} in increasing order"
        raise CheckpointError(increment.checkpoint.path, problem, mend=RESTORE)
    return rows_N


def _check_headers(increment: Increment) -> None:
    touched = chained.from_iterable(
        pieces for name, pieces in increment.checkpoint.pieces.items() if name not in increment.whole
    )
    for file in {stored.file.name: stored.file for stored in touched}.values():
        increment.checkpoint.check_header(file)


def _parts(
    increment: Increment, shard: TouchedShard, table: Mapping[str, LogicalTensor]
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """What of a shard goes where: some columns of a block, rows in it (N,), and their values (N, columns) or (N,)."""
    needed = [(name, block) for name, tensor in table.items() for block in tensor.blocks if _reaches(shard, block)]
    if not needed:
        return
    rows_N = read_rows(increment, shard) + shard.first_row
    for name in dict.fromkeys(name for name, _ in needed):
        for stored in increment.checkpoint.pieces.get(f"{shard.name}.{name}", ()):
            first, count = stored.piece.offsets[0], stored.piece.shape[0]
            rows_n = rows_N[first : first + count]
            blocks = [block for other, block in needed if other == name and _has_a_row(block, rows_n)]
            if blocks:
                values, first_column = _values(increment, shard, stored)
                for block in blocks:
                    yield from _overlap(block, rows_n, values, first_column)


def _reaches(shard: TouchedShard, block: Block) -> bool:
    """Whether a block has rows, and unless it is row-wise state, columns of a shard."""
    here = Rectangle(tuple(block.offsets), tuple(block.tensor.shape))
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


def _values(increment: Increment, shard: TouchedShard, stored: StoredPiece) -> tuple[torch.Tensor, int]:
    """The numbers of a piece, (n, columns) or (n,), and the column of the table that the first one is of."""
    piece, checkpoint = stored.piece, increment.checkpoint
    raw = torch.frombuffer(checkpoint.read(stored), dtype=checkpoint.dtypes[piece.tensor]).view(piece.shape)
    name = piece.tensor.removeprefix(f"{shard.name}.")
    if increment.record.bits == 32 or name not in QUANTISED:
        return raw, shard.first_column + sum(piece.offsets[1:])
    cut = piece.shape[1] != shard.columns + PARAMETER_BYTES
    fault = "a piece holds parts of rows, without their scales" if cut else fault_in_codes(raw)
    if fault:
        raise CheckpointError(f"{checkpoint.path}/{stored.file.name}", f"{piece.tensor}: {fault}", mend=RESTORE)
    return decode_rows(raw), shard.first_column


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
