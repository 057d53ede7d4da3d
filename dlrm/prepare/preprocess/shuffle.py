"""The out-of-core shuffle of the training rows.

Where a training row goes is known beforehand: place i moves to ``permuted(i)``, a seeded permutation of all places. So
each *group* of chunks is written once, as a *spill*: its training rows by bucket, with the offsets of every bucket. A
bucket is then read from all spills, a stretch of each, and put in order in memory.

Format of a spill: int64 offsets (buckets + 1,), in rows; then a record (:mod:`dlrm.prepare.preprocess.records`) for every
row.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from dlrm.counter_rng import stream_key
from dlrm.data.packed.write import written_beside
from dlrm.data.permutation import permuted
from dlrm.errors import DataError
from dlrm.prepare.preprocess.crew import Crew
from dlrm.prepare.preprocess.disk import give_back
from dlrm.prepare.preprocess.encode import Encoder
from dlrm.prepare.preprocess.memory import Scratch
from dlrm.prepare.preprocess.packed_rows import PackedRows, PieceCounts
from dlrm.prepare.preprocess.raw_chunk import read_raw_chunk
from dlrm.prepare.preprocess.records import Records, Words, order_by_bucket
from dlrm.prepare.preprocess.rows import Bucket, Chunk, RowMap
from dlrm.prepare.preprocess.setting import Setting

_STRETCH_ROWS = 400  # of a spill in a bucket: 64 KiB, so that reading them all is no random access
_BLOCK_ROWS = 1 << 14  # that are put in order and written at a time
_AGAIN = "start over (overwrite=true)"


@dataclass(frozen=True)
class Group:
    """Chunks of a file whose training rows are in one spill."""

    spill: Path
    chunks: tuple[Chunk, ...]


def groups_of(setting: Setting, rows: RowMap) -> list[Group]:
    """All spills, in order of their rows; the same on every rank."""
    wanted = max(1, min(setting.bucket_rows, _STRETCH_ROWS * len(rows.buckets)))
    groups: list[Group] = []
    for file, chunks in itertools.groupby(rows.chunks, key=lambda chunk: chunk.file):
        gathered: list[Chunk] = []
        number = itertools.count()
        for chunk in chunks:
            if any(rows.training(chunk.rows)):
                gathered.append(chunk)
            if sum(len(chunk.rows) for chunk in gathered) >= wanted:
                groups.append(Group(setting.work.spill(file, next(number)), tuple(gathered)))
                gathered = []
        if gathered:
            groups.append(Group(setting.work.spill(file, next(number)), tuple(gathered)))
    return groups


def spill_training_rows(setting: Setting, encoder: Encoder, rows: RowMap) -> None:
    """Write the spills of this rank's files that are not there; chunks that hold nothing else are removed then."""
    own = set(setting.own_files)
    groups = [group for group in groups_of(setting, rows) if group.chunks[0].file in own]
    todo = [group for group in groups if not group.spill.exists()]
    setting.progress.step("shuffle: spread", len(groups), len(groups) - len(todo))
    for group in todo:
        group.spill.parent.mkdir(parents=True, exist_ok=True)
    spiller = _Spiller(setting, encoder, rows)
    with Crew(setting.threads + 1) as crew:
        for _ in crew.each(partial(spiller.spill, group) for group in todo):
            setting.progress.advance(1)
    for group in groups:  # including those that were spilled just before an interruption
        spiller.drop_chunks(group)


class _Spiller:
    def __init__(self, setting: Setting, encoder: Encoder, rows: RowMap) -> None:
        self._setting, self._encoder, self._rows = setting, encoder, rows
        config = setting.config
        self._records = Records(config.num_dense, config.num_sparse, wide=encoder.wide)
        self._key = stream_key(config.seed, "preprocess", "shuffle")
        self._scratch = Scratch()
        self._bucket_edges = np.array([bucket.first for bucket in rows.buckets] + [rows.training_rows])

    def spill(self, group: Group) -> None:
        """Write a group's spill and remove its chunks."""
        places_M = self._places(group)
        offsets, within_M, from_M = order_by_bucket(places_M, self._bucket_edges)
        records_MW = self._scratch.words(len(places_M), self._records.words)
        start = 0
        for chunk in group.chunks:
            raw = read_raw_chunk(self._setting.work.raw(chunk.file, chunk.index))
            for found, _ in self._rows.training(chunk.rows):
                here = slice(found.start - chunk.rows.start, found.stop - chunk.rows.start)
                rows = PackedRows.encoded(raw, here, self._encoder)
                stop = start + len(found)
                self._records.pack(rows, raw.missing_FM[:, here], records_MW[start:stop])
                start = stop
        records_MW[:, 0] = within_M
        with written_beside(group.spill) as file:
            file.write(offsets.astype("<i8").data)
            for start in range(0, len(from_M), _BLOCK_ROWS):
                file.write(_rows_of(records_MW, from_M[start : start + _BLOCK_ROWS]).data)
        self.drop_chunks(group)

    def _places(self, group: Group) -> npt.NDArray[np.int64]:
        """Where the group's training rows go."""
        old = [
            torch.arange(first, first + len(found))
            for chunk in group.chunks
            for found, first in self._rows.training(chunk.rows)
        ]
        return permuted(torch.cat(old), self._rows.training_rows, self._key).numpy()

    def drop_chunks(self, group: Group) -> None:
        """Remove the chunks all of whose rows are in the spill."""
        for chunk in group.chunks:
            if sum(len(found) for found, _ in self._rows.training(chunk.rows)) == len(chunk.rows):
                self._setting.work.drop_raw(chunk.file, chunk.index)


class BucketReader:
    """Buckets, put together from all spills.

    Args:
        spills: all of them.
        records: how rows are laid out in them.
        num_buckets: of the shuffle.
    """

    def __init__(self, spills: Sequence[Path], records: Records, num_buckets: int) -> None:
        self._spills, self._records, self._num_buckets = spills, records, num_buckets
        self._scratch = Scratch()

    def read(self, bucket: Bucket) -> tuple[Iterator[tuple[int, PackedRows]], PieceCounts]:
        """A bucket's rows in their new order, in blocks, each with the place of its first row; and what was counted.

        The blocks are to be used up before the same thread reads another bucket.

        Raises:
            DataError: the spills do not hold each row of the bucket once.
        """
        records_MW = self._read(bucket)
        found = self._records.look_over(records_MW)
        if found is None:
            folder = str(self._spills[0].parent.parent)
            raise DataError(folder, f"the rows of bucket {bucket.number} are damaged", mend=_AGAIN)
        from_M, counts = found
        blocks = (
            (start, self._records.unpack(_rows_of(records_MW, from_M[start : start + _BLOCK_ROWS])))
            for start in range(0, bucket.count, _BLOCK_ROWS)
        )
        return blocks, counts

    def forget(self, bucket: Bucket) -> None:
        """Free the room that a bucket takes in the spills: it is not going to be read again."""
        for path in self._spills:
            with _opened(path, os.O_RDWR) as descriptor:
                start, stop = self._stretch(descriptor, bucket)
                give_back(descriptor, self._offset(start), self._offset(stop) - self._offset(start))

    def _read(self, bucket: Bucket) -> Words:
        records_MW = self._scratch.words(bucket.count, self._records.words)
        filled = 0
        for path in self._spills:
            with _opened(path, os.O_RDONLY) as descriptor:
                start, stop = self._stretch(descriptor, bucket)
                _read_into(descriptor, records_MW[filled : filled + stop - start], self._offset(start), path)
            filled += stop - start
        if filled != bucket.count:
            folder = str(self._spills[0].parent.parent)
            raise DataError(folder, f"bucket {bucket.number} has {filled} rows instead of {bucket.count}", mend=_AGAIN)
        return records_MW

    def _stretch(self, descriptor: int, bucket: Bucket) -> tuple[int, int]:
        """The records of a spill that are a bucket's."""
        start, stop = np.frombuffer(os.pread(descriptor, 16, 8 * bucket.number), "<i8")
        return int(start), int(stop)

    def _offset(self, record: int) -> int:
        """Where a record is in a spill."""
        return 8 * (self._num_buckets + 1) + 4 * self._records.words * record


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _rows_of(records_MW: Words, from_B: npt.NDArray[np.int64]) -> Words:
    # Clipping is what np.take does without looking at every index first.
    return np.take(records_MW, from_B, axis=0, mode="clip")


def _read_into(descriptor: int, wanted: Words, offset: int, path: Path) -> None:
    view = memoryview(wanted.reshape(-1).view(np.uint8).data)
    while view:
        size = os.preadv(descriptor, [view], offset)
        if not size:
            raise DataError(str(path), "is cut off", mend=_AGAIN)
        view, offset = view[size:], offset + size
