"""What each feature says of a label on its own, and all of them together under the pretence that they are independent.

Of an id it is the log-odds of the label among the samples that have it, less those of all samples; of a number the same by
the bucket that it falls into. Samples are scored by the rates of *other* samples, because an id that occurs once tells its
own sample's label perfectly and nobody else's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dlrm.diagnose.sample import Ints, SampledRows

BUCKETS = 64
_PRIOR_SAMPLES = 20.0  # with the rate of all, added to those that have an id: a rare one says little

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Values:
    """The values of one column: K codes and the sample of each; a dense column has one code a sample, its bucket."""

    column: str
    code_K: Ints
    sample_K: Ints


def auc(scores_M: NDArray[np.floating], labels_M: NDArray[np.floating]) -> float | None:
    """Area under the ROC curve, ties counting one half (Mann-Whitney: mean ranks); None with a single class."""
    positive_M = labels_M > 0.5
    positives = int(positive_M.sum())
    negatives = len(labels_M) - positives
    if not positives or not negatives:
        return None
    _, place_M, count = np.unique(scores_M, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    rank_M = (last - (count - 1) / 2)[place_M]
    return float((rank_M[positive_M].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def auc_deviation(labels_M: NDArray[np.floating]) -> float:
    """Standard deviation of the AUC of scores that have nothing to do with the labels: sqrt((P + N + 1) / (12 P N)).

    The variance of Mann-Whitney's U under the hypothesis that all orders are equally likely (Mann and Whitney 1947).
    """
    positives = float((labels_M > 0.5).sum())
    negatives = len(labels_M) - positives
    return math.sqrt((positives + negatives + 1) / (12 * positives * negatives)) if positives and negatives else 0.5


def values_of(rows: SampledRows, edges: dict[str, NDArray[np.float32]] | None = None) -> list[Values]:
    """Every column's values as codes: ids, and the buckets of numbers.

    Args:
        rows: samples.
        edges: of the buckets of each dense column; by default those of ``rows``.
    """
    edges = bucket_edges(rows) if edges is None else edges
    found = []
    for n, column in enumerate(rows.schema.dense):
        code_M = np.searchsorted(edges[column], rows.dense_MN[:, n], side="left")
        found.append(Values(column, code_M, np.arange(len(rows))))
    for f, feature in enumerate(rows.schema.sparse):
        ids_K, sample_K = rows.bags(f)
        found.append(Values(feature.name, ids_K, sample_K))
    return found


def bucket_edges(rows: SampledRows) -> dict[str, NDArray[np.float32]]:
    """Ascending edges of each dense column's buckets: of each value where there are few, else equally full ones."""
    found = {}
    for n, column in enumerate(rows.schema.dense):
        distinct = np.unique(rows.dense_MN[:, n])
        if len(distinct) > BUCKETS:
            distinct = np.unique(np.quantile(rows.dense_MN[:, n], np.arange(1, BUCKETS) / BUCKETS, method="lower"))
        found[column] = distinct
    return found


def scores(
    values: Values, labels_M: Floats, *, of: Values | None = None, samples: int | None = None
) -> NDArray[np.float64]:
    """What one column says of each sample's label, in log-odds, 0 for nothing.

    Args:
        values: whose samples' labels are known.
        labels_M: of these; NaN: missing, which counts nowhere.
        of: other samples' values, to be scored; by default those of ``values``, each by the other half of them.
        samples: number of the samples of ``of``.
    """
    if of is None:
        half_M = np.random.default_rng(0).permutation(len(labels_M)) % 2
        found_M = np.zeros(len(labels_M))
        for half in (0, 1):
            given_M = np.where(half_M == half, labels_M, np.nan)
            found_M += np.where(half_M == half, 0.0, scores(values, given_M, of=values, samples=len(labels_M)))
        return found_M
    label_K = labels_M[values.sample_K]
    known_K = ~np.isnan(label_K)
    codes, place_K = np.unique(values.code_K[known_K], return_inverse=True)
    count = np.bincount(place_K, minlength=len(codes))
    clicks = np.bincount(place_K, weights=label_K[known_K], minlength=len(codes))
    prior = float(np.nanmean(labels_M)) if len(codes) else 0.5
    if not 0 < prior < 1:
        return np.zeros(samples or 0)
    rate = (clicks + _PRIOR_SAMPLES * prior) / (count + _PRIOR_SAMPLES)
    odds = np.log(rate / (1 - rate)) - math.log(prior / (1 - prior))
    at_K = np.minimum(np.searchsorted(codes, of.code_K), max(0, len(codes) - 1))
    known = codes[at_K] == of.code_K if len(codes) else np.zeros(len(of.code_K), bool)
    weight_K = np.where(known, odds[at_K] if len(codes) else 0.0, 0.0)
    size = np.bincount(of.sample_K, minlength=samples or 0)
    return np.asarray(np.bincount(of.sample_K, weights=weight_K, minlength=samples or 0) / np.maximum(size, 1))
