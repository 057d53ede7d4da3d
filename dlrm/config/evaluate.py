"""What the command evaluate can be told: what to score, and what differs from the configuration that was trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from dlrm.config.base import NamesIfAny, PositiveInt, Section
from dlrm.config.data.paths import InputPath
from dlrm.config.describe import flatten, switches
from dlrm.config.layers import Layer, command_line_layer
from dlrm.config.load import load_options
from dlrm.config.root import Config
from dlrm.errors import ConfigError, ConfigProblem

SplitName = Literal["test", "validation", "train"]

REFUSED = {
    "model": "is the checkpoint's, with which its weights go: leave it out",
    "optim": "is for training: leave it out",
    "checkpoint": "is about saving, and nothing is saved here: leave it out (the checkpoint to score is PATH)",
    "resume": "is about going on with training: leave it out (the checkpoint to score is PATH)",
    "warm_start": "is about the beginning of a training: leave it out (the checkpoint to score is PATH)",
}
"""Sections of a run's configuration that cannot be given, and why."""
_NOT_TAKEN_OVER = ("checkpoint", "resume", "warm_start")


def _told_by_suffix(path: str) -> str:
    if path and PurePath(path).suffix not in (".json", ".csv"):
        raise ValueError(f"is {path}, must end with .json or .csv")
    return path


class EvaluateConfig(Config):
    """Score a checkpoint. What is not given is as its run had it: data, sharding, precision and all else, but the model."""

    path: str
    """A checkpoint; or the folder of a run or of its checkpoints, for the newest good one."""
    split: SplitName = "test"
    """Which samples of the data to score."""
    average: bool = True
    """Score the averaged weights where the run kept them (train.average_decay); false: the weights themselves."""
    slices: NamesIfAny = ()
    """Columns to tell figures apart by: those of each value of an id, of each bucket of a dense column, of each label of a
    task. Of several ids a sample the first counts; COLUMN:length takes how many there are."""
    slice_values: PositiveInt = 10
    """Values of an id column with a row of their own, the most frequent ones; all others share one."""
    slice_buckets: PositiveInt = 10
    """Buckets of a dense column, equally full as far as equal values allow."""
    output: Annotated[InputPath, AfterValidator(_told_by_suffix)] = ""
    """File for the figures: .json has all, .csv a row for all samples and for each slice."""


class EvaluateRequest(Section):
    """What the command line says. The rest of the configuration is in the checkpoint, which is opened later.

    Attributes:
        path: of the checkpoint; words: the whole command line, ``path`` included.
    """

    path: str
    words: tuple[str, ...]

    @classmethod
    def of(cls, words: tuple[str, ...]) -> EvaluateRequest:
        """What there is to know before there is a checkpoint.

        Raises:
            ConfigError: no checkpoint is named, or options of the model are given.
        """
        flags = _flags(words)
        path = flags.values.get("path")
        problems = list(flags.problems)
        if not isinstance(path, str) or not path:
            message = "is required and was not given: name a checkpoint or the folder of a run"
            problems.append(ConfigProblem("path", "", message))
        for key, origin in flags.origins.items():
            if why := REFUSED.get(key.partition(".")[0]):
                problems.append(ConfigProblem(key, origin, why))
        if problems:
            raise ConfigError(problems)
        return cls(path=str(path), words=words)

    def completed(self, saved: Mapping[str, Any], origin: str) -> EvaluateConfig:
        """The whole configuration.

        Args:
            saved: of the checkpoint.
            origin: how messages call where that is from.

        Raises:
            ConfigError: every mistake in it.
        """
        kept = {name: value for name, value in saved.items() if name not in _NOT_TAKEN_OVER}
        base = Layer(kept, dict.fromkeys(flatten(kept), origin))
        return load_options(EvaluateConfig, None, self.words, base=base)


def _flags(words: tuple[str, ...]) -> Layer:
    return command_line_layer(words, switches(EvaluateConfig))
