"""The rules by which ids become rows, whole numbers throughout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from dlrm.compiled import compiled
from dlrm.counter_rng import mix64, stream_key

MOST_FUNCTIONS = 16
RuleKind = Literal["id", "remainder", "quotient", "hash"]


@dataclass(frozen=True)
class Rule:
    """How the ids of a lookup become rows.

    Attributes:
        kind: ``id``: they are; ``remainder``: id modulo ``size``; ``quotient``: id divided by it, rounded down; ``hash``: a
            hash of the id (SplitMix64's) modulo it, one for each of ``keys``, which makes as many rows of an id.
        size: see there.
        keys: int64, of the hashes.
        first: of a hash: ids below are rows themselves, and hashes count from there.
    """

    kind: RuleKind = "id"
    size: int = 1
    keys: tuple[int, ...] = ()
    first: int = 0

    @property
    def rows_per_id(self) -> int:
        """Rows that an id becomes."""
        return len(self.keys) or 1

    def rows(self, ids: torch.Tensor, out: torch.Tensor) -> None:
        """Write the rows of ids.

        Args:
            ids: int32 or int64 (N,), not negative, on the CPU.
            out: int32 or int64 (N * rows_per_id,), wide enough for the rows: those of the first id, then of the second, ...
        """
        match self.kind:
            case "id":
                out.copy_(ids)
            case "remainder":
                _remainders(ids.numpy(), self.size, out.numpy())
            case "quotient":
                _quotients(ids.numpy(), self.size, out.numpy())
            case "hash":
                keys = np.array(self.keys, np.int64).view(np.uint64)
                _hashes(ids.numpy(), keys, np.uint64(self.size), self.first, out.numpy())


IDS = Rule()


def hash_keys(table: str, functions: int) -> tuple[int, ...]:
    """The keys of hash functions that do not depend on each other, nor on those of other tables."""
    return tuple(stream_key(0, "lookup", table, number) for number in range(functions))


@compiled
def _remainders(ids_N: NDArray[np.int64], size: int, out_N: NDArray[np.int64]) -> None:
    for n in range(len(ids_N)):
        out_N[n] = np.int64(ids_N[n]) % size


@compiled
def _quotients(ids_N: NDArray[np.int64], size: int, out_N: NDArray[np.int64]) -> None:
    for n in range(len(ids_N)):
        out_N[n] = np.int64(ids_N[n]) // size


@compiled
def _hashes(
    ids_N: NDArray[np.int64], keys_K: NDArray[np.uint64], size: np.uint64, first: int, out_N: NDArray[np.int64]
) -> None:
    """The highest bit is left out, as :func:`dlrm.counter_rng.integers` does."""
    place = 0
    for n in range(len(ids_N)):
        for key in keys_K:
            row = np.int64(ids_N[n])
            if row >= first:
                row = first + np.int64((mix64(key, np.uint64(row)) >> np.uint64(1)) % size)
            out_N[place] = row
            place += 1
