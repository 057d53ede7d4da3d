"""Samples of a split that are looked at: spread over all of it, in bounded time and memory.

A split is read in a few chunks of samples that follow each other, because Parquet is decoded by the row group and files by
the page. The chunks are spread evenly, and come in an order in which any number of them is spread about evenly, too: time
may be up after any of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dlrm.data.check import SampleCheck
from dlrm.data.source import Samples, Source
from dlrm.schema import Schema

CHUNKS = 32
_MOST_IDS = 1 << 25  # of all features together in memory

Ints = NDArray[np.int64]


class Deadline:
    """A time at which no more is read.

    Args:
        seconds: from now.
    """

    def __init__(self, seconds: float) -> None:
        self._end_s = time.monotonic() + seconds

    def is_over(self) -> bool:
        """Whether it has come."""
        return time.monotonic() >= self._end_s

    def share(self, part: float) -> Deadline:
        """One that comes after a part of the time that is left."""
        return Deadline(part * max(0.0, self._end_s - time.monotonic()))


@dataclass(frozen=True)
class SampledRows:
    """M samples of a split as they would be trained on; those that ``data.bad_rows`` skips are left out.

    Attributes:
        schema: their columns.
        index_M: which samples of the split; dense_MN: float32; labels_MT: float32, NaN where missing.
        ids_MS: int64, S = schema.ids_per_sample; lengths_MF: ids of each bag, None where all are full.
        nulls_F: how many ids of each feature were null and are replaced (``data.bad_rows``).
        wanted: how many samples were to be read: more than M where the time was up, or samples were skipped.
    """

    schema: Schema
    index_M: Ints
    dense_MN: NDArray[np.float32]
    ids_MS: Ints
    lengths_MF: NDArray[np.int32] | None
    labels_MT: NDArray[np.float32]
    nulls_F: Ints
    wanted: int

    def __len__(self) -> int:
        return len(self.index_M)

    def bags(self, f: int) -> tuple[Ints, Ints]:
        """Ids of feature f, and of each the number of its sample in 0 .. M - 1; an empty bag has the id past its table."""
        first = sum(feature.hotness for feature in self.schema.sparse[:f])
        feature = self.schema.sparse[f]
        ids_ML = self.ids_MS[:, first : first + feature.hotness]
        if self.lengths_MF is None:
            return ids_ML.reshape(-1), np.repeat(np.arange(len(self)), feature.hotness)
        length_M = self.lengths_MF[:, f]
        there_ML = np.arange(feature.hotness) < length_M[:, None]
        (empty,) = np.nonzero(length_M == 0)
        sample_K = np.repeat(np.arange(len(self)), length_M)
        return np.append(ids_ML[there_ML], np.full(len(empty), feature.rows)), np.append(sample_K, empty)


def sample_rows(source: Source, samples: int, deadline: Deadline) -> SampledRows:
    """Read samples of a split.

    Args:
        source: the split.
        samples: about how many; fewer where they have so many ids that memory would not do.
        deadline: when to stop; one chunk is read all the same.

    Raises:
        DataError: a sample cannot be read, or must not be trained on.
    """
    wanted = min(source.num_samples, samples, max(CHUNKS, _MOST_IDS // max(1, source.schema.ids_per_sample)))
    check = SampleCheck(source)
    read: list[tuple[Ints, Samples]] = []
    nulls_F = np.zeros(len(source.schema.sparse), np.int64)
    for start, stop in chunks(source.num_samples, wanted):
        if read and deadline.is_over():
            break
        index_B = torch.arange(start, stop)
        found = source.read(index_B)
        nulls_F += _nulls(source, found)
        read.append((index_B.numpy(), check(found, index_B)))
    return _joined(source.schema, read, nulls_F, wanted)


def chunks(available: int, wanted: int) -> Iterator[tuple[int, int]]:
    """Where chunks begin and end that have ``wanted`` of all samples, spread evenly, those far from each other first."""
    count = min(CHUNKS, wanted)
    for number in spread_order(count):
        taken, following = number * wanted // count, (number + 1) * wanted // count
        skipped = (2 * number + 1) * (available - wanted) // (2 * count)
        yield taken + skipped, following + skipped


def spread_order(count: int) -> list[int]:
    """0 .. count - 1 in an order whose beginnings are all spread about evenly (van der Corput's, by reversed bits)."""
    bits = max(1, (count - 1).bit_length())
    return [n for n in (int(f"{i:0{bits}b}"[::-1], 2) for i in range(1 << bits)) if n < count]


def _nulls(source: Source, samples: Samples) -> Ints:
    """How many ids of each feature are null."""
    if source.null_id is None:
        return np.zeros(len(source.schema.sparse), np.int64)
    null_S = (samples.ids_BS == source.null_id).sum(0).numpy()
    edges = np.cumsum([0, *(feature.hotness for feature in source.schema.sparse)])
    return np.add.reduceat(null_S, edges[:-1]).astype(np.int64)


def _joined(schema: Schema, read: list[tuple[Ints, Samples]], nulls_F: Ints, wanted: int) -> SampledRows:
    kept = [
        slice(None) if samples.weights_B is None else samples.weights_B.numpy() > 0  # skipped samples have weight 0
        for _, samples in read
    ]
    hotness_F = np.array([feature.hotness for feature in schema.sparse], np.int32)
    lengths = None
    if any(samples.lengths_BF is not None for _, samples in read):
        lengths = [
            np.broadcast_to(hotness_F, (len(samples), len(hotness_F)))
            if samples.lengths_BF is None
            else samples.lengths_BF.numpy()
            for _, samples in read
        ]

    def join(arrays: list[NDArray[np.generic]], shape: tuple[int, ...]) -> NDArray[np.generic]:
        return np.concatenate([a[k] for a, k in zip(arrays, kept, strict=True)]) if arrays else np.zeros(shape)

    dense, ids, tasks = len(schema.dense), schema.ids_per_sample, len(schema.tasks)
    return SampledRows(
        schema=schema,
        index_M=join([index for index, _ in read], (0,)).astype(np.int64),
        dense_MN=join([samples.dense_BN.numpy() for _, samples in read], (0, dense)).astype(np.float32),
        ids_MS=join([samples.ids_BS.numpy() for _, samples in read], (0, ids)).astype(np.int64),
        lengths_MF=None if lengths is None else join(list(lengths), (0, len(hotness_F))).astype(np.int32),
        labels_MT=join([samples.labels_BT.numpy() for _, samples in read], (0, tasks)).astype(np.float32),
        nulls_F=nulls_F,
        wanted=wanted,
    )
