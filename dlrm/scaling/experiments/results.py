"""The files of the table: results.parquet and results.csv, a row a figure, and a column a factor."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from dlrm.files import written_beside
from dlrm.scaling.table import Row

PARQUET, CSV = "results.parquet", "results.csv"


def write_results(rows: Sequence[Row], factors: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Replace both files, each as a whole.

    Args:
        rows: of all points.
        factors: by point, its levels by factor; one that a point does not have is empty there.
        folder: for the files.

    Raises:
        OSError: they cannot be written.
    """
    import pyarrow.csv
    import pyarrow.parquet

    table = as_arrow(rows, factors)
    with written_beside(folder / PARQUET, durable=False) as file:
        pyarrow.parquet.write_table(table, file)
    with written_beside(folder / CSV, durable=False) as file:
        pyarrow.csv.write_csv(table, file)


def as_arrow(rows: Sequence[Row], factors: Mapping[str, Mapping[str, Any]]) -> Any:
    """The table: the columns of a Row, then the factors in the order in which points have them."""
    import pyarrow

    types = {"int": pyarrow.int64(), "float": pyarrow.float64(), "str": pyarrow.string()}
    columns = {
        field.name: pyarrow.array([getattr(row, field.name) for row in rows], types[str(field.type).partition(" ")[0]])
        for field in fields(Row)
    }
    for name in dict.fromkeys(name for levels in factors.values() for name in levels):
        levels = [factors.get(row.point, {}).get(name) for row in rows]
        columns[name] = pyarrow.array(_of_one_type(levels))
    return pyarrow.table(columns)


def _of_one_type(levels: list[Any]) -> list[Any]:
    """Numbers as they are; as soon as one level is none, all are text."""
    given = [level for level in levels if level is not None]
    if all(isinstance(level, bool) for level in given):
        return levels
    for number in (int, float):
        if all(isinstance(level, int | number) and not isinstance(level, bool) for level in given):
            return [level if level is None else number(level) for level in levels]
    return [level if level is None or isinstance(level, str) else json.dumps(level) for level in levels]
