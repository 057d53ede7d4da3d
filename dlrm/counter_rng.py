"""Random numbers that are a pure function of (key, counter), the same on every device and in every order.

Initial weights, planted samples and random samples are drawn this way, so that they do not depend on the sharding plan,
on the number of ranks or on what was drawn before. The mixing function is SplitMix64's (Steele, Lea and Flood, "Fast
splittable pseudorandom number generators", OOPSLA 2014, figure 16), written in wrapping int64 arithmetic, which torch
computes identically on CPU and CUDA, and once more for compiled loops, which need one number at a time.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from dlrm.compiled import inlined

_GOLDEN_GAMMA = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


def _signed(value: int) -> int:
    """The int64 with the same bits as an unsigned 64-bit value."""
    return value - (1 << 64) if value >= 1 << 63 else value


def stream_key(seed: int, *names: str | int) -> int:
    """The int64 key of the stream of random numbers that ``names`` stand for: ``stream_key(0, "init", "cat_3")``."""
    text = "\x1f".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def random_bits(key: int, counters: torch.Tensor) -> torch.Tensor:
    """64 random bits for each counter.

    Args:
        key: from :func:`stream_key`.
        counters: int64, any shape.

    Returns:
        int64 tensor of the same shape, all bits random (so negative half of the time).
    """
    z = counters * _signed(_GOLDEN_GAMMA)
    z += key
    for shift, factor in ((30, _MIX_1), (27, _MIX_2)):
        z ^= _logical_shift_right(z, shift)
        z *= _signed(factor)
    z ^= _logical_shift_right(z, 31)
    return z


@inlined
def mix64(key: np.uint64, counter: np.uint64) -> np.uint64:
    """:func:`random_bits` for one counter within a compiled loop, where torch's operations would take too long.

    Args:
        key: of the stream, as an unsigned number.
        counter: unsigned, too.
    """
    z = counter * np.uint64(_GOLDEN_GAMMA) + key
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_MIX_1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_MIX_2)
    return z ^ (z >> np.uint64(31))


def uniform(key: int, counters: torch.Tensor) -> torch.Tensor:
    """float32 in [0, 1), multiples of 2^-24, one for each counter (int64, any shape)."""
    return _logical_shift_right(random_bits(key, counters), 40).to(torch.float32) * 2.0**-24


def uniform64(key: int, counters: torch.Tensor) -> torch.Tensor:
    """float64 in [0, 1), multiples of 2^-53, one for each counter (int64, any shape)."""
    return _logical_shift_right(random_bits(key, counters), 11).to(torch.float64) * 2.0**-53


def integers(key: int, counters: torch.Tensor, bound: int) -> torch.Tensor:
    """int64 in [0, bound), one for each counter; the bias of the modulo is below bound / 2^63."""
    return _logical_shift_right(random_bits(key, counters), 1) % bound


def _logical_shift_right(z: torch.Tensor, shift: int) -> torch.Tensor:
    return (z >> shift) & ((1 << (64 - shift)) - 1)
