"""What all steps of a preprocessing job need to know, and how much text, rows and disk it is about."""

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
from dlrm.preprocess.records import record_type
from dlrm.preprocess.sources import SourceFile
from dlrm.preprocess.work_folder import WorkFolder
from dlrm.progress import Progress

_SAMPLE_BYTES = 1 << 20
_MARGIN = 1.05
_GIB = 2**30


@dataclass(frozen=True)
class Extent:
    """About how much is in a raw file.

    Attributes:
        text_bytes: decompressed; rows: in it.
    """

    text_bytes: int
    rows: int


@dataclass(frozen=True)
class Source:
    """A raw file as it was when the job began: when it was modified last (nanoseconds) and about how much is in it."""

    file: SourceFile
    mtime_ns: int
    extent: Extent


@dataclass(frozen=True)
class JobContext:
    """One rank's view of a job.

    Attributes:
        config: as the user gave it; work: the intermediate files.
        sources: the raw files, in order.
        chunk_bytes, bucket_rows: as the job began; a job that goes on does so with the same.
        rank, world_size: which share of the work is done here.
        threads: that work here at a time.
        progress: tells the user; silent on other ranks than 0.
    """

    config: PreprocessConfig
    work: WorkFolder
    sources: tuple[Source, ...]
    chunk_bytes: int
    bucket_rows: int
    rank: int
    world_size: int
    threads: int
    progress: Progress

    def own(self, sizes: Sequence[int]) -> list[int]:
        """Which of some things of these sizes are this rank's."""
        return [i for i, owner in enumerate(owners(sizes, self.world_size)) if owner == self.rank]

    @property
    def own_files(self) -> list[int]:
        """The source files that this rank reads."""
        return self.own([source.file.bytes for source in self.sources])


def owners(sizes: Sequence[int], ranks: int) -> list[int]:
    """Deal things out to ranks: the largest first, each to the rank that has the least (the lowest of them)."""
    loads, owner = [0] * ranks, [0] * len(sizes)
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        owner[i] = min(range(ranks), key=lambda rank: loads[rank])
        loads[owner[i]] += sizes[i]
    return owner


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
    Then the parsed rows and one part: the room of parsed rows is reclaimed as parts are finished, or all parts are written
    beside them.
    """
    hashed = isinstance(config.categories, HashedCategories)
    wide = isinstance(config.categories, HashedCategories) and max(config.categories.rows) > 2**31
    packed = 4 * config.num_dense + (8 if wide else 4) * config.num_sparse + 4
    rows = sum(part_rows)
    parsed = record_type(config).itemsize
    values = 0 if hashed or config.vocabulary_from else 4 * config.num_sparse
    if reclaims(config, ranks):
        writing = rows * max(parsed, packed) + max(part_rows, default=0) * packed
    else:
        writing = rows * (parsed + packed)
    return int(max(rows * (parsed + values), writing) * _MARGIN)


def reclaims(config: PreprocessConfig, ranks: int) -> bool:
    """Whether the room of parsed rows is reclaimed part by part; of shuffled rows, ranks do not know what others need."""
    return not config.shuffle or (ranks == 1 and not config.keep_work)


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
            str(output), problem, hint=f"make {_gib(missing)} GiB of room or choose another disk for output"
        )


def _gib(size: float) -> str:
    return f"{size / _GIB:,.1f}" if size >= _GIB / 10 else f"{size / _GIB:.3g}"


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
        hint = "make room or mend it and run the command again: what is finished is kept"
        raise DataError(path, f"the disk refuses ({error.strerror})", hint=hint) from error
