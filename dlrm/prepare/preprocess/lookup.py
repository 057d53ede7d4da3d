"""The ids of raw categories in a vocabulary: where a value stands in a sorted array, in a few nanoseconds.

A lookup that waits for memory costs a hundred nanoseconds, and one that the processor guesses wrong ten, so the values
are looked up in blocks, in steps that wait for nothing: first where each value would stand if its *bucket* (an equal
share of the values' range) were filled evenly, which hashes nearly do; then what stands there; then the last steps to
its place, which are few. Where they are not, because the values are clustered, a binary search of the bucket takes over.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from dlrm.prepare.preprocess.counters import Bools, UInt32s, read_only

Ids = npt.NDArray[np.int32] | npt.NDArray[np.int64]

_MAX_LOG2_BUCKETS = 20  # 4 MiB of starts a vocabulary; with 40 million values each guess is 3 off on average
_BLOCK = 512
_MAX_STEPS = 16


class _Index(NamedTuple):
    """What compiled code needs to find values.

    Attributes:
        values: uint32 (K,), ascending.
        starts: int32 or int64, where each bucket of 2^shift values begins, and the end of the last one.
        first: the lowest value; span: how far above it the highest is.
        shift: the bucket of a value is its distance from the lowest, without this many bits.
    """

    values: UInt32s
    starts: Ids
    first: int
    span: int
    shift: int


class SortedValues:
    """Distinct 32-bit values in ascending order, with an index for finding them.

    Args:
        values: uint32 (K,), ascending; may be a memory map.
    """

    def __init__(self, values: UInt32s) -> None:
        first = int(values[0]) if len(values) else 0
        span = int(values[-1]) - first if len(values) else 0
        log2_buckets = min(_MAX_LOG2_BUCKETS, (len(values) // 2).bit_length())
        shift = max(0, span.bit_length() - log2_buckets)

        size = (span >> shift) + 2
        starts: Ids = np.zeros(size, np.int32) if len(values) < 2**31 else np.zeros(size, np.int64)
        _find_starts(read_only(values), first, shift, starts)
        self._index = _Index(read_only(values), starts, first, span, shift)

    def ids(
        self, categories_M: UInt32s, missing_M: Bools, ids_M: Ids, *, missing_id: int, absent_id: int, first_id: int
    ) -> int:
        """Write the id of every category: its place among the values + ``first_id``.

        Args:
            categories_M: uint32 (M,), raw values.
            missing_M: bool (M,), where they are missing.
            ids_M: int32 or int64 (M,), written; may be a column of a matrix.
            missing_id: id of a missing category.
            absent_id: id of one that is not among the values.
            first_id: id of the lowest value.

        Returns:
            The lowest id that was written (0 if there are none).
        """
        reserved = (missing_id, absent_id, first_id)
        return int(_write_ids(read_only(categories_M), read_only(missing_M), self._index, reserved, ids_M))


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _find_starts(values: UInt32s, first: int, shift: int, starts: Ids) -> None:
    """Where each bucket begins: the number of values in those before it."""
    for value in values:
        starts[((np.int64(value) - first) >> shift) + 1] += 1
    for bucket in range(1, len(starts)):
        starts[bucket] += starts[bucket - 1]


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _write_ids(
    categories_M: UInt32s, missing_M: Bools, index: _Index, reserved: tuple[int, int, int], ids_M: Ids
) -> int:
    missing_id, absent_id, first_id = reserved
    guesses_B, found_B = np.empty(_BLOCK, np.int64), np.empty(_BLOCK, np.int64)
    lowest_id = 2**62 if len(categories_M) else 0
    for start in range(0, len(categories_M), _BLOCK):
        size = min(_BLOCK, len(categories_M) - start)
        if len(index.values):
            for i in range(size):
                guesses_B[i] = _guess(int(np.int64(categories_M[start + i])), index)
            for i in range(size):
                found_B[i] = index.values[guesses_B[i]]
        for i in range(size):
            category, place = int(np.int64(categories_M[start + i])), int(guesses_B[i])
            is_there = len(index.values) > 0
            if is_there and found_B[i] != category:
                place = _step(category, place, index)
                is_there = index.values[place] == category
            id_ = place + first_id if is_there else absent_id
            id_ = missing_id if missing_M[start + i] else id_
            ids_M[start + i] = id_
            lowest_id = min(lowest_id, id_)
    return lowest_id


@njit(nogil=True, cache=True, inline="always")  # type: ignore[untyped-decorator]
def _guess(category: int, index: _Index) -> int:
    """Where the category stands if its bucket is filled evenly."""
    offset = min(max(category - index.first, 0), index.span)
    bucket = offset >> index.shift
    start, end = int(index.starts[bucket]), int(index.starts[bucket + 1])
    within = offset & ((1 << index.shift) - 1)
    return min(start + ((within * (end - start)) >> index.shift), len(index.values) - 1)


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _step(category: int, place: int, index: _Index) -> int:
    """The place of the category, stepping there from a place nearby; if it is absent, that of another value."""
    values, steps = index.values, 0
    while values[place] < category and place < len(values) - 1 and steps < _MAX_STEPS:
        place += 1
        steps += 1
    while values[place] > category and place > 0 and steps < _MAX_STEPS:
        place -= 1
        steps += 1
    return place if steps < _MAX_STEPS else _search(category, index)


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _search(category: int, index: _Index) -> int:
    """As :func:`_step`, by binary search of the category's bucket."""
    bucket = min(max(category - index.first, 0), index.span) >> index.shift
    low, high = int(index.starts[bucket]), int(index.starts[bucket + 1])
    while low < high:
        middle = (low + high) >> 1
        if index.values[middle] < category:
            low = middle + 1
        else:
            high = middle
    return min(low, len(index.values) - 1)
