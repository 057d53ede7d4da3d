"""The third step: the vocabulary of every sparse column, from the rows that are counted."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from dlrm.config.prepare import ContiguousVocabulary
from dlrm.data.packed.write import written_beside
from dlrm.distributed.collectives import Collectives, from_rank_0
from dlrm.prepare.preprocess.counters import Bools, UInt32s
from dlrm.prepare.preprocess.disk import disk_errors
from dlrm.prepare.preprocess.raw_chunk import read_category
from dlrm.prepare.preprocess.rows import Chunk, RowMap
from dlrm.prepare.preprocess.setting import Setting
from dlrm.prepare.preprocess.vocabulary import VocabularyBuilder


def write_vocabularies(setting: Setting, config: ContiguousVocabulary, rows: RowMap, collectives: Collectives) -> None:
    """Write the vocabularies that are not there; every rank counts in its own files, rank 0 writes."""
    columns = range(setting.config.num_sparse)
    there = from_rank_0(collectives, lambda: [setting.work.vocabulary(column).exists() for column in columns])
    own = set(setting.own_files)
    chunks = [chunk for chunk in rows.chunks if chunk.file in own and len(chunk.rows)]
    setting.progress.step("vocabularies", len(columns), sum(there))
    builder = VocabularyBuilder(config, threads=setting.threads, collectives=collectives, folder=setting.work.path)
    for column in columns:
        if there[column]:
            continue
        with disk_errors(setting.work.output):
            values = builder.build(partial(_pieces, setting, config, rows, chunks, column))
        from_rank_0(collectives, partial(_write, setting, column, values))
        setting.progress.advance(1)


def _pieces(
    setting: Setting, config: ContiguousVocabulary, rows: RowMap, chunks: list[Chunk], column: int
) -> Iterator[tuple[UInt32s, Bools]]:
    """The rows of a column that are counted."""
    with disk_errors(setting.work.output):
        for chunk in chunks:
            stretches = [chunk.rows] if config.of == "all" else [found for found, _ in rows.training(chunk.rows)]
            if not stretches:
                continue
            categories_M, missing_M = read_category(setting.work.raw(chunk.file, chunk.index), column)
            for found in stretches:
                here = slice(found.start - chunk.rows.start, found.stop - chunk.rows.start)
                yield categories_M[here], missing_M[here]


def _write(setting: Setting, column: int, values: UInt32s) -> None:
    path = setting.work.vocabulary(column)
    with disk_errors(setting.work.output):
        path.parent.mkdir(exist_ok=True)
        with written_beside(path) as file:
            np.save(file, values, allow_pickle=False)
