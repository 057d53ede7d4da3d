"""The ids of raw categories in a vocabulary: where a value stands in a sorted array, in a few nanoseconds.

A lookup that waits for memory costs a hundred nanoseconds, and one that the processor guesses wrong ten, so the values
are looked up in blocks, in steps that wait for nothing: first where each value would stand if its *bucket* (an equal
share of the values' range) were filled evenly, which hashes nearly do; then what stands there; then the last steps to
its place, which are few. Where they are not, because the values are clustered, a binary search of the bucket takes over.

Most categories are among the few that occur often, so what was found last is remembered (by each thread, in a table with a
place for every value that several share): that answers nine of ten without looking further.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dlrm.compiled import compiled, inlined
from dlrm.preprocess.arrays import Bools, UInt32s, UInt64s, read_only

Ids = npt.NDArray[np.int32] | npt.NDArray[np.int64]

_MAX_LOG2_BUCKETS = 18  # 1 MiB of starts a vocabulary; with 40 million values a guess is 6 off on average
_BLOCK = 512
_MAX_STEPS = 16
_MIN_LOG2_SEEN, _MAX_LOG2_SEEN = 8, 13  # up to 64 KiB a vocabulary and thread
_MULTIPLIER = 2_654_435_761  # spreads values over the places of that table


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
        self._seen = _Seen(min(_MAX_LOG2_SEEN, max(_MIN_LOG2_SEEN, len(values).bit_length() + 2)))

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
        seen_S = self._seen.entries_S
        return int(_write_ids(read_only(categories_M), read_only(missing_M), self._index, reserved, seen_S, ids_M))


class _Seen(threading.local):
    """What a thread has found last.

    Args:
        log2_size: of the table.

    Attributes:
        entries_S: uint64 (S,), in the upper half a value, in the lower one its place among the values + 1, 0 if absent.
    """

    def __init__(self, log2_size: int) -> None:
        self.entries_S = np.zeros(1 << log2_size, np.uint64)
        self.entries_S[0] = 1 << 32  # a value whose place is another one, as is that of 0 for all others


@compiled
def _find_starts(values: UInt32s, first: int, shift: int, starts: Ids) -> None:
    """Where each bucket begins: the number of values in those before it."""
    for value in values:
        starts[((np.int64(value) - first) >> shift) + 1] += 1
    for bucket in range(1, len(starts)):
        starts[bucket] += starts[bucket - 1]


@compiled
def _write_ids(
    categories_M: UInt32s, missing_M: Bools, index: _Index, reserved: tuple[int, int, int], seen_S: UInt64s, ids_M: Ids
) -> int:
    missing_id, absent_id, first_id = reserved
    left_B, guesses_B, found_B = np.empty(_BLOCK, np.int64), np.empty(_BLOCK, np.int64), np.empty(_BLOCK, np.int64)
    lowest_id = 2**62 if len(categories_M) else 0
    for start in range(0, len(categories_M), _BLOCK):
        # In slices, by places that are never negative, as numba can see: 12 % less time than with places of the whole.
        stop = min(start + _BLOCK, len(categories_M))
        categories_B, missing_B, ids_B = categories_M[start:stop], missing_M[start:stop], ids_M[start:stop]
        left = np.uint64(0)
        for i in range(stop - start):
            entry = seen_S[_place_of(categories_B[i], len(seen_S))]
            is_known = (entry >> np.uint64(32)) == np.uint64(categories_B[i])
            number = int(np.int64(entry & np.uint64(0xFFFFFFFF)))
            id_ = number - 1 + first_id if number else absent_id
            id_ = missing_id if missing_B[i] else id_
            ids_B[i] = id_
            is_left = not (is_known | missing_B[i])
            left_B[left] = i
            left += np.uint64(is_left)
            lowest_id = lowest_id if is_left else min(lowest_id, id_)
        num_left = np.int64(left)
        if len(index.values):
            for k in range(num_left):
                guesses_B[k] = _guess(int(np.int64(categories_B[left_B[k]])), index)
            for k in range(num_left):
                found_B[k] = index.values[guesses_B[k]]
        for k in range(num_left):
            i, place = int(left_B[k]), int(guesses_B[k])
            category = int(np.int64(categories_B[i]))
            is_there = len(index.values) > 0
            if is_there and found_B[k] != category:
                place = _step(category, place, index)
                is_there = index.values[place] == category
            number = place + 1 if is_there else 0
            seen_S[_place_of(categories_B[i], len(seen_S))] = (np.uint64(category) << np.uint64(32)) | np.uint64(number)
            id_ = place + first_id if is_there else absent_id
            ids_B[i] = id_
            lowest_id = min(lowest_id, id_)
    return lowest_id


@inlined
def _place_of(category: np.uint32, size: int) -> np.uint64:
    """Where a value is remembered, in a table whose size is a power of two."""
    place: np.uint64 = (np.uint64(np.uint32(category * np.uint32(_MULTIPLIER))) * np.uint64(size)) >> np.uint64(32)
    return place


@inlined
def _guess(category: int, index: _Index) -> int:
    """Where the category stands if its bucket is filled evenly."""
    offset = min(max(category - index.first, 0), index.span)
    bucket = offset >> index.shift
    start, end = int(index.starts[bucket]), int(index.starts[bucket + 1])
    within = offset & ((1 << index.shift) - 1)
    return min(start + ((within * (end - start)) >> index.shift), len(index.values) - 1)


@compiled
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


@compiled
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
