"""From the file of an experiment to its points, each with the configuration that its job will be given.

Everything is checked here: a mistake in the last point is found before the first one runs.

Terms: a *factor* is what varies: hosts and ranks, or what ``vary`` names. A *level* is one of its values. A *point* is one
level of each factor.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dlrm.config import load_options
from dlrm.config.benchmark import BenchmarkConfig
from dlrm.config.describe import flatten
from dlrm.config.experiment import Experiment
from dlrm.errors import ConfigError, ConfigProblem
from dlrm.format import counted, did_you_mean
from dlrm.jobs.options import as_words, folder_word
from dlrm.scaling.table import Row

HOSTS, RANKS, PER_HOST, PER_RANK = "hosts", "ranks", "ranks_per_host", "samples_per_rank"
BATCH = "train.global_batch_size"
_OWN = {
    "output": "the folders of the points are made from the output of scale",
    "run.name": "points are named by their levels",
    "resume.checkpoint": "a benchmark resumes nothing",
}
"""Options that are not the experiment's to set, and why."""
_LONGEST = 24  # of a level's value in a point's name
_SHOWN = 3  # points that one mistake is told of


@dataclass(frozen=True)
class Point:
    """A point.

    Attributes:
        name: made of its levels; fit for a folder's name.
        hosts, ranks_per_host: of its jobs.
        factors: its levels, by factor: a label, or the value of an option.
        config: of its benchmark; its output is left open.
    """

    name: str
    hosts: int
    ranks_per_host: int
    factors: Mapping[str, Any]
    config: BenchmarkConfig

    @property
    def ranks(self) -> int:
        """Of all hosts."""
        return self.hosts * self.ranks_per_host

    @property
    def global_batch_size(self) -> int:
        """Samples of a step."""
        return self.config.train.global_batch_size


@dataclass(frozen=True)
class _Level:
    """A level: what it is called in a point's name and in the table, and the options that it sets."""

    word: str
    shown: Any
    options: Mapping[str, Any]


@dataclass(frozen=True)
class _Draft:
    """A point whose configuration was not looked at yet."""

    hosts: int
    ranks_per_host: int
    levels: Mapping[str, _Level]

    @property
    def name(self) -> str:
        words = [f"{self.hosts}x{self.ranks_per_host}", *(level.word for level in self.levels.values())]
        return ".".join(words)

    @property
    def shown(self) -> dict[str, Any]:
        """Its levels and what follows from them, by all names that ``exclude`` may use."""
        shape = {HOSTS: self.hosts, PER_HOST: self.ranks_per_host, RANKS: self.hosts * self.ranks_per_host}
        return {**shape, **{name: level.shown for name, level in self.levels.items()}}


def read_experiment(path: str) -> Experiment:
    """The experiment of a file; its base is an absolute path.

    Raises:
        ConfigError: every mistake in the file itself; :func:`points_of` finds those of the points.
    """
    found = load_options(Experiment, path)
    try:
        _ = found.shapes
    except ValueError as error:
        raise ConfigError.at("ranks", str(error), path) from None
    if not found.base:
        return found
    base = Path(path).parent / found.base
    if not base.is_file():
        raise ConfigError.at("base", f"{base} is no file; it is looked for beside the experiment's file", path)
    return found.model_copy(update={"base": str(base.resolve())})


def points_of(experiment: Experiment, origin: str) -> list[Point]:
    """All points, in the order of the matrix: the last factor of ``vary`` changes fastest, hosts and ranks most slowly.

    Args:
        experiment: to expand.
        origin: its file, for messages.

    Raises:
        ConfigError: every mistake in any of them, with its point.
    """
    problems = list(_mistakes(experiment, origin))
    factors = {name: list(_levels(name, values)) for name, values in experiment.vary.items()}
    if len(experiment.samples_per_rank) > 1:
        factors = {PER_RANK: list(_levels(PER_RANK, experiment.samples_per_rank)), **factors}
    problems += _clashes(factors, origin)
    if problems:
        raise ConfigError(problems)
    drafts = [
        _Draft(*shape, dict(zip(factors, levels, strict=True)))
        for shape in experiment.shapes
        for levels in itertools.product(*factors.values())
    ]
    drafts = _without_excluded(drafts, experiment, origin)
    drafts += [
        _included(choice, number, factors, experiment, origin) for number, choice in enumerate(experiment.include)
    ]
    if not drafts:
        raise ConfigError.at("exclude", "leaves no point", origin)
    return _loaded(drafts, experiment, origin)


def selected(points: Sequence[Point], patterns: Sequence[str]) -> list[Point]:
    """The points whose names fit one of the patterns; all, without any.

    Raises:
        ConfigError: a pattern fits none.
    """
    fitting: set[str] = set()
    names = [point.name for point in points]
    for pattern in patterns:
        wanted = re.compile("".join(".*" if part == "*" else re.escape(part) for part in re.split(r"(\*)", pattern)))
        found = {name for name in names if wanted.fullmatch(name)}
        if not found:
            hint = did_you_mean(pattern, names) or "--dry_run shows all"
            raise ConfigError.at("only", f"{pattern} is the name of no point; {hint}")
        fitting |= found
    return [point for point in points if point.name in fitting or not patterns]


def _mistakes(experiment: Experiment, origin: str) -> Iterator[ConfigProblem]:
    """What is wrong whatever the points are."""
    columns = {field.name for field in fields(Row)}
    for name in experiment.vary:
        if name in (HOSTS, RANKS, PER_HOST, PER_RANK):
            yield ConfigProblem(f"vary.{name}", origin, f"stands beside vary, not in it: {name}: [...]")
        elif name in columns:
            yield ConfigProblem(f"vary.{name}", origin, "is a column of every table: call the factor something else")
    options = {f"options.{name}": None for name in flatten(experiment.options)}
    options |= {f"vary.{name}": None for name in experiment.vary}
    for place in options:
        name = place.partition(".")[2]
        if name in _OWN:
            yield ConfigProblem(place, origin, f"is set by scale: {_OWN[name]}")
        if name == BATCH and experiment.batch == "weak":
            yield ConfigProblem(place, origin, "is samples_per_rank times ranks where batch is weak: leave it out")


def _levels(name: str, values: Sequence[Any]) -> Iterator[_Level]:
    key = folder_word(name.rpartition(".")[2]) or "level"
    for number, value in enumerate(values, start=1):
        if isinstance(value, dict) and "label" in value and value.keys() <= {"label", "options"}:
            label, options = str(value["label"]), value.get("options") or {}
            if not isinstance(options, dict):
                raise ConfigError.at(f"vary.{name}", f"options of {label} must be a mapping from options to values")
            yield _Level(folder_word(label) or f"{key}-{number}", label, options)
            continue
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        short = folder_word(text)
        word = f"{key}-{short}" if short and len(short) <= _LONGEST else f"{key}-no{number}"
        yield _Level(word, value if isinstance(value, str | int | float) else text, {name: value})


def _clashes(factors: Mapping[str, Sequence[_Level]], origin: str) -> Iterator[ConfigProblem]:
    """Levels that are one, and options that two factors set."""
    setters: dict[str, str] = {}
    for name, levels in factors.items():
        words = [level.word for level in levels]
        for word in sorted({word for word in words if words.count(word) > 1}):
            yield ConfigProblem(f"vary.{name}", origin, f"has the level {word} twice; give one another label")
        for option in sorted({option for level in levels for option in flatten(level.options)}):
            if option in setters:
                message = f"sets {option}, which {setters[option]} sets, too: let one factor set both"
                yield ConfigProblem(f"vary.{name}", origin, message)
            setters[option] = name


def _without_excluded(drafts: list[_Draft], experiment: Experiment, origin: str) -> list[_Draft]:
    problems, known = [], list(drafts[0].shown)
    for number, choice in enumerate(experiment.exclude):
        key = f"exclude[{number}]"
        unknown = [name for name in choice if name not in known]
        for name in unknown:
            hint = did_you_mean(name, known) or f"there are {', '.join(known)}"
            problems.append(ConfigProblem(key, origin, f"{name} is no factor; {hint}"))
        if not unknown and not any(_fits(draft, choice) for draft in drafts):
            problems.append(ConfigProblem(key, origin, f"fits no point: {_told(choice)}"))
    if problems:
        raise ConfigError(problems)
    return [draft for draft in drafts if not any(_fits(draft, choice) for choice in experiment.exclude)]


def _fits(draft: _Draft, choice: Mapping[str, Any]) -> bool:
    def fits(level: Any, wanted: Any) -> bool:
        if isinstance(wanted, list) and any(fits(level, each) for each in wanted):
            return True
        return bool(level == wanted or level == json.dumps(wanted, ensure_ascii=False))

    return all(fits(draft.shown[name], wanted) for name, wanted in choice.items())


def _included(
    choice: Mapping[str, Any],
    number: int,
    factors: Mapping[str, Sequence[_Level]],
    experiment: Experiment,
    origin: str,
) -> _Draft:
    key, rest = f"include[{number}]", dict(choice)
    try:
        ranks = rest.pop(RANKS, None)
        hosts, per_host = rest.pop(HOSTS, 1), rest.pop(PER_HOST, 1)
        if ranks is not None:
            hosts, per_host = experiment.shape_of(int(ranks)) if HOSTS not in choice else (hosts, int(ranks) // hosts)
        drawn = {name: _chosen(name, value, factors.get(name, ())) for name, value in rest.items()}
        draft = _Draft(int(hosts), int(per_host), drawn)
        count = draft.hosts * draft.ranks_per_host
        if min(draft.hosts, draft.ranks_per_host) < 1 or ranks not in (None, count):
            raise ValueError(f"{hosts} hosts of {per_host} ranks are no job")
    except (TypeError, ValueError) as error:
        raise ConfigError.at(key, f"{error}: {_told(choice)}", origin) from None
    return draft


def _chosen(name: str, value: Any, levels: Sequence[_Level]) -> _Level:
    """The level of a factor that is meant: one of those there are, or another value of an option."""
    for level in levels:
        if level.shown == value:
            return level
    if levels and all(name not in level.options for level in levels):
        labels = [str(level.shown) for level in levels]
        raise ValueError(f"{name} has no level {value}; {did_you_mean(str(value), labels) or ', '.join(labels)}")
    (level,) = _levels(name, [value])
    return level


def _told(choice: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in choice.items())


def _loaded(drafts: Sequence[_Draft], experiment: Experiment, origin: str) -> list[Point]:
    """The points with their configurations, which are read as the command benchmark reads its own."""
    points: list[Point] = []
    problems: dict[tuple[str, str], list[str]] = {}
    by_name: dict[str, _Draft] = {}
    for draft in drafts:
        if draft.name in by_name:
            problems.setdefault(("", "is there twice: leave it out of include, or give its levels labels"), []).append(
                draft.name
            )
            continue
        by_name[draft.name] = draft
        try:
            config = load_options(BenchmarkConfig, experiment.base or None, _words(draft, experiment))
        except ConfigError as error:
            for problem in error.problems:
                problems.setdefault((problem.key, problem.message), []).append(draft.name)
            continue
        factors = {name: level.shown for name, level in draft.levels.items()}
        points.append(Point(draft.name, draft.hosts, draft.ranks_per_host, factors, config))
    same: dict[tuple[int, int, str], str] = {}
    for point in points:
        key = (point.hosts, point.ranks_per_host, point.config.model_dump_json())
        if key in same:
            problems.setdefault(("", f"is the same as point {same[key]}: drop one"), []).append(point.name)
        same.setdefault(key, point.name)
    if problems:
        raise ConfigError(
            [ConfigProblem(key, f"{origin}: {_points_told(names)}", text) for (key, text), names in problems.items()]
        )
    return points


def _words(draft: _Draft, experiment: Experiment) -> list[str]:
    """What the command line of a point's benchmark would say."""
    settings: dict[str, Any] = {**experiment.options}
    for name, level in draft.levels.items():
        settings.update({} if name == PER_RANK else level.options)
    if experiment.batch == "weak":
        own = draft.levels.get(PER_RANK)
        samples = experiment.samples_per_rank[0] if own is None else own.shown
        settings[BATCH] = samples * draft.hosts * draft.ranks_per_host
    settings["run.name"] = experiment.name
    return as_words(settings)


def _points_told(names: Sequence[str]) -> str:
    more = f" and {counted(len(names) - _SHOWN, 'other')}" if len(names) > _SHOWN else ""
    return f"{'point' if len(names) == 1 else 'points'} {', '.join(names[:_SHOWN])}{more}"
