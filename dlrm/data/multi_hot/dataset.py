"""A one-hot data set as a multi-hot one: each id becomes a bag when it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import torch

from dlrm.config.data.packed import HashedMultiHot, MlperfMultiHot
from dlrm.data.fingerprint import FileFingerprint
from dlrm.data.multi_hot.hashed import HashedBags
from dlrm.data.multi_hot.lookup import LookupBags
from dlrm.data.multi_hot.recipe import Recipe
from dlrm.data.source import Dataset, Day, Samples, Source
from dlrm.errors import ConfigError
from dlrm.schema import Schema


class Bags(Protocol):
    """Makes bags of one-hot ids."""

    def expand(self, ids_BF: torch.Tensor) -> torch.Tensor:
        """The bags of B samples, ids_BS of the type of ``ids_BF``; the id itself is the first of its bag."""


class MultiHotSource(Source):
    """A split whose ids are bags.

    Args:
        source: the one-hot split.
        schema: its columns, with hotness.
        bags: makes the bags; may be shared between sources and threads.
    """

    def __init__(self, source: Source, schema: Schema, bags: Bags) -> None:
        super().__init__(source.name, schema, source.num_samples)
        self.bad_rows, self.null_id = source.bad_rows, source.null_id
        self.days_are_mixed = source.days_are_mixed
        self.source, self.bags = source, bags

    def read(self, index_B: torch.Tensor) -> Samples:
        """The samples at these indices (int64 (B,)), in this order."""
        samples = self.source.read(index_B)
        return replace(samples, ids_BS=self.bags.expand(samples.ids_BS))

    @property
    def days(self) -> tuple[Day, ...]:
        """Those of the one-hot samples."""
        return self.source.days

    def locate(self, index: int, column: str) -> tuple[str, int]:
        """Where a person finds the one-hot value of ``column`` of a sample: the file and its 1-based row."""
        return self.source.locate(index, column)

    def fingerprint(self) -> tuple[FileFingerprint, ...]:
        """The files of the one-hot samples."""
        return self.source.fingerprint()

    def vocabularies(self) -> Mapping[str, str]:
        """Those of the one-hot samples."""
        return self.source.vocabularies()

    def true_logits(self, index_B: torch.Tensor) -> torch.Tensor | None:
        """Those of the one-hot samples, whose labels these are."""
        return self.source.true_logits(index_B)


def multi_hot_dataset(dataset: Dataset, config: MlperfMultiHot | HashedMultiHot) -> Dataset:
    """Make a multi-hot data set of a one-hot one; its three splits share what makes the bags.

    Raises:
        ConfigError: another number of hotness values than sparse features; tables too large for the recipe.
        SetupError: no room for the recipe's lookup tables.
    """
    schema = multi_hot_schema(dataset.schema, config.hotness, key="data.multi_hot.hotness")
    bags = make_bags(schema, config)
    train, validation, test = (
        MultiHotSource(source, schema, bags) for source in (dataset.train, dataset.validation, dataset.test)
    )
    return Dataset(train, validation, test)


def make_bags(schema: Schema, config: MlperfMultiHot | HashedMultiHot) -> Bags:
    """What makes the configured bags for a schema with hotness."""
    if isinstance(config, MlperfMultiHot):
        return LookupBags(Recipe.of(schema, config.distribution, config.seed), config.cache_dir)
    return HashedBags(schema, distribution=config.distribution, seed=config.seed)


def multi_hot_schema(one_hot: Schema, hotness: Sequence[int], *, key: str) -> Schema:
    """A one-hot schema with hotness: one value a sparse feature, or one for all.

    Raises:
        ConfigError: another number of values; names the option ``key``.
    """
    count = len(one_hot.sparse)
    if len(hotness) not in (1, count):
        message = f"has {len(hotness)} entries, the data has {count} sparse features: give one or as many"
        raise ConfigError.at(key, message)
    values = tuple(hotness) * count if len(hotness) == 1 else hotness
    sparse = tuple(replace(feature, hotness=k) for feature, k in zip(one_hot.sparse, values, strict=True))
    return replace(one_hot, sparse=sparse)
