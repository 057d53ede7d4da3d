"""What the command scale can be told, and what a file of an experiment holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from dlrm.config.base import NamesIfAny, PositiveFloat, PositiveInt, Section, Sizes, SizesIfAny
from dlrm.config.data.paths import InputPath
from dlrm.config.jobs import LOCAL, JobsConfig


class ScaleConfig(JobsConfig):
    """Run an experiment: each point of a matrix of configurations, so many times, and all figures as one table.

    Started again with the same output, it goes on: what is finished stays.
    """

    experiment: InputPath
    """File of the experiment (docs/scaling.md); configs/experiments/ has some."""
    output: InputPath = ""
    """Folder for the table and for all that the points leave; runs/<name of the experiment>.scale if left out. With a
    scheduler, one that all hosts share."""
    machine: InputPath = ""
    """Calibration of the hosts (what `calibrate` wrote): every point is predicted beside what is measured."""
    device: str = ""
    """Name of a GPU of the catalogue (H100) that the ranks have, to predict for without a calibration."""
    network: str = ""
    """With device: what ties hosts together, a network of the catalogue; that of the device's usual server if left out."""
    predict_only: bool = False
    """Predict every point, write table and report, and run none."""
    at_once: PositiveInt = 1
    """Jobs that a scheduler has at one time. Jobs that share hosts or a network disturb each other."""
    only: NamesIfAny = ()
    """Names of points to run, as --dry_run shows them; * stands for anything. All if left out."""
    repeats: PositiveInt | None = None
    """How often each point is run, in the place of the file's."""

    @model_validator(mode="after")
    def _predictions_have_a_machine(self) -> Self:
        if self.machine and self.device:
            raise ValueError("machine and device both say what to predict for: give one of them")
        if self.network and not self.device:
            raise ValueError("network is between hosts of a device: set device, too")
        if self.predict_only and not (self.machine or self.device):
            raise ValueError("predict_only needs to know what for: set machine or device")
        return self

    @model_validator(mode="after")
    def _local_runs_one_job(self) -> Self:
        if self.scheduler == LOCAL and self.at_once > 1:
            raise ValueError(
                "at_once is for a scheduler: jobs that share this host would measure each other; set it to 1"
            )
        return self


def _plain(value: Any) -> Any:
    """Numbers that know how they were written are numbers only."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | str):
        return value
    return int(value) if isinstance(value, int) else float(value)


def _levels(value: object) -> object:
    if not isinstance(value, list) or not value:
        raise ValueError("must be a list of its levels: [16, 64], or [{label: small, options: {...}}, ...]")
    return value


def _mappings(value: object) -> object:
    if value is not None and not (isinstance(value, list) and all(isinstance(item, dict) and item for item in value)):
        raise ValueError("must be a list of mappings from factors to levels: [{ranks: 4, model.embedding_dim: 128}]")
    return value or []


Value = Annotated[Any, AfterValidator(_plain)]
Options = dict[str, Value]
Levels = Annotated[tuple[Value, ...], BeforeValidator(_levels)]
Choices = Annotated[tuple[Options, ...], BeforeValidator(_mappings)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Experiment(Section):
    """The contents of an experiment's file."""

    file_hint: ClassVar[str] = "name the YAML file of an experiment (configs/experiments/ has some)"

    name: Name
    """Of the experiment."""
    description: str = ""
    """What it is to find out, in a sentence."""
    base: InputPath = ""
    """Configuration of a training that every point begins with, relative to this file; the defaults if left out."""
    options: Options = Field(default_factory=dict)
    """Options of `benchmark` for every point, by dotted name: those of a training, and steps, warmup_steps, ..."""
    batch: Literal["weak", "strong"] = "strong"
    """weak: the global batch has samples_per_rank samples for each rank. strong: it is the same on all numbers of ranks."""
    samples_per_rank: SizesIfAny = ()
    """For weak: one number, or several, which are a factor then."""
    hosts: Sizes = (1,)
    """Numbers of hosts."""
    ranks_per_host: SizesIfAny = ()
    """Numbers of ranks on each; 1 if left out."""
    ranks: SizesIfAny = ()
    """Numbers of ranks in the place of hosts: ranks_per_host is one number then, how many a host has at most
    (any number if left out)."""
    vary: dict[str, Levels] = Field(default_factory=dict)
    """Factors: an option and its values, or any name and levels {label: ..., options: {...}}. All are combined."""
    exclude: Choices = ()
    """Points to leave out: those with all of these levels, where a list means any of its values."""
    include: Choices = ()
    """Points beside those of the matrix; a factor that is left out is left to the base."""
    repeats: PositiveInt = 3
    """How often each point is run."""
    published: bool = False
    """Show MLPerf's published DLRM-DCNv2 results beside the points in the report."""
    timeout_s: PositiveFloat = 1800.0
    """Seconds after which a job is ended; with a scheduler, from when it runs."""

    @model_validator(mode="after")
    def _options_go_together(self) -> Self:
        if self.batch == "weak" and not self.samples_per_rank:
            raise ValueError("batch is weak: say samples_per_rank")
        if self.batch == "strong" and self.samples_per_rank:
            raise ValueError("samples_per_rank is for batch: weak; here train.global_batch_size says how many samples")
        if self.ranks and self.hosts != (1,):
            raise ValueError("give hosts or ranks, not both")
        if self.ranks and len(self.ranks_per_host) > 1:
            raise ValueError("with ranks, ranks_per_host is one number: how many a host has at most")
        return self

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(hosts, ranks on each) of every kind of job.

        Raises:
            ValueError: ranks that do not fill their hosts.
        """
        if self.ranks:
            return [self.shape_of(ranks) for ranks in self.ranks]
        return [(hosts, ranks) for hosts in self.hosts for ranks in self.ranks_per_host or (1,)]

    def shape_of(self, ranks: int) -> tuple[int, int]:
        """(hosts, ranks on each) of so many ranks.

        Raises:
            ValueError: they do not fill their hosts.
        """
        most = self.ranks_per_host[0] if self.ranks_per_host else ranks
        if ranks <= most:
            return 1, ranks
        if ranks % most:
            raise ValueError(f"{ranks} ranks do not fill hosts of {most}: give multiples of ranks_per_host")
        return ranks // most, most
