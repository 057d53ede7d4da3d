"""The repeats of an experiment as an agenda: their order, what is left of them, and the table of what they have found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dlrm.config.experiment import ScaleConfig
from dlrm.errors import DlrmError
from dlrm.format import counted
from dlrm.run.console import Display
from dlrm.scaling.experiments.matrix import Point
from dlrm.scaling.experiments.repeats import Repeat
from dlrm.scaling.experiments.results import write_results
from dlrm.scaling.experiments.rows import Rows
from dlrm.scaling.experiments.text import Progress
from dlrm.scaling.table import DONE, FAILED, MISSING, Row

_Key = tuple[str, int]


class RepeatsFailed(DlrmError):  # noqa: N818  # what it says is what it is
    """Some repeats have failed; all others are done."""

    may_pass = True  # exit code 1: they may succeed when scale is started again


class Table:
    """The rows of an experiment as its jobs end, and their files.

    Args:
        experiment: its name.
        points: all of them, also those that are not to be run now.
        repeats: of each.
        folder: for the files.
        others: rows that no repeat has left: what is predicted, what was published.
    """

    def __init__(
        self,
        experiment: str,
        points: Sequence[Point],
        repeats: Sequence[Repeat],
        folder: Path,
        others: Sequence[Row] = (),
    ) -> None:
        self._folder = folder
        self._factors = {point.name: point.factors for point in points}
        self._of = {point.name: Rows(experiment, point) for point in points}
        self._rows: dict[_Key, list[Row]] = {}
        for repeat in repeats:
            self.missing(repeat)
        self._others = others

    @property
    def rows(self) -> list[Row]:
        """All, by point."""
        measured = [row for rows in self._rows.values() for row in rows]
        order = {name: number for number, name in enumerate(self._of)}
        return sorted([*measured, *self._others], key=lambda row: order.get(row.point, len(order)))

    def done(self, repeat: Repeat) -> None:
        """It has a result, which is there to be read."""
        found = repeat.result()
        assert found is not None, repeat.folder
        self._rows[_key(repeat)] = self._of[repeat.point.name].of_result(repeat.number, found)

    def failed(self, repeat: Repeat, reason: str) -> None:
        """It has none, for a reason."""
        self._rows[_key(repeat)] = [self._of[repeat.point.name].without_figures(repeat.number, FAILED, reason)]

    def missing(self, repeat: Repeat, reason: str = "") -> None:
        """It was not run."""
        self._rows[_key(repeat)] = [self._of[repeat.point.name].without_figures(repeat.number, MISSING, reason)]

    def status(self, repeat: Repeat) -> str:
        """Of a repeat."""
        return self._rows[_key(repeat)][0].status

    def write(self) -> None:
        """Replace the files."""
        write_results(self.rows, self._factors, self._folder)


def _key(repeat: Repeat) -> _Key:
    return repeat.point.name, repeat.number


class Repeats:
    """What :class:`~dlrm.jobs.runner.Runner` runs.

    Args:
        config: of the command.
        table: gets what repeats find.
        progress: is told of them.
    """

    def __init__(self, config: ScaleConfig, table: Table, progress: Progress) -> None:
        self._config, self._table, self._progress = config, table, progress
        self._waiting: list[Repeat] = []
        self._given_up: dict[str, str] = {}  # points that would fail in every repeat, and why

    def look(self, repeats: Sequence[Repeat], *, say: Display | None = None) -> list[Repeat]:
        """Take what is there from earlier starts; those that are to be run, in their order.

        Args:
            repeats: to look at.
            say: is told what is run again although it has a result, if that is to be said.
        """
        left = []
        for repeat in repeats:
            state, record = repeat.state(), repeat.record()
            if state == "done":
                self._table.done(repeat)
            elif state == "failed" and record is not None:
                self._table.failed(repeat, record.reason)
                if self._config.retry:
                    left.append(repeat)
            else:
                left.append(repeat)
            if state == "changed":
                self._table.missing(repeat, "its result is of another configuration")
                if say is not None:
                    say.say(f"{repeat.name}: its result is of another configuration; it is run again")
        return left

    def begin(self, left: Sequence[Repeat]) -> None:
        """These are to be run."""
        self._waiting = list(left)
        self._progress.begin(len(left))

    @property
    def is_over(self) -> bool:
        """Whether all were started or given up."""
        return not self._waiting

    def take(self) -> Repeat | None:
        """The next one; those of a point that was given up are missing."""
        while self._waiting:
            repeat = self._waiting.pop(0)
            if not (why := self._given_up.get(repeat.point.name)):
                return repeat
            self._table.missing(repeat, f"not run: another repeat has failed for good: {why}")
            self._progress.skipped()
        return None

    def started(self, spec: Repeat, *, found_again: bool) -> None:
        """It runs."""
        self._progress.started(spec, found_again=found_again)

    def done(self, spec: Repeat, duration_s: float) -> None:
        """It has a result."""
        self._table.done(spec)
        self._progress.done(spec, duration_s)

    def failed(self, spec: Repeat, reason: str, *, final: bool) -> None:
        """It has none."""
        self._table.failed(spec, reason)
        if final:
            self._given_up[spec.point.name] = reason
        self._progress.failed(spec, reason)

    def not_stopped(self, spec: Repeat) -> None:
        """It may still run."""
        self._progress.not_stopped(spec)

    def keep(self) -> None:
        """Write the table."""
        self._table.write()


def see_that_all_are_done(table: Table, repeats: Sequence[Repeat]) -> None:
    """See that all of them are done.

    Raises:
        RepeatsFailed: some are not.
    """
    bad = [repeat for repeat in repeats if table.status(repeat) != DONE]
    if bad:
        points = list(dict.fromkeys(repeat.point.name for repeat in bad))
        raise RepeatsFailed(
            f"{counted(len(bad), 'repeat')} of {len(repeats)} failed or did not run (points {', '.join(points)}); "
            "started again, scale runs them again"
        )
