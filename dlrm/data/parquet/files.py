"""Finding and opening Parquet files; whatever is wrong with one as a whole ends here, in one line."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath

import pyarrow as pa
import pyarrow.parquet as pq

from dlrm.data.file_names import LEFT_OUT, is_data, matching_data, some_names
from dlrm.data.packed.split import natural_key
from dlrm.errors import ConfigError, DataError

FETCH_AGAIN = "write or fetch the file again"
_PROBE_BUFFER_BYTES = 1 << 16
_OTHER_MAGIC = {
    b"\x1f\x8b": "gzip data",
    b"\x28\xb5\x2f\xfd": "zstd data",
    b"PK\x03\x04": "a zip archive",
    b"ORC": "ORC",
}


@dataclass(frozen=True)
class ParquetPart:
    """A file as it was when it was opened.

    Attributes:
        path: where it is; columns: its Arrow schema; group_rows: rows of each row group.
        identity: inode, size and time of the last change.
        footer_bytes: from the start of the footer to the end of the file.
    """

    path: str
    columns: pa.Schema
    group_rows: tuple[int, ...]
    identity: tuple[int, int, int]
    footer_bytes: int

    @property
    def rows(self) -> int:
        """Rows of the file."""
        return sum(self.group_rows)


def find_files(folder: str, patterns: Sequence[str], key: str) -> tuple[str, ...]:
    """The files that match, in natural order of their names.

    Args:
        folder: where to look.
        patterns: relative to the folder. One without ``*``, ``?`` and ``[`` names a file that must be there. One with them
            leaves out what is no data (:mod:`dlrm.data.file_names`).
        key: dotted option, for messages.

    Raises:
        ConfigError: a pattern leads out of the folder, a named file is not there.
        DataError: a folder where a file should be.
    """
    found: set[str] = set()
    for pattern in patterns:
        if PurePath(pattern).is_absolute() or ".." in PurePath(pattern).parts:
            raise ConfigError.at(key, f"{pattern!r} leads out of {folder}: patterns are relative to data.path")
        matching = glob.glob(pattern, root_dir=folder, recursive=True)
        if not matching and not glob.has_magic(pattern):
            raise ConfigError.at(key, f"there is no file {pattern} in {folder}")
        found.update(matching_data(pattern, matching))
    for name in found:
        if os.path.isdir(os.path.join(folder, name)):
            hint = f"name the files in it: {key} {name}/*.parquet"
            raise DataError(os.path.join(folder, name), "is a folder, not a file", hint=hint)
    return tuple(os.path.join(folder, name) for name in sorted(found, key=natural_key))


def nothing_found(folder: str, patterns: Sequence[str]) -> str:
    """Why no file matches, as a message: what there is instead."""
    message = f"no file of {folder} matches {', '.join(patterns)}"
    if not os.path.isdir(folder):
        return f"{message}: there is no such folder" if not os.path.exists(folder) else f"{message}: it is a file"
    if aside := {name for pattern in patterns for name in glob.glob(pattern, root_dir=folder, recursive=True)}:
        return f"{message} but {some_names(sorted(aside))}, and {LEFT_OUT}"
    there = [name for name in os.listdir(folder) if is_data(name)]
    return f"{message}; there are {some_names(there)}" if there else f"{message}: it holds no data"


def open_part(path: str) -> ParquetPart:
    """Read a file's footer.

    Raises:
        DataError: the file cannot be read, is empty, cut off, encrypted or not Parquet.
    """
    identity = file_identity(path)
    with reading(path):
        _look_at_ends(path, identity[1])
        with pq.ParquetFile(path) as file:
            footer = file.metadata
            group_rows = tuple(footer.row_group(i).num_rows for i in range(footer.num_row_groups))
            part = ParquetPart(path, file.schema_arrow, group_rows, identity, footer.serialized_size + 8)
    if min(group_rows, default=0) < 0 or part.rows != footer.num_rows:
        problem = f"the footer counts {footer.num_rows} rows, its row groups {part.rows}"
        raise DataError(path, problem, hint=FETCH_AGAIN)
    return part


def probe(part: ParquetPart, columns: Sequence[str]) -> None:
    """Decode the first row, so that what is wrong with every file of a data set is known before training.

    Raises:
        DataError: a column is encrypted, compressed in a way that this build cannot read, or damaged at its start.
    """
    group = next(i for i, rows in enumerate(part.group_rows) if rows)
    for name in columns:
        with (
            reading(part.path, column=name),
            pq.ParquetFile(part.path, buffer_size=_PROBE_BUFFER_BYTES, pre_buffer=False) as file,
        ):
            next(file.iter_batches(batch_size=1, row_groups=[group], columns=[name], use_threads=False))


def file_identity(path: str) -> tuple[int, int, int]:
    """Inode, size and time of the last change, by which a file that was replaced or written to is told.

    Raises:
        DataError: the file is not there or may not be looked at.
    """
    with reading(path):
        found = os.stat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns


@contextmanager
def reading(path: str, *, row: int | None = None, column: str | None = None) -> Iterator[None]:
    """Turn what the system and pyarrow raise while reading ``path`` into a :class:`~dlrm.errors.DataError`."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(path, "no such file", hint="check data.path and data.files") from None
    except PermissionError:
        raise DataError(path, "no permission to read it", hint="check the file's owner and mode") from None
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "decrypt" in reason.lower():
            raise DataError(path, "is encrypted", column=column, hint="write it without encryption") from None
        raise DataError(path, f"cannot be decoded ({reason})", row=row, column=column, hint=FETCH_AGAIN) from error


def _look_at_ends(path: str, size: int) -> None:
    """Tell what pyarrow's message does not: an empty file, another kind of file, a file that was cut off."""
    with open(path, "rb") as file:
        start = file.read(4)
        file.seek(max(0, size - 4))
        end = file.read(4)
    if not size:
        raise DataError(path, "the file is empty", hint=FETCH_AGAIN)
    if b"PARE" in (start, end):
        raise DataError(path, "is encrypted", hint="write it without encryption")
    if start != b"PAR1":
        kind = next((kind for magic, kind in _OTHER_MAGIC.items() if start.startswith(magic)), "")
        kind = kind or ("text" if start.isascii() and start.decode().isprintable() else "")
        problem = f"is not a Parquet file but {kind}" if kind else "is not a Parquet file"
        raise DataError(path, problem, hint="convert it, or check data.path and data.files")
    if end != b"PAR1" or size < 12:
        raise DataError(path, "is cut off: the footer is missing", hint=FETCH_AGAIN)
