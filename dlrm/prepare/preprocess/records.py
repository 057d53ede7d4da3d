"""Rows on their way through the shuffle: *records* of 32-bit words.

A record is: the row's place within its bucket; its flags (bit 0 the label, bit 1 + f whether category f is missing);
dense; ids. Rows are moved record by record, each of which is 2 or 3 cache lines, and never column by column.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from dlrm.prepare.preprocess.counters import read_only
from dlrm.prepare.preprocess.packed_rows import PackedRows, PieceCounts

Words = npt.NDArray[np.uint32]
Int64s = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

_NOWHERE = -1
_BLOCK_ROWS = 4096  # whose flags stay in a core's first cache


class Records:
    """How a row is laid out.

    Args:
        num_dense: N; num_sparse: F; wide: whether ids take two words.
    """

    def __init__(self, num_dense: int, num_sparse: int, *, wide: bool) -> None:
        self._num_sparse, self._id_type = num_sparse, np.dtype(np.int64 if wide else np.int32)
        self._dense = 1 + -(-(1 + num_sparse) // 32)
        self._ids = self._dense + num_dense
        self.words = self._ids + num_sparse * (2 if wide else 1)
        """Words of a record."""

    def pack(self, rows: PackedRows, missing_FM: npt.NDArray[np.bool_], records_MW: Words) -> None:
        """Write M rows as records, except for their places, without the GIL.

        Args:
            rows: M rows.
            missing_FM: bool (F, M), where their categories are missing.
            records_MW: uint32 (M, words).
        """
        flags_MK = np.empty((len(records_MW), self._dense - 1), np.uint32)
        _flags(read_only(rows.labels_M), read_only(read_only(missing_FM).view(np.uint8)), flags_MK)
        records_MW[:, 1 : self._dense] = flags_MK
        records_MW[:, self._dense : self._ids] = rows.dense_MN.view(np.uint32)
        records_MW[:, self._ids :] = rows.ids_MF.view(np.uint32)

    def unpack(self, records_MW: Words) -> PackedRows:
        """The rows of records."""
        return PackedRows(
            dense_MN=np.ascontiguousarray(records_MW[:, self._dense : self._ids]).view(np.float32),
            ids_MF=np.ascontiguousarray(records_MW[:, self._ids :]).view(self._id_type),
            labels_M=(records_MW[:, 1] & np.uint32(1)).astype(np.uint8),
        )

    def look_over(self, records_RW: Words) -> tuple[Int64s, PieceCounts] | None:
        """Look at all records of a bucket, without the GIL.

        Returns:
            The record of each place, int64 (R,), and what was counted; None unless each of R places has one record.
        """
        from_R = np.full(len(records_RW), _NOWHERE, np.int64)
        counts = np.zeros(32 * (self._dense - 1), np.int64)
        if not _look_over(records_RW, from_R, counts):
            return None
        missing = {f"cat_{f}": int(counts[1 + f]) for f in range(self._num_sparse)}
        return from_R, PieceCounts(int(counts[0]), missing)


def order_by_bucket(places_M: Int64s, edges: Int64s) -> tuple[Int64s, Int64s, Int64s]:
    """Where rows go in a spill, in which they stand by bucket, without the GIL.

    Args:
        places_M: int64 (M,), places after the shuffle.
        edges: int64 (buckets + 1,), the first place of each bucket, and the end of the last one.

    Returns:
        offsets (buckets + 1,), where each bucket begins in the spill; within_M, the place of each row within its bucket;
        from_M, the row of each record of the spill. All int64.
    """
    offsets = np.zeros(len(edges), np.int64)
    within_M, from_M = np.empty_like(places_M), np.empty_like(places_M)
    _order_by_bucket(places_M, edges, offsets, within_M, from_M)
    return offsets, within_M, from_M


# Rows are moved by np.take, which is three times as fast as a compiled loop here: it fetches whole rows at a time.


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _flags(labels_M: Bytes, missing_FM: Bytes, flags_MK: Words) -> None:
    flags_MK[:] = 0
    flags_MK[:, 0] = labels_M
    for start in range(0, len(labels_M), _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, len(labels_M))
        for f in range(missing_FM.shape[0]):
            word, bit = (1 + f) >> 5, np.uint32((1 + f) & 31)
            for row in range(start, stop):
                flags_MK[row, word] |= np.uint32(missing_FM[f, row]) << bit


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _order_by_bucket(places_M: Int64s, edges: Int64s, offsets: Int64s, within_M: Int64s, from_M: Int64s) -> None:
    """A counting sort."""
    bucket_M = np.empty(len(places_M), np.int32)
    for row in range(len(places_M)):
        bucket = np.searchsorted(edges, places_M[row], side="right") - 1
        within_M[row] = places_M[row] - edges[bucket]
        bucket_M[row] = bucket
        offsets[bucket + 1] += 1
    for bucket in range(1, len(offsets)):
        offsets[bucket] += offsets[bucket - 1]
    filled = offsets.copy()
    for row in range(len(places_M)):
        from_M[filled[bucket_M[row]]] = row
        filled[bucket_M[row]] += 1


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _look_over(records_RW: Words, from_R: Int64s, counts: Int64s) -> bool:
    """Count the flags' bits and note the record of each place; false if one has none, or several."""
    for record in range(len(records_RW)):
        place = records_RW[record, 0]
        if place >= len(from_R) or from_R[place] != _NOWHERE:
            return False
        from_R[place] = record
        for word in range(len(counts) // 32):
            flags = records_RW[record, 1 + word]
            for bit in range(32):
                counts[32 * word + bit] += (flags >> np.uint32(bit)) & np.uint32(1)
    return True
