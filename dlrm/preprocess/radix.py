"""Sorting 32-bit values by their digits: 5 ns each where np.sort takes 16 to 30 (counts of columns in vocabularies)."""

from __future__ import annotations

import numpy as np

from dlrm.compiled import compiled
from dlrm.preprocess.arrays import UInt32s

_DIGIT_BITS = 11  # three digits, whose counts stay in a core's first cache
_SHORT = 1 << 11  # arrays for which the counts are the larger part of the work


def sort_values(values: UInt32s, scratch: UInt32s) -> None:
    """Put values in ascending order, without the GIL.

    Args:
        values: uint32 (K,), sorted in place; contiguous.
        scratch: uint32, at least K, overwritten.
    """
    if len(values) < _SHORT:
        values.sort()
    else:
        _sort(values, scratch)


@compiled
def _sort(values: UInt32s, scratch: UInt32s) -> None:
    """Least digit first; each pass keeps the order of the one before among equal digits."""
    size, mask = 1 << _DIGIT_BITS, np.uint32((1 << _DIGIT_BITS) - 1)
    places_PD = np.zeros((3, size), np.int64)
    for value in values:
        for digit in range(3):
            places_PD[digit, (value >> np.uint32(digit * _DIGIT_BITS)) & mask] += 1
    for digit in range(3):
        before = 0
        for k in range(size):
            count = places_PD[digit, k]
            places_PD[digit, k] = before
            before += count
    source, target = values, scratch
    for digit in range(3):
        places_D, shift = places_PD[digit], np.uint32(digit * _DIGIT_BITS)
        for i in range(len(values)):
            value = source[i]
            k = (value >> shift) & mask
            target[places_D[k]] = value
            places_D[k] += 1
        source, target = target, source
    values[:] = scratch[: len(values)]
