"""Raw integers as dense values, log(max(x, minimum) + shift), and as ids of logarithmic buckets.

The transform is fixed: it does not look at the data, except for the optional standardisation, which looks at training
rows only. So the same integer becomes the same value in every file and split. What it has seen there are a column's
:class:`DenseConstants`; with them any row gets the values that it would have had among the training rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dlrm.config.data import DenseTransform
from dlrm.data.raw.log_table import Float32s
from dlrm.data.raw.raw_rows import MISSING_INTEGER, Int64s

_LARGEST_BUCKETED = 2**31 - 1

Float64s = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DenseConstants:
    """What a column's values are made with, beside the fixed transform: (x - mean) / deviation.

    Attributes:
        missing: what stands for a missing integer, after the logarithm; mean, deviation: 0 and 1 if not standardised.
    """

    missing: float
    mean: float = 0.0
    deviation: float = 1.0

    @classmethod
    def of(cls, train_B: Int64s, transform: DenseTransform) -> DenseConstants:
        """The constants that the training rows show.

        Args:
            train_B: int64 (B,), the column's integers in them, the lowest int64 where missing. Those that are present give
                the mean and (population) standard deviation; a column that is constant or empty is only centred.
            transform: minimum, shift, what stands for missing, and whether to standardise.
        """
        present_B = _log(train_B[train_B != MISSING_INTEGER], transform.minimum, transform.shift)
        if transform.missing == "mean":
            fill = float(present_B.mean()) if len(present_B) else 0.0
        else:
            fill = float(_log(np.array(transform.missing), transform.minimum, transform.shift))
        if not transform.standardise:
            return cls(fill)
        mean = float(present_B.mean()) if len(present_B) else fill
        # Constancy is asked of the values: rounding can give a constant column a deviation of 1e-16.
        varies = len(present_B) and present_B.min() < present_B.max()
        return cls(fill, mean, float(present_B.std()) if varies else 1.0)


class DenseColumns:
    """The dense values of raw integers, for N columns at once.

    Args:
        minimum, shift: of the transform.
        constants: of each column.
    """

    def __init__(self, minimum: float, shift: float, constants: Sequence[DenseConstants]) -> None:
        self.minimum, self.shift, self.constants = minimum, shift, tuple(constants)
        self._missing_N1, self._mean_N1, self._deviation_N1 = (
            np.array(column, np.float64)[:, None]
            for column in zip(*((c.missing, c.mean, c.deviation) for c in constants), strict=True)
        )

    def encode(self, raw_NM: Int64s) -> Float32s:
        """Finite float32 (M, N), C-contiguous, of integers int64 (N, M), the lowest int64 where missing."""
        missing_NM = raw_NM == MISSING_INTEGER
        values_NM = _log(np.where(missing_NM, 0, raw_NM), self.minimum, self.shift)
        values_NM = np.where(missing_NM, self._missing_N1, values_NM)
        values_NM -= self._mean_N1
        values_NM /= self._deviation_N1
        return values_NM.T.astype(np.float32, order="C")


def _log(raw: npt.NDArray[np.generic], minimum: float, shift: float) -> Float64s:
    return np.asarray(np.log(np.maximum(raw.astype(np.float64), minimum) + shift))


def bucket_of(raw: Int64s) -> Int64s:
    """Buckets of integers that widen logarithmically and do not depend on the data.

    -3 and less are bucket 0; -2 .. 2 are 1 .. 5, one each; then 5 + floor(ln(x)^2), so 6 is {3, 4}, 7 is {5}, 8 is {6, 7},
    9 is {8, 9}, ...; integers from 2^31 up share the last bucket. Logarithms squared are how the winners of the Kaggle
    contest on these data made categories of its integers (3 Idiots' approach, 2014).

    Args:
        raw: int64, any shape.

    Returns:
        The buckets, int64 of the same shape, which grow with the integers.
    """
    clipped = raw.clip(-3, _LARGEST_BUCKETED)
    wide = np.floor(np.log(np.maximum(clipped, 1)) ** 2).astype(np.int64)
    return np.where(clipped <= 2, clipped + 3, 5 + wide)
