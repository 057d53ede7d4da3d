"""The second step: which parts the rows form, what each row is for, and where it comes from and goes.

Terms:
    row: the place of a row among all rows of all files, in order; chunks and parts are ranges of rows.
    run: neighbouring training rows of a part. The *place* of a training row is its number among the training rows only.
    piece: rows of a part that are written at one time. A *copy* takes rows of one chunk to where they stand in the
        sequence of all rows; a *draw* takes training rows from a bucket of the shuffle.
"""

from __future__ import annotations

import itertools
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from dlrm.config.data.packed import PartSplit
from dlrm.config.prepare import EqualParts, PreprocessConfig
from dlrm.data.packed.split import Part, ResolvedSplit, resolve_split
from dlrm.errors import ConfigError, DataError
from dlrm.preprocess.fixed_vocabulary import split_of
from dlrm.preprocess.job_context import JobContext, Source
from dlrm.preprocess.parse import malformed_lines
from dlrm.preprocess.records import Bools
from dlrm.preprocess.sources import text_chunks
from dlrm.preprocess.work_folder import ChunkCounts, read_json

_MANY_ROWS = 10**18
_LOOKED_AT_BYTES = 1 << 16  # of rows that were left out, for words about them
_MADE_UP = 10**12  # numbers from here on come from _MANY_ROWS, and nobody has so many rows


@dataclass(frozen=True)
class Rows:
    """Rows start .. stop - 1."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __and__(self, other: Rows) -> Rows:
        """The rows that both hold; empty where they have none in common."""
        start = max(self.start, other.start)
        return Rows(start, max(start, min(self.stop, other.stop)))


@dataclass(frozen=True)
class Chunk:
    """Chunk ``index`` of file ``file`` and its rows."""

    file: int
    index: int
    rows: Rows


@dataclass(frozen=True)
class Run:
    """Neighbouring training rows of a part; the first of them has place ``first`` among all training rows."""

    part: str
    rows: Rows
    first: int


@dataclass(frozen=True)
class Copy:
    """A piece: rows of a chunk, written at row ``start`` of their part."""

    chunk: Chunk
    rows: Rows
    start: int

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Draw:
    """A piece: training rows of a bucket in their order after the shuffle, written at row ``start`` of a part.

    They are ``count`` rows from row ``skip`` of the bucket on.
    """

    bucket: int
    part: str
    skip: int
    count: int
    start: int

    def __len__(self) -> int:
        return self.count


class RowPlan:
    """How chunks, parts and training rows overlap.

    Args:
        chunks: in order, without gaps.
        parts: in order; together they have the rows of the chunks.
        split: which rows are for what.
        shuffle: whether training rows are shuffled.

    Attributes:
        shuffled: whether any row is.
    """

    def __init__(self, chunks: Sequence[Chunk], parts: Sequence[Part], split: ResolvedSplit, *, shuffle: bool) -> None:
        self.chunks, self.parts, self.split = tuple(chunks), tuple(parts), split
        self._chunk_starts = [chunk.rows.start for chunk in chunks]
        ends = list(itertools.accumulate(part.rows for part in parts))
        self._part_rows = {part.name: Rows(end - part.rows, end) for part, end in zip(parts, ends, strict=True)}
        self._runs = tuple(self._training(split))
        self.shuffled = shuffle and bool(self._runs)

    def training(self, rows: Rows) -> Iterator[Rows]:
        """The training rows among ``rows``, in stretches."""
        for run in self._runs:
            common = run.rows & rows
            if len(common):
                yield common

    def is_training(self, chunk: Chunk) -> Bools:
        """Which rows of a chunk are training rows, bool (M,)."""
        training_M = np.zeros(len(chunk.rows), np.bool_)
        for found in self.training(chunk.rows):
            training_M[found.start - chunk.rows.start : found.stop - chunk.rows.start] = True
        return training_M

    def is_mixed(self, chunk: Chunk) -> bool:
        """Whether some rows of a chunk are training rows and some are not."""
        return 0 < sum(len(found) for found in self.training(chunk.rows)) < len(chunk.rows)

    def draws(self, bucket_rows: Sequence[int]) -> list[Draw]:
        """Which training rows of each bucket go where; ``bucket_rows`` is how many each of them has."""
        found: list[Draw] = []
        end = 0
        for bucket, count in enumerate(bucket_rows):
            here, end = Rows(end, end + count), end + count
            for run in self._runs:
                places = Rows(run.first, run.first + len(run.rows)) & here
                if len(places):
                    skip = places.start - here.start
                    start = run.rows.start - self._part_rows[run.part].start + places.start - run.first
                    found.append(Draw(bucket, run.part, skip, len(places), start))
        return found

    def copies(self, part: str) -> Iterator[Copy]:
        """The rows of a part that stay where they are."""
        here = self._part_rows[part]
        for stay in self._unshuffled(part):
            for chunk in self._overlapping(stay):
                common = chunk.rows & stay
                if len(common):
                    yield Copy(chunk, common, common.start - here.start)

    def within(self, part: str) -> Iterator[Chunk]:
        """The chunks all of whose rows are a part's and are not shuffled."""
        here = self._part_rows[part]
        for chunk in self._overlapping(here):
            if chunk.rows & here == chunk.rows and not (self.shuffled and any(self.training(chunk.rows))):
                yield chunk

    def _training(self, split: ResolvedSplit) -> Iterator[Run]:
        first = 0
        for span in split.train:
            start = self._part_rows[span.part].start
            yield Run(span.part, Rows(start + span.start, start + span.stop), first)
            first += len(span)

    def _unshuffled(self, part: str) -> Iterator[Rows]:
        """The rows of a part that stay where they are."""
        here = self._part_rows[part]
        runs = [run.rows for run in self._runs if run.part == part] if self.shuffled else []
        start = here.start
        for rows in sorted(runs, key=lambda rows: rows.start):
            yield Rows(start, rows.start)
            start = rows.stop
        yield Rows(start, here.stop)

    def _overlapping(self, rows: Rows) -> Iterator[Chunk]:
        place = max(0, bisect_right(self._chunk_starts, rows.start) - 1)
        return itertools.takewhile(lambda chunk: chunk.rows.start < rows.stop, self.chunks[place:])


def plan_rows(job: JobContext, counts: Sequence[Sequence[ChunkCounts]]) -> RowPlan:
    """The plan for rows that were counted.

    Args:
        job: what it is for.
        counts: of each chunk of each file.

    Raises:
        ConfigError: parts or split do not fit the rows.
        DataError: there are no rows.
    """
    chunks: list[Chunk] = []
    start = 0
    for file, of_file in enumerate(counts):
        for index, count in enumerate(of_file):
            chunks.append(Chunk(file, index, Rows(start, start + count.rows)))
            start += count.rows
    if not start:
        raise _no_row(job, sum(count.skipped_rows for of_file in counts for count in of_file))
    parts = _parts(job, [sum(count.rows for count in of_file) for of_file in counts])
    return RowPlan(chunks, parts, split_of(job.config, parts), shuffle=job.config.shuffle)


def read_counts(job: JobContext, file: int) -> list[ChunkCounts]:
    """What was counted in each chunk of a file.

    Raises:
        DataError: it is gone or damaged.
    """
    counts: list[ChunkCounts] = read_json(job.work.counts(file), list[ChunkCounts])
    return counts


def estimated_parts(config: PreprocessConfig, sources: Sequence[Source]) -> list[Part]:
    """The parts before anything was counted: their names, and about as many rows as they will have."""
    rows = [source.extent.rows for source in sources]
    if isinstance(config.parts, EqualParts):
        rows = [sum(rows) // config.parts.days] * config.parts.days
    return [Part(name, count) for name, count in zip(part_names(config, sources), rows, strict=True)]


def part_names(config: PreprocessConfig, sources: Sequence[Source]) -> list[str]:
    """The names of the parts, in order."""
    if isinstance(config.parts, EqualParts):
        return [f"day_{day}" for day in range(config.parts.days)]
    return [source.file.part for source in sources]


def check_split(split: PartSplit, parts: Sequence[Part]) -> None:
    """Find mistakes in a split before hours of work, when it is only roughly known how many rows there are.

    Raises:
        ConfigError: the split is wrong however many rows the parts have.
    """
    with suppress(ConfigError):
        resolve_split(split, parts, "split")
        return
    try:
        resolve_split(split, [Part(part.name, _MANY_ROWS) for part in parts], "split")
    except ConfigError as error:
        raise ConfigError([replace(p, message=_without_made_up_rows(p.message)) for p in error.problems]) from None


def _without_made_up_rows(message: str) -> str:
    """What is wrong with a split, without the numbers of rows that nobody has counted yet."""

    def known(match: re.Match[str]) -> str:
        return "rows of" if max(int(match[1]), int(match[2])) >= _MADE_UP else match[0]

    message = re.sub(r"rows (\d+) \.\. (\d+) of", known, message)
    return message.replace(f", which has {_MANY_ROWS}", ", which it cannot have")


def _parts(job: JobContext, file_rows: list[int]) -> list[Part]:
    config = job.config.parts
    names = part_names(job.config, job.sources)
    if not isinstance(config, EqualParts):
        return [Part(name, rows) for name, rows in zip(names, file_rows, strict=True)]
    total = sum(file_rows)
    if config.days > total:
        raise ConfigError.at("parts.days", f"is {config.days}, but there are {total} rows only")
    return [Part(name, total // config.days + (day < total % config.days)) for day, name in enumerate(names)]


def _no_row(job: JobContext, skipped: int) -> DataError:
    """Why nothing is left, by the first rows of the first file."""
    source = job.sources[0].file
    if not skipped:
        return DataError(source.path, "there is no row in any file", hint="check input")
    text = next(text_chunks(source, _LOOKED_AT_BYTES, lambda chunk: chunk == 0))
    errors = malformed_lines(text.lines, job.config, source.path)
    causes = Counter(error.column or "number of columns" for error in errors)
    counts = ", ".join(f"{cause} in {count:,}" for cause, count in causes.most_common())
    problem = (
        f"all {skipped:,} rows are malformed and were left out (bad_rows: skip): {counts} of the first {len(errors):,}"
    )
    first = errors[0]
    return DataError(source.path, f"{problem}; row {first.row}: {first.problem}", hint=first.hint)
