"""``export --update``: tables of an export with the rows in them that deltas have changed since."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dlrm.checkpoint.delta.format import Delta
from dlrm.checkpoint.delta.reader import deltas_since
from dlrm.checkpoint.delta.since import ChangedRows, changed_rows
from dlrm.checkpoint.fill import Progress
from dlrm.checkpoint.reader import Reader
from dlrm.errors import ExportError
from dlrm.format import escaped
from dlrm.inference.export.write import FolderWriter, copied_pieces
from dlrm.inference.exported.folder import ExportFolder
from dlrm.inference.exported.manifest import Manifest, PieceRecord, TableRecord
from dlrm.inference.exported.rows import stored_rows
from dlrm.table_names import state_name

_ANEW = "export it anew, without --update"
Pieces = list[tuple[PieceRecord, torch.Tensor]]


@dataclass(frozen=True)
class Update:
    """What lies between an export and a checkpoint.

    Attributes:
        previous: the export; deltas: of the checkpoint's chain that came after it, the oldest first.
    """

    previous: ExportFolder
    deltas: tuple[Delta, ...]

    @classmethod
    def of(cls, previous: ExportFolder, reader: Reader) -> Update:
        """See that deltas lead from one to the other.

        Raises:
            ExportError: the checkpoint does not depend on what the export was made of; the export holds averages, or a
                dense part in fewer bits.
        """
        manifest, path = previous.manifest, str(previous.path)
        checkpoint = reader.checkpoint
        if manifest.source.averaged:
            # An average moves in every step, whether or not its row is changed; a delta has the changed rows alone.
            problem = "holds averages of weights, which change in every row in every step"
            raise ExportError(path, problem, hint=f"{_ANEW}; or keep one made with --average false")
        if manifest.dense_precision != "fp32":
            problem = f"has its dense part in {manifest.dense_precision}"
            raise ExportError(path, problem, hint="update the export that was quantised, and quantise it again")
        deltas: tuple[Delta, ...] | None = ()
        if manifest.source.checkpoint != checkpoint.manifest_checksum:
            deltas = deltas_since(reader, manifest.source.checkpoint)
        if deltas is None:
            problem = f"was made of a checkpoint of step {manifest.source.step:,}, which"
            problem += f" {escaped(checkpoint.path, 300)} is no delta of"
            raise ExportError(path, problem, hint=f"{_ANEW}, or name a delta checkpoint that depends on it")
        return cls(previous, deltas)

    def tables(self, records: Sequence[TableRecord]) -> tuple[TableRecord, ...]:
        """What the tables are to be: as the model says, in the precision that they have in the export.

        Raises:
            ExportError: they are other tables.
        """
        here = self.previous.manifest.tables
        found = tuple(
            record.model_copy(update={"precision": old.precision}) for record, old in zip(records, here, strict=False)
        )
        if found != here or len(records) != len(here):
            raise ExportError(str(self.previous.path), "has other tables than the checkpoint", hint=_ANEW)
        return found


@dataclass(frozen=True)
class Changes:
    """How much an update has changed: rows of tables, of so many, and the bytes of deltas that were read for them."""

    changed: int
    rows: int
    bytes_read: int


def update_tables(update: Update, manifest: Manifest, writer: FolderWriter, progress: Progress) -> Changes:
    """Copy the files of tables, each verified, and write changed rows over those in the copies.

    Args:
        update: what to do.
        manifest: of the new export, without files.
        writer: of its folder.
        progress: is told the bytes that were copied.

    Raises:
        ExportError: the export is damaged, or has other columns; a weight cannot be stored.
        CheckpointError: a delta is damaged.
    """
    before = update.previous.manifest
    kept = "sparse", "tasks", "dense", "lookups"
    if any(getattr(before, name) != getattr(manifest, name) for name in kept):
        raise ExportError(str(update.previous.path), "has other columns than the checkpoint's data", hint=_ANEW)
    files = [file for file in before.files if file.pieces is not None]
    by_table: dict[int, Pieces] = defaultdict(list)
    for file in files:
        pieces = file.pieces or ()
        for piece, tensor in zip(pieces, copied_pieces(writer.path / file.name, update.previous, file), strict=True):
            by_table[piece.table].append((piece, tensor))
        progress(file.bytes)
    sizes: list[int] = []
    tables = range(len(before.tables))
    changed = sum(_update_table(update, number, by_table[number], sizes.append) for number in tables)
    for file in files:
        writer.finish(file.name, file.pieces)
    return Changes(changed, sum(table.rows for table in manifest.named_tables), sum(sizes))


def _update_table(update: Update, number: int, pieces: Pieces, progress: Progress) -> int:
    """The number of rows that were changed."""
    name, rows, table = update.previous.manifest.named_tables[number]
    touched_R = torch.zeros(rows, dtype=torch.bool)
    for delta in update.deltas:
        for found in changed_rows(delta, state_name(name), table.dim, progress):
            touched_R[found.rows_N] = True
            for piece, tensor in pieces:
                _write_rows(found, piece, tensor, table, path=delta.checkpoint.path, name=name)
    return int(touched_R.sum())


def _write_rows(
    found: ChangedRows, piece: PieceRecord, tensor: torch.Tensor, table: TableRecord, *, path: str, name: str
) -> None:
    ends = torch.tensor([piece.first_row, piece.first_row + piece.rows])
    low, high = torch.searchsorted(found.rows_N, ends).tolist()
    if low < high:
        rows_N = found.rows_N[low:high]
        stored = stored_rows(found.weights_ND[low:high], table.precision, path=path, table=name, rows_R=rows_N)
        tensor.index_copy_(0, rows_N - piece.first_row, stored)
