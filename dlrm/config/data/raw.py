"""Raw Criteo files, read as they are, and the transforms that preprocessing shares with that."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from dlrm.config.base import NonNegativeFloat, Number, PositiveFloat, PositiveInt, Section, Sizes
from dlrm.config.data.paths import InputPath, InputPaths


def _some(value: object) -> object:
    if value == 0 and not isinstance(value, bool):
        raise ValueError(
            "is 0, but rows of Criteo's format have integers between label and categories: data without dense features are "
            "read from Parquet or packed files"
        )
    return value


IntegerColumns = Annotated[PositiveInt, BeforeValidator(_some)]
"""How many integers a row has."""


class VocabularyCategories(Section):
    """A vocabulary of the training rows numbers the categories: 0 missing, 1 unseen or rare, then by count."""

    kind: Literal["vocabulary"] = "vocabulary"
    min_count: PositiveInt = 1
    """Training rows in which a category must occur to get an id of its own."""


class HashedCategories(Section):
    """Hexadecimal categories hashed into a fixed number of rows: 0 missing, the rest 1 .. rows - 1."""

    kind: Literal["hashing"] = "hashing"
    rows: Sizes
    """Table size of each sparse column; a single number is meant for all."""

    @model_validator(mode="after")
    def _room_beside_missing(self) -> Self:
        if 1 in self.rows:
            raise ValueError("rows has a table of 1 row, which id 0 (missing) takes: give every table at least 2")
        return self


class IdCategories(Section):
    """Categories that are already decimal ids 0 .. rows - 1; an id beyond its table is an error."""

    kind: Literal["ids"] = "ids"
    rows: Sizes
    """Table size of each sparse column; a single number is meant for all."""


class DenseTransform(Section):
    """x -> log(max(x, minimum) + shift), the same for every file and split; then optionally standardised."""

    shift: PositiveFloat = 3.0
    """Added before the logarithm."""
    minimum: Annotated[float, Number] = -2.0
    """Smaller values are clamped to this one."""
    missing: Annotated[float, Number] | Literal["mean"] = 0.0
    """Stands for an empty field, before the transform; mean: the mean of the column's training rows, after it."""
    standardise: bool = False
    """Subtract the mean and divide by the standard deviation of the training rows that have a value."""
    buckets: bool = False
    """Add every dense column a second time, as a sparse feature of logarithmic buckets (missing has its own)."""
    bucket_min_count: PositiveInt = 1
    """Training rows in which a bucket must occur to get an id of its own."""

    @model_validator(mode="after")
    def _inside_the_logarithm(self) -> Self:
        for name, value in (("minimum", self.minimum), ("missing", self.missing)):
            if value != "mean" and value + self.shift <= 0:
                raise ValueError(f"{name} + shift is {value + self.shift:g}, outside of the logarithm: raise shift")
        return self


class Split(Section):
    """Rows in file order: training, then validation, then test. A number below 1 is a fraction of all rows."""

    validation: NonNegativeFloat = 0.1
    """Rows (or fraction of all rows) just before the test rows."""
    test: NonNegativeFloat = 0.1
    """Rows (or fraction of all rows) at the end."""

    @model_validator(mode="after")
    def _whole_rows_and_some_for_training(self) -> Self:
        for name, value in (("validation", self.validation), ("test", self.test)):
            if value >= 1 and value != int(value):
                raise ValueError(f"{name} is {value:g}: give a fraction below 1 or a whole number of rows")
        if max(self.validation, self.test) < 1 <= self.validation + self.test:
            raise ValueError(
                f"validation ({self.validation:g}) and test ({self.test:g}) leave no rows for training: their sum must "
                "be below 1"
            )
        return self


class CriteoTsvData(Section):
    """Raw Criteo files (label, integers, hexadecimal categories; tab separated), read whole into memory.

    For thousands to a few million rows; plain or gzip. Every rank reads the files.
    """

    kind: Literal["criteo_tsv"] = "criteo_tsv"
    paths: InputPaths
    """Files, in time order; together they are one sequence of rows."""
    num_dense: IntegerColumns = 13
    """Integer columns after the label."""
    num_sparse: PositiveInt = 26
    """Category columns after the integers."""
    split: Split = Split()
    categories: Annotated[
        VocabularyCategories | HashedCategories | IdCategories, Field(discriminator="kind")
    ] = VocabularyCategories()  # fmt: skip
    dense: DenseTransform = DenseTransform()
    vocabulary_from: InputPath = ""
    """Folder of a data set that preprocess has written: categories and dense values are encoded as it has them, categories
    that it does not know get the id of unseen ones, and nothing is fitted. num_dense, num_sparse, categories and dense are
    as it has them."""

    @model_validator(mode="after")
    def _files_and_one_table_per_column(self) -> Self:
        if not any(self.paths) or not all(self.paths):
            raise ValueError("paths holds an empty name")
        if isinstance(self.categories, VocabularyCategories):
            return self
        rows = self.categories.rows
        if len(rows) not in (1, self.num_sparse):
            raise ValueError(
                f"categories.rows has {len(rows)} entries, num_sparse is {self.num_sparse}: give one or as many"
            )
        return self
