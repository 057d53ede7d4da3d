"""Rows of tables in fewer bits, as fbgemm's inference kernel reads them (:mod:`dlrm.inference.exported.manifest`).

Row-wise: each row has a scale and a bias of its own, so that a row of small numbers loses nothing beside one of large
ones. Of R rows of D columns, ``int8`` takes R * (D + 4) bytes and ``int4`` R * (D / 2 + 4), where ``fp32`` takes R * 4 D.
"""

from __future__ import annotations

import fbgemm_gpu  # noqa: F401  # loads the operators
import torch

from dlrm.errors import ExportError
from dlrm.format import escaped
from dlrm.inference.exported.manifest import SCALE_AND_BIAS_BYTES, Precision

_BITS = {"int8": 8, "int4": 4}


def stored_rows(
    weights_RD: torch.Tensor,
    precision: Precision,
    *,
    path: str,
    table: str,
    first_row: int = 0,
    rows_R: torch.Tensor | None = None,
) -> torch.Tensor:
    """What is stored of rows.

    Args:
        weights_RD: float32 (R, D); D is even for ``int4``.
        precision: of the result.
        path: where they are from, for errors.
        table: likewise.
        first_row: the id of the first of them, likewise.
        rows_R: the ids of all, where they do not follow each other.

    Returns:
        float32 or float16 (R, D), or uint8 (R, 4 + D) or (R, 4 + D / 2).

    Raises:
        ExportError: a weight is not finite, or is too large for float16 numbers to say; the first such row.
    """
    ids_R = torch.arange(first_row, first_row + len(weights_RD)) if rows_R is None else rows_R
    _refuse(weights_RD.isfinite().all(1), "is not finite", path, table, ids_R)
    if precision == "fp32":
        return weights_RD
    too_large = f"has weights that are too large for {precision}: float16 numbers end at 65,504"
    if precision == "fp16":
        halves_RD = weights_RD.half()
        _refuse(halves_RD.isfinite().all(1), too_large, path, table, ids_R)
        return halves_RD
    integers_first = torch.ops.fbgemm.FloatToFusedNBitRowwiseQuantizedSBHalf(weights_RD, _BITS[precision])
    scale_and_bias = integers_first[:, -SCALE_AND_BIAS_BYTES:].contiguous()
    _refuse(scale_and_bias.view(torch.float16).isfinite().all(1), too_large, path, table, ids_R)
    return torch.cat((scale_and_bias, integers_first[:, :-SCALE_AND_BIAS_BYTES]), dim=1)


def _refuse(good_R: torch.Tensor, problem: str, path: str, table: str, ids_R: torch.Tensor) -> None:
    if not good_R.all():
        row = int(ids_R[(~good_R).nonzero()[0]])
        raise ExportError(
            path, f"row {row} of table {escaped(table)} {problem}", hint="export a checkpoint that did not diverge"
        )
