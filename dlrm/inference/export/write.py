"""Writing the folder of an export: beside its place first, and renamed when it is whole."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from dlrm.checkpoint.manifest import COMMITTED_NAME, MANIFEST_NAME, committed_text
from dlrm.checkpoint.safetensors_format import Entry, layout
from dlrm.errors import ExportError
from dlrm.files import sync_folder
from dlrm.inference.export.place import clear_leftovers, hidden, in_use, take_place
from dlrm.inference.exported.folder import ExportFolder
from dlrm.inference.exported.manifest import (
    FILE_NAME,
    FORMAT,
    RESTORE,
    FileRecord,
    Manifest,
    PieceRecord,
    TableRecord,
    dump_manifest,
)

MAX_FILE_BYTES = 4 << 30
"""Of tables in a file."""
_READ_BYTES = 8 << 20
Bytes = npt.NDArray[np.uint8]


class FolderWriter:
    """A folder that becomes an export.

    Attributes:
        path: where its files are written; files: those written so far.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: list[FileRecord] = []

    def add(self, name: str, data: bytes) -> None:
        """Write a file."""
        (self.path / name).write_bytes(data)
        self.finish(name)

    def add_tensors(self, name: str, tensors: dict[str, torch.Tensor]) -> None:
        """Write a safetensors file."""
        kinds = {key: (tensor.dtype, tuple(tensor.shape)) for key, tensor in tensors.items()}
        header, places = layout(kinds, {"format": "pt"})
        self.add(name, header + b"".join(tensors[key].contiguous().numpy().tobytes() for key in places))

    def finish(self, name: str, pieces: Sequence[PieceRecord] | None = None) -> None:
        """Take note of a file that has been written."""
        path = self.path / name
        with path.open("rb") as file:
            found = hashlib.blake2b(digest_size=32)
            while data := file.read(_READ_BYTES):
                found.update(data)
            os.fsync(file.fileno())
        self.files.append(
            FileRecord(
                name=name,
                bytes=path.stat().st_size,
                checksum=found.hexdigest(),
                pieces=None if pieces is None else tuple(pieces),
            )
        )

    def commit(self, manifest: Manifest) -> None:
        """Write the manifest and, last, the mark of an export that is whole."""
        text = dump_manifest(manifest)
        for name, data in ((MANIFEST_NAME, text), (COMMITTED_NAME, committed_text(text))):
            with (self.path / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        sync_folder(self.path)


@contextmanager
def new_export(output: str, *, overwrite: bool) -> Iterator[FolderWriter]:
    """A writer of a folder that takes its place when the block has ended well; otherwise nothing is left.

    Args:
        output: the folder.
        overwrite: replace an export that is there.

    Raises:
        ExportError: something is there that may not be replaced; it cannot be written.
    """
    path = Path(os.path.expanduser(output))
    beside = hidden(path, "unfinished")
    try:
        try:
            clear_leftovers(path)
            _check_free(path, overwrite=overwrite)
            beside.mkdir(parents=True)
            with in_use(beside):
                yield FolderWriter(beside)
                _check_free(path, overwrite=overwrite)
                take_place(beside, path)
                sync_folder(path.parent)
        except OSError as error:
            where = error.filename if isinstance(error.filename, str) else str(path)
            problem = f"cannot be written ({error.strerror})"
            raise ExportError(where, problem, hint="check space and who may write there") from None
    finally:  # what was replaced is there now; if it cannot be removed, the new one stands all the same
        shutil.rmtree(beside, ignore_errors=True)


def _check_free(path: Path, *, overwrite: bool) -> None:
    if not os.path.lexists(path):
        return
    if path.is_symlink():
        raise ExportError(str(path), "is a link", hint="name a folder")
    if path.is_dir() and not any(path.iterdir()):
        return
    if not overwrite:
        raise ExportError(str(path), "is there already", hint="name another folder, or replace it with --overwrite")
    if not is_own(path):
        problem = "holds something else than an export, which is not replaced"
        raise ExportError(str(path), problem, hint="name another folder, or remove it")


def is_own(path: Path) -> bool:
    """Whether a folder holds an export, of whatever state and version, and nothing beside it."""
    try:
        found = json.loads((path / MANIFEST_NAME).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    names = {entry.name for entry in path.iterdir() if entry.is_file() and not entry.is_symlink()}
    ours = {name for name in names if name in (MANIFEST_NAME, COMMITTED_NAME) or re.fullmatch(FILE_NAME, name)}
    is_export = isinstance(found, dict) and found.get("format") == FORMAT
    return is_export and len(ours) == len(list(path.iterdir()))


def divide(tables: Sequence[TableRecord], rows: Sequence[int], max_bytes: int) -> list[list[PieceRecord]]:
    """Which rows of which tables go into which file, in order; a table is cut only where it is larger than a file.

    Args:
        tables: with the bytes of their rows.
        rows: how many each has.
        max_bytes: of a file.
    """
    files: list[list[PieceRecord]] = [[]]
    filled = 0
    for number, (table, count) in enumerate(zip(tables, rows, strict=True)):
        most = max(1, max_bytes // table.row_bytes)
        for first in range(0, count, most):
            taken = min(most, count - first)
            if files[-1] and filled + taken * table.row_bytes > max_bytes:
                files.append([])
                filled = 0
            files[-1].append(PieceRecord(table=number, first_row=first, rows=taken))
            filled += taken * table.row_bytes
    return files


def mapped_pieces(path: Path, manifest: Manifest, pieces: Sequence[PieceRecord]) -> list[torch.Tensor]:
    """A new file for pieces of tables, its header written; the memory of the tensors is the file's.

    Returns:
        for each piece (rows, stored columns), of the table's stored type.
    """
    header, entries = manifest.table_layout(tuple(pieces))
    mapped = _mapped(path, max(entry.stop for entry in entries))
    mapped[: len(header)] = np.frombuffer(header, np.uint8)
    return _views(mapped, entries)


def copied_pieces(path: Path, source: ExportFolder, record: FileRecord) -> list[torch.Tensor]:
    """A copy of an export's file with tables, as tensors like those of :func:`mapped_pieces`.

    Raises:
        ExportError: the file is not as it was written.
    """
    header, entries = source.manifest.table_layout(record.pieces or ())
    mapped = _mapped(path, record.bytes)
    source.read_into(record, [memoryview(mapped)])  # type: ignore[arg-type]  # an array is a buffer
    if mapped[: len(header)].tobytes() != header:
        raise ExportError(str(source.path / record.name), "does not begin as the manifest says", hint=RESTORE)
    return _views(mapped, entries)


def _mapped(path: Path, size: int) -> Bytes:
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error here and a crash in mapped memory
    return np.memmap(path, np.uint8, "r+", shape=(size,))


def _views(mapped: Bytes, entries: Sequence[Entry]) -> list[torch.Tensor]:
    return [torch.from_numpy(mapped[entry.start : entry.stop]).view(entry.dtype).view(entry.shape) for entry in entries]


def table_file_name(number: int) -> str:
    """The name of the file of that number, from 0."""
    return f"tables_{number:04d}.safetensors"
