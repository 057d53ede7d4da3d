"""Raw integers as dense values, log(max(x, minimum) + shift), and as ids of logarithmic buckets.

The transform is fixed: it does not look at the data, except for the optional standardisation, which looks at training
rows only. So the same integer becomes the same value in every file and split.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dlrm.config.data import DenseTransform
from dlrm.data.raw_rows import MISSING_INTEGER, Int64s

_LARGEST_BUCKETED = 2**31 - 1

Float64s = npt.NDArray[np.float64]


def dense_values(raw_B: Int64s, transform: DenseTransform, *, train_rows: int) -> Float64s:
    """One column of raw integers as finite float64 (B,).

    Args:
        raw_B: int64 (B,), the lowest int64 where missing; training rows first.
        transform: minimum, shift, what stands for missing, and whether to standardise.
        train_rows: rows whose mean and (population) standard deviation standardise the column, missing ones included;
            a column that is constant in them is only centred.
    """
    filled_B = np.where(raw_B == MISSING_INTEGER, transform.missing, raw_B.astype(np.float64))
    values_B = np.log(np.maximum(filled_B, transform.minimum) + transform.shift)
    if not transform.standardise:
        return values_B
    train_B = values_B[:train_rows]
    # Constancy is asked of the values: rounding can give a constant column a deviation of 1e-16.
    deviation = train_B.std() if train_B.min() < train_B.max() else 1.0
    return np.asarray((values_B - train_B.mean()) / deviation)


def bucket_ids(raw: Int64s) -> tuple[Int64s, int]:
    """Raw integers as ids of buckets that widen logarithmically; no bucket depends on the data.

    0 missing; 1 up to -3; 2 .. 6 for -2 .. 2, one each; then 6 + floor(ln(x)^2), so 7 is {3, 4}, 8 is {5}, 9 is
    {6}, 10 is {7, 8}, ...; integers from 2^31 up share the last bucket.

    Args:
        raw: int64, any shape; the lowest int64 where missing.

    Returns:
        The ids, int64 of the same shape, which grow with the integers, and the number of buckets.
    """
    ids = _bucket_of_present(raw.clip(-3, _LARGEST_BUCKETED))
    ids[raw == MISSING_INTEGER] = 0
    return ids, int(_bucket_of_present(np.array([_LARGEST_BUCKETED]))[0]) + 1


def _bucket_of_present(raw: Int64s) -> Int64s:
    wide = np.floor(np.log(np.maximum(raw, 1)) ** 2).astype(np.int64)
    return np.where(raw <= 2, raw + 4, 6 + wide)
