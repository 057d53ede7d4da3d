"""Which raw categories of a column get ids of their own, found in bounded memory whatever their number.

The vocabulary is in ascending order of the raw values, so it depends neither on the order of rows and files nor on who
counts them. Counting takes at most 600 MiB (:mod:`dlrm.prepare.preprocess.counters`): a bitmap where one occurrence is
enough, otherwise counters in slices of the value space, for each of which the column is read anew. What is found goes
to a file, of which the vocabulary is a memory map. A column of few rows is sorted instead, which is quicker.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch

from dlrm.config.prepare import ContiguousVocabulary
from dlrm.distributed.collectives import Collectives, together
from dlrm.prepare.preprocess.counters import LINE_WORDS, LINES, Bools, Counters, Int64s, UInt32s, counter_bits

Columns = Callable[[], Iterable[tuple[UInt32s, Bools]]]

_FEW_ROWS = 1 << 22  # of all ranks together, each of which gets all of them
_BATCH_ROWS = 1 << 20  # rows that threads count at a time, so that starting them costs nothing
_MERGE_BYTES = 16 << 20  # of memory for what ranks exchange at a time


def build_vocabulary(
    columns: Columns,
    config: ContiguousVocabulary,
    *,
    threads: int,
    collectives: Collectives,
    folder: Path | None = None,
) -> UInt32s:
    """The vocabulary of a single column: :class:`VocabularyBuilder` with its memory used once."""
    return VocabularyBuilder(config, threads=threads, collectives=collectives, folder=folder).build(columns)


class VocabularyBuilder:
    """Finds the vocabularies of one column after the other in the same memory.

    Args:
        config: the threshold and the convention for missing values.
        threads: threads that count; each looks at all values and counts its share of the value space.
        collectives: the ranks, each of which has rows of its own of every column.
        folder: where a vocabulary's unnamed file lies, 4 bytes a value; the system's folder for temporary files if left
            out.
    """

    def __init__(
        self, config: ContiguousVocabulary, *, threads: int, collectives: Collectives, folder: Path | None = None
    ) -> None:
        self._config = config
        self._threads = threads
        self._collectives = collectives
        self._folder = folder
        self._counters: Counters | None = None

    def build(self, columns: Columns) -> UInt32s:
        """The raw values of a column that have ids of their own: those in at least ``min_count`` rows of all ranks.

        With ``reserved: mlperf`` a missing category is an occurrence of the value 0, otherwise it is none of any value.
        Every rank calls this for the same columns in the same order and gets the same vocabularies, those of one
        process with all rows.

        Args:
            columns: gives this rank's rows, in pieces of any size: raw values uint32 (M,), 0 where missing, and where
                they are missing, bool (M,). Called anew for each reading: one of the first 4 million rows, then 1, 2, 4,
                8 or 16 of all for a ``min_count`` up to 1, 3, 15, 255 or 65535. One thread reads while others count, so
                it should read ahead where that takes time, and must not reuse its arrays.

        Returns:
            uint32 (K,), ascending, a read-only memory map (an array in memory if K is 0).

        Raises:
            DlrmError: what ``columns`` raises on any rank, on every rank. The builder is of no use any more.
            OSError: the folder's disk is full.
        """
        with tempfile.TemporaryFile(dir=self._folder) as file:
            for values in self._values_in_order(columns):
                file.write(values.data)
            file.flush()
            count = file.tell() // 4
            return np.memmap(file, np.uint32, mode="r", shape=(count,)) if count else np.empty(0, np.uint32)

    def _values_in_order(self, columns: Columns) -> Iterator[UInt32s]:
        """The vocabulary in arrays that are overwritten by the next ones."""
        ranks = self._collectives
        few = ranks.all_gather_object(together(ranks, partial(self._few_rows, columns)))
        if all(occurrences is not None for occurrences in few):
            values, counts = np.unique(np.concatenate(few), return_counts=True)
            yield values[counts >= self._config.min_count]
            return
        if self._counters is None:
            self._counters = Counters(self._config.min_count, missing_is_zero=self._missing_is_zero)
        for number in range(counter_bits(self._config.min_count)):
            together(ranks, partial(self._count, columns, self._counters, number))
            _merge(self._counters, ranks)
            yield from self._counters.take_full_values(number)

    @property
    def _missing_is_zero(self) -> bool:
        return self._config.reserved == "mlperf"

    def _few_rows(self, columns: Columns) -> UInt32s | None:
        """What occurs in this rank's rows; None if there are more than a few."""
        occurrences = [np.empty(0, np.uint32)]
        rows = 0
        for categories_M, missing_M in columns():
            rows += len(categories_M)
            if rows > _FEW_ROWS // self._collectives.world_size:
                return None
            occurrences.append(categories_M if self._missing_is_zero else categories_M[~missing_M])
        return np.concatenate(occurrences)

    def _count(self, columns: Columns, counters: Counters, number: int) -> None:
        """Count a slice in this rank's rows."""
        counting: list[Future[None]] = []
        with ThreadPoolExecutor(self._threads) as pool:
            for batch in _batches(columns()):
                for done in counting:  # the threads have counted the batch before while this one was read
                    done.result()
                counting = [
                    pool.submit(counters.add, batch, number, part=part, parts=self._threads)
                    for part in range(self._threads)
                ]
            for done in counting:
                done.result()


def _batches(columns: Iterable[tuple[UInt32s, Bools]]) -> Iterator[list[tuple[UInt32s, Bools]]]:
    batch: list[tuple[UInt32s, Bools]] = []
    rows = 0
    for column in columns:
        batch.append(column)
        rows += len(column[0])
        if rows >= _BATCH_ROWS:
            yield batch
            batch, rows = [], 0
    if batch:
        yield batch


def _merge(counters: Counters, collectives: Collectives) -> None:
    """Make the counters of this rank those of all ranks."""
    if collectives.world_size == 1:
        return
    collectives.all_reduce_or_(torch.from_numpy(counters.touched_L.view(np.int64)))
    merge = _merge_bits if counters.bits == 1 else _merge_counts
    counters_of_line = LINE_WORDS * 64 // counters.bits
    lines_at_a_time = _MERGE_BYTES // (8 * LINE_WORDS if counters.bits == 1 else 8 * counters_of_line)
    for start in range(0, LINES, lines_at_a_time):
        lines = start + np.flatnonzero(counters.touched_L[start : start + lines_at_a_time])
        if len(lines):
            merge(counters, lines, collectives)


def _merge_bits(counters: Counters, lines: Int64s, collectives: Collectives) -> None:
    words_LW = counters.words_LW[lines]
    collectives.all_reduce_or_(torch.from_numpy(words_LW.view(np.int64)))
    counters.words_LW[lines] = words_LW


def _merge_counts(counters: Counters, lines: Int64s, collectives: Collectives) -> None:
    fits_byte = counters.full * collectives.world_size <= np.iinfo(np.uint8).max
    wide = counters.unpacked(lines)
    counts = wide.astype(np.uint8) if fits_byte else wide.astype(np.int32)
    collectives.all_reduce_sum_(torch.from_numpy(counts))
    counters.replace(lines, counts)
