"""All tables of an export in fewer bits: from file to file in memory of a few rows, or within memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch

from dlrm.checkpoint.fill import Progress, ignore
from dlrm.errors import ExportError
from dlrm.inference.export.write import FolderWriter, mapped_pieces
from dlrm.inference.exported.folder import ExportFolder, reading
from dlrm.inference.exported.manifest import RESTORE, FileRecord, Manifest
from dlrm.inference.exported.rows import stored_rows
from dlrm.inference.exported.tables import starts_of_tables

_BYTES_AT_ONCE = 8 << 20


def write_tables(source: ExportFolder, target: Manifest, writer: FolderWriter, progress: Progress = ignore) -> None:
    """Write the files with tables; the pieces in them are those of the source's.

    Args:
        source: an export in float32.
        target: says what its tables are to be.
        writer: of the new folder.
        progress: is told the bytes that were read.

    Raises:
        ExportError: a file of the source is damaged; a row cannot be stored so.
    """
    for file in source.manifest.files:
        if file.pieces is not None:
            _write_file(source, file, target, writer, progress)


def _write_file(
    source: ExportFolder, file: FileRecord, target: Manifest, writer: FolderWriter, progress: Progress
) -> None:
    pieces = file.pieces or ()
    mapped = mapped_pieces(writer.path / file.name, target, pieces)
    fault: ExportError | None = None
    for number, start, weights_RD in _verified_rows(source, file):
        piece = pieces[number]
        if fault is None:
            try:
                mapped[number][start : start + len(weights_RD)] = stored_rows(
                    weights_RD,
                    target.tables[piece.table].precision,
                    path=str(source.path),
                    table=target.named_tables[piece.table].name,
                    first_row=piece.first_row + start,
                )
            except ExportError as error:  # of a file that was changed, that is what is to be said
                fault = error
        progress(weights_RD.numel() * weights_RD.itemsize)
    if fault is not None:
        raise fault
    writer.finish(file.name, pieces)


def _verified_rows(source: ExportFolder, file: FileRecord) -> Iterator[tuple[int, int, torch.Tensor]]:
    """The rows of a file with float32 tables, some at a time: number of the piece, first row in it, (R, D).

    Raises:
        ExportError: the file cannot be read; at the end: its bytes are not those that were written.
    """
    pieces = file.pieces or ()
    path, found = source.path / file.name, hashlib.blake2b(digest_size=32)
    header, entries = source.manifest.table_layout(pieces)
    with reading(path), path.open("rb") as opened:

        def read(size: int) -> bytearray:
            data = bytearray(size)
            if opened.readinto(data) != size:
                raise ExportError(str(path), "ends too early", hint=RESTORE)
            found.update(data)
            return data

        if read(len(header)) != header:
            raise ExportError(str(path), "does not begin as the manifest says", hint=RESTORE)
        for number in sorted(range(len(pieces)), key=lambda number: entries[number].start):
            table = source.manifest.tables[pieces[number].table]
            most = max(1, _BYTES_AT_ONCE // table.row_bytes)
            for start in range(0, pieces[number].rows, most):
                rows = min(most, pieces[number].rows - start)
                data = read(rows * table.row_bytes)
                yield number, start, torch.frombuffer(data, dtype=torch.float32).view(rows, table.dim)
    if found.hexdigest() != file.checksum:
        raise ExportError(str(path), "its bytes are not those that were written", hint=RESTORE)


def tables_in_memory(source: Manifest, weights: torch.Tensor, target: Manifest, *, path: str) -> torch.Tensor:
    """The same within memory.

    Args:
        source: says that its tables are float32.
        weights: of its tables, as :func:`dlrm.inference.exported.tables.read_tables` returns them.
        target: says what they are to be.
        path: of the export, for errors.

    Raises:
        ExportError: a row cannot be stored so.
    """
    starts, size = starts_of_tables(target)
    memory = torch.empty(size, dtype=torch.uint8)
    for number, (first, start) in enumerate(zip(starts_of_tables(source)[0], starts, strict=True)):
        before, (name, rows, after) = source.tables[number], target.named_tables[number]
        weights_RD = weights[first : first + before.row_bytes * rows].view(torch.float32).view(-1, before.dim)
        stored = memory[start : start + after.row_bytes * rows].view(after.stored_dtype)
        stored = stored.view(rows, after.stored_columns)
        most = max(1, _BYTES_AT_ONCE // before.row_bytes)
        for row in range(0, rows, most):
            stored[row : row + most] = stored_rows(
                weights_RD[row : row + most], after.precision, path=path, table=name, first_row=row
            )
    return memory
