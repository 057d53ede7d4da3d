"""What an export's manifest says of how raw rows become features; vocabularies are arrays beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from dlrm.checkpoint.manifest import Record, first_fault
from dlrm.config.data.packed import HashedMultiHot, MlperfMultiHot
from dlrm.data.packed.manifest import ColumnName
from dlrm.schema import SparseFeature

Finite = Annotated[float, Field(allow_inf_nan=False)]
Rows = Annotated[int, Field(gt=0, le=2**40)]
MOST_HOTNESS = 2**16
"""Ids that a bag may have."""
MOST_IDS = 2**20
"""Ids that a row may have, those of all its bags; memory for them is taken before there is a row."""
Hotness = Annotated[int, Field(gt=0, le=MOST_HOTNESS)]
Beyond = Literal["error", "hash", "clamp"]
"""What becomes of an id outside of its table: as in training, where ``skip`` is an error here."""


class BagsRecord(Record):
    """Bags that are made of one-hot ids, as in training (:mod:`dlrm.data.multi_hot`).

    Attributes:
        kind: hashed, or MLPerf's recipe; hotness: of each feature, or one for all; distribution, seed: of the further ids.
    """

    kind: Literal["hashed", "mlperf"]
    hotness: Annotated[tuple[Hotness, ...], Field(min_length=1)]
    distribution: Literal["uniform", "pareto"]
    seed: int

    @model_validator(mode="after")
    def _training_has_such_bags(self) -> Self:
        try:
            self.options()
        except ValidationError as error:
            raise ValueError(first_fault(error)) from None
        return self

    def options(self) -> HashedMultiHot | MlperfMultiHot:
        """The options that make these bags."""
        if self.kind == "hashed":
            return HashedMultiHot(hotness=self.hotness, distribution=self.distribution, seed=self.seed)
        return MlperfMultiHot(hotness=self.hotness, distribution=self.distribution, seed=self.seed)


class _Rows(Record):
    """What both kinds of raw rows have.

    Attributes:
        tasks: what is predicted, by the names of the labels.
        beyond: what becomes of an id outside of its table.
        bags: what makes several ids of one; None where nothing does.
    """

    tasks: Annotated[tuple[ColumnName, ...], Field(min_length=1)]
    beyond: Beyond = "error"
    bags: BagsRecord | None = None

    def _require_few_ids(self, hotness: Sequence[int]) -> None:
        """See that a row is no more ids than memory is to be taken for; hotness of each feature without bags."""
        ids = sum(hotness)
        if self.bags is not None:
            ids = sum(self.bags.hotness) * (len(hotness) if len(self.bags.hotness) == 1 else 1)
        if ids > MOST_IDS:
            raise ValueError(f"has {ids:,} ids a row, more than {MOST_IDS:,}")


class IdColumnRecord(Record):
    """A column of ids, or of lists of at most ``hotness`` ids, of a table with so many rows."""

    name: ColumnName
    rows: Rows
    hotness: Hotness = 1
    lists: bool = False

    @model_validator(mode="after")
    def _several_ids_are_a_list(self) -> Self:
        if self.hotness > 1 and not self.lists:
            raise ValueError(f"has one id a row and hotness {self.hotness}")
        return self

    @property
    def feature(self) -> SparseFeature:
        """Of the model."""
        return SparseFeature(self.name, self.rows, self.hotness)


class EncodedRecord(_Rows):
    """Raw rows that are numbers and ids already.

    Attributes:
        dense: names of the numbers; dense_missing: what stands for one that is missing, None where none may be.
        sparse: the ids; null_ids: whether an id may be missing, which is then id -1 (for ``beyond`` to deal with).
    """

    kind: Literal["encoded"] = "encoded"
    dense: tuple[ColumnName, ...]
    dense_missing: Finite | None = None
    sparse: Annotated[tuple[IdColumnRecord, ...], Field(min_length=1)]
    null_ids: bool = False

    @model_validator(mode="after")
    def _columns_differ_and_bags_are_made_of_single_ids(self) -> Self:
        names = [*self.dense, *(column.name for column in self.sparse)]
        if len(set(names)) != len(names):
            raise ValueError("lists a column twice")
        if self.bags is not None and any(column.lists for column in self.sparse):
            raise ValueError("has bags to be made of lists")
        self._require_few_ids([column.hotness for column in self.sparse])
        return self

    @property
    def table_rows(self) -> tuple[int, ...]:
        """Of each feature's table."""
        return tuple(column.rows for column in self.sparse)


class DenseColumnRecord(Record):
    """An integer column: log(max(x, minimum) + shift), less ``mean``, divided by ``deviation``.

    Attributes:
        missing: what stands for a missing integer after the logarithm.
    """

    name: ColumnName
    missing: Finite
    mean: Finite = 0.0
    deviation: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0


class DenseRecord(Record):
    """The integer columns.

    Attributes:
        logarithm: by whom it is taken: numpy, as where raw files are read, or preprocess, which looks small integers up.
            They agree but for the last bit of few values.
    """

    logarithm: Literal["numpy", "preprocess"]
    minimum: Finite
    shift: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    columns: Annotated[tuple[DenseColumnRecord, ...], Field(min_length=1)]


Id = Annotated[int, Field(ge=0, le=2**40)]


class VocabularyRecord(Record):
    """Categories with ids of their own: the array ``<name>.values``, ascending.

    Attributes:
        rows: ids in all; missing, unseen: the ids of a missing category, and of one that is not in the vocabulary; None
            where there is none.
        first: the lowest id of a value; ascending: whether ids ascend with the values. Otherwise they are the array
            ``<name>.ids``.
    """

    kind: Literal["vocabulary"] = "vocabulary"
    name: ColumnName
    rows: Rows
    missing: Id | None
    unseen: Id | None
    first: Id
    ascending: bool


class HashedRecord(Record):
    """Categories hashed over a table by the column's name: 0 missing, else 1 .. rows - 1."""

    kind: Literal["hashing"] = "hashing"
    name: ColumnName
    rows: Annotated[int, Field(gt=1, le=2**40)]


class DecimalRecord(Record):
    """Decimal ids of a table; none may be missing."""

    kind: Literal["ids"] = "ids"
    name: ColumnName
    rows: Rows


CategoryRecord = Annotated[VocabularyRecord | HashedRecord | DecimalRecord, Field(discriminator="kind")]


class CriteoRecord(_Rows):
    """Raw rows of Criteo's format: integers and categories.

    Attributes:
        dense: the integers; categories: the categories.
        buckets: the vocabularies of the integers' buckets, where these are further sparse features.
        rows: table sizes where they are others than the ids need; None where not.
    """

    kind: Literal["criteo"] = "criteo"
    dense: DenseRecord
    categories: Annotated[tuple[CategoryRecord, ...], Field(min_length=1)]
    buckets: tuple[VocabularyRecord, ...] = ()
    rows: tuple[Rows, ...] | None = None

    @model_validator(mode="after")
    def _a_row_has_few_ids(self) -> Self:
        self._require_few_ids([1] * (len(self.categories) + len(self.buckets)))
        return self

    @property
    def table_rows(self) -> tuple[int, ...]:
        """Of each feature's table."""
        needed = tuple(column.rows for column in (*self.categories, *self.buckets))
        return needed if self.rows is None else self.rows


PreprocessingRecord = Annotated[EncodedRecord | CriteoRecord, Field(discriminator="kind")]
"""Part of an export's manifest."""
