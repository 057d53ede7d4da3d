"""What scale tells the terminal: the points, each job as it begins and ends, and medians with their spread."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from rich.table import Table as RichTable
from rich.text import Text

from dlrm.config.experiment import Experiment
from dlrm.format import counted, escaped
from dlrm.run.console import Display
from dlrm.scaling.experiments.matrix import Point
from dlrm.scaling.experiments.repeats import Repeat
from dlrm.scaling.table import DONE, FAILED, MEASURED, PREDICTED, SAMPLES_PER_S, STEP, Row, Spread, spreads


def points_table(experiment: Experiment, points: Sequence[Point]) -> RichTable:
    """What --dry_run shows."""
    table = RichTable(title=f"{experiment.name}: {counted(len(points), 'point')}", title_justify="left")
    factors = list(dict.fromkeys(name for point in points for name in point.factors))
    for name in ("point", "hosts", "ranks", "global batch", *factors):
        table.add_column(Text(name), justify="left" if name == "point" or name in factors else "right")
    for point in points:
        levels = [escaped(point.factors.get(name, ""), 40) for name in factors]
        figures = (f"{point.hosts:,}", f"{point.ranks:,}", f"{point.global_batch_size:,}")
        table.add_row(*map(Text, (point.name, *figures, *levels)))
    return table


def summary_table(rows: Sequence[Row], points: Sequence[Point], repeats: int) -> RichTable:
    """Medians over the repeats, with the least and the greatest; the speed beside what was predicted, if that is known."""
    found = spreads(rows)
    predicted = any(row.source == PREDICTED for row in rows)
    table = RichTable(title="Medians over the repeats (least - greatest)", title_justify="left")
    table.add_column("point", no_wrap=True)
    for name in ("ranks", "done", "samples/s", "step ms", *(["predicted step ms"] if predicted else [])):
        table.add_column(name, justify="right")
    done = {point.name: _repeats(rows, point, DONE) for point in points}
    for point in points:
        speed = found.get((point.name, MEASURED, SAMPLES_PER_S, "", None))
        step = found.get((point.name, MEASURED, STEP, "", None))
        cells = [f"{point.ranks}", f"{done[point.name]}/{repeats}", _spread(speed, 0), _spread(step, 2)]
        if predicted:
            cells.append(_spread(found.get((point.name, PREDICTED, STEP, "", None)), 2))
        table.add_row(*map(Text, (point.name, *cells)))
    return table


def failure_lines(rows: Sequence[Row]) -> list[str]:
    """A line for each repeat that has failed, with its reason."""
    return [f"{row.point}, repeat {row.repeat}: {row.reason}" for row in rows if row.status == FAILED]


def _repeats(rows: Sequence[Row], point: Point, status: str) -> int:
    return len(
        {row.repeat for row in rows if row.point == point.name and row.status == status and row.source == MEASURED}
    )


def _spread(found: Spread | None, digits: int) -> str:
    if found is None:
        return "-"
    values = [f"{value:,.{digits}f}" for value in (found.value, found.low, found.high)]
    return f"{values[0]} ({values[1]} - {values[2]})" if found.is_wide else values[0]


class Progress:
    """Tells of each job, with how many are left and about how long they take.

    Args:
        display: is told.
        at_once: so many run at a time.
    """

    def __init__(self, display: Display, at_once: int) -> None:
        self._display, self._at_once = display, at_once
        self._left = self._all = self._failed = 0
        self._durations_s: list[float] = []

    def begin(self, jobs: int) -> None:
        """So many are to be run."""
        self._left = self._all = jobs

    def started(self, repeat: Repeat, *, found_again: bool) -> None:
        """A job was started, or one of an earlier start is waited for."""
        again = "goes on, an earlier start has left it" if found_again else "runs"
        self._display.say(f"{repeat.name} {again}; {self._left} of {self._all} left{self._time_left()}")

    def done(self, repeat: Repeat, duration_s: float) -> None:
        """It has a result."""
        found = repeat.result() or {}
        self._durations_s.append(duration_s)
        self._left -= 1
        speed = f"{found['samples_per_s']:,.0f} samples/s, a step takes {found['step']['median_ms']:.2f} ms"
        self._display.say(f"{repeat.name}: {speed} ({duration_s:.0f} s)")

    def failed(self, repeat: Repeat, reason: str) -> None:
        """It has none."""
        self._left -= 1
        self._failed += 1
        self._display.say(f"{repeat.name}: failed: {reason}")

    def not_stopped(self, repeat: Repeat) -> None:
        """It may still run."""
        self._display.say(f"{repeat.name}: could not be cancelled; cancel it by hand, or the next start waits for it")

    def skipped(self) -> None:
        """It is not run."""
        self._left -= 1

    def _time_left(self) -> str:
        if not self._durations_s:
            return ""
        minutes = self._left * mean(self._durations_s) / self._at_once / 60
        failed = f", {self._failed} failed" if self._failed else ""
        return f"{failed}, about {minutes:.0f} min" if minutes >= 1 else f"{failed}, less than a minute"
