"""What ``quantise`` can be told."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from dlrm.config.base import AS_LIST, Advanced, NonNegativeFloat, PositiveInt, Section
from dlrm.config.data import DataConfig, PlantedData
from dlrm.config.data.paths import InputPath

TablePrecision = Literal["fp32", "fp16", "int8", "int4"]
DensePrecision = Literal["fp32", "bf16", "int8"]
ALL = "*"
"""Stands for the tables that a mapping does not name."""


def _mapping(value: object) -> object:
    """``int8`` is meant for all tables."""
    return {ALL: value} if isinstance(value, str) and value else value


def _json_name(path: str) -> str:
    if path and PurePath(path).suffix != ".json":
        raise ValueError(f"is {path}, must end with .json (a .csv with the same rows is written beside it)")
    return path


class QuantiseConfig(Section):
    """A smaller export of one in float32; and, with compare or a budget, what fewer bits cost on data."""

    export: InputPath
    """The export, in float32."""
    output: InputPath = ""
    """Folder to write; may be left out with compare or budget."""
    tables: Annotated[dict[str, TablePrecision], BeforeValidator(_mapping)] = Field(default_factory=dict)
    """What rows of tables are stored as, by name: {cat_3: int4}; '*' stands for those that are not named, which else stay
    fp32. A single word is meant for all. int8 where this is left out and budget, too."""
    dense: DensePrecision = "fp32"
    """What the weights and products of the layers that the model names for lower precision are."""
    budget: NonNegativeFloat | None = None
    """Choose the tables' precision: the smallest for which the log loss of the validation samples rises by no more than
    this (0.0002), dense included."""
    compare: bool = False
    """Score the test samples with each precision of compare_tables and of compare_dense: size, quality, speed."""
    compare_tables: Annotated[tuple[TablePrecision, ...], *AS_LIST] = ("fp32", "fp16", "int8", "int4")
    """Precisions of all tables to compare."""
    compare_dense: Annotated[tuple[DensePrecision, ...], *AS_LIST] = ("fp32", "bf16", "int8")
    """Precisions of the dense part to compare."""
    results: Annotated[InputPath, AfterValidator(_json_name)] = ""
    """File for the figures, .json; the same rows as .csv are beside it."""
    data_from: InputPath = ""
    """A configuration of a training, as config.yaml of a run, whose section data is scored; in the place of data."""
    data: DataConfig = PlantedData()
    max_rows: PositiveInt = 200_000
    """Samples of a split that are scored at most, the first ones."""
    timed_rows: Advanced[PositiveInt] = 8192
    """Samples of a measurement of speed."""
    timed_runs: Advanced[PositiveInt] = 7
    """Measurements of each, in turn with as many of the export as it is."""
    overwrite: bool = False
    """Replace an export that is there."""

    @model_validator(mode="after")
    def _says_what_to_do(self) -> Self:
        if not self.output and not self.compare and self.budget is None:
            raise ValueError("output is left out: name a folder to write, or what to find out (compare, budget)")
        if self.tables and self.budget is not None:
            raise ValueError("tables and budget both say what tables are stored as: give one of them")
        if self.results and not self.compare and self.budget is None:
            raise ValueError("results is for what compare and budget find: give one of them")
        return self

    @property
    def wanted(self) -> dict[str, TablePrecision]:
        """Precision by name of the table, as ``tables`` means it."""
        return self.tables or {ALL: "int8"}
