"""Bags whose further ids are a hash of (seed, feature, stored id, position in the bag): no tables, no memory.

Position p > 0 of the bag of id i of a feature is made from the random bits at place i of the feature's and position's own
stream (:mod:`dlrm.counter_rng`), so the same stored id always brings the same bag, as in MLPerf's recipe, and a longer
bag begins with a shorter one.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from dlrm.compiled import compiled
from dlrm.counter_rng import mix64, random_bits, stream_key
from dlrm.data.multi_hot.recipe import INT32_OVERFLOW, Distribution
from dlrm.schema import Schema

_OVERFLOW = np.int64(INT32_OVERFLOW)


class HashedBags:
    """One-hot ids into bags by a hash, on any device, with the same result on each.

    On the host it is a step of reading. On the device it saves the copy of all but one id a feature: a trainer moves the
    one-hot ids_BF there, keeps ``bags = HashedBags(schema, ..., device=device)``, and lays ``bags.expand(ids_BF)`` out
    feature-major, ``torch.cat([ids_BL.reshape(-1) for ids_BL in ids_BS.split(hotness, dim=1)])``, for torchrec.

    Args:
        schema: names, rows and hotness of the sparse features; S = schema.ids_per_sample.
        distribution: uniform over the table, or pareto as in MLPerf's recipe.
        seed: another seed, other ids.
        device: where ids come from.
    """

    def __init__(
        self, schema: Schema, *, distribution: Distribution, seed: int, device: torch.device | str = "cpu"
    ) -> None:
        places = [(f, feature, p) for f, feature in enumerate(schema.sparse) for p in range(feature.hotness)]
        streams = [stream_key(seed, "multi_hot", feature.name, p) for _, feature, p in places]
        self._distribution = distribution
        self._feature_S = torch.tensor([f for f, _, _ in places], device=device)
        self._rows_S = torch.tensor([feature.rows for _, feature, _ in places], device=device)
        self._rows_F = torch.tensor([feature.rows for feature in schema.sparse], device=device)
        self._stored_S = torch.tensor([p == 0 for _, _, p in places], device=device)
        # The streams are one sequence of 2^64 numbers, each begun at a random place of it.
        self._stream_S = torch.tensor(streams, device=device)

    def expand(self, ids_BF: torch.Tensor) -> torch.Tensor:
        """The bags of B samples.

        Args:
            ids_BF: int32 or int64 (B, F), on the device of this object.

        Returns:
            ids_BS of the same type: the bag of feature 0, then that of feature 1, ... An id outside of its table stays
            first in its bag as it is; the others are then those of the id modulo the rows.
        """
        if ids_BF.device.type == "cpu":
            return self._expand_on_host(ids_BF)
        return self.expand_by_torch(ids_BF)

    def expand_by_torch(self, ids_BF: torch.Tensor) -> torch.Tensor:
        """:meth:`expand` in torch's operations, for any device; on the host the compiled loop is faster."""
        places_BF = ids_BF.to(torch.int64) % self._rows_F
        bits_BS = random_bits(0, places_BF.index_select(1, self._feature_S) + self._stream_S)
        if self._distribution == "uniform":
            further_BS = ((bits_BS >> 1) & (2**63 - 1)) % self._rows_S
        else:
            further_BS = _pareto(bits_BS) % self._rows_S
        stored_BS = ids_BF.index_select(1, self._feature_S)
        return torch.where(self._stored_S, stored_BS, further_BS.to(ids_BF.dtype))

    def _expand_on_host(self, ids_BF: torch.Tensor) -> torch.Tensor:
        ids_BS = ids_BF.new_empty(ids_BF.shape[0], len(self._stream_S))
        _expand(
            ids_BF.numpy(),
            self._feature_S.numpy(),
            self._rows_S.numpy(),
            self._stored_S.numpy(),
            self._stream_S.numpy().view(np.uint64),
            self._distribution == "pareto",
            ids_BS.numpy(),
        )
        return ids_BS


def _pareto(bits: torch.Tensor) -> torch.Tensor:
    """Floor of a Pareto variable of shape 1/4 by inversion, 1 / (1 - u)^4 - 1, as an int32 would hold it on x86.

    Products and a quotient only, which are rounded in the same way everywhere, as a power need not be.
    """
    remaining = 1.0 - ((bits >> 11) & (2**53 - 1)).to(torch.float64) * 2.0**-53
    squared = remaining * remaining
    drawn = 1.0 / (squared * squared) - 1.0
    return torch.where(drawn < 2.0**31, drawn, float(INT32_OVERFLOW)).to(torch.int64)


@compiled
def _expand(
    ids_BF: NDArray[np.int64],
    feature_S: NDArray[np.int64],
    rows_S: NDArray[np.int64],
    stored_S: NDArray[np.bool_],
    stream_S: NDArray[np.uint64],
    pareto: bool,
    ids_BS: NDArray[np.int64],
) -> None:
    """:meth:`HashedBags.expand_by_torch` in one pass over the samples, without temporaries; ids are int32 or int64."""
    for b in range(ids_BS.shape[0]):
        for s in range(ids_BS.shape[1]):
            stored = np.int64(ids_BF[b, feature_S[s]])
            if stored_S[s]:
                ids_BS[b, s] = stored
                continue
            rows = rows_S[s]
            place = stored if 0 <= stored < rows else stored % rows
            z = mix64(np.uint64(0), np.uint64(place) + stream_S[s])
            if pareto:
                remaining = 1.0 - np.float64(z >> np.uint64(11)) * 2.0**-53
                squared = remaining * remaining
                drawn = 1.0 / (squared * squared) - 1.0
                ids_BS[b, s] = (np.int64(drawn) if drawn < 2.0**31 else _OVERFLOW) % rows
            else:
                ids_BS[b, s] = np.int64((z >> np.uint64(1)) % np.uint64(rows))
