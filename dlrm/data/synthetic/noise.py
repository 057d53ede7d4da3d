"""Random data: uniform ids, uniform dense values, coin-flip labels. There is nothing to learn; it measures speed.

Nothing is stored, so tables and splits can be of any size. A sample is a pure function of (seed, split, index): every
split, index and rank sees other numbers.
"""

from __future__ import annotations

from typing import Literal

import torch

from dlrm.config.data import RandomData
from dlrm.counter_rng import random_bits, stream_key, uniform
from dlrm.data.source import Dataset, Samples
from dlrm.errors import ConfigError
from dlrm.schema import Schema

Split = Literal["train", "validation", "test"]

_CHUNK_LANES = 131_072  # intermediate results of this many 32-bit numbers stay in the cache


class NoiseSource:
    """One split of random data; implements :class:`dlrm.data.source.Source`.

    Ids are uniform over their table to within rows / 2^32 of their probability; the ids of a multi-hot bag are
    independent and may repeat. Dense values are uniform in [0, 1).

    Args:
        config: what to draw.
        split: the splits are independent draws.

    Raises:
        ConfigError: a table has 2^31 rows or more.
    """

    def __init__(self, config: RandomData, split: Split) -> None:
        for table, rows in enumerate(config.rows):
            if rows >= 2**31:
                raise ConfigError.at(
                    "data.rows", f"table {table} has {rows} rows; random data draws ids for at most {2**31 - 1}"
                )
        hotness = config.hotness if len(config.hotness) > 1 else config.hotness * len(config.rows)
        self._config = config
        self.name = f"random {split} data"
        self.schema = Schema.numbered(config.num_dense, config.rows, hotness)
        self._features_key = stream_key(config.seed, "noise", split, "features")
        self._label_key = stream_key(config.seed, "noise", split, "label")
        self._rows_S = torch.tensor(config.rows).repeat_interleave(torch.tensor(hotness))
        self.num_samples: int = {
            "train": config.train_samples,
            "validation": config.validation_samples,
            "test": config.test_samples,
        }[split]

    def read(self, index_B: torch.Tensor) -> Samples:
        """The samples at these indices (int64, (B,)), in this order."""
        batch, ids_per_sample, num_dense = len(index_B), len(self._rows_S), self._config.num_dense
        ids_BS = torch.empty(batch, ids_per_sample, dtype=torch.int64)
        dense_BN = torch.empty(batch, num_dense)
        step = max(1, _CHUNK_LANES // (ids_per_sample + num_dense))
        for start in range(0, batch, step):
            chunk = slice(start, start + step)
            lanes_BL = self._lanes(index_B[chunk])
            # (bits * rows) >> 32 scales 32 random bits to 0 .. rows - 1 (Lemire, arXiv:1805.10941).
            ids_BS[chunk] = lanes_BL[:, :ids_per_sample]
            ids_BS[chunk].add_(2**31).mul_(self._rows_S).bitwise_right_shift_(32)
            # The upper 24 bits, -2^23 .. 2^23 - 1, are exact in float32.
            dense_BN[chunk] = lanes_BL[:, ids_per_sample:] >> 8
        dense_BN.add_(2.0**23).mul_(2.0**-24)
        labels_B = (uniform(self._label_key, index_B) < self._config.click_rate).to(torch.float32)
        return Samples(dense_BN=dense_BN, ids_BS=ids_BS, labels_B=labels_B)

    def _lanes(self, index_B: torch.Tensor) -> torch.Tensor:
        """One random int32 for each id and dense value; (B, S + N)."""
        lanes = len(self._rows_S) + self._config.num_dense
        draws = -(-lanes // 2)
        counters_BD = index_B[:, None] * draws + torch.arange(draws)
        return random_bits(self._features_key, counters_BD).view(torch.int32)[:, :lanes]


def noise_dataset(config: RandomData) -> Dataset:
    """The three splits."""
    return Dataset(
        train=NoiseSource(config, "train"),
        validation=NoiseSource(config, "validation"),
        test=NoiseSource(config, "test"),
    )
