"""The arms of a study as an agenda: they take turns, each with its search, its choice and its final runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from dlrm.run.console import Display
from dlrm.studies.course import Course
from dlrm.studies.runs import TrainingRun


class StudyAgenda:
    """What :class:`~dlrm.jobs.runner.Runner` runs.

    Args:
        courses: by arm.
        display: is told of each run.
        metric: that is compared.
        at_once: so many runs at a time.
        keep: writes what is known.
    """

    def __init__(
        self,
        courses: Mapping[str, Course],
        display: Display,
        *,
        metric: str,
        at_once: int,
        keep: Callable[[], None],
    ) -> None:
        self._courses, self._display = courses, display
        self._metric, self._at_once, self._keep = metric, at_once, keep
        self._turns = list(courses.values())
        self._durations_s: list[float] = []

    @property
    def is_over(self) -> bool:
        """Whether no arm has anything left."""
        return all(course.over for course in self._turns)

    def take(self) -> TrainingRun | None:
        """The next run, of the next arm that has one: what changes on the machine meanwhile falls on all arms alike."""
        for _ in self._turns:
            course = self._turns.pop(0)
            self._turns.append(course)
            if (run := course.next_run()) is not None:
                return run
        return None

    def started(self, spec: TrainingRun, *, found_again: bool) -> None:
        """It runs."""
        self._courses[spec.arm].started(spec)
        again = "goes on, an earlier start has left it" if found_again else "runs"
        self._display.say(f"{spec.name} {again}{self._time()}")

    def done(self, spec: TrainingRun, duration_s: float) -> None:
        """It has a result."""
        self._durations_s.append(duration_s)
        self._courses[spec.arm].done(spec, duration_s)
        found = (spec.result() or {}).get("validation", {}).get(self._metric)
        told = "-" if found is None else f"{found:.5f}"
        self._display.say(f"{spec.name}: validation {self._metric} {told} ({duration_s:.0f} s)")

    def failed(self, spec: TrainingRun, reason: str, *, final: bool) -> None:
        """It has none."""
        self._courses[spec.arm].failed(spec, reason)
        self._display.say(f"{spec.name}: failed: {reason}")

    def not_stopped(self, spec: TrainingRun) -> None:
        """It may still run."""
        self._display.say(f"{spec.name}: could not be cancelled; cancel it by hand, or the next start waits for it")

    def keep(self) -> None:
        """Write what is known."""
        self._keep()

    def _time(self) -> str:
        if not self._durations_s:
            return ""
        return f"; runs take {fmean(self._durations_s):.0f} s, {self._at_once} at a time"


def unsettled(courses: Sequence[Course]) -> list[TrainingRun]:
    """All runs that another start would try again."""
    return [run for course in courses for run in course.unsettled()]
