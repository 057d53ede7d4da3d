"""Means over seeds with their standard error, and paired differences between arms.

Runs of two arms with the same seed share the order of the samples, so their difference varies less than the runs do: what
is compared is the mean of the differences, with the standard error of that mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

BETTER, WORSE, NOISE, UNKNOWN = "better", "worse", "noise", "unknown"
ERRORS = 2.0  # standard errors within which a difference is noise


@dataclass(frozen=True)
class Estimate:
    """A mean.

    Attributes:
        mean: of the values; count: how many, n.
        error: standard error of the mean, s / sqrt(n) with s^2 = sum (x - mean)^2 / (n - 1); None of one value.
    """

    mean: float
    error: float | None
    count: int


@dataclass(frozen=True)
class Difference:
    """Of an arm from the one that it is compared with.

    Attributes:
        pairs: the difference of each seed; estimate: their mean and its standard error; threshold: below which it is noise.
        verdict: better, worse, noise; unknown of a single pair, which has no standard error.
    """

    pairs: Sequence[float]
    estimate: Estimate
    threshold: float
    verdict: str


def estimate(values: Sequence[float]) -> Estimate | None:
    """Of values; None of none."""
    if not values:
        return None
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Estimate(fmean(values), error, len(values))


def paired(
    values: Mapping[int, float], others: Mapping[int, float], *, noise: float, smaller_is_better: bool
) -> Difference | None:
    """How an arm differs from another over the seeds that both have; None if they share none.

    Args:
        values: of the arm, by seed.
        others: of the one that it is compared with.
        noise: a difference below this is noise whatever its error.
        smaller_is_better: as of a loss.
    """
    pairs = [values[seed] - others[seed] for seed in values if seed in others]
    if (found := estimate(pairs)) is None:
        return None
    threshold = max(noise, ERRORS * (found.error or 0.0))
    if found.error is None:
        return Difference(pairs, found, threshold, UNKNOWN)
    if abs(found.mean) <= threshold:
        return Difference(pairs, found, threshold, NOISE)
    return Difference(pairs, found, threshold, BETTER if (found.mean < 0) == smaller_is_better else WORSE)
