"""How much text, how many rows and how much disk a job is about, estimated from the start of every file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from dlrm.config.data.raw import HashedCategories
from dlrm.config.prepare import PreprocessConfig
from dlrm.errors import DataError
from dlrm.preprocess.sources import SourceFile

_SAMPLE_BYTES = 1 << 20
_MARGIN = 1.05
GIB = 2**30
CUTS = 16
"""About how often the parsed rows of a shuffle are given back."""


@dataclass(frozen=True)
class Extent:
    """About how much is in a raw file.

    Attributes:
        text_bytes: decompressed; rows: in it.
    """

    text_bytes: int
    rows: int


def extent_of(source: SourceFile) -> Extent:
    """Estimate a file's text and rows from the first MiB of it."""
    with open(source.path, "rb") as file:
        stored = file.read(_SAMPLE_BYTES)
    text = stored if source.compression == "none" else _decompressed(stored, source.compression)
    if not text:
        return Extent(source.bytes, 0)  # a damaged file, which will be said when it is read
    text_bytes = source.bytes * len(text) // max(1, len(stored))
    return Extent(text_bytes, text_bytes * max(1, text.count(b"\n")) // len(text))


def _decompressed(stored: bytes, compression: str) -> bytes:
    """As much as can be decompressed of a file's beginning."""
    text = bytearray()
    with pa.CompressedInputStream(pa.BufferReader(stored), compression) as stream:
        try:
            while piece := stream.read(1 << 16):
                text += piece
        except OSError:  # where the sample was cut
            pass
    return bytes(text)


def peak_bytes(config: PreprocessConfig, part_rows: Sequence[int], *, ranks: int) -> int:
    """The most disk space that is in use at a time, for parts of about so many rows.

    First all parsed rows and, where there are vocabularies, what occurs in them: each category, where no two are the same.
    Then the parsed rows and one part. Where rows are shuffled they are given back little by little
    (:mod:`~dlrm.preprocess.spent`), or all parts are written beside them.
    """
    hashed = isinstance(config.categories, HashedCategories)
    wide = isinstance(config.categories, HashedCategories) and max(config.categories.rows) > 2**31
    packed = 4 * config.num_dense + (8 if wide else 4) * config.num_sparse + 4
    rows = sum(part_rows)
    parsed = 4 * (1 + (config.num_sparse + 32) // 32 + config.num_dense + config.num_sparse)
    occurrences = 0 if hashed else 4 * config.num_sparse
    part = max(part_rows, default=0)
    if not config.shuffle:
        writing = rows * parsed + part * packed
    elif gives_back(config, ranks):
        writing = rows * max(parsed, packed) + part * packed + rows * parsed * 2 // CUTS
    else:
        writing = rows * (parsed + packed)
    return int(max(rows * (parsed + occurrences), writing) * _MARGIN)


def gives_back(config: PreprocessConfig, ranks: int) -> bool:
    """Whether a shuffle's parsed rows are given back while parts are written: ranks do not know what others need."""
    return ranks == 1 and not config.keep_work


def check_room(output: Path, need_bytes: int) -> None:
    """Compare what the job needs with what is free and what it has taken already.

    Raises:
        DataError: the disk is too small.
    """
    free = shutil.disk_usage(output).free
    taken = sum(path.stat().st_blocks * 512 for path in output.rglob("*") if path.is_file())
    if need_bytes > free + taken:
        missing = need_bytes - taken - free
        problem = f"about {_gib(need_bytes - taken)} GiB are needed, {_gib(free)} GiB are free"
        raise DataError(
            str(output), problem, mend=f"make {_gib(missing)} GiB of room or choose another disk for output"
        )


def _gib(size: float) -> str:
    return f"{size / GIB:,.1f}" if size >= GIB / 10 else f"{size / GIB:.3g}"


@contextmanager
def disk_errors(output: Path) -> Iterator[None]:
    """What the operating system says of files, as errors that the user can mend.

    Raises:
        DataError: instead of an OSError that names a file or concerns the disk.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        path = str(error.filename or output)
        mend = "make room or mend it and run the command again: what is finished is kept"
        raise DataError(path, f"the disk refuses ({error.strerror})", mend=mend) from error
