"""An evaluation as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import rich.box
from rich.table import Table
from rich.text import Text

from dlrm.format import escaped
from dlrm.inference.evaluate.evaluation import Evaluation
from dlrm.inference.evaluate.sliced import SliceResult
from dlrm.metrics.binary import BinaryResult

_LONGEST = 40  # of a name in a table


def texts(found: Evaluation) -> Iterator[Table]:
    """What to show: the figures of all samples, then a table for each column of slices."""
    yield results_table(found)
    for column, of_column in groupby(found.slices, key=lambda one: one.column):
        yield slices_table(column, list(of_column), tasks=len(found.results))


def results_table(found: Evaluation) -> Table:
    """A row a task, and one for the best that can be reached."""
    weights = "averaged weights" if found.averaged else "weights"
    table = _table(f"{found.split}: {weights} of step {found.step:,}", "samples", "of")
    for task, result in found.results.items():
        name = escaped(task, _LONGEST) if len(found.results) > 1 else found.split
        _add(table, name, f"{result.samples:,}", result)
        if found.best is not None:
            _add(table, "best reachable", "", found.best[task])
    return table


def slices_table(column: str, slices: list[SliceResult], *, tasks: int) -> Table:
    """A row a slice and task."""
    table = _table(f"\nby {escaped(column, _LONGEST)}", "samples (share)", "slice")
    for one in slices:
        name = f"{one.slice}, {escaped(one.task, _LONGEST)}" if tasks > 1 else one.slice
        _add(table, name, f"{one.result.samples:,} ({one.share:.1%})", one.result)
    return table


def _table(title: str, samples: str, first: str) -> Table:
    table = Table(title=title, title_justify="left", box=rich.box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in (samples, "clicks", "AUC", "AUPRC", "log loss", "NE", "calibration"):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _add(table: Table, name: str, samples: str, result: BinaryResult) -> None:
    cells = (
        "-" if result.click_rate is None else f"{result.click_rate:.2%}",
        _bounded(result.auc, result.auc_error_bound),
        _bounded(result.average_precision, result.average_precision_error_bound),
        _figure(result.log_loss),
        _figure(result.normalised_entropy),
        _figure(result.calibration),
    )
    table.add_row(*map(Text, (name, samples, *cells)))


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.5f}"


def _bounded(value: float | None, bound: float | None) -> str:
    """A figure with how far off it can be, where it is not exact."""
    return f"{_figure(value)} ±{bound:.0e}" if value is not None and bound else _figure(value)
