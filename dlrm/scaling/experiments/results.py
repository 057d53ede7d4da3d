"""The files of the table: results.parquet and results.csv, a row a figure, and a column a factor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dlrm.jobs.table import write_table
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
    write_table(Row, rows, columns_of(rows, factors), parquet=folder / PARQUET, csv=folder / CSV)


def columns_of(rows: Sequence[Row], factors: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Of each factor its level in each row, in the order in which points have them."""
    names = dict.fromkeys(name for levels in factors.values() for name in levels)
    return {name: [factors.get(row.point, {}).get(name) for row in rows] for name in names}
