"""Parquet files whose columns the configuration maps."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dlrm.config.base import (
    AS_LIST,
    Advanced,
    Column,
    Columns,
    ColumnsIfAny,
    Names,
    NamesIfAny,
    Number,
    PositiveFloat,
    PositiveInt,
    Section,
    Sizes,
)
from dlrm.config.data.packed import BadRows
from dlrm.config.data.paths import InputPath
from dlrm.config.data.sequences import SequenceColumn

IdCounts = Annotated[tuple[PositiveInt, ...], *AS_LIST]


class FileSplit(Section):
    """Which files are for what, as patterns (``*``, ``?``) relative to the folder, in the order of their names.

    What begins with ``_`` or ``.`` (``_SUCCESS``, ``_metadata``) is left out unless a pattern says so.
    """

    train: Names = ("train*.parquet",)
    """Files to train on."""
    validation: NamesIfAny = ("val*.parquet",)
    """Files to validate on; none may match."""
    test: NamesIfAny = ("test*.parquet",)
    """Files to test on; none may match."""


class TextVocabulary(Section):
    """Columns whose values, text or whole numbers of any size, become ids by what the training rows of a folder hold.

    Every rank reads these columns once, at the start: for sets whose distinct values fit into memory. Id 0 is a missing
    value, id 1 one that is not in the vocabulary; the others are numbered from 2 on in ascending order of the values' text.
    """

    columns: ColumnsIfAny = ()
    """Sparse columns of such values. Their table size in rows must have room for all of them and the two other ids."""
    folder: InputPath = ""
    """Folder whose files are read for the vocabulary, usually that of path. It is named by itself, so that other data
    (evaluate --data.path) get the same ids."""
    files: Names = ("train*.parquet",)
    """Which of its files, as patterns."""
    min_count: PositiveInt = 1
    """Rows in which a value must occur to get an id of its own (of a list, each value counts)."""

    @model_validator(mode="after")
    def _columns_of_a_folder(self) -> Self:
        if self.columns and not self.folder:
            raise ValueError("columns are given and folder is not: name the folder of the training files (data.path)")
        return self


class ParquetData(Section):
    """A folder of Parquet files with one row a sample: a label, numbers, and ids or lists of ids.

    Row groups are decoded when they are needed and kept while ``cache_gib`` lasts: read in stored order or shuffle in
    blocks (train.shuffle_block_samples); a shuffle over all rows decodes a row group for every sample. Every file must
    hold all columns; widths of numbers may differ from file to file.
    """

    kind: Literal["parquet"] = "parquet"
    path: InputPath
    """Folder of the files."""
    files: FileSplit = FileSplit()
    label: Column = "label"
    """Column of the label: 0 and 1, or false and true."""
    tasks: ColumnsIfAny = ()
    """Columns of the labels of several tasks, in place of label; the first decides which checkpoint is the best. A null or
    NaN is a label that is missing: the sample trains the other tasks."""
    dense: ColumnsIfAny
    """Columns of numbers, in the model's order; a null or NaN is dense_missing. [] where the data have none."""
    dense_missing: Annotated[float, Number] = 0.0
    """Stands for a null or NaN in a dense column."""
    sparse: Columns
    """Columns of ids or of lists of ids, in the model's order: whole numbers of any type (floats with NaN or nulls,
    decimals, false and true too). A null list is an empty one. Text needs vocabulary.columns."""
    rows: IdCounts
    """Table size of each sparse column; a single number is meant for all. Where a table grows
    (model.tables.<name>.embedding), how many ids there may be: up to 9223372036854775807."""
    hotness: Sizes = (1,)
    """Most ids a sample may have in each sparse column (lists may be shorter); a single number is meant for all."""
    sample_weight: Column | None = None
    """Column of the samples' weights, finite numbers from 0 on: a sample's losses are multiplied by its weight (the sum is
    still divided by the number of samples). A weight of 0 is as if the sample were not there."""
    id_weights: dict[Column, Column] = Field(default_factory=dict)
    """Columns of the weights of ids, by sparse column: finite numbers from 0 on, as many in a row as there are ids. An
    embedding is multiplied by its id's weight before it is pooled, and a mean is the weighted one. Without weights: 1."""
    vocabulary: TextVocabulary = TextVocabulary()
    sequences: dict[Column, SequenceColumn] = Field(default_factory=dict)
    """Columns of histories, by name, beside those of sparse: {clicked: {item: item_id, max_length: 50}}."""
    cache_gib: Advanced[PositiveFloat] = 1.0
    """Memory of a rank for decoded row groups; the largest must fit."""
    bad_rows: BadRows = "error"
    """As for packed data. A null (or NaN) id is outside of every table and counts as -1. A list of more than hotness ids
    and a number that is not whole are errors unless skipped."""

    @model_validator(mode="after")
    def _path_and_one_entry_per_column(self) -> Self:
        if not self.path:
            raise ValueError("path is empty: name the folder of the files")
        for name, given in (("rows", self.rows), ("hotness", self.hotness)):
            if len(given) not in (1, len(self.sparse)):
                raise ValueError(
                    f"{name} has {len(given)} entries, sparse names {len(self.sparse)} columns: give one or as many"
                )
        for column in self.vocabulary.columns:
            if column not in self.sparse:
                raise ValueError(
                    f"vocabulary.columns names {column}, which is no column of sparse: name it there as well"
                )
        for column in self.id_weights:
            if column not in self.sparse:
                raise ValueError(f"id_weights names {column}, which is no column of sparse: weights are those of ids")
        for name, sequence in self.sequences.items():
            if sequence.item not in self.sparse:
                raise ValueError(f"sequences.{name}.item is {sequence.item}, which sparse does not name")
            if sequence.item in self.vocabulary.columns:
                raise ValueError(
                    f"sequences.{name}.item is {sequence.item}, which is in vocabulary.columns, and histories have no "
                    "vocabulary: write both columns as ids"
                )
        weights = [self.sample_weight, *self.id_weights.values()]
        columns = [*(self.tasks or (self.label,)), *self.dense, *self.sparse, *self.sequences]
        if used := sorted({column for column in columns if column in weights}):
            raise ValueError(
                f"column {used[0]} is named as weights, too: every column is label, dense, sparse, a sequence or weights"
            )
        twice = sorted({column for column in columns if columns.count(column) > 1})
        if twice:
            raise ValueError(f"column {twice[0]} is named twice: every column is label, dense, sparse or a sequence")
        return self
