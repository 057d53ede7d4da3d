"""A training of a study as a job, and what it has left.

- <arm>/trials/<number>/seed_0/: a run of the search, which scores no test samples.
- <arm>/final/seed_100/: a run of what was chosen, which scores them once.

In each: config.yaml, what the job is given; run/, what a run leaves behind; and what :mod:`dlrm.jobs.spec` keeps.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from dlrm.config import Config, dump_config, load_options
from dlrm.errors import DIVERGED, ConfigError
from dlrm.jobs.spec import JobSpec, json_mapping
from dlrm.run.files import is_run, remove_run

SEARCH, FINAL = "search", "final"
_RUN = "run"


@dataclass(frozen=True, eq=False)  # a run is itself: its folder is its own
class TrainingRun(JobSpec):
    """A run.

    Attributes:
        arm: whose configuration it is of; purpose: search or final; trial: number, from 0; None of a final run.
        seed: of weights, order and dropout.
        own: its configuration, which names its folder; own_folder: an absolute path.
        hosts, ranks_per_host: of its job; threads: of a rank, 0 to leave them to the configuration.
    """

    component: ClassVar[str] = "train"

    arm: str
    purpose: str
    trial: int | None
    seed: int
    own: Config
    own_folder: Path
    hosts: int = 1
    ranks_per_host: int = 1
    threads: int = 0

    @property
    def folder(self) -> Path:
        """Its own."""
        return self.own_folder

    @property
    def run_folder(self) -> Path:
        """What the trainer has left."""
        return self.folder / _RUN

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.arm}, {'final' if self.trial is None else f'trial {self.trial}'}, seed {self.seed}"

    @property
    def shape(self) -> tuple[int, int]:
        """(hosts, ranks on each)."""
        return self.hosts, self.ranks_per_host

    @property
    def config(self) -> Path:
        """What its job is given."""
        return self.folder / "config.yaml"

    @cached_property
    def config_text(self) -> str:
        """What is in it."""
        return dump_config(self.own)

    @property
    def words(self) -> tuple[str, ...]:
        """How many threads a rank has beside others."""
        return (f"--distributed.threads_per_rank={self.threads}",) if self.threads else ()

    @property
    def lacking(self) -> str:
        """What every finished run leaves."""
        return f"{_RUN}/summary.json"

    @property
    def leftovers(self) -> tuple[str, ...]:
        """None: the run goes on where it was."""
        return ()

    def prepare(self) -> None:
        """Make its folder; a run of another configuration is removed, one of the same is left to go on.

        Raises:
            OSError: it cannot be written, or holds what no run has written.
        """
        if is_run(self.run_folder) and not self.is_as_wanted():
            remove_run(self.run_folder)
        super().prepare()

    def result(self) -> dict[str, Any] | None:
        """The contents of its summary.json; None as long as it has not ended."""
        found = json_mapping(self.run_folder / "summary.json")
        return found if isinstance(found.get("validation"), dict) and "stopped" in found else None

    def is_as_wanted(self) -> bool:
        """Whether what lies there is of the configuration that is wanted now, wherever it lies."""
        path = self.run_folder / "config.yaml"
        with suppress(OSError):
            if path.read_text() == self.config_text:  # which is sooner known
                return True
        try:
            found = load_options(Config, path)
        except ConfigError:  # of another version, or none
            return False
        return _essence(found) == _essence(self.own)

    def entries(self) -> Iterator[dict[str, Any]]:
        """What it has recorded over its steps."""
        with suppress(OSError), (self.run_folder / "metrics.jsonl").open(encoding="utf-8") as lines:
            for line in lines:
                with suppress(ValueError):  # a line that a kill has cut
                    entry = json.loads(line)
                    if isinstance(entry, dict):
                        yield entry


def _essence(config: Config) -> Config:
    """What decides the result."""
    return config.model_copy(
        update={
            "run": config.run.model_copy(update={"dir": ""}),
            "distributed": config.distributed.model_copy(update={"threads_per_rank": 0}),
            "resume": None,
        }
    )


def has_diverged(reason: str) -> bool:
    """Whether a run has failed because of its configuration and seed, so that it would again."""
    return DIVERGED in reason
