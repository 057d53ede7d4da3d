"""What a delta is to hold, copied out of the training state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from dlrm.checkpoint.delta.format import QUANTISED, Bits, DirtyShard, is_quantised
from dlrm.checkpoint.delta.quantise import encode_rows, fault_in_quantised
from dlrm.checkpoint.tensors import LogicalTensor


def dirty_tensors(
    tables: Mapping[str, Mapping[str, LogicalTensor]], rows: Mapping[DirtyShard, torch.Tensor], bits: Bits
) -> list[LogicalTensor]:
    """The dirty rows of this rank's shards.

    Args:
        tables: the state of each table (:func:`~dlrm.checkpoint.tensors.tensors_by_table`).
        rows: of each shard the dirty ones, int64 (n,) ascending, counted from its first row.
        bits: of a weight.
    """
    found = []
    for shard, rows_N in rows.items():
        found.append(LogicalTensor.of(f"{shard.name}.rows", rows_N.to(shard.row_dtype)))
        for name, tensor in tables[shard.table].items():
            if len(tensor.shape) == 2 or shard.first_column == 0:  # row-wise state is saved where columns begin
                block = _block_of(tensor, shard)
                values = block.index_select(0, rows_N.to(block.device))
                codes = bits == 8 and name in QUANTISED
                found.append(LogicalTensor.of(f"{shard.name}.{name}", encode_rows(values) if codes else values))
    return found


def can_be_restored(tensors: Sequence[LogicalTensor]) -> bool:
    """Whether what is quantised among the tensors of a delta with 8 bits comes out finite."""
    quantised = [tensor for tensor in tensors if is_quantised(tensor.name)]
    return not any(fault_in_quantised(block.tensor) for tensor in quantised for block in tensor.blocks)


def _block_of(tensor: LogicalTensor, shard: DirtyShard) -> torch.Tensor:
    place = (shard.first_row, shard.first_column)[: len(tensor.shape)]
    return next(block.tensor.detach() for block in tensor.blocks if tuple(block.offsets) == place)
