"""Raw rows as the numbers and ids of a model: what was seen in the training rows, and its application to any row.

Fitting looks at training rows and leaves constants and vocabularies; applying is the same for the rows of a file and for a
row that somebody asks about years later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dlrm.config.data import CriteoTsvData, HashedCategories, IdCategories
from dlrm.data.raw.dense_transform import DenseColumns, DenseConstants, bucket_of
from dlrm.data.raw.log_table import Float32s, LogTable, log_values
from dlrm.data.raw.raw_rows import MISSING_CATEGORY, MISSING_INTEGER, Int64s, RawRows
from dlrm.data.raw.sparse_ids import SparseIds
from dlrm.data.raw.vocabulary import Categories, DecimalIds, HashedIds, Vocabulary
from dlrm.schema import Schema, SparseFeature

Ids = npt.NDArray[np.int32] | npt.NDArray[np.int64]

_INT32_IDS = 2**31  # tables with more rows need int64


class DenseEncoding(Protocol):
    """Makes the dense values of N columns."""

    def encode(self, raw_NM: Int64s) -> Float32s:
        """float32 (M, N) of integers int64 (N, M), the lowest int64 where missing."""


@dataclass(frozen=True)
class TableDense:
    """The dense values that preprocessing makes (:mod:`~dlrm.data.raw.log_table`)."""

    transform: LogTable

    def encode(self, raw_NM: Int64s) -> Float32s:
        """See :class:`DenseEncoding`."""
        return log_values(raw_NM, self.transform)


class RawEncoding:
    """How raw rows become dense values and ids.

    Args:
        dense_names: of the N integer columns.
        dense: makes their values.
        categories: of each category column, by name, how it becomes ids.
        buckets: of each integer column, the vocabulary of its buckets; none where they are no features.
    """

    def __init__(
        self,
        dense_names: Sequence[str],
        dense: DenseEncoding,
        categories: dict[str, Categories],
        buckets: Sequence[Vocabulary] = (),
    ) -> None:
        self.dense_names, self.dense = tuple(dense_names), dense
        self.categories, self.buckets = categories, tuple(buckets)
        self._ids = SparseIds([*categories.values(), *buckets])
        self._narrow = max(self._ids.rows) <= _INT32_IDS

    @classmethod
    def fit(cls, train: RawRows, config: CriteoTsvData) -> RawEncoding:
        """The encoding of the training rows: their vocabularies and constants."""
        names = tuple(f"int_{i}" for i in range(config.num_dense))
        constants = [DenseConstants.of(raw_M, config.dense) for raw_M in train.integers_NM]
        buckets = []
        if config.dense.buckets:
            minimum = config.dense.bucket_min_count
            buckets = [Vocabulary.of(raw_M, min_count=minimum) for raw_M in buckets_of(train.integers_NM)]
        return cls(
            names,
            DenseColumns(config.dense.minimum, config.dense.shift, constants),
            {f"cat_{i}": _categories(config, i, raw_M) for i, raw_M in enumerate(train.categories_FM)},
            buckets,
        )

    @property
    def sparse(self) -> tuple[SparseFeature, ...]:
        """The sparse features; those of buckets are called ``int_0_bucket`` .. and follow the categories."""
        names = [*self.categories, *(f"{name}_bucket" for name, _ in zip(self.dense_names, self.buckets, strict=False))]
        return tuple(SparseFeature(name, rows) for name, rows in zip(names, self._ids.rows, strict=True))

    @property
    def schema(self) -> Schema:
        """The columns of a sample."""
        return Schema(dense=self.dense_names, sparse=self.sparse)

    @property
    def is_complete(self) -> bool:
        """Whether every category has an id."""
        return self._ids.is_complete

    def encode(self, integers_NM: Int64s, categories_FM: Int64s) -> tuple[Float32s, Ids]:
        """The dense values and ids of M rows (:class:`~dlrm.data.raw.raw_rows.RawRows`).

        Returns:
            float32 (M, N); int32, or int64 where a table has too many rows, (M, S). -1 is a category without an id, which
            there can be unless the encoding ``is_complete``.
        """
        raw_CM = np.concatenate([categories_FM, buckets_of(integers_NM)]) if self.buckets else categories_FM
        ids_MS = self._ids.encode(raw_CM)
        return self.dense.encode(integers_NM), ids_MS.astype(np.int32) if self._narrow else ids_MS


def buckets_of(integers: Int64s) -> Int64s:
    """The buckets of integers of any shape, as raw categories: -1 where missing."""
    return np.where(integers == MISSING_INTEGER, MISSING_CATEGORY, bucket_of(integers))


def table_rows(categories: HashedCategories | IdCategories, num_sparse: int) -> tuple[int, ...]:
    """The size of each column's table."""
    return categories.rows * num_sparse if len(categories.rows) == 1 else categories.rows


def _categories(config: CriteoTsvData, i: int, train_M: Int64s) -> Categories:
    categories = config.categories
    if isinstance(categories, IdCategories):
        return DecimalIds(table_rows(categories, config.num_sparse)[i])
    if isinstance(categories, HashedCategories):
        return HashedIds(f"cat_{i}", table_rows(categories, config.num_sparse)[i])
    return Vocabulary.of(train_M, min_count=categories.min_count)
