"""Zipf-distributed ids of tables of any size, in constant time an id and without memory that grows with the table.

Id i of a table with R rows has probability (i + 1)^-s / sum of k^-s for k = 1 .. R. The distribution is inverted: one
uniform number gives one id, so that ids can be drawn in any order. The sums over the first K = 4,096 ids are tabulated,
once for all tables. Beyond, the sum of k^-s is taken as the integral of x^-s from K + 1/2, which has an inverse in closed
form; by the midpoint rule's error, it changes the probability of the k-th id by a factor of 1 + s (s + 1) / (24 k^2), by
less than one in a million for s up to 19. (Rejection-inversion, Hormann and Derflinger 1996, would be exact, but needs a
number of draws that depends on the draws.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dlrm.compiled import compiled

_HEAD = 4096
_GUIDE = 4096


class ZipfQuantiles:
    """The inverse cumulative distributions of several tables.

    Args:
        rows: R of each column, at least 1.
        exponent: s > 0.
    """

    def __init__(self, rows: Sequence[int], exponent: float) -> None:
        self._exponent = exponent
        self._rows_S = np.array(rows, np.int64)
        self._cumulative = np.cumsum(np.arange(1, _HEAD + 1, dtype=np.float64) ** -exponent)
        self._total_S = np.array([self._total(size) for size in rows])
        # A guide table (Chen and Asau 1974): the first id to look at for each of equal shares of the head. The margin
        # is for the rounding of the place in it.
        places = (np.arange(_GUIDE + 1) - 1e-6) / _GUIDE * self._cumulative[-1]
        self._guide = np.searchsorted(self._cumulative, places, side="right")

    def __call__(self, uniform_BS: torch.Tensor, ids_BS: torch.Tensor) -> None:
        """Write the ids at these quantiles (float64 (B, S) in [0, 1)) to ``ids_BS`` (int64)."""
        _invert(
            uniform_BS.numpy(),
            self._rows_S,
            self._total_S,
            self._cumulative,
            self._guide,
            self._exponent,
            ids_BS.numpy(),
        )

    def _total(self, rows: int) -> float:
        """The sum of k^-s over a table, its tail as an integral."""
        if rows <= _HEAD:
            return float(self._cumulative[rows - 1])
        start, rest = _HEAD + 0.5, 1 - self._exponent
        width = math.log((rows + 0.5) / start)
        return float(self._cumulative[-1] + (start**rest * math.expm1(rest * width) / rest if rest else width))


@compiled
def _invert(
    uniform_BS: NDArray[np.float64],
    rows_S: NDArray[np.int64],
    total_S: NDArray[np.float64],
    cumulative: NDArray[np.float64],
    guide: NDArray[np.int64],
    exponent: float,
    ids_BS: NDArray[np.int64],
) -> None:
    # One number at a time: what a vectorised logarithm gives for the last bit may depend on the size of the portion.
    head = cumulative[-1]
    start, rest = len(cumulative) + 0.5, 1 - exponent
    unit = start**-rest
    for b in range(uniform_BS.shape[0]):
        for s in range(uniform_BS.shape[1]):
            mass = uniform_BS[b, s] * total_S[s]
            if mass < head:
                below = guide[int(mass / head * (len(guide) - 1))]
                while cumulative[below] <= mass:
                    below += 1
            else:
                # x for which the integral from start to x is what exceeds the head.
                exceeding = (mass - head) * unit
                end = start * math.exp(math.log1p(rest * exceeding) / rest if rest != 0 else exceeding)
                below = math.ceil(min(end, rows_S[s] + 0.5) - 0.5) - 1
            ids_BS[b, s] = min(below, rows_S[s] - 1)
