"""MLPerf DLRM-DCNv2's synthetic multi-hot ids: what its published recipe draws, bit for bit.

The recipe turns the one id that a sample has of a feature into a *bag*: that id, then hotness - 1 *further ids*, which it
looks up by that id in a table drawn beforehand. All tables come from one stream of NumPy's legacy generator, seeded once
with 0: those of feature 0 first, row by row, then those of feature 1, ...; a feature of hotness 1 draws nothing. Ids are
kept as int32. (facebookresearch/dlrm, torchrec_dlrm/multi_hot.py and scripts/materialize_synthetic_multihot_dataset.py,
since October 2022. Before, while there was an option ``multi_hot_min_table_size``, there was one hotness for all tables and
table k was seeded with k.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dlrm.errors import ConfigError
from dlrm.schema import Schema

Distribution = Literal["uniform", "pareto"]
PARETO_SHAPE = 0.25
"""Exponent of the recipe's heavy-tailed ids: P(x > t) = (t + 1)^-0.25, so that one in 215 is beyond int32."""
INT32_OVERFLOW = -(2**31)
"""What a double beyond int32 becomes there: the recipe casts without looking, which gives this on x86."""
_PIECE_IDS = 1 << 20  # drawn at a time: 4 MiB of ids, 8 MiB of the doubles behind Pareto's


@dataclass(frozen=True)
class Recipe:
    """The further ids of all tables as one vector: table 0's rows one after the other, then table 1's, ...

    Attributes:
        rows: size of each table.
        hotness: ids of a bag of each feature, the stored one included.
        distribution: uniform: every id of the table equally often; pareto: floor of a Pareto variable of shape 0.25,
            modulo the table's rows.
        seed: 0 .. 2^32 - 1 (MLPerf: 0).
    """

    rows: tuple[int, ...]
    hotness: tuple[int, ...]
    distribution: Distribution = "uniform"
    seed: int = 0

    @classmethod
    def of(cls, schema: Schema, distribution: Distribution, seed: int) -> Recipe:
        """The recipe for the tables and hotness of a schema.

        Raises:
            ConfigError: a table has more rows than the recipe's int32 ids can name.
        """
        for feature in schema.sparse:
            if feature.rows >= 2**31:
                message = (
                    f"table {feature.name} has {feature.rows:,} rows, more than the int32 ids of MLPerf's recipe can name; "
                    "make the ids of kind hashed, or cap the table"
                )
                raise ConfigError.at("", message)
        rows, hotness = zip(*((feature.rows, feature.hotness) for feature in schema.sparse), strict=True)
        return cls(rows, hotness, distribution, seed)

    @property
    def starts(self) -> tuple[int, ...]:
        """Where each table begins in the vector, and at last its length."""
        counts = (rows * (hotness - 1) for rows, hotness in zip(self.rows, self.hotness, strict=True))
        return tuple(accumulate(counts, initial=0))

    @property
    def digest(self) -> str:
        """Names these ids among all others."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]

    def draw(self) -> Iterator[NDArray[np.int32]]:
        """The vector in pieces of at most a MiB ids."""
        generator = np.random.RandomState(self.seed)
        for rows, hotness in zip(self.rows, self.hotness, strict=True):
            left = rows * (hotness - 1)
            while left:
                count = min(left, _PIECE_IDS)
                yield _further_ids(generator, rows, count, self.distribution)
                left -= count


def _further_ids(
    generator: np.random.RandomState, rows: int, count: int, distribution: Distribution
) -> NDArray[np.int32]:
    if distribution == "uniform":  # as int32 it takes from the stream what the recipe's int64 does
        return generator.randint(0, rows, size=count, dtype=np.int32)
    drawn = generator.pareto(PARETO_SHAPE, size=count)
    whole = np.where(drawn < 2**31, drawn, INT32_OVERFLOW).astype(np.int64)
    return (whole % rows).astype(np.int32)
