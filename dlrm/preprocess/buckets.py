"""The training rows of a bucket, from all chunks, in their order after the shuffle."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from dlrm.errors import DataError
from dlrm.preprocess.arrays import Int64s
from dlrm.preprocess.chunk_file import AGAIN, ChunkReader
from dlrm.preprocess.memory import Scratch
from dlrm.preprocess.records import Records, Words, checksum, checksums
from dlrm.preprocess.rows import Chunk, RowMap
from dlrm.preprocess.setting import Setting
from dlrm.preprocess.shuffle import UInt64s, bucket_count, bucket_rows, order_of, row_keys


@dataclass(frozen=True)
class _Source:
    """A chunk with training rows.

    Attributes:
        training_M: bool (M,), which rows are; None if all are.
    """

    chunk: Chunk
    reader: ChunkReader
    training_M: npt.NDArray[np.bool_] | None

    def training_rows(self, bucket: int) -> Words:
        """Those among the rows of a bucket of a chunk that holds others as well."""
        assert self.training_M is not None
        records_MW = np.empty((self.reader.header.counts.rows, self.reader.header.words), np.uint32)
        found, expected = self.reader.read(bucket, records_MW)
        if checksum(records_MW[:found]) != expected:
            raise self.reader.damaged(bucket)
        return records_MW[:found][self.training_M[records_MW[:found, 0]]]


class Buckets:
    """All buckets of a job; several threads can read them at the same time.

    Raises:
        DataError: a chunk is gone or damaged.
    """

    def __init__(self, setting: Setting, rows: RowMap) -> None:
        self._setting, self._seed = setting, setting.config.seed
        self._count = bucket_count(setting)
        self._words = Records(setting.config.num_dense, setting.config.num_sparse).words
        self._sources = [_source(setting, rows, chunk) for chunk in rows.chunks if any(rows.training(chunk.rows))]
        self._scratch = Scratch()

    @cached_property
    def rows(self) -> Sequence[int]:
        """How many training rows each bucket has."""
        total_B = np.zeros(self._count, np.int64)
        for source in self._sources:
            if source.training_M is None:
                total_B += source.reader.bucket_rows()
            else:
                keys_M = row_keys(
                    source.reader.header.lines_of(np.flatnonzero(source.training_M)), source.chunk.file, self._seed
                )
                total_B += bucket_rows(keys_M, self._count)
        return [int(count) for count in total_B]

    def read(self, bucket: int, skip: int, count: int) -> tuple[Words, Int64s]:
        """The training rows of a bucket, and which of them are the ``count`` from place ``skip`` on.

        The rows are overwritten when the same thread reads another bucket.

        Raises:
            DataError: a chunk is gone or damaged.
        """
        rows = self.rows[bucket]
        records_RW = self._scratch.words(rows, self._words)
        ends, sums = [0], []
        for source in self._sources:
            if source.training_M is None:
                found, expected = source.reader.read(bucket, records_RW[ends[-1] :])
                sums.append(expected)
            else:
                kept = source.training_rows(bucket)
                found = min(len(kept), rows - ends[-1])
                records_RW[ends[-1] : ends[-1] + found] = kept[:found]
                sums.append(checksum(kept[:found]))  # was looked at
            ends.append(ends[-1] + found)
        if ends[-1] != rows:
            folder = str(self._setting.work.raw(0, 0).parent.parent)
            raise DataError(folder, f"bucket {bucket} has {ends[-1]} rows instead of {rows}", mend=AGAIN)
        ends_S = np.array(ends)
        damaged = np.flatnonzero(checksums(records_RW, ends_S) != np.array(sums, np.uint64))
        if len(damaged):
            raise self._sources[damaged[0]].reader.damaged(bucket)
        keys_R = self._keys(records_RW, ends_S)
        return records_RW, order_of(keys_R, self._count)[skip : skip + count]

    def cut(self, buckets: int) -> None:
        """Give back the room of all but the first so many buckets, but for chunks that hold other rows as well."""
        for source in self._sources:
            if source.training_M is None:
                source.reader.cut(buckets)

    def check_kept(self, buckets: int) -> None:
        """Make sure that the first so many buckets are there.

        Raises:
            DataError: a chunk was cut off before them.
        """
        for source in self._sources:
            source.reader.check_kept(buckets)

    def _keys(self, records_RW: Words, ends_S: Int64s) -> UInt64s:
        """The keys of rows that come from all sources in turn."""
        headers = [source.reader.header for source in self._sources]
        lines_R = records_RW[:, 0] + np.repeat(np.array([header.first_line for header in headers]), np.diff(ends_S))
        keys_R = np.empty(len(lines_R), np.uint64)
        for number, header in enumerate(headers):
            if len(header.skipped_lines):
                here = slice(ends_S[number], ends_S[number + 1])
                lines_R[here] = header.lines_of(records_RW[here, 0])
        for file, numbers in itertools.groupby(
            range(len(headers)), key=lambda number: self._sources[number].chunk.file
        ):
            first, *others = numbers
            here = slice(ends_S[first], ends_S[(others or [first])[-1] + 1])
            keys_R[here] = row_keys(lines_R[here], file, self._seed)
        return keys_R


def _source(setting: Setting, rows: RowMap, chunk: Chunk) -> _Source:
    is_mixed = rows.is_mixed(chunk)
    reader = ChunkReader(setting.work.raw(chunk.file, chunk.index), may_be_cut=not is_mixed)
    if reader.header.buckets != bucket_count(setting):
        raise reader.error(f"has {reader.header.buckets} buckets instead of {bucket_count(setting)}")
    if not is_mixed:
        return _Source(chunk, reader, None)
    training_M = np.zeros(len(chunk.rows), np.bool_)
    for found, _ in rows.training(chunk.rows):
        training_M[found.start - chunk.rows.start : found.stop - chunk.rows.start] = True
    return _Source(chunk, reader, training_M)
