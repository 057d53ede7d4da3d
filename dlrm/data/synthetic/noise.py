"""Random data: labels are coin flips that nothing predicts. There is nothing to learn; it measures speed.

With the distributions of arXiv:1906.00091: dense values uniform or normal; bags of a fixed or a random number of ids; ids
uniform, Zipf-distributed, or repeating like those of a recorded trace. But for a trace nothing is stored, so tables and
splits can be of any size. A sample is a pure function of (seed, split, index): every split, index and rank sees other
numbers.
"""

from __future__ import annotations

import os
from dataclasses import replace

import torch

from dlrm.config.data import RandomData
from dlrm.config.data.synthetic import TraceIds
from dlrm.counter_rng import stream_key, uniform
from dlrm.data.fingerprint import FileFingerprint, fingerprint_of
from dlrm.data.source import Dataset, Samples, Source
from dlrm.data.synthetic.ids import (
    BagLengths,
    IdDraws,
    Split,
    hotness_of,
    id_draws,
    random_lanes,
    samples_of,
    task_key,
)
from dlrm.data.synthetic.weights import id_weights_of, weights_of
from dlrm.errors import ConfigError
from dlrm.schema import ONE_TASK, Schema

_CHUNK_LANES = 131_072  # intermediate results of this many 32-bit numbers stay in the cache


class NoiseSource(Source):
    """One split of random data.

    The ids of a multi-hot bag may repeat.

    Args:
        config: what to draw.
        split: the splits hold different samples.
        ids: the split's ids of the same config, where they were prepared already.

    Raises:
        ConfigError: a table has 2^31 rows or more.
        DataError: the profile of a trace cannot be read.
    """

    def __init__(self, config: RandomData, split: Split, ids: IdDraws | None = None) -> None:
        _check_rows(config)
        self._config = config
        schema = Schema.numbered(config.num_dense, config.rows, hotness_of(config), config.tasks or ONE_TASK)
        if config.id_weights:
            sparse = tuple(replace(feature, weights=id_weights_of(feature.name)) for feature in schema.sparse)
            schema = replace(schema, sparse=sparse)
        super().__init__(f"random {split} data", schema, samples_of(config, split))
        self._ids = ids if ids is not None else id_draws(config)[split]
        self._lengths = BagLengths(config, split) if config.random_hotness else None
        hotness = [feature.hotness for feature in self.schema.sparse]
        self._feature_S = torch.arange(len(hotness)).repeat_interleave(torch.tensor(hotness))
        self._place_S = torch.cat([torch.arange(hot) for hot in hotness])
        self._features_key = stream_key(config.seed, "noise", split, "features")
        self._weights_key = stream_key(config.seed, "noise", split, "id weights")
        tasks = range(len(self.schema.tasks))
        self._label_keys = [task_key(task, config.seed, "noise", split, "label") for task in tasks]

    def read(self, index_B: torch.Tensor) -> Samples:
        """The samples at these indices (int64, (B,)), in this order."""
        batch, ids_per_sample = len(index_B), len(self._place_S)
        ids_BS = torch.empty(batch, ids_per_sample, dtype=torch.int64)
        dense_BN = torch.empty(batch, self._config.num_dense)
        step = max(1, _CHUNK_LANES // (ids_per_sample + self._config.num_dense))
        for start in range(0, batch, step):
            chunk = slice(start, start + step)
            self._ids.draw(index_B[chunk], ids_BS[chunk])
            dense_BN[chunk] = self.dense(index_B[chunk])
        lengths_BF = self._lengths(index_B) if self._lengths is not None else None
        if lengths_BF is not None:
            ids_BS.masked_fill_(lengths_BF[:, self._feature_S] <= self._place_S, 0)
        id_weights_BS = None
        if self._config.id_weights:
            lanes_BS = random_lanes(self._weights_key, index_B, lanes=ids_per_sample, start=0, stop=ids_per_sample)
            id_weights_BS = weights_of(lanes_BS)
        return Samples(dense_BN, ids_BS, self.labels(index_B), lengths_BF, id_weights_BS=id_weights_BS)

    def fingerprint(self) -> tuple[FileFingerprint, ...]:
        """The profile of a trace, where the ids are of one."""
        ids = self._config.ids
        return (fingerprint_of(ids.path, os.path.basename(ids.path)),) if isinstance(ids, TraceIds) else ()

    def dense(self, index_B: torch.Tensor) -> torch.Tensor:
        """The dense values of the samples at these indices; float32 (B, N)."""
        first, count = self.schema.ids_per_sample, self._config.num_dense
        lanes_BN = random_lanes(self._features_key, index_B, lanes=first + count, start=first, stop=first + count)
        if self._config.dense == "normal":
            quantile_BN = lanes_BN.to(torch.float64).add_(2.0**31 + 0.5).mul_(2.0**-32)
            normal_BN: torch.Tensor = torch.special.ndtri(quantile_BN)
            return normal_BN.to(torch.float32)
        # The upper 24 bits, -2^23 .. 2^23 - 1, are exact in float32.
        return (lanes_BN >> 8).to(torch.float32).add_(2.0**23).mul_(2.0**-24)

    def labels(self, index_B: torch.Tensor) -> torch.Tensor:
        """The labels of the samples at these indices; float32 (B, T)."""
        flips_BT = torch.stack([uniform(key, index_B) for key in self._label_keys], dim=1)
        return (flips_BT < self._config.click_rate).to(torch.float32)


def noise_dataset(config: RandomData) -> Dataset:
    """The three splits.

    Raises:
        ConfigError: a table has 2^31 rows or more.
        DataError: the profile of a trace cannot be read.
    """
    _check_rows(config)
    ids = id_draws(config)
    return Dataset(
        train=NoiseSource(config, "train", ids["train"]),
        validation=NoiseSource(config, "validation", ids["validation"]),
        test=NoiseSource(config, "test", ids["test"]),
    )


def _check_rows(config: RandomData) -> None:
    for table, rows in enumerate(config.rows):
        if rows >= 2**31:
            message = f"table {table} has {rows} rows; random data draws ids for at most {2**31 - 1}"
            raise ConfigError.at("data.rows", message)
