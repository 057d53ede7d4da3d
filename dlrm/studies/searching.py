"""How trials of an arm come about: all combinations of a grid, draws, or proposals of Optuna's from what was found before.

Optuna's study of each arm is in a journal in the output folder (``optuna.journal``), which Optuna's own tools read. A trial
is proposed by a sampler of its own, seeded by the search's seed and the trial's number, so that a trial of ``random`` is a
function of seed and number, and one of ``bayes`` of these and of the figures before it: not of when the study was
interrupted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from dlrm.config.metrics import SMALLER_IS_BETTER
from dlrm.config.study import Bayes, Categorical, Grid, NoSearch, Random, Search, Space
from dlrm.errors import ConfigError, SetupError
from dlrm.studies.choice import Trial
from dlrm.studies.space import grid_of, levels_of, settings_of

JOURNAL = "optuna.journal"
_SEEDS = 2**32  # that numpy takes


class Searcher(Protocol):
    """Proposes trials."""

    def ask(self) -> list[Trial]:
        """Those that are to be run next, when all before them are settled; none where the search is over."""

    def tell(self, trial: Trial, value: float | None) -> None:
        """What was found of a trial; None: it gives no figure, now or later."""


class Listed:
    """Trials that are all known at the beginning.

    Args:
        trials: all.
    """

    def __init__(self, trials: list[Trial]) -> None:
        self._left = trials

    def ask(self) -> list[Trial]:
        """All of them, once."""
        left, self._left = self._left, []
        return left

    def tell(self, trial: Trial, value: float | None) -> None:
        """Nothing follows from it."""


class Sampled:
    """Trials that Optuna draws or proposes.

    Args:
        search: how; arm: whose; metric: that is compared.
        folder: for the journal.

    Raises:
        SetupError: Optuna is not installed.
        ConfigError: the journal holds trials of another space.
    """

    def __init__(self, search: Random | Bayes, arm: str, metric: str, folder: Path) -> None:
        self._search = search
        self._optuna = _import_optuna()
        self._distributions = _distributions(self._optuna, search.space)
        direction = "minimize" if metric in SMALLER_IS_BETTER else "maximize"
        self._study = self._optuna.create_study(
            storage=_storage(folder / JOURNAL), study_name=arm, direction=direction, load_if_exists=True
        )
        self._asked = 0
        if any(trial.distributions != self._distributions for trial in self._study.get_trials(deepcopy=False)):
            message = f"{folder} holds trials of arm {arm} in another search space: name another folder"
            raise ConfigError.at("output", message)

    def ask(self) -> list[Trial]:
        """Those of an earlier start first, then new ones, as many as the search has at a time."""
        known = self._study.get_trials(deepcopy=False)
        many = self._search.round if isinstance(self._search, Bayes) else self._search.trials
        found: list[Trial] = []
        while len(found) < many and self._asked < self._search.trials:
            number = self._asked
            point = known[number].params if number < len(known) else self._new(number)
            found.append(Trial(number, point, settings_of(self._search.space, point)))
            self._asked += 1
        return found

    def tell(self, trial: Trial, value: float | None) -> None:
        """Keep it, unless an earlier start has."""
        states = self._optuna.trial.TrialState
        if self._study.get_trials(deepcopy=False)[trial.number].state.is_finished():
            return
        if value is None:
            self._study.tell(trial.number, state=states.FAIL)
        else:
            self._study.tell(trial.number, value)

    def _new(self, number: int) -> Mapping[str, Any]:
        """A trial that is kept with all its parameters at once, so that a kill leaves none with a part of them.

        It is proposed in a study in memory, by what has been found by now.
        """
        optuna, states = self._optuna, self._optuna.trial.TrialState
        seed = (self._search.seed * 1_000_003 + number) % _SEEDS
        if isinstance(self._search, Bayes):
            sampler = optuna.samplers.TPESampler(n_startup_trials=self._search.startup_trials, seed=seed)
        else:
            sampler = optuna.samplers.RandomSampler(seed=seed)
        proposing = optuna.create_study(sampler=sampler, direction=self._study.direction)
        proposing.add_trials(self._study.get_trials(deepcopy=False, states=(states.COMPLETE,)))
        asked: Mapping[str, Any] = proposing.ask(fixed_distributions=self._distributions).params
        point = {name: asked[name] for name in self._search.space}
        kept = optuna.trial.create_trial(state=states.RUNNING, params=point, distributions=self._distributions)
        self._study.add_trial(kept)
        return point


def searcher_of(search: Search, arm: str, metric: str, folder: Path) -> Searcher:
    """What proposes the trials of an arm.

    Raises:
        SetupError: it takes a package that is not installed.
        ConfigError: the folder holds trials of another space.
    """
    if isinstance(search, NoSearch):
        return Listed([])
    if isinstance(search, Grid):
        points = grid_of(search.space)
        return Listed([Trial(n, point, settings_of(search.space, point)) for n, point in enumerate(points)])
    return Sampled(search, arm, metric, folder)


def _import_optuna() -> Any:
    """Optuna. Its import takes a while, and a grid does without."""
    try:
        import optuna
    except ImportError as error:
        message = f"search.kind random and bayes need Optuna ({error}): make install, or pip install optuna"
        raise SetupError(message) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _distributions(optuna: Any, space: Space) -> dict[str, Any]:
    kinds = optuna.distributions
    found: dict[str, Any] = {}
    for name, parameter in space.items():
        if isinstance(parameter, Categorical):
            levels = tuple(level.shown for level in levels_of(name, parameter))
            found[name] = kinds.CategoricalDistribution(levels)
        elif parameter.kind == "int":
            found[name] = kinds.IntDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)
        else:
            found[name] = kinds.FloatDistribution(parameter.low, parameter.high, log=parameter.log)
    return found


class _NoLock:
    """The study's folder is one process's alone (:func:`dlrm.jobs.folder.alone_in`), and no lock outlives a SIGKILL."""

    def acquire(self) -> bool:
        """Nobody else is there."""
        return True

    def release(self) -> None:
        """Nobody waits."""


def _storage(path: Path) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    _cut_torn_line(path)
    return JournalStorage(JournalFileBackend(str(path), lock_obj=_NoLock()))


def _cut_torn_line(path: Path) -> None:
    """Remove what a kill has left of a line: what follows it would be taken for a part of it."""
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)
