"""The third step: the vocabulary of every sparse column, from what occurs in the rows that are counted."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from dlrm.config.prepare import ContiguousVocabulary
from dlrm.data.packed.write import written_beside
from dlrm.preprocess.arrays import UInt32s
from dlrm.preprocess.chunk_file import ChunkReader
from dlrm.preprocess.crew import Crew
from dlrm.preprocess.occurrences import Occurrences, ValuesReader, frequent, write_values
from dlrm.preprocess.records import Records
from dlrm.preprocess.rows import Chunk, RowMap
from dlrm.preprocess.setting import Setting

_VALUES_AT_A_TIME = 1 << 22  # occurrences that are sorted in memory at a time, 16 MiB
_SAMPLE_STEP = 1 << 10


def note_training_values(setting: Setting, config: ContiguousVocabulary, rows: RowMap) -> None:
    """Note what occurs in the training rows of this rank's chunks that hold other rows as well."""
    own = set(setting.own_files)
    if config.of == "all" or _are_there(setting):
        return
    records = Records(setting.config.num_dense, setting.config.num_sparse)
    occurrences = Occurrences(config, records)
    for chunk in rows.chunks:
        path = setting.work.training_values(chunk.file, chunk.index)
        if chunk.file not in own or not rows.is_mixed(chunk) or path.exists():
            continue
        records_MW = ChunkReader(setting.work.raw(chunk.file, chunk.index)).read_all()
        stretches = [found for found, _ in rows.training(chunk.rows)]
        first = chunk.rows.start
        found = np.concatenate([records_MW[rows.start - first : rows.stop - first] for rows in stretches])
        write_values(path, occurrences.of(found))


def write_vocabularies(setting: Setting, config: ContiguousVocabulary, rows: RowMap) -> None:
    """Write this rank's vocabularies, as far as they are not there."""
    columns = range(setting.config.num_sparse)
    if _are_there(setting):
        setting.progress.step("vocabularies", len(columns), len(columns))
        return
    paths = [path for chunk in rows.chunks if (path := _values_of(setting, config, rows, chunk)) is not None]
    readers = [ValuesReader(path, len(columns)) for path in paths]
    lengths = [sum(reader.length(column) for reader in readers) for column in columns]
    own = setting.own(lengths)
    todo = [column for column in own if not setting.work.vocabulary(column).exists()]
    setting.progress.step("vocabularies", len(own), len(own) - len(todo))
    setting.work.vocabulary(0).parent.mkdir(exist_ok=True)
    todo.sort(key=lambda column: -lengths[column])  # so that no thread is left with a long one
    with Crew(setting.threads) as crew:
        for _ in crew.each(partial(_write, setting, config, readers, column) for column in todo):
            setting.progress.advance(1)


def forget_values(setting: Setting) -> None:
    """Remove the occurrences in this rank's files, once all vocabularies are there."""
    for file in setting.own_files:
        setting.work.forget_values(file)


def vocabulary(readers: Sequence[ValuesReader], column: int, min_count: int) -> Iterator[UInt32s]:
    """The values of a column that occur often enough, ascending, in pieces: those of one range after the other.

    Memory is for a range's occurrences; where they are of more than one range they are read once more, to find its ends.
    """
    total = sum(reader.length(column) for reader in readers)
    if total <= _VALUES_AT_A_TIME:
        values = np.concatenate([reader.read(column) for reader in readers]) if readers else np.empty(0, np.uint32)
        values.sort()
        yield frequent(values, min_count)
        return
    sample = np.sort(np.concatenate([reader.read(column)[::_SAMPLE_STEP] for reader in readers]))
    edges = np.unique(sample[:: max(1, len(sample) * _VALUES_AT_A_TIME // total)])[1:]
    places = [[0, *np.searchsorted(reader.read(column), edges), reader.length(column)] for reader in readers]
    for number in range(len(edges) + 1):
        stretches = [
            reader.read(column, int(ends[number]), int(ends[number + 1]))
            for reader, ends in zip(readers, places, strict=True)
        ]
        values = np.concatenate(stretches)
        values.sort()
        yield frequent(values, min_count)


def _are_there(setting: Setting) -> bool:
    return all(setting.work.vocabulary(column).exists() for column in range(setting.config.num_sparse))


def _values_of(setting: Setting, config: ContiguousVocabulary, rows: RowMap, chunk: Chunk) -> Path | None:
    """Where those occurrences of a chunk are that are counted; None if none are."""
    if config.of == "all" or not rows.is_mixed(chunk):
        is_counted = len(chunk.rows) and (config.of == "all" or any(rows.training(chunk.rows)))
        return setting.work.values(chunk.file, chunk.index) if is_counted else None
    return setting.work.training_values(chunk.file, chunk.index)


def _write(setting: Setting, config: ContiguousVocabulary, readers: Sequence[ValuesReader], column: int) -> None:
    path = setting.work.vocabulary(column)
    with tempfile.TemporaryFile(dir=setting.work.path) as found:  # how long it gets is known at the end only
        for values in vocabulary(readers, column, config.min_count):
            found.write(values.data)
        found.flush()
        count = found.tell() // 4
        values = np.memmap(found, np.uint32, mode="r", shape=(count,)) if count else np.empty(0, np.uint32)
        with written_beside(path) as file:
            np.save(file, values, allow_pickle=False)
