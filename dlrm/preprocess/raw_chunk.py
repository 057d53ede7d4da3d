"""A chunk of parsed rows in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dlrm.preprocess.records import Words


@dataclass(frozen=True)
class ChunkCounts:
    """What was counted in a chunk.

    Attributes:
        rows: parsed rows, M; clicks: those with label 1; skipped_rows: malformed rows that were left out.
        missing: empty fields by column, all of ``int_0`` .. and ``cat_0`` .., in file order.
    """

    rows: int
    clicks: int
    missing: dict[str, int]
    skipped_rows: int

    def __add__(self, other: ChunkCounts) -> ChunkCounts:
        return ChunkCounts(
            rows=self.rows + other.rows,
            clicks=self.clicks + other.clicks,
            missing={name: count + other.missing[name] for name, count in self.missing.items()},
            skipped_rows=self.skipped_rows + other.skipped_rows,
        )


@dataclass(frozen=True)
class RawChunk:
    """M parsed rows.

    Attributes:
        records_MW: uint32 (M, W), the rows, numbered from 0 on; in order, unless ``is_placed``.
        first_line: which line of its file the chunk begins with, from 0 on.
        skipped_lines: int64 (S,), ascending, lines of the chunk, counted from its first one, that were left out.
        counts: the rows, clicks and empty fields of the above.
        is_placed: whether each row is where it was to be placed, as no line was left out.
    """

    records_MW: Words
    first_line: int
    skipped_lines: npt.NDArray[np.int64]
    counts: ChunkCounts
    is_placed: bool = False

    @classmethod
    def joined(cls, chunks: list[RawChunk]) -> RawChunk:
        """Neighbouring chunks as one, whose records are those of the first one if there are no others."""
        first, *others = chunks
        if not others:
            return first
        records_MW = np.concatenate([chunk.records_MW for chunk in chunks])
        records_MW[:, 0] = np.arange(len(records_MW), dtype=np.uint32)
        counts = first.counts
        for chunk in others:
            counts += chunk.counts
        skipped = [chunk.skipped_lines + chunk.first_line - first.first_line for chunk in chunks]
        return cls(records_MW, first.first_line, np.concatenate(skipped), counts)

    def lines(self) -> npt.NDArray[np.int64]:
        """int64 (M,), which line of its file each row is."""
        return lines_of(np.arange(self.counts.rows), self.first_line, self.skipped_lines)


def lines_of(
    rows: npt.NDArray[np.integer], first_line: int, skipped_lines: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Which lines of their file rows of a chunk are, int64; arguments as in :class:`RawChunk`."""
    before_S = skipped_lines - np.arange(len(skipped_lines))  # the rows before each skipped line
    return first_line + rows.astype(np.int64) + np.searchsorted(before_S, rows, side="right")
