"""The last step: the parts of the data set, put together from chunks and, where rows are shuffled, from buckets."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial, reduce

from dlrm.data.packed.manifest import PartRecord
from dlrm.data.packed.split import Part
from dlrm.data.packed.write import PartWriter
from dlrm.prepare.preprocess.crew import Crew
from dlrm.prepare.preprocess.encode import Encoder
from dlrm.prepare.preprocess.packed_rows import PackedRows, PieceCounts
from dlrm.prepare.preprocess.raw_chunk import read_raw_chunk
from dlrm.prepare.preprocess.records import Records
from dlrm.prepare.preprocess.rows import Bucket, Copy, Piece, RowMap
from dlrm.prepare.preprocess.setting import Setting
from dlrm.prepare.preprocess.shuffle import BucketReader, groups_of
from dlrm.prepare.preprocess.work_folder import read_json, write_json


def assemble_parts(setting: Setting, encoder: Encoder, rows: RowMap) -> None:
    """Write this rank's parts, as far as that was not done before."""
    own = [rows.parts[i] for i in setting.own([part.rows for part in rows.parts])]
    todo = [part for part in own if not setting.work.record(part.name).exists()]
    total = sum(part.rows for part in own)
    setting.progress.step("write", total, total - sum(part.rows for part in todo))
    config = setting.config
    buckets = BucketReader(
        [group.spill for group in groups_of(setting, rows)] if rows.buckets else [],
        Records(config.num_dense, config.num_sparse, wide=encoder.wide),
        len(rows.buckets),
    )
    with ExitStack() as opened, Crew(setting.threads + 1) as crew:
        # A generator: a part's files are laid out when its first piece is due, not before.
        assemblies = (
            _Assembly(setting=setting, part=part, encoder=encoder, rows=rows, buckets=buckets, opened=opened)
            for part in todo
        )
        for _ in crew.each(task for assembly in assemblies for task in assembly.tasks()):
            pass


@dataclass(kw_only=True)
class _Assembly:
    """A part that is put together; the thread that writes its last piece finishes it.

    Attributes:
        opened: closes the part's files if it is not finished.
    """

    setting: Setting
    part: Part
    encoder: Encoder
    rows: RowMap
    buckets: BucketReader
    opened: ExitStack

    def tasks(self) -> Iterator[Callable[[], None]]:
        """What is left to do for the part."""
        work, name = self.setting.work, self.part.name
        self._pieces = list(self.rows.pieces(name))
        todo = [piece for piece in self._pieces if not work.piece(name, piece.start).exists()]
        self.setting.progress.advance(self.part.rows - sum(len(piece) for piece in todo))
        self._lock, self._left = threading.Lock(), len(todo)
        self._writer = self._open()
        if not todo:
            yield self._finish
        for piece in todo:
            yield partial(self._write, piece)

    def _open(self) -> PartWriter:
        begun = self.setting.work.begun(self.part.name)
        writer = PartWriter(
            self.setting.work.output,
            self.part.name,
            rows=self.part.rows,
            num_dense=self.setting.config.num_dense,
            num_sparse=self.setting.config.num_sparse,
            wide_ids=self.encoder.wide,
            resume=begun.exists(),
        )
        self.opened.callback(writer.close)
        if not begun.exists():
            write_json(begun, {"rows": self.part.rows})
        return writer

    def _write(self, piece: Piece) -> None:
        counts = self._copy(piece) if isinstance(piece, Copy) else self._place(piece)
        self._writer.sync()
        write_json(self.setting.work.piece(self.part.name, piece.start), vars(counts))
        if isinstance(piece, Bucket):
            self.buckets.forget(piece)
        self.setting.progress.advance(len(piece))
        with self._lock:
            self._left -= 1
            is_last = not self._left
        if is_last:
            self._finish()

    def _copy(self, piece: Copy) -> PieceCounts:
        chunk = read_raw_chunk(self.setting.work.raw(piece.chunk.file, piece.chunk.index))
        first = piece.chunk.rows.start
        here = slice(piece.rows.start - first, piece.rows.stop - first)
        rows = PackedRows.encoded(chunk, here, self.encoder)
        self._writer.write(piece.start, rows.dense_MN, rows.ids_MF, rows.labels_M)
        return PieceCounts.of(chunk, here)

    def _place(self, bucket: Bucket) -> PieceCounts:
        blocks, counts = self.buckets.read(bucket)
        for start, rows in blocks:
            self._writer.write(bucket.start + start, rows.dense_MN, rows.ids_MF, rows.labels_M)
        return counts

    def _finish(self) -> None:
        work, name = self.setting.work, self.part.name
        found = [PieceCounts(**read_json(work.piece(name, piece.start))) for piece in self._pieces]
        counts = reduce(PieceCounts.__add__, found) if found else PieceCounts(0, {})
        record = self._writer.finish(clicks=counts.clicks, missing=counts.missing)
        write_json(work.record(name), record.model_dump(mode="json", exclude_none=True))
        work.forget_pieces(name)
        for chunk in self.rows.within(name):
            work.drop_raw(chunk.file, chunk.index)


def part_record(setting: Setting, part: Part) -> PartRecord:
    """A finished part's entry in the manifest."""
    return PartRecord.model_validate(read_json(setting.work.record(part.name)))
