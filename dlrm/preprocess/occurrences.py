"""Which values occur in the sparse columns of some rows, each as often as a threshold needs to know.

What goes to a file for each chunk, from which vocabularies are made: for each column the values, ascending, each as often
as it occurs but no more often than ``min_count``. Where most rows repeat values of rows before that is a tenth of the
rows' categories.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dlrm.compiled import compiled
from dlrm.config.prepare import ContiguousVocabulary
from dlrm.data.packed.write import unfinished
from dlrm.errors import DataError
from dlrm.preprocess.arrays import Int64s, UInt32s
from dlrm.preprocess.chunk_file import AGAIN
from dlrm.preprocess.memory import Scratch
from dlrm.preprocess.records import Records, Words

_BLOCK_ROWS = 1 << 12  # whose records stay in a core's second cache
_LOG2_SEEN = 14  # values of a column that are remembered at a time; 64 KiB
_MULTIPLIER = 2_654_435_761


class Occurrences:
    """Finds occurrences; one for several threads.

    Args:
        config: the threshold and the convention for missing values.
        records: how rows are laid out.
    """

    def __init__(self, config: ContiguousVocabulary, records: Records) -> None:
        self._limit, self._missing_is_zero = config.min_count, config.reserved == "mlperf"
        self._records = records
        self._scratch = Scratch()

    def of(self, records_MW: Words) -> list[UInt32s]:
        """The occurrences in each column, without the GIL."""
        found_FM = self._scratch.words(self._records.num_sparse, len(records_MW))
        counts_F = np.zeros(self._records.num_sparse, np.int64)
        seen_FS = np.zeros((self._records.num_sparse, 1 << _LOG2_SEEN), np.uint32)
        seen_FS[:, 0] = 1  # whose place is another one, as is that of 0 for all others: nothing was seen
        what = (records_MW, self._records.first_category, self._missing_is_zero)
        if self._limit == 1:
            _find_once(*what, seen_FS, found_FM, counts_F)
        else:
            times_FS = np.zeros(seen_FS.shape, np.uint16)
            _find(*what, self._limit, seen_FS, times_FS, found_FM, counts_F)
        columns = []
        for found_M, count in zip(found_FM, counts_F, strict=True):
            found_M[:count].sort()
            columns.append(found_M[: _cap(found_M[:count], self._limit)].copy())
        return columns


def frequent(sorted_values: UInt32s, min_count: int) -> UInt32s:
    """Those of ascending values that occur at least so often, each once; the array is overwritten."""
    return sorted_values[: _frequent(sorted_values, min_count)]


def write_values(path: Path, columns: Sequence[UInt32s]) -> None:
    """Write occurrences beside ``path`` and rename the file, as :func:`~.chunk_file.write_chunk` does.

    Layout: for each column int64 its length and CRC-32, then the values, uint32.
    """
    beside = unfinished(path)
    with open(beside, "wb") as file:
        entries = [(len(values), zlib.crc32(values.data)) for values in columns]
        file.write(np.array(entries, "<i8").tobytes())
        for values in columns:
            file.write(values.data)
    beside.replace(path)


class ValuesReader:
    """Reads what :func:`write_values` has written. The file is not kept open.

    Args:
        path: of the file; num_sparse: columns.
    """

    def __init__(self, path: Path, num_sparse: int) -> None:
        self._path = path
        with self._opened() as descriptor:
            stored = os.pread(descriptor, 16 * num_sparse, 0)
            size = os.fstat(descriptor).st_size
        if len(stored) < 16 * num_sparse:
            raise self._error(f"is cut off ({size} bytes)")
        self._entries: Int64s = np.frombuffer(stored, "<i8").reshape(num_sparse, 2)
        self._starts = 16 * num_sparse + 4 * np.concatenate([[0], np.cumsum(self._entries[:, 0])])
        if size != self._starts[-1]:
            raise self._error(f"has {size} bytes instead of {self._starts[-1]}")

    def length(self, column: int) -> int:
        """How many values of a column there are."""
        return int(self._entries[column, 0])

    def read(self, column: int, start: int = 0, stop: int | None = None) -> UInt32s:
        """Values ``start .. stop - 1`` of a column, ascending, uint32; their checksum is looked at where all are read.

        Raises:
            DataError: the file is gone or damaged.
        """
        length = self.length(column)
        stop = length if stop is None else stop
        values = np.empty(stop - start, "<u4")
        view = memoryview(values.data).cast("B")
        with self._opened() as descriptor:
            offset = int(self._starts[column]) + 4 * start
            while view:
                size = os.preadv(descriptor, [view], offset)
                if not size:
                    raise self._error("is cut off")
                view, offset = view[size:], offset + size
        if stop - start == length and zlib.crc32(values.data) != self._entries[column, 1]:
            raise self._error(f"is damaged (checksum of cat_{column})")
        return values

    def _error(self, problem: str) -> DataError:
        return DataError(str(self._path), problem, mend=AGAIN)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        try:
            descriptor = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            raise self._error("no such file") from None
        try:
            yield descriptor
        finally:
            os.close(descriptor)


@compiled
def _find_once(
    records_MW: Words,
    first_category: int,
    missing_is_zero: bool,
    seen_FS: UInt32s,
    found_FM: UInt32s,
    counts_F: Int64s,
) -> None:
    """:func:`_find` for a threshold of 1, without jumps that depend on values, which a processor would guess wrong.

    Nor does numba look whether places are negative where they are unsigned, or count from 0 on: 28 % less time.
    """
    num_rows, shift = len(records_MW), np.uint32(32 - _LOG2_SEEN)
    counted = np.uint32(0) if missing_is_zero else np.uint32(1)
    for start in range(0, num_rows, _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, num_rows)
        for f in range(len(counts_F)):
            word, bit = 1 + ((1 + f) >> 5), np.uint32((1 + f) & 31)
            count = np.uint64(counts_F[f])
            found_M, seen_S = found_FM[f], seen_FS[f]
            values_B, flags_B = records_MW[start:stop, first_category + f], records_MW[start:stop, word]
            for row in range(stop - start):
                value = values_B[row]
                is_missing = (flags_B[row] >> bit) & counted
                place = np.uint32(value * np.uint32(_MULTIPLIER)) >> shift
                found_M[count] = value
                count += np.uint64((seen_S[place] != value) & (is_missing == 0))
                seen_S[place] = value | is_missing  # where it is missing, the value 1 in the place of 0: nothing
            counts_F[f] = np.int64(count)


@compiled
def _find(
    records_MW: Words,
    first_category: int,
    missing_is_zero: bool,
    limit: int,
    seen_FS: UInt32s,
    times_FS: npt.NDArray[np.uint16],
    found_FM: UInt32s,
    counts_F: Int64s,
) -> None:
    """Note values that were not seen lately, or not often enough; what is noted too often is left to sorting."""
    num_rows, shift = len(records_MW), np.uint32(32 - _LOG2_SEEN)
    for start in range(0, num_rows, _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, num_rows)
        for f in range(len(counts_F)):
            word, bit = 1 + ((1 + f) >> 5), np.uint32((1 + f) & 31)
            count = counts_F[f]
            for row in range(start, stop):
                value = records_MW[row, first_category + f]
                place = np.uint32(value * np.uint32(_MULTIPLIER)) >> shift
                if seen_FS[f, place] != value:
                    times_FS[f, place] = 0
                elif times_FS[f, place] >= limit:
                    continue
                if value == 0 and not missing_is_zero and (records_MW[row, word] >> bit) & np.uint32(1):
                    continue
                seen_FS[f, place] = value
                times_FS[f, place] += 1
                found_FM[f, count] = value
                count += 1
            counts_F[f] = count


@compiled
def _cap(values: UInt32s, limit: int) -> int:
    """Leave no more than ``limit`` of each value at the beginning of an ascending array; return how many are left."""
    kept = 0
    for i in range(len(values)):
        if kept < limit or values[kept - limit] != values[i]:
            values[kept] = values[i]
            kept += 1
    return kept


@compiled
def _frequent(values: UInt32s, min_count: int) -> int:
    """Write each value that has as many occurrences to the beginning of an ascending array; return how many there are."""
    kept, run = 0, 0
    for i in range(len(values)):
        run = run + 1 if i and values[i - 1] == values[i] else 1
        if run == min_count:
            values[kept] = values[i]
            kept += 1
    return kept
