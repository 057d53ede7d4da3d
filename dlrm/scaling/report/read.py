"""From the table of an experiment, a file or rows in memory, to columns of known types."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from dlrm.errors import DataError
from dlrm.format import first_line
from dlrm.scaling.table import MEASURED, PREDICTED, PUBLISHED, Row

NAMES = ("results.parquet", "results.csv")
"""Of the table in an experiment's folder, the first that is there."""
_OWN = tuple(one.name for one in fields(Row))
_OPTIONAL = ("low", "high")
_WHOLE = ("repeat", "hosts", "ranks", "global_batch_size", "rank")
_NUMBERS = ("value", "low", "high")
_TYPES = {name: pa.int64() for name in _WHOLE} | {name: pa.float64() for name in _NUMBERS}
_COUNTS = ("hosts", "ranks", "global_batch_size")
_SOURCES = (MEASURED, PREDICTED, PUBLISHED)

Factors = Mapping[str, object]


@dataclass(frozen=True)
class Results:
    """The table of an experiment.

    Attributes:
        rows: all of them, with None for figures that are no numbers.
        factors: of each point, by (experiment, point): values by dotted option.
        path: of the file; None of rows in memory.
    """

    rows: list[Row]
    factors: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    path: Path | None = None


def of_rows(rows: Iterable[Row], factors: Mapping[tuple[str, str], Factors] | None = None) -> Results:
    """Rows in memory as a table.

    Args:
        rows: of an experiment.
        factors: of each point, by (experiment, point): values by dotted option.
    """
    shown = {point: _shown(values) for point, values in (factors or {}).items()}
    return Results([_finite(row) for row in rows], shown)


def read_results(path: Path) -> Results:
    """Read a table, Parquet or CSV by the end of its name.

    Args:
        path: of the file, or of a folder with one of :data:`NAMES`.

    Raises:
        DataError: there is none, it is no table, lacks columns, has no rows, or a value is not what its column holds.
    """
    path = _file(path)
    table = _csv(path) if path.suffix == ".csv" else _parquet(path)
    missing = [name for name in _OWN if name not in table.column_names and name not in _OPTIONAL]
    if missing:
        raise DataError(str(path), f"lacks the {_columns(missing)}", hint="report shows tables that scale has written")
    if not table.num_rows:
        raise DataError(str(path), "has no rows", hint="no point of the experiment has been run")
    columns = {name: _column(path, table, name) for name in _OWN}
    _check(path, columns)
    rows = [_finite(Row(**dict(zip(_OWN, values, strict=True)))) for values in zip(*columns.values(), strict=True)]
    return Results(rows, _factors(table, columns), path)


def _file(path: Path) -> Path:
    found = next((path / name for name in NAMES if (path / name).is_file()), path) if path.is_dir() else path
    if found.is_dir():
        raise DataError(
            str(path), "holds no results.parquet and no results.csv", hint="name the table of an experiment"
        )
    if not found.exists():
        raise DataError(str(path), "does not exist", hint="name the table of an experiment")
    return found


def _parquet(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise _no_table(path, error) from None


def _csv(path: Path) -> pa.Table:
    texts = {name: pa.string() for name in _OWN if name not in _TYPES}
    options = pa_csv.ConvertOptions(column_types=texts, strings_can_be_null=False)
    try:
        return pa_csv.read_csv(
            path, parse_options=pa_csv.ParseOptions(newlines_in_values=True), convert_options=options
        )
    except (pa.ArrowException, OSError) as error:
        raise _no_table(path, error) from None


def _no_table(path: Path, error: Exception) -> DataError:
    said = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
    return DataError(str(path), f"is no table that can be read ({said})", hint="report reads Parquet and CSV (.csv)")


def _columns(names: list[str]) -> str:
    return f"column{'s' * (len(names) > 1)} {', '.join(names)}"


def _column(path: Path, table: pa.Table, name: str) -> list[Any]:
    """The values of a column of :class:`Row`."""
    if name not in table.column_names:
        return [None] * table.num_rows
    if table.column_names.count(name) > 1:
        raise DataError(str(path), "is there twice", column=name)
    column, kind = table[name], _TYPES.get(name, pa.string())
    try:
        values: list[Any] = column.cast(kind).to_pylist()
    except (pa.ArrowException, UnicodeDecodeError):
        raise DataError(str(path), f"holds {column.type}, not {kind}", column=name) from None
    if name in _COUNTS:
        return [value or 0 for value in values]
    return values if name in _TYPES else [value or "" for value in values]


def _check(path: Path, columns: Mapping[str, list[Any]]) -> None:
    for number, source in enumerate(columns["source"], start=1):
        if source not in _SOURCES:
            problem = f"is {source!r}, must be one of {', '.join(_SOURCES)}"
            raise DataError(str(path), problem, row=number, column="source")


def _finite(row: Row) -> Row:
    if all(number is None or math.isfinite(number) for number in (row.value, row.low, row.high)):
        return row
    values = {**vars(row)}
    for name in _NUMBERS:
        values[name] = values[name] if values[name] is not None and math.isfinite(values[name]) else None
    return Row(**values)


def _factors(table: pa.Table, columns: Mapping[str, list[Any]]) -> dict[tuple[str, str], dict[str, str]]:
    """Of each point the values of all other columns, from its first row."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    first: dict[tuple[str, str], int] = {}
    for number, point in enumerate(zip(columns["experiment"], columns["point"], strict=True)):
        first.setdefault(point, number)
    names = [name for name in dict.fromkeys(table.column_names) if name not in _OWN]
    if names and table.num_rows:
        chosen = table.select(names).take(pa.array(list(first.values())))
        for point, values in zip(first, chosen.to_pylist(), strict=True):
            found[point] = _shown(values)
    return found


def _shown(values: Factors) -> dict[str, str]:
    return dict(_texts(values))


def _texts(values: Factors) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
            continue
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # a column with gaps comes as floats
        yield name, str(value).lower() if isinstance(value, bool) else str(value)
