"""Which samples form global batch k of epoch e.

A pure function of (seed, e, k, global batch size), the number of samples and the way of shuffling: not of ranks, workers
or restarts. Ranks take slices of each global batch. An epoch is a permutation of the samples that is never stored, so any
batch of any epoch is found in constant time and memory.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch

from dlrm.counter_rng import stream_key
from dlrm.data.permutation import permuted


class Sampler(Protocol):
    """The sequence in which an epoch takes the samples."""

    def indices(self, epoch: int, start: int, stop: int) -> torch.Tensor:
        """The samples at places ``start`` .. ``stop - 1`` of an epoch; int64 (stop - start,)."""


@dataclass(frozen=True)
class Sequential:
    """The stored order, in every epoch."""

    def indices(self, epoch: int, start: int, stop: int) -> torch.Tensor:
        """The samples at places ``start`` .. ``stop - 1``: these very numbers."""
        return torch.arange(start, stop)


@dataclass(frozen=True)
class Shuffled:
    """All samples one by one: reads go everywhere, which is best for training where the data lies in memory."""

    num_samples: int
    seed: int

    def indices(self, epoch: int, start: int, stop: int) -> torch.Tensor:
        """The samples at places ``start`` .. ``stop - 1`` of an epoch."""
        return permuted(torch.arange(start, stop), self.num_samples, stream_key(self.seed, "order", epoch))


@dataclass(frozen=True)
class ShuffledInBlocks:
    """Blocks of neighbours are shuffled, then the samples within each window of consecutive shuffled blocks.

    While an epoch is within a window it reads nothing but that window's blocks, so data larger than memory is read from
    disk once and in large pieces. Each epoch cuts its blocks from a place of its own: the samples are a ring, and the
    first block starts at a random one. What is left after the whole blocks is a shorter block, other samples in each
    epoch; it always belongs to the last window. Windows hold equally many blocks (give or take one).

    Attributes:
        num_samples: samples of an epoch.
        seed: seed of all that is drawn.
        block_samples: samples of a block.
        window_blocks: the most blocks of a window.
    """

    num_samples: int
    seed: int
    block_samples: int
    window_blocks: int

    def indices(self, epoch: int, start: int, stop: int) -> torch.Tensor:
        """The samples at places ``start`` .. ``stop - 1`` of an epoch."""
        parts = [torch.arange(0)]
        while start < stop:
            window = self._window_at(start)
            end = min(stop, self._first_place(window + 1))
            parts.append(self._within_window(epoch, window, start, end))
            start = end
        ring_B = torch.cat(parts) + stream_key(self.seed, "order", epoch, "first") % self.num_samples
        return torch.where(ring_B < self.num_samples, ring_B, ring_B - self.num_samples)

    def _within_window(self, epoch: int, window: int, start: int, stop: int) -> torch.Tensor:
        """What these places, all of one window, hold; counted from the start of the first block."""
        first, end = self._first_place(window), self._first_place(window + 1)
        key = stream_key(self.seed, "order", epoch, "window", window)
        mixed_B = permuted(torch.arange(start - first, stop - first), end - first, key)
        slot_B = torch.div(mixed_B, self.block_samples, rounding_mode="trunc")
        starts_B = _starts_of_blocks(self, epoch, window)[slot_B]
        return starts_B + (mixed_B - slot_B * self.block_samples)

    @property
    def whole_blocks(self) -> int:
        """Blocks of full size."""
        return self.num_samples // self.block_samples

    @property
    def windows(self) -> int:
        """Windows of an epoch; at least one."""
        return max(1, -(-self.whole_blocks // self.window_blocks))

    def first_block(self, window: int) -> int:
        """The first of a window's whole blocks, in shuffled order; for the number of windows, how many blocks there are."""
        return window * self.whole_blocks // self.windows

    def _first_place(self, window: int) -> int:
        return self.num_samples if window == self.windows else self.first_block(window) * self.block_samples

    def _window_at(self, place: int) -> int:
        """The last window whose first place is not beyond ``place``."""
        if self.windows == 1:
            return 0
        block = min(place // self.block_samples, self.whole_blocks - 1)
        return ((block + 1) * self.windows - 1) // self.whole_blocks


@lru_cache(maxsize=16)  # batch after batch needs the same window's
def _starts_of_blocks(order: ShuffledInBlocks, epoch: int, window: int) -> torch.Tensor:
    """Where the blocks of a window start, int64 (K,); what is left after the whole blocks is the last window's last."""
    slot_K = torch.arange(order.first_block(window), order.first_block(window + 1))
    key = stream_key(order.seed, "order", epoch, "blocks")
    block_K = permuted(slot_K, order.whole_blocks, key)
    if window + 1 == order.windows:
        block_K = torch.cat([block_K, torch.tensor([order.whole_blocks])])
    return block_K * order.block_samples


class SampleOrder:
    """The global batches of an epoch as indices into a source.

    Args:
        num_samples: samples of the source, or of a stretch of it.
        global_batch_size: samples of a batch over all ranks; the last batch holds what remains.
        seed: seed of the permutations.
        shuffle: another permutation in each epoch; false: as stored.
        block_samples: shuffle blocks of so many neighbours and the samples within ``window_blocks`` of them
            (:class:`ShuffledInBlocks`) instead of all samples one by one (0).
        window_blocks: blocks whose samples are mixed with each other.
        drop_last: leave out a last batch that is not full.
        first: the sample that a stretch begins with.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        global_batch_size: int,
        seed: int = 0,
        shuffle: bool = False,
        block_samples: int = 0,
        window_blocks: int = 64,
        drop_last: bool = False,
        first: int = 0,
    ) -> None:
        self._first_sample = first
        self._num_samples = num_samples
        self.global_batch_size = global_batch_size
        self._sampler: Sampler = Sequential()
        if shuffle and block_samples:
            self._sampler = ShuffledInBlocks(num_samples, seed, block_samples, window_blocks)
        elif shuffle:
            self._sampler = Shuffled(num_samples, seed)
        whole, remainder = divmod(num_samples, global_batch_size)
        self.num_batches = whole + (remainder > 0 and not drop_last)
        """Global batches of an epoch."""

    def micro_batches(self, parts: int) -> SampleOrder:
        """The same sequence in batches a ``parts``-th as large, which must divide; number j is a part of ``j // parts``.

        What ``drop_last`` leaves out of this order is in that one, at its end.
        """
        cut = copy(self)
        cut.global_batch_size = self.global_batch_size // parts
        cut.num_batches = -(-self._num_samples // cut.global_batch_size)
        return cut

    def micro_numbers(self, batch: int, micro: SampleOrder) -> range:
        """The numbers of a batch's parts in an order of :meth:`micro_batches`; the last batch may have fewer of them."""
        parts = self.global_batch_size // micro.global_batch_size
        return range(batch * parts, min((batch + 1) * parts, micro.num_batches))

    def samples_before(self, batch: int) -> int:
        """Samples of the global batches before ``batch`` over all ranks; for ``num_batches``, those of an epoch."""
        return min(batch * self.global_batch_size, self._num_samples)

    def samples_in(self, batch: int) -> int:
        """Samples of global batch ``batch`` over all ranks; only the last may have fewer than the batch size."""
        return self.samples_before(batch + 1) - self.samples_before(batch)

    def rank_size(self, batch: int, world_size: int) -> int:
        """Places that every rank needs for its part of ``batch``, the rank with the most samples included."""
        return -(-self.samples_in(batch) // world_size)

    def indices(self, epoch: int, batch: int, rank: int = 0, world_size: int = 1) -> torch.Tensor:
        """The samples of a rank's part of a global batch, int64; the parts in order of rank are the global batch.

        Sample i of the batch is place ``i % rank_size`` of rank ``i // rank_size``, so that what depends on a sample's
        place in the global batch (dropout) can be found from rank and place. Where the batch does not divide evenly the
        last ranks have fewer samples, or none.
        """
        count, share = self.samples_in(batch), self.rank_size(batch, world_size)
        first = batch * self.global_batch_size
        start, stop = first + min(rank * share, count), first + min((rank + 1) * share, count)
        return self._sampler.indices(epoch, start, stop) + self._first_sample
