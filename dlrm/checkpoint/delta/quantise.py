"""Row-wise quantisation: weights of deltas with 8 bits as rows of codes, optimizers' state as bfloat16.

*Rows of codes* are row-wise asymmetric quantisation, as in Check-N-Run (NSDI 2022, section 5.2). A row of D float32 becomes
D + 8 bytes: codes 0 .. 255, then the row's scale and offset as little-endian float32; a number is ``offset + scale *
code``. Offset is the smallest number of the row and scale a 255th of its range, so that no number is further than half of
the scale from the one that is restored (and float32's rounding).

Of tables the dirty rows are such rows. Of all else, where ``<name>`` is float32, of two or more dimensions and at least
:data:`LEAST_BYTES` large, a delta with 8 bits holds instead of it

- ``reduced.<name>``, uint8 (..., columns + 8), of weights and their averages with at least :data:`LEAST_COLUMNS` columns:
  rows of codes;
- ``reduced.<name>``, bfloat16 of the same shape, of the state of optimizers: each number within a 256th of itself (unless
  it is below 1e-38). Codes would turn small second moments into 0, and by their roots steps are divided.

All else is exact. Nothing adds up: every delta is made from the exact state, and of a chain only the last one's count.
"""

from __future__ import annotations

from math import prod

import torch

from dlrm.checkpoint.manifest import RESTORE, TensorRecord
from dlrm.checkpoint.slices import Slice
from dlrm.checkpoint.stored import Checkpoint, StoredChunk
from dlrm.checkpoint.tensors import GlobalTensor
from dlrm.errors import CheckpointError

QUANTISED_PREFIX = "reduced."
LEVELS = 255
PARAMETER_BYTES = 8
"""Of a row: scale and offset."""
LEAST_BYTES = 1024
LEAST_COLUMNS = 8
"""Scale and offset take as many bytes as the codes of so many numbers."""


def encode_rows(rows_ND: torch.Tensor) -> torch.Tensor:
    """Quantise float32 rows (N, D) to uint8 (N, D + 8); non-finite numbers make the scale or the offset non-finite."""
    if not rows_ND.shape[1]:
        raise ValueError("rows without numbers have no range")
    offset_N1 = rows_ND.amin(dim=1, keepdim=True) if len(rows_ND) else rows_ND.new_zeros(0, 1)
    highest_N1 = rows_ND.amax(dim=1, keepdim=True) if len(rows_ND) else rows_ND.new_zeros(0, 1)
    # Divided before they are subtracted, so that the range of large numbers does not overflow.
    scale_N1 = highest_N1 / LEVELS - offset_N1 / LEVELS
    steps_ND = (rows_ND - offset_N1) / torch.where(scale_N1 > 0, scale_N1, 1.0)
    codes_ND = steps_ND.round_().clamp_(0, LEVELS).to(torch.uint8)
    parameters_N8 = torch.cat([scale_N1, offset_N1], dim=1).view(torch.uint8)
    return torch.cat([codes_ND, parameters_N8], dim=1)


def decode_rows(bytes_NE: torch.Tensor) -> torch.Tensor:
    """Restore float32 rows (N, D) from uint8 (N, D + 8)."""
    scale_N1, offset_N1 = row_parameters(bytes_NE)
    return torch.addcmul(offset_N1, bytes_NE[:, :-PARAMETER_BYTES].float(), scale_N1)


def row_parameters(bytes_NE: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and offset of each row, both float32 (N, 1)."""
    # A copy even of a single row, whose bytes may lie where no float32 may.
    parameters_N2 = bytes_NE[:, -PARAMETER_BYTES:].clone(memory_format=torch.contiguous_format).view(torch.float32)
    return parameters_N2[:, :1], parameters_N2[:, 1:]


def row_extremes(bytes_NE: torch.Tensor) -> torch.Tensor:
    """The least number of each row, then the largest of each: float32 (2 N, 1)."""
    scale_N1, offset_N1 = row_parameters(bytes_NE)
    return torch.cat([offset_N1, offset_N1 + LEVELS * scale_N1])


def fault_in_codes(bytes_NE: torch.Tensor) -> str:
    """What keeps rows from being ones that :func:`encode_rows` made, in words; empty: nothing."""
    if not bool(torch.isfinite(row_extremes(bytes_NE)).all()):
        return "a row has a scale or an offset that is no finite number"
    if bool((row_parameters(bytes_NE)[0] < 0).any()):
        return "a row has a negative scale"
    return ""


def quantised_record(record: TensorRecord) -> TensorRecord | None:
    """What may stand for a tensor of the state in a delta with 8 bits; None: only the tensor itself."""
    shape = record.shape
    if record.name.startswith(("tables.", "average.tables.")) or record.dtype != "float32":
        return None
    if len(shape) < 2 or prod(shape) * torch.float32.itemsize < LEAST_BYTES:
        return None
    name = f"{QUANTISED_PREFIX}{record.name}"
    if ".optimizer." in record.name:
        return TensorRecord(name=name, shape=shape, dtype="bfloat16")
    if shape[-1] < LEAST_COLUMNS:
        return None
    return TensorRecord(name=name, shape=(*shape[:-1], shape[-1] + PARAMETER_BYTES), dtype="uint8")


def quantised(tensor: GlobalTensor) -> GlobalTensor:
    """What a delta with 8 bits holds of a tensor: itself if it is to be exact, or not on every rank."""
    record = quantised_record(tensor.record)
    if record is None or not tensor.replicated:
        return tensor
    values, dtype = tensor.shards[0].tensor.detach(), record.torch_dtype
    small = encode_rows(values.flatten(0, -2)).view(record.shape) if dtype == torch.uint8 else values.to(dtype)
    return GlobalTensor.of(record.name, small, replicated=True)


def fault_in_quantised(values: torch.Tensor) -> str:
    """What keeps codes or bfloat16 from being restored to finite numbers, in words; empty: nothing."""
    if values.dtype == torch.uint8:
        return fault_in_codes(values.flatten(0, -2))
    return "" if bool(torch.isfinite(values).all()) else "a number is not finite"


def restored_slice(checkpoint: Checkpoint, stored: StoredChunk) -> Slice:
    """Which elements of the tensor a chunk of its quantised form is: whole rows, where it is codes."""
    chunk = stored.chunk
    if checkpoint.dtypes[chunk.tensor] != torch.uint8:
        return chunk.slice
    columns = checkpoint.tensors[chunk.tensor].shape[-1] - PARAMETER_BYTES
    return Slice((*chunk.offsets[:-1], 0), (*chunk.shape[:-1], columns))


def restored(checkpoint: Checkpoint, stored: StoredChunk, data: bytearray) -> torch.Tensor:
    """The numbers of :func:`restored_slice`: codes as float32, others as bfloat16.

    Args:
        checkpoint: a delta whose quantised tensors are of the shapes and types they should have.
        stored: a chunk of one.
        data: its bytes.

    Raises:
        CheckpointError: they are not what :func:`encode_rows` or bfloat16 makes of finite numbers.
    """
    chunk = stored.chunk
    raw = checkpoint.values(stored, data)
    codes = raw.dtype == torch.uint8
    cut = codes and chunk.shape[-1] != checkpoint.tensors[chunk.tensor].shape[-1]
    fault = "a chunk holds parts of rows, without their scales" if cut else fault_in_quantised(raw)
    if fault:
        raise CheckpointError(f"{checkpoint.path}/{stored.file.name}", f"{chunk.tensor}: {fault}", hint=RESTORE)
    return decode_rows(raw.flatten(0, -2)).unflatten(0, chunk.shape[:-1]) if codes else raw
