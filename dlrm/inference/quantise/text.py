"""What ``quantise`` shows and writes."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from dlrm.errors import ConfigError
from dlrm.format import byte_size
from dlrm.inference.quantise.compare import Row


def comparison_table(rows: Sequence[Row], samples: int) -> Table:
    """The rows of a comparison."""
    table = Table(title=f"{samples:,} samples; differences to fp32", title_justify="left")
    for name in ("tables", "dense"):
        table.add_column(name)
    for name in ("table rows", "dense", "all files", "AUC", "log loss", "NE", "rows/s, 1 thread", "x fp32"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row.tables,
            row.dense,
            byte_size(row.table_bytes),
            byte_size(row.dense_bytes),
            byte_size(row.file_bytes),
            _figure(row.auc, row.auc_difference),
            _figure(row.log_loss, row.log_loss_difference),
            _figure(row.normalised_entropy, row.normalised_entropy_difference),
            f"{row.rows_per_s:,.0f} ({row.least_rows_per_s:,.0f} to {row.most_rows_per_s:,.0f})",
            f"{row.times_as_fast:.2f}{' slower' if row.times_as_fast < 1 else ''}",
        )
    return table


def _figure(value: float | None, difference: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:.5f} ({difference:+.6f})"


def write_results(path: str, content: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Write a JSON file, and its rows as CSV beside it.

    Raises:
        ConfigError: they cannot be written.
    """
    target = Path(path)
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    try:
        _write(target, text)
        if rows:
            lines = io.StringIO()
            writer = csv.DictWriter(lines, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            _write(target.with_suffix(".csv"), lines.getvalue())
    except OSError as error:
        raise ConfigError.at("results", f"{path} cannot be written ({error.strerror})") from None


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
