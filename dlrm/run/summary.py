"""The end of a run: summary.json for programs, report.html and a table for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from dlrm.data.check import bad_values_text
from dlrm.format import printable
from dlrm.metrics.base_rate import WorseThanBaseRate
from dlrm.run.console import Display
from dlrm.run.recorder import Recorder
from dlrm.run.report import write_report
from dlrm.run.results import table_rows
from dlrm.run.secondary import secondary, write_json

_GIB = 1 << 30


def leave_behind(summary: dict[str, Any], folder: Path, recorder: Recorder, display: Display) -> None:
    """Write what a finished run leaves in its folder, and show the summary; for rank 0."""
    with secondary(folder / "summary.json", display.say):
        write_json(folder / "summary.json", summary)
    recorder.close()
    with secondary(folder / "report.html", display.say):
        write_report(folder, summary)
    display.show(closing_table(summary))


def closing_table(summary: dict[str, Any]) -> Table:
    """The summary for the terminal."""
    table = Table(title=f"{summary['name']}: {summary['stopped']}", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    expected = summary["expected_memory"]
    memory = f"{summary['resident_gib']:.2f} GiB a rank ({expected['host'] / _GIB:.2f} expected)"
    if summary["device_gib"]:
        memory += f", {summary['device_gib']:.2f} GiB on the device ({expected['device'] / _GIB:.2f} expected)"
    seconds = summary["training_time_s"]
    table.add_row("steps", f"{summary['steps']:,} ({summary['samples']:,} samples, {summary['epochs']} epoch(s))")
    table.add_row(
        "training time", f"{seconds:.1f} s ({summary['samples_per_s']:,.0f} samples/s on {summary['ranks']} rank(s))"
    )
    table.add_row("peak memory", memory)
    for title, figures in table_rows(summary):
        table.add_row(Text(title), _scores(figures))
    if (worse := summary["worse_than_base_rate"]) is not None:
        table.add_row("warning", Text(str(WorseThanBaseRate(**worse))))
    for split, counts in summary["bad_values"].items():
        table.add_row(f"bad values ({split})", Text(bad_values_text(counts)))
    table.add_row("files", Text(printable(f"{summary['folder']}/")))
    return table


def _scores(result: dict[str, Any]) -> str:
    names = {"auc": "AUC", "log_loss": "log loss", "normalised_entropy": "NE", "calibration": "calibration"}
    figures = [f"{label} {result[name]:.5f}" for name, label in names.items() if result.get(name) is not None]
    samples = [f"({result['samples']:,} samples)"] if "samples" in result else []
    return "  ".join([*figures, *samples])
