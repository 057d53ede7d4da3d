"""A repeat of a point as a job of ``benchmark``, and the order of all of them.

- points/<point>/config.yaml: what its jobs are given.
- points/<point>/repeat_0/: the output of ``benchmark``, with benchmark.json and the configuration that it is of, and what
  :mod:`dlrm.jobs.spec` keeps of the job.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dlrm.config import dump_config, load_options
from dlrm.config.benchmark import BenchmarkConfig
from dlrm.errors import ConfigError
from dlrm.jobs.spec import JobSpec, json_mapping
from dlrm.scaling.benchmark.file_format import CONFIG_NAME, FORMAT, NAME, VERSION
from dlrm.scaling.experiments.matrix import Point


@dataclass(frozen=True)
class Repeat(JobSpec):
    """A repeat of a point.

    Attributes:
        point: which; number: of the repeat, from 0; own_folder: an absolute path.
    """

    component: ClassVar[str] = "benchmark"

    point: Point
    number: int
    own_folder: Path

    @property
    def folder(self) -> Path:
        """Its own."""
        return self.own_folder

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.point.name}, repeat {self.number}"

    @property
    def shape(self) -> tuple[int, int]:
        """(hosts, ranks on each)."""
        return self.point.hosts, self.point.ranks_per_host

    @property
    def config(self) -> Path:
        """What its job is given."""
        return self.folder.parent / "config.yaml"

    @property
    def config_text(self) -> str:
        """What is in it."""
        return dump_config(self.point.config)

    @property
    def words(self) -> tuple[str, ...]:
        """Where to write."""
        return (f"--output={self.folder}",)

    @property
    def lacking(self) -> str:
        """What every benchmark leaves."""
        return f"benchmark.json of {self.point.ranks} rank(s)"

    @property
    def leftovers(self) -> tuple[str, ...]:
        """Its result and the ranks' logs."""
        return (NAME, "log/rank*.log")

    def result(self) -> dict[str, Any] | None:
        """The contents of its benchmark.json; None if it has none, or one of another version, or of other ranks."""
        found = json_mapping(self.folder / NAME)
        if (found.get("format"), found.get("version")) != (FORMAT, VERSION):
            return None
        shape = (found.get("hosts"), found.get("ranks"))
        return found if shape == (self.point.hosts, self.point.ranks) else None

    def is_as_wanted(self) -> bool:
        """Whether what lies there is of the configuration that is wanted now."""
        try:
            found = load_options(BenchmarkConfig, self.folder / CONFIG_NAME)
        except ConfigError:  # of another version, or none
            return False
        return found.model_copy(update={"output": ""}) == self.point.config.model_copy(update={"output": ""})


def repeats_of(points: list[Point], count: int, output: Path) -> list[Repeat]:
    """All repeats in the order in which they are run: one of each point, then the next of each.

    So what changes on the machine meanwhile falls on all points alike.
    """
    folder = Path(os.path.abspath(output)) / "points"
    return [
        Repeat(point, number, folder / point.name / f"repeat_{number}") for number in range(count) for point in points
    ]
