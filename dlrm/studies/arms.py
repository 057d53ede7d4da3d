"""From the file of a study to the configurations of its arms, each checked before the first run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlrm.config import Config, load_options
from dlrm.config.describe import flatten
from dlrm.config.study import Categorical, FloatRange, Grid, IntRange, NoSearch, Study
from dlrm.errors import ConfigError, ConfigProblem
from dlrm.jobs.options import as_words
from dlrm.studies.space import corners_of, grid_of, levels_of, settings_of

_OWN = {
    "run.name": "runs are named by their arms and seeds",
    "run.dir": "runs go into the output of study",
    "run.seed": "it trains with selection_seeds and final_seeds",
    "run.overwrite": "what is finished stays",
    "resume.checkpoint": "a run that was cut short continues by itself",
    "resume.job": "a run that was cut short continues by itself",
    "evaluation.test": "test samples are scored by final runs, once, and by no other",
    "evaluation.scores": "it keeps the scores that an ensemble needs",
}
"""Options that are not the study's to set, and why."""


@dataclass(frozen=True)
class Configured:
    """Makes configurations of the runs of an arm.

    Attributes:
        name: of the arm; study: whose; origin: its file, for messages.
    """

    name: str
    study: Study
    origin: str

    def config(self, settings: Mapping[str, Any], changes: Mapping[str, Any] | None = None) -> Config:
        """A run's configuration, read as the command train reads its own.

        Args:
            settings: of the trial, by dotted option.
            changes: what the study itself decides.

        Raises:
            ConfigError: every mistake in it.
        """
        arm = self.study.arms[self.name]
        words = [as_words(each) for each in (self.study.options, arm.options, settings, changes or {})]
        try:
            return load_options(Config, self.study.base or None, [word for each in words for word in each])
        except ConfigError as error:
            told = f"{self.origin}: arm {self.name}" + (f" with {_told(settings)}" if settings else "")
            raise ConfigError([ConfigProblem(one.key, told, one.message) for one in error.problems]) from None

    def checked(self) -> list[dict[str, Any]]:
        """Settings of trials that show every mistake of the space: all of a grid, ends and values of what is drawn.

        Raises:
            ConfigError: a mistake in any of them.
        """
        search = self.study.search_of(self.name)
        if isinstance(search, NoSearch):
            return [{}]
        for name, parameter in search.space.items():
            try:
                options = _options_of(name, parameter)
            except ValueError as error:
                raise ConfigError.at(f"search.space.{name}", str(error), self.origin) from None
            for option in options:
                _refuse_own(f"search.space.{name}", option, self.origin)
        points = grid_of(search.space) if isinstance(search, Grid) else corners_of(search.space)
        found = [settings_of(search.space, point) for point in points]
        problems: dict[tuple[str, str], ConfigProblem] = {}
        for each in found:
            try:
                self.config(each)
            except ConfigError as error:
                problems |= {(one.key, one.message): one for one in reversed(error.problems)} | problems
        if problems:
            raise ConfigError(list(problems.values()))
        return found


def read_study(path: str) -> Study:
    """The study of a file; its base and baselines are absolute paths.

    Raises:
        ConfigError: every mistake in the file itself; :func:`arms_of` finds those of the arms.
    """
    found = load_options(Study, path)
    paths = {}
    for key in ("base", "baselines"):
        if given := getattr(found, key):
            file = Path(path).parent / given
            if not file.is_file():
                message = f"{file} is no file; it is looked for beside the study's file"
                raise ConfigError.at(key, message, path)
            paths[key] = str(file.resolve())
    return found.model_copy(update=paths)


def arms_of(study: Study, origin: str) -> dict[str, Configured]:
    """The arms that have a configuration of their own, all of which were looked at.

    Raises:
        ConfigError: every mistake in any of them.
    """
    given = {"options": study.options, **{f"arms.{name}.options": arm.options for name, arm in study.arms.items()}}
    for place, options in given.items():
        for option in flatten(options):
            _refuse_own(place, option, origin)
    found = {name: Configured(name, study, origin) for name, arm in study.arms.items() if not arm.of}
    problems: list[ConfigProblem] = []
    for arm in found.values():
        try:
            for settings in arm.checked()[:1]:
                config = arm.config(settings)
                problems += _missing_rows(config, arm)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return found


def _missing_rows(config: Config, arm: Configured) -> Iterator[ConfigProblem]:
    """Generated data say how many validation samples there are; of files that is known later."""
    if getattr(config.data, "validation_samples", None) == 0:
        message = "is 0, and trials are chosen by validation samples"
        yield ConfigProblem("data.validation_samples", f"{arm.origin}: arm {arm.name}", message)


def _options_of(name: str, parameter: Categorical | IntRange | FloatRange) -> list[str]:
    """What a parameter sets, by dotted option."""
    if not isinstance(parameter, Categorical):
        return list(parameter.sets or (name,))
    return [option for level in levels_of(name, parameter) for option in flatten(level.settings)]


def _refuse_own(place: str, option: str, origin: str) -> None:
    for name, why in _OWN.items():
        if option == name:
            raise ConfigError.at(f"{place}: {option}", f"is set by study: {why}", origin)


def _told(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())
