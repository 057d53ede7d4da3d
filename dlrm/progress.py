"""How far a long job has come and how long it will still take, for the person at the terminal.

Of several ranks one speaks, and knows of its own share only: its steps are called ``parse (rank 0 of 4)``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import rich.console
from rich.progress import BarColumn, ProgressColumn, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from dlrm.distributed.world import RankInfo
from dlrm.format import printable

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Shows the steps of a job; safe from several threads. This one shows nothing."""

    def say(self, text: str) -> None:
        """Print a line."""

    def step(self, name: str, total: float, done: float = 0, unit: str = "") -> None:
        """End the step before, and begin one of ``total`` units, of which ``done`` were done earlier.

        With the name of a unit, how many of them are done a second is shown, too.
        """

    def advance(self, units: float) -> None:
        """Units of the present step are done."""

    def close(self) -> None:
        """End the last step."""


class Lines(Progress):
    """For an output that is no terminal: a line every ten seconds and when a step ends.

    Args:
        console: where to; whose: follows the name of every step.
    """

    def __init__(self, console: rich.console.Console, whose: str = "") -> None:
        self._console, self._whose = console, whose
        self._lock = threading.Lock()
        self._name = ""

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(printable(text, keep="\n"), markup=False, soft_wrap=True)

    def step(self, name: str, total: float, done: float = 0, unit: str = "") -> None:
        """End the step before, and begin one."""
        self.close()
        with self._lock:
            self._name, self._total, self._unit = name + self._whose, max(total, 1), unit
            self._done = self._began_with = done
            self._began_s = self._spoke_s = time.monotonic()

    def advance(self, units: float) -> None:
        """Units of the present step are done."""
        with self._lock:
            self._done += units
            now_s = time.monotonic()
            if now_s - self._spoke_s >= _SECONDS_BETWEEN_LINES:
                self._spoke_s = now_s
                here = max(self._done - self._began_with, 1e-9)
                passed_s = now_s - self._began_s
                left_s = max(0.0, passed_s * (self._total - self._done) / here)
                rate = f", {here / passed_s:,.0f} {self._unit}/s" if self._unit else ""
                self.say(f"{self._name}: {min(1.0, self._done / self._total):.0%}{rate}, {duration(left_s)} left")

    def close(self) -> None:
        """End the last step."""
        with self._lock:
            if self._name:
                self.say(f"{self._name}: {duration(time.monotonic() - self._began_s)}")
                self._name = ""


class _RateColumn(ProgressColumn):
    """Units a second, of steps that have a name for them."""

    def render(self, task: Task) -> Text:
        """See rich."""
        unit, here, passed_s = task.fields["unit"], task.completed - task.fields["began_with"], task.elapsed
        return Text(f"{here / passed_s:,.0f} {unit}/s" if unit and passed_s and here else "")


class Bars(Progress):
    """For a terminal: a bar for each step.

    Args:
        console: where to; whose: follows the name of every step.
    """

    def __init__(self, console: rich.console.Console, whose: str = "") -> None:
        columns = (
            TextColumn("{task.description:<22}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            _RateColumn(),
            TimeRemainingColumn(True, True),
        )
        self._bar, self._whose = Bar(*columns, console=console), whose
        self._bar.start()

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._bar.console.print(printable(text, keep="\n"), markup=False, highlight=False)

    def step(self, name: str, total: float, done: float = 0, unit: str = "") -> None:
        """End the step before, and begin one."""
        self.close()
        whole, began = max(total, 1), int(done)
        self._bar.add_task(printable(name + self._whose), total=whole, completed=began, began_with=began, unit=unit)

    def advance(self, units: float) -> None:
        """Units of the present step are done."""
        self._bar.advance(self._bar.task_ids[-1], units)

    def close(self) -> None:
        """Fill the last bar."""
        if self._bar.tasks:
            last = self._bar.tasks[-1]
            self._bar.update(last.id, completed=last.total)

    def stop(self) -> None:
        """Give the terminal back."""
        self._bar.stop()


@contextmanager
def shown_progress(visible: bool) -> Iterator[Progress]:
    """Bars on a terminal, lines elsewhere, nothing if not ``visible``."""
    if not visible:
        yield Progress()
        return
    console = rich.console.Console(highlight=False)
    rank_info = RankInfo.from_environment()
    whose = f" (rank {rank_info.rank} of {rank_info.world_size})" if rank_info.world_size > 1 else ""
    progress = Bars(console, whose) if console.is_terminal else Lines(console, whose)
    try:
        yield progress
        progress.close()
    finally:
        if isinstance(progress, Bars):
            progress.stop()


def standard_output(width: int) -> rich.console.Console:
    """Standard output, of this width where it is no terminal: wide enough for tables."""
    console = rich.console.Console(highlight=False)
    return console if console.is_terminal else rich.console.Console(highlight=False, width=width)


def duration(seconds: float) -> str:
    """``1:02:03``, or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
