"""The out-of-core shuffle of the training rows.

Every row has a random *key*: 64 bits, a function of the seed, of its file's number and of its line there. The order of the
keys is the order of the training rows after the shuffle (where keys of rows are equal, theirs before it). A *bucket* is an
equal share of the keys, so rows know theirs before anybody has counted them: the rows of a chunk are written by
bucket, and a bucket is read from all chunks, a stretch of each, and put in order in memory.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dlrm.compiled import compiled, inlined
from dlrm.counter_rng import GOLDEN_GAMMA, MIX_1, MIX_2, stream_key
from dlrm.preprocess.arrays import Int64s, read_only
from dlrm.preprocess.records import Words
from dlrm.preprocess.setting import Setting

UInt64s = npt.NDArray[np.uint64]

_STRETCH_ROWS = 100  # of a chunk in a bucket: 16 KiB, so that reading them all is no random access
_SMALL_BUCKET_ROWS = 1 << 16  # whose records are put in order in a core's third cache
_KEYS_A_CELL = 2


def bucket_count(setting: Setting) -> int:
    """How many buckets there are, as far as can be told from the estimated number of rows; 1 without a shuffle.

    As many as chunks of a single text are long enough for, but small ones, unless a bucket outgrows ``bucket_rows``.
    """
    if not setting.config.shuffle:
        return 1
    rows = sum(source.extent.rows for source in setting.sources)
    by_stretch = math.ceil(rows * _STRETCH_ROWS / _rows_of_a_text(setting))
    return max(1, math.ceil(rows / min(setting.bucket_rows, max(_SMALL_BUCKET_ROWS, by_stretch))))


def texts_per_chunk(setting: Setting) -> int:
    """How many texts make a chunk: as many as it takes for its stretches not to be too short."""
    if not setting.config.shuffle:
        return 1
    wanted = min(setting.bucket_rows, _STRETCH_ROWS * bucket_count(setting))
    return max(1, math.ceil(wanted / _rows_of_a_text(setting)))


def _rows_of_a_text(setting: Setting) -> float:
    rows = sum(source.extent.rows for source in setting.sources)
    text_bytes = sum(source.extent.text_bytes for source in setting.sources)
    return max(1.0, rows * setting.chunk_bytes / max(1, text_bytes))


def row_keys(lines_M: Int64s, file: int, seed: int) -> UInt64s:
    """The keys of rows, uint64 (M,), without the GIL.

    Args:
        lines_M: int64 (M,), which line of their file they are, from 0 on.
        file: the number of the file.
        seed: of the shuffle.
    """
    keys_M = np.empty(len(lines_M), np.uint64)
    _keys(read_only(lines_M), np.uint64(stream_key(seed, "preprocess", "shuffle", file) % 2**64), keys_M)
    return keys_M


def bucket_rows(keys_M: UInt64s, buckets: int) -> Int64s:
    """How many of the rows with some keys are in each bucket, int64 (buckets,)."""
    counts_B = np.zeros(buckets, np.int64)
    _count(read_only(keys_M), np.uint64(buckets), counts_B)
    return counts_B


class Spread(NamedTuple):
    """Rows by bucket, those of a bucket in their order.

    Attributes:
        places_M: int64 (M,), where each row is then.
        ends_B: int64 (buckets,), where the rows of each bucket end.
    """

    places_M: Int64s
    ends_B: Int64s

    @classmethod
    def of(cls, keys_M: UInt64s, buckets: int) -> Spread:
        """How rows with some keys are spread over so many buckets, without the GIL."""
        ends_B = np.cumsum(bucket_rows(keys_M, buckets))
        places_M = np.empty(len(keys_M), np.int64)
        _spread(read_only(keys_M), np.uint64(buckets), np.concatenate([[0], ends_B]), places_M)
        return cls(places_M, ends_B)

    def placed(self, records_MW: Words) -> Words:
        """Records in the order of rows, by bucket."""
        from_M = np.empty_like(self.places_M)
        from_M[self.places_M] = np.arange(len(from_M))
        return rows_of(records_MW, from_M)


def order_of(keys_R: UInt64s, buckets: int) -> Int64s:
    """Which row of a bucket (of so many buckets) is the first, second ..., int64 (R,), without the GIL.

    Rows with equal keys stay in order.
    """
    order_R = np.empty(len(keys_R), np.int64)
    cells = max(1, len(keys_R) // _KEYS_A_CELL)
    _sort(read_only(keys_R), np.uint64(buckets), np.uint64(cells), np.zeros(cells + 1, np.int64), order_R)
    return order_R


def rows_of(records_MW: Words, from_B: Int64s) -> Words:
    """Some records in some order. np.take moves whole records, which is three times as fast as a compiled loop."""
    # Clipping is what np.take does without looking at every index first.
    return np.take(records_MW, from_B, axis=0, mode="clip")


@compiled
def _keys(lines_M: Int64s, stream: np.uint64, keys_M: UInt64s) -> None:
    """:func:`dlrm.counter_rng.random_bits` of each line."""
    for i in range(len(lines_M)):
        z = np.uint64(lines_M[i]) * np.uint64(GOLDEN_GAMMA) + stream
        z = (z ^ (z >> np.uint64(30))) * np.uint64(MIX_1)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(MIX_2)
        keys_M[i] = z ^ (z >> np.uint64(31))


@inlined
def _bucket_of(key: np.uint64, buckets: np.uint64) -> np.uint64:
    """An equal share of the keys, by their upper halves."""
    bucket: np.uint64 = ((key >> np.uint64(32)) * buckets) >> np.uint64(32)
    return bucket


@compiled
def _count(keys_M: UInt64s, buckets: np.uint64, counts_B: Int64s) -> None:
    for key in keys_M:
        counts_B[_bucket_of(key, buckets)] += 1


@compiled
def _spread(keys_M: UInt64s, buckets: np.uint64, filled_B: Int64s, places_M: Int64s) -> None:
    """A counting sort by bucket; ``filled_B``, where each begins, is overwritten."""
    for row in range(len(keys_M)):
        bucket = _bucket_of(keys_M[row], buckets)
        places_M[row] = filled_B[bucket]
        filled_B[bucket] += 1


@inlined
def _cell_of(key: np.uint64, buckets: np.uint64, cells: np.uint64) -> np.uint64:
    """An equal share of a bucket's keys: what is left of the product when the bucket is taken from it."""
    within = ((key >> np.uint64(32)) * buckets) & np.uint64(0xFFFFFFFF)
    cell: np.uint64 = (within * cells) >> np.uint64(32)
    return cell


@compiled
def _sort(keys_R: UInt64s, buckets: np.uint64, cells: np.uint64, filled_C: Int64s, order_R: Int64s) -> None:
    """A counting sort by cell, which are in the order of their keys, then by insertion: a cell has two keys or so."""
    for key in keys_R:
        filled_C[_cell_of(key, buckets, cells) + np.uint64(1)] += 1
    for cell in range(1, len(filled_C)):
        filled_C[cell] += filled_C[cell - 1]
    for row in range(len(keys_R)):
        cell_ = _cell_of(keys_R[row], buckets, cells)
        order_R[filled_C[cell_]] = row
        filled_C[cell_] += 1
    for i in range(1, len(order_R)):
        row = order_R[i]
        key = keys_R[row]
        j = i - 1
        while j >= 0 and keys_R[order_R[j]] > key:
            order_R[j + 1] = order_R[j]
            j -= 1
        order_R[j + 1] = row
