"""Raw Criteo files read whole into memory: rows in file order, split, and encoded by what the training rows show."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import torch

from dlrm.config.data import CriteoTsvData, IdCategories, Split, VocabularyCategories
from dlrm.data.in_memory import InMemorySource
from dlrm.data.packed.manifest import MANIFEST_NAME
from dlrm.data.packed.naming import read_manifest
from dlrm.data.packed.raw_encoding import adopted_parameters, recorded_encoding
from dlrm.data.raw.encoding import RawEncoding, table_rows
from dlrm.data.raw.layout import Layout
from dlrm.data.raw.raw_rows import RawRows
from dlrm.data.raw.tsv_parse import read_tsv
from dlrm.data.source import Dataset, Day
from dlrm.errors import ConfigError


@dataclass(frozen=True)
class SplitRows:
    """Rows of each part; they follow each other in this order."""

    train: int
    validation: int
    test: int


class CriteoTsvSource(InMemorySource):
    """A split of raw files.

    Args:
        encoding: what the training rows showed, by which the samples of every split were encoded.
        name, dense_MN, ids_MS, labels_MT, paths, days: see :class:`~dlrm.data.in_memory.InMemorySource`.
    """

    def __init__(
        self,
        encoding: RawEncoding,
        name: str,
        dense_MN: torch.Tensor,
        ids_MS: torch.Tensor,
        labels_MT: torch.Tensor,
        paths: tuple[str, ...],
        days: tuple[Day, ...],
    ) -> None:
        super().__init__(name, encoding.schema, dense_MN, ids_MS, labels_MT, paths, days)
        self.encoding = encoding


def criteo_tsv_dataset(config: CriteoTsvData) -> Dataset:
    """Read, split and encode the files.

    Dense columns are called ``int_0`` .., sparse ones ``cat_0`` .., bucketed dense ones ``int_0_bucket`` ..

    Raises:
        DataError: a file cannot be read or holds a malformed row.
        ConfigError: the split leaves no training row.
    """
    adopted = _adopted(config) if config.vocabulary_from else None
    if adopted is not None:
        config, encoding = adopted
    layout = Layout(
        num_dense=config.num_dense,
        num_sparse=config.num_sparse,
        id_rows=table_rows(config.categories, config.num_sparse)
        if isinstance(config.categories, IdCategories)
        else None,
    )
    by_file = [read_tsv([path], layout) for path in config.paths]
    rows = RawRows.concatenated(by_file)
    split = split_rows(config.split, len(rows))
    paths = config.paths
    if adopted is None:
        encoding = RawEncoding.fit(rows[: split.train], config)
    else:
        paths = (*paths, os.path.join(config.vocabulary_from, MANIFEST_NAME))  # by which the run knows its vocabularies
    dense_MN, ids_MS = map(torch.from_numpy, encoding.encode(rows.integers_NM, rows.categories_FM))
    labels_MT = torch.from_numpy(rows.labels_M)[:, None]

    def part(name: str, first: int, count: int) -> CriteoTsvSource:
        span = slice(first, first + count)
        called = f"{config.paths[0]} ({name})"
        days = _days(config.paths, [len(of_file) for of_file in by_file], span)
        return CriteoTsvSource(encoding, called, dense_MN[span], ids_MS[span], labels_MT[span], paths, days)

    return Dataset(
        train=part("training rows", 0, split.train),
        validation=part("validation rows", split.train, split.validation),
        test=part("test rows", split.train + split.validation, split.test),
    )


def _days(paths: Sequence[str], rows: Sequence[int], span: slice) -> tuple[Day, ...]:
    """What of each file lies in a stretch of all rows."""
    ends = list(itertools.accumulate(rows))
    shared = [min(end, span.stop) - max(end - count, span.start) for end, count in zip(ends, rows, strict=True)]
    return tuple(Day(os.path.basename(path), count) for path, count in zip(paths, shared, strict=True) if count > 0)


def _adopted(config: CriteoTsvData) -> tuple[CriteoTsvData, RawEncoding]:
    """The options that the data set of ``vocabulary_from`` decides, and its encoding."""
    folder = config.vocabulary_from
    manifest = read_manifest(folder)
    parameters = adopted_parameters(folder, manifest, config, key="data.vocabulary_from")
    assert manifest is not None  # there are no parameters without
    encoding = recorded_encoding(manifest, folder)
    assert encoding is not None  # nor without an encoding
    columns = {"num_dense": parameters.num_dense, "num_sparse": parameters.num_sparse}
    return config.model_copy(update={**columns, "categories": VocabularyCategories()}), encoding


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
