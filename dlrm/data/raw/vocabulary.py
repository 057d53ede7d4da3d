"""Raw categories as ids of an embedding table: numbered by a vocabulary, or hashed. Id 0 is always "missing"."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from dlrm.counter_rng import integers, stream_key
from dlrm.data.raw.raw_rows import MISSING_CATEGORY, Int64s

MISSING_ID = 0
UNSEEN_ID = 1
_FIRST_KEPT_ID = 2


@dataclass(frozen=True)
class Vocabulary:
    """The ids of one column's categories.

    Id 0 is missing, id 1 every category that was not kept (unseen or too rare), ids 2 .. the kept ones.

    Attributes:
        values_K: int64 (K,), the kept categories, ascending.
        ids_K: int64 (K,), the id of each.
    """

    values_K: Int64s
    ids_K: Int64s

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
        return _FIRST_KEPT_ID + len(self.values_K)

    def encode(self, categories_B: Int64s) -> Int64s:
        """The ids int64 (B,) of categories int64 (B,), -1 where missing."""
        ids_B = np.full(categories_B.shape, UNSEEN_ID, np.int64)
        if len(self.values_K):
            nearest_B = np.searchsorted(self.values_K, categories_B).clip(max=len(self.values_K) - 1)
            kept_B = self.values_K[nearest_B] == categories_B
            ids_B[kept_B] = self.ids_K[nearest_B[kept_B]]
        ids_B[categories_B == MISSING_CATEGORY] = MISSING_ID
        return ids_B


def hashed_ids(categories_B: Int64s, *, column: str, rows: int) -> Int64s:
    """Categories hashed over a table: 0 where missing, else 1 .. rows - 1, by a hash of the column's own.

    Args:
        categories_B: int64 (B,), -1 where missing.
        column: name of the column; categories that collide in one column need not do so in another.
        rows: rows of the table, at least 2.
    """
    hash_B = integers(stream_key(0, "category", column), torch.from_numpy(categories_B), rows - 1).numpy()
    return np.where(categories_B == MISSING_CATEGORY, MISSING_ID, 1 + hash_B)
