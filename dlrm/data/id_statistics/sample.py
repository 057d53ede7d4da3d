"""The ids of a split, measured: a sample of it that is spread over all of it, in bounded time and memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dlrm.data.id_statistics.base import IdStatistics, UniformIds
from dlrm.data.id_statistics.measured import MeasuredIds, measure_ids
from dlrm.data.id_statistics.power_law import PowerLawIds
from dlrm.data.source import Samples, Source
from dlrm.schema import Schema, SparseFeature

SAMPLES = 1 << 17
BLOCK = 64  # samples that follow each other: files are read by the page, and ids of neighbours are alike
_MOST_IDS = 1 << 25  # of all features together in memory
_MOST_IDS_OF_FEATURE = 1 << 23  # that are sorted


def measure(source: Source, samples: int = SAMPLES) -> tuple[MeasuredIds, ...]:
    """How the ids of each feature of a split are spread; the same for the same split.

    Blocks of samples are read that are spread evenly over the split. Files that must be decoded from their beginning or in
    large pieces (raw text, Parquet) are read wholly by that.

    Args:
        source: the split, of packed files or generated.
        samples: about how many to look at; fewer where they have so many ids that memory would not do.

    Raises:
        DataError: a sample cannot be read.
    """
    features = source.schema.sparse
    portions = list(_portions(source, min(samples, max(BLOCK, _MOST_IDS // max(1, source.schema.ids_per_sample)))))
    edges = np.cumsum([0, *(feature.hotness for feature in features)])
    return tuple(
        _feature(feature, number, slice(edges[number], edges[number + 1]), portions)
        for number, feature in enumerate(features)
    )


def _portions(source: Source, samples: int) -> Iterator[Samples]:
    for start, stop in blocks(source.num_samples, samples):
        yield source.read(torch.arange(start, stop))


def blocks(available: int, wanted: int) -> Iterator[tuple[int, int]]:
    """Where blocks begin and end that have ``wanted`` of all samples (all, if there are no more), spread evenly."""
    wanted = min(wanted, available)
    count = -(-wanted // BLOCK)
    for block in range(count):
        taken, following = block * wanted // count, (block + 1) * wanted // count
        skipped = (2 * block + 1) * (available - wanted) // (2 * count)
        yield taken + skipped, following + skipped


def _feature(feature: SparseFeature, number: int, columns: slice, portions: Sequence[Samples]) -> MeasuredIds:
    """The statistics of one feature, of as many of the samples as may be sorted."""
    chosen = portions[:: max(1, -(-sum(map(len, portions)) * feature.hotness // _MOST_IDS_OF_FEATURE))]
    ids, lengths = [], []
    for portion in chosen:
        ids_BL = portion.ids_BS[:, columns].numpy()
        if portion.lengths_BF is None:
            ids.append(ids_BL.reshape(-1))
            lengths.append(np.full(len(ids_BL), feature.hotness))
        else:
            length_B = portion.lengths_BF[:, number].numpy()
            ids.append(ids_BL[np.arange(feature.hotness) < length_B[:, None]])
            lengths.append(length_B)
    return measure_ids(feature.name, feature.rows, _joined(ids), samples_of_ids(_joined(lengths)))


def samples_of_ids(lengths_B: NDArray[np.integer]) -> NDArray[np.int64]:
    """The number of the sample that each id is of, from the ids that samples have."""
    return np.repeat(np.arange(len(lengths_B)), lengths_B)


def _joined(pieces: Sequence[NDArray[np.integer]]) -> NDArray[np.integer]:
    return np.concatenate(pieces) if pieces else np.empty(0, np.int64)


def statistics_of(
    schema: Schema, measured: Sequence[MeasuredIds] = (), *, exponent: float | None = None
) -> dict[str, IdStatistics]:
    """What is known of the ids of each feature, by name.

    Args:
        schema: the features.
        measured: statistics of data; those of another table size or of no feature are not used.
        exponent: of the power law that the others follow, the hottest row first; uniform if left out. They are taken to
            have as many ids a sample as fit.
    """
    found = {ids.name: ids for ids in measured}

    def of(feature: SparseFeature) -> IdStatistics:
        known = found.get(feature.name)
        if known is not None and known.rows == feature.rows:
            return known
        if exponent is None:
            return UniformIds(feature.rows, feature.hotness)
        return PowerLawIds(feature.rows, exponent, feature.hotness)

    return {feature.name: of(feature) for feature in schema.sparse}
