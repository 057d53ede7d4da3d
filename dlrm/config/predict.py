"""What ``predict`` can be told."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from dlrm.config.base import Advanced, ColumnsIfAny, NonNegativeInt, PositiveInt, Section
from dlrm.config.data.paths import InputPath, InputPaths

ENDINGS = (".parquet", ".csv", ".npy")


def _word(value: object) -> object:
    """YAML makes a boolean of ``true``."""
    return str(value).lower() if isinstance(value, bool) else value


class PredictConfig(Section):
    """The probability of each task for every row of files, in the order of the rows.

    Killed at any moment, the same command goes on where it was. The bytes of the output depend on neither the number of
    ranks and threads nor on interruptions.
    """

    export: InputPath
    """Folder of an export (dlrm_main.py export makes one)."""
    input: InputPaths
    """Files, patterns (``raw/day_*``) and folders, in the order in which their rows are wanted: all of them raw files of
    Criteo's format (plain, gzip or zstd), Parquet files, or packed data sets. The files of a folder or a pattern are taken
    in natural order of their names."""
    output: InputPath
    """File to write: .parquet, .csv or .npy (float32, a row each, a column a task). With several hosts, one that all of
    them see. What is finished lies in the folder <output>.parts until the file is whole."""
    kind: Literal["auto", "criteo", "parquet", "packed"] = "auto"
    """What the input is; auto: what its first bytes and names say."""
    labels: Annotated[Literal["auto", "true", "false"], BeforeValidator(_word)] = "auto"
    """Whether rows have labels, by which AUC, log loss and normalised entropy are computed. auto: where they are there, in
    columns named like the tasks or, in raw files, before the integers."""
    split: Literal["all", "train", "validation", "test"] = "all"
    """Which rows of packed data sets: all, in the order of the parts, or those of a split."""
    carry: ColumnsIfAny = ()
    """Columns of the input to write before the probabilities; of raw files (label, int_0, .., cat_0, ..) as text."""
    logits: bool = False
    """Write logits instead of probabilities."""
    bad_rows: Literal["error", "skip"] = "error"
    """What to do about a row that cannot be read: stop with its file, row and column, or leave its probability out (null;
    NaN in .npy) and count it."""
    threads: NonNegativeInt = 0
    """Threads of each rank; 0: one a core, divided by the ranks of the host."""
    compiled: bool = False
    """Run the machine code that the export holds (export --compile true). Only of exports that you trust."""
    overwrite: bool = False
    """Replace an output that is there, and start over where it was begun with other options, inputs or another export."""
    chunk_rows: Advanced[Annotated[PositiveInt, Field(le=2**24)]] = 131_072
    """Rows that are kept together when they are finished, about; of raw files, 256 bytes of text for each. Each thread has
    one chunk in memory."""

    @model_validator(mode="after")
    def _output_can_be_written(self) -> Self:
        if not all(self.input):
            raise ValueError("input holds an empty name")
        if self.ending not in ENDINGS:
            raise ValueError(f"output must end with {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}, is {self.output!r}")
        if self.carry and self.ending == ".npy":
            raise ValueError("carry needs an output of .parquet or .csv: .npy holds numbers of one type")
        twice = sorted({name for name in self.carry if self.carry.count(name) > 1})
        if twice:
            raise ValueError(f"carry names {twice[0]} twice")
        return self

    @property
    def ending(self) -> str:
        """The ending of the output's name, in lower case."""
        return PurePath(self.output).suffix.lower()
