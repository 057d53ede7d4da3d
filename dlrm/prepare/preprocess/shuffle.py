"""The out-of-core shuffle of the training rows.

Where a training row goes is known beforehand: place i moves to ``permuted(i)``, a seeded permutation of all places. So
each *group* of chunks is written once, as a *spill*: its training rows in the order of their new places, with the offsets
of every bucket. A bucket is then read from all spills, a stretch of each, and put in order in memory.

Format of a spill: int64 offsets (buckets + 1,), in rows; then a *record* of 32-bit words for every row: its place within
its bucket; its flags (bit 0 the label, bit 1 + f whether category f is missing); dense; ids.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
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
from dlrm.prepare.preprocess.encode import Encoder
from dlrm.prepare.preprocess.packed_rows import PackedRows
from dlrm.prepare.preprocess.raw_chunk import read_raw_chunk
from dlrm.prepare.preprocess.rows import Bucket, Chunk, RowMap
from dlrm.prepare.preprocess.setting import Setting

_STRETCH_ROWS = 400  # of a spill in a bucket: 64 KiB, so that reading them all is no random access
_BLOCK_ROWS = 1 << 16  # of a bucket that are put in order and written at a time
_AGAIN = "start over (overwrite=true)"

Words = npt.NDArray[np.uint32]


class Records:
    """How a row is laid out in a spill.

    Args:
        num_dense: N; num_sparse: F; wide: whether ids take two words.
    """

    def __init__(self, num_dense: int, num_sparse: int, *, wide: bool) -> None:
        self._num_sparse, self._id_type = num_sparse, np.dtype(np.int64 if wide else np.int32)
        self._dense = 1 + -(-(1 + num_sparse) // 32)
        self._ids = self._dense + num_dense
        self.words = self._ids + num_sparse * (2 if wide else 1)
        """Words of a record."""

    def pack(self, rows: PackedRows, records_MW: Words) -> None:
        """Write rows as records, except for their places."""
        flags_MK = records_MW[:, 1 : self._dense]
        flags_MK[:] = 0
        flags_MK[:, 0] = rows.labels_M
        for f, missing_M in enumerate(rows.missing_FM):
            word, bit = divmod(1 + f, 32)
            flags_MK[:, word] |= missing_M.astype(np.uint32) << np.uint32(bit)
        records_MW[:, self._dense : self._ids] = rows.dense_MN.view(np.uint32)
        records_MW[:, self._ids :] = rows.ids_MF.view(np.uint32)

    def unpack(self, records_MW: Words) -> PackedRows:
        """The rows of records."""
        flags_KM = np.ascontiguousarray(records_MW[:, 1 : self._dense].T)
        bits = (divmod(1 + f, 32) for f in range(self._num_sparse))
        return PackedRows(
            dense_MN=np.ascontiguousarray(records_MW[:, self._dense : self._ids]).view(np.float32),
            ids_MF=np.ascontiguousarray(records_MW[:, self._ids :]).view(self._id_type),
            labels_M=(flags_KM[0] & np.uint32(1)).astype(np.uint8),
            missing_FM=np.stack([flags_KM[word] & np.uint32(1 << bit) != 0 for word, bit in bits]),
        )


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
    with Crew(setting.threads) as crew:
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
        self._bucket_edges = np.array([bucket.first for bucket in rows.buckets] + [rows.training_rows])

    def spill(self, group: Group) -> None:
        """Write a group's spill and remove its chunks."""
        size = sum(len(found) for chunk in group.chunks for found, _ in self._rows.training(chunk.rows))
        records_MW = np.empty((size, self._records.words), np.uint32)
        places_M = np.empty(size, np.int64)
        filled = 0
        for chunk in group.chunks:
            filled = self._fill(chunk, records_MW, places_M, filled)
        self._write(group.spill, records_MW, places_M)
        self.drop_chunks(group)

    def drop_chunks(self, group: Group) -> None:
        """Remove the chunks all of whose rows are in the spill."""
        for chunk in group.chunks:
            if sum(len(found) for found, _ in self._rows.training(chunk.rows)) == len(chunk.rows):
                self._setting.work.drop_raw(chunk.file, chunk.index)

    def _fill(self, chunk: Chunk, records_MW: Words, places_M: npt.NDArray[np.int64], start: int) -> int:
        raw = read_raw_chunk(self._setting.work.raw(chunk.file, chunk.index))
        for found, first in self._rows.training(chunk.rows):
            here = slice(found.start - chunk.rows.start, found.stop - chunk.rows.start)
            stop = start + len(found)
            self._records.pack(PackedRows.encoded(raw, here, self._encoder), records_MW[start:stop])
            old = torch.arange(first, first + len(found))
            places_M[start:stop] = permuted(old, self._rows.training_rows, self._key).numpy()
            start = stop
        return start

    def _write(self, path: Path, records_MW: Words, places_M: npt.NDArray[np.int64]) -> None:
        order_M = np.argsort(places_M)
        sorted_M = places_M[order_M]
        offsets = np.searchsorted(sorted_M, self._bucket_edges)
        within_M = sorted_M - np.repeat(self._bucket_edges[:-1], np.diff(offsets))
        with written_beside(path) as file:
            file.write(offsets.astype("<i8").data)
            for start in range(0, len(order_M), _BLOCK_ROWS):
                block = slice(start, start + _BLOCK_ROWS)
                sorted_BW = np.take(records_MW, order_M[block], axis=0)
                sorted_BW[:, 0] = within_M[block]
                file.write(sorted_BW.data)


class BucketReader:
    """Buckets, put together from all spills.

    Args:
        spills: all of them.
        records: how rows are laid out in them.
        num_buckets: of the shuffle.
    """

    def __init__(self, spills: Sequence[Path], records: Records, num_buckets: int) -> None:
        self._spills, self._records, self._num_buckets = spills, records, num_buckets

    def blocks(self, bucket: Bucket) -> Iterator[tuple[int, PackedRows]]:
        """The rows of a bucket in their new order, in blocks, each with the place within the bucket of its first row.

        Raises:
            DataError: the spills do not hold each row of the bucket once.
        """
        records_MW = self._read(bucket)
        source_M = np.full(bucket.count, -1, np.int64)
        if records_MW[:, 0].max(initial=0) < bucket.count:
            source_M[records_MW[:, 0]] = np.arange(bucket.count)
        if source_M.min(initial=0) < 0:
            folder = str(self._spills[0].parent.parent)
            raise DataError(folder, f"the rows of bucket {bucket.number} are damaged", mend=_AGAIN)
        for start in range(0, bucket.count, _BLOCK_ROWS):
            yield start, self._records.unpack(np.take(records_MW, source_M[start : start + _BLOCK_ROWS], axis=0))

    def _read(self, bucket: Bucket) -> Words:
        records_MW = np.empty((bucket.count, self._records.words), np.uint32)
        filled = 0
        for path in self._spills:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                start, stop = np.frombuffer(os.pread(descriptor, 16, 8 * bucket.number), "<i8")
                wanted = records_MW[filled : filled + stop - start]
                offset = 8 * (self._num_buckets + 1) + 4 * self._records.words * int(start)
                _read_into(descriptor, wanted, offset, path)
            finally:
                os.close(descriptor)
            filled += int(stop - start)
        if filled != bucket.count:
            folder = str(self._spills[0].parent.parent)
            raise DataError(folder, f"bucket {bucket.number} has {filled} rows instead of {bucket.count}", mend=_AGAIN)
        return records_MW


def _read_into(descriptor: int, wanted: Words, offset: int, path: Path) -> None:
    view = memoryview(wanted.reshape(-1).view(np.uint8).data)
    while view:
        size = os.preadv(descriptor, [view], offset)
        if not size:
            raise DataError(str(path), "is cut off", mend=_AGAIN)
        view, offset = view[size:], offset + size
