"""Noise: uniform ids, uniform dense values and coin-flip labels, for measuring speed. Nothing can be learned from it.

Sample i of a split is a pure function of (seed, split, i), so it needs no memory however many samples there are.
"""

from __future__ import annotations

import torch

from dlrm.config.data import RandomData
from dlrm.counter_rng import random_bits, stream_key
from dlrm.data.source import Dataset, Samples
from dlrm.schema import Schema

_LOW_32_BITS = (1 << 32) - 1


class NoiseSource:
    """One split of random samples (:class:`~dlrm.data.source.Source`).

    Args:
        config: sizes and seed.
        split: its name; splits differ in their samples.
        num_samples: samples in it.
    """

    def __init__(self, config: RandomData, split: str, num_samples: int) -> None:
        hotness = config.hotness * len(config.rows) if len(config.hotness) == 1 else config.hotness
        self.name = f"random data ({split})"
        self.schema = Schema.numbered(config.num_dense, config.rows, hotness)
        self.num_samples = num_samples
        self._click_rate = config.click_rate
        self._key = stream_key(config.seed, "noise", split)
        self._rows_S = torch.tensor([feature.rows for feature in self.schema.sparse for _ in range(feature.hotness)])
        # Two 32-bit numbers come from each 64 random bits: the label, the dense values, then the ids.
        self._numbers = 1 + config.num_dense + self.schema.ids_per_sample
        self._draws = (self._numbers + 1) // 2

    def read(self, index_B: torch.Tensor) -> Samples:
        """The samples at these indices (int64 (B,)), in this order."""
        counters = index_B[:, None] * self._draws + torch.arange(self._draws)
        bits = random_bits(self._key, counters)
        numbers = torch.stack((bits >> 32 & _LOW_32_BITS, bits & _LOW_32_BITS), dim=2).flatten(1)  # in [0, 2^32)
        label, dense, ids = numbers[:, : self._numbers].split(
            [1, len(self.schema.dense), self.schema.ids_per_sample], dim=1
        )
        return Samples(
            dense_BN=(dense >> 8).to(torch.float32) * 2.0**-24,
            ids_BS=ids * self._rows_S >> 32,  # a multiplication is far cheaper than a modulo, and as even
            labels_B=(label.squeeze(1) < int(self._click_rate * 2**32)).to(torch.float32),
        )


def noise_dataset(config: RandomData) -> Dataset:
    """Three splits of random samples."""
    return Dataset(
        train=NoiseSource(config, "train", config.train_samples),
        validation=NoiseSource(config, "validation", config.validation_samples),
        test=NoiseSource(config, "test", config.test_samples),
    )
