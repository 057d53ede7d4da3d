"""What a study has found: rows of its table, and the figures of each arm over the final seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dlrm.config.metrics import SMALLER_IS_BETTER
from dlrm.config.study import MEMBERS_APART, Study
from dlrm.studies.choice import Trial
from dlrm.studies.course import Course, Status
from dlrm.studies.ensemble import Ensembles
from dlrm.studies.exchange import Exchange
from dlrm.studies.runs import FINAL, TrainingRun
from dlrm.studies.statistics import Difference, Estimate, estimate, paired
from dlrm.studies.table import DONE, EXCHANGED, FAILED, MISSING, Row, figures_of

Figures = dict[tuple[str, str], dict[int, float]]
"""Values by seed, by (split, quantity)."""


@dataclass
class ArmOutcome:
    """An arm at the end.

    Attributes:
        name: of it; ensemble: how many models are averaged; owner: whose configuration it has.
        chosen: the trial, if there is one; trials: all that were tried.
        figures: of the final runs; statuses: what became of each of them, by seed.
        why: there is no choice, in a line.
    """

    name: str
    owner: str
    ensemble: int
    chosen: Trial | None = None
    trials: Sequence[Trial] = ()
    figures: Figures = field(default_factory=dict)
    statuses: dict[int, Status] = field(default_factory=dict)
    why: str = ""

    def estimate(self, split: str, quantity: str) -> Estimate | None:
        """Mean over the final seeds."""
        return estimate(list(self.figures.get((split, quantity), {}).values()))


@dataclass(frozen=True)
class Outcome:
    """A study at the end.

    Attributes:
        study: its file; arms: what was found of each, in the file's order; rows: of the table.
    """

    study: Study
    arms: Sequence[ArmOutcome]
    rows: Sequence[Row]

    def reference(self, arm: ArmOutcome) -> ArmOutcome | None:
        """The arm that one is compared with, if it is compared with any."""
        name = self.study.reference_of(arm.name)
        return None if name == arm.name else next(one for one in self.arms if one.name == name)

    @property
    def has_one_reference(self) -> bool:
        """Whether all arms are compared with the first."""
        return not any(arm.against for arm in self.study.arms.values())

    def difference(self, arm: ArmOutcome, split: str) -> Difference | None:
        """How the metric of an arm differs from that of the one that it is compared with, on the same seeds."""
        if (other := self.reference(arm)) is None:
            return None
        metric = self.study.metric
        mine, theirs = (one.figures.get((split, metric), {}) for one in (arm, other))
        return paired(mine, theirs, noise=self.study.noise, smaller_is_better=metric in SMALLER_IS_BETTER)


def outcome_of(
    study: Study, courses: Mapping[str, Course], ensembles: Ensembles, exchange: Exchange | None = None
) -> Outcome:
    """Everything that there is by now.

    Args:
        study: its file.
        courses: by arm with a configuration of its own.
        ensembles: works out the figures of averaged models.
        exchange: works out the bytes that are exchanged, which takes seconds; left out without.
    """
    arms: list[ArmOutcome] = []
    rows: list[Row] = []
    for name, arm in study.arms.items():
        course = courses[study.owner_of(name)]
        found = ArmOutcome(name, course.arm.name, arm.ensemble, course.chosen, course.trials, why=course.why)
        if not arm.of:
            rows += _search_rows(study.name, course)
        sent = _sent_bytes(course, found, exchange)
        for seed, of_seed in _finals(study, course, found, ensembles):
            figures = {**of_seed, **(sent if of_seed else {})}
            for (split, quantity), value in figures.items():
                found.figures.setdefault((split, quantity), {})[seed] = value
            rows += _rows(study.name, name, FINAL, None, seed, True, found.statuses[seed], figures)
        arms.append(found)
    return Outcome(study, arms, rows)


def _search_rows(study: str, course: Course) -> Iterator[Row]:
    for run, status in course.runs.items():
        if run.purpose != FINAL:
            chosen = course.chosen is not None and course.chosen.number == run.trial
            figures = _figures(run) if status.state == DONE else {}
            yield from _rows(study, course.arm.name, run.purpose, run.trial, run.seed, chosen, status, figures)


def _finals(
    study: Study, course: Course, arm: ArmOutcome, ensembles: Ensembles
) -> Iterator[tuple[int, Mapping[tuple[str, str], float]]]:
    """(seed, figures) of the final runs of an arm, whose statuses are kept."""
    runs = {run.seed: (run, status) for run, status in course.runs.items() if run.purpose == FINAL}
    for seed in study.final_seeds:
        members = [runs.get(seed + MEMBERS_APART * number) for number in range(arm.ensemble)]
        known = [member for member in members if member is not None]
        bad = [(run, status) for run, status in known if status.state != DONE]
        if not known or len(known) < len(members):
            arm.statuses[seed] = Status(MISSING, arm.why)
        elif bad:
            run, status = bad[0]
            of_member = f"seed {run.seed}: " if arm.ensemble > 1 and status.reason else ""
            state = FAILED if status.state == FAILED else MISSING
            arm.statuses[seed] = Status(state, f"{of_member}{status.reason}")
        else:
            arm.statuses[seed] = Status(DONE)
            found = _figures(known[0][0]) if arm.ensemble == 1 else ensembles.figures([run for run, _ in known])
            yield seed, found
            continue
        yield seed, {}


def _sent_bytes(course: Course, arm: ArmOutcome, exchange: Exchange | None) -> dict[tuple[str, str], float]:
    """Of the choice; of an ensemble those of all its models."""
    if exchange is None or course.chosen is None:
        return {}
    sent = exchange.sent_bytes(arm.name, course.arm.config(course.chosen.settings))
    return {} if sent is None else {("", EXCHANGED): arm.ensemble * sent}


def _figures(run: TrainingRun) -> dict[tuple[str, str], float]:
    return {(split, quantity): value for split, quantity, value in figures_of(run.result() or {})}


def _rows(
    study: str,
    arm: str,
    purpose: str,
    trial: int | None,
    seed: int,
    chosen: bool,
    status: Status,
    figures: Mapping[tuple[str, str], float],
) -> Iterator[Row]:
    def row(split: str, quantity: str, value: float | None) -> Row:
        state = status.state if status.state in (DONE, FAILED) else MISSING
        return Row(study, arm, purpose, trial, seed, chosen, state, status.reason, split, quantity, value)

    if not figures:
        yield row("", "", None)
    for (split, quantity), value in figures.items():
        yield row(split, quantity, value)


def points_of(outcome: Outcome) -> dict[tuple[str, int | None], Mapping[str, Any]]:
    """Parameters by arm and trial; by arm and None those of the choice."""
    found: dict[tuple[str, int | None], Mapping[str, Any]] = {}
    for arm in outcome.arms:
        found |= {(arm.name, trial.number): trial.point for trial in arm.trials}
        if arm.chosen is not None:
            found[arm.name, None] = arm.chosen.point
    return found
