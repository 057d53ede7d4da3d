"""Ids that follow a power law: the id of rank r of n has probability r^-s / sum of k^-s for k = 1 .. n (Zipf's law)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dlrm.data.id_statistics.base import row_ranges

_EXACT_TERMS = 1000  # of the generalised harmonic numbers; the rest is an integral
_BINS_PER_OCTAVE = 32  # of the ranks beyond; probabilities of a bin differ by a 32nd of s octaves


def partial_sums(exponent: float, terms: ArrayLike) -> NDArray[np.float64]:
    """The sum of r^-exponent over r = 1 .. terms, for each number of terms; the tail by the Euler-Maclaurin formula."""
    terms_T = np.asarray(terms, np.float64)
    head = np.concatenate([[0.0], np.cumsum(np.arange(1, _EXACT_TERMS + 1, dtype=np.float64) ** -exponent)])
    total_T = head[np.minimum(terms_T, _EXACT_TERMS).astype(np.int64)]
    first, last_T = float(_EXACT_TERMS), np.maximum(terms_T, _EXACT_TERMS)
    rest = 1 - exponent
    width_T = np.log(last_T / first)
    integral_T = width_T if abs(rest) < 1e-9 else first**rest * np.expm1(rest * width_T) / rest
    ends_T = (last_T**-exponent - first**-exponent) / 2 - exponent * (
        last_T ** (-exponent - 1) - first ** (-exponent - 1)
    ) / 12
    sums_T: NDArray[np.float64] = total_T + integral_T + ends_T
    return sums_T


@dataclass(frozen=True)
class PowerLawIds:
    """Ids of a power law, of which the hottest row is the first of the table, the second hottest the second, and so on.

    So it is where vocabularies are in order of frequency, and with the Zipf ids of random data.

    Attributes:
        rows: of the table.
        exponent: s, at least 0; 0 is uniform, Criteo's columns have 1 to 1.3.
        ids_per_sample: mean number of ids of a sample; they are independent.
    """

    rows: int
    exponent: float
    ids_per_sample: float = 1.0

    def distinct(self, lookups: float) -> float:
        """The sum of 1 - (1 - p)^m over all rows, for m lookups."""
        if lookups <= 0:
            return 0.0
        count_B, probability_B = self._bins
        with np.errstate(divide="ignore"):  # the logarithm of 0 where a table has one row
            missed_B = np.expm1(lookups * np.log1p(-probability_B))
        return min(float(lookups), float(-(count_B * missed_B).sum()))

    def hot_share(self, fraction: float) -> float:
        """The law's share of the first ranks; between two ranks, in proportion."""
        rank = min(1.0, fraction) * self.rows
        below, above = partial_sums(self.exponent, [np.floor(rank), min(np.floor(rank) + 1, self.rows)])
        return float((below + (above - below) * (rank - np.floor(rank))) / self._total)

    def row_range_shares(self, rows: int, ranks: int) -> list[float]:
        """The law's share of each range of ranks."""
        ranges = np.array(row_ranges(rows, ranks))
        sums = partial_sums(self.exponent, np.round(ranges * (self.rows / rows))) / self._total
        return [float(stop - start) for start, stop in pairwise(sums)]

    @cached_property
    def _total(self) -> float:
        return float(partial_sums(self.exponent, self.rows))

    @cached_property
    def _bins(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Ranks in order, alike ones together: how many they are, and the mean probability of each."""
        singles = np.arange(0, min(self.rows, _EXACT_TERMS) + 1, dtype=np.float64)
        octaves = np.log2(self.rows / _EXACT_TERMS) if self.rows > _EXACT_TERMS else 0.0
        wider = np.geomspace(_EXACT_TERMS, self.rows, 2 + int(octaves * _BINS_PER_OCTAVE)) if octaves else singles[-1:]
        edges = np.unique(np.concatenate([singles, np.round(wider)]))
        count_B = np.diff(edges)
        return count_B, np.diff(partial_sums(self.exponent, edges)) / count_B / self._total
