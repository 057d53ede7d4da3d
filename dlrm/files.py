"""Files that other processes look at, or write as well: replaced as a whole, and by one process at a time."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

UNFINISHED = ".unfinished"
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # of some network file systems
_POLL_S = 0.1
_SEEN_WITHIN_S = 10.0  # network file systems show new files to other hosts after a while


@contextmanager
def written_beside(path: Path, *, beside: Path | None = None, durable: bool = True) -> Iterator[BinaryIO]:
    """A file to write that gets its name when the block has ended without an error; until then what was there stays.

    Args:
        path: of the file.
        beside: where its bytes are until then, on the same file system; by one writer at a time. :func:`unfinished` if left
            out.
        durable: have it on the disk by then, its name included. Otherwise a power failure can leave a torn file.

    Raises:
        OSError: it cannot be written, or ``beside`` is a link; nothing is left beside.
    """
    beside = beside or unfinished(path)
    try:
        with open(beside, "wb", opener=open_itself) as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise
    if durable:
        sync_folder(path.parent)


def write_json(
    path: Path, value: Any, *, indent: int | None = None, beside: Path | None = None, durable: bool = True
) -> None:
    """Write JSON, whole or not at all.

    Args:
        path: of the file.
        value: what :mod:`json` takes.
        indent: spaces a level; all in one line if left out.
        beside: of :func:`written_beside`.
        durable: likewise.

    Raises:
        OSError: it cannot be written; what was there stays.
        ValueError: a number is NaN or infinite, which JSON cannot say.
    """
    text = json.dumps(value, indent=indent, allow_nan=False) + "\n"
    with written_beside(path, beside=beside, durable=durable) as file:
        file.write(text.encode())


def open_itself(path: str, flags: int) -> int:
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


@contextmanager
def alone(path: Path, *, patience_s: float = math.inf, taken: Exception | None = None) -> Iterator[None]:
    """Let one process at a time in, by a lock that the kernel takes from a process that dies.

    Args:
        path: of the lock file, which is made, with its folder, where it is not there; what is in it stays. Whoever leaves
            may remove it: the next one makes a new one.
        patience_s: seconds to wait for a process that is in.
        taken: what is raised where another process is in and was waited for long enough; BlockingIOError if left out.

    Raises:
        OSError: the file cannot be made. Or its file system has no locks, and patience is endless: whoever would go in
            without waiting goes in there, since nobody can be asked.
    """
    try:
        file = _locked(path, time.monotonic() + patience_s)
    except BlockingIOError:
        if taken is None:
            raise
        raise taken from None
    with file:
        yield


def seen(condition: Callable[[], bool]) -> bool:
    """Whether something that another host has written can be seen, now or soon."""
    give_up_at = time.monotonic() + _SEEN_WITHIN_S
    while not condition():
        if time.monotonic() > give_up_at:
            return False
        time.sleep(_POLL_S)
    return True


def _locked(path: Path, deadline_s: float) -> BinaryIO:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("ab")
        except FileNotFoundError:
            if path.is_symlink():
                raise
            continue  # its folder was removed in this moment
        try:
            _lock(file, deadline_s)
            if _is_at(file, path):  # else it was removed by a process that has just left
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def _lock(file: BinaryIO, deadline_s: float) -> None:
    if deadline_s == math.inf:
        fcntl.flock(file, fcntl.LOCK_EX)
        return
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                raise
            time.sleep(_POLL_S)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
