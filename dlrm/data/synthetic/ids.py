"""How the ids of random samples are drawn: uniform, Zipf, or as a trace's; and how many of them a bag holds.

All of it is a pure function of (seed, split, index); what is drawn for a bag beyond its length is not used.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from dlrm.config.data import RandomData
from dlrm.config.data.synthetic import TraceIds, ZipfIds
from dlrm.counter_rng import random_bits, stream_key, uniform64
from dlrm.data.synthetic.trace import TraceStream
from dlrm.data.synthetic.trace_profile import read_profile
from dlrm.data.synthetic.zipf import ZipfQuantiles

Split = Literal["train", "validation", "test"]
_SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_PORTION = 65_536


class IdDraws(Protocol):
    """The ids of one split."""

    def draw(self, index_B: torch.Tensor, ids_BS: torch.Tensor) -> None:
        """Write the ids of the samples at these indices to ``ids_BS`` (int64)."""


def task_key(task: int, seed: int, *names: str) -> int:
    """The key of a task's random numbers; that of the first does not depend on whether there are others."""
    return stream_key(seed, *names) if task == 0 else stream_key(seed, *names, "task", task)


def hotness_of(config: RandomData) -> tuple[int, ...]:
    """Most ids of a bag, for each table."""
    return config.hotness if len(config.hotness) > 1 else config.hotness * len(config.rows)


def samples_of(config: RandomData, split: Split) -> int:
    """Samples of a split."""
    return {"train": config.train_samples, "validation": config.validation_samples, "test": config.test_samples}[split]


def random_lanes(key: int, index_B: torch.Tensor, *, lanes: int, start: int, stop: int) -> torch.Tensor:
    """Random int32 numbers ``start`` .. ``stop - 1`` of the ``lanes`` that each sample has; (B, stop - start)."""
    draws = -(-lanes // 2)
    first, last = start // 2, -(-stop // 2)
    counters_BD = index_B[:, None] * draws + torch.arange(first, last)
    return random_bits(key, counters_BD).view(torch.int32)[:, start - 2 * first : stop - 2 * first]


def scale(bits_BL: torch.Tensor, bound_L: torch.Tensor) -> None:
    """Turn 32 random bits (int64, -2^31 .. 2^31 - 1) into 0 .. bound - 1: (bits * bound) >> 32 (arXiv:1805.10941)."""
    bits_BL.add_(2**31).mul_(bound_L).bitwise_right_shift_(32)


class BagLengths:
    """Ids of each bag, uniform in 1 .. hotness.

    Args:
        config: the hotness, and the seed.
        split: the splits are independent draws.
    """

    def __init__(self, config: RandomData, split: Split) -> None:
        self.hotness_F = torch.tensor(hotness_of(config))
        self._key = stream_key(config.seed, "noise", split, "lengths")

    def __call__(self, index_B: torch.Tensor) -> torch.Tensor:
        """Lengths of the bags of the samples at these indices; int32 (B, F)."""
        features = len(self.hotness_F)
        lengths_BF = random_lanes(self._key, index_B, lanes=features, start=0, stop=features).to(torch.int64)
        scale(lengths_BF, self.hotness_F)
        return lengths_BF.add_(1).to(torch.int32)


class UniformDraws:
    """Ids uniform over their table to within rows / 2^32 of their probability.

    Args:
        config: tables, hotness and the seed.
        split: the splits are independent draws.
    """

    def __init__(self, config: RandomData, split: Split) -> None:
        self._key = stream_key(config.seed, "noise", split, "features")
        self._rows_S = torch.tensor(config.rows).repeat_interleave(torch.tensor(hotness_of(config)))
        self._lanes = len(self._rows_S) + config.num_dense

    def draw(self, index_B: torch.Tensor, ids_BS: torch.Tensor) -> None:
        """Write the ids of the samples at these indices to ``ids_BS`` (int64)."""
        ids = len(self._rows_S)  # the dense values' numbers follow
        ids_BS.copy_(random_lanes(self._key, index_B, lanes=self._lanes, start=0, stop=ids))
        scale(ids_BS, self._rows_S)


class ZipfDraws:
    """Zipf-distributed ids; those of a bag are independent.

    Args:
        config: tables, hotness and the seed.
        exponent: skew.
        split: the splits are independent draws.
    """

    def __init__(self, config: RandomData, exponent: float, split: Split) -> None:
        rows = [size for size, hot in zip(config.rows, hotness_of(config), strict=True) for _ in range(hot)]
        self._quantiles = ZipfQuantiles(rows, exponent)
        self._column_S = torch.arange(len(rows))
        self._key = stream_key(config.seed, "noise", split, "zipf")

    def draw(self, index_B: torch.Tensor, ids_BS: torch.Tensor) -> None:
        """Write the ids of the samples at these indices to ``ids_BS`` (int64)."""
        counters_BS = index_B[:, None] * len(self._column_S) + self._column_S
        self._quantiles(uniform64(self._key, counters_BS), ids_BS)


class TraceDraws:
    """Ids that were generated before.

    Args:
        ids_MS: int32, of all samples of the split; 0 beyond the length of a bag.
    """

    def __init__(self, ids_MS: NDArray[np.int32]) -> None:
        self._ids_MS = torch.from_numpy(ids_MS)

    def draw(self, index_B: torch.Tensor, ids_BS: torch.Tensor) -> None:
        """Write the ids of the samples at these indices to ``ids_BS`` (int64)."""
        ids_BS.copy_(self._ids_MS.index_select(0, index_B))


def id_draws(config: RandomData) -> dict[Split, IdDraws]:
    """How the configuration says that the ids of each split are drawn.

    The ids of a trace are generated here.

    Raises:
        DataError: the profile of a trace cannot be read.
    """
    if isinstance(config.ids, ZipfIds):
        exponent = config.ids.exponent
        return {split: ZipfDraws(config, exponent, split) for split in _SPLITS}
    if isinstance(config.ids, TraceIds):
        return _trace_draws(config, config.ids.path)
    return {split: UniformDraws(config, split) for split in _SPLITS}


def _trace_draws(config: RandomData, path: str) -> dict[Split, IdDraws]:
    """The splits are consecutive pieces of one stream for each table: training, validation, test."""
    columns = read_profile(path).columns
    streams = [
        TraceStream(columns[table % len(columns)], rows=rows, seed=config.seed, table=table)
        for table, rows in enumerate(config.rows)
    ]
    draws: dict[Split, IdDraws] = {}
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for split in _SPLITS:
            lengths = BagLengths(config, split) if config.random_hotness else None
            ids_MS = np.zeros((samples_of(config, split), sum(hotness_of(config))), np.int32)
            for start in range(0, len(ids_MS), _PORTION):
                ids_BS = ids_MS[start : start + _PORTION]
                lengths_BF = lengths(torch.arange(start, start + len(ids_BS))).numpy() if lengths is not None else None
                bags = np.split(ids_BS, np.cumsum(hotness_of(config))[:-1], axis=1)
                list(threads.map(_fill, bags, streams, repeat(None) if lengths_BF is None else lengths_BF.T))
            draws[split] = TraceDraws(ids_MS)
    return draws


def _fill(ids_BL: NDArray[np.int32], stream: TraceStream, lengths_B: NDArray[np.int32] | None) -> None:
    """Put the stream's next references into bags, one after the other."""
    if lengths_B is None:
        ids_BL[...] = stream.take(ids_BL.size).reshape(ids_BL.shape)
    else:
        inside_BL = np.arange(ids_BL.shape[1]) < lengths_B[:, None]
        ids_BL[inside_BL] = stream.take(int(inside_BL.sum()))
