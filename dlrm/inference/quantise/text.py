"""What ``quantise`` shows and writes."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from dlrm.errors import ConfigError
from dlrm.files import write_json, written_beside
from dlrm.format import byte_size, counted, escaped
from dlrm.inference.exported.manifest import Manifest
from dlrm.inference.quantise.budget import Found
from dlrm.inference.quantise.compare import Row
from dlrm.inference.quantise.mixes import PRECISIONS, size_of, table_bytes


def comparison_table(rows: Sequence[Row], samples: int) -> Table:
    """The rows of a comparison."""
    title = (
        f"{counted(samples, 'test sample')}; AUC, log loss and normalised entropy (NE) as differences to the first row; "
        "rows/s of one thread (least - most); x fp32 below 1 is slower"
    )
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("tables", "dense"):
        table.add_column(name)
    for name in ("table bytes", "dense bytes", "all files", "AUC", "log loss", "NE", "rows/s", "x fp32"):
        table.add_column(name, justify="right", no_wrap=name != "rows/s")
    for number, row in enumerate(rows):
        table.add_row(
            row.tables,
            row.dense,
            byte_size(row.table_bytes),
            byte_size(row.dense_bytes),
            byte_size(row.file_bytes),
            _figure(row.auc, None if number == 0 else row.auc_difference),
            _figure(row.log_loss, None if number == 0 else row.log_loss_difference),
            _figure(row.normalised_entropy, None if number == 0 else row.normalised_entropy_difference),
            f"{_thousands(row.rows_per_s)} ({_thousands(row.least_rows_per_s)} - {_thousands(row.most_rows_per_s)})",
            f"{row.times_as_fast:.2f}",
        )
    return table


def _thousands(number: float) -> str:
    return f"{number / 1000:,.0f}k"


def _figure(value: float | None, difference: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:.6f}" if difference is None else f"{difference:+.6f}"


def budget_table(found: Found, manifest: Manifest) -> Table:
    """What each table costs if it alone is lowered, and what it is in the mix."""
    title = "Rise of the log loss if one table is lowered, and the mix that was chosen"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("table")
    for name in ("bytes", *PRECISIONS[1:]):
        table.add_column(name, justify="right")
    table.add_column("chosen")
    for number, (named, costs) in enumerate(zip(manifest.named_tables, found.alone, strict=True)):
        rises = [f"{costs[name].rise:+.7f}" if name in costs else "" for name in PRECISIONS[1:]]
        size = byte_size(size_of(manifest, number, "fp32"))
        table.add_row(Text(escaped(named.name, 40)), size, *rises, found.mix[number])
    return table


def budget_content(found: Found, manifest: Manifest) -> dict[str, Any]:
    """The same, ready for JSON."""
    return {
        "validation_log_loss_rise": found.rise,
        "table_bytes": table_bytes(manifest, found.mix),
        "tables": {
            table.name: {
                "chosen": found.mix[number],
                "alone": {name: asdict(cost) for name, cost in found.alone[number].items()},
            }
            for number, table in enumerate(manifest.named_tables)
        },
    }


def write_results(path: str, content: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Write a JSON file, and its rows as CSV beside it.

    Raises:
        ConfigError: they cannot be written.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_json(target, content, indent=1)
        if rows:
            lines = io.StringIO()
            writer = csv.DictWriter(lines, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            with written_beside(target.with_suffix(".csv")) as file:
                file.write(lines.getvalue().encode())
    except OSError as error:
        raise ConfigError.at("results", f"{path} cannot be written ({error.strerror})") from None
