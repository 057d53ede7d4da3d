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
from dlrm.prepare.preprocess.counters import PAGE_WORDS, Bools, Counters, Int64s, UInt32s, counter_bits

Columns = Callable[[], Iterable[tuple[UInt32s, Bools]]]

_FEW_ROWS = 1 << 20  # of all ranks together, each of which gets all of them
_BATCH_ROWS = 1 << 20  # rows that threads count at a time, so that starting them costs nothing
_MERGE_BYTES = 16 << 20  # of memory for what ranks exchange at a time
_SAMPLE_ROWS = 1 << 16
_MANY_VALUES = 1 << 12


def build_vocabulary(
    columns: Columns,
    config: ContiguousVocabulary,
    *,
    threads: int,
    collectives: Collectives,
    folder: Path | None = None,
) -> UInt32s:
    """The raw values of a column that have ids of their own: those in at least ``config.min_count`` rows of all ranks.

    With ``reserved: mlperf`` a missing category is an occurrence of the value 0, otherwise it is none of any value.
    Every rank calls this for the same column and gets the same vocabulary, that of one process with all rows.

    Args:
        columns: gives this rank's rows, in pieces of any size: raw values uint32 (M,) and where they are missing, bool
            (M,). Called anew for each reading: one of the first rows, then 1, 2, 4, 8 or 16 for a ``min_count`` up to
            1, 3, 15, 255 or 65535. One thread reads while others count, so it should read ahead where that takes time,
            and must not reuse its arrays.
        config: the threshold and the convention for missing values.
        threads: threads that count; each looks at all values and counts its share of the value space.
        collectives: the ranks.
        folder: where the vocabulary's unnamed file lies, 4 bytes a value; the system's folder for temporary files if
            left out.

    Returns:
        uint32 (K,), ascending, a read-only memory map (an array in memory if K is 0).

    Raises:
        DlrmError: what ``columns`` raises on any rank, on every rank.
        OSError: the folder's disk is full.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        for values in _values_in_order(columns, config, threads, collectives):
            file.write(values.data)
        count = file.tell() // 4
        return np.memmap(file, np.uint32, mode="r", shape=(count,)) if count else np.empty(0, np.uint32)


def _values_in_order(
    columns: Columns, config: ContiguousVocabulary, threads: int, collectives: Collectives
) -> Iterator[UInt32s]:
    """The vocabulary in arrays that are overwritten by the next ones."""
    most = _FEW_ROWS // collectives.world_size
    few = collectives.all_gather_object(together(collectives, partial(_few_rows, columns, config, most)))
    if all(occurrences is not None for occurrences in few):
        values, counts = np.unique(np.concatenate(few), return_counts=True)
        yield values[counts >= config.min_count]
        return
    with ThreadPoolExecutor(threads) as pool:
        for number in range(counter_bits(config.min_count)):
            yield from _slice_values(partial(_counted, columns, config, number, pool, threads), collectives)


def _slice_values(counted: Callable[[], Counters], collectives: Collectives) -> Iterator[UInt32s]:
    """The vocabulary's values in a slice; a function of its own, so that its counters are gone before the next ones."""
    counters = together(collectives, counted)
    _merge(counters, collectives)
    yield from counters.full_values()


def _few_rows(columns: Columns, config: ContiguousVocabulary, most: int) -> UInt32s | None:
    """What occurs in this rank's rows; None if there are more than ``most``."""
    occurrences = [np.empty(0, np.uint32)]
    rows = 0
    for categories_M, missing_M in columns():
        rows += len(categories_M)
        if rows > most:
            return None
        as_zero = config.reserved == "mlperf"
        occurrences.append(np.where(missing_M, np.uint32(0), categories_M) if as_zero else categories_M[~missing_M])
    return np.concatenate(occurrences)


def _counted(
    columns: Columns, config: ContiguousVocabulary, number: int, pool: ThreadPoolExecutor, threads: int
) -> Counters:
    """The counters of a slice, of this rank's rows."""
    counters = Counters(config.min_count, number, missing_is_zero=config.reserved == "mlperf")
    counting: list[Future[None]] = []
    for batch in _batches(columns()):
        if not counting:
            counters.expect(many_values=len(np.unique(batch[0][0][:_SAMPLE_ROWS])) > _MANY_VALUES)
        for done in counting:  # the threads have counted the batch before while this one was read
            done.result()
        counting = [pool.submit(counters.add, batch, part=part, parts=threads) for part in range(threads)]
    for done in counting:
        done.result()
    return counters


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
    ranks_P = torch.from_numpy(counters.touched_P.astype(np.int32))
    collectives.all_reduce_sum_(ranks_P)
    counters.touched_P[:] = ranks_P.numpy() > 0

    merge = _merge_bits if counters.bits == 1 else _merge_counts
    page_bytes = 8 * PAGE_WORDS * (1 if counters.bits == 1 else 64 // counters.bits)
    touched = np.flatnonzero(counters.touched_P)
    pages_at_a_time = _MERGE_BYTES // page_bytes
    for start in range(0, len(touched), pages_at_a_time):
        merge(counters, touched[start : start + pages_at_a_time], collectives)


def _merge_bits(counters: Counters, pages: Int64s, collectives: Collectives) -> None:
    words_PW = counters.words_PW[pages]
    collectives.all_reduce_or_(torch.from_numpy(words_PW.view(np.int64)))
    counters.words_PW[pages] = words_PW


def _merge_counts(counters: Counters, pages: Int64s, collectives: Collectives) -> None:
    fits_byte = counters.full * collectives.world_size <= np.iinfo(np.uint8).max
    wide = counters.unpacked(pages)
    counts = wide.astype(np.uint8) if fits_byte else wide.astype(np.int32)
    collectives.all_reduce_sum_(torch.from_numpy(counts))
    counters.replace(pages, counts)
