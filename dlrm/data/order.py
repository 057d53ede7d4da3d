"""Which samples form global batch k of epoch e.

A pure function of (seed, e, k, global batch size) and the number of samples: not of ranks, workers or restarts. Ranks
take slices of each global batch. The permutation of an epoch is never stored: position -> sample index is a Feistel
network (Luby and Rackoff 1988) over the smallest power of four that holds the samples, walked until it lands on a sample
(cycle walking, Black and Rogaway 2002, section 4), so any batch of any epoch is found in constant time and memory.
"""

from __future__ import annotations

import torch

from dlrm.counter_rng import random_bits, stream_key

_FEISTEL_ROUNDS = 6


class SampleOrder:
    """The global batches of an epoch as indices into a source.

    Args:
        num_samples: samples of the source.
        global_batch_size: samples of a batch over all ranks; the last batch holds what remains.
        seed: seed of the permutations.
        shuffle: another permutation in each epoch; false: as stored.
        drop_last: leave out a last batch that is not full.
    """

    def __init__(
        self, num_samples: int, *, global_batch_size: int, seed: int = 0, shuffle: bool = False, drop_last: bool = False
    ) -> None:
        self._num_samples = num_samples
        self._global_batch_size = global_batch_size
        self._seed = seed
        self._shuffle = shuffle
        whole, remainder = divmod(num_samples, global_batch_size)
        self.num_batches = whole + (remainder > 0 and not drop_last)
        """Global batches of an epoch."""

    def samples_in(self, batch: int) -> int:
        """Samples of global batch ``batch`` over all ranks; only the last may have fewer than the batch size."""
        return min(self._global_batch_size, self._num_samples - batch * self._global_batch_size)

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
        first = batch * self._global_batch_size
        position = torch.arange(first + min(rank * share, count), first + min((rank + 1) * share, count))
        return (
            permuted(position, self._num_samples, stream_key(self._seed, "order", epoch)) if self._shuffle else position
        )


def permuted(position: torch.Tensor, size: int, key: int) -> torch.Tensor:
    """Apply the pseudo-random permutation of 0 .. size - 1 that ``key`` stands for.

    Args:
        position: int64, any shape, each in 0 .. size - 1.
        size: number of elements permuted.
        key: from :func:`dlrm.counter_rng.stream_key`.

    Returns:
        int64 of the same shape; distinct positions give distinct results in 0 .. size - 1.
    """
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    result = _feistel(position, half_bits, key)
    outside = result >= size
    while outside.any():  # fewer than four rounds on average: the domain is smaller than 4 * size
        result[outside] = _feistel(result[outside], half_bits, key)
        outside = result >= size
    return result


def _feistel(value: torch.Tensor, half_bits: int, key: int) -> torch.Tensor:
    """One pass of a balanced Feistel network: a bijection of 0 .. 4^half_bits - 1."""
    mask = (1 << half_bits) - 1
    left, right = value >> half_bits, value & mask
    for round_number in range(_FEISTEL_ROUNDS):
        mixed = random_bits(key, right * _FEISTEL_ROUNDS + round_number) & mask
        left, right = right, left ^ mixed
    return (left << half_bits) | right
