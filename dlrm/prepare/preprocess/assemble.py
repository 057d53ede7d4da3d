"""The last step: the parts of the data set, put together from chunks and, where rows are shuffled, from buckets."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial, reduce

import numpy as np

from dlrm.data.packed.manifest import PartRecord
from dlrm.data.packed.split import Part
from dlrm.data.packed.write import PartWriter
from dlrm.prepare.preprocess.arrays import Int64s
from dlrm.prepare.preprocess.buckets import Buckets
from dlrm.prepare.preprocess.chunk_file import ChunkReader
from dlrm.prepare.preprocess.crew import Crew
from dlrm.prepare.preprocess.encode import Encoder
from dlrm.prepare.preprocess.packed_rows import PieceCounts
from dlrm.prepare.preprocess.records import Records, Words
from dlrm.prepare.preprocess.rows import Copy, Draw, Piece, RowMap
from dlrm.prepare.preprocess.setting import Setting
from dlrm.prepare.preprocess.shuffle import rows_of
from dlrm.prepare.preprocess.work_folder import read_json, write_json

_BLOCK_ROWS = 1 << 15  # that are encoded at a time: enough for what one column's lookups need to stay in a core's cache
_SYNCED_ROWS = 1_000_000  # that are written between two syncs to the disk, which cost some milliseconds each


def assemble_parts(setting: Setting, encoder: Encoder, rows: RowMap) -> None:
    """Write this rank's parts, as far as that was not done before."""
    own = [rows.parts[i] for i in setting.own([part.rows for part in rows.parts])]
    todo = [part for part in own if not setting.work.record(part.name).exists()]
    total = sum(part.rows for part in own)
    setting.progress.step("write", total, total - sum(part.rows for part in todo))
    buckets = Buckets(setting, rows) if rows.shuffled and todo else None
    draws = rows.draws(buckets.rows) if buckets is not None else []
    with ExitStack() as opened, Crew(setting.threads + 1) as crew:
        # A generator: a part's files are laid out when its first piece is due, not before.
        assemblies = (
            _Assembly(
                setting=setting,
                part=part,
                encoder=encoder,
                rows=rows,
                pieces=[*rows.copies(part.name), *(draw for draw in draws if draw.part == part.name)],
                buckets=buckets,
                opened=opened,
            )
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
    pieces: list[Piece]
    buckets: Buckets | None
    opened: ExitStack

    def tasks(self) -> Iterator[Callable[[], None]]:
        """What is left to do for the part."""
        self._records = Records(self.setting.config.num_dense, self.setting.config.num_sparse)
        self._counts = self._done_before()
        todo = [piece for piece in self.pieces if piece.start not in self._counts]
        self.setting.progress.advance(self.part.rows - sum(len(piece) for piece in todo))
        self._lock, self._left = threading.Lock(), len(todo)
        self._not_synced: list[tuple[Piece, PieceCounts]] = []
        self._writer = self._open()
        if not todo:
            yield self._finish
        for piece in todo:
            yield partial(self._write, piece)

    def _done_before(self) -> dict[int, PieceCounts]:
        """What was counted in pieces that are on the disk, by their first rows."""
        files = [read_json(path) for path in self.setting.work.all_pieces(self.part.name)]
        return {int(start): PieceCounts(**counts) for file in files for start, counts in file.items()}

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
        counts = self._copy(piece) if isinstance(piece, Copy) else self._draw(piece)
        self.setting.progress.advance(len(piece))
        with self._lock:
            self._not_synced.append((piece, counts))
            self._left -= 1
            is_last = not self._left
            pieces: list[tuple[Piece, PieceCounts]] = []
            if is_last or sum(len(piece) for piece, _ in self._not_synced) >= _SYNCED_ROWS:
                pieces, self._not_synced = self._not_synced, []
        if pieces:
            self._sync(pieces)
        with self._lock:
            self._counts.update({piece.start: counts for piece, counts in pieces})
            is_complete = len(self._counts) == len(self.pieces)
        if is_complete and pieces:
            self._finish()

    def _sync(self, pieces: list[tuple[Piece, PieceCounts]]) -> None:
        """Note that pieces are done once they are on the disk."""
        self._writer.sync()
        path = self.setting.work.pieces(self.part.name, pieces[0][0].start)
        write_json(path, {piece.start: vars(counts) for piece, counts in pieces})

    def _copy(self, piece: Copy) -> PieceCounts:
        records_MW = ChunkReader(self.setting.work.raw(piece.chunk.file, piece.chunk.index)).read_all()
        first = piece.chunk.rows.start
        return self._encode(records_MW, np.arange(piece.rows.start - first, piece.rows.stop - first), piece.start)

    def _draw(self, draw: Draw) -> PieceCounts:
        if self.buckets is None:
            raise ValueError("rows are drawn, but not shuffled")
        return self._encode(*self.buckets.read(draw.bucket, draw.skip, draw.count), draw.start)

    def _encode(self, records_RW: Words, from_M: Int64s, start: int) -> PieceCounts:
        """Write some of the records, in some order, from row ``start`` on."""
        clicks, missing_F = 0, np.zeros(self._records.num_sparse, np.int64)
        for block in range(0, len(from_M), _BLOCK_ROWS):
            columns = self._records.columns(rows_of(records_RW, from_M[block : block + _BLOCK_ROWS]))
            rows = columns.encoded(self.encoder)
            self._writer.write(start + block, rows.dense_MN, rows.ids_MF, rows.labels_M)
            clicks += int(np.count_nonzero(columns.labels_M))
            missing_F += np.count_nonzero(columns.missing_FM, axis=1)
        return PieceCounts(clicks, {f"cat_{f}": int(missing) for f, missing in enumerate(missing_F)})

    def _finish(self) -> None:
        work, name = self.setting.work, self.part.name
        counts = reduce(PieceCounts.__add__, self._counts.values()) if self._counts else PieceCounts(0, {})
        record = self._writer.finish(clicks=counts.clicks, missing=counts.missing)
        write_json(work.record(name), record.model_dump(mode="json", exclude_none=True))
        work.forget_pieces(name)
        for chunk in self.rows.within(name):
            work.drop_raw(chunk.file, chunk.index)


def part_record(setting: Setting, part: Part) -> PartRecord:
    """A finished part's entry in the manifest."""
    return PartRecord.model_validate(read_json(setting.work.record(part.name)))
