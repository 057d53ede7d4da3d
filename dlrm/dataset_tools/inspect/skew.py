"""How unevenly the ids of a column occur."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrm.data.id_statistics.power_law import partial_sums

_LARGEST_EXPONENT = 20.0
_CURVE_POINTS = 200


@dataclass(frozen=True)
class Skew:
    """How often the distinct ids of a column occur.

    Attributes:
        occurrences: ids in all; distinct: different ones.
        top: share of the most frequent id.
        top_percent: share of the most frequent 1 % of the distinct ids (rounded up).
        entropy_bits: of the id of an occurrence chosen at random.
        zipf_exponent: s of the Zipf distribution, P(id of rank r) proportional to r^-s for r = 1 .. distinct, under which
            the counts are most likely; None with fewer than two distinct ids.
        curve: ranks and counts at up to 200 ranks, evenly spread on a logarithmic scale.
    """

    occurrences: int
    distinct: int
    top: float
    top_percent: float
    entropy_bits: float
    zipf_exponent: float | None
    curve: tuple[NDArray[np.int64], NDArray[np.int64]]

    @property
    def effective_ids(self) -> float:
        """The number of equally frequent ids that would have the same entropy."""
        return float(2.0**self.entropy_bits)


def skew_of(counts: NDArray[np.int64]) -> Skew:
    """Describe counts.

    Args:
        counts: how often each distinct id occurs, positive, in any order; at least one.
    """
    counts_D = np.sort(counts)[::-1]
    total, distinct = int(counts_D.sum()), len(counts_D)
    share_D = counts_D / total
    ranks = np.unique(np.geomspace(1, distinct, _CURVE_POINTS).round().astype(np.int64))
    return Skew(
        occurrences=total,
        distinct=distinct,
        top=float(share_D[0]),
        top_percent=float(share_D[: -(-distinct // 100)].sum()),
        entropy_bits=max(0.0, -float((share_D * np.log2(share_D)).sum())),
        zipf_exponent=_zipf_exponent(share_D) if distinct > 1 else None,
        curve=(ranks, counts_D[ranks - 1]),
    )


def value_counts(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The distinct values, ascending, and how often each occurs. Sorts ``values`` in place; at least one."""
    values.sort()
    first = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    return values[first], np.diff(first, append=len(values))


def _zipf_exponent(share_D: NDArray[np.float64]) -> float:
    """The exponent of highest likelihood: log L(s) / n = -s * mean(ln rank) - ln H(distinct, s), concave in s."""
    distinct = len(share_D)
    mean_log_rank = float((share_D * np.log(np.arange(1, distinct + 1))).sum())
    low, high = 0.0, _LARGEST_EXPONENT
    while high - low > 1e-6:  # ternary search
        third = (high - low) / 3
        left, right = low + third, high - third
        if -left * mean_log_rank - log_harmonic(distinct, left) < -right * mean_log_rank - log_harmonic(
            distinct, right
        ):
            low = left
        else:
            high = right
    return (low + high) / 2


def log_harmonic(terms: int, exponent: float) -> float:
    """The logarithm of the sum of r^-exponent over r = 1 .. terms."""
    return math.log(float(partial_sums(exponent, terms)))
