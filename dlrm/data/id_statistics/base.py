"""What there is to ask of the ids of a feature, and the answer where nothing is known of them: they are uniform."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol


class IdStatistics(Protocol):
    """How the ids of one feature are spread over its table."""

    @property
    def rows(self) -> int:
        """Of the table."""

    @property
    def ids_per_sample(self) -> float:
        """Mean number of ids of a sample: the pooling factor."""

    def distinct(self, lookups: float) -> float:
        """The expected number of different ids among so many lookups."""

    def hot_share(self, fraction: float) -> float:
        """Share of the lookups that find their row among the hottest ``fraction`` (0 .. 1) of the table's rows."""

    def row_range_shares(self, rows: int, ranks: int) -> list[float]:
        """Share of the lookups that falls to each rank of row-wise sharding; they add up to 1.

        Args:
            rows: of the table; another number than it has stretches the table.
            ranks: rank r has rows r * ceil(rows / ranks) and on, as many as that; the last ones may have fewer or none.
        """


def row_ranges(rows: int, ranks: int) -> list[int]:
    """Where the ranges of row-wise sharding begin, and the end of the last one; ranks + 1 rows."""
    size = -(-rows // ranks)
    return [min(rank * size, rows) for rank in range(ranks + 1)]


def imbalance(shares: Sequence[float]) -> float:
    """The largest share over the mean: 1 where all ranks have the same work, the number of ranks where one has all."""
    return max(shares) * len(shares) / sum(shares)


@dataclass(frozen=True)
class UniformIds:
    """Every row is as likely as any other.

    Attributes:
        rows: of the table; ids_per_sample: mean number of ids of a sample.
    """

    rows: int
    ids_per_sample: float = 1.0

    def distinct(self, lookups: float) -> float:
        """For m lookups in n rows, n (1 - (1 - 1/n)^m)."""
        if self.rows == 1:
            return min(1.0, lookups)
        return -self.rows * math.expm1(lookups * math.log1p(-1 / self.rows))

    def hot_share(self, fraction: float) -> float:
        """The fraction itself."""
        return fraction

    def row_range_shares(self, rows: int, ranks: int) -> list[float]:
        """Rows of each rank over all rows."""
        return [(stop - start) / rows for start, stop in pairwise(row_ranges(rows, ranks))]
