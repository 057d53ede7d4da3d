"""Raw integers as dense values, log(max(x, minimum) + shift), and as ids of logarithmic buckets.

The transform is fixed: it does not look at the data, except for the optional standardisation, which looks at training
rows only. So the same integer becomes the same value in every file and split.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dlrm.config.data import DenseTransform
from dlrm.data.raw.raw_rows import MISSING_INTEGER, Int64s

_LARGEST_BUCKETED = 2**31 - 1

Float64s = npt.NDArray[np.float64]


def dense_values(raw_B: Int64s, transform: DenseTransform, *, train_rows: int) -> Float64s:
    """One column of raw integers as finite float64 (B,).

    Args:
        raw_B: int64 (B,), the lowest int64 where missing; training rows first.
        transform: minimum, shift, what stands for missing, and whether to standardise.
        train_rows: rows whose present values give the mean and (population) standard deviation; a column that is
            constant or empty in them is only centred.
    """
    missing_B = raw_B == MISSING_INTEGER
    present_B = _log(np.where(missing_B, 0, raw_B).astype(np.float64), transform)
    train = present_B[:train_rows][~missing_B[:train_rows]]
    if transform.missing == "mean":
        fill = float(train.mean()) if len(train) else 0.0
    else:
        fill = float(_log(np.array(transform.missing), transform))
    values_B = np.where(missing_B, fill, present_B)
    if not transform.standardise:
        return values_B
    mean = float(train.mean()) if len(train) else fill
    # Constancy is asked of the values: rounding can give a constant column a deviation of 1e-16.
    deviation = float(train.std()) if len(train) and train.min() < train.max() else 1.0
    return np.asarray((values_B - mean) / deviation)


def _log(raw: Float64s, transform: DenseTransform) -> Float64s:
    return np.asarray(np.log(np.maximum(raw, transform.minimum) + transform.shift))


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
