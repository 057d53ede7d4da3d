"""Where checkpoints are kept: the few operations that saving and loading need, and the local file system's.

Terms: a file is *durable* when it survives the machine's failure. Paths are text, joined with ``/``.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from dlrm.errors import CheckpointError
from dlrm.files import UNFINISHED
from dlrm.remote.objects import StoreError

Stamps = dict[str, tuple[float, ...]]
_ANSWERS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG)
_TRY_AGAIN = "nothing was changed; try again once the storage answers, or move away what stays unreadable"


class FileWriter(Protocol):
    """A file being written from its beginning to its end."""

    def write(self, data: bytes | memoryview) -> None:
        """Append ``data``, all of it."""


class Storage(Protocol):
    """Folders and files; every operation may raise OSError.

    A file name is never used twice: no operation replaces a file or a folder that holds something.

    Attributes:
        renames: whether a folder gets another name at once. Where it does not, as in a store of objects, a checkpoint is
            written where it will be.
    """

    renames: bool

    def names(self, folder: str) -> list[str]:
        """What a folder holds, sorted; FileNotFoundError if there is no folder."""

    def size(self, path: str) -> int:
        """Bytes of a plain file; OSError for anything else, a link included."""

    def read(self, path: str, start: int, size: int) -> bytearray:
        """Bytes ``start .. start + size - 1`` of a plain file, fewer where it ends before; never follows a link."""

    def make_folder(self, path: str) -> None:
        """Make a folder, and those above it; FileExistsError if it is there."""

    @contextmanager
    def writer(self, path: str) -> Iterator[FileWriter]:
        """A new file to write, durable when the block has ended; FileExistsError if it is there."""

    def put(self, path: str, data: bytes) -> None:
        """Write a small new file, durable, so that it is seen whole or not at all."""

    def sync_folder(self, path: str) -> None:
        """Make the names in a folder durable."""

    def rename_folder(self, old: str, new: str) -> None:
        """Rename a folder, at once if it ``renames``; OSError if ``new`` is there and holds something."""

    def remove_file(self, path: str) -> None:
        """Remove a file."""

    def remove_folder(self, path: str) -> None:
        """Remove a folder with all it holds, links themselves instead of what they lead to; not at once."""

    def is_folder(self, path: str) -> bool:
        """Whether it is a folder, and no link to one."""

    def idle_s(self, folder: str) -> float:
        """Seconds since anything directly in a folder was last changed."""

    def stamps(self, folder: str) -> Stamps:
        """By name what changes when a file in a folder is written anew: size, time, and what else is known of it."""


class UnreachableError(CheckpointError):
    """The storage cannot be asked, so that nothing is known of what it holds: no reason to take an older checkpoint."""

    may_pass = True


class NoPlainFileError(OSError):
    """Something else than a file is where a file should be."""

    def __init__(self, path: str) -> None:
        super().__init__(errno.EINVAL, "is no plain file", path)


def may_pass(error: OSError) -> bool:
    """Whether the storage may answer when it is asked again: it is away, slow or broken.

    Not so where it has answered that nothing is there, or something else than should be, and where asking again is of no
    use, as with a store that refuses the credentials.
    """
    return error.may_pass if isinstance(error, StoreError) else not _says_what_is_there(error)


def _says_what_is_there(error: OSError) -> bool:
    return isinstance(error, NoPlainFileError) or error.errno in _ANSWERS


@contextmanager
def reading(path: str, *, hint: str = "") -> Iterator[None]:
    """Tell what is not as it should be from what cannot be read.

    Raises:
        UnreachableError: storage failed, so that nothing is known of what it holds.
        CheckpointError: it has answered that nothing is there, or something else than should be.
    """
    try:
        yield
    except StoreError as error:  # its words are the problem and the hint
        raise UnreachableError(path, error.strerror or str(error)) from error
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})"
        if _says_what_is_there(error):
            raise CheckpointError(path, problem, hint=hint) from error
        raise UnreachableError(path, problem, hint=_TRY_AGAIN) from error


@contextmanager
def storage_errors(path: str, *, hint: str = "") -> Iterator[None]:
    """Say what the storage refused as an error of the checkpoint, whatever the reason."""
    try:
        yield
    except OSError as error:
        where = error.filename if isinstance(error.filename, str) else path
        kind = UnreachableError if isinstance(error, StoreError) else CheckpointError
        raise kind(where, f"{error.strerror or error}", hint=hint) from error


def names_if_there(storage: Storage, folder: str) -> list[str]:
    """What a folder holds; nothing where there is none."""
    try:
        return storage.names(folder)
    except FileNotFoundError:
        return []


@contextmanager
def _to_sync(folder: str) -> Iterator[None]:
    """A local folder whose names are durable when the block has ended, also if it has another name by then."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class LocalStorage:
    """The file system of this host, or one that all hosts have mounted."""

    renames = True

    def names(self, folder: str) -> list[str]:
        """What a folder holds."""
        return sorted(os.listdir(folder))

    def size(self, path: str) -> int:
        """Bytes of a plain file."""
        return _plain_size(os.lstat(path), path)

    def read(self, path: str, start: int, size: int) -> bytearray:
        """A range of a plain file."""
        # Without O_NONBLOCK a named pipe in a file's place would be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            size = max(0, min(size, _plain_size(os.fstat(descriptor), path) - start))
            data = bytearray(size)
            view, done = memoryview(data), 0
            while done < size:
                count = os.preadv(descriptor, [view[done:]], start + done)
                if count == 0:
                    return data[:done]
                done += count
            return data
        finally:
            os.close(descriptor)

    def make_folder(self, path: str) -> None:
        """Make a folder, and those above it."""
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        os.mkdir(path)

    @contextmanager
    def writer(self, path: str) -> Iterator[FileWriter]:
        """A new file to write."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            yield _LocalWriter(descriptor, path)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def put(self, path: str, data: bytes) -> None:
        """Write a small file beside and rename it."""
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        beside = path + UNFINISHED
        with self.writer(beside) as file:
            file.write(data)
        with _to_sync(os.path.dirname(path)):  # opened first: who sees the file may rename or remove its folder at once
            os.rename(beside, path)

    def sync_folder(self, path: str) -> None:
        """Make the names in a folder durable."""
        with _to_sync(path):
            pass

    def rename_folder(self, old: str, new: str) -> None:
        """Rename a folder; the system refuses where ``new`` is a folder that holds something, or no folder."""
        os.rename(old, new)

    def remove_file(self, path: str) -> None:
        """Remove a file."""
        os.unlink(path)

    def remove_folder(self, path: str) -> None:
        """Remove a folder with all it holds."""
        shutil.rmtree(path)

    def is_folder(self, path: str) -> bool:
        """Whether it is a folder."""
        try:
            return stat.S_ISDIR(os.lstat(path).st_mode)
        except FileNotFoundError:
            return False

    def idle_s(self, folder: str) -> float:
        """Seconds since the last change, by the clock of this host."""
        latest = os.lstat(folder).st_mtime
        with os.scandir(folder) as entries:
            for entry in entries:
                latest = max(latest, entry.stat(follow_symlinks=False).st_mtime)
        return time.time() - latest

    def stamps(self, folder: str) -> Stamps:
        """Size, time of the last change, and inode."""
        with os.scandir(folder) as entries:
            found = {entry.name: entry.stat(follow_symlinks=False) for entry in entries}
        return {name: (status.st_size, status.st_mtime_ns, status.st_ino) for name, status in found.items()}


class _LocalWriter:
    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor, self._path = descriptor, path

    def write(self, data: bytes | memoryview) -> None:
        """Append ``data``; the system may take it in parts."""
        view = memoryview(data)
        while view:
            written = os.write(self._descriptor, view)
            if written == 0:
                raise OSError(errno.EIO, "nothing was written", self._path)
            view = view[written:]


def _plain_size(status: os.stat_result, path: str) -> int:
    if not stat.S_ISREG(status.st_mode):
        raise NoPlainFileError(path)
    return status.st_size
