"""What a batch holds of a column by which samples are divided into slices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from dlrm.data.batch import Batch
from dlrm.errors import ConfigError
from dlrm.format import did_you_mean, escaped
from dlrm.schema import Schema

ABSENT = -1
"""The value of a sample that has none: an empty bag, a label that is missing."""
LENGTH = ":length"


class DiscreteColumn(Protocol):
    """A column whose values are whole numbers.

    Attributes:
        name: as it was asked for; size: values are :data:`ABSENT`, 0, .. size - 1.
        absent: how a sample without a value is called.
    """

    @property
    def name(self) -> str:
        """As it was asked for."""

    @property
    def size(self) -> int:
        """Values are :data:`ABSENT`, 0, .. size - 1."""

    @property
    def absent(self) -> str:
        """How a sample without a value is called."""

    def values(self, batch: Batch) -> torch.Tensor:
        """int64 (B,), of a batch on the host; anything for padding."""


@dataclass(frozen=True)
class FirstId:
    """The first id of a sparse feature, the only one where there is one a sample."""

    name: str
    feature: int
    size: int
    absent: str = "none"

    def values(self, batch: Batch) -> torch.Tensor:
        """int64 (B,)."""
        lengths_B, ids = bags(batch, self.feature)
        first_B = torch.full((len(lengths_B),), ABSENT, dtype=torch.int64)
        filled_B = lengths_B > 0
        starts_B = lengths_B.cumsum(0) - lengths_B
        first_B[filled_B] = ids[starts_B[filled_B]].to(torch.int64)
        return first_B


@dataclass(frozen=True)
class Length:
    """How many ids of a sparse feature a sample has."""

    name: str
    feature: int
    size: int
    absent: str = ""

    def values(self, batch: Batch) -> torch.Tensor:
        """int64 (B,)."""
        return bags(batch, self.feature)[0]


@dataclass(frozen=True)
class Label:
    """The label of a task."""

    name: str
    task: int
    size: int = 2
    absent: str = "missing"

    def values(self, batch: Batch) -> torch.Tensor:
        """int64 (B,)."""
        labels_B = batch.labels[:, self.task].to(torch.int64)
        return torch.where(batch.weights[:, self.task] > 0, labels_B, ABSENT)


@dataclass(frozen=True)
class Dense:
    """A number."""

    name: str
    place: int

    def values(self, batch: Batch) -> torch.Tensor:
        """float32 (B,)."""
        return batch.dense[:, self.place]


Column = FirstId | Length | Label | Dense


def bags(batch: Batch, feature: int) -> tuple[torch.Tensor, torch.Tensor]:
    """How many ids each sample has, int64 (B,), and all ids of the feature, one sample's after the other's."""
    size = batch.sparse.stride()
    lengths_B = batch.sparse.lengths().view(-1, size)[feature].to(torch.int64)
    starts = batch.sparse.offset_per_key()
    return lengths_B, batch.sparse.values()[starts[feature] : starts[feature + 1]]


def counted(batch: Batch) -> torch.Tensor:
    """The samples that are scored, of one task at least; bool (B,)."""
    return batch.weights.any(dim=1)


def find_columns(names: tuple[str, ...], schema: Schema) -> list[Column]:
    """The columns that were asked for.

    Raises:
        ConfigError: there is none of that name; the nearest.
    """
    columns = []
    for name in dict.fromkeys(names):
        column = _find(name, schema)
        if column is None:
            known = [*schema.dense, *(feature.name for feature in schema.sparse), *schema.tasks]
            hint = did_you_mean(name, known) or f"there are {escaped(known[0])} .. {escaped(known[-1])}"
            raise ConfigError.at("slices", f"the data have no column {escaped(name)}; {hint}")
        columns.append(column)
    return columns


def _find(name: str, schema: Schema) -> Column | None:
    for place, feature in enumerate(schema.sparse):
        if name == feature.name:
            return FirstId(name, place, feature.rows)
    if name in schema.dense:
        return Dense(name, schema.dense.index(name))
    if name in schema.tasks:
        return Label(name, schema.tasks.index(name))
    for place, feature in enumerate(schema.sparse):
        if name == f"{feature.name}{LENGTH}":
            return Length(name, place, feature.hotness + 1)
    return None
