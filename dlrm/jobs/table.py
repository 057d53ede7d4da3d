"""Rows as Parquet and CSV: the columns of their dataclass, and a column for each thing by which they differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from dlrm.files import written_beside


def write_table(
    kind: type[Any], rows: Sequence[Any], levels: Mapping[str, Sequence[Any]], *, parquet: Path, csv: Path
) -> None:
    """Replace both files, each as a whole.

    Args:
        kind: a dataclass, whose fields are int, float, str or bool, or may be None.
        rows: of that kind.
        levels: further columns by name: a value for each row, None where it has none.
        parquet: the first file.
        csv: the second.

    Raises:
        OSError: they cannot be written.
    """
    import pyarrow.csv
    import pyarrow.parquet

    table = as_arrow(kind, rows, levels)
    with written_beside(parquet, durable=False) as file:
        pyarrow.parquet.write_table(table, file)
    with written_beside(csv, durable=False) as file:
        pyarrow.csv.write_csv(table, file)


def as_arrow(kind: type[Any], rows: Sequence[Any], levels: Mapping[str, Sequence[Any]]) -> Any:
    """The table: the fields of the rows, then the levels."""
    import pyarrow

    types = {"int": pyarrow.int64(), "float": pyarrow.float64(), "str": pyarrow.string(), "bool": pyarrow.bool_()}
    columns = {
        field.name: pyarrow.array([getattr(row, field.name) for row in rows], types[str(field.type).partition(" ")[0]])
        for field in fields(kind)
    }
    for name, values in levels.items():
        columns[name] = pyarrow.array(_of_one_type(list(values)))
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
