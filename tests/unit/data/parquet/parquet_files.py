"""Small Parquet files and what they hold, for tests."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dlrm.config.data import ParquetData
from dlrm.data.parquet import parquet_dataset


def columns(rows: int, first: int = 0) -> dict[str, list]:
    """Rows that tell where they come from: row i has dense value i, ids i % 100 and i, label i % 2."""
    numbers = list(range(first, first + rows))
    return {
        "label": [i % 2 for i in numbers],
        "x": [float(i) for i in numbers],
        "small": [i % 100 for i in numbers],
        "large": numbers,
    }


def write(path: Path, values: dict, **options) -> Path:
    """A file of these columns; a column is a list, an Arrow array or a NumPy array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(values), path, **options)
    return path


def config(folder: Path, **options) -> ParquetData:
    """Of the columns of :func:`columns`."""
    given = {"dense": ["x"], "sparse": ["small", "large"], "rows": [100, 1_000_000]} | options
    return ParquetData.model_validate({"path": str(folder)} | given)


def dataset(folder: Path, **options):
    return parquet_dataset(config(folder, **options))
