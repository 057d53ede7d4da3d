"""A committed checkpoint: opened strictly, and verified to the last byte."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from dlrm.checkpoint.manifest import (
    COMMITTED_NAME,
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    RESTORE,
    ChunkRecord,
    FileRecord,
    Manifest,
    TensorRecord,
    checksum,
    committed_text,
    header,
    parse_manifest,
    tensor_dtypes,
)
from dlrm.checkpoint.remote import located
from dlrm.checkpoint.storage import Storage, UnreachableError, reading
from dlrm.errors import CheckpointError

VERIFYING_THREADS = 4


@dataclass(frozen=True)
class StoredChunk:
    """A chunk and the file that holds it."""

    file: FileRecord
    chunk: ChunkRecord


Part = FileRecord | StoredChunk
"""A file's header, or a chunk: what is verified at once."""


class UncommittedError(CheckpointError):
    """A folder that never became a checkpoint: what an interrupted save has left."""


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint whose manifest is as it was written, and whose files have their sizes.

    Attributes:
        path: its folder; storage: where that is.
        manifest_checksum: by which two checkpoints can be told apart.
    """

    path: str
    storage: Storage
    manifest: Manifest
    manifest_checksum: str

    @property
    def manifest_path(self) -> str:
        """Of its manifest."""
        return f"{self.path}/{MANIFEST_NAME}"

    @property
    def step(self) -> int:
        """Trained global batches."""
        return self.manifest.step

    @property
    def metadata(self) -> dict[str, Any]:
        """What was saved beside the tensors."""
        return self.manifest.metadata

    @cached_property
    def tensors(self) -> dict[str, TensorRecord]:
        """The global tensors by name."""
        return {tensor.name: tensor for tensor in self.manifest.tensors}

    @cached_property
    def dtypes(self) -> dict[str, torch.dtype]:
        """Their types."""
        return tensor_dtypes(self.manifest.tensors)

    @cached_property
    def chunks(self) -> dict[str, list[StoredChunk]]:
        """The chunks of each tensor; none for one without elements."""
        found: dict[str, list[StoredChunk]] = defaultdict(list)
        for file in self.manifest.files:
            for chunk in file.chunks:
                found[chunk.tensor].append(StoredChunk(file, chunk))
        return found

    @property
    def parts(self) -> list[Part]:
        """All headers and chunks."""
        files = self.manifest.files
        return [*files, *(StoredChunk(file, chunk) for file in files for chunk in file.chunks)]

    def verify(self, part: Part) -> None:
        """Read a part.

        Raises:
            UnreachableError: it cannot be read.
            CheckpointError: it is not as it was written.
        """
        if isinstance(part, StoredChunk):
            self.read(part)
        else:
            self.check_header(part)

    def read(self, stored: StoredChunk) -> bytearray:
        """The bytes of a chunk, verified.

        Raises:
            UnreachableError: they cannot be read.
            CheckpointError: they are not those that were written.
        """
        path, (start, stop) = f"{self.path}/{stored.file.name}", stored.chunk.range
        with _reading(self.storage, path):
            data = self.storage.read(path, start, stop - start)
        if len(data) != stop - start or checksum(data) != stored.chunk.checksum:
            problem = f"bytes {start} .. {stop - 1} ({stored.chunk.tensor}) are not those that were written"
            raise CheckpointError(path, problem, hint=RESTORE)
        return data

    def values(self, stored: StoredChunk, data: bytearray | None = None) -> torch.Tensor:
        """The numbers of a chunk in its shape; ``data`` are its verified bytes, which are read where they are not given."""
        data = self.read(stored) if data is None else data
        return torch.frombuffer(data, dtype=self.dtypes[stored.chunk.tensor]).view(stored.chunk.shape)

    def check_header(self, file: FileRecord) -> None:
        """See that a file begins as it was written.

        Raises:
            UnreachableError: it cannot be read.
            CheckpointError: it does not.
        """
        path, expected = f"{self.path}/{file.name}", header(file.chunks, self.dtypes)
        with _reading(self.storage, path):
            if self.storage.size(path) != file.bytes or self.storage.read(path, 0, len(expected)) != expected:
                raise CheckpointError(path, "does not begin as it was written", hint=RESTORE)


def open_checkpoint(path: str | Path, storage: Storage | None = None) -> Checkpoint:
    """Open a checkpoint; its chunks are verified when they are read.

    Args:
        path: its folder.
        storage: where that is; what its path or URL says by default.

    Raises:
        UnreachableError: the storage fails, so that nothing is known of it.
        UncommittedError: it is not committed.
        CheckpointError: its manifest is not the one that was committed or contradicts itself, a file is missing, too many,
            a link, or of another size.
    """
    storage, folder = located(path, storage)
    folder = folder.rstrip("/") or "/"
    names = _names(storage, folder)
    for name in (COMMITTED_NAME, MANIFEST_NAME):
        if name not in names:
            kind = UncommittedError if name == COMMITTED_NAME else CheckpointError
            raise kind(folder, f"is no committed checkpoint (no {name})", hint="use another checkpoint")
    manifest_path = f"{folder}/{MANIFEST_NAME}"
    with _reading(storage, manifest_path):
        size = storage.size(manifest_path)
        if size > MAX_MANIFEST_BYTES:
            raise CheckpointError(manifest_path, f"has {size} bytes, more than any manifest ({MAX_MANIFEST_BYTES})")
        text = storage.read(manifest_path, 0, size)
    expected = committed_text(bytes(text))
    with _reading(storage, f"{folder}/{COMMITTED_NAME}"):
        found = storage.read(f"{folder}/{COMMITTED_NAME}", 0, len(expected) + 1)
    if found != expected:
        raise CheckpointError(manifest_path, f"is not the one whose checksum is in {COMMITTED_NAME}", hint=RESTORE)
    manifest = parse_manifest(text, manifest_path)
    _check_files(storage, folder, names, manifest)
    return Checkpoint(folder, storage, manifest, checksum(text))


def _names(storage: Storage, folder: str) -> set[str]:
    with reading(folder, hint=RESTORE):
        try:
            return set(storage.names(folder))
        except (FileNotFoundError, NotADirectoryError):
            raise CheckpointError(folder, "there is no such folder", hint="check the path") from None


def _check_files(storage: Storage, folder: str, names: set[str], manifest: Manifest) -> None:
    listed = {COMMITTED_NAME, MANIFEST_NAME, *(file.name for file in manifest.files)}
    if missing := sorted(listed - names):
        raise CheckpointError(f"{folder}/{missing[0]}", "is missing", hint=RESTORE)
    if extra := sorted(names - listed):
        raise CheckpointError(
            f"{folder}/{ascii(extra[0])[1:-1]}", "does not belong to the checkpoint", hint="remove it"
        )
    for file in manifest.files:
        with _reading(storage, f"{folder}/{file.name}"):
            found = storage.size(f"{folder}/{file.name}")
        if found != file.bytes:
            problem = f"has {found} bytes, {file.bytes} were written"
            raise CheckpointError(f"{folder}/{file.name}", problem, hint=RESTORE)


@contextmanager
def _reading(storage: Storage, path: str) -> Iterator[None]:
    """As :func:`reading`, for a file: it is missing only where its folder can be listed, and is without it."""
    folder, _, name = path.rpartition("/")
    with reading(path, hint=RESTORE):
        try:
            yield
        except FileNotFoundError:
            if name in _names(storage, folder):
                raise UnreachableError(path, "is listed, and cannot be found", hint="try again") from None
            raise CheckpointError(path, "is missing", hint=RESTORE) from None


def find_damage(checkpoint: Checkpoint, progress: Callable[[int], None] = lambda size: None) -> list[CheckpointError]:
    """Read all of a checkpoint and return what is wrong with it: each damaged header and chunk; nothing if it is whole.

    Args:
        checkpoint: an open one.
        progress: is told the bytes of each header and chunk that was looked at, in several threads.
    """

    def damage(part: Part) -> CheckpointError | None:
        try:
            checkpoint.verify(part)
        except CheckpointError as error:
            return error
        finally:
            progress(part_bytes(part))
        return None

    with ThreadPoolExecutor(VERIFYING_THREADS) as pool:
        return [found for found in pool.map(damage, checkpoint.parts) if found is not None]


def part_bytes(part: Part) -> int:
    """Bytes of a chunk, or of a file's header."""
    if isinstance(part, StoredChunk):
        return part.chunk.bytes
    return part.chunks[0].range[0]
