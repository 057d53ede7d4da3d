"""Raw Criteo files read whole into memory: rows in file order, split, and encoded by what the training rows show."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import torch

from dlrm.config.data import CriteoTsvData, DenseTransform, HashedCategories, IdCategories, Split
from dlrm.data.in_memory import InMemorySource
from dlrm.data.raw.dense_transform import bucket_of, dense_values
from dlrm.data.raw.layout import Layout
from dlrm.data.raw.raw_rows import MISSING_CATEGORY, MISSING_INTEGER, Int64s, RawRows
from dlrm.data.raw.tsv_parse import read_tsv
from dlrm.data.raw.vocabulary import Vocabulary, hashed_ids
from dlrm.data.source import Dataset
from dlrm.errors import ConfigError
from dlrm.schema import Schema, SparseFeature

_INT32_IDS = 2**31  # tables with more rows need int64


@dataclass(frozen=True)
class SplitRows:
    """Rows of each part; they follow each other in this order."""

    train: int
    validation: int
    test: int


@dataclass(frozen=True)
class _SparseColumn:
    feature: SparseFeature
    ids_M: Int64s


def criteo_tsv_dataset(config: CriteoTsvData) -> Dataset:
    """Read, split and encode the files.

    Dense columns are called ``int_0`` .., sparse ones ``cat_0`` .., bucketed dense ones ``int_0_bucket`` ..

    Raises:
        DataError: a file cannot be read or holds a malformed row.
        ConfigError: the split leaves no training row.
    """
    layout = Layout(
        num_dense=config.num_dense,
        num_sparse=config.num_sparse,
        id_rows=_table_rows(config.categories, config.num_sparse)
        if isinstance(config.categories, IdCategories)
        else None,
    )
    rows = read_tsv(config.paths, layout)
    split = split_rows(config.split, len(rows))
    sparse = [_category_column(config, rows, split.train, i) for i in range(config.num_sparse)]
    if config.dense.buckets:
        sparse += [
            _bucket_column(name, raw_M, split.train, config.dense.bucket_min_count)
            for name, raw_M in zip(layout.dense_names, rows.integers_NM, strict=True)
        ]
    schema = Schema(dense=layout.dense_names, sparse=tuple(column.feature for column in sparse))
    dense_MN = _dense_matrix(rows, config.dense, split.train)
    ids_MS = _id_matrix(sparse)
    labels_MT = torch.from_numpy(rows.labels_M)[:, None]

    def part(name: str, first: int, count: int) -> InMemorySource:
        span = slice(first, first + count)
        called = f"{config.paths[0]} ({name})"
        return InMemorySource(called, schema, dense_MN[span], ids_MS[span], labels_MT[span], config.paths)

    return Dataset(
        train=part("training rows", 0, split.train),
        validation=part("validation rows", split.train, split.validation),
        test=part("test rows", split.train + split.validation, split.test),
    )


def split_rows(split: Split, rows: int) -> SplitRows:
    """How many of the rows are for what.

    Raises:
        ConfigError: no training row is left.
    """
    test = _part_rows(split.test, rows)
    validation = _part_rows(split.validation, rows)
    if test + validation >= rows:
        key = "data.split.test" if test >= rows else "data.split.validation"
        message = f"{validation} validation and {test} test rows of {rows} rows leave none for training: take fewer"
        raise ConfigError.at(key, message)
    return SplitRows(train=rows - validation - test, validation=validation, test=test)


def _part_rows(part: float, rows: int) -> int:
    """A fraction of the rows, rounded down, or a number of rows."""
    # In decimals, as the user wrote it: 0.29 * 100 is 28.999999999999996 in binary.
    return int(Decimal(repr(part)) * rows) if part < 1 else int(part)


def _table_rows(categories: HashedCategories | IdCategories, num_sparse: int) -> tuple[int, ...]:
    return categories.rows * num_sparse if len(categories.rows) == 1 else categories.rows


def _category_column(config: CriteoTsvData, rows: RawRows, train_rows: int, i: int) -> _SparseColumn:
    name, raw_M, categories = f"cat_{i}", rows.categories_FM[i], config.categories
    if isinstance(categories, IdCategories):
        return _SparseColumn(SparseFeature(name, _table_rows(categories, config.num_sparse)[i]), raw_M)
    if isinstance(categories, HashedCategories):
        table_rows = _table_rows(categories, config.num_sparse)[i]
        return _SparseColumn(SparseFeature(name, table_rows), hashed_ids(raw_M, column=name, rows=table_rows))
    vocabulary = Vocabulary.of(raw_M[:train_rows], min_count=categories.min_count)
    return _SparseColumn(SparseFeature(name, vocabulary.rows), vocabulary.encode(raw_M))


def _bucket_column(name: str, raw_M: Int64s, train_rows: int, min_count: int) -> _SparseColumn:
    buckets_M = np.where(raw_M == MISSING_INTEGER, MISSING_CATEGORY, bucket_of(raw_M))
    vocabulary = Vocabulary.of(buckets_M[:train_rows], min_count=min_count)
    return _SparseColumn(SparseFeature(f"{name}_bucket", vocabulary.rows), vocabulary.encode(buckets_M))


def _dense_matrix(rows: RawRows, transform: DenseTransform, train_rows: int) -> torch.Tensor:
    """float32 (M, N)."""
    dense_MN = np.empty(rows.integers_NM.shape[::-1], np.float32)
    for i, raw_M in enumerate(rows.integers_NM):
        dense_MN[:, i] = dense_values(raw_M, transform, train_rows=train_rows)
    return torch.from_numpy(dense_MN)


def _id_matrix(columns: list[_SparseColumn]) -> torch.Tensor:
    """int32 (M, S), or int64 where a table has too many rows."""
    wide = any(column.feature.rows > _INT32_IDS for column in columns)
    ids_MS = np.empty((len(columns[0].ids_M), len(columns)), np.int64 if wide else np.int32)
    for i, column in enumerate(columns):
        ids_MS[:, i] = column.ids_M
    return torch.from_numpy(ids_MS)
