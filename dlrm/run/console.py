"""What a person at the terminal sees. Only global rank 0 has a :class:`Console`; the others have a silent one.

On a terminal there is a live progress bar; where the output is a file or a launcher's pipe, a line every few seconds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

import rich.console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dlrm.format import escaped, printable
from dlrm.memory import MemoryAccount
from dlrm.sharding.report import TablePlacement, ranks_text

_GIB = 1 << 30
_SECONDS_BETWEEN_LINES = 5.0


@dataclass(frozen=True)
class Status:
    """Where training stands: steps done of how many, loss of the last window, samples/s and what is going on."""

    step: int
    total_steps: int
    loss: float | None
    samples_per_s: float
    activity: str


class Display(Protocol):
    """Shows things to a person."""

    def say(self, text: str) -> None:
        """Print a line above the progress."""

    def show(self, table: Table) -> None:
        """Print a table."""

    def status(self, status: Status) -> None:
        """Update the progress."""

    def close(self) -> None:
        """End the progress."""


class Silent:
    """Shows nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def show(self, table: Table) -> None:
        """Nothing."""

    def status(self, status: Status) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Console:
    """Shows everything on standard output.

    Args:
        progress: whether to show progress at all.
    """

    def __init__(self, *, progress: bool) -> None:
        self._out = rich.console.Console(highlight=False)
        if not self._out.is_terminal:
            self._out = rich.console.Console(highlight=False, width=110)
        self._progress_wanted = progress
        self._live: Progress | None = None
        self._task: TaskID | None = None
        self._next_line_at = 0.0
        self._last: Status | None = None

    def say(self, text: str) -> None:
        """Print a line; a live bar stays below it."""
        out = self._live.console if self._live else self._out
        out.print(Text(printable(text, keep="\n")), soft_wrap=True)

    def show(self, table: Table) -> None:
        """Print a table."""
        (self._live.console if self._live else self._out).print(table)

    def status(self, status: Status) -> None:
        """Update the bar, or print a line if the last one is long enough ago."""
        if not self._progress_wanted:
            return
        if self._out.is_terminal:
            self._update_bar(status)
        elif time.monotonic() >= self._next_line_at or status.step == status.total_steps:
            if self._last is None or self._last.step != status.step:
                self._out.print(progress_line(status, self._seconds_left(status)), markup=False)
            self._next_line_at = time.monotonic() + _SECONDS_BETWEEN_LINES
            self._last = status

    def close(self) -> None:
        """End the live bar."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _update_bar(self, status: Status) -> None:
        if self._live is None:
            self._live = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(),
                console=self._out,
                expand=True,
            )
            self._live.start()
            self._task = self._live.add_task(status.activity, total=status.total_steps, figures="")
        assert self._task is not None
        self._live.update(self._task, completed=status.step, description=status.activity, figures=_figures(status))

    def _seconds_left(self, status: Status) -> float | None:
        if self._last is None or self._last.step >= status.step:
            return None
        elapsed_s = time.monotonic() - (self._next_line_at - _SECONDS_BETWEEN_LINES)
        return elapsed_s / (status.step - self._last.step) * (status.total_steps - status.step)


def progress_line(status: Status, left_s: float | None) -> str:
    """One line of progress for outputs that are no terminal: a bar, steps, figures and time left."""
    width = 24
    filled = round(width * status.step / max(1, status.total_steps))
    bar = "#" * filled + "." * (width - filled)
    left = "" if left_s is None else f"  {int(left_s) // 60}:{int(left_s) % 60:02d} left"
    return f"{status.activity} [{bar}] {status.step}/{status.total_steps} steps  {_figures(status)}{left}"


def _figures(status: Status) -> str:
    loss = "" if status.loss is None else f"loss {status.loss:.4f}  "
    return f"{loss}{status.samples_per_s:,.0f} samples/s"


def plan_table(placements: list[TablePlacement]) -> Table:
    """The sharding plan, one row a table, with the GiB of every rank in the footer."""
    world_size = len(placements[0].gib_by_rank) if placements else 0
    table = Table(title=f"Sharding plan over {world_size} rank(s)", title_justify="left", show_footer=True)
    totals = [sum(p.gib_by_rank[rank] for p in placements) for rank in range(world_size)]
    for name, footer, justify in (
        ("table", f"{len(placements)} tables", "left"),
        ("rows", f"{sum(p.rows for p in placements):,}", "right"),
        ("dim", "", "right"),
        ("sharding", "", "left"),
        ("kernel", "", "left"),
        ("ranks", "", "left"),
        ("GiB a rank", f"{_gib(min(totals, default=0.0))} - {_gib(max(totals, default=0.0))}", "right"),
    ):
        table.add_column(name, footer=footer, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for p in placements:
        gib = _gib(max(p.gib_by_rank, default=0.0))
        table.add_row(Text(escaped(p.table)), f"{p.rows:,}", str(p.dim), p.sharding, p.kernel, ranks_text(p.ranks), gib)
    return table


def memory_table(account: MemoryAccount) -> Table:
    """What a rank is expected to take, part by part."""
    table = Table(title="Memory of the rank that takes most, GiB", title_justify="left", show_footer=True)
    total = account.total
    table.add_column("part", footer="expected at the peak", no_wrap=True)
    table.add_column("host", footer=_gib(total.host / _GIB), justify="right", no_wrap=True)
    if total.device:
        table.add_column("device", footer=_gib(total.device / _GIB), justify="right", no_wrap=True)
    for name, part in account.parts.items():
        sizes = (part.host, part.device)[: len(table.columns) - 1]
        table.add_row(name, *(_gib(size / _GIB) for size in sizes))
    return table


def _gib(value: float) -> str:
    """Three decimals, or six for what would vanish in them."""
    return f"{value:.3f}" if value >= 0.1 or value == 0 else f"{value:.6f}"
