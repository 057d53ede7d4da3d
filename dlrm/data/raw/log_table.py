"""log(max(x, minimum) + shift) of integers as preprocessing takes it: in float64, rounded to float32, mostly looked up.

One place for the loop that parses files and for raw rows that are to become the same values, to the last bit.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dlrm.compiled import compiled, inlined
from dlrm.data.raw.raw_rows import MISSING_INTEGER, Int64s

Float32s = npt.NDArray[np.float32]

_FIRST, _LAST = -1024, 65_536  # integers whose transform is looked up: most of what occurs


class LogTable(NamedTuple):
    """The transform.

    Attributes:
        table: float32, of the integers -1024 .. 65535; minimum, shift: for all others.
        missing: what a missing integer becomes.
    """

    table: Float32s
    minimum: float
    shift: float
    missing: np.float32

    @classmethod
    def of(cls, minimum: float, shift: float, missing: np.float32) -> LogTable:
        """The transform of these parameters.

        Args:
            minimum: smaller integers are clamped to it.
            shift: added before the logarithm.
            missing: what a missing integer becomes.
        """
        integers = np.arange(_FIRST, _LAST, dtype=np.float64)
        table = np.log(np.maximum(integers, minimum) + shift).astype(np.float32)
        return cls(table, float(minimum), float(shift), missing)


@lru_cache(maxsize=4)
def log_table(minimum: float, shift: float, missing: float) -> LogTable:
    """The transform of these parameters.

    Args:
        minimum: smaller integers are clamped to it.
        shift: added before the logarithm.
        missing: stands for a missing integer, before the transform.
    """
    return LogTable.of(minimum, shift, np.float32(math.log(max(missing, minimum) + shift)))


@inlined
def looked_up(value: int, transform: LogTable) -> np.float32:
    """The transform of one integer, within a compiled loop."""
    if _FIRST <= value < _LAST:
        return transform.table[value - _FIRST]  # type: ignore[no-any-return]
    return np.float32(math.log(max(float(value), transform.minimum) + transform.shift))


def log_values(raw_NM: Int64s, transform: LogTable) -> Float32s:
    """The transform of many integers.

    Args:
        raw_NM: int64 (N, M), columns of integers, the lowest int64 where missing.
        transform: of all of them.

    Returns:
        float32 (M, N), C-contiguous.
    """
    values_MN = np.empty(raw_NM.shape[::-1], np.float32)
    _fill(np.ascontiguousarray(raw_NM), transform, values_MN)
    return values_MN


@compiled
def _fill(raw_NM: Int64s, transform: LogTable, values_MN: Float32s) -> None:
    for n in range(raw_NM.shape[0]):
        for m in range(raw_NM.shape[1]):
            raw = raw_NM[n, m]
            values_MN[m, n] = transform.missing if raw == MISSING_INTEGER else looked_up(raw, transform)
