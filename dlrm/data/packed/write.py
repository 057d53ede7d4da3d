"""Writing packed data sets so that a file under its final name is complete.

Every file is written *beside* (under its name followed by :data:`UNFINISHED`), synced to the disk and renamed. A part's
files are laid out at their full size first, so that rows can be written in any order and from several threads.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from dlrm.data.packed.manifest import MANIFEST_NAME, SUFFIXES, FileKind, FileRecord, Manifest, PartRecord, dump_manifest

UNFINISHED = ".unfinished"
_HASH_BLOCK_BYTES = 1 << 20
_CANNOT_RESERVE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@contextmanager
def written_beside(path: Path) -> Iterator[BinaryIO]:
    """A file to write that gets its name when the block has ended without an error, and is on the disk by then."""
    beside = unfinished(path)
    try:
        with open(beside, "wb", opener=_open_itself) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _open_itself(path: str, flags: int) -> int:
    """Open a file to write it, not what a link of its name stands for: that is somebody else's."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def unfinished(path: Path) -> Path:
    """Where the bytes of a file are until it is finished."""
    return path.with_name(path.name + UNFINISHED)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder as durable as the files they stand for."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal; computed without the GIL."""
    digest = hashlib.sha256()
    block = memoryview(bytearray(_HASH_BLOCK_BYTES))
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(block):
            digest.update(block[:size])
    return digest.hexdigest()


def file_record(path: Path, folder: Path) -> FileRecord:
    """What a manifest in ``folder`` says of a finished file."""
    return FileRecord(name=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, sha256=sha256_of(path))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write dataset.json, the last file of a data set: with it the data set is complete."""
    with written_beside(folder / MANIFEST_NAME) as file:
        file.write(dump_manifest(manifest).encode())


class PartWriter:
    """The three files of a part.

    Args:
        folder: of the data set.
        name: of the part.
        rows: M, all of which have to be written before :meth:`finish`.
        num_dense: N; num_sparse: F.
        wide_ids: int64 ids instead of int32.

    Raises:
        OSError: no room or no permission.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        rows: int,
        num_dense: int,
        num_sparse: int,
        wide_ids: bool,
    ) -> None:
        self._folder, self._name, self._rows = folder, name, rows
        layouts: dict[FileKind, tuple[str, int]] = {
            "dense": ("<f4", num_dense),
            "sparse": ("<i8" if wide_ids else "<i4", num_sparse),
            "labels": ("<i4", 1),
        }
        self._arrays: dict[FileKind, _ArrayFile] = {}
        try:
            for kind, (dtype, columns) in layouts.items():
                path = folder / (name + SUFFIXES[kind])
                self._arrays[kind] = _ArrayFile.open(path, np.dtype(dtype), (rows, columns))
        except BaseException:
            self.close()
            raise

    def write(
        self,
        start: int,
        dense_BN: npt.NDArray[np.float32],
        ids_BF: npt.NDArray[np.signedinteger],
        labels_B: npt.NDArray[np.integer],
    ) -> None:
        """Write rows ``start`` .. ``start + B - 1``; safe from several threads, in any order, and more than once.

        Raises:
            OSError: the disk is full or fails.
        """
        self._arrays["dense"].write(start, dense_BN)
        self._arrays["sparse"].write(start, ids_BF)
        self._arrays["labels"].write(start, labels_B[:, None])

    def sync(self) -> None:
        """Return when what was written so far is on the disk."""
        for array in self._arrays.values():
            os.fdatasync(array.descriptor)

    def close(self) -> None:
        """Let go of the files without finishing them."""
        while self._arrays:
            os.close(self._arrays.popitem()[1].descriptor)

    def finish(self, *, clicks: int | None, missing: dict[str, int] | None) -> PartRecord:
        """Sync the files, compute their checksums and give them their names.

        Args:
            clicks: rows with label 1, None where they were not counted.
            missing: empty raw fields by column, None where they were not counted.
        """
        self.sync()
        paths = {kind: array.path for kind, array in self._arrays.items()}
        self.close()
        with ThreadPoolExecutor(len(paths)) as pool:
            records = pool.map(self._finish_file, paths.values())
        files = dict(zip(paths, records, strict=True))
        sync_folder(self._folder)
        return PartRecord(name=self._name, rows=self._rows, files=files, clicks=clicks, missing=missing)

    def _finish_file(self, path: Path) -> FileRecord:
        unfinished(path).replace(path)
        return file_record(path, self._folder)


@dataclass(frozen=True)
class _ArrayFile:
    """An .npy file of a known shape, open for writing rows of it."""

    path: Path
    descriptor: int
    dtype: np.dtype[Any]
    shape: tuple[int, int]
    header_bytes: int

    @classmethod
    def open(cls, path: Path, dtype: np.dtype[Any], shape: tuple[int, int]) -> _ArrayFile:
        header = npy_header(dtype, shape)
        size = len(header) + shape[0] * shape[1] * dtype.itemsize
        descriptor = _open_itself(str(unfinished(path)), os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            _write_all(descriptor, header, 0)
            _reserve(descriptor, size)
        except BaseException:
            os.close(descriptor)
            unfinished(path).unlink()
            raise
        return cls(path, descriptor, dtype, shape, len(header))

    def write(self, start: int, array_BC: npt.NDArray[Any]) -> None:
        """Write rows; values are never converted to a type that cannot hold all of them."""
        rows, columns = array_BC.shape
        if columns != self.shape[1] or start < 0 or start + rows > self.shape[0]:
            raise ValueError(f"{self.path}: rows {start} .. {start + rows - 1} x {columns} are outside of {self.shape}")
        block = np.ascontiguousarray(array_BC.astype(self.dtype, casting="safe", copy=False))
        _write_all(
            self.descriptor,
            block.reshape(-1).view(np.uint8).data,
            self.header_bytes + start * columns * self.dtype.itemsize,
        )


def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """The header of an .npy file, version 1.0, as ``np.save`` writes it for a C-contiguous array."""
    header = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, description)
    return header.getvalue()


def _write_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _reserve(descriptor: int, size: int) -> None:
    """Give a file its size, with blocks of the disk behind it where the file system can promise them.

    Not ``os.posix_fallocate``: where the file system cannot (NFS before 4.2), it would write to every block.
    """
    fallocate = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)  # Linux
    if fallocate is not None:
        offset_type = ctypes.c_longlong
        if fallocate(descriptor, 0, offset_type(0), offset_type(size)) == 0:
            return
        error = ctypes.get_errno()
        if error not in _CANNOT_RESERVE:
            raise OSError(error, os.strerror(error))
    os.truncate(descriptor, size)
