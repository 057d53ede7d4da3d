"""Parsed rows as *records* of 32-bit words, which are moved as they are, each in 2 or 3 cache lines.

A record is: the number of the row in its chunk; its flags (bit 0 the label, bit 1 + f whether category f is missing);
dense, float32; raw categories.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dlrm.compiled import compiled
from dlrm.preprocess.arrays import Bools, Bytes, Float32s, Int64s, UInt32s
from dlrm.preprocess.encode import Encoder
from dlrm.preprocess.packed_rows import PackedRows

Words = UInt32s

_BLOCK_ROWS = 1 << 10  # whose records and columns stay in a core's second cache


@dataclass(frozen=True)
class Columns:
    """M rows by column.

    Attributes:
        labels_M: uint8 (M,), 0 or 1.
        dense_MN: float32 (M, N), transformed.
        categories_FM: uint32 (F, M), the raw values, 0 where missing.
        missing_FM: bool (F, M), where the field is empty.
    """

    labels_M: Bytes
    dense_MN: Float32s
    categories_FM: UInt32s
    missing_FM: Bools

    def encoded(self, encoder: Encoder) -> PackedRows:
        """The rows as they are written."""
        return PackedRows(self.dense_MN, encoder.encode(self.categories_FM, self.missing_FM), self.labels_M)


@dataclass(frozen=True)
class Records:
    """How a row is laid out.

    Args:
        num_dense: N; num_sparse: F.
    """

    num_dense: int
    num_sparse: int

    @property
    def flag_words(self) -> int:
        """Words of flags."""
        return (self.num_sparse + 32) // 32

    @property
    def first_category(self) -> int:
        """The first word of the categories."""
        return 1 + self.flag_words + self.num_dense

    @property
    def words(self) -> int:
        """Words of a record."""
        return self.first_category + self.num_sparse

    def columns(self, records_MW: Words) -> Columns:
        """Records by column, without the GIL."""
        rows = len(records_MW)
        dense_MN = np.ascontiguousarray(records_MW[:, 1 + self.flag_words : self.first_category]).view(np.float32)
        labels_M = np.empty(rows, np.uint8)
        categories_FM = np.empty((self.num_sparse, rows), np.uint32)
        missing_FM = np.empty((self.num_sparse, rows), np.uint8)
        _by_column(np.ascontiguousarray(records_MW), self.first_category, labels_M, categories_FM, missing_FM)
        return Columns(labels_M, dense_MN, categories_FM, missing_FM.view(np.bool_))


def checksum(records_MW: Words) -> int:
    """Of records in order, 64 bits, without the GIL: the sum of all words, each times its place.

    It is for what a power failure leaves of a file that was not synced, zeros where something else was: they always
    change it.
    """
    return int(checksums(records_MW, np.array([0, len(records_MW)]))[0])


def checksums(records_RW: Words, ends_S: Int64s) -> npt.NDArray[np.uint64]:
    """Of each of some stretches of records, uint64 (S,): the first is ``ends_S[0] .. ends_S[1] - 1``, and so on."""
    sums_S = np.empty(len(ends_S) - 1, np.uint64)
    _weighted_sums(np.ascontiguousarray(records_RW), ends_S, sums_S)
    return sums_S


@compiled
def _weighted_sum(words: UInt32s) -> np.uint64:
    total = np.uint64(0)
    for i in range(len(words)):
        total += np.uint64(words[i]) * np.uint64(np.uint32(i + 1))
    return total


@compiled
def _weighted_sums(records_RW: Words, ends_S: Int64s, sums_S: npt.NDArray[np.uint64]) -> None:
    for stretch in range(len(sums_S)):
        sums_S[stretch] = _weighted_sum(records_RW[ends_S[stretch] : ends_S[stretch + 1]].reshape(-1))


@compiled
def _by_column(
    records_MW: Words, first_category: int, labels_M: Bytes, categories_FM: UInt32s, missing_FM: Bytes
) -> None:
    num_rows, num_sparse = len(records_MW), len(categories_FM)
    for start in range(0, num_rows, _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, num_rows)
        for row in range(start, stop):
            labels_M[row] = records_MW[row, 1] & np.uint32(1)
        for f in range(num_sparse):
            word, bit = 1 + ((1 + f) >> 5), np.uint32((1 + f) & 31)
            values_B, flags_B = records_MW[start:stop, first_category + f], records_MW[start:stop, word]
            categories_B, missing_B = categories_FM[f, start:stop], missing_FM[f, start:stop]
            for row in range(stop - start):
                categories_B[row] = values_B[row]
                missing_B[row] = (flags_B[row] >> bit) & np.uint32(1)
