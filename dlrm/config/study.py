"""What the command study can be told, and what a file of a study holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from dlrm.config.base import (
    AS_LIST,
    Advanced,
    NamesIfAny,
    NonNegativeFloat,
    NonNegativeInt,
    Number,
    PositiveFloat,
    PositiveInt,
    Section,
)
from dlrm.config.data.paths import InputPath
from dlrm.config.experiment import Levels, Name, Options
from dlrm.config.jobs import JobsConfig

MEMBERS_APART = 10_000  # between the seeds of the members of an ensemble
_SEEDS = 5
FIRST_FINAL = 100


class StudyConfig(JobsConfig):
    """Run a study: search each arm on validation samples, train what was chosen with fresh seeds, score test samples once.

    Started again with the same output, it goes on: what is finished stays, and a run that was cut short continues.
    """

    study: InputPath
    """File of the study (docs/studies.md); configs/studies/ has some."""
    output: InputPath = ""
    """Folder for report, table and all runs; runs/<name of the study>.study if left out. With a scheduler, one that all
    hosts share."""
    at_once: PositiveInt = 1
    """Runs at one time. On this host they share its cores: samples/s are disturbed, and threads decide how sums round."""
    only: NamesIfAny = ()
    """Arms to run; all if left out. The report shows what there is of the others, too."""
    search_only: bool = False
    """Search and choose, and train nothing that scores test samples."""


def _values(value: object) -> object:
    """A plain list is the values of a categorical parameter."""
    return {"kind": "categorical", "values": value} if isinstance(value, list) else value


def _ordered(low: float, high: float, *, log: bool) -> None:
    if low >= high:
        raise ValueError(f"low is {low}, high is {high}: low must be less")
    if log and low <= 0:
        raise ValueError(f"low is {low}: where log is true it must be greater than 0")


class Categorical(Section):
    """One of several values; the short form is their list."""

    kind: Literal["categorical"] = "categorical"
    values: Levels
    """The values, or levels {label: ..., options: {...}} that each set several options."""
    sets: NamesIfAny = ()
    """Options that get a value; the one that the parameter is named after if left out. Labelled levels have their own."""


class IntRange(Section):
    """A whole number."""

    kind: Literal["int"] = "int"
    low: int
    """Least value."""
    high: int
    """Greatest value."""
    step: PositiveInt = 1
    """Between two values."""
    log: bool = False
    """Draw its logarithm evenly."""
    sets: NamesIfAny = ()
    """Options that get the value; the one that the parameter is named after if left out."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        _ordered(self.low, self.high, log=self.log)
        if self.log and self.step != 1:
            raise ValueError("step and log do not go together: leave one of them out")
        return self


class FloatRange(Section):
    """A number."""

    kind: Literal["float"] = "float"
    low: Annotated[float, Number]
    """Least value."""
    high: Annotated[float, Number]
    """Greatest value."""
    log: bool = False
    """Draw its logarithm evenly."""
    sets: NamesIfAny = ()
    """Options that get the value; the one that the parameter is named after if left out."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        _ordered(self.low, self.high, log=self.log)
        return self


Parameter = Annotated[
    Annotated[Categorical | IntRange | FloatRange, Field(discriminator="kind")], BeforeValidator(_values)
]
Space = dict[str, Parameter]


def _not_empty(space: Mapping[str, Any]) -> None:
    if not space:
        raise ValueError("space is empty: name what is searched, as in optim.dense.lr: [0.01, 0.02]")


class NoSearch(Section):
    """The arm's options as they are."""

    kind: Literal["none"] = "none"


class Grid(Section):
    """Every combination of the values."""

    kind: Literal["grid"] = "grid"
    space: Space
    """What is searched: an option, or any name with levels, and its values."""

    @model_validator(mode="after")
    def _has_values(self) -> Self:
        _not_empty(self.space)
        for name, parameter in self.space.items():
            if not isinstance(parameter, Categorical):
                raise ValueError(
                    f"{name} is a range, and a grid needs values: list them, or take kind: random or bayes"
                )
        return self


class _Sampled(Section):
    """What searches by draws have in common."""

    space: Space
    """What is searched: an option and its range or values."""
    trials: PositiveInt
    """Configurations that each arm tries."""
    seed: NonNegativeInt = 0
    """Seed of the draws."""

    @model_validator(mode="after")
    def _has_parameters(self) -> Self:
        _not_empty(self.space)
        return self


class Random(_Sampled):
    """Configurations drawn one by one, each a function of the seed and its number."""

    kind: Literal["random"] = "random"


class Bayes(_Sampled):
    """Configurations that Optuna's TPE (Bergstra et al., NeurIPS 2011) proposes from the results of those before."""

    kind: Literal["bayes"] = "bayes"
    startup_trials: PositiveInt = 10
    """Trials drawn at random before there are proposals."""
    round: PositiveInt = 1
    """Trials that are proposed together and then all waited for, so that what is tried does not depend on which run ends
    first."""


Search = Annotated[NoSearch | Grid | Random | Bayes, Field(discriminator="kind")]


def _seeds(value: object) -> object:
    return list(range(value)) if isinstance(value, int) and not isinstance(value, bool) and value > 0 else value


def _final_seeds(value: object) -> object:
    found = _seeds(value)
    return [FIRST_FINAL + seed for seed in found] if found is not value and isinstance(found, list) else value


_Seeds = tuple[Annotated[int, Number, Field(ge=0, lt=MEMBERS_APART)], ...]
SelectionSeeds = Annotated[_Seeds, *AS_LIST, BeforeValidator(_seeds)]
FinalSeeds = Annotated[_Seeds, *AS_LIST, BeforeValidator(_final_seeds)]
Metric = Literal["auc", "log_loss", "normalised_entropy", "accuracy", "average_precision"]


class Arm(Section):
    """One of the things that are compared."""

    options: Options = Field(default_factory=dict)
    """Options of its training beside the study's, by dotted name."""
    search: Search | None = None
    """In the place of the study's."""
    ensemble: PositiveInt = 1
    """Runs with different seeds whose probabilities are averaged; 1: a single model."""
    of: str = ""
    """Another arm, whose chosen configuration is this arm's, too: an ensemble of what was searched there."""
    against: str = ""
    """The arm that it is compared with; the first one if left out."""

    @model_validator(mode="after")
    def _of_another(self) -> Self:
        if self.of and (self.options or self.search):
            raise ValueError(f"of is {self.of}, whose configuration it takes: leave out options and search")
        return self


class Study(Section):
    """The contents of a study's file."""

    file_hint: ClassVar[str] = "name the YAML file of a study (configs/studies/ has some)"

    name: Name
    """Of the study."""
    description: str = ""
    """What it is to find out, in a sentence."""
    base: InputPath = ""
    """Configuration of a training that every arm begins with, relative to this file; the defaults if left out."""
    options: Options = Field(default_factory=dict)
    """Options of every run, by dotted name."""
    metric: Metric = "auc"
    """By which trials are chosen and arms compared; of several tasks that of the first."""
    arms: dict[Name, Arm]
    """What is compared, by name; the first is what those are compared with that say nothing else (`against`)."""
    search: Search = NoSearch()
    """How each arm's configuration is found."""
    budget_minutes: PositiveFloat | None = None
    """Minutes that the runs of an arm's search may take together; no trial is begun after that."""
    selection_seeds: SelectionSeeds = (0,)
    """Seeds with which every trial is trained, or how many (from 0 on); trials are compared by the mean of them."""
    final_seeds: FinalSeeds = tuple(range(FIRST_FINAL, FIRST_FINAL + _SEEDS))
    """Seeds with which the chosen configuration is trained, the same in all arms, or how many (from 100 on)."""
    noise: NonNegativeFloat = 0.0
    """Difference of the metric below which arms count as equal, whatever their standard error: what another draw of the
    samples would change."""
    hosts: PositiveInt = 1
    """Hosts of a run."""
    ranks_per_host: PositiveInt = 1
    """Ranks on each of them."""
    exchange_ranks: Advanced[PositiveInt | None] = None
    """Ranks for which the bytes that are exchanged are worked out; those of the runs if left out."""
    baselines: InputPath = ""
    """What `python -m benchmarks.baselines` wrote, relative to this file: other learners on the same samples, shown beside
    the arms."""
    timeout_s: PositiveFloat = 86_400.0
    """Seconds after which a run is ended; with a scheduler, from when it runs."""

    @model_validator(mode="after")
    def _arms_are_there(self) -> Self:
        if not self.arms:
            raise ValueError("arms is empty: name at least one")
        for name, arm in self.arms.items():
            if arm.of and (arm.of not in self.arms or self.arms[arm.of].of):
                raise ValueError(f"arms.{name}.of is {arm.of}, which is no arm with a configuration of its own")
            if arm.against and (arm.against not in self.arms or arm.against == name):
                raise ValueError(f"arms.{name}.against is {arm.against}, which is no other arm")
        return self

    @model_validator(mode="after")
    def _seeds_are_fresh(self) -> Self:
        for name in ("selection_seeds", "final_seeds"):
            seeds = getattr(self, name)
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"{name} has a seed twice")
        if both := sorted(set(self.selection_seeds) & set(self.final_seeds)):
            raise ValueError(f"final_seeds has {both[0]}, with which trials are chosen: take fresh ones")
        return self

    def search_of(self, arm: str) -> Search:
        """How an arm's configuration is found; that of an arm with ``of`` is found there."""
        return self.arms[arm].search or self.search

    def reference_of(self, arm: str) -> str:
        """The arm that one is compared with; the first one's is itself, unless it names another."""
        return self.arms[arm].against or next(iter(self.arms))

    def owner_of(self, arm: str) -> str:
        """Whose configuration an arm has."""
        return self.arms[arm].of or arm
