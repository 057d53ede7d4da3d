"""Where every row comes from and where it goes, once the rows of every chunk have been counted.

Terms:
    row: the place of a row among all rows of all files, in order; chunks and parts are ranges of rows.
    run: neighbouring training rows of a part. The *place* of a training row is its number among the training rows only.
    piece: rows of a part that are written at one time. A *copy* takes rows of one chunk to where they stand in the
        sequence of all rows; a *draw* takes training rows from a bucket of the shuffle.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dlrm.data.packed.split import Part, ResolvedSplit


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


Piece = Copy | Draw


class RowMap:
    """How chunks, parts and training rows overlap.

    Args:
        chunks: in order, without gaps.
        parts: in order; together they have the rows of the chunks.
        split: which rows are for what.
        bucket_rows: 0 if no row is shuffled.

    Attributes:
        runs: the training rows, by place.
        shuffled: whether they are shuffled.
    """

    def __init__(self, chunks: Sequence[Chunk], parts: Sequence[Part], split: ResolvedSplit, bucket_rows: int) -> None:
        self.chunks, self.parts = tuple(chunks), tuple(parts)
        self._chunk_starts = [chunk.rows.start for chunk in chunks]
        ends = list(itertools.accumulate(part.rows for part in parts))
        self._part_rows = {part.name: Rows(end - part.rows, end) for part, end in zip(parts, ends, strict=True)}
        self.runs = tuple(self._training(split))
        self.shuffled = bucket_rows > 0 and bool(self.runs)

    @property
    def training_rows(self) -> int:
        """Number of training rows."""
        return sum(len(run.rows) for run in self.runs)

    def training(self, rows: Rows) -> Iterator[tuple[Rows, int]]:
        """The training rows among ``rows``: stretches of them, each with the place of its first row."""
        for run in self.runs:
            common = run.rows & rows
            if len(common):
                yield common, run.first + common.start - run.rows.start

    def is_mixed(self, chunk: Chunk) -> bool:
        """Whether some rows of a chunk are training rows and some are not."""
        return 0 < sum(len(found) for found, _ in self.training(chunk.rows)) < len(chunk.rows)

    def draws(self, bucket_rows: Sequence[int]) -> list[Draw]:
        """Which training rows of each bucket go where; ``bucket_rows`` is how many each of them has."""
        found: list[Draw] = []
        end = 0
        for bucket, count in enumerate(bucket_rows):
            here, end = Rows(end, end + count), end + count
            for run in self.runs:
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
        runs = [run.rows for run in self.runs if run.part == part] if self.shuffled else []
        start = here.start
        for rows in sorted(runs, key=lambda rows: rows.start):
            yield Rows(start, rows.start)
            start = rows.stop
        yield Rows(start, here.stop)

    def _overlapping(self, rows: Rows) -> Iterator[Chunk]:
        place = max(0, bisect_right(self._chunk_starts, rows.start) - 1)
        return itertools.takewhile(lambda chunk: chunk.rows.start < rows.stop, self.chunks[place:])
