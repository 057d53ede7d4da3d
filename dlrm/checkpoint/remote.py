"""Checkpoints in a store of objects: S3, or what fsspec knows; and which storage a path or URL is in.

Such a store has neither folders nor other names for them, so that a checkpoint is written where it will be; its mark
(COMMITTED) comes last and goes first. An object is there whole or not at all. Where the store heeds If-None-Match, as S3
does, nothing that is there is replaced, whoever writes at the same time; elsewhere a writer that was thought dead could
still replace a file, which is found when it is loaded, by its checksum.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from iopath.common.file_io import PathManager

from dlrm.checkpoint.storage import FileWriter, LocalStorage, Stamps, Storage
from dlrm.config.checkpoint import fault_in_address
from dlrm.errors import CheckpointError
from dlrm.remote.objects import ObjectHandler, missing, taken
from dlrm.remote.paths import SchemeError, is_remote, local_path, object_handler


def located(path: str | Path, storage: Storage | None = None) -> tuple[Storage, str]:
    """The storage that a path or URL is in, unless one is given, and the path in it.

    Raises:
        CheckpointError: the URL names nothing, there is nothing for its scheme, or its package is missing.
    """
    if storage is not None:
        return storage, str(path)
    if fault := fault_in_address(str(path)):
        problem, _, hint = fault.partition("; ")
        raise CheckpointError(str(path), problem, hint=hint)
    try:
        if is_remote(str(path)):
            return RemoteStorage(object_handler(str(path))), str(path).rstrip("/")
        return LocalStorage(), local_path(path)
    except SchemeError as error:
        raise CheckpointError(str(path), error.problem, hint=error.hint) from error
    except OSError as error:
        raise CheckpointError(str(path), error.strerror or str(error)) from error


class RemoteStorage:
    """Objects of one scheme, through iopath.

    Args:
        handler: of the scheme.
    """

    renames = False

    def __init__(self, handler: ObjectHandler) -> None:
        self._objects, self._paths = handler, PathManager()
        self._paths.set_logging(False)
        self._paths.register_handler(handler)

    def names(self, folder: str) -> list[str]:
        """What a folder holds."""
        return list(self._paths.ls(folder))

    def size(self, path: str) -> int:
        """Bytes of an object."""
        return self._objects.stat(path).bytes

    def read(self, path: str, start: int, size: int) -> bytearray:
        """A range of an object; no more than that is fetched."""
        if size <= 0:
            return bytearray()
        with self._paths.open(path, "rb", start=start, size=size) as stream:
            data, done = bytearray(stream.size), 0
            with memoryview(data) as view:
                while done < len(data) and (count := stream.readinto(view[done:])):
                    done += count
        del data[done:]
        return data

    def make_folder(self, path: str) -> None:
        """Nothing to make: a folder is there when something is in it."""
        if self._paths.exists(path):
            raise taken(path)

    @contextmanager
    def writer(self, path: str) -> Iterator[FileWriter]:
        """A new object; it is there when the block has ended."""
        with self._paths.open(path, "xb") as file:
            yield file

    def put(self, path: str, data: bytes) -> None:
        """Write a small object."""
        with self.writer(path) as file:
            file.write(data)

    def sync_folder(self, path: str) -> None:
        """What a store has acknowledged is durable."""

    def rename_folder(self, old: str, new: str) -> None:
        """Copy, within the store, and remove; not at once."""
        self.make_folder(new)
        found = list(self._objects.below(old))
        if not found:
            raise missing(old)
        for entry in found:
            self._paths.copy(entry.url, f"{new}{entry.url.removeprefix(old)}", overwrite=True)
        self.remove_folder(old)

    def remove_file(self, path: str) -> None:
        """Remove an object."""
        self._paths.rm(path)

    def remove_folder(self, path: str) -> None:
        """Remove all that is below, and what was begun there and not finished."""
        for entry in list(self._objects.below(path)):
            self._paths.rm(entry.url)
        self._objects.clear_unfinished(path)
        if self._paths.isdir(path):  # of a file server, which has folders
            self._paths.rm(path)

    def is_folder(self, path: str) -> bool:
        """Whether anything is below."""
        return bool(self._paths.isdir(path))

    def idle_s(self, folder: str) -> float:
        """Seconds since the last change, by the store's clock and this host's; 0 where the store does not say."""
        times = [entry.modified_s for entry in self._objects.below(folder)]
        known = [when for when in times if when is not None]
        return time.time() - max(known) if known and len(known) == len(times) else 0.0

    def stamps(self, folder: str) -> Stamps:
        """Size and, where the store says it, time of the last change."""
        found = {entry.url.removeprefix(f"{folder}/"): entry for entry in self._objects.below(folder)}
        if not found:
            raise missing(folder)
        return {name: (entry.bytes, entry.modified_s or 0.0) for name, entry in found.items()}
