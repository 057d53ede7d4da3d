"""Tables for the terminal; everything in them is text without markup."""

from __future__ import annotations

from collections.abc import Sequence

import rich.box
import rich.console
from rich.table import Table
from rich.text import Text

from dlrm.checkpoint.tools.format import best_metric, count, figure, metadata_of, metrics, moment, text
from dlrm.checkpoint.tools.listing import Entry
from dlrm.format import byte_size, escaped
from dlrm.progress import standard_output

_WIDTH_OF_FILES = 200


def terminal() -> rich.console.Console:
    """Standard output; where that is no terminal, wide enough for every table."""
    return standard_output(_WIDTH_OF_FILES)


def show(console: rich.console.Console, title: str, table: Table) -> None:
    """Print a table, if it has rows, after an empty line and its title."""
    if table.row_count:
        console.print(f"\n[bold]{title}[/bold]\n")
        console.print(table)


def plain_table(columns: Sequence[str], *, words: Sequence[str] = ()) -> Table:
    """An empty table: the first column and ``words`` to the left, the others are numbers; only ``words`` are broken."""
    table = Table(box=rich.box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for i, name in enumerate(columns):
        right = i > 0 and name not in words
        table.add_column(name, justify="right" if right else "left", no_wrap=name not in words, overflow="fold")
    return table


def add(table: Table, *cells: str) -> None:
    """Add a row as it is: nothing in it is markup."""
    table.add_row(*map(Text, cells))


def list_table(found: Sequence[Entry]) -> Table:
    """One row a folder."""
    columns = ("checkpoint", "step", "epoch", "samples", "saved", "reason", "size", "ranks", "metric", "best", "state")
    table = plain_table(columns, words=("reason", "state", "metric", "best"))
    for entry in found:
        checkpoint = entry.checkpoint
        if checkpoint is None:
            add(table, entry.name, *[""] * 9, entry.state)
            continue
        add(
            table,
            entry.name,
            f"{checkpoint.step:,}",
            count(metadata_of(checkpoint, "position", "epoch")),
            count(metadata_of(checkpoint, "position", "samples")),
            moment(metadata_of(checkpoint, "time")),
            text(metadata_of(checkpoint, "reason")),
            byte_size(checkpoint.manifest.bytes),
            f"{checkpoint.manifest.world_size:,}",
            _metric(entry),
            best_metric(checkpoint),
            entry.state,
        )
    return table


def _metric(entry: Entry) -> str:
    """The value in this checkpoint of the metric that decides which is the best, or else of the AUC."""
    assert entry.checkpoint is not None
    found, chosen = metrics(entry.checkpoint), metadata_of(entry.checkpoint, "best", "metric")
    name = next((name for name in (chosen, "auc") if isinstance(name, str) and name in found), None)
    return "" if name is None else f"{escaped(name, 30)} {figure(found[name])}"
