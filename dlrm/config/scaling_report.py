"""What ``report`` can be told."""

from __future__ import annotations

from dlrm.config.base import Section
from dlrm.config.data.paths import InputPath


class ReportConfig(Section):
    """Show an experiment as a page: what was measured, beside what was predicted. Nothing but its table is needed."""

    results: InputPath
    """Table of an experiment, results.parquet or results.csv, or the folder that holds it."""
    output: InputPath = ""
    """Folder for report.html and its pictures; the table's own if left out. An earlier report in it is replaced."""
