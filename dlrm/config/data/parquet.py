"""Parquet files whose columns the configuration maps."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dlrm.config.base import (
    Advanced,
    Column,
    Columns,
    ColumnsIfAny,
    Names,
    NamesIfAny,
    Number,
    PositiveFloat,
    Section,
    Sizes,
)
from dlrm.config.data.packed import BadRows
from dlrm.config.data.paths import InputPath
from dlrm.config.data.sequences import SequenceColumn


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
    decimals, false and true too). A null list is an empty one."""
    rows: Sizes
    """Table size of each sparse column; a single number is meant for all."""
    hotness: Sizes = (1,)
    """Most ids a sample may have in each sparse column (lists may be shorter); a single number is meant for all."""
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
        for name, column in self.sequences.items():
            if column.item not in self.sparse:
                raise ValueError(f"sequences.{name}.item is {column.item}, which sparse does not name")
        columns = [*(self.tasks or (self.label,)), *self.dense, *self.sparse, *self.sequences]
        twice = sorted({column for column in columns if columns.count(column) > 1})
        if twice:
            raise ValueError(f"column {twice[0]} is named twice: every column is label, dense, sparse or a sequence")
        return self
