"""A folder of Parquet files as the three splits of a data set."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, chain

import numpy as np
import torch
from numpy.typing import NDArray

from dlrm.config.data import ParquetData
from dlrm.data.fingerprint import FileFingerprint, fingerprint_of
from dlrm.data.parquet.cache import GroupCache
from dlrm.data.parquet.columns import ColumnMap, mapping_problems, with_lists
from dlrm.data.parquet.decode import DecodedGroup, decode_group, joined, no_samples
from dlrm.data.parquet.files import ParquetPart, find_files, nothing_found, open_part, probe
from dlrm.data.parquet.ids import NULL_ID
from dlrm.data.parquet.vocabulary import digest_of, find_vocabularies, open_vocabulary_files
from dlrm.data.source import Dataset, Day, Samples, Source
from dlrm.errors import ConfigError, DataError

_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class _Group:
    """A row group: of which file, which of it, and the rows of the file before it."""

    part: ParquetPart
    number: int
    rows_before: int

    @property
    def rows(self) -> int:
        return self.part.group_rows[self.number]


class ParquetSource(Source):
    """The rows of some Parquet files, one after the other.

    Only the row groups that the samples lie in are decoded, and of them only the columns that are mapped. Any number
    of threads may read.

    Args:
        name: how messages call it.
        folder: from which the files are named; parts: the files, in order.
        columns: which of their columns are for what.
        cache: where decoded row groups are kept.
        vocabulary_files: from which ids were made besides.
    """

    null_id = NULL_ID

    def __init__(
        self,
        name: str,
        folder: str,
        parts: Sequence[ParquetPart],
        columns: ColumnMap,
        cache: GroupCache,
        vocabulary_files: Sequence[ParquetPart] = (),
    ) -> None:
        own = {os.path.realpath(part.path) for part in parts}
        self._vocabulary_files = [part for part in vocabulary_files if os.path.realpath(part.path) not in own]
        self._folder, self._parts = folder, tuple(parts)
        self.columns = columns
        self._cache = cache
        self._groups = tuple(group for part in parts for group in _groups(part))
        *starts, num_samples = accumulate((group.rows for group in self._groups), initial=0)
        self._start_G = np.array(starts, np.int64)
        super().__init__(name, columns.schema, num_samples)
        self.bad_rows = columns.bad_rows

    @property
    def days(self) -> tuple[Day, ...]:
        """The files that have rows."""
        return tuple(Day(os.path.relpath(part.path, self._folder), part.rows) for part in self._parts if part.rows)

    def locate(self, index: int, column: str) -> tuple[str, int]:
        """The file and the 1-based row in it of a sample; every column of a row is in the same file."""
        at = self._group_of(index)
        group = self._groups[at]
        return group.part.path, group.rows_before + index - int(self._start_G[at]) + 1

    def read(self, index_B: torch.Tensor) -> Samples:
        """The samples at these indices (int64 (B,)), in this order.

        Ids are as stored: null is -1, and an id outside of its table is for :mod:`dlrm.data.check` to judge.

        Raises:
            DataError: see :func:`~dlrm.data.parquet.decode.decode_group`.
        """
        index: NDArray[np.int64] = index_B.numpy()
        group_B = np.searchsorted(self._start_G, index, side="right") - 1
        order = np.argsort(group_B, kind="stable")  # of one group after the other, so that no two are needed at a time
        _, first = np.unique(group_B[order], return_index=True)
        found = joined([self._take(index[places]) for places in np.split(order, first[1:])])
        if (np.diff(order) < 0).any():
            found = found.take(np.argsort(order))
        return Samples(
            dense_BN=torch.from_numpy(found.dense_MN),
            ids_BS=torch.from_numpy(found.ids_MS),
            labels_BT=torch.from_numpy(found.labels_MT),
            lengths_BF=None if found.lengths_MF is None else torch.from_numpy(found.lengths_MF),
            weights_B=None if found.weights_M is None else torch.from_numpy(found.weights_M),
            id_weights_BS=None if found.id_weights_MS is None else torch.from_numpy(found.id_weights_MS),
        )

    def fingerprint(self) -> tuple[FileFingerprint, ...]:
        """The files, known by their footers among others; then those of vocabularies that are not among them."""
        named = [(part, os.path.relpath(part.path, self._folder)) for part in self._parts]
        named += [(part, f"vocabulary/{os.path.basename(part.path)}") for part in self._vocabulary_files]
        return tuple(fingerprint_of(part.path, name, tail_bytes=part.footer_bytes) for part, name in named)

    def vocabularies(self) -> Mapping[str, str]:
        """Of the columns that have one, which follows from all that the vocabulary files hold now."""
        return {name: digest_of(values) for name, values in self.columns.vocabularies.items()}

    def _take(self, index: NDArray[np.int64]) -> DecodedGroup:
        """Samples of one row group, or none."""
        if not len(index):
            return no_samples(self.schema)
        at = self._group_of(int(index[0]))
        return self._decoded(self._groups[at]).take(index - self._start_G[at])

    def _group_of(self, index: int) -> int:
        return int(np.searchsorted(self._start_G, index, side="right")) - 1

    def _decoded(self, group: _Group) -> DecodedGroup:
        decode: Callable[[], DecodedGroup] = partial(decode_group, group.part, group.number, self.columns)
        return self._cache.get((group.part.path, group.number), self.columns.decoded_bytes(group.rows), decode)


def parquet_dataset(config: ParquetData) -> Dataset:
    """Open the files and check what can be checked without reading them whole.

    A split without files is empty. Row groups of all splits share one cache.

    Raises:
        ConfigError: no file to train on, a file in two splits, a column that is not there or of a type that will not do,
            a row group that is larger than the cache, a table with too few rows for its vocabulary.
        DataError: a file that cannot be read, is empty, cut off, encrypted or not Parquet; files without a row.
    """
    columns = ColumnMap.of(config)
    paths = {split: find_files(config.path, getattr(config.files, split), f"data.files.{split}") for split in _SPLITS}
    _check_paths(config, paths)
    parts = {split: [_checked_part(path, columns) for path in found] for split, found in paths.items()}
    columns = with_lists(columns, list(chain.from_iterable(parts.values())))
    vocabulary_files = open_vocabulary_files(config)
    columns = replace(columns, vocabularies=find_vocabularies(config, columns, vocabulary_files))
    cache = GroupCache(int(config.cache_gib * 2**30))
    for split, opened in parts.items():
        _check_rows(split, opened, columns, cache)
    train, validation, test = (
        ParquetSource(f"{config.path} ({split} files)", config.path, parts[split], columns, cache, vocabulary_files)
        for split in _SPLITS
    )
    return Dataset(train=train, validation=validation, test=test)


def _groups(part: ParquetPart) -> Iterator[_Group]:
    before = 0
    for number, rows in enumerate(part.group_rows):
        if rows:
            yield _Group(part, number, before)
        before += rows


def _check_paths(config: ParquetData, paths: dict[str, tuple[str, ...]]) -> None:
    if not paths["train"]:
        raise ConfigError.at("data.files.train", nothing_found(config.path, config.files.train))
    split_of: dict[str, str] = {}
    for split, found in paths.items():
        for path in found:
            if path in split_of:
                message = f"{path} is in {split_of[path]} as well: splits must not share samples"
                raise ConfigError.at(f"data.files.{split}", message)
            split_of[path] = split


def _checked_part(path: str, columns: ColumnMap) -> ParquetPart:
    part = open_part(path)
    problems = mapping_problems(columns, part.columns, path)
    if problems:
        raise ConfigError(problems)
    return part


def _check_rows(split: str, parts: Sequence[ParquetPart], columns: ColumnMap, cache: GroupCache) -> None:
    if parts and not any(part.rows for part in parts):
        hint = f"write the rows, or leave the file out of data.files.{split}"
        raise DataError(parts[0].path, "holds no row", hint=hint)
    for part in parts:
        for group in _groups(part):
            needed = columns.decoded_bytes(group.rows)
            if needed > cache.capacity_bytes:
                message = (
                    f"{part.path}: row group {group.number} ({group.rows:,} rows) takes {_size(needed)} decoded, "
                    f"more than cache_gib {cache.capacity_bytes / 2**30:.3g}: raise it or write smaller row groups"
                )
                raise ConfigError.at("data.cache_gib", message)
    with_rows = next((part for part in parts if part.rows), None)
    if with_rows is not None:
        probe(with_rows, columns.names)


def _size(nbytes: int) -> str:
    return f"{nbytes / 2**30:.2f} GiB" if nbytes >= 2**30 else f"{nbytes / 2**20:.3g} MiB"
