"""The third step: the vocabulary of every sparse column, from the values that occur in the rows that are counted.

What occurs in a chunk goes to a file while the chunk is parsed: for each column its values, ascending, each as often as it
occurs but no more often than the threshold needs. Where most rows repeat values of rows before that is a tenth of the rows'
categories.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from dlrm.compiled import compiled
from dlrm.config.prepare import ContiguousVocabulary
from dlrm.data.packed.write import written_beside
from dlrm.preprocess.job_context import JobContext
from dlrm.preprocess.records import Columns, Records, UInt32s
from dlrm.preprocess.row_plan import RowPlan
from dlrm.preprocess.sections import SectionFile, write_sections
from dlrm.preprocess.shuffle import chunk_rows
from dlrm.preprocess.worker_pool import WorkerPool

_VALUES_AT_A_TIME = 1 << 22  # that are sorted in memory at a time, 16 MiB
_SAMPLE_STEP = 1 << 10
_LOG2_SEEN = 13
_MULTIPLIER = 2_654_435_761


def write_values(path: Path, records_M: Records, config: ContiguousVocabulary) -> None:
    """Write what occurs in the sparse columns of some rows, a section for each.

    Raises:
        DataError: the file cannot be written.
    """
    columns = Columns.of(records_M)
    found = []
    for categories_M, missing_M in zip(columns.categories_FM, columns.missing_FM, strict=True):
        counted = categories_M if config.reserved == "mlperf" else categories_M[~missing_M]
        values, counts = np.unique(_news(counted, config.min_count), return_counts=True)
        found.append(np.repeat(values, np.minimum(counts, config.min_count)))
    write_sections(path, {}, np.concatenate(found), np.cumsum([len(values) for values in found]))


def _news(values_M: UInt32s, limit: int) -> UInt32s:
    """The values without most of those that have occurred ``limit`` times; the rest is sorted in a fifth of the time."""
    found_M = np.empty(len(values_M), np.uint32)
    return found_M[: _find_news(values_M, limit, found_M)]


@compiled
def _find_news(values_M: UInt32s, limit: int, found_M: UInt32s) -> int:
    seen_S, times_S = np.zeros(1 << _LOG2_SEEN, np.uint32), np.zeros(1 << _LOG2_SEEN, np.int32)
    count = 0
    for value in values_M:
        place = np.uint32(value * np.uint32(_MULTIPLIER)) >> np.uint32(32 - _LOG2_SEEN)
        if seen_S[place] != value:
            seen_S[place], times_S[place] = value, 0
        if times_S[place] < limit:
            times_S[place] += 1
            found_M[count] = value
            count += 1
    return count


def keep_training_values(job: JobContext, config: ContiguousVocabulary, plan: RowPlan) -> None:
    """Write anew what occurs in this rank's chunks that hold training rows and others, without the others."""
    own = set(job.own_files)
    if config.of == "all" or _are_there(job):
        return
    for chunk in plan.chunks:
        if chunk.file in own and plan.is_mixed(chunk):
            records_M = chunk_rows(job, chunk)[plan.is_training(chunk)]
            write_values(job.work.values(chunk.file, chunk.index), records_M, config)


def write_vocabularies(job: JobContext, config: ContiguousVocabulary, plan: RowPlan) -> None:
    """Write this rank's vocabularies, as far as they are not there."""
    columns = range(job.config.num_sparse)
    if _are_there(job):
        job.progress.step("vocabularies", len(columns), len(columns))
        return
    files = [
        SectionFile(job.work.values(chunk.file, chunk.index), np.uint32, len(columns))
        for chunk in plan.chunks
        if len(chunk.rows) and (config.of == "all" or any(plan.training(chunk.rows)))
    ]
    lengths = np.sum([file.lengths() for file in files], axis=0).tolist()
    own = job.own(lengths)
    todo = [column for column in own if not job.work.vocabulary(column).exists()]
    job.progress.step("vocabularies", len(own), len(own) - len(todo))
    job.work.vocabulary(0).parent.mkdir(exist_ok=True)
    todo.sort(key=lambda column: -lengths[column])  # so that no thread is left with a long one
    with WorkerPool(job.threads) as pool:
        for _ in pool.each(partial(_write, job, config, files, column) for column in todo):
            job.progress.advance(1)


def forget_values(job: JobContext) -> None:
    """Remove what occurs in the chunks of this rank's files, once all vocabularies are there."""
    for file in job.own_files:
        job.work.forget_values(file)


def vocabulary(files: Sequence[SectionFile], column: int, min_count: int) -> Iterator[UInt32s]:
    """The values of a column that occur often enough, ascending, in pieces: those of one range after the other.

    Memory is for what occurs in a range; where there is more than one range all is read once more, to find their ends.

    Args:
        files: of the chunks that are counted; one at least.
        column: the section.
        min_count: how often a value has to occur.
    """
    lengths = [int(file.lengths()[column]) for file in files]
    ranges = -(-sum(lengths) // _VALUES_AT_A_TIME)
    edges = np.empty(0, np.uint32)
    if ranges > 1:
        sample = np.sort(np.concatenate([file.read(column)[::_SAMPLE_STEP] for file in files]))
        edges = np.unique(sample[:: max(1, len(sample) // ranges)])[1:]
    places = [
        [0, *(np.searchsorted(file.read(column), edges).tolist() if ranges > 1 else ()), length]
        for file, length in zip(files, lengths, strict=True)
    ]
    for number in range(len(edges) + 1):
        found = [file.read(column, ends[number], ends[number + 1]) for file, ends in zip(files, places, strict=True)]
        values, counts = np.unique(np.concatenate(found), return_counts=True)
        yield values[counts >= min_count]


def _are_there(job: JobContext) -> bool:
    return all(job.work.vocabulary(column).exists() for column in range(job.config.num_sparse))


def _write(job: JobContext, config: ContiguousVocabulary, files: Sequence[SectionFile], column: int) -> None:
    with tempfile.TemporaryFile(dir=job.work.path) as found:  # how long it gets is known at the end only
        for values in vocabulary(files, column, config.min_count):
            found.write(values.data)
        found.flush()
        count = found.tell() // 4
        values = np.memmap(found, np.uint32, mode="r", shape=(count,)) if count else np.empty(0, np.uint32)
        with written_beside(job.work.vocabulary(column)) as file:
            np.save(file, values, allow_pickle=False)
