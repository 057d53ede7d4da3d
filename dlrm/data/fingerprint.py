"""By what the files of training data are known again when a run goes on, without reading them whole.

A position in the order of samples means something only in the same data: of the same rows in another order, as a job that
was run again writes them, some would be trained on twice and some never. Where files lie and when they were written says
nothing about that, so neither is asked.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from dlrm.errors import DataError

_PIECE_BYTES = 1 << 16


@dataclass(frozen=True)
class FileFingerprint:
    """What is known of a file that samples are read from.

    Attributes:
        name: its name in the data set, for people: a file may be moved and renamed.
        bytes: its size; sample: a hash of bytes at its start, middle and end.
        sha256: of all its bytes, where the data set says so, otherwise empty.
        rows: which of its rows are read, where not all are, otherwise empty.
    """

    name: str
    bytes: int
    sample: str
    sha256: str = ""
    rows: str = ""


def fingerprint_of(
    path: str, name: str, *, sha256: str = "", rows: str = "", tail_bytes: int = _PIECE_BYTES
) -> FileFingerprint:
    """Look at a file.

    Args:
        path: where it is.
        name: as in :class:`FileFingerprint`.
        sha256: likewise.
        rows: likewise.
        tail_bytes: how much of its end to look at.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.sha256()
            middle = (size - _PIECE_BYTES) // 2
            for start, length in ((0, _PIECE_BYTES), (middle, _PIECE_BYTES), (size - tail_bytes, tail_bytes)):
                file.seek(max(0, start))
                digest.update(file.read(length))
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})", hint="check the disk or mount") from error
    return FileFingerprint(name, size, digest.hexdigest()[:32], sha256, rows)


def difference(before: Sequence[FileFingerprint], now: Sequence[FileFingerprint]) -> str:
    """What makes the samples of some files others than those of earlier ones, in words; empty if nothing does."""
    if len(before) != len(now):
        return _other_files(before, now)
    changed = [(old, new) for old, new in zip(before, now, strict=True) if not _same(old, new)]
    if not changed:
        return ""
    others = f" (and {len(changed) - 1} more files differ)" if len(changed) > 1 else ""
    is_moved = _content(changed[0][0]) != _content(changed[0][1])
    if is_moved and Counter(map(_content, before)) == Counter(map(_content, now)):
        return f"its files are in another order: {changed[0][1].name} is where {changed[0][0].name} was{others}"
    return _change(*changed[0]) + others


def _content(file: FileFingerprint) -> tuple[int, str, str]:
    return file.bytes, file.sample, file.rows


def _same(old: FileFingerprint, new: FileFingerprint) -> bool:
    known = bool(old.sha256 and new.sha256)
    return _content(old) == _content(new) and not (known and old.sha256 != new.sha256)


def _change(old: FileFingerprint, new: FileFingerprint) -> str:
    called = new.name if new.name == old.name else f"{new.name} (then {old.name})"
    if old.bytes != new.bytes:
        return f"{called} has {new.bytes:,} bytes and had {old.bytes:,}"
    if (old.sample, old.sha256) == (new.sample, new.sha256):
        return f"rows {new.rows or 'all'} of {called} are read and were {old.rows or 'all'}"
    return f"{called} has other content in as many bytes"


def _other_files(before: Sequence[FileFingerprint], now: Sequence[FileFingerprint]) -> str:
    count = f"there are {len(now)} files and were {len(before)}"
    there = {file.name for file in now}
    gone = next((file.name for file in before if file.name not in there), None)
    if gone is not None:
        return f"{gone} is missing ({count})"
    were = {file.name for file in before}
    new = next((file.name for file in now if file.name not in were), None)
    return count if new is None else f"{new} is new ({count})"
