"""Days one after the other: the samples of a day are mixed with each other alone, and no global batch has those of two."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch

from dlrm.counter_rng import stream_key
from dlrm.data.order import SampleOrder


class DayOrder(SampleOrder):
    """The global batches of an epoch, those of each day after those of the day before.

    The last batch of a day holds what remains of it. Within a day the order is that of a :class:`SampleOrder` with a seed
    of the day's own.

    Args:
        days: the orders of the days, each a stretch of the source.
    """

    def __init__(self, days: Sequence[SampleOrder]) -> None:
        self.days = tuple(days)
        self.global_batch_size = days[0].global_batch_size
        *self._first_batches, self.num_batches = accumulate((day.num_batches for day in days), initial=0)
        counts = (day.samples_before(day.num_batches) for day in days)
        self._samples_before = list(accumulate(counts, initial=0))

    @classmethod
    def of(cls, sizes: Sequence[int], *, seed: int, **options: Any) -> DayOrder:
        """The order of days of so many samples, one day's after the other's; ``options`` as of :class:`SampleOrder`."""
        starts = pairwise(accumulate(sizes, initial=0))
        return cls(
            [
                SampleOrder(stop - start, seed=stream_key(seed, "day", number), first=start, **options)
                for number, (start, stop) in enumerate(starts)
            ]
        )

    @property
    def begins(self) -> dict[int, int]:
        """Which day begins after so many batches, of all days with batches but the first."""
        starts = enumerate(self._first_batches)
        # Of several that begin at one place all but the last have no batch.
        return {first: number for number, first in starts if 0 < first < self.num_batches}

    def micro_batches(self, parts: int) -> SampleOrder:
        """See :meth:`SampleOrder.micro_batches`; what a day leaves out is at the end of the day."""
        return DayOrder([day.micro_batches(parts) for day in self.days])

    def micro_numbers(self, batch: int, micro: SampleOrder) -> range:
        """See :meth:`SampleOrder.micro_numbers`; the last batch of each day may have fewer parts."""
        assert isinstance(micro, DayOrder)
        day = self._day_of(batch)
        within = self.days[day].micro_numbers(batch - self._first_batches[day], micro.days[day])
        before = micro._first_batches[day]
        return range(before + within.start, before + within.stop)

    def samples_before(self, batch: int) -> int:
        """See :meth:`SampleOrder.samples_before`."""
        day = self._day_of(batch)
        return self._samples_before[day] + self.days[day].samples_before(batch - self._first_batches[day])

    def indices(self, epoch: int, batch: int, rank: int = 0, world_size: int = 1) -> torch.Tensor:
        """See :meth:`SampleOrder.indices`."""
        day = self._day_of(batch)
        return self.days[day].indices(epoch, batch - self._first_batches[day], rank, world_size)

    def _day_of(self, batch: int) -> int:
        return bisect_right(self._first_batches, batch) - 1
