"""An export on disk: opened strictly, and read so that nothing is used that is not as it was written."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dlrm.checkpoint.manifest import COMMITTED_NAME, MANIFEST_NAME, checksum, committed_text
from dlrm.errors import ExportError
from dlrm.inference.exported.manifest import RESTORE, FileRecord, Manifest, parse_manifest

_MAX_MANIFEST_BYTES = 64 << 20
_READ_BYTES = 8 << 20


@dataclass(frozen=True)
class ExportFolder:
    """An export whose manifest is as it was written, and whose files have their sizes.

    Attributes:
        path: its folder; manifest: what it consists of; checksum: of the manifest, by which exports can be told apart.
    """

    path: Path
    manifest: Manifest
    checksum: str

    def read(self, name: str) -> bytes:
        """The bytes of a file that the manifest lists.

        Raises:
            ExportError: it cannot be read, or they are not those that were written.
        """
        record = self.manifest.file(name)
        assert record is not None, f"{name} is not listed"
        data = bytearray(record.bytes)
        self.read_into(record, [memoryview(data)])
        return bytes(data)

    def read_into(self, record: FileRecord, parts: list[memoryview]) -> None:
        """Read a file into memory, in order into each of ``parts``, which together are as large; without the GIL.

        Raises:
            ExportError: it cannot be read, or its bytes are not those that were written. The memory may have been written.
        """
        path, found = self.path / record.name, hashlib.blake2b(digest_size=32)
        with reading(path), path.open("rb", buffering=0) as file:
            for part in parts:
                for start in range(0, len(part), _READ_BYTES):
                    piece = part[start : start + _READ_BYTES]
                    _fill(file.fileno(), piece, path)
                    found.update(piece)
        if found.hexdigest() != record.checksum:
            raise ExportError(str(path), "its bytes are not those that were written", hint=RESTORE)


def open_export(path: str | os.PathLike[str]) -> ExportFolder:
    """Open an export: its manifest is verified and the files are there; their bytes are verified when they are read.

    Raises:
        ExportError: there is none, it was never finished, its manifest was changed, a file is missing or has another size.
    """
    folder = Path(os.path.expanduser(path))
    with reading(folder):
        if not folder.is_dir():
            problem = "is no folder" if os.path.lexists(folder) else "there is no such folder"
            raise ExportError(str(folder), problem, hint="name the folder of an export (dlrm_main.py export makes one)")
        if not os.path.lexists(folder / MANIFEST_NAME):
            hint = "name an export: dlrm_main.py export makes one of a checkpoint"
            raise ExportError(str(folder), f"is no export: it has no {MANIFEST_NAME}", hint=hint)
        text = _read_small(folder / MANIFEST_NAME)
        manifest = parse_manifest(text, str(folder / MANIFEST_NAME))
        if not os.path.lexists(folder / COMMITTED_NAME):
            raise ExportError(str(folder), "was never finished", hint="export again")
        if _read_small(folder / COMMITTED_NAME) != committed_text(text):
            problem = f"is not what {COMMITTED_NAME} says: one of them was changed"
            raise ExportError(str(folder / MANIFEST_NAME), problem, hint=RESTORE)
        for record in manifest.files:
            size = _size(folder / record.name)
            if size != record.bytes:
                problem = f"has {size} bytes, the manifest says {record.bytes}"
                raise ExportError(str(folder / record.name), problem, hint=RESTORE)
    return ExportFolder(folder, manifest, checksum(text))


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What the system says of a file that cannot be read becomes one line."""
    try:
        yield
    except OSError as error:
        where = error.filename if isinstance(error.filename, str) else str(path)
        missing = isinstance(error, FileNotFoundError)
        problem = "is missing" if missing else f"cannot be read ({error.strerror})"
        raise ExportError(where, problem, hint=RESTORE if missing else "check the file and who may read it") from None


def _size(path: Path) -> int:
    """Bytes of a file.

    Raises:
        ExportError: it is a link, which may lead out of the folder, or something that is read without an end.
    """
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise ExportError(str(path), f"is {'a link' if path.is_symlink() else 'no file'}", hint=RESTORE)
    return found.st_size


def _read_small(path: Path) -> bytes:
    if _size(path) > _MAX_MANIFEST_BYTES:
        raise ExportError(str(path), f"has more than {_MAX_MANIFEST_BYTES} bytes", hint=RESTORE)
    return path.read_bytes()


def _fill(descriptor: int, piece: memoryview, path: Path) -> None:
    done = 0
    while done < len(piece):
        count = os.readv(descriptor, [piece[done:]])
        if not count:
            raise ExportError(str(path), "ends too early", hint=RESTORE)
        done += count
