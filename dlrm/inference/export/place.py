"""How a folder that is whole takes the place of another one, and what killed processes have left there."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # Linux, include/uapi/linux/fcntl.h and fs.h
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)  # the kernel, or the file system


def hidden(path: Path, state: str) -> Path:
    """A name beside a folder that no other process takes; ``state`` is ``unfinished`` or ``replaced``."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{state}")


def take_place(beside: Path, path: Path) -> None:
    """Rename a folder; what was at ``path`` is then beside it, or gone. There always is one or the other, where possible.

    Args:
        beside: the new folder.
        path: its place: nothing, an empty folder, or what it replaces.

    Raises:
        OSError: it cannot be renamed; what was there is still there.
    """
    if not os.path.lexists(path) or not any(path.iterdir()):
        os.rename(beside, path)  # which may replace an empty folder
    elif not exchange(beside, path):
        aside = hidden(path, "replaced")
        with in_use(path):  # nobody else puts it back meanwhile
            os.rename(path, aside)
            try:
                os.rename(beside, path)
            except OSError:
                os.rename(aside, path)
                raise
        shutil.rmtree(aside, ignore_errors=True)


def exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two folders in one step; False where the kernel or the file system cannot.

    Raises:
        OSError: they cannot be renamed.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:  # a C library before glibc 2.28
        return False
    names = ctypes.c_char_p(os.fsencode(one)), ctypes.c_char_p(os.fsencode(other))
    if renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], ctypes.c_uint(_RENAME_EXCHANGE)) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), os.fspath(other))


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Mark a folder as one that a living process writes, wherever it is renamed to."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # a file system without locks: nobody clears away there
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def clear_leftovers(path: Path) -> None:
    """Remove what killed processes have left beside a folder; one that was being replaced is put back.

    Raises:
        OSError: the folder around it cannot be read.
    """
    if not path.parent.is_dir():
        return
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.(unfinished|replaced)", re.ASCII)
    for found in sorted(path.parent.iterdir()):
        match = name.fullmatch(found.name)
        if match is None or found.is_symlink() or not found.is_dir() or _is_in_use(found):
            continue
        if match[1] == "replaced" and not os.path.lexists(path):
            os.rename(found, path)
        else:
            shutil.rmtree(found, ignore_errors=True)


def _is_in_use(folder: Path) -> bool:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # somebody else's, or gone
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
