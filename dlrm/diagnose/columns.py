"""What can be wrong with features, whatever the labels are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np

from dlrm.diagnose.finding import Finding, named, percent
from dlrm.diagnose.sample import SampledRows
from dlrm.format import escaped
from dlrm.schema import SparseFeature

LARGEST_DEVIATION = 100.0
"""A logarithm of counts up to 10^9 deviates by 5 at most, a standardised column by 1. An MLP's first layer is drawn for
inputs of about 1 (N(0, 2 / (m + n)) in the DLRM paper): at 100 its outputs and gradients are 100 times too large."""
LARGEST_KURTOSIS = 200.0
"""Of a normal distribution it is 3, of an exponential one 9. At 200 the largest values are tens of deviations away."""
_FAR = 50.0  # deviations, from which on a heavy tail hurts
LARGEST_RATIO = 1000.0
"""Between the deviations of two columns: the small one has no say until its weights have grown by as much."""
DOMINANCE = 5.0
"""How many times as frequent as every other an id is that looks like a stand-in: by Zipf's law the first has twice the
occurrences of the second."""
_DOMINANT_SHARE = 0.2
_LEAST_ROWS = 1000
_UNIQUE = 0.999


def judge_columns(rows: SampledRows, *, reserved: Mapping[str, frozenset[int]], samples: int) -> Iterator[Finding]:
    """What is wrong with the features of the training samples.

    Args:
        rows: those that were looked at.
        reserved: by feature the ids that are known to stand for a missing or an unseen value and for nothing else.
        samples: of the whole split.
    """
    if len(rows) < _LEAST_ROWS:
        return
    yield from _without_information(rows, samples)
    yield from _scales(rows)
    yield from _nulls(rows)
    yield from _stand_ins(rows, reserved)


def _without_information(rows: SampledRows, samples: int) -> Iterator[Finding]:
    constant = [
        column for n, column in enumerate(rows.schema.dense) if (rows.dense_MN[:, n] == rows.dense_MN[0, n]).all()
    ]
    unique = []
    for f, feature in enumerate(rows.schema.sparse):
        ids_K, _ = rows.bags(f)
        distinct = len(np.unique(ids_K))
        if distinct == 1:
            constant.append(feature.name)
        elif _is_unique(feature, distinct, len(rows), samples):
            unique.append(feature.name)
    if constant:
        yield Finding(
            "constant_feature",
            f"{named(constant)} {'has' if len(constant) == 1 else 'have'} the same value in all of {len(rows):,} training "
            "samples",
            "see whether the column was read, or leave it out",
        )
    if unique:
        yield Finding(
            "unique_ids",
            f"{named(unique)} {'has' if len(unique) == 1 else 'have'} another id in (nearly) every training sample",
            "an id that is met once teaches nothing, and its table takes most of the memory: leave it out",
        )


def _is_unique(feature: SparseFeature, distinct: int, looked_at: int, samples: int) -> bool:
    # Few of many samples have different ids in any large table; with fewer rows than samples ids must come again.
    return feature.hotness == 1 and distinct >= _UNIQUE * looked_at and feature.rows >= _UNIQUE * samples


def _scales(rows: SampledRows) -> Iterator[Finding]:
    names = rows.schema.dense
    if not names:
        return
    dense_MN = rows.dense_MN.astype(np.float64)
    centred_MN = dense_MN - dense_MN.mean(0)
    deviation_N = np.sqrt((centred_MN**2).mean(0))
    with np.errstate(divide="ignore", invalid="ignore"):
        kurtosis_N = (centred_MN**4).mean(0) / deviation_N**4
        farthest_N = np.abs(centred_MN).max(0) / deviation_N
    varies_N = deviation_N > 1e-9 * np.maximum(1.0, np.abs(dense_MN).max(0))
    large_N = varies_N & (deviation_N > LARGEST_DEVIATION)
    heavy_N = varies_N & (kurtosis_N > LARGEST_KURTOSIS) & (farthest_N > _FAR)
    if large_N.any() or heavy_N.any():
        columns = [names[n] for n in np.flatnonzero(large_N | heavy_N)]
        figures = []
        if large_N.any():
            figures.append(f"standard deviations up to {deviation_N[large_N].max():.3g}")
        if heavy_N.any():
            figures.append(f"values up to {farthest_N[heavy_N].max():.3g} deviations from the mean")
        yield Finding(
            "dense_scale",
            f"{named(columns)}: {' and '.join(figures)} in numbers that go into an MLP as they are",
            "take logarithms of counts (log(1 + x); preprocess does it) or standardise",
        )
    elif varies_N.sum() > 1:
        deviations = deviation_N[varies_N]
        if deviations.max() > LARGEST_RATIO * deviations.min():
            varying = [names[n] for n in np.flatnonzero(varies_N)]
            smallest, largest = varying[int(deviations.argmin())], varying[int(deviations.argmax())]
            yield Finding(
                "dense_scale",
                f"standard deviations of dense columns differ {deviations.max() / deviations.min():.3g} times "
                f"({escaped(smallest)} {deviations.min():.3g}, {escaped(largest)} {deviations.max():.3g})",
                "standardise them: the small ones have no say otherwise",
            )


def _nulls(rows: SampledRows) -> Iterator[Finding]:
    """Null ids that ``data.bad_rows`` has made the id of something else."""
    columns, shares = [], []
    for f, feature in enumerate(rows.schema.sparse):
        ids_K, _ = rows.bags(f)
        if rows.nulls_F[f] and len(ids_K):
            columns.append(feature.name)
            shares.append(min(1.0, rows.nulls_F[f] / len(ids_K)))
    if columns:
        yield Finding(
            "null_is_a_real_id",
            f"up to {percent(max(shares))} of the ids of {named(columns)} are null, and data.bad_rows makes them an id "
            "that real values have, too",
            "give null an id of its own when the files are written, or leave such samples out (data.bad_rows: skip)",
        )


def _stand_ins(rows: SampledRows, reserved: Mapping[str, frozenset[int]]) -> Iterator[Finding]:
    """One and the same id that is by far the most frequent of many features, although nothing says that it is no value."""
    found: dict[int, list[tuple[str, float]]] = {}
    asked = 0
    for f, feature in enumerate(rows.schema.sparse):
        ids_K, _ = rows.bags(f)
        ids_K = ids_K[ids_K < feature.rows]  # without empty bags
        ids, count = np.unique(ids_K, return_counts=True)
        if len(ids) < 3:
            continue
        asked += 1
        most = int(ids[count.argmax()])
        first, second = sorted(count, reverse=True)[:2]
        by_far = first >= DOMINANCE * second and first >= _DOMINANT_SHARE * len(ids_K)
        if by_far and most not in reserved.get(feature.name, frozenset()):
            found.setdefault(most, []).append((feature.name, first / len(ids_K)))
    most_common = Counter({one: len(columns) for one, columns in found.items()}).most_common(1)
    if most_common and most_common[0][1] >= max(2, asked / 4):
        ((one, times),) = most_common
        share = max(share for _, share in found[one])
        yield Finding(
            "missing_is_a_real_id",
            f"id {one} is more than {DOMINANCE:.0f} times as frequent as any other in {times} of {asked} features "
            f"({named([name for name, _ in found[one]])}; up to {percent(share)} of the ids), and nothing says that it "
            "stands for a missing value alone",
            "if it does stand for missing values, see that no real value has it: give missing an id of its own (preprocess "
            "does), or an empty bag",
        )
