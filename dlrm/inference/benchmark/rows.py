"""Raw rows to ask with: the example of an export's preprocessing, its values varied, or rows of a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrm.errors import ConfigError, DataError
from dlrm.format import escaped
from dlrm.inference.raw import Preprocessing
from dlrm.inference.raw.columns import RawColumn

Row = dict[str, Any]

_MULTIPLIER, _OFFSET, _MASK = 2_654_435_761, 40_503, 0xFFFF_FFFF
_LARGEST_RANK = 2**31


def made_up_rows(preprocessing: Preprocessing, count: int, *, skew: float, rng: np.random.Generator) -> list[Row]:
    """Rows as JSON has them.

    Args:
        preprocessing: of an export; its example says which values there are.
        count: of rows.
        skew: id or category number i of a column is drawn with probability ~ 1 / (i + 1)^skew; 0 is uniform.
        rng: what they are drawn with.
    """
    example, arrays = preprocessing.example(), preprocessing.arrays
    columns = {}
    for number, column in enumerate(preprocessing.columns):
        values = arrays.get(f"{column.name}.values")
        draw = _drawer(column, number, None if values is None else values.numpy(), skew)
        columns[column.name] = draw(count, rng) if column.name in example else None
    present = {name: values for name, values in columns.items() if values is not None}
    return [dict(zip(present, values, strict=True)) for values in zip(*present.values(), strict=True)]


def rows_of_file(path: str, preprocessing: Preprocessing, count: int) -> list[Row]:
    """The first rows of a Parquet file or of JSON lines, the columns that the export takes.

    Raises:
        ConfigError: it cannot be read, or has no rows.
    """
    names = {column.name for column in preprocessing.columns}
    try:
        rows = _parquet(path, names, count) if path.endswith(".parquet") else _json_lines(path, count)
    except (OSError, ValueError) as error:
        problem = f"{escaped(path, 300)} cannot be read as Parquet or JSON lines ({str(error).splitlines()[0][:200]})"
        raise ConfigError.at("data", problem) from None
    if not rows:
        raise ConfigError.at("data", f"{escaped(path, 300)} has no rows")
    try:
        preprocessing.from_json(rows, name=path)
    except DataError as error:
        raise ConfigError.at("data", str(error)) from None
    return rows


def _parquet(path: str, names: set[str], count: int) -> list[Row]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        present = [name for name in file.schema_arrow.names if name in names]
        rows: list[Row] = []
        for batch in file.iter_batches(count, columns=present):
            rows += batch.to_pylist()
            if len(rows) >= count:
                break
    return rows[:count]


def _json_lines(path: str, count: int) -> list[Row]:
    rows = []
    with Path(path).open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                rows.append(json.loads(line))
            if len(rows) == count:
                break
    return rows


def zipf_ranks(uniform: NDArray[np.float64], rows: int, skew: float) -> NDArray[np.int64]:
    """Ranks 0 .. rows - 1 at these quantiles in [0, 1) of a continuous Zipf distribution, cut to whole numbers."""
    if abs(skew - 1) < 1e-9:
        positions = np.exp(uniform * np.log(rows + 1.0))
    else:
        tail = (rows + 1.0) ** (1 - skew)
        positions = (1 - uniform * (1 - tail)) ** (1 / (1 - skew))
    ranks: NDArray[np.int64] = np.minimum(positions.astype(np.int64) - 1, rows - 1)
    return ranks


_Draw = Callable[[int, np.random.Generator], Sequence[Any]]


def _drawer(column: RawColumn, number: int, values: NDArray[np.int64] | None, skew: float) -> _Draw:
    """What draws a column's values."""

    def ranks(count: int, rng: np.random.Generator, rows: int) -> NDArray[np.int64]:
        return zipf_ranks(rng.random(count), rows, skew)

    def integers(count: int, rng: np.random.Generator) -> Sequence[Any]:
        return np.floor(rng.lognormal(number % 5, 1.5, count)).astype(np.int64).tolist()  # type: ignore[no-any-return]

    def numbers(count: int, rng: np.random.Generator) -> Sequence[Any]:
        return rng.random(count).tolist()  # type: ignore[no-any-return]

    def categories(count: int, rng: np.random.Generator) -> Sequence[Any]:
        if values is not None and len(values):
            drawn = values[ranks(count, rng, len(values))]
        else:
            drawn = (ranks(count, rng, _LARGEST_RANK) * _MULTIPLIER + number * _OFFSET) & _MASK
        return [f"{int(value):08x}" for value in drawn]

    def ids(count: int, rng: np.random.Generator) -> Sequence[Any]:
        return ranks(count, rng, column.rows or 1).tolist()  # type: ignore[no-any-return]

    def lists(count: int, rng: np.random.Generator) -> Sequence[Any]:
        lengths = rng.integers(1, column.most + 1, count)
        return [ranks(int(length), rng, column.rows or 1).tolist() for length in lengths]

    draws: dict[str, _Draw] = {
        "integer": integers,
        "number": numbers,
        "category": categories,
        "id": ids,
        "id list": lists,
    }
    return draws[column.kind]
