"""What a delta is to hold, copied out of the training state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from dlrm.checkpoint.delta.format import QUANTISED, Bits, DirtyShard, is_quantised
from dlrm.checkpoint.delta.quantise import encode_rows, fault_in_quantised
from dlrm.checkpoint.tensors import GlobalTensor


def dirty_tensors(
    tables: Mapping[str, Mapping[str, GlobalTensor]], rows: Mapping[DirtyShard, torch.Tensor], bits: Bits
) -> list[GlobalTensor]:
    """The dirty rows of this rank's shards.

    Args:
        tables: the state of each table (:func:`~dlrm.checkpoint.tensors.tensors_by_table`).
        rows: of each shard the dirty ones, int64 (n,) ascending, counted from its first row.
        bits: of a weight.
    """
    found = []
    for dirty, rows_N in rows.items():
        found.append(GlobalTensor.of(f"{dirty.name}.rows", rows_N.to(dirty.row_dtype)))
        for name, tensor in tables[dirty.table].items():
            if len(tensor.shape) == 2 or dirty.first_column == 0:  # row-wise state is saved where columns begin
                shard = _shard_of(tensor, dirty)
                values = shard.index_select(0, rows_N.to(shard.device))
                codes = bits == 8 and name in QUANTISED
                found.append(GlobalTensor.of(f"{dirty.name}.{name}", encode_rows(values) if codes else values))
    return found


def can_be_restored(tensors: Sequence[GlobalTensor]) -> bool:
    """Whether what is quantised among the tensors of a delta with 8 bits comes out finite."""
    quantised = [tensor for tensor in tensors if is_quantised(tensor.name)]
    return not any(fault_in_quantised(shard.tensor) for tensor in quantised for shard in tensor.shards)


def _shard_of(tensor: GlobalTensor, dirty: DirtyShard) -> torch.Tensor:
    place = (dirty.first_row, dirty.first_column)[: len(tensor.shape)]
    return next(shard.tensor.detach() for shard in tensor.shards if tuple(shard.offsets) == place)
