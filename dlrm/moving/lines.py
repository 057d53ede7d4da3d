"""What a flag may become: a setting, or words to the reader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dlrm.config.moving import OtherTrainer


@dataclass(frozen=True)
class Setting:
    """An option here and its value.

    Attributes:
        path: dotted; source: the flag it comes from, with its value, or the default that it has there.
    """

    path: str
    value: Any
    source: str


@dataclass(frozen=True)
class Differs:
    """Where training here is not what it is there, in words."""

    text: str


@dataclass(frozen=True)
class Idle:
    """A flag that was given and changes nothing here.

    Attributes:
        flag: with its dashes; reason: why.
    """

    flag: str
    reason: str


Line = Setting | Differs | Idle


@dataclass(frozen=True)
class Command:
    """A command line of the other trainer, read.

    Attributes:
        values: of every flag by its name, defaults included; given: the names of those that were given.
        ranks: that it starts; trainer: which of the two it is of.
    """

    values: Mapping[str, Any]
    given: frozenset[str]
    ranks: int
    trainer: OtherTrainer

    def __getitem__(self, flag: str) -> Any:
        return self.values[flag]

    def shown(self, flag: str) -> str:
        """A flag with its value, for comments: ``--batch_size 2048``; of one that was not given the default."""
        value = self.values[flag]
        if flag not in self.given:
            return f"no --{flag}" if value is None or value is False else f"default of --{flag}"
        if value is True:
            return f"--{flag}"
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        return f"--{flag} {text}" if len(text) <= 40 else f"--{flag}"

    def samples(self, batches: int) -> int:
        """Samples of so many training batches of all ranks together."""
        return batches * self.ranks * int(self.values["batch_size"])

    def evaluated(self, batches: int) -> int:
        """Samples of so many evaluation batches of all ranks together."""
        of_a_rank = self.values["test_batch_size"]
        return batches * self.ranks * int(self.values["batch_size"] if of_a_rank is None else of_a_rank)

    @property
    def data(self) -> str:
        """Where its samples come from: ``random``, ``one_hot`` files or ``multi_hot`` files."""
        if self.values["in_memory_binary_criteo_path"] is not None:
            return "one_hot"
        return "random" if self.values["synthetic_multi_hot_criteo_path"] is None else "multi_hot"

    @property
    def kaggle(self) -> bool:
        """Whether it reads Criteo Kaggle's single file; MLPerf's trainer reads days whatever --dataset_name says."""
        return self.values["dataset_name"] == "criteo_kaggle" and self.trainer == "facebookresearch"

    @property
    def validates(self) -> bool:
        """Whether it scores validation samples that training has not seen."""
        if self.data != "random" and self.kaggle:
            return False
        at_end = self.trainer == "facebookresearch" or self.values["evaluate_on_epoch_end"]
        return bool(at_end or self.values["validation_freq_within_epoch"]) and self.values["limit_val_batches"] != 0

    @property
    def tests(self) -> bool:
        """Whether it scores test samples that training has not seen."""
        if self.data != "random" and self.kaggle:
            return False
        at_end = self.trainer == "facebookresearch" or self.values["evaluate_on_training_end"]
        return bool(at_end) and self.values["limit_test_batches"] != 0
