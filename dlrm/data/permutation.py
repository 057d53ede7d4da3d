"""A pseudo-random permutation of 0 .. size - 1 that is never stored.

Position -> element is a Feistel network (Luby and Rackoff 1988) over the smallest power of four that holds the elements,
walked until it lands on an element (cycle walking, Black and Rogaway 2002, section 4), so any element is found in constant
time and memory. Its round function is :func:`dlrm.counter_rng.mix64`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from dlrm.compiled import compiled
from dlrm.counter_rng import mix64

_ROUNDS = 6


def permuted(position: torch.Tensor, size: int, key: int) -> torch.Tensor:
    """Apply the permutation of 0 .. size - 1 that ``key`` stands for.

    Args:
        position: int64 (B,), each in 0 .. size - 1.
        size: number of elements permuted.
        key: from :func:`dlrm.counter_rng.stream_key`.

    Returns:
        int64 (B,); distinct positions give distinct results in 0 .. size - 1.
    """
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    result_B = np.empty(len(position), np.uint64)
    _walk(position.numpy().view(np.uint64), np.uint64(size), np.uint64(half_bits), np.uint64(key % 2**64), result_B)
    return torch.from_numpy(result_B.view(np.int64))


@compiled
def _walk(
    position_B: NDArray[np.uint64], size: np.uint64, half_bits: np.uint64, key: np.uint64, result_B: NDArray[np.uint64]
) -> None:
    """Cycle walking: fewer than four passes on average, as the network's domain is smaller than 4 * size."""
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    for b in range(len(position_B)):
        value = position_B[b]
        while True:
            left, right = value >> half_bits, value & mask
            for round_number in range(_ROUNDS):
                mixed = mix64(key, right * np.uint64(_ROUNDS) + np.uint64(round_number))
                left, right = right, left ^ (mixed & mask)
            value = (left << half_bits) | right
            if value < size:
                break
        result_B[b] = value
