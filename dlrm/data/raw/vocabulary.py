"""Raw categories as ids of an embedding table: numbered by a vocabulary, or hashed. Id 0 is always "missing"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from dlrm.counter_rng import integers, stream_key
from dlrm.data.raw.raw_rows import MISSING_CATEGORY, Int64s

MISSING_ID = 0
UNSEEN_ID = 1
NO_ID = -1
"""Where there is no id for a missing category, or for one that is not in the vocabulary."""
_FIRST_KEPT_ID = 2


class Reserved(NamedTuple):
    """The ids of a missing category, of one that is not in the vocabulary, and of the lowest value in it."""

    missing: int
    absent: int
    first: int


def reserved_ids(values_K: npt.NDArray[np.uint32], reserved: Literal["separate", "mlperf"]) -> Reserved:
    """The ids that are set apart with a vocabulary, :data:`NO_ID` where there is none.

    Args:
        values_K: uint32 (K,), ascending.
        reserved: as configured.
    """
    if reserved == "separate":
        return Reserved(MISSING_ID, UNSEEN_ID, UNSEEN_ID + 1)
    has_0 = len(values_K) > 0 and values_K[0] == 0  # what a missing category is then
    return Reserved(0 if has_0 else NO_ID, NO_ID, 0)


@dataclass(frozen=True)
class Vocabulary:
    """The ids of one column's categories.

    Unless said otherwise, id 0 is missing, id 1 every category that was not kept (unseen or too rare), ids 2 .. the kept
    ones.

    Attributes:
        values_K: the kept categories, ascending, int64 or uint32 (K,); may be a memory map.
        ids_K: int64 (K,), the id of each; None: they ascend with the values, from ``first`` on.
        missing, unseen: the ids with a meaning of their own; :data:`NO_ID` where there is none.
        first: the lowest id of a kept category.
    """

    values_K: Int64s | npt.NDArray[np.uint32]
    ids_K: Int64s | None
    missing: int = MISSING_ID
    unseen: int = UNSEEN_ID
    first: int = _FIRST_KEPT_ID

    @classmethod
    def of(cls, train_B: Int64s, *, min_count: int) -> Vocabulary:
        """The vocabulary of the training rows: ids by descending count, equal counts by ascending value.

        Args:
            train_B: int64 (B,), categories of the training rows, -1 where missing.
            min_count: occurrences that a category needs to be kept.
        """
        values, counts = np.unique(train_B[train_B != MISSING_CATEGORY], return_counts=True)
        kept = counts >= min_count
        values_K, counts_K = values[kept], counts[kept]
        ids_K = np.empty(len(values_K), np.int64)
        ids_K[np.lexsort((values_K, -counts_K))] = np.arange(len(values_K)) + _FIRST_KEPT_ID
        return cls(values_K, ids_K)

    @property
    def rows(self) -> int:
        """Rows of the column's embedding table."""
        return self.first + len(self.values_K)

    @property
    def is_complete(self) -> bool:
        """Whether every category, a missing one too, has an id."""
        return NO_ID not in (self.missing, self.unseen)


@dataclass(frozen=True)
class HashedIds:
    """Categories hashed over a table as :func:`hashed_ids` says; the column's name is part of the hash."""

    column: str
    rows: int


@dataclass(frozen=True)
class DecimalIds:
    """Categories that are ids of their table already; whoever reads them sees to it."""

    rows: int


Categories = Vocabulary | HashedIds | DecimalIds
"""How the categories of a column become ids."""


def hash_key(column: str) -> int:
    """The key of a column's hash."""
    return stream_key(0, "category", column)


def hashed_ids(categories_B: Int64s, *, column: str, rows: int) -> Int64s:
    """Categories hashed over a table: 0 where missing, else 1 .. rows - 1, by a hash of the column's own.

    Args:
        categories_B: int64 (B,), -1 where missing.
        column: name of the column; categories that collide in one column need not do so in another.
        rows: rows of the table, at least 2.
    """
    hash_B = integers(hash_key(column), torch.from_numpy(categories_B), rows - 1).numpy()
    return np.where(categories_B == MISSING_CATEGORY, MISSING_ID, 1 + hash_B)
