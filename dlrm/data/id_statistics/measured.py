"""What a sample of a feature's ids tells of all of them.

- Different ids among m lookups: the expectation over all choices of m of the N sampled ones (rarefaction, Hurlbert 1971),
  which needs no assumption. Beyond N, by how many ids were seen once and twice (Chao 1984; Colwell et al. 2012, eq. 9).
  That is too few where ids follow a power law: by some percent at 2 N, by a tenth to a fifth at 5 N.
- Share of the hottest rows: the rows that are hottest in one half of the sample, in the other half. (In the same half they
  would be too hot: of a uniform table every sampled id looks hotter than all others.) Rows that were not seen share what
  the seen ones leave over by a power law that begins with the share of those that were seen once. That is too little
  where a table has far more rows than the sample has ids, by up to a tenth of all lookups.
- Share of ranges of rows: the hottest rows at their places, the others by counts of equal parts of the table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dlrm.data.id_statistics.base import row_ranges

HOTTEST = 64
"""Rows whose places are kept."""
BUCKETS = 1024
"""Equal parts of the table that the other rows are counted in."""
_KNOTS = 64
_STEEPEST = 5.0  # of power laws
_LARGE_SHARE = 0.01  # of all lookups; below it a logarithm is taken in the middle of its sum


@dataclass(frozen=True)
class MeasuredIds:
    """How the ids of one feature are spread, by a sample of them.

    Attributes:
        name: of the feature; rows: of its table.
        samples, lookups: that were looked at; seen: different ids among them.
        once, twice: ids that were seen so often.
        hot_rows, hot_counts: the hottest rows, the hottest first, and their lookups.
        distinct_lookups, distinct_ids: knots of the expected number of different ids, on a logarithmic scale.
        cache_rows, cache_shares: knots of the share of lookups that the so many hottest rows get.
        bucket_counts: lookups of the rows but the hottest, by equal parts of the table.
    """

    name: str
    rows: int
    samples: int
    lookups: int
    seen: int
    once: int
    twice: int
    hot_rows: tuple[int, ...]
    hot_counts: tuple[int, ...]
    distinct_lookups: tuple[int, ...]
    distinct_ids: tuple[float, ...]
    cache_rows: tuple[int, ...]
    cache_shares: tuple[float, ...]
    bucket_counts: tuple[int, ...]

    @property
    def ids_per_sample(self) -> float:
        """Mean number of ids of a sample."""
        return self.lookups / self.samples

    def distinct(self, lookups: float) -> float:
        """The expected number of different ids among so many lookups."""
        if not self.lookups or lookups <= 1:
            return max(0.0, min(1.0, lookups))
        if lookups > self.lookups:
            return self._beyond(lookups - self.lookups)
        knots = np.log(self.distinct_lookups), np.log(self.distinct_ids)
        return float(np.exp(np.interp(math.log(lookups), *knots)))

    def _beyond(self, further: float) -> float:
        unseen = self.once * (self.once - 1) / (2 * (self.twice + 1))  # Chao's estimate, corrected for small numbers
        unseen = min(unseen, self.rows - self.seen)
        if unseen <= 0:
            return float(self.seen)
        rate = self.once / (self.lookups * unseen + self.once)
        return self.seen - unseen * math.expm1(further * math.log1p(-min(rate, 1 - 1e-12)))

    def hot_share(self, fraction: float) -> float:
        """Share of the lookups that find their row among the hottest ``fraction`` (0 .. 1) of the table's rows."""
        if not self.lookups:
            return fraction
        hottest = min(1.0, fraction) * self.rows
        if hottest < 1:
            return hottest * self.cache_shares[0]
        return float(np.interp(math.log(hottest), np.log(self.cache_rows), self.cache_shares))

    def row_range_shares(self, rows: int, ranks: int) -> list[float]:
        """Share of the lookups that falls to each rank of row-wise sharding; they add up to 1.

        By how much ranges differ is made less by what chance alone makes it in a sample of this size.

        Args:
            rows: of the table; another number than it has stretches the table.
            ranks: rank r has rows r * ceil(rows / ranks) and on, as many as that.
        """
        edges_R = np.array(row_ranges(rows, ranks)) * (self.rows / rows)
        if not self.lookups:
            return [float(width) / self.rows for width in np.diff(edges_R)]
        owner_K = np.searchsorted(edges_R[1:-1], np.array(self.hot_rows) + 0.5)
        counts_K = np.array(self.hot_counts)
        hot_K = self._more_than_chance(counts_K)
        hot_R = np.bincount(owner_K[hot_K], counts_K[hot_K], minlength=ranks)
        rows_R = np.maximum(np.diff(edges_R) - np.bincount(owner_K[hot_K], minlength=ranks), 0)
        others_R = self._in_buckets(edges_R) + np.bincount(owner_K[~hot_K], counts_K[~hot_K], minlength=ranks)
        return [float(count) / self.lookups for count in hot_R + _without_chance(others_R, rows_R)]

    def _more_than_chance(self, counts_K: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which rows have more lookups than the luckiest of so many alike rows, but for one time in a hundred.

        Chernoff's bound for a Poisson number of mean u: P(c or more) <= exp(c - u - c ln(c / u)).
        """
        rest = max(sum(self.bucket_counts), 1) / max(self.rows - len(counts_K), 1)
        bound_K: NDArray[np.bool_] = counts_K * np.log(np.maximum(counts_K / rest, 1)) - np.maximum(
            counts_K - rest, 0
        ) > math.log(100 * self.rows)
        return bound_K

    def _in_buckets(self, edges_R: NDArray[np.float64]) -> NDArray[np.float64]:
        """Lookups of the rows but the hottest in each range."""
        buckets = len(self.bucket_counts)
        starts_B = [-(-bucket * self.rows // buckets) for bucket in range(buckets + 1)]
        below_B = np.concatenate([[0], np.cumsum(self.bucket_counts)])
        found_R: NDArray[np.float64] = np.diff(np.interp(edges_R, starts_B, below_B))
        return found_R


def _without_chance(counts_R: NDArray[np.float64], rows_R: NDArray[np.float64]) -> NDArray[np.float64]:
    """Counts of ranges of so many rows, nearer to even by what chance alone makes them differ (James and Stein 1961)."""
    if not counts_R.sum() or not rows_R.sum():
        return counts_R
    even_R: NDArray[np.float64] = counts_R.sum() * rows_R / rows_R.sum()
    counted_R = even_R > 0
    spread = float(((counts_R - even_R)[counted_R] ** 2 / even_R[counted_R]).sum())
    kept = max(0.0, 1 - (int(counted_R.sum()) - 1) / spread) if spread > 0 else 0.0
    nearer_R: NDArray[np.float64] = even_R + kept * (counts_R - even_R)
    return nearer_R


def measure_ids(name: str, rows: int, ids_M: NDArray[np.integer], samples_M: NDArray[np.integer]) -> MeasuredIds:
    """Look at ids.

    Args:
        name: of the feature.
        rows: of its table; ids that are none of its rows are left out.
        ids_M: of some samples.
        samples_M: number of the sample that each is of, ascending from 0.
    """
    samples = int(samples_M[-1]) + 1 if len(samples_M) else 0
    inside_M = (ids_M >= 0) & (ids_M < rows)
    ids_M, odd_M = ids_M[inside_M], samples_M[inside_M] % 2 == 1
    halves = [np.unique(ids_M[half_M], return_counts=True) for half_M in (~odd_M, odd_M)]
    ids_D, counts_D = _merged(*halves)
    hot_D = np.argsort(-counts_D, kind="stable")[:HOTTEST]
    cold_D = np.ones(len(ids_D), bool)
    cold_D[hot_D] = False
    buckets = min(rows, BUCKETS)
    bucket_D = ids_D[cold_D].astype(np.int64) * buckets // rows
    counts_B = np.bincount(bucket_D, counts_D[cold_D], minlength=buckets)
    distinct = _distinct_knots(counts_D)
    cache = _cache_knots(rows, *halves)
    return MeasuredIds(
        name=name,
        rows=rows,
        samples=samples,
        lookups=len(ids_M),
        seen=len(ids_D),
        once=int((counts_D == 1).sum()),
        twice=int((counts_D == 2).sum()),
        hot_rows=tuple(ids_D[hot_D].tolist()),
        hot_counts=tuple(counts_D[hot_D].tolist()),
        distinct_lookups=tuple(distinct),
        distinct_ids=tuple(distinct.values()),
        cache_rows=tuple(cache),
        cache_shares=tuple(cache.values()),
        bucket_counts=tuple(counts_B.astype(np.int64).tolist()),
    )


Counts = tuple[NDArray[np.integer], NDArray[np.int64]]
"""Different ids, ascending, and how often each occurs."""


def _merged(first: Counts, second: Counts) -> Counts:
    ids_D, place = np.unique(np.concatenate([first[0], second[0]]), return_inverse=True)
    return ids_D, np.bincount(place, np.concatenate([first[1], second[1]]), len(ids_D)).astype(np.int64)


def _distinct_knots(counts_D: NDArray[np.int64]) -> dict[int, float]:
    """Lookups -> expected number of different ids among them, from 1 to all lookups."""
    total = int(counts_D.sum())
    if not total:
        return {}
    count_C, ids_C = np.unique(counts_D, return_counts=True)
    lookups = np.unique(np.geomspace(1, total, _KNOTS).round().astype(np.int64))
    return {int(m): float((ids_C * (1 - _missed(count_C, total, int(m)))).sum()) for m in lookups}


def _missed(count_C: NDArray[np.int64], total: int, lookups: int) -> NDArray[np.float64]:
    """The probability that an id with so many of all lookups is in none of ``lookups`` chosen ones.

    It is the product of 1 - m / (N - j) over j = 0 .. c - 1, or C(N - c, m) / C(N, m).
    """
    missed_C = np.zeros(len(count_C))
    small_C = count_C <= _LARGE_SHARE * total
    possible_C = lookups < total - count_C + 1
    count_S = count_C[small_C & possible_C].astype(np.float64)
    missed_C[small_C & possible_C] = np.exp(count_S * np.log1p(-lookups / (total - (count_S - 1) / 2)))
    count_L = count_C[~small_C & possible_C].astype(np.float64)
    logs = _log_factorial(total - count_L) - _log_factorial(total - count_L - lookups)
    logs += _log_factorial(np.array(float(total - lookups))) - _log_factorial(np.array(float(total)))
    missed_C[~small_C & possible_C] = np.exp(logs)
    return missed_C


def _log_factorial(number: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = torch.lgamma(torch.from_numpy(np.asarray(number)) + 1).numpy()
    return found


def _cache_knots(rows: int, first: Counts, second: Counts) -> dict[int, float]:
    """Hottest rows -> share of the lookups that they get, from 1 to all rows."""
    hottest = np.unique(np.geomspace(1, rows, _KNOTS).round().astype(np.int64))
    if not len(first[0]) or not len(second[0]):  # of one sample nothing is to be had
        return {int(k): float(k / rows) for k in hottest}
    shares = (_found_again(rows, hottest, *pair) for pair in ((first, second), (second, first)))
    mean = np.maximum.accumulate(sum(shares) / 2)
    return {int(k): float(share) for k, share in zip(hottest, mean, strict=True)}


def _found_again(rows: int, hottest: NDArray[np.int64], known: Counts, other: Counts) -> NDArray[np.float64]:
    """Share of the other half's lookups that the so many hottest rows of the known half get."""
    place = np.minimum(np.searchsorted(known[0], other[0]), len(known[0]) - 1)
    same = known[0][place] == other[0]
    shares_D = np.zeros(len(known[0]))
    shares_D[place[same]] = other[1][same] / other[1].sum()
    found = np.concatenate([[0], np.cumsum(shares_D[np.argsort(-known[1], kind="stable")])])
    seen = len(known[0])
    once_D = known[1] == 1
    coldest = float(shares_D[once_D].mean()) if once_D.any() else 0.0
    beyond = (1 - found[-1]) * _tail(np.maximum(hottest, seen), seen, rows, steepest=coldest, mass=1 - found[-1])
    shares: NDArray[np.float64] = found[np.minimum(hottest, seen)] + beyond
    return shares


def _tail(ranks: NDArray[np.int64], first: int, last: int, *, steepest: float, mass: float) -> NDArray[np.float64]:
    """Part of the mass of ranks first + 1 .. last that lies in first + 1 .. rank, as of a power law.

    Args:
        ranks: from ``first`` to ``last``.
        first: the rank before the tail.
        last: of the tail.
        steepest: share that each rank up to ``first`` has, from which the law falls so that its mass is right. Where even a
            law that does not fall has less, it does not.
        mass: of the tail.
    """
    if last <= first:
        return np.zeros(len(ranks))
    low, high = 0.0, _STEEPEST
    if steepest * (last - first) <= mass:
        high = 0.0
    while high - low > 1e-4:  # the steeper the law, the less its mass
        middle = (low + high) / 2
        low, high = (middle, high) if steepest * float(_below(last, first, middle)) > mass else (low, middle)
    part: NDArray[np.float64] = _below(ranks, first, low) / _below(last, first, low)
    return part


def _below(rank: NDArray[np.int64] | int, first: int, exponent: float) -> NDArray[np.float64]:
    """The integral of (x / first)^-exponent from ``first`` to ``rank``."""
    width, rest = np.log(np.asarray(rank, np.float64) / first), 1 - exponent
    area: NDArray[np.float64] = first * (width if abs(rest) < 1e-9 else np.expm1(rest * width) / rest)
    return area
