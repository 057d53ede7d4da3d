"""Rows of numbers in eight bits each: row-wise asymmetric quantisation, as in Check-N-Run (NSDI 2022, section 5.2).

A row of D float32 becomes D + 8 bytes: codes 0 .. 255, then the row's scale and offset as little-endian float32; a number
is ``offset + scale * code``. Offset is the smallest number of the row and scale a 255th of its range, so that no number
is further than half of the scale from the one that is restored (and float32's rounding).
"""

from __future__ import annotations

import torch

LEVELS = 255
PARAMETER_BYTES = 8
"""Of a row: scale and offset."""


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


def fault_in_codes(bytes_NE: torch.Tensor) -> str:
    """What keeps rows from being ones that :func:`encode_rows` made, in words; empty: nothing."""
    scale_N1, offset_N1 = row_parameters(bytes_NE)
    highest_N1 = offset_N1 + LEVELS * scale_N1
    if not bool((torch.isfinite(offset_N1) & torch.isfinite(scale_N1) & torch.isfinite(highest_N1)).all()):
        return "a row has a scale or an offset that is no finite number"
    if bool((scale_N1 < 0).any()):
        return "a row has a negative scale"
    return ""
