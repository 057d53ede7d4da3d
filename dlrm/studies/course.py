"""What becomes of an arm: its search, its choice, and the final runs of what was chosen.

Terms: a run is *settled* when it has a result, or has diverged, which it would do again. What failed otherwise is tried
again when the study is started again, unless ``retry`` is false. An arm whose trials are not all settled makes no choice:
test samples are scored for a choice that no further result can change.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlrm.config.study import MEMBERS_APART, Study, StudyConfig
from dlrm.studies.arms import Configured
from dlrm.studies.choice import Trial, choose
from dlrm.studies.runs import FINAL, SEARCH, TrainingRun, has_diverged
from dlrm.studies.searching import Searcher

_NO_BUDGET = "not tried: budget_minutes is used up"
_WITH_ANOTHER = "not run: another seed of the trial has diverged or cannot work"


@dataclass
class Status:
    """Of a run: done, failed, or missing, with the reason."""

    state: str = "missing"
    reason: str = ""


@dataclass
class Course:
    """An arm with a configuration of its own on its way through a study.

    Attributes:
        arm: makes its configurations; searcher: proposes its trials.
        config: of the command; folder: of the arm; threads: of a rank, 0 to leave them to the configuration.
        say: tells a person.
        choose_kept: given a choice, keeps it before anything follows from it.
        trials: that were begun; runs: of them and of the choice, with what became of each.
        chosen: the trial, once there is one; over: whether nothing is left to do or to wait for.
    """

    arm: Configured
    searcher: Searcher
    config: StudyConfig
    folder: Path
    threads: int
    say: Callable[[str], None]
    choose_kept: Callable[[str, Trial], None]
    trials: list[Trial] = field(default_factory=list)
    runs: dict[TrainingRun, Status] = field(default_factory=dict)
    chosen: Trial | None = None
    over: bool = False
    why: str = ""
    _waiting: deque[TrainingRun] = field(default_factory=deque)
    _under_way: int = 0
    _spent_s: float = 0.0
    _searching: bool = True

    @property
    def study(self) -> Study:
        """Whose."""
        return self.arm.study

    def only_look(self, chosen: Trial | None) -> None:
        """Run nothing: take what there is of the choice of an earlier start."""
        self.over, self.chosen = True, chosen
        if chosen is not None:
            self._begin(list(self.final_runs()))
        self._waiting.clear()

    def next_run(self) -> TrainingRun | None:
        """The next run to start; None if there is none, or none before another has ended."""
        while not self.over:
            while self._waiting:
                run = self._waiting.popleft()
                if self._is_wanted(run):
                    self._under_way += 1
                    return run
            if self._under_way:
                return None
            self._advance()
        return None

    def done(self, run: TrainingRun, duration_s: float) -> None:
        """A run has a result."""
        self._under_way -= 1
        self._count(run, duration_s)
        self._take(run)

    def failed(self, run: TrainingRun, reason: str) -> None:
        """A run has none."""
        self._under_way -= 1
        record = run.record()
        self._count(run, record.duration_s if record is not None else 0.0)
        self._fail(run, reason)

    def unsettled(self) -> list[TrainingRun]:
        """Runs that another start would try again."""
        return [run for run, found in self.runs.items() if found.state != "done" and not self._is_out(run, found)]

    def _advance(self) -> None:
        """What comes next, as nothing waits and nothing is under way."""
        if not self._searching:
            self.over = True
            return
        self._settle()
        if trials := self.searcher.ask():
            self.trials += trials
            seeds = self.study.selection_seeds
            self._begin([self._run_of(trial, seed) for trial in trials for seed in seeds])
            return
        self._searching = False
        if not self._choose() or self.config.search_only:
            return
        self._begin(list(self.final_runs()))

    def _settle(self) -> None:
        """Tell the search of trials that were finished since it was last asked."""
        for trial in self.trials:
            if not trial.settled:
                value = trial.value(self.study.selection_seeds)
                settled = value is not None or any(map(self._is_for_good, trial.failures.values()))
                if settled:
                    trial.settled = True
                    self.searcher.tell(trial, value)

    def _choose(self) -> bool:
        """Choose, if all trials are settled; whether a choice was made."""
        seeds, metric = self.study.selection_seeds, self.study.metric
        if not self.trials:  # nothing was searched
            self.chosen = Trial(0, {}, {}, settled=True)
            return True
        waiting = [trial for trial in self.trials if not trial.settled and _NO_BUDGET not in trial.failures.values()]
        if waiting:
            self.why = f"{len(waiting)} of {len(self.trials)} trials failed: no choice before they are run again"
        elif (best := choose(self.trials, seeds, metric)) is None:
            self.why = "no trial has a figure: nothing to choose from"
        else:
            self.chosen = best
            self.choose_kept(self.arm.name, best)
            return True
        self.say(f"{self.arm.name}: {self.why}")
        return False

    def _begin(self, runs: Sequence[TrainingRun]) -> None:
        """Take what is there of them from earlier starts; the others wait for their turn."""
        for run in runs:
            self.runs[run] = Status()
            state, record = run.state(), run.record()
            self._count(run, record.duration_s if record is not None else 0.0)
            if state == "done":
                self._take(run)
            elif (
                state == "failed"
                and record is not None
                and self._is_for_good(record.reason)
                and run.was_given_the_same()
            ):
                self._fail(run, record.reason)
            else:
                if state == "changed":
                    self.say(f"{run.name}: its result is of another configuration; it is run again")
                self._waiting.append(run)

    def _is_wanted(self, run: TrainingRun) -> bool:
        """Whether a run is worth its time; if not, why is kept."""
        if run.trial is None:
            return True
        trial = self.trials[run.trial]
        if trial.failures:
            return self._leave_out(
                run, next((why for why in trial.failures.values() if why == _NO_BUDGET), _WITH_ANOTHER)
            )
        budget = self.study.budget_minutes
        begun = bool(trial.values) or any(run.trial == other.trial for other in self._runs_under_way())
        if budget is not None and not begun and self._spent_s >= 60 * budget:
            trial.failures[run.seed] = _NO_BUDGET
            return self._leave_out(run, _NO_BUDGET)
        return True

    def _runs_under_way(self) -> Iterator[TrainingRun]:
        yield from (run for run, found in self.runs.items() if found.state == "running")

    def _leave_out(self, run: TrainingRun, why: str) -> bool:
        self.runs[run] = Status("missing", why)
        return False

    def started(self, run: TrainingRun) -> None:
        """A run is under way."""
        self.runs[run] = Status("running")

    def _take(self, run: TrainingRun) -> None:
        self.runs[run] = Status("done")
        if run.trial is not None:
            found = run.result()
            assert found is not None, run.folder
            value = found["validation"].get(self.study.metric)
            if value is None:
                self._fail(run, f"its validation samples have no {self.study.metric}")
            else:
                self.trials[run.trial].values[run.seed] = float(value)

    def _fail(self, run: TrainingRun, reason: str) -> None:
        self.runs[run] = Status("failed", reason)
        if run.trial is not None:
            self.trials[run.trial].failures[run.seed] = reason

    def _is_for_good(self, reason: str) -> bool:
        return has_diverged(reason) or not self.config.retry

    def _is_out(self, run: TrainingRun, found: Status) -> bool:
        if found.state == "failed":
            return self._is_for_good(found.reason)
        return run.trial is not None and (self.trials[run.trial].settled or found.reason == _NO_BUDGET)

    def _count(self, run: TrainingRun, duration_s: float) -> None:
        if run.purpose == SEARCH:
            self._spent_s += duration_s

    def _run_of(self, trial: Trial, seed: int) -> TrainingRun:
        folder = self.folder / "trials" / str(trial.number) / f"seed_{seed}"
        return self._made(SEARCH, trial, seed, folder, {"evaluation.test": False, "checkpoint.at_end": False})

    def final_runs(self) -> Iterator[TrainingRun]:
        """Of what was chosen: one a final seed, and as many more as the largest ensemble of it has members."""
        assert self.chosen is not None
        most = max(arm.ensemble for name, arm in self.study.arms.items() if self.study.owner_of(name) == self.arm.name)
        changes = {"evaluation.test": True, "evaluation.scores": most > 1}
        for seed in self.study.final_seeds:
            for member in range(most):
                own = seed + MEMBERS_APART * member
                yield self._made(FINAL, self.chosen, own, self.folder / "final" / f"seed_{own}", changes)

    def _made(self, purpose: str, trial: Trial, seed: int, folder: Path, changes: Mapping[str, Any]) -> TrainingRun:
        own = {"run.seed": seed, "run.name": "run", "run.dir": str(folder), "resume.checkpoint": "auto", **changes}
        return TrainingRun(
            arm=self.arm.name,
            purpose=purpose,
            trial=trial.number if purpose == SEARCH else None,
            seed=seed,
            own=self.arm.config(trial.settings, own),
            own_folder=folder,
            hosts=self.study.hosts,
            ranks_per_host=self.study.ranks_per_host,
            threads=self.threads,
        )
