"""Samples divided into slices by the values that a column has in them, found in a pass over the samples of all ranks.

The slices of an id, of a number of ids or of a label are its most frequent values, the smaller first of equally frequent
ones, and one for all others. Those of a number are buckets whose edges are quantiles of it: the j-th of k is the least
value which, with all below, makes up j k-ths of the samples. An edge belongs to the bucket below; equal edges are one.

Counts are whole numbers and sums over the ranks, so that slices do not depend on how many ranks there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch

from dlrm.data.batch import Batch
from dlrm.distributed.collectives import Collectives
from dlrm.inference.evaluate.columns import ABSENT, Column, Dense, DiscreteColumn, counted
from dlrm.metrics.score_histogram import ScoreHistogram

QUANTILE_CELLS = 1 << 16
"""Distinct values up to which quantiles are exact; beyond, edges are rounded up a little (ScoreHistogram says how much)."""
FEW_VALUES = 1 << 24
"""Values that a column could have up to which there is a count of each; of more, of those that occur."""
_MERGED_AT_ONCE = 1 << 16


class Slicing(Protocol):
    """The slices of a column.

    Attributes:
        column: its name; labels: of its slices, in the order of their numbers.
    """

    @property
    def column(self) -> str:
        """Its name."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Of its slices, in the order of their numbers."""

    def slice_of(self, batch: Batch) -> torch.Tensor:
        """int64 (B,): the number of each sample's slice; anything for padding."""


@dataclass(frozen=True)
class ByValue:
    """A slice for each of some values, and one for all others.

    Attributes:
        values_K: int64 (K,), those values, the most frequent first; others: how many others occur.
    """

    by: DiscreteColumn
    values_K: torch.Tensor
    others: int

    @property
    def column(self) -> str:
        """The column's name."""
        return self.by.name

    @property
    def labels(self) -> tuple[str, ...]:
        """The values, and how many others there are."""
        named = [self.by.absent if value == ABSENT else str(value) for value in self.values_K.tolist()]
        return (*named, f"{self.others:,} others") if self.others else tuple(named or ("none",))

    def slice_of(self, batch: Batch) -> torch.Tensor:
        """int64 (B,)."""
        values_B = self.by.values(batch)
        if not len(self.values_K):  # every sample is padding
            return torch.zeros_like(values_B)
        sorted_K, number_K = self.values_K.sort()
        place_B = torch.searchsorted(sorted_K, values_B).clamp(max=len(sorted_K) - 1)
        others = len(self.values_K) - (not self.others)  # the last: of padding alone, where there are no others
        return torch.where(sorted_K[place_B] == values_B, number_K[place_B], others)


@dataclass(frozen=True)
class ByBucket:
    """A slice for each interval between edges.

    Attributes:
        edges_E: float32 (E,), ascending; the slice of a value is how many edges are below it.
    """

    by: Dense
    edges_E: torch.Tensor

    @property
    def column(self) -> str:
        """The column's name."""
        return self.by.name

    @property
    def labels(self) -> tuple[str, ...]:
        """The intervals."""
        edges = [f"{edge:.4g}" for edge in self.edges_E.tolist()]
        if not edges:
            return ("all",)
        between = [f"({low}, {high}]" for low, high in pairwise(edges)]
        return (f"<= {edges[0]}", *between, f"> {edges[-1]}")

    def slice_of(self, batch: Batch) -> torch.Tensor:
        """int64 (B,)."""
        return torch.searchsorted(self.edges_E, self.by.values(batch).contiguous())


class _FewValues:
    """Counts how often each value occurs; 8 bytes a value that there could be."""

    def __init__(self, by: DiscreteColumn) -> None:
        self._by = by
        self._counts_V = torch.zeros(by.size + 1, dtype=torch.int64)  # the absent one first

    def add(self, batch: Batch, counted_B: torch.Tensor) -> None:
        """Count the samples of a batch."""
        values_K = self._by.values(batch)[counted_B] - ABSENT
        self._counts_V.index_add_(0, values_K, torch.ones_like(values_K))

    def slicing(self, collectives: Collectives, *, values: int, buckets: int) -> Slicing:
        """The slices over all ranks; collective."""
        collectives.all_reduce_sum_(self._counts_V)
        occurring_K = self._counts_V.nonzero()[:, 0]
        order_K = self._counts_V[occurring_K].argsort(descending=True, stable=True)
        return ByValue(self._by, occurring_K[order_K][:values] + ABSENT, max(0, len(occurring_K) - values))


class _Values:
    """Counts how often each value occurs; at most 64 bytes a value that does, of as many as there could be."""

    def __init__(self, by: DiscreteColumn) -> None:
        self._by = by
        self._pairs_K2 = torch.empty(0, 2, dtype=torch.int64)  # values, in order, and how often they were seen
        self._new: list[torch.Tensor] = []

    def add(self, batch: Batch, counted_B: torch.Tensor) -> None:
        """Count the samples of a batch."""
        self._new.append(torch.stack(self._by.values(batch)[counted_B].unique(return_counts=True), dim=1))
        if sum(map(len, self._new)) >= max(_MERGED_AT_ONCE, len(self._pairs_K2)):  # each is merged a few times only
            self._merge()

    def slicing(self, collectives: Collectives, *, values: int, buckets: int) -> Slicing:
        """The slices over all ranks, each of which counts a part of the values; collective."""
        self._merge()
        rank_K = self._pairs_K2[:, 0] % collectives.world_size
        sent = rank_K.bincount(minlength=collectives.world_size).tolist()
        received = [of_rank[collectives.rank] for of_rank in collectives.all_gather_object(sent)]
        self._pairs_K2 = collectives.all_to_all(self._pairs_K2[rank_K.argsort(stable=True)], sent, received)
        self._merge()
        order_K = self._pairs_K2[:, 1].argsort(descending=True, stable=True)
        most = self._pairs_K2[order_K[:values]].tolist()
        of_ranks = collectives.all_gather_object((len(order_K), most))
        found = sorted((-count, value) for _, of_rank in of_ranks for value, count in of_rank)[:values]
        values_K = torch.tensor([value for _, value in found], dtype=torch.int64)
        return ByValue(self._by, values_K, max(0, sum(occurring for occurring, _ in of_ranks) - values))

    def _merge(self) -> None:
        pairs_N2 = torch.cat([self._pairs_K2, *self._new])
        values_K, place_N = pairs_N2[:, 0].unique(return_inverse=True)
        counts_K = torch.zeros_like(values_K).index_add_(0, place_N, pairs_N2[:, 1])
        self._pairs_K2, self._new = torch.stack((values_K, counts_K), dim=1), []


class _Numbers:
    """Counts numbers in a histogram of bounded size."""

    def __init__(self, by: Dense) -> None:
        self._by = by
        self._histogram = ScoreHistogram(torch.device("cpu"), capacity_cells=QUANTILE_CELLS)

    def add(self, batch: Batch, counted_B: torch.Tensor) -> None:
        """Count the samples of a batch."""
        values_K = self._by.values(batch)[counted_B]
        self._histogram.add(values_K, torch.zeros_like(values_K, dtype=torch.bool))

    def slicing(self, collectives: Collectives, *, values: int, buckets: int) -> Slicing:
        """The slices over all ranks; collective."""
        self._histogram.all_reduce(collectives)
        up_to_C = self._histogram.counts_C.cumsum(0)
        samples = int(up_to_C[-1]) if len(up_to_C) else 0
        wanted = torch.tensor([-(-j * samples // buckets) for j in range(1, buckets)], dtype=torch.int64)
        places = torch.searchsorted(up_to_C, wanted).unique()
        places = places[places < len(up_to_C) - 1]  # nothing lies above the last
        return ByBucket(self._by, self._histogram.largest_scores()[places])


def _counter(column: Column) -> _Numbers | _FewValues | _Values:
    if isinstance(column, Dense):
        return _Numbers(column)
    return _FewValues(column) if column.size <= FEW_VALUES else _Values(column)


def find_slicings(
    columns: Sequence[Column],
    batches: Iterable[Batch],
    collectives: Collectives,
    *,
    values: int,
    buckets: int,
) -> list[Slicing]:
    """The slices by each of the columns; collective.

    Args:
        columns: by which to divide.
        batches: of this rank, on the host, all that will be scored.
        collectives: of the ranks.
        values: of an id, that have a slice of their own.
        buckets: of a number.
    """
    counting = [_counter(column) for column in columns]
    for batch in batches:
        counted_B = counted(batch)
        for of_column in counting:
            of_column.add(batch, counted_B)
    return [of_column.slicing(collectives, values=values, buckets=buckets) for of_column in counting]
