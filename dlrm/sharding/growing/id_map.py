"""Which row each id of a feature has: this rank's buckets of one growing table."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from dlrm.config.model.growing import AdmitSeen, EvictAge, Eviction, EvictLfu, GrowingEmbedding
from dlrm.sharding.growing import buckets as kernels
from dlrm.sharding.growing.buckets import AGE, LFU, LRU, NONE, Slots

_POLICIES = {"none": NONE, "lru": LRU, "lfu": LFU, "age": AGE}


class IdMap:
    """A rank's buckets.

    Args:
        table: its name.
        config: sizes and rules.
        rank, world_size: whose buckets.

    Attributes:
        table, config: as given; first_bucket: of this rank.
        slots, candidates: of this rank's buckets.
    """

    def __init__(self, table: str, config: GrowingEmbedding, rank: int = 0, world_size: int = 1) -> None:
        self.table, self.config = table, config
        self._starts_W = bucket_starts(config.buckets, world_size)
        self.first_bucket, stop = (int(start) for start in self._starts_W[rank : rank + 2])
        self.slots = Slots.empty(stop - self.first_bucket, config.ways)
        self.candidates = Slots.empty(stop - self.first_bucket, config.candidate_ways)
        admission, eviction = config.admission, config.eviction
        self._times = admission.times if isinstance(admission, AdmitSeen) else 1
        self._policy = _POLICIES[eviction.kind]
        self._steps = _steps_of(eviction)

    def assign(
        self, ids_U: NDArray[np.int64], amounts_U: NDArray[np.int64], step: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Give the ids of a step, or of a part of it, their rows.

        Args:
            ids_U: of this rank's buckets, each once, in the order of their hashes.
            amounts_U: int64 (U,), how often each is there.
            step: its number, from 1; never less than before.

        Returns:
            Rows (U,), NO_ROW for ids that share fallback rows, and the rows that have changed hands.
        """
        rows_U, fresh_U = np.empty_like(ids_U), np.empty_like(ids_U)
        taken = kernels.assign(
            ids_U,
            amounts_U,
            step,
            self.first_bucket,
            self.config.buckets,
            self.slots,
            self.candidates,
            self._times,
            self._policy,
            self._steps,
            rows_U,
            fresh_U,
        )
        return rows_U, fresh_U[:taken]

    def look_up(self, ids_U: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of ids of this rank's buckets, NO_ROW for ids that have none; nothing is changed."""
        rows_U = np.empty_like(ids_U)
        kernels.look_up(ids_U, self.first_bucket, self.config.buckets, self.slots.ids, rows_U)
        return rows_U

    def first_of_ranks(self, hashes_U: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Where in ascending hashes those of each rank's buckets begin, int64 (ranks + 1,)."""
        # Bucket b has the hashes whose upper half h is in b <= h * buckets / 2^32 < b + 1.
        buckets = self.config.buckets
        first_W = [(-(-(int(start) << 32) // buckets)) << 32 for start in self._starts_W[:-1]]
        return np.append(np.searchsorted(hashes_U, np.array(first_W, np.uint64)), len(hashes_U))

    def fallback(self, hashes_U: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The rows that these ids share with others while they have none for themselves."""
        shared = self.config.rows - self.config.own_rows
        return (hashes_U % np.uint64(shared)).astype(np.int64) + self.config.own_rows

    def forget(self) -> None:
        """Know no id."""
        for slots in (self.slots, self.candidates):
            slots.ids.fill(kernels.EMPTY)
            slots.counts.fill(0)
            slots.seen.fill(0)

    @property
    def state(self) -> Iterator[tuple[str, tuple[int, int], torch.Tensor]]:
        """Name, shape over all ranks, and this rank's buckets (a view) of each array that a checkpoint holds."""
        for prefix, slots in (("", self.slots), ("candidates.", self.candidates)):
            for name, values in (("ids", slots.ids), ("counts", slots.counts), ("seen", slots.seen)):
                if values.shape[1]:
                    yield f"{prefix}{name}", (self.config.buckets, values.shape[1]), torch.from_numpy(values)


def _steps_of(eviction: Eviction) -> int:
    match eviction:
        case EvictLfu():
            return eviction.halve_steps
        case EvictAge():
            return eviction.steps
        case _:
            return 1


def bucket_starts(buckets: int, world_size: int) -> NDArray[np.int64]:
    """The first bucket of each rank, and the end of the last's, int64 (ranks + 1,)."""
    return np.array([rank * buckets // world_size for rank in range(world_size + 1)])


def map_bytes(config: GrowingEmbedding, world_size: int) -> int:
    """What a rank's buckets take."""
    slots = -(-config.buckets // world_size) * (config.ways + config.candidate_ways)
    return slots * (8 + 4 + 4)
