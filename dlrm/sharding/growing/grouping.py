"""The ids of a batch, each once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrm.compiled import compiled
from dlrm.sharding.growing.buckets import hashes


class Grouped(NamedTuple):
    """U distinct ids, in the order of their hashes.

    Attributes:
        ids_U: int64; hashes_U: uint64, of each; amounts_U: int64, how often each is there.
        place_N: int64, which of them each of the N ids is.
    """

    ids_U: NDArray[np.int64]
    hashes_U: NDArray[np.uint64]
    amounts_U: NDArray[np.int64]
    place_N: NDArray[np.int64]


def grouped(ids_N: NDArray[np.int64], amounts_N: NDArray[np.int64] | None = None) -> Grouped:
    """Group ids.

    Args:
        ids_N: int64 (N,).
        amounts_N: int64 (N,), how often each of them counts; once if left out.
    """
    hashes_N = hashes(ids_N)
    order_N = np.argsort(hashes_N)
    amounts_N = np.ones(len(ids_N), np.int64) if amounts_N is None else amounts_N
    ids_U, hashes_U, amounts_U, place_N = (
        np.empty(len(ids_N), kind) for kind in (np.int64, np.uint64, *[np.int64] * 2)
    )
    count = _group(ids_N, hashes_N, order_N, amounts_N, ids_U, hashes_U, amounts_U, place_N)
    return Grouped(ids_U[:count], hashes_U[:count], amounts_U[:count], place_N)


@compiled
def _group(
    ids_N: np.ndarray,
    hashes_N: np.ndarray,
    order_N: np.ndarray,
    amounts_N: np.ndarray,
    ids_U: np.ndarray,
    hashes_U: np.ndarray,
    amounts_U: np.ndarray,
    place_N: np.ndarray,
) -> int:
    """Fill the last four; returns U. Unlike ids have unlike hashes."""
    count = 0
    for n in order_N:
        if count == 0 or hashes_U[count - 1] != hashes_N[n]:
            ids_U[count], hashes_U[count], amounts_U[count] = ids_N[n], hashes_N[n], 0
            count += 1
        amounts_U[count - 1] += amounts_N[n]
        place_N[n] = count - 1
    return count
