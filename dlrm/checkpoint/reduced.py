"""Dense tensors in increments with 8 bits, in fewer bytes: weights as rows of codes, optimizers' state as bfloat16.

Where ``<name>`` is float32, of two or more dimensions, at least :data:`LEAST_BYTES` large and of no table, such an
increment holds instead of it

- ``reduced.<name>``, uint8 (..., columns + 8), of weights and their averages with at least :data:`LEAST_COLUMNS` columns:
  each row in :mod:`dlrm.checkpoint.row_codes`;
- ``reduced.<name>``, bfloat16 of the same shape, of the state of optimizers: each number within a 256th of itself (unless
  it is below 1e-38). Codes would turn small second moments into 0, and by their roots steps are divided.

All else is exact. Nothing adds up: every increment is made from the exact state, and of a chain only the last one's count.
"""

from __future__ import annotations

from math import prod

import torch

from dlrm.checkpoint.manifest import DTYPE_NAMES, DTYPES, RESTORE, TensorRecord
from dlrm.checkpoint.rectangles import Rectangle
from dlrm.checkpoint.row_codes import PARAMETER_BYTES, decode_rows, encode_rows, fault_in_codes
from dlrm.checkpoint.stored import Checkpoint, StoredPiece
from dlrm.checkpoint.tensors import Block, LogicalTensor
from dlrm.errors import CheckpointError

PREFIX = "reduced."
LEAST_BYTES = 1024
LEAST_COLUMNS = 8
"""Scale and offset take as many bytes as the codes of so many numbers."""


def reduced_record(record: TensorRecord) -> TensorRecord | None:
    """What may stand for a tensor of the state in an increment with 8 bits; None: only the tensor itself."""
    shape = record.shape
    if record.name.startswith(("tables.", "average.tables.")) or record.dtype != "float32":
        return None
    if len(shape) < 2 or prod(shape) * torch.float32.itemsize < LEAST_BYTES:
        return None
    name = f"{PREFIX}{record.name}"
    if ".optimizer." in record.name:
        return TensorRecord(name=name, shape=shape, dtype="bfloat16")
    if shape[-1] < LEAST_COLUMNS:
        return None
    return TensorRecord(name=name, shape=(*shape[:-1], shape[-1] + PARAMETER_BYTES), dtype="uint8")


def reduced(tensor: LogicalTensor) -> LogicalTensor:
    """What an increment with 8 bits holds of a tensor: itself if it is to be exact, or not on every rank."""
    record = reduced_record(TensorRecord(name=tensor.name, shape=tensor.shape, dtype=DTYPE_NAMES[tensor.dtype]))
    if record is None or not tensor.replicated:
        return tensor
    values, dtype = tensor.blocks[0].tensor.detach(), DTYPES[record.dtype]
    small = encode_rows(values.flatten(0, -2)).view(record.shape) if dtype == torch.uint8 else values.to(dtype)
    return LogicalTensor(record.name, record.shape, dtype, (Block((0,) * small.dim(), small),), replicated=True)


def fault_in_reduced(values: torch.Tensor) -> str:
    """What keeps codes or bfloat16 from being restored to finite numbers, in words; empty: nothing."""
    if values.dtype == torch.uint8:
        return fault_in_codes(values.flatten(0, -2))
    return "" if bool(torch.isfinite(values).all()) else "a number is not finite"


def restored_rectangle(checkpoint: Checkpoint, stored: StoredPiece) -> Rectangle:
    """Which elements of the tensor a piece of its reduced form is: whole rows, where it is codes."""
    piece = stored.piece
    if checkpoint.dtypes[piece.tensor] != torch.uint8:
        return piece.rectangle
    columns = checkpoint.tensors[piece.tensor].shape[-1] - PARAMETER_BYTES
    return Rectangle((*piece.offsets[:-1], 0), (*piece.shape[:-1], columns))


def restored(checkpoint: Checkpoint, stored: StoredPiece, data: bytearray) -> torch.Tensor:
    """The numbers of :func:`restored_rectangle`: codes as float32, others as bfloat16.

    Args:
        checkpoint: an increment whose reduced tensors are of the shapes and types they should have.
        stored: a piece of one.
        data: its bytes.

    Raises:
        CheckpointError: they are not what :func:`reduced` makes of finite numbers.
    """
    piece = stored.piece
    raw = torch.frombuffer(data, dtype=checkpoint.dtypes[piece.tensor]).view(piece.shape)
    codes = raw.dtype == torch.uint8
    cut = codes and piece.shape[-1] != checkpoint.tensors[piece.tensor].shape[-1]
    fault = "a piece holds parts of rows, without their scales" if cut else fault_in_reduced(raw)
    if fault:
        raise CheckpointError(f"{checkpoint.path}/{stored.file.name}", f"{piece.tensor}: {fault}", mend=RESTORE)
    return decode_rows(raw.flatten(0, -2)).unflatten(0, piece.shape[:-1]) if codes else raw
