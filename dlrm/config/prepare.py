"""What the commands that prepare data can be told: preprocess, pack, inspect, materialize, synthesize."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dlrm.config.base import (
    Advanced,
    Column,
    Columns,
    ColumnsIfAny,
    NonNegativeInt,
    Number,
    PositiveFloat,
    PositiveInt,
    Section,
    Share,
    Sizes,
)
from dlrm.config.data.packed import PartSplit
from dlrm.config.data.paths import InputPath, InputPaths
from dlrm.config.data.raw import HashedCategories, IntegerColumns
from dlrm.config.run import DistributedConfig


class FileParts(Section):
    """Every file is a part and gives it its name (``day_0.gz`` is ``day_0``), in natural order of the names."""

    kind: Literal["files"] = "files"


class EqualParts(Section):
    """All files together are one sequence of rows in time order, cut into days of equal size (Criteo Kaggle: seven).

    Where the rows do not divide evenly the first days have one row more.
    """

    kind: Literal["days"] = "days"
    days: PositiveInt = 7
    """Number of parts."""


class ContiguousVocabulary(Section):
    """Every category that occurs often enough has an id of its own; ids are contiguous, in order of the raw values."""

    kind: Literal["vocabulary"] = "vocabulary"
    min_count: Annotated[PositiveInt, Field(le=65_535)] = 1
    """Rows in which a category must occur to get an id of its own (MLPerf: 1)."""
    of: Literal["train", "all"] = "train"
    """Rows that are counted: those of the training split, or all (MLPerf)."""
    reserved: Literal["separate", "mlperf"] = "separate"
    """separate: id 0 is missing, id 1 is unseen or rare, categories start at 2. mlperf: a missing category is the raw
    value 0, as in MLPerf's preprocessing, with an id like any other; only min_count 1 and all rows."""

    @model_validator(mode="after")
    def _mlperf_has_no_unseen(self) -> Self:
        if self.reserved == "mlperf" and (self.of != "all" or self.min_count > 1):
            raise ValueError(
                "reserved mlperf has no id for unseen or rare categories: set of to all and min_count to 1"
            )
        return self


class FixedDense(Section):
    """x -> log(max(x, minimum) + shift) in every file and split alike."""

    shift: PositiveFloat = 3.0
    """Added before the logarithm."""
    minimum: Annotated[float, Number] = -2.0
    """Smaller values are clamped to this one."""
    missing: Annotated[float, Number] = 0.0
    """Stands for an empty field, before the transform."""

    @model_validator(mode="after")
    def _inside_the_logarithm(self) -> Self:
        if self.minimum + self.shift <= 0:  # what stands for missing is clamped, too
            raise ValueError(f"minimum + shift is {self.minimum + self.shift:g}, outside of the logarithm: raise shift")
        return self


class PreprocessConfig(Section):
    """Raw Criteo files into a packed data set."""

    input: InputPaths
    """Raw files (plain, gzip or zstd), patterns (``raw/day_*``) or a folder of them. Where those of a folder or a pattern
    are numbered, no number may be missing."""
    output: str
    """Folder for the packed data set; with several hosts, one that all of them see."""
    num_dense: IntegerColumns = 13
    """Integer columns after the label."""
    num_sparse: PositiveInt = 26
    """Category columns after the integers."""
    parts: Annotated[FileParts | EqualParts, Field(discriminator="kind")] = FileParts()
    split: PartSplit = PartSplit()
    categories: Annotated[
        ContiguousVocabulary | HashedCategories, Field(discriminator="kind")
    ] = ContiguousVocabulary()  # fmt: skip
    dense: FixedDense = FixedDense()
    vocabulary_from: InputPath = ""
    """Folder of a data set that preprocess has written: categories get its ids (those that it does not know the id of
    unseen ones), dense values its transform, and nothing is fitted. num_dense, num_sparse, categories and dense are as it
    has them. Without split all rows are for training."""
    shuffle: bool = False
    """Shuffle the training rows over all training parts, out of core; the same rows for the same seed."""
    seed: NonNegativeInt = 0
    """Seed of the shuffle."""
    bad_rows: Literal["error", "skip"] = "error"
    """What to do about a malformed row: stop with its file, row and column, or leave it out and count it. A job that one
    has stopped goes on where skip is set then."""
    workers: NonNegativeInt = 0
    """Threads of this process; 0: one a core."""
    chunk_mib: Advanced[Annotated[PositiveInt, Field(le=1024)]] = 16
    """MiB of raw text a worker takes at a time; memory is about ten times this for each worker."""
    bucket_rows: Advanced[Annotated[PositiveInt, Field(le=2**31)]] = 1_000_000
    """Rows that are shuffled in memory at a time, at the most and about, for each worker."""
    keep_work: Advanced[bool] = False
    """Keep the intermediate files (<output>/preprocess.work) after the end."""
    overwrite: bool = False
    """Start over where the output is finished, or was begun with other parameters or sources. A finished data set is
    removed once all of the new input was parsed; files that its dataset.json does not list never are. Without this option
    it stays, and other parameters or sources are an error."""
    distributed: DistributedConfig = DistributedConfig()

    @model_validator(mode="after")
    def _an_output_and_one_table_per_column(self) -> Self:
        if not self.output:
            raise ValueError("output is empty: name a folder for the data set")
        if isinstance(self.categories, HashedCategories) and len(self.categories.rows) not in (1, self.num_sparse):
            raise ValueError(
                f"categories.rows has {len(self.categories.rows)} entries, num_sparse is {self.num_sparse}: give one or "
                "as many"
            )
        return self


class PackConfig(Section):
    """Comma separated files with a header into a packed data set that keeps their split, e.g. the Criteo_x1 benchmark's."""

    train: InputPath
    """File of the training rows; plain, or compressed as its name says (.gz, .zst)."""
    validation: InputPath = ""
    """File of the validation rows; none if left out."""
    test: InputPath = ""
    """File of the test rows; none if left out."""
    output: str
    """Folder for the packed data set."""
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    """What separates columns."""
    label: Column = "label"
    """Column of the label, 0 or 1."""
    dense: ColumnsIfAny = tuple(f"I{n}" for n in range(1, 14))
    """Columns of numbers, in the model's order; they are written as they are."""
    sparse: Columns = tuple(f"C{n}" for n in range(1, 27))
    """Columns of categories, in the model's order: whole numbers 0 .. 2^32 - 1, 260.0 is one as well."""
    min_count: PositiveInt = 1
    """Training rows in which a category must occur to get an id of its own; id 0 is missing, 1 every other one."""
    dense_missing: Annotated[float, Number] = 0.0
    """Stands for an empty field of a dense column."""

    @model_validator(mode="after")
    def _files_and_columns_are_told_apart(self) -> Self:
        if not (self.train and self.output):
            raise ValueError("train and output are needed: name a file of training rows and a folder for the data set")
        columns = [self.label, *self.dense, *self.sparse]
        if twice := sorted({column for column in columns if columns.count(column) > 1}):
            raise ValueError(f"column {twice[0]} is named twice: every column is label, dense or sparse")
        files = [file for file in (self.train, self.validation, self.test) if file]
        if len(set(files)) < len(files):
            raise ValueError("the same file is named for two splits: splits must not share samples")
        return self


class InspectConfig(Section):
    """What to show of a packed data set."""

    path: InputPath
    """Folder of the data set."""
    verify: bool = False
    """Read everything: check every checksum, every id, every label and dense value."""
    pictures: InputPath = ""
    """Folder for the pictures; <path>/inspect if left out, and none are drawn where that cannot be written."""
    id_statistics: str = ""
    """File (JSON) to write how ids are spread over their tables to: distinct ids of batches, hot rows; none if left out."""
    sample_rows: Advanced[PositiveInt] = 1_000_000
    """Rows of each part that figures without a record in dataset.json are taken from, spread evenly."""


class MaterializeConfig(Section):
    """MLPerf DLRM-DCNv2's multi-hot files from a packed one-hot data set."""

    path: InputPath
    """Folder of the packed one-hot data set."""
    output: str = ""
    """Folder for ``<part>_sparse_multi_hot.npz``; the data set's own if left out."""
    rows: Sizes | None = None
    """Table size of each sparse feature, where dataset.json does not say."""
    hotness: Sizes = (3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1)
    """Ids per sample of each sparse feature, the stored one included; a single number is meant for all (MLPerf v2)."""
    distribution: Literal["uniform", "pareto"] = "uniform"
    """How the further ids are distributed over their table (MLPerf: uniform)."""
    seed: Annotated[NonNegativeInt, Field(lt=2**32)] = 0
    """Seed of the recipe's generator (MLPerf: 0)."""
    bad_ids: Literal["error", "hash"] = "error"
    """What to do about a stored id outside of its table: error, or hash: take it modulo the table's rows, as MLPerf's
    script does (its data has more categories than the largest tables have rows)."""
    cache_dir: str = "~/.cache/dlrm"
    """Folder of the recipe's lookup tables, 4 bytes * rows * (hotness - 1) a table (MLPerf: 21 GiB in all)."""
    overwrite: bool = False
    """Write files anew that this command has written already."""


class SynthesizeConfig(Section):
    """Profile the id streams of a packed data set, or write a packed data set that repeats ids like a profile."""

    source: InputPath = ""
    """Packed data set to profile."""
    profile: InputPath
    """File of the profile (JSON): written where source is given, read otherwise."""
    max_ids: Advanced[PositiveInt] = 10_000_000
    """Ids of each column to profile, from the first training row on; about 45 bytes of memory each, for up to 4 columns at
    a time."""
    output: str = ""
    """Folder of a packed data set to write from the profile; none if left out."""
    samples: PositiveInt = 1_000_000
    """Samples to write."""
    rows: Sizes | None = None
    """Table sizes to write for, a single number is meant for all; those of the profiled data set if left out. With more or
    fewer tables than the profile has columns, these are taken in turn."""
    num_dense: NonNegativeInt = 13
    """Dense features to write; 0 for none."""
    click_rate: Share = 0.25
    """Share of positive labels."""
    seed: NonNegativeInt = 0
    """Seed of what is written."""
