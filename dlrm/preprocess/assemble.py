"""The last step: the parts of the data set, put together from chunks and, where rows are shuffled, from buckets."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial, reduce
from typing import Annotated

import numpy as np
from pydantic import Field

from dlrm.data.packed.manifest import PartRecord
from dlrm.data.packed.split import Part
from dlrm.data.packed.write import PartWriter
from dlrm.preprocess.arrays import Int64s
from dlrm.preprocess.buckets import Buckets
from dlrm.preprocess.chunk_file import ChunkReader
from dlrm.preprocess.crew import Crew
from dlrm.preprocess.disk import CUTS, gives_back
from dlrm.preprocess.encode import Encoder
from dlrm.preprocess.packed_rows import PieceCounts
from dlrm.preprocess.records import Records, Words
from dlrm.preprocess.rows import Copy, Draw, Piece, RowMap
from dlrm.preprocess.setting import Setting
from dlrm.preprocess.shuffle import rows_of
from dlrm.preprocess.spent import Spent
from dlrm.preprocess.work_folder import read_json, write_json

_BLOCK_ROWS = 1 << 15  # that are encoded at a time: enough for what one column's lookups need to stay in a core's cache
_SYNCED_ROWS = (
    65_536,
    1_000_000,
)  # at least and at most, that are written between two syncs to the disk, which cost some ms

_Row = Annotated[str, Field(pattern="^[0-9]{1,18}$")]


def assemble_parts(setting: Setting, encoder: Encoder, rows: RowMap) -> None:
    """Write this rank's parts, as far as that was not done before."""
    own = [rows.parts[i] for i in setting.own([part.rows for part in rows.parts])]
    todo = [part for part in own if not setting.work.record(part.name).exists()]
    total = sum(part.rows for part in own)
    setting.progress.step("write", total, total - sum(part.rows for part in todo))
    shuffled = _Shuffled.of(setting, rows) if rows.shuffled and todo else None
    with ExitStack() as opened, Crew(setting.threads + 1) as crew:
        # A generator: a part's files are laid out when its first piece is due, not before.
        assemblies = (
            _Assembly(
                setting=setting,
                part=part,
                encoder=encoder,
                rows=rows,
                shuffled=shuffled,
                opened=opened,
            )
            for part in (todo if shuffled is None else reversed(todo))
        )
        for _ in crew.each(task for assembly in assemblies for task in assembly.tasks()):
            pass


@dataclass(frozen=True)
class _Shuffled:
    """What the shuffle's rows come from.

    Attributes:
        draws: the pieces, from the last bucket on; spent: is told which of them are on the disk.
    """

    buckets: Buckets
    draws: Sequence[Draw]
    spent: Spent

    @classmethod
    def of(cls, setting: Setting, rows: RowMap) -> _Shuffled:
        buckets = Buckets(setting, rows)
        draws = rows.draws(buckets.rows)[::-1]
        finished = {part.name for part in rows.parts if setting.work.record(part.name).exists()}
        noted = {part.name: _noted(setting, part) for part in rows.parts if part.name not in finished}
        done = [draw for draw in draws if draw.part in finished or draw.start in noted[draw.part]]
        return cls(buckets, draws, Spent(buckets, draws, done, cuts=gives_back(setting.config, setting.world_size)))


def _noted(setting: Setting, part: Part) -> dict[int, PieceCounts]:
    """What was counted in pieces of a part that are on the disk, by their first rows."""
    files = [read_json(path, dict[_Row, PieceCounts]) for path in setting.work.all_pieces(part.name)]
    return {int(start): counts for file in files for start, counts in file.items()}


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
    shuffled: _Shuffled | None
    opened: ExitStack

    def tasks(self) -> Iterator[Callable[[], None]]:
        """What is left to do for the part."""
        self._records = Records(self.setting.config.num_dense, self.setting.config.num_sparse)
        self._pieces: list[Piece] = list(self.rows.copies(self.part.name))
        self._synced_rows = _SYNCED_ROWS[1]
        if self.shuffled is not None:
            self._pieces += [draw for draw in self.shuffled.draws if draw.part == self.part.name]
            self._synced_rows = max(_SYNCED_ROWS[0], min(_SYNCED_ROWS[1], self.rows.training_rows // CUTS))
        self._counts = _noted(self.setting, self.part)
        todo = [piece for piece in self._pieces if piece.start not in self._counts]
        self.setting.progress.advance(self.part.rows - sum(len(piece) for piece in todo))
        self._lock, self._left = threading.Lock(), len(todo)
        self._not_synced: list[tuple[Piece, PieceCounts]] = []
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
        counts = self._copy(piece) if isinstance(piece, Copy) else self._draw(piece)
        self.setting.progress.advance(len(piece))
        with self._lock:
            self._not_synced.append((piece, counts))
            self._left -= 1
            is_last = not self._left
            pieces: list[tuple[Piece, PieceCounts]] = []
            if is_last or sum(len(piece) for piece, _ in self._not_synced) >= self._synced_rows:
                pieces, self._not_synced = self._not_synced, []
        if pieces:
            self._sync(pieces)
        with self._lock:
            self._counts.update({piece.start: counts for piece, counts in pieces})
            is_complete = len(self._counts) == len(self._pieces)
        if is_complete and pieces:
            self._finish()

    def _sync(self, pieces: list[tuple[Piece, PieceCounts]]) -> None:
        """Note that pieces are done once they are on the disk."""
        self._writer.sync()
        path = self.setting.work.pieces(self.part.name, pieces[0][0].start)
        write_json(path, {piece.start: vars(counts) for piece, counts in pieces})
        if self.shuffled is not None:
            self.shuffled.spent.settle(piece for piece, _ in pieces if isinstance(piece, Draw))

    def _copy(self, piece: Copy) -> PieceCounts:
        records_MW = ChunkReader(self.setting.work.raw(piece.chunk.file, piece.chunk.index)).read_all()
        first = piece.chunk.rows.start
        return self._encode(records_MW, np.arange(piece.rows.start - first, piece.rows.stop - first), piece.start)

    def _draw(self, draw: Draw) -> PieceCounts:
        if self.shuffled is None:
            raise ValueError("rows are drawn, but not shuffled")
        return self._encode(*self.shuffled.buckets.read(draw.bucket, draw.skip, draw.count), draw.start)

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
    record: PartRecord = read_json(setting.work.record(part.name), PartRecord)
    return record
