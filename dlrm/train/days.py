"""Progressive validation: each day is scored before it is trained on, by what was trained on the days before."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dlrm.data.day_order import DayOrder
from dlrm.data.source import Day
from dlrm.metrics.tasks import Results
from dlrm.run.console import Display
from dlrm.run.recorder import Recorder
from dlrm.run.results import NEXT_DAY, record_results, result_lines
from dlrm.train.hooks import Hook
from dlrm.train.schedule import Position
from dlrm.train.standard_hooks import Measured


class ScoreNextDay(Hook):
    """Pauses between days and scores the one that is trained next.

    Args:
        order: of the days; there is one epoch.
        days: names and samples.
        score: evaluates the model on a day; the same results on every rank.
        measured, recorder, display: take the results.
    """

    def __init__(
        self,
        order: DayOrder,
        days: Sequence[Day],
        score: Callable[[int], Results],
        measured: Measured,
        recorder: Recorder,
        display: Display,
    ) -> None:
        self._begins, self._days, self._score = order.begins, days, score
        self._measured, self._recorder, self._display = measured, recorder, display

    def next_pause(self, step: int) -> int | None:
        """The end of the day under way, if another follows."""
        return min((begin for begin in self._begins if begin > step), default=None)

    def on_pause(self, position: Position) -> str | None:
        """Score the next day where one has ended, before that is saved; the training goes on."""
        self._score_once(position)
        return None

    def before_steps(self, position: Position) -> None:
        """Make up for a score that is missing where a day begins: the run was ended there, and has been resumed."""
        self._score_once(position)

    def _score_once(self, position: Position) -> None:
        number = self._begins.get(position.step)
        if number is not None and not any(step == position.step for step, _, _ in self._measured.days):
            name = self._days[number].name
            with self._measured.throughput.paused():
                results = self._score(number)
            self._measured.days.append((position.step, name, results))
            record_results(self._recorder, NEXT_DAY, position.step, results, about={"day": name})
            for text in result_lines(results):
                self._display.say(f"step {position.step}: {name} before it is trained on {text}")
